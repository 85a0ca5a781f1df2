"""The smallest worker with our transport, consumer and heartbeat: its one task tells Redis what it was called with."""

import os
from functools import cache

from celery import Celery
from redis import Redis

from workers.health import Heartbeat

BROKER_URL = os.environ.get("TEST_BROKER_URL", "redis://127.0.0.1:1/0")

app = Celery("unreadable", broker=BROKER_URL)
app.conf.update(
    broker_transport="workers.transport:Transport",
    worker_consumer="workers.consumer:Consumer",
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
    broker_transport_options={"socket_timeout": 5, "socket_connect_timeout": 3},
    task_acks_late=True,
    task_default_queue="posting",
    task_ignore_result=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_prefetch_multiplier=2,
)
app.steps["worker"].add(Heartbeat)


@cache
def redis() -> Redis:
    return Redis.from_url(BROKER_URL)


@app.task(name="test.arrive")
def arrive(*, number: object, **_newer: object) -> None:
    redis().rpush("test:arrived", ascii(number))
