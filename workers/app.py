"""The Celery app: `celery -A workers.app worker -Q posting`."""

from celery import Celery

from ledgermill.config import settings
from workers import lifecycle
from workers.config import worker_settings
from workers.health import Heartbeat
from workers.intake import Intake

app = Celery("ledgermill", include=["workers.posting", "workers.maintenance"])
app.conf.update(worker_settings(settings()))
app.steps["worker"].add(Heartbeat)
app.steps["consumer"].add(Intake)
lifecycle.connect()
