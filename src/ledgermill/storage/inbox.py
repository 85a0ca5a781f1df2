"""The inbox: accepted batches that wait for a worker, for their time, or for another try."""

from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import accumulate
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Float, RowMapping, Text, bindparam, cast, func, literal_column, or_, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, insert

from ledgermill.storage.connections import AsyncStatement, Transaction
from ledgermill.storage.tables import inbox, organization


class Waiting(NamedTuple):
    """A batch, or the part of one that is due at one time. `places` is None where they count from 0.

    `job_keys` are the idempotency keys by item, None where an item has none.
    """

    organization_id: int
    batch_id: UUID
    part: int
    lane: int
    kind: str
    payload: bytes
    jobs: int
    places: list[int] | None
    job_keys: list[str | None]
    next_item: int
    attempts: int
    accepted_at: datetime
    due_at: datetime
    held: bool
    principal_id: int
    correlation: str | None
    message_id: str | None


# What tells of waiting jobs; never the payload, which may be megabytes.
_SHOWN = [column for column in inbox.c if column.name != "payload"]
_READY = (
    inbox.c.due_at <= func.now(),
    organization.c.state != "paused",
    or_(organization.c.state == "active", inbox.c.held.is_(False)),
    # Who claimed it may wait for a lock, and is alive: a claim counts until nobody can work on it any more.
    or_(
        inbox.c.claimed_at.is_(None),
        inbox.c.claimed_at < func.now() - func.make_interval(0, 0, 0, 0, 0, 0, cast(bindparam("lease_s"), Float)),
    ),
)
_BY_ORGANIZATION = organization.c.organization_id == inbox.c.organization_id

INSERT = insert(inbox).on_conflict_do_nothing(index_elements=["organization_id", "batch_id", "part"])
# `held` organizations' rows are passed over; a locked row is somebody else's work.
# Without payloads: of many batches that could be claimed, only as many are read as fit into a transaction.
CLAIMABLE = (
    select(
        inbox.c.organization_id,
        inbox.c.batch_id,
        inbox.c.part,
        inbox.c.attempts,
        (inbox.c.jobs - inbox.c.next_item).label("left"),
    )
    .join(organization, _BY_ORGANIZATION)
    .where(*_READY, inbox.c.lane % bindparam("lanes") == bindparam("lane"))
    .order_by(inbox.c.due_at, inbox.c.batch_id, inbox.c.part)
    .limit(bindparam("limit"))
    .with_for_update(of=inbox, skip_locked=True)
)
_THESE = (
    inbox.c.organization_id == bindparam("of_organization"),
    inbox.c.batch_id == bindparam("of_batch"),
    inbox.c.part == bindparam("of_part"),
)
CLAIM = text(f"""
    UPDATE ledgermill.inbox AS i
    SET attempts = i.attempts + 1, claimed_at = clock_timestamp()
    FROM unnest(CAST(:organization_ids AS int[]), CAST(:batch_ids AS uuid[]), CAST(:parts AS smallint[]))
         AS these (organization_id, batch_id, part)
    WHERE i.organization_id = these.organization_id AND i.batch_id = these.batch_id AND i.part = these.part
    RETURNING {", ".join(f"i.{name}" for name in Waiting._fields)}
""")  # noqa: S608 - the names are ours
# Many at once: whoever posts them holds the posting lock meanwhile. It waits for other claims, which lock for a moment
# what they look at: a batch that was passed over here would be left until its lease ends.
HOLD = text("""
    SELECT i.batch_id, i.part, i.next_item
    FROM ledgermill.inbox AS i
    JOIN unnest(CAST(:batch_ids AS uuid[]), CAST(:parts AS smallint[])) AS these (batch_id, part) USING (batch_id, part)
    WHERE i.organization_id = :organization_id
    FOR UPDATE OF i
""")
ADVANCE = update(inbox).where(*_THESE).values(next_item=bindparam("done"), attempts=bindparam("tries"), claimed_at=None)
RELEASE = (
    update(inbox)
    .where(*_THESE)
    .values(claimed_at=None, attempts=bindparam("tries"), due_at=bindparam("due"), last_error=bindparam("problem"))
)
DELETE = text("""
    DELETE FROM ledgermill.inbox AS i
    USING unnest(CAST(:batch_ids AS uuid[]), CAST(:parts AS smallint[])) AS these (batch_id, part)
    WHERE i.organization_id = :organization_id AND i.batch_id = these.batch_id AND i.part = these.part
""")
LANES_TO_RING = (
    select((inbox.c.lane % bindparam("lanes")).label("lane"))
    .join(organization, _BY_ORGANIZATION)
    .where(*_READY)
    .group_by(literal_column("1"))
)
ACCEPT = "SELECT * FROM ledgermill_api.accept_jobs(%b, %b, %b, %b, %b, %b, %b, %b, %b)"
OF_BATCH = select(*_SHOWN).where(
    inbox.c.organization_id == bindparam("organization_id"), inbox.c.batch_id == bindparam("batch_id")
)
OF_KEYS = select(*_SHOWN).where(
    inbox.c.organization_id == bindparam("organization_id"),
    inbox.c.job_keys.overlap(bindparam("wanted", type_=ARRAY(Text))),
)


def insert_waiting(tx: Transaction, rows: Sequence[Waiting]) -> None:
    """Accept these batches; one that is there already stays as it is."""
    if rows:
        tx.execute(INSERT, [row._asdict() for row in rows])


async def accept(connection: AsyncStatement, asked: Sequence[tuple[bytes, Waiting]]) -> list[str | None]:
    """Accept single jobs, each by its key's hash, which decides on organization and principal: all or none of them.

    Returns the states of their organizations: one that is draining accepts nothing, nor does a key without the right
    to post, for which there is None.
    """
    rows = [row for _, row in asked]
    cursor = await connection.execute(
        ACCEPT,
        [
            [sha256 for sha256, _ in asked],
            [row.batch_id for row in rows],
            [row.lane for row in rows],
            [row.kind for row in rows],
            [row.payload for row in rows],
            [row.job_keys[0] for row in rows],
            [row.accepted_at for row in rows],
            [row.due_at for row in rows],
            [row.correlation for row in rows],
        ],
    )
    found: dict[int, str] = dict(await cursor.fetchall())
    return [found.get(place) for place in range(1, len(rows) + 1)]


def claim(tx: Transaction, *, lanes: int, lane: int, limit: int, most_jobs: int, lease_s: float) -> list[Waiting]:
    """Claim batches that are due and that nobody works on, oldest first, and count an attempt for each.

    Up to `limit` of them, and no more than `most_jobs` jobs unless the first alone has more. One that was tried before
    is claimed alone: if it ends the worker, no other is counted with it. The caller commits at once, so that the
    attempt counts even then. After `lease_s` another may claim them.
    """
    claimable = tx.execute(CLAIMABLE, {"lanes": lanes, "lane": lane, "limit": limit, "lease_s": lease_s}).all()
    if not claimable:
        return []
    chosen = list(claimable[:1])
    if not claimable[0].attempts:
        untried = [row for row in claimable if not row.attempts]
        jobs = accumulate(row.left for row in untried)
        chosen += [row for row, so_far in zip(untried, jobs, strict=True) if so_far <= most_jobs][1:]
    claimed = tx.execute(
        CLAIM,
        {
            "organization_ids": [row.organization_id for row in chosen],
            "batch_ids": [row.batch_id for row in chosen],
            "parts": [row.part for row in chosen],
        },
    )
    return sorted((Waiting._make(row) for row in claimed), key=lambda row: (row.due_at, row.batch_id, row.part))


def hold(tx: Transaction, organization_id: int, rows: Sequence[Waiting]) -> dict[tuple[UUID, int], int]:
    """Lock claimed batches until `tx` ends: their next items, by batch and part.

    Missing is what is done.
    """
    if not rows:
        return {}
    found = tx.execute(HOLD, _keys(organization_id, rows))
    return {(row.batch_id, row.part): row.next_item for row in found}


def remove(tx: Transaction, organization_id: int, rows: Sequence[Waiting]) -> None:
    """These batches are settled."""
    if rows:
        tx.execute(DELETE, _keys(organization_id, rows))


def advance(tx: Transaction, row: Waiting, *, next_item: int, attempts: int) -> None:
    """The batch is settled up to, but without, `next_item`."""
    tx.execute(ADVANCE, {**_key(row), "done": next_item, "tries": attempts})


def release(tx: Transaction, row: Waiting, *, attempts: int, due_at: datetime, problem: str | None) -> None:
    """Give the batch back for another try at `due_at`."""
    tx.execute(RELEASE, {**_key(row), "tries": attempts, "due": due_at, "problem": problem})


def lanes_to_ring(tx: Transaction, *, lanes: int, lease_s: float) -> list[int]:
    """The lanes with batches that are due and that nobody works on."""
    return list(tx.execute(LANES_TO_RING, {"lanes": lanes, "lease_s": lease_s}).scalars())


def of_batch(tx: Transaction, organization_id: int, batch_id: UUID) -> Sequence[RowMapping]:
    """The waiting parts of a batch."""
    return tx.execute(OF_BATCH, {"organization_id": organization_id, "batch_id": batch_id}).mappings().all()


def of_keys(tx: Transaction, organization_id: int, keys: Collection[str]) -> Sequence[RowMapping]:
    """The waiting batches in which any of these keys came."""
    return tx.execute(OF_KEYS, {"organization_id": organization_id, "wanted": list(keys)}).mappings().all()


def list_waiting(
    tx: Transaction, organization_id: int, *, first_id: UUID, below_id: UUID, limit: int, kind: str | None
) -> Sequence[RowMapping]:
    """Up to `limit` waiting batches with ids from `first_id` to just below `below_id`, newest first."""
    statement = select(*_SHOWN).where(
        inbox.c.organization_id == organization_id, inbox.c.batch_id >= first_id, inbox.c.batch_id < below_id
    )
    if kind is not None:
        statement = statement.where(inbox.c.kind == kind)
    statement = statement.order_by(inbox.c.batch_id.desc(), inbox.c.part.desc()).limit(limit)
    return tx.execute(statement).mappings().all()


def _keys(organization_id: int, rows: Sequence[Waiting]) -> dict[str, object]:
    return {
        "organization_id": organization_id,
        "batch_ids": [row.batch_id for row in rows],
        "parts": [row.part for row in rows],
    }


def _key(row: Waiting) -> dict[str, object]:
    return {"of_organization": row.organization_id, "of_batch": row.batch_id, "of_part": row.part}
