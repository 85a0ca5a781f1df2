"""What the metrics show, by functions that count the inbox and the counters of the books, never the jobs."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text

from ledgermill.storage.connections import AsyncStatement, Transaction

WAITING = text("SELECT * FROM ledgermill_api.waiting_jobs()")
ENDED = text("SELECT * FROM ledgermill_api.ended_jobs()")
OLDEST_DUE = "SELECT * FROM ledgermill_api.oldest_due(%b)"
VERIFICATIONS = text("SELECT * FROM ledgermill_api.verifications()")
MIGRATION = text("SELECT ledgermill_api.migration()")


class WaitingJobs(NamedTuple):
    """Accepted jobs of one organization, state and kind, and for how long the oldest has been due."""

    organization: str
    state: str
    kind: str
    jobs: int
    oldest_due_s: float


class EndedJobs(NamedTuple):
    """How many jobs of an organization were ever posted, and how many were not."""

    organization: str
    posted: int
    not_posted: int


class Verification(NamedTuple):
    """The last run of verify over an organization, of a kind: "new" (what was posted since) or "all".

    `found` has the violations of each check that found any; it and the times are None where there was no run yet.
    `unverified_s`: for how long the books were not found clean by this kind.
    """

    organization: str
    kind: str
    began_at: datetime | None
    seconds: float | None
    found: dict[str, int] | None
    unverified_s: float


def waiting(tx: Transaction) -> list[WaitingJobs]:
    """What waits in the inbox."""
    return [WaitingJobs._make(row) for row in tx.execute(WAITING)]


def ended(tx: Transaction) -> list[EndedJobs]:
    """What the counters of the books say."""
    return [EndedJobs._make(row) for row in tx.execute(ENDED)]


def verifications(tx: Transaction) -> list[Verification]:
    """What verify found when it last ran by beat."""
    return [Verification._make(row) for row in tx.execute(VERIFICATIONS)]


def migration(tx: Transaction) -> str:
    """The revision of the database, as the api role may read it."""
    found: str = tx.execute(MIGRATION).scalar_one()
    return found


async def oldest_due(connection: AsyncStatement, *, lanes: int) -> dict[int, float]:
    """For how many seconds the oldest due batch of each lane has waited in the inbox, by index; no lane, no batch."""
    cursor = await connection.execute(OLDEST_DUE, [lanes])
    return dict(await cursor.fetchall())
