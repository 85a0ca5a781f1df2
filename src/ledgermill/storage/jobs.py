"""Jobs: inserted in their final state; a posted one is its journal."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import (
    BigInteger,
    RowMapping,
    Text,
    Uuid,
    any_,
    bindparam,
    func,
    literal_column,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert

from ledgermill.domain import ids
from ledgermill.domain.plans import PostedJob, RejectedJob, Settled, Shift
from ledgermill.storage import api_keys
from ledgermill.storage.api_keys import Caller
from ledgermill.storage.connections import AsyncStatement, Transaction
from ledgermill.storage.tables import job, replay

KEY_CONSTRAINT = "job_key_is_bound_once"
ID_CONSTRAINT = "job_pkey"
LAST_ID = UUID(int=(1 << 128) - 1)

Found = tuple[Caller, Mapping[str, Any] | None]

LINES_AT_ONCE = 250  # the server takes one part while we write the next
NEEDS_ESCAPE = re.compile(r"[\\\n\r\t]").search
COPY_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"})

COPY_POSTED = f"COPY ledgermill.job ({', '.join(PostedJob._fields)}) FROM STDIN"
COPY_REJECTED = """
    COPY ledgermill.job (organization_id, job_id, idempotency_key, fingerprint, kind, state, accepted_at, ended_at,
                         principal_id, correlation, after_position, rejection, code, message, details, asked) FROM STDIN
"""
SETTLED = select(job.c.idempotency_key, job.c.job_id, job.c.fingerprint).where(
    job.c.organization_id == bindparam("organization_id"),
    job.c.idempotency_key == any_(bindparam("keys", type_=ARRAY(Text))),
)
RECORDED = select(job.c.job_id).where(
    job.c.organization_id == bindparam("organization_id"),
    job.c.job_id == any_(bindparam("job_ids", type_=ARRAY(Uuid))),
)
BY_ID = select(job).where(job.c.organization_id == bindparam("organization_id"), job.c.job_id == bindparam("job_id"))
FIRST_OF_REPLAY = select(replay.c.first_job_id).where(
    replay.c.organization_id == bindparam("organization_id"), replay.c.job_id == bindparam("job_id")
)
BY_KEYS = select(job).where(
    job.c.organization_id == bindparam("organization_id"),
    job.c.idempotency_key == any_(bindparam("keys", type_=ARRAY(Text))),
)
BATCH_COUNTS = (
    select(job.c.state, func.count().label("jobs"))
    .where(
        job.c.organization_id == bindparam("organization_id"),
        job.c.job_id >= bindparam("first_id"),
        job.c.job_id <= bindparam("last_id"),
    )
    .group_by(job.c.state)
)
BATCH_REPLAYS = select(func.count()).where(
    replay.c.organization_id == bindparam("organization_id"),
    replay.c.job_id >= bindparam("first_id"),
    replay.c.job_id <= bindparam("last_id"),
)
FIND_ENDED = "SELECT * FROM ledgermill_api.find_ended_jobs(%b, %b)"
# Word for word as in the partial indexes: a parameter would not let a prepared statement use them.
_IS_UNPOSTED = job.c.state != literal_column("'posted'")
_ENDED = select(job).where(job.c.organization_id == bindparam("organization_id"))
NEWEST = text("""
    SELECT * FROM ledgermill_api.newest_jobs(:first_id, :below_id, CAST(:states AS text[]), CAST(:kind AS text),
                                             CAST(:reference_id AS text), :limit)
""")
NOT_POSTED = (
    _ENDED.where(_IS_UNPOSTED, job.c.job_id >= bindparam("first_id"), job.c.job_id < bindparam("below_id"))
    .order_by(job.c.job_id)
    .limit(bindparam("limit"))
)
# Both counts have no gap, so a page is a range of each. A LIMIT would not reach through the views of the api role, and
# all that comes later would be read.
POSTED_AFTER = _ENDED.where(
    job.c.position > bindparam("position"), job.c.position <= bindparam("last_position", type_=BigInteger)
)
REJECTED_AFTER = _ENDED.where(
    _IS_UNPOSTED,
    job.c.rejection > bindparam("rejection"),
    job.c.rejection <= bindparam("last_rejection", type_=BigInteger),
)
# One statement sees one moment: between two, a rejection and a later journal could end, and come out of order.
ENDED_AFTER = union_all(POSTED_AFTER, REJECTED_AFTER)


def beginnings(jobs: Sequence[PostedJob]) -> list[str]:
    """Of each posted job, its line for COPY up to what only the lock can tell.

    Text made here takes a quarter of the time that the driver needs for values; of arrays, Python's own is the fastest.
    """
    times = {moment: str(moment) for moment in {moment for row in jobs for moment in (row.accepted_at, row.value_date)}}
    found = []
    for row in jobs:
        organization_id, job_id, key, fingerprint, kind, state, accepted_at, principal_id, correlation = row[:9]
        type_, currency, total, value_date, event_at, description, reference_id, metadata, ledgers = row[9:18]
        found.append(
            f"{organization_id}\t{job_id.hex}\t{copy_text(key)}\t\\\\x{fingerprint.hex()}\t{kind}\t{state}"
            f"\t{times[accepted_at]}\t{principal_id}\t{copy_text(correlation)}\t{copy_text(type_)}\t{currency}\t{total}"
            f"\t{times[value_date]}\t{copy_text(event_at)}\t{copy_text(description)}\t{copy_text(reference_id)}"
            f"\t{copy_text(metadata)}\t{{{str(ledgers)[1:-1]}}}"
        )
    return found


def copy_posted(
    connection: psycopg.Connection[Any],
    jobs: Sequence[PostedJob],
    *,
    begun: Sequence[str],
    shift: Shift,
    ended_at: datetime,
) -> None:
    """Insert journals, shifted, as fast as PostgreSQL takes rows. A key or id that is there already makes it fail.

    `begun` are their `beginnings`; empty where they are still to be made.
    """
    if not jobs:
        return
    ended, positions, starts = str(ended_at), shift.positions, shift.entries
    rows = zip(jobs, begun or beginnings(jobs), strict=True)

    def lines() -> Iterator[str]:
        for row, beginning in rows:
            ledgers, _, position, numbers = row[-4:]
            if starts:
                numbers = [starts[ledger][0] + number for ledger, number in zip(ledgers, numbers, strict=True)]
            yield f"{beginning}\t{ended}\t{positions + position}\t{{{str(numbers)[1:-1]}}}\n"

    with connection.cursor() as cursor, cursor.copy(COPY_POSTED) as copy:
        at_once = lines()
        while part := "".join(islice(at_once, LINES_AT_ONCE)):
            copy.write(part)


def copy_text(value: str | None) -> str:
    """A text as a line of COPY has it."""
    if value is None:
        return r"\N"
    return value.translate(COPY_ESCAPES) if NEEDS_ESCAPE(value) else value


def copy_rejected(
    connection: psycopg.Connection[Any], jobs: Sequence[RejectedJob], *, shift: Shift, ended_at: datetime
) -> None:
    """Insert rejected jobs, shifted, each with its reason and with what was asked."""
    if not jobs:
        return
    with connection.cursor() as cursor, cursor.copy(COPY_REJECTED) as rows:
        for job_ in jobs:
            row = job_._replace(
                ended_at=ended_at,
                position=shift.positions + job_.position,
                rejection=shift.rejections + job_.rejection,
            )
            details, asked = json.dumps(row.error.details, default=str), json.dumps(row.asked, default=str)
            rows.write_row((*row[:-2], row.error.code, storable(str(row.error)), details, asked))


def insert_replays(tx: Transaction, organization_id: int, replays: Sequence[tuple[UUID, UUID]]) -> None:
    """Let these ids lead to the jobs that settled their keys before; a batch that comes back finds them there."""
    if replays:
        rows = [
            {"organization_id": organization_id, "job_id": job_id, "first_job_id": first_job_id}
            for job_id, first_job_id in replays
        ]
        tx.execute(insert(replay).on_conflict_do_nothing(), rows)


def settled(tx: Transaction, organization_id: int, keys: Collection[str]) -> dict[str, Settled]:
    """The jobs that these keys are bound to."""
    rows = tx.execute(SETTLED, {"organization_id": organization_id, "keys": list(keys)})
    return {key: Settled(job_id, fingerprint) for key, job_id, fingerprint in rows}


def recorded(tx: Transaction, organization_id: int, job_ids: Collection[UUID]) -> frozenset[UUID]:
    """Which of these jobs are there."""
    return frozenset(tx.execute(RECORDED, {"organization_id": organization_id, "job_ids": list(job_ids)}).scalars())


def find(tx: Transaction, organization_id: int, job_id: UUID) -> RowMapping | None:
    """An ended job by its id, or the one that settled its key before; None where neither is there."""
    parameters = {"organization_id": organization_id, "job_id": job_id}
    row = tx.execute(BY_ID, parameters).mappings().one_or_none()
    if row is None and (first := tx.execute(FIRST_OF_REPLAY, parameters).scalar_one_or_none()):
        return tx.execute(BY_ID, {**parameters, "job_id": first}).mappings().one()
    return row


async def find_ended(connection: AsyncStatement, asked: Sequence[tuple[bytes, UUID | None]]) -> list[Found | None]:
    """For each pair of a key's hash and a job's id: whom the key stands for, or None, and the job.

    No job where it has not ended, is of another organization or led to an earlier one, or where the key may not read.
    """
    cursor = connection.cursor(binary=True)
    await cursor.execute(FIND_ENDED, [[sha256 for sha256, _ in asked], [job_id for _, job_id in asked]])
    names = [column.name for column in cursor.description or ()]
    first = names.index("job_id")
    found = {
        row[0]: (
            api_keys.caller(row[1:first]),
            None if row[first] is None else dict(zip(names[first:], row[first:], strict=True)),
        )
        for row in await cursor.fetchall()
    }
    return [found.get(place) for place in range(1, len(asked) + 1)]


def by_keys(tx: Transaction, organization_id: int, keys: Collection[str]) -> Sequence[RowMapping]:
    """The ended jobs of these keys."""
    return tx.execute(BY_KEYS, {"organization_id": organization_id, "keys": list(keys)}).mappings().all()


def newest(  # the filters of one list
    tx: Transaction,
    *,
    first_id: UUID,
    below_id: UUID,
    limit: int,
    states: Collection[str] = (),
    kind: str | None = None,
    reference_id: str | None = None,
) -> Sequence[RowMapping]:
    """Up to `limit` ended jobs of the organization that `tx` shows, with ids in this range, newest first."""
    parameters = {
        "first_id": first_id,
        "below_id": below_id,
        "states": list(states) or None,
        "kind": kind,
        "reference_id": reference_id,
        "limit": limit,
    }
    return tx.execute(NEWEST, parameters).mappings().all()


def not_posted(
    tx: Transaction, organization_id: int, *, first_id: UUID, below_id: UUID, limit: int
) -> Sequence[RowMapping]:
    """Up to `limit` jobs with ids from `first_id` to just below `below_id` that were not posted, in their order."""
    parameters = {"organization_id": organization_id, "first_id": first_id, "below_id": below_id, "limit": limit}
    return tx.execute(NOT_POSTED, parameters).mappings().all()


def count_batch(tx: Transaction, organization_id: int, batch_id: UUID) -> dict[str, int]:
    """How many jobs of a batch have ended, by state; those whose key was settled before count as replayed."""
    parameters = {
        "organization_id": organization_id,
        "first_id": batch_id,
        "last_id": UUID(int=batch_id.int | ids.LAST_32_BITS),
    }
    counts = {row.state: int(row.jobs) for row in tx.execute(BATCH_COUNTS, parameters)}
    if replayed := tx.execute(BATCH_REPLAYS, parameters).scalar_one():
        counts["replayed"] = replayed
    return counts


def ended_after(
    tx: Transaction, organization_id: int, *, position: int, rejection: int, limit: int
) -> Sequence[RowMapping]:
    """Up to `limit` jobs that ended after these counts, in the order in which they ended.

    Both counts are given under the posting lock, so none is seen before a lower one.
    """
    parameters = {
        "organization_id": organization_id,
        "position": position,
        "last_position": position + limit,
        "rejection": rejection,
        "last_rejection": rejection + limit,
    }
    return sorted(tx.execute(ENDED_AFTER, parameters).mappings(), key=_order_of_ending)[:limit]


def _order_of_ending(row: RowMapping) -> tuple[int, int]:
    return (row["position"], 0) if row["state"] == "posted" else (row["after_position"], row["rejection"])


def storable(message: str) -> str:
    """PostgreSQL's text holds no NUL and no lone surrogate; they are shown escaped, as JSON shows them anyway."""
    return message.replace("\x00", "\\u0000").encode("utf-8", "backslashreplace").decode("utf-8")
