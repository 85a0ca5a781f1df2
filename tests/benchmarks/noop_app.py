"""A stock Celery app whose one task does nothing: the rival of single messages. `celery -A noop_app worker -Q noop`."""

import os
from typing import Any

from celery import Celery

QUEUE = "noop"
TASK = "noop.post_journals"

app = Celery("noop", broker=os.environ.get("BROKER_URL"))
app.conf.update(task_ignore_result=True, task_default_queue=QUEUE)


@app.task(name=TASK)
def post_journals(*, organization: str, journals: list[dict[str, Any]]) -> None:
    """Takes what ours takes."""
