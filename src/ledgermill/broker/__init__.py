"""Publishing, and the Redis keys that we share: the only place beside workers/ that knows Celery."""
