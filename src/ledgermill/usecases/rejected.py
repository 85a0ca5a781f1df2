"""Jobs that were not posted: listed, counted by reason, and shown with what became of them.

Each look is a range of refusals of bounded length, so that it costs the same among a hundred and among millions.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from ledgermill.errors import JobNotRejected
from ledgermill.messages.rejected import (
    ActorV1,
    MendedV1,
    RejectedCountV1,
    RejectedJobV1,
    RejectedPageV1,
    RejectedShownV1,
    RejectedSummaryV1,
    ResentV1,
)
from ledgermill.storage import jobs as stored_jobs
from ledgermill.storage import mending
from ledgermill.storage import rejected as stored
from ledgermill.storage.connections import Row, Transaction
from ledgermill.storage.mending import Mended
from ledgermill.storage.rejected import Wanted
from ledgermill.usecases import jobs

MOST_LOOKED_AT = 20_000  # refusals, for one page
MOST_COUNTED = 50_000
COUNTED_AT_ONCE = 10_000
WIDEST_LOOK = 5_000
MOST_RESENT_SHOWN = 100
OPEN_STATES = frozenset({"rejected", "quarantined"})


class Range(NamedTuple):
    """Refusals whose count is above one and at most the other."""

    above: int
    upto: int


def range_of(
    tx: Transaction, organization_id: int, *, rejected_from: datetime | None = None, rejected_to: datetime | None = None
) -> Range:
    """The refusals from one moment until just before another; without them, all until now."""
    above = 0 if rejected_from is None else stored.before(tx, rejected_from)
    upto = stored.last(tx, organization_id) if rejected_to is None else stored.before(tx, rejected_to)
    return Range(above, max(above, upto))


def page(
    tx: Transaction,
    organization_id: int,
    wanted: Wanted,
    *,
    rejected_from: datetime | None = None,
    rejected_to: datetime | None = None,
    before: int | None = None,
    limit: int,
) -> RejectedPageV1:
    """Refused jobs, newest first, below the count `before`."""
    within = range_of(tx, organization_id, rejected_from=rejected_from, rejected_to=rejected_to)
    if before is not None:
        within = Range(within.above, max(within.above, min(within.upto, before - 1)))
    rows, rest = look(tx, wanted, within, limit=limit)
    return RejectedPageV1(
        jobs=[_job(row) for row in rows], next_before=rest.upto + 1 if rest.upto > rest.above else None
    )


def look(
    tx: Transaction,
    wanted: Wanted,
    within: Range,
    *,
    limit: int,
    newest_first: bool = True,
    with_request: bool = False,
) -> tuple[list[Row], Range]:
    """Up to `limit` jobs from one end of a range, and what is left of it; not all is looked at where few are wanted."""
    above, upto = within
    rows: list[Row] = []
    width = looked_at = 0
    while len(rows) < limit and upto > above and looked_at < MOST_LOOKED_AT:
        width = min(width * 4 or limit, WIDEST_LOOK, upto - above)
        part = Range(upto - width, upto) if newest_first else Range(above, above + width)
        rows += stored.within(
            tx,
            wanted,
            above=part.above,
            upto=part.upto,
            limit=limit - len(rows),
            newest_first=newest_first,
            with_request=with_request,
        )
        reached = rows[-1]["rejection"] if len(rows) == limit else None
        if newest_first:
            upto = part.above if reached is None else reached - 1
        else:
            above = part.upto if reached is None else reached
        looked_at += width
    return rows, Range(above, upto)


def summary(
    tx: Transaction,
    organization_id: int,
    wanted: Wanted,
    *,
    rejected_from: datetime | None = None,
    rejected_to: datetime | None = None,
) -> RejectedSummaryV1:
    """How many jobs were refused for what, among the newest 50,000 of the range; posted jobs are not looked at."""
    above, upto = range_of(tx, organization_id, rejected_from=rejected_from, rejected_to=rejected_to)
    counted_from = max(above, upto - MOST_COUNTED)
    counts: dict[tuple[str, str, str], RejectedCountV1] = {}
    for part in slices(Range(counted_from, upto)):
        for row in stored.counts(tx, wanted, above=part.above, upto=part.upto):
            key = row["code"], row["kind"], row["state"]
            if known := counts.get(key):
                known.jobs += row["jobs"]
                known.open_jobs += row["open_jobs"]
                known.newest = max(known.newest, row["newest"])
            else:
                counts[key] = RejectedCountV1.model_validate(dict(row))
    ordered = sorted(counts.values(), key=lambda count: (-count.jobs, count.code, count.kind))
    return RejectedSummaryV1(counts=ordered, is_complete=counted_from == above)


def slices(whole: Range) -> Iterator[Range]:
    """A range in parts that one statement looks at, the oldest first."""
    for above in range(whole.above, whole.upto, COUNTED_AT_ONCE):
        yield Range(above, min(above + COUNTED_AT_ONCE, whole.upto))


def show(tx: Transaction, organization_id: int, job_id: UUID, *, now: datetime) -> RejectedShownV1:
    """A refused job with its request, and what was made of it. Raises JobNotFound, JobNotRejected."""
    row = refused(tx, organization_id, job_id, now=now)
    own = mending.of_job(tx, organization_id, row["job_id"])
    first_id = own.first_job_id if own else row["job_id"]
    family = [one for one in mending.family(tx, organization_id, first_id) if one.job_id != row["job_id"]]
    family = family[-MOST_RESENT_SHOWN:]
    actors = _actors(tx, organization_id, {row["principal_id"], *(one.principal_id for one in [*family, own] if one)})
    resent = [
        ResentV1(
            **_mended(one, actors).model_dump(),
            number=one.number,
            job=jobs.status(tx, organization_id, one.job_id, now=now),
        )
        for one in family
    ]
    later = [one for one in resent if own is None or one.number > own.number]
    settled = any(one.job.state not in OPEN_STATES for one in resent)
    return RejectedShownV1(
        **_job({**row, "is_open": not later and not settled}).model_dump(),
        request=_printable(asked_of(row)),
        details=json.loads(row["details"]),
        sent_by=actors[row["principal_id"]],
        mended=None if own is None else _mended(own, actors),
        resent=resent,
    )


def refused(tx: Transaction, organization_id: int, job_id: UUID, *, now: datetime) -> Row:
    """The row of a refused job. Raises JobNotFound; JobNotRejected, where it waits or is posted."""
    row = stored_jobs.find(tx, organization_id, job_id)
    if row is not None and row["state"] in OPEN_STATES:
        return row
    if row is None:
        waiting = jobs.status(tx, organization_id, job_id, now=now)
        raise JobNotRejected(job=job_id, state=waiting.state)
    raise JobNotRejected(job=job_id, state=row["state"])


def asked_of(row: Row) -> Any:
    """The request of a refused job as it came; any JSON, where it could not be read."""
    return json.loads(row["asked"])


def _job(row: Row | Mapping[str, Any]) -> RejectedJobV1:
    return RejectedJobV1(
        id=row["job_id"],
        refusal=row["rejection"],
        kind=row["kind"],
        state=row["state"],
        code=row["code"],
        message=row["message"],
        idempotency_key=row["idempotency_key"],
        accepted_at=row["accepted_at"],
        ended_at=row["ended_at"],
        correlation_id=row["correlation"],
        is_open=row["is_open"],
    )


def _actors(tx: Transaction, organization_id: int, principal_ids: set[int]) -> dict[int, ActorV1]:
    found = mending.principals(tx, organization_id, principal_ids)
    return {each: ActorV1(kind=row["kind"], name=row["name"]) for each, row in found.items()}


def _mended(mended: Mended, actors: Mapping[int, ActorV1]) -> MendedV1:
    return MendedV1(mended_from=mended.mended_from, mended_by=actors[mended.principal_id], mended_at=mended.mended_at)


def _printable(request: object) -> Any:
    """A request as UTF-8 can hold it: a broker's JSON may have lone surrogates, which become question marks."""
    return json.loads(json.dumps(request, ensure_ascii=False).encode("utf-8", "replace"))
