"""Delivery: what becomes of messages with jobs that a worker took from the broker."""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID, uuid5

from ledgermill.domain import ids
from ledgermill.domain.journals import JournalRequest, Request
from ledgermill.domain.plans import Batch
from ledgermill.errors import InvalidField, LedgermillError, OrganizationNotFound
from ledgermill.messages import posting as posting_messages
from ledgermill.messages import routes
from ledgermill.observability import Timings, logger
from ledgermill.runtime import Runtime, new_batch_id
from ledgermill.storage import failures, inbox, organizations, quarantine
from ledgermill.storage.inbox import Waiting
from ledgermill.storage.organizations import Named
from ledgermill.storage.quarantine import Unreadable
from ledgermill.usecases import posting, soundness
from ledgermill.usecases.posting import MOST_LOGGED, NotActive, Work

SETTLING_ENDS_AFTER = 0.25  # of the time that a task has: the time limit would count as a death of what is at work
UNREADABLE_NAMESPACE = UUID("5f9c1f0e-4f0c-5c43-9d2a-1c7e5b0a6d11")

log = logger(__name__)


class Message(NamedTuple):
    """A message as the worker hands it over. `items` is a list, or JSON text that holds one."""

    message_id: str
    kind: str
    organization: object
    items: object
    queue: str
    correlation: str | None
    is_redelivered: bool
    taken_at: datetime


class _Delivery(NamedTuple):
    """A message that was read: the batch that is to be settled of it."""

    message: Message
    organization: Named
    batch: Batch


def take(runtime: Runtime, messages: Sequence[Message]) -> None:
    """Settle the jobs of these messages, those of one organization together, or keep them in the inbox for another try.

    When this returns, nothing of them can be lost.
    Raises: DatabaseUnavailable and other temporary failures, where not even the inbox could be written: then all
    messages have to go back to the broker.
    """
    timings = Timings()
    with timings.phase("read"):
        deliveries = _read_all(runtime, messages)
    paused = soundness.paused(runtime)
    by_organization: defaultdict[int, list[_Delivery]] = defaultdict(list)
    came_back, untried = [], []
    for delivery in deliveries:
        if delivery.message.is_redelivered:
            came_back.append(delivery)
        elif delivery.message.kind in paused:
            untried.append(delivery)
        else:
            by_organization[delivery.organization.organization_id].append(delivery)
    if came_back:
        # Their worker may have died of one: from now on the database counts the attempts.
        _keep(runtime, came_back, attempts=1, problem="came back from a worker that did not finish it")
    if untried:
        _keep(runtime, untried, attempts=0, problem="the worker pauses: jobs fail, and none is posted")
    give_up_at = runtime.turn_ends_at(SETTLING_ENDS_AFTER)
    for place, together in enumerate(by_organization.values()):
        if place and time.monotonic() > give_up_at:
            _keep(runtime, together, attempts=0, problem="messages of many organizations came at once")
            continue
        _settle(runtime, together, timings)
        timings = Timings()


def _settle(runtime: Runtime, together: Sequence[_Delivery], timings: Timings) -> None:
    organization = together[0].organization
    works = [Work(delivery.batch) for delivery in together]
    try:
        plans = posting.settle(runtime, organization.organization_id, works, timings)
    except NotActive as reason:
        _keep(runtime, together, attempts=0, held=reason.state == "draining", problem=str(reason))
        return
    except Exception as error:
        if failures.is_temporary(error) or isinstance(error, LedgermillError):
            raise
        log.exception(
            "batches met a bug; they wait in the inbox, with their attempt counted",
            batches=[str(delivery.batch.batch_id) for delivery in together[:MOST_LOGGED]],
        )
        soundness.has_failed(runtime)
        _keep(runtime, together, attempts=1, problem=repr(error))
        return
    # Only our Producer knows the ids of its batches, so only they can be waited for.
    batches = [work.batch.batch_id for work in works if work.batch.message_id is None]
    posting.tell(runtime, organization.code, batches, plans, timings)
    soundness.note(runtime, plans)


def _read_all(runtime: Runtime, messages: Sequence[Message]) -> list[_Delivery]:
    """What can be read of these messages and is due; what is due later is kept, what cannot be read is set aside."""
    deliveries: list[_Delivery] = []
    for message in messages:
        try:
            organization = _organization(runtime, message.organization)
            batch = _read(message)
        except LedgermillError as error:
            _set_aside(runtime, message, error)
            continue
        except Exception as error:
            if failures.is_temporary(error):
                raise
            if not deliveries and not soundness.has_posted(runtime, message.kind):
                raise  # nobody knows that this release can read any
            log.exception("a message that nobody foresaw", message=message.message_id)
            _set_aside(runtime, message, InvalidField(field="the message", problem=type(error).__name__))
            continue
        # First, so that whatever else the message meets, nothing is posted before its time.
        if any(_due_at(request) for request in batch.requests):
            batch = _keep_for_later(runtime, _Delivery(message, organization, batch))
        if batch.requests:
            deliveries.append(_Delivery(message, organization, batch))
    return deliveries


def _organization(runtime: Runtime, name: object) -> Named:
    if not isinstance(name, str) or not name.isprintable():  # what PostgreSQL cannot hold names nobody
        raise OrganizationNotFound(organization=repr(name)[:100])
    return runtime.organizations.find(runtime.engine, name)


def _read(message: Message) -> Batch:
    own = _own_batch_id(message.message_id)
    requests = posting_messages.read(message.kind, message.items, new_key=lambda place: f"{message.message_id}:{place}")
    return Batch(
        batch_id=own or new_batch_id(),
        message_id=None if own else message.message_id,
        principal_id=organizations.BROKER_PRINCIPAL_ID,
        correlation=message.correlation,
        accepted_at=message.taken_at,
        keeps_replays=False,
        requests=requests,
    )


def _own_batch_id(message_id: str) -> UUID | None:
    """The batch id that our Producer gives its messages; None for other producers."""
    try:
        candidate = UUID(message_id)
    except ValueError:
        return None
    return candidate if ids.is_batch_id(candidate) else None


def _due_at(request: Request) -> datetime | None:
    return request.due_at if isinstance(request, JournalRequest) else None


def _keep_for_later(runtime: Runtime, delivery: _Delivery) -> Batch:
    """Keep what is due later, by the database's clock: the batch of what is due now."""
    by_time: defaultdict[datetime, list[Request]] = defaultdict(list)
    due: list[Request] = []
    with runtime.engine.begin() as tx:
        clock = inbox.clock(tx)
        for request in delivery.batch.requests:
            due_at = _due_at(request)
            (due if due_at is None or due_at <= clock else by_time[due_at]).append(request)
        rows = [
            _row(delivery, requests, part=part, due_at=due_at, attempts=0)
            for part, (due_at, requests) in enumerate(sorted(by_time.items()), 1)
        ]
        inbox.insert_waiting(tx, rows)
    return delivery.batch._replace(requests=due)


def _keep(
    runtime: Runtime, deliveries: Sequence[_Delivery], *, attempts: int, problem: str, held: bool = False
) -> None:
    rows = [
        _row(
            delivery,
            delivery.batch.requests,
            part=0,
            due_at=delivery.message.taken_at,
            attempts=attempts,
            held=held,
        )
        for delivery in deliveries
    ]
    with runtime.engine.begin() as tx:
        inbox.insert_waiting(tx, rows, tried_under=soundness.release() if attempts else None)
    log.warning(
        "kept in the inbox",
        batches=[str(row.batch_id) for row in rows[:MOST_LOGGED]],
        jobs=sum(row.jobs for row in rows),
        reason=problem,
    )
    for organization in {delivery.organization.organization_uuid for delivery in deliveries}:
        runtime.broker.ring_for(organization)


def _row(
    delivery: _Delivery,
    requests: Sequence[Request],
    *,
    part: int,
    due_at: datetime,
    attempts: int,
    held: bool = False,
) -> Waiting:
    message, organization, batch = delivery
    return Waiting(
        organization_id=organization.organization_id,
        batch_id=batch.batch_id,
        part=part,
        lane=routes.lane_of(organization.organization_uuid),
        kind=message.kind,
        payload=posting_messages.as_json([request.asked for request in requests]),
        jobs=len(requests),
        places=[request.place for request in requests],
        job_keys=[request.idempotency_key for request in requests],
        next_item=0,
        attempts=attempts,
        accepted_at=message.taken_at,
        due_at=due_at,
        held=held,
        principal_id=batch.principal_id,
        correlation=message.correlation,
        message_id=batch.message_id,
        first_tried_at=message.taken_at if attempts else None,
    )


def _set_aside(runtime: Runtime, message: Message, error: LedgermillError) -> None:
    """Keep what is not for us, or cannot be read, where an operator finds it."""
    body = json.dumps(
        {"organization": message.organization, routes.FIELD_OF_KIND[message.kind]: message.items}, default=str
    ).encode()
    row = Unreadable(
        quarantine_id=uuid5(UNREADABLE_NAMESPACE, message.message_id),
        received_at=message.taken_at,
        queue=message.queue,
        code=error.code,
        reason=str(error)[:1000],
        body=body,
    )
    with runtime.engine.begin() as tx:
        quarantine.keep(tx, [row])
    log.error("message set aside", message=message.message_id, queue=message.queue, code=error.code, bytes=len(body))
