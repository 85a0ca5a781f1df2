"""What became of a job: read by id, by key, by batch, as a list, and as a feed of outcomes."""

import json
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from ledgermill.domain import ids
from ledgermill.errors import BatchNotFound, InvalidCursor, JobNotFound, by_code
from ledgermill.messages.jobs import (
    BatchV1,
    ErrorV1,
    JobPageV1,
    JobV1,
    LookupV1,
    OutcomePageV1,
    OutcomeV1,
)
from ledgermill.storage import inbox, jobs
from ledgermill.storage.connections import Row, Transaction
from ledgermill.storage.inbox import Waiting

MOST_NOT_POSTED_SHOWN = 1_000
WAITING_STATES = frozenset({"accepted", "scheduled"})
_ERRORS = by_code()


def status(tx: Transaction, organization_id: int, job_id: UUID, *, now: datetime) -> JobV1:
    """Where a job stands. Raises JobNotFound."""
    row = jobs.find(tx, organization_id, job_id)
    if row is None:
        for waiting in inbox.of_batch(tx, organization_id, ids.batch_of(job_id)):
            for job in _waiting_jobs(waiting, now=now):
                if job.id == job_id:
                    return job
        # Between the two reads a worker may have settled it.
        row = jobs.find(tx, organization_id, job_id)
    if row is None:
        raise JobNotFound(job=job_id)
    return ended(row)


def lookup(tx: Transaction, organization_id: int, keys: Collection[str], *, now: datetime) -> LookupV1:
    """The jobs of these idempotency keys, ended or waiting, and the keys of none."""
    wanted = set(keys)
    found: dict[str, JobV1] = {}
    for waiting in inbox.of_keys(tx, organization_id, wanted):
        for job in _waiting_jobs(waiting, now=now):
            if job.idempotency_key in wanted:
                found.setdefault(job.idempotency_key, job)
    for row in jobs.by_keys(tx, organization_id, wanted):
        found[row["idempotency_key"]] = ended(row)
    return LookupV1(
        jobs=[found[key] for key in keys if key in found], missing=[key for key in keys if key not in found]
    )


def list_jobs(
    tx: Transaction,
    organization_id: int,
    *,
    now: datetime,
    limit: int,
    before: UUID | None = None,
    states: Collection[str] = (),
    kind: str | None = None,
    batch_id: UUID | None = None,
    reference_id: str | None = None,
    accepted_from: datetime | None = None,
    accepted_to: datetime | None = None,
) -> JobPageV1:
    """Jobs, newest first; ids are in the order of acceptance, so a range of ids is a range of time."""
    first_id = ids.first_at(_unix_ms(accepted_from)) if accepted_from else UUID(int=0)
    below_id = ids.first_at(_unix_ms(accepted_to)) if accepted_to else jobs.LAST_ID
    if batch_id is not None:
        first_id, below_id = max(first_id, batch_id), min(below_id, UUID(int=batch_id.int | ids.LAST_32_BITS))
    if before is not None:
        below_id = min(below_id, before)
    found: dict[UUID, JobV1] = {}
    ended_states = set(states) - WAITING_STATES
    if (not states or set(states) & WAITING_STATES) and reference_id is None:
        for waiting in inbox.list_waiting(
            tx, organization_id, first_id=ids.batch_of(first_id), below_id=below_id, limit=limit + 1, kind=kind
        ):
            found |= {
                job.id: job
                for job in _waiting_jobs(waiting, now=now)
                if first_id <= job.id < below_id and (not states or job.state in states)
            }
    if not states or ended_states:
        rows = jobs.newest(
            tx,
            first_id=first_id,
            below_id=below_id,
            limit=limit + 1,
            states=sorted(ended_states),
            kind=kind,
            reference_id=reference_id,
        )
        found |= {row["job_id"]: ended(row) for row in rows}  # what ended since the first look is not shown twice
    page = sorted(found.values(), key=lambda job: job.id, reverse=True)[:limit]
    return JobPageV1(jobs=page, next_before=page[-1].id if len(found) > limit else None)


def batch(tx: Transaction, organization_id: int, batch_id: UUID, *, now: datetime) -> BatchV1:
    """What became of a batch, whether it came over HTTP or in a message of our Producer. Raises BatchNotFound."""
    waiting = inbox.of_batch(tx, organization_id, batch_id)
    counts = jobs.count_batch(tx, organization_id, batch_id)
    for row in waiting:
        state = _waiting_state(row, now)
        counts[state] = counts.get(state, 0) + row["jobs"] - row["next_item"]
    if not counts:
        raise BatchNotFound(batch=batch_id)
    rows = jobs.not_posted(
        tx,
        organization_id,
        first_id=batch_id,
        below_id=UUID(int=batch_id.int | ids.LAST_32_BITS),
        limit=MOST_NOT_POSTED_SHOWN,
    )
    not_posted = [ended(row) for row in rows]
    return BatchV1(id=batch_id, is_settled=not waiting, counts=counts, not_posted=not_posted)


def outcomes(tx: Transaction, organization_id: int, *, after: str, limit: int) -> OutcomePageV1:
    """Jobs that ended after a position of this feed ("0" is its beginning), in the order in which they ended."""
    position, rejection = _read_cursor(after)
    page = []
    for row in jobs.ended_after(tx, organization_id, position=position, rejection=rejection, limit=limit):
        if row["state"] == "posted":
            position = row["position"]
        else:
            rejection = row["rejection"]
        page.append(OutcomeV1(after=f"{position}-{rejection}", job=ended(row)))
    return OutcomePageV1(outcomes=page, next_after=f"{position}-{rejection}")


def ended(row: Row | Mapping[str, Any]) -> JobV1:
    """An ended job as it is shown."""
    return JobV1(
        id=row["job_id"],
        batch_id=ids.batch_of(row["job_id"]),
        kind=row["kind"],
        state=row["state"],
        idempotency_key=row["idempotency_key"],
        accepted_at=row["accepted_at"],
        ended_at=row["ended_at"],
        position=row["position"],
        value_date=row["value_date"],
        total_amount=None if row["total"] is None else int(row["total"]),
        currency_code=row["currency"],
        reference_id=row["reference_id"],
        error=error_of(row) if row["code"] else None,
        correlation_id=row["correlation"],
    )


def error_of(row: Row | Mapping[str, Any]) -> ErrorV1:
    """Why a job was not posted."""
    error = _ERRORS.get(row["code"])
    return ErrorV1.model_validate(
        {
            "kind": error.kind if error else "invalid",
            "code": row["code"],
            "message": row["message"],
            "details": json.loads(row["details"]),
        }
    )


def accepted(row: Waiting) -> JobV1:
    """A single job as it is shown when it has just been accepted."""
    (job,) = _waiting_jobs(row._asdict(), now=row.accepted_at)
    return job


def _waiting_jobs(row: Row | Mapping[str, Any], *, now: datetime) -> Iterable[JobV1]:
    """The jobs of an inbox row that are not settled yet."""
    state = _waiting_state(row, now)
    places = row["places"] or range(row["jobs"])
    for item, (place, key) in enumerate(zip(places, row["job_keys"], strict=True)):
        if item >= row["next_item"]:
            yield JobV1.model_validate(
                {
                    "id": ids.job_id(row["batch_id"], place),
                    "batch_id": row["batch_id"],
                    "kind": row["kind"],
                    "state": state,
                    "idempotency_key": key,
                    "accepted_at": row["accepted_at"],
                    "due_at": row["due_at"],
                    "correlation_id": row["correlation"],
                    "attempts": row["attempts"],
                }
            )


def _waiting_state(row: Row | Mapping[str, Any], now: datetime) -> str:
    return "scheduled" if row["due_at"] > now else "accepted"


def _read_cursor(after: str) -> tuple[int, int]:
    position, _, rejection = after.partition("-")
    if not (position.isascii() and position.isdigit() and len(position) < 19):  # noqa: PLR2004 - fits in a bigint
        raise InvalidCursor(field="after", given=after[:50])
    if rejection and not (rejection.isascii() and rejection.isdigit() and len(rejection) < 19):  # noqa: PLR2004
        raise InvalidCursor(field="after", given=after[:50])
    return int(position), int(rejection or 0)


def _unix_ms(moment: datetime) -> int:
    return max(0, int(moment.timestamp() * 1000))
