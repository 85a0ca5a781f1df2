"""Acceptance: jobs that came over HTTP, the CLI or a schedule, made durable before anybody works on them."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from ledgermill.domain import ids
from ledgermill.domain.journals import JournalRequest, Request
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
    asked = posting_messages.read_list(items) if isinstance(items, bytes) else list(items)
    requests = posting_messages.read(kind, asked, new_key=lambda place: f"{batch_id}:{place}")
    by_time: defaultdict[datetime, list[Request]] = defaultdict(list)
    for request in requests:
        due_at = request.due_at if isinstance(request, JournalRequest) else None
        by_time[max(due_at or now, now)].append(request)
    whole = items if isinstance(items, bytes) and len(by_time) == 1 else None
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
