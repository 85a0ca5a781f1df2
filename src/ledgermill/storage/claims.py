"""Claims: waiting batches taken by one worker, in ever smaller parts where they failed before."""

from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Text, Uuid, any_, bindparam, case, cast, not_, or_, select, text
from sqlalchemy.dialects.postgresql import ARRAY

from ledgermill.storage.connections import Transaction
from ledgermill.storage.inbox import BY_ORGANIZATION, DUE, UNCLAIMED, Waiting
from ledgermill.storage.tables import inbox, organization

MOST_UNTRIED_JOBS: Final = 5_000  # claimed together, unless the first batch alone has more
# Jobs claimed together once a worker died of their batches, about the root of the largest message: so about as many
# transactions find the slice at fault among what is taken at once, as find the job at fault in the slice.
MOST_SECOND_TRIES: Final = 50
ANY_ATTEMPTS: Final = 32_767

_TRIES = case(
    (cast(bindparam("release"), Text) == any_(inbox.c.tried_under), inbox.c.attempts),
    else_=0,  # what another release did says nothing of the jobs
).label("tries")
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
    .join(organization, BY_ORGANIZATION)
    .where(*DUE, or_(UNCLAIMED, inbox.c.claimed_by == bindparam("claimant", type_=Uuid)))
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
