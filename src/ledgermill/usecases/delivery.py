"""Delivery: what becomes of a message with jobs that a worker took from the broker."""

import json
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
from ledgermill.storage.connections import Row
from ledgermill.storage.inbox import Waiting
from ledgermill.storage.quarantine import Unreadable
from ledgermill.usecases import posting
from ledgermill.usecases.posting import NotActive, Work

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


def take(runtime: Runtime, message: Message) -> None:
    """Settle the message's jobs, or keep it in the inbox for another try; when this returns, nothing of it can be lost.

    Raises: DatabaseUnavailable and other temporary failures, where not even the inbox could be written: then the
    message has to go back to the broker.
    """
    timings = Timings()
    try:
        organization = _organization(runtime, message.organization)
        with timings.phase("read"):
            batch = _read(message)
    except LedgermillError as error:
        _set_aside(runtime, message, error)
        return
    except Exception as error:
        if failures.is_temporary(error):
            raise
        log.exception("a message that nobody foresaw", message=message.message_id)
        _set_aside(runtime, message, InvalidField(field="the message", problem=type(error).__name__))
        return
    # First, so that whatever else the message meets, nothing is posted before its time.
    later = [request for request in batch.requests if _is_later(request, message.taken_at)]
    if later:
        _keep_for_later(runtime, organization, message, batch, later)
        batch = batch._replace(
            requests=[request for request in batch.requests if not _is_later(request, message.taken_at)]
        )
    if not batch.requests:
        return
    if message.is_redelivered:
        # Its worker may have died of it: from now on the database counts the attempts.
        _keep(
            runtime, organization, message, batch, attempts=1, problem="came back from a worker that did not finish it"
        )
        return
    try:
        plans = posting.settle(runtime, organization["organization_id"], [Work(batch)], timings)
    except NotActive as reason:
        _keep(runtime, organization, message, batch, attempts=0, held=reason.state == "draining", problem=str(reason))
        return
    except Exception as error:
        if failures.is_temporary(error) or isinstance(error, LedgermillError):
            raise
        log.exception(
            "a batch failed for a reason that is no job's fault; it waits in the inbox", batch=str(batch.batch_id)
        )
        _keep(runtime, organization, message, batch, attempts=1, problem=repr(error))
        return
    posting.tell(runtime, organization["code"], [batch.batch_id], plans, timings)


def _organization(runtime: Runtime, name: object) -> Row:
    if not isinstance(name, str) or not name.isprintable():  # what PostgreSQL cannot hold names nobody
        raise OrganizationNotFound(organization=repr(name)[:100])
    with runtime.engine.connect() as tx:
        return organizations.find(tx, name)


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


def _is_later(request: Request, now: datetime) -> bool:
    return isinstance(request, JournalRequest) and request.due_at is not None and request.due_at > now


def _keep_for_later(
    runtime: Runtime, organization: Row, message: Message, batch: Batch, later: Sequence[Request]
) -> None:
    by_time: defaultdict[datetime, list[Request]] = defaultdict(list)
    for request in later:
        by_time[getattr(request, "due_at", None) or message.taken_at].append(request)
    rows = [
        _row(organization, message, batch, requests, part=part, due_at=due_at, attempts=0)
        for part, (due_at, requests) in enumerate(sorted(by_time.items()), 1)
    ]
    with runtime.engine.begin() as tx:
        inbox.insert_waiting(tx, rows)


def _keep(
    runtime: Runtime,
    organization: Row,
    message: Message,
    batch: Batch,
    *,
    attempts: int,
    problem: str,
    held: bool = False,
) -> None:
    row = _row(
        organization, message, batch, batch.requests, part=0, due_at=message.taken_at, attempts=attempts, held=held
    )
    with runtime.engine.begin() as tx:
        inbox.insert_waiting(tx, [row])
    log.warning("kept in the inbox", batch=str(batch.batch_id), jobs=row.jobs, reason=problem)
    runtime.broker.ring_for(organization["organization_uuid"])


def _row(
    organization: Row,
    message: Message,
    batch: Batch,
    requests: Sequence[Request],
    *,
    part: int,
    due_at: datetime,
    attempts: int,
    held: bool = False,
) -> Waiting:
    return Waiting(
        organization_id=organization["organization_id"],
        batch_id=batch.batch_id,
        part=part,
        lane=routes.lane_of(organization["organization_uuid"]),
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
