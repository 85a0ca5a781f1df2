"""ledgermill posts to double-entry ledgers from a message queue."""
