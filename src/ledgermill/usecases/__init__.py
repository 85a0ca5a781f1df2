"""One function for each thing the service does."""
