"""The inbox: accepted batches that wait for a worker, for their time, or for another try."""

from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import (
    Float,
    RowMapping,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    not_,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert

from ledgermill.storage.connections import AsyncStatement, Transaction
from ledgermill.storage.tables import inbox, organization

MOST_UNTRIED_JOBS: Final = 5_000  # claimed together, unless the first batch alone has more
# Jobs claimed together once a worker died of their batches, a sixteenth of the largest message: about as many
# transactions find the slice at fault among what is taken at once, as find the job at fault in the slice.
MOST_SECOND_TRIES: Final = 125
ANY_ATTEMPTS: Final = 32_767


class Waiting(NamedTuple):
    """A batch, or the part of one that is due at one time. `places` is None where they count from 0.

    `job_keys` are the idempotency keys by item, None where an item has none. The last four are what a claim says:
    whose it is, up to which item one is tried alone or in a slice, and when it was first and last tried, under the
    release that claimed it (`last_tried_at`: before this claim).
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
_DUE = (
    inbox.c.due_at <= func.now(),
    organization.c.state != "paused",
    or_(organization.c.state == "active", inbox.c.held.is_(False)),
)
# Who claimed it may wait for a lock, and is alive: a claim counts until nobody can work on it any more. The claims of
# a process that is known to have died are ended before, see `free`.
_UNCLAIMED = or_(
    inbox.c.claimed_at.is_(None),
    inbox.c.claimed_at < func.now() - func.make_interval(0, 0, 0, 0, 0, 0, cast(bindparam("lease_s"), Float)),
)
_TRIES = case(
    (cast(bindparam("release"), Text) == any_(inbox.c.tried_under), inbox.c.attempts),
    else_=0,  # what another release did says nothing of the jobs
).label("tries")
_BY_ORGANIZATION = organization.c.organization_id == inbox.c.organization_id

INSERT = insert(inbox).on_conflict_do_nothing(index_elements=["organization_id", "batch_id", "part"])
# `held` organizations' rows are passed over; a locked row is somebody else's work.
# Without payloads: of many batches that could be claimed, only as many are read as fit into a transaction.
_TO_CLAIM = (
    select(
        inbox.c.organization_id,
        inbox.c.batch_id,
        inbox.c.part,
        inbox.c.jobs,
        inbox.c.next_item,
        inbox.c.alone_until,
        inbox.c.tried_at,
        _TRIES,
    )
    .join(organization, _BY_ORGANIZATION)
    .where(*_DUE, or_(_UNCLAIMED, inbox.c.claimed_by == bindparam("claimant", type_=Uuid)))
    .where(inbox.c.lane % bindparam("lanes") == bindparam("lane"))
    .with_for_update(of=inbox, skip_locked=True)
)
CLAIMABLE = (
    _TO_CLAIM.where(
        inbox.c.attempts <= bindparam("most_attempts"),
        not_(inbox.c.kind == any_(cast(bindparam("paused"), ARRAY(Text)))),
    )
    .order_by(inbox.c.due_at, inbox.c.batch_id, inbox.c.part)
    .limit(bindparam("limit"))
)
CANARY = (
    _TO_CLAIM.where(inbox.c.kind == bindparam("kind"))
    .order_by(inbox.c.attempts, inbox.c.due_at, inbox.c.batch_id, inbox.c.part)
    .limit(1)
)
CLAIM = text(f"""
    UPDATE ledgermill.inbox AS i
    SET attempts = these.attempts, alone_until = these.alone_until, claimed_by = :claimant,
        claimed_at = clock_timestamp(), tried_at = clock_timestamp(),
        first_tried_at = CASE WHEN these.attempts = 1 THEN clock_timestamp()
                              ELSE coalesce(i.first_tried_at, clock_timestamp()) END,
        tried_under = CASE WHEN CAST(:release AS text) = ANY (i.tried_under) THEN i.tried_under
                           ELSE array_append(i.tried_under, CAST(:release AS text)) END
    FROM unnest(CAST(:organization_ids AS int[]), CAST(:batch_ids AS uuid[]), CAST(:parts AS smallint[]),
                CAST(:attempts AS smallint[]), CAST(:alone_untils AS int[]), CAST(:tried_ats AS timestamptz[]))
         AS these (organization_id, batch_id, part, attempts, alone_until, last_tried_at)
    WHERE i.organization_id = these.organization_id AND i.batch_id = these.batch_id AND i.part = these.part
    RETURNING {", ".join(f"i.{name}" for name in Waiting._fields if name != "last_tried_at")}, these.last_tried_at
""")  # noqa: S608 - the names are ours
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
        due_at=bindparam("due"),
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
    .join(organization, _BY_ORGANIZATION)
    .where(*_DUE, _UNCLAIMED)
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


def insert_waiting(tx: Transaction, rows: Sequence[Waiting], *, tried_under: str | None = None) -> None:
    """Accept these batches; one that is there already stays as it is. Attempts count for the release that is named."""
    if rows:
        tried: dict[str, Any] = {"tried_under": [tried_under]} if tried_under else {}
        values = [dict(zip(_ACCEPTED, row, strict=False)) for row in rows]
        if tried_under:
            values = [
                value | tried | {"first_tried_at": row.first_tried_at, "tried_at": row.last_tried_at}
                for value, row in zip(values, rows, strict=True)
            ]
        tx.execute(INSERT, values)


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


def claim(
    tx: Transaction,
    claimant: UUID,
    *,
    release: str,
    lanes: int,
    lane: int,
    limit: int,
    lease_s: float,
    paused: Collection[str] = (),
    only_untried: bool = False,
) -> list[Waiting]:
    """Claim batches that are due and that nobody works on, oldest first, and count an attempt for each.

    What a worker died of is taken apart: untried batches are claimed by the thousand jobs, a second try is of some 100
    jobs, further ones are of one batch, whose jobs are to be tried one by one. `limit` bounds the batches; kinds of job
    in `paused` are left out. The caller commits at once, so that the attempt counts even if it dies. After `lease_s`
    another may claim them; the claimant itself may at any time.
    """
    found = tx.execute(
        CLAIMABLE,
        {
            **_claiming(claimant, release=release, lanes=lanes, lane=lane, lease_s=lease_s),
            "limit": limit,
            "paused": list(paused),
            "most_attempts": 0 if only_untried else ANY_ATTEMPTS,
        },
    ).all()
    return _claim(tx, claimant, _together(found), release=release) if found else []


def claim_canary(
    tx: Transaction, claimant: UUID, *, release: str, lanes: int, lane: int, lease_s: float, kind: str
) -> Waiting | None:
    """Claim one batch of a kind as `claim` does, the one with the fewest attempts."""
    found = tx.execute(
        CANARY, {**_claiming(claimant, release=release, lanes=lanes, lane=lane, lease_s=lease_s), "kind": kind}
    ).all()
    return _claim(tx, claimant, found, release=release)[0] if found else None


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


def release(tx: Transaction, row: Waiting, *, attempts: int, due_at: datetime, problem: str | None) -> None:
    """Give the batch back for another try at `due_at`, unless somebody else has claimed it since."""
    tx.execute(RELEASE, {**_key(row), "tries": attempts, "due": due_at, "problem": problem})


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


def _claiming(claimant: UUID, *, release: str, lanes: int, lane: int, lease_s: float) -> dict[str, Any]:
    return {"claimant": claimant, "release": release, "lanes": lanes, "lane": lane, "lease_s": lease_s}


def _together(found: Sequence[Any]) -> list[Any]:
    """Which of these to claim at once: as many as the first, by its tries, may share a death with."""
    tries = found[0].tries
    if tries > 1:
        return list(found[:1])
    alike = [row for row in found if row.tries == tries]
    if tries:
        jobs = accumulate(min(row.jobs - row.next_item, MOST_SECOND_TRIES) for row in alike)
    else:
        jobs = accumulate(row.jobs - row.next_item for row in alike)
    most = MOST_SECOND_TRIES if tries else MOST_UNTRIED_JOBS
    return alike[:1] + [row for row, so_far in zip(alike, jobs, strict=True) if so_far <= most][1:]


def _claim(tx: Transaction, claimant: UUID, chosen: Sequence[Any], *, release: str) -> list[Waiting]:
    claimed = tx.execute(
        CLAIM,
        {
            "claimant": claimant,
            "release": release,
            "organization_ids": [row.organization_id for row in chosen],
            "batch_ids": [row.batch_id for row in chosen],
            "parts": [row.part for row in chosen],
            "attempts": [min(row.tries + 1, ANY_ATTEMPTS) for row in chosen],
            "alone_untils": [
                row.next_item + MOST_SECOND_TRIES if row.tries == 1 else row.alone_until for row in chosen
            ],
            "tried_ats": [row.tried_at for row in chosen],
        },
    )
    return sorted((Waiting._make(row) for row in claimed), key=lambda row: (row.due_at, row.batch_id, row.part))


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
