"""What the pool does for the posting queues: `drain` empties one in bulk, and three tasks take single messages."""

import json
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from celery import Task
from celery.exceptions import Reject

from ledgermill.broker.intake import Intake, Taken
from ledgermill.domain.journals import POST_JOURNAL, UPDATE_BALANCE
from ledgermill.errors import Unavailable
from ledgermill.messages import routes
from ledgermill.observability import Timings, logger
from ledgermill.runtime import now
from ledgermill.storage import failures
from ledgermill.usecases import delivery, soundness, waiting
from workers.app import app
from workers.lifecycle import runtime
from workers.orders import Order, Ring, as_correlation, read_order
from workers.unreadable import BROKER_ERRORS, UnreadableError, put_aside

PAUSE_S = 1.0  # about so long a message that goes back is kept, so that it does not come and go all the time
DRAINING_ENDS_AFTER = 0.1  # of the time that a task has: what was taken last must be settled within it
MOST_SHOWN = 20

log = logger(__name__)


class Shown(NamedTuple):
    """What monitors are told of messages that were settled together."""

    message_id: str
    task: str
    contents: str
    runtime_s: float


class NotKeptError(Exception):
    """A message could not even be set aside; it stays where it is."""


class NotSoundError(Exception):
    """A message failed in a process that is not known to post any; it comes again when its lease ends."""


def drain(queue: str, taker: str, stay_s: float = 0, gone: Sequence[str] = ()) -> list[Shown]:
    """Settle what waits in a posting queue, many messages at once, until it is empty or other work should have a turn.

    Runs in a pool process; `taker` is new for each call, and names the list that holds what is at work. Where the
    queue is empty it waits for up to `stay_s` for the next message. `gone` are takers that died.
    """
    with runtime().turn():
        shown = _drain(queue, taker, stay_s, gone)
    runtime().broker.tell_counts()
    return shown[:MOST_SHOWN]


def _drain(queue: str, taker: str, stay_s: float, gone: Sequence[str]) -> list[Shown]:
    lease_s = runtime().settings.visibility_timeout_s
    intake = Intake(runtime().broker.redis, queue, taker=taker, lease_s=lease_s)
    give_up_at = runtime().turn_ends_at(DRAINING_ENDS_AFTER)
    shown: list[Shown] = []
    timings = Timings()
    try:
        for other in gone:
            waiting.free(runtime(), UUID(other))
        while time.monotonic() < give_up_at:
            taken = _next(intake, stay_s, timings)
            if not taken:
                break
            settled, lanes = _settle(queue, taken, timings)
            shown += settled
            if (
                lanes and len(taken.messages) > 1
            ):  # what the inbox holds may end this process, and a ring may come again
                _drop(intake, timings)
            for lane in sorted(lanes):
                _look(lane, claimant=UUID(taker), is_busy=bool(settled))
        else:
            _drop(intake, timings)
        runtime().broker.count({f"seconds:{phase}": s for phase, s in timings.seconds.items()})
    except (MemoryError, NotKeptError) as error:
        # What was taken comes again as redelivered, and then its attempts are counted.
        log.warning("messages are left for another try", queue=queue, reason=type(error).__name__)
        _pause()
        intake.leave()
    except NotSoundError:
        log.critical("messages fail in a worker that posted none so far; they stay in the broker", queue=queue)
    except BROKER_ERRORS as error:
        log.warning("the broker is away; what was taken comes again", queue=queue, reason=type(error).__name__)
    except (Unavailable, *failures.DatabaseError) as error:
        log.warning("messages go back until the database is there", queue=queue, reason=type(error).__name__)
        intake.give_back()
        _pause()
    return shown


def _drop(intake: Intake, timings: Timings) -> None:
    with timings.phase("ack"):
        intake.drop()


def _next(intake: Intake, stay_s: float, timings: Timings) -> Taken | None:
    with timings.phase("take"):
        taken = intake.take()
    if not taken and stay_s and intake.wait(stay_s):
        with timings.phase("take"):
            taken = intake.take()
    return taken


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
    with runtime().turn():
        _look(lane)
    runtime().broker.tell_counts()


def _look(lane: int, *, claimant: UUID | None = None, is_busy: bool = False) -> None:
    try:
        waiting.look(runtime(), lane, claimant, is_busy=is_busy)
    except MemoryError:
        # Unhandled it would end the whole worker. What was claimed keeps its attempt, and comes in smaller slices.
        log.exception("no memory to look into the inbox", lane=lane)
    except (Unavailable, *failures.DatabaseError) as error:
        if not isinstance(error, Unavailable) and not failures.is_temporary(error):
            raise
        log.warning("the inbox waits until the database is back", lane=lane, reason=type(error).__name__)


def _settle(queue: str, taken: Taken, timings: Timings) -> tuple[list[Shown], set[int]]:
    """What was settled, and the lanes that were rung for."""
    started, taken_at = time.monotonic(), now()
    orders: list[Order] = []
    lanes = set()
    with timings.phase("take"):
        for raw in taken.messages:
            try:
                order = read_order(raw, queue=queue, taken_at=taken_at, is_redelivered=taken.is_redelivered)
            except UnreadableError as error:
                _put_aside(raw, queue=queue, reason=error.reason)
                continue
            if isinstance(order, Ring):
                lanes.add(order.lane)
            else:
                orders.append(order)
    if orders:
        _take([(order.message, order.raw) for order in orders])
    return _shown(orders, time.monotonic() - started), lanes


def _take(taken: Sequence[tuple[delivery.Message, bytes]]) -> None:
    """Deliver these messages. One that sets off what nobody foresaw is kept, unless this process may be at fault."""
    try:
        delivery.take(runtime(), [message for message, _ in taken])
    except (Unavailable, MemoryError, *BROKER_ERRORS):
        raise
    except Exception as error:
        if failures.is_temporary(error):
            raise
        log.exception("messages failed for a reason that nobody foresaw", messages=len(taken))
        if len(taken) > 1:
            unsure = []
            for one in taken:
                try:
                    _take([one])
                except NotSoundError:
                    unsure.append(one)
            for one in unsure:
                _take([one])
            return
        message, raw = taken[0]
        if not soundness.has_posted(runtime(), message.kind):
            raise NotSoundError from error
        _put_aside(raw, queue=message.queue, reason=f"{type(error).__name__} in the worker")


def _put_aside(raw: bytes, *, queue: str, reason: str) -> None:
    if not put_aside(runtime().broker.redis, raw=raw, queue=queue, reason=reason):
        raise NotKeptError


def _shown(orders: Iterable[Order], runtime_s: float) -> list[Shown]:
    together: defaultdict[tuple[str, str], list[Order]] = defaultdict(list)
    for order in orders:
        together[order.message.kind, str(order.message.organization)[:100]].append(order)
    shown = []
    for (kind, organization), group in together.items():
        contents = f"{sum(order.items for order in group)} {routes.FIELD_OF_KIND[kind]}, {organization}"
        if len(group) > 1:
            contents += f", {len(group)} messages"
        shown.append(Shown(group[0].message.message_id, routes.TASK_OF_KIND[kind].task, contents, runtime_s))
    return shown


def _deliver(task: Task, kind: str, organization: object, items: object) -> None:
    """A message that Celery itself took, from a queue that is not drained."""
    request: Any = task.request
    info = request.delivery_info or {}
    message = delivery.Message(
        message_id=str(request.id),
        kind=kind,
        organization=organization,
        items=items,
        queue=str(info.get("routing_key")),
        correlation=as_correlation(request.get("traceparent")),
        is_redelivered=bool(info.get("redelivered")),
        taken_at=now(),
    )
    raw = json.dumps({"id": message.message_id, "kind": kind, "organization": organization, "items": items}).encode()
    try:
        with runtime().turn():
            _take([(message, raw)])
    except (MemoryError, NotKeptError, NotSoundError, Unavailable, *BROKER_ERRORS, *failures.DatabaseError) as error:
        # Unhandled, Celery would drop the message, and a MemoryError would end the whole worker.
        log.warning("the message goes back", message=message.message_id, reason=type(error).__name__)
        _pause()
        raise Reject(type(error).__name__, requeue=True) from None  # the reason is logged, and Celery would quote it


def _pause() -> None:
    time.sleep(random.uniform(PAUSE_S / 2, PAUSE_S))  # noqa: S311 - jitter, not a secret
