"""Acceptance: jobs that came over HTTP, the CLI or a schedule, made durable before anybody works on them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from ledgermill.domain import ids
from ledgermill.domain.journals import JournalRequest, Request, UnusableRequest
from ledgermill.errors import OrganizationDraining
from ledgermill.messages import posting as posting_messages
from ledgermill.messages import routes
from ledgermill.runtime import new_batch_id
from ledgermill.storage import inbox, organizations
from ledgermill.storage.connections import Transaction
from ledgermill.storage.inbox import Waiting


class Accepted(NamedTuple):
    """A batch that is accepted once the transaction is committed: then ring for `organization_uuid`.

    `jobs` are the ids and keys in the order of the items.
    """

    batch_id: UUID
    organization_uuid: UUID
    jobs: list[tuple[UUID, str | None]]
    requests: list[Request]


def accept(
    tx: Transaction,
    organization_id: int,
    *,
    kind: str,
    items: bytes | Sequence[object],
    principal_id: int,
    correlation: str | None,
    now: datetime,
) -> Accepted:
    """Put a batch into the inbox. An item that cannot be used is accepted too, and will be rejected alone.

    Raises: InvalidJson, InvalidField (no list), BatchSize, OrganizationDraining.
    """
    organization = organizations.by_id(tx, organization_id)
    if organization["state"] == "draining":
        raise OrganizationDraining(organization=organization["code"])
    batch_id = new_batch_id()
    requests = posting_messages.read(kind, items, new_key=lambda place: f"{batch_id}:{place}")
    by_time: defaultdict[datetime, list[Request]] = defaultdict(list)
    clock: datetime | None = None
    for request in requests:
        due_at = request.due_at if isinstance(request, JournalRequest) else None
        if due_at is not None:
            clock = clock or inbox.clock(tx)
        by_time[due_at if due_at and clock and due_at > clock else now].append(request)
    whole = items if isinstance(items, bytes) and len(by_time) == 1 else None
    asked: Sequence[object] = () if whole else posting_messages.read_list(items) if isinstance(items, bytes) else items
    rows = [
        Waiting(
            organization_id=organization_id,
            batch_id=batch_id,
            part=part,
            lane=routes.lane_of(organization["organization_uuid"]),
            kind=kind,
            payload=whole or posting_messages.as_json([asked[request.place] for request in waiting]),
            jobs=len(waiting),
            places=None if whole else [request.place for request in waiting],
            job_keys=[request.idempotency_key for request in waiting],
            next_item=0,
            attempts=0,
            accepted_at=now,
            due_at=due_at,
            held=False,
            principal_id=principal_id,
            correlation=correlation,
            message_id=None,
        )
        for part, (due_at, waiting) in enumerate(sorted(by_time.items()))
    ]
    inbox.insert_waiting(tx, rows)
    jobs = [(ids.job_id(batch_id, request.place), request.idempotency_key) for request in requests]
    return Accepted(batch_id, organization["organization_uuid"], jobs, requests)


def single(
    kind: str,
    item: Mapping[str, Any],
    *,
    payload: bytes | None = None,
    organization_id: int,
    organization_uuid: UUID,
    principal_id: int,
    correlation: str | None,
    now: datetime,
) -> Waiting:
    """What to put into the inbox for one job; `payload` is the list of this one item as JSON, where that is at hand.

    Raises what is wrong with the item: one that is wrong by itself makes no job and binds no key.
    """
    batch_id = new_batch_id()
    (request,) = posting_messages.read(kind, [item], new_key=lambda place: f"{batch_id}:{place}")
    if isinstance(request, UnusableRequest):
        raise request.error
    return Waiting(
        organization_id=organization_id,
        batch_id=batch_id,
        part=0,
        lane=routes.lane_of(organization_uuid),
        kind=kind,
        payload=payload or posting_messages.as_json([item]),
        jobs=1,
        places=None,
        job_keys=[request.idempotency_key],
        next_item=0,
        attempts=0,
        accepted_at=now,
        due_at=request.due_at or now,
        held=False,
        principal_id=principal_id,
        correlation=correlation,
        message_id=None,
    )
