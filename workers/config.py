"""How the workers run Celery: what must hold for the promises, each with its reason."""

from typing import Any

from celery.schedules import crontab
from kombu.entity import Queue

from ledgermill.broker.publishing import celery_settings
from ledgermill.config import Settings
from ledgermill.messages import routes


def worker_settings(settings: Settings) -> dict[str, Any]:
    """The configuration of the Celery app."""
    queues = [*routes.posting_queues(lanes=settings.posting_lanes), routes.MAINTENANCE_QUEUE]
    return {
        **celery_settings(settings),
        # What is not ours is set aside by these two; Celery's own would end the worker, or drop it.
        "broker_transport": "workers.transport:Transport",
        "worker_consumer": "workers.consumer:Consumer",
        "task_queues": [Queue(name, routing_key=name) for name in queues],
        "task_create_missing_queues": False,
        # A message that carries jobs is acknowledged after the commit; a dead child gives it back at once.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_acks_on_failure_or_timeout": False,
        # A worker that holds one message at a time strands no others when it dies.
        "worker_prefetch_multiplier": 1,
        "task_time_limit": settings.task_time_limit_s,
        # Batches are hundreds of journals: events cost nothing there, and Flower lives on them.
        "worker_send_task_events": True,
        "worker_enable_remote_control": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_max_tasks_per_child": 5_000,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "beat_schedule": {
            "ring for accepted jobs that nobody works on": {
                "task": routes.SWEEP.task,
                "schedule": settings.sweep_every_s,
                "options": {"queue": routes.MAINTENANCE_QUEUE},
            },
            # A run that nobody took before the next one is due is left out.
            "verify what was posted since the last clean run": {
                "task": routes.VERIFY_NEW.task,
                "schedule": settings.verify_every_s,
                "options": {"queue": routes.MAINTENANCE_QUEUE, "expires": settings.verify_every_s},
            },
            "verify all books": {
                "task": routes.VERIFY_ALL.task,
                "schedule": crontab(hour=settings.verify_all_at_hour, minute=17),
                "options": {"queue": routes.MAINTENANCE_QUEUE, "expires": 3600.0},
            },
        },
    }
