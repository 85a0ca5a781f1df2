"""Tasks of the `posting` queues. Each hands what it got to one use case."""

import json
import random
import time
from typing import Any, NoReturn

from celery import Task
from celery.exceptions import Reject

from ledgermill.domain.journals import POST_JOURNAL, UPDATE_BALANCE
from ledgermill.errors import Unavailable
from ledgermill.messages import routes
from ledgermill.observability import logger
from ledgermill.runtime import now
from ledgermill.storage import failures
from ledgermill.usecases import delivery, waiting
from workers.app import app
from workers.lifecycle import runtime
from workers.unreadable import put_aside

LONGEST_TRACE = 200
PAUSE_S = 1.0  # about so long a message that goes back is kept, so that it does not come and go all the time

log = logger(__name__)


@app.task(name=routes.POST_JOURNALS.task, bind=True)
def post_journals(self: Task, *, organization: object = None, journals: object = None, **_newer: object) -> None:
    """Post the journals of one message, a list or JSON text. Fields that a newer sender adds are ignored."""
    _deliver(self, POST_JOURNAL, organization, journals)


@app.task(name=routes.UPDATE_BALANCES.task, bind=True)
def update_balances(self: Task, *, organization: object = None, updates: object = None, **_newer: object) -> None:
    """Apply the balance updates of one message, a list or JSON text."""
    _deliver(self, UPDATE_BALANCE, organization, updates)


@app.task(name=routes.LOOK.task, acks_late=False)  # the inbox keeps the truth, so a ring may be lost
def look(*, lane: int = 0, **_newer: object) -> None:
    """Work off the inbox of a lane."""
    try:
        waiting.look(runtime(), lane)
    except MemoryError:
        # Unhandled it would end the whole worker. What was claimed keeps its attempt, and comes in smaller slices.
        log.exception("no memory to look into the inbox", lane=lane)
    except (Unavailable, *failures.DatabaseError) as error:
        if not isinstance(error, Unavailable) and not failures.is_temporary(error):
            raise
        log.warning("the inbox waits until the database is back", lane=lane, reason=type(error).__name__)


def _deliver(task: Task, kind: str, organization: object, items: object) -> None:
    request: Any = task.request
    info, trace = request.delivery_info or {}, request.get("traceparent")
    message = delivery.Message(
        message_id=str(request.id),
        kind=kind,
        organization=organization,
        items=items,
        queue=str(info.get("routing_key")),
        correlation=trace if isinstance(trace, str) and trace.isprintable() and len(trace) <= LONGEST_TRACE else None,
        is_redelivered=bool(info.get("redelivered")),
        taken_at=now(),
    )
    try:
        delivery.take(runtime(), message)
    except MemoryError as error:
        # Unhandled it would end the whole worker. The message comes back, and then its attempts are counted.
        _send_back(error)
    except Exception as error:
        if isinstance(error, Unavailable) or failures.is_temporary(error):
            log.warning("the message goes back until the database is there", reason=type(error).__name__)
            _send_back(error)
        # Unhandled, Celery would drop the message.
        log.exception("a message failed for a reason that nobody foresaw; it is kept", message=message.message_id)
        raw = json.dumps({"id": message.message_id, "kind": kind, "organization": organization, "items": items})
        reason = f"{type(error).__name__} in the worker"
        if not put_aside(runtime().broker.redis, raw=raw.encode(), queue=message.queue, reason=reason):
            _send_back(error)


def _send_back(error: BaseException) -> NoReturn:
    time.sleep(random.uniform(PAUSE_S / 2, PAUSE_S))  # noqa: S311 - jitter, not a secret
    raise Reject(type(error).__name__, requeue=True) from None  # the reason is logged, and Celery would quote it all
