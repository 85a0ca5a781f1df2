"""Releases of the worker: what each is known to post, and which pause because nothing is known to."""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, select, text

from ledgermill.storage.connections import Transaction
from ledgermill.storage.tables import worker_release


class State(NamedTuple):
    """What is known of one kind of job under a release. `resumed_at` ended its last pause."""

    posted_at: datetime | None = None
    paused_at: datetime | None = None
    resumed_at: datetime | None = None


class Known:
    """What a process knows of its release; when it read and noted that, on the monotonic clock."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.read_at: float | None = None
        self.noted_at: dict[str, float] = {}


class Pause(NamedTuple):
    """A kind of job that workers of a release do not post, for how long, and why."""

    release: str
    kind: str
    paused_s: float
    problem: str


READ = select(
    worker_release.c.kind, worker_release.c.posted_at, worker_release.c.paused_at, worker_release.c.resumed_at
).where(worker_release.c.release == bindparam("release"))
# In the order of the keys, so that two that note the same never wait for each other in a circle.
NOTE_POSTED = text("""
    INSERT INTO ledgermill.worker_release AS w (release, kind, posted_at)
    SELECT :release, kind, clock_timestamp() FROM unnest(CAST(:kinds AS text[])) AS kind ORDER BY kind
    ON CONFLICT (release, kind) DO UPDATE
    SET posted_at = clock_timestamp(), paused_at = NULL, problem = NULL,
        resumed_at = CASE WHEN w.paused_at IS NULL THEN w.resumed_at ELSE clock_timestamp() END
    RETURNING w.kind, w.posted_at, w.paused_at, w.resumed_at
""")
PAUSE = text("""
    INSERT INTO ledgermill.worker_release AS w (release, kind, paused_at, problem)
    VALUES (:release, :kind, clock_timestamp(), :problem)
    ON CONFLICT (release, kind) DO UPDATE
    SET paused_at = clock_timestamp(), canary_at = NULL, problem = excluded.problem WHERE w.paused_at IS NULL
    RETURNING w.paused_at
""")
TAKE_CANARY = text("""
    UPDATE ledgermill.worker_release SET canary_at = clock_timestamp()
    WHERE release = :release AND kind = :kind AND paused_at IS NOT NULL
    AND (canary_at IS NULL OR canary_at < clock_timestamp() - make_interval(secs => :every_s))
""")
PAUSES = text("SELECT release, kind, paused_s, problem FROM ledgermill_api.paused_workers()")
POSTED_LATELY = text("""
    SELECT coalesce((
        SELECT ended_at > :since FROM ledgermill.job
        WHERE organization_id = :organization_id AND position IS NOT NULL ORDER BY position DESC LIMIT 1
    ), false)
""")


def pauses(tx: Transaction) -> list[Pause]:
    """What is paused now, as the api role may read it."""
    return [Pause._make(row) for row in tx.execute(PAUSES)]


def read(tx: Transaction, release: str) -> dict[str, State]:
    """What is known of a release, by kind of job."""
    return {row.kind: State(*row[1:]) for row in tx.execute(READ, {"release": release})}


def note_posted(tx: Transaction, release: str, kinds: Collection[str]) -> dict[str, State]:
    """A job of each of these kinds was posted just now: that ends a pause. The new states, by kind."""
    rows = tx.execute(NOTE_POSTED, {"release": release, "kinds": list(kinds)})
    return {row.kind: State(*row[1:]) for row in rows}


def pause(tx: Transaction, release: str, kind: str, *, problem: str) -> bool:
    """From here on nothing of the kind is tried under this release but canaries; False: that was so before."""
    return tx.execute(PAUSE, {"release": release, "kind": kind, "problem": problem}).first() is not None


def take_canary(tx: Transaction, release: str, kind: str, *, every_s: float) -> bool:
    """Whether the caller may try one job during the pause; to one caller in `every_s` seconds it says yes."""
    return tx.execute(TAKE_CANARY, {"release": release, "kind": kind, "every_s": every_s}).rowcount > 0


def organization_posts(tx: Transaction, organization_id: int, *, since: datetime) -> bool:
    """Whether a job of the organization was posted later than that, under any release."""
    found: bool = tx.execute(POSTED_LATELY, {"organization_id": organization_id, "since": since}).scalar_one()
    return found
