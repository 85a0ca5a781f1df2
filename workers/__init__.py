"""The Celery app and its tasks, one module for each queue."""
