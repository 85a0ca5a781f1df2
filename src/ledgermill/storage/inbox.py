"""The inbox: accepted batches that wait for a worker, for their time, or for another try."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    Float,
    RowMapping,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert

from ledgermill.storage.connections import AsyncStatement, Transaction
from ledgermill.storage.tables import MOMENT, inbox, organization


class Waiting(NamedTuple):
    """A batch, or the part of one that is due at one time. `places` is None where they count from 0.

    `job_keys` are the idempotency keys by item, None where an item has none. What has `accepted_at` as its
    `due_at` is due at once, and is stored as due by the database's clock. The last four are what a claim says: whose it
    is, up to which item one is tried alone or in a slice, and when it was first and last tried, under the release that
    claimed it (`last_tried_at`: before this claim).
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
    claimed_by: UUID | None = None
    alone_until: int = 0
    first_tried_at: datetime | None = None
    last_tried_at: datetime | None = None


_ACCEPTED = Waiting._fields[: Waiting._fields.index("claimed_by")]
# What tells of waiting jobs; never the payload, which may be megabytes.
_SHOWN = [inbox.c[name] for name in (*_ACCEPTED, "claimed_at", "last_error") if name != "payload"]
DUE = (
    inbox.c.due_at <= func.now(),
    organization.c.state != "paused",
    or_(organization.c.state == "active", inbox.c.held.is_(False)),
)
# Who claimed it may wait for a lock, and is alive: a claim counts until nobody can work on it any more. The claims of
# a process that is known to have died are ended before, see `free`.
UNCLAIMED = or_(
    inbox.c.claimed_at.is_(None),
    inbox.c.claimed_at < func.now() - func.make_interval(0, 0, 0, 0, 0, 0, cast(bindparam("lease_s"), Float)),
)
BY_ORGANIZATION = organization.c.organization_id == inbox.c.organization_id

# Clocks of workers and APIs may be hours off. What is due at once is so by the database's clock; as given, where that
# is within the second before.
MOST_S_BEFORE = 1.0
_IN_A_WHILE = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, cast(bindparam("waits_s"), Float))
_DUE_AT = bindparam("due", type_=MOMENT)
INSERT = (
    insert(inbox)
    .values(
        due_at=func.greatest(
            case((bindparam("accepted", type_=MOMENT) == _DUE_AT, func.least(_DUE_AT, func.now())), else_=_DUE_AT),
            _IN_A_WHILE,
        )
    )
    .on_conflict_do_nothing(index_elements=["organization_id", "batch_id", "part"])
)
CLOCK = select(func.now())
# Many at once: whoever posts them holds the posting lock meanwhile. It waits for other claims, which lock for a moment
# what they look at: a batch that was passed over here would be left until its lease ends. A batch that somebody else
# claimed since is no longer this one's, as after a process stood still beyond its lease.
HOLD = text("""
    SELECT i.batch_id, i.part, i.next_item
    FROM ledgermill.inbox AS i
    JOIN unnest(CAST(:batch_ids AS uuid[]), CAST(:parts AS smallint[]), CAST(:claimed_bys AS uuid[]))
         AS these (batch_id, part, claimed_by) USING (batch_id, part)
    WHERE i.organization_id = :organization_id AND i.claimed_by IS NOT DISTINCT FROM these.claimed_by
    FOR UPDATE OF i
""")
_THIS_CLAIM = and_(
    inbox.c.organization_id == bindparam("of_organization"),
    inbox.c.batch_id == bindparam("of_batch"),
    inbox.c.part == bindparam("of_part"),
    inbox.c.claimed_by.is_not_distinct_from(bindparam("of_claimant", type_=Uuid)),
)
# The claim stays: there may be more to settle under it. Beyond what is tried alone, slices are tried again.
ADVANCE = (
    update(inbox)
    .where(_THIS_CLAIM)
    .values(
        next_item=bindparam("done"),
        attempts=case(
            (inbox.c.alone_until <= bindparam("done"), func.least(cast(bindparam("tries"), inbox.c.attempts.type), 1)),
            else_=bindparam("tries"),
        ),
    )
)
RELEASE = (
    update(inbox)
    .where(_THIS_CLAIM)
    .values(
        claimed_at=None,
        claimed_by=None,
        attempts=bindparam("tries"),
        due_at=func.coalesce(_IN_A_WHILE, inbox.c.due_at),
        last_error=bindparam("problem"),
    )
)
HURRY = (
    update(inbox)
    .where(inbox.c.kind == bindparam("of_kind"), inbox.c.attempts > bindparam("more_than"), inbox.c.due_at > func.now())
    .values(due_at=func.now())
)
FREE = (
    update(inbox)
    .where(inbox.c.claimed_by == bindparam("claimant", type_=Uuid))
    .values(claimed_at=None, claimed_by=None)
    .returning(inbox.c.lane)
)
DELETE = text("""
    DELETE FROM ledgermill.inbox AS i
    USING unnest(CAST(:batch_ids AS uuid[]), CAST(:parts AS smallint[])) AS these (batch_id, part)
    WHERE i.organization_id = :organization_id AND i.batch_id = these.batch_id AND i.part = these.part
""")
LANES_TO_RING = (
    select((inbox.c.lane % bindparam("lanes")).label("lane"))
    .join(organization, BY_ORGANIZATION)
    .where(*DUE, UNCLAIMED)
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


def insert_waiting(
    tx: Transaction, rows: Sequence[Waiting], *, tried_under: str | None = None, waits_s: float = -MOST_S_BEFORE
) -> None:
    """Accept these batches, due in `waits_s` at the earliest; one that is there already stays as it is.

    Attempts count for the release that is named.
    """
    if rows:
        tried: dict[str, Any] = {"tried_under": [tried_under]} if tried_under else {}
        values: list[dict[str, Any]] = [dict(zip(_ACCEPTED, row, strict=False)) for row in rows]
        for value in values:
            value |= {"due": value.pop("due_at"), "accepted": value["accepted_at"], "waits_s": waits_s}
        if tried_under:
            values = [
                value | tried | {"first_tried_at": row.first_tried_at, "tried_at": row.last_tried_at}
                for value, row in zip(values, rows, strict=True)
            ]
        tx.execute(INSERT, values)


def clock(tx: Transaction) -> datetime:
    """The time by which it is decided what is due: the database's, at the beginning of this transaction."""
    return tx.execute(CLOCK).scalar_one()


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


def hold(tx: Transaction, organization_id: int, rows: Sequence[Waiting]) -> dict[tuple[UUID, int], int]:
    """Lock claimed batches until `tx` ends: their next items, by batch and part.

    Missing is what is done, or claimed by somebody else since.
    """
    if not rows:
        return {}
    found = tx.execute(HOLD, _keys(organization_id, rows) | {"claimed_bys": [row.claimed_by for row in rows]})
    return {(row.batch_id, row.part): row.next_item for row in found}


def remove(tx: Transaction, organization_id: int, rows: Sequence[Waiting]) -> None:
    """These batches are settled."""
    if rows:
        tx.execute(DELETE, _keys(organization_id, rows))


def advance(tx: Transaction, row: Waiting, *, next_item: int, attempts: int) -> None:
    """The batch is settled up to, but without, `next_item`; its claimant may go on."""
    tx.execute(ADVANCE, {**_key(row), "done": next_item, "tries": attempts})


def release(tx: Transaction, row: Waiting, *, attempts: int, waits_s: float | None, problem: str | None) -> None:
    """Give the batch back for another try in `waits_s` (None: due as it was), unless it has another claimant since."""
    tx.execute(RELEASE, {**_key(row), "tries": attempts, "waits_s": waits_s, "problem": problem})


def free(tx: Transaction, claimant: UUID) -> set[int]:
    """End the claims of a claimant that is gone, whose attempts stay counted; the lanes with such claims."""
    return set(tx.execute(FREE, {"claimant": claimant}).scalars())


def hurry(tx: Transaction, kind: str, *, attempts: int) -> None:
    """What was tried more often than that, and waits for another try, is due now."""
    tx.execute(HURRY, {"of_kind": kind, "more_than": attempts})


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
    return {
        "of_organization": row.organization_id,
        "of_batch": row.batch_id,
        "of_part": row.part,
        "of_claimant": row.claimed_by,
    }
