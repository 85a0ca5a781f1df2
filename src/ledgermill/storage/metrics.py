"""What the metrics show, by functions that count the inbox and the counters of the books, never the jobs."""

from typing import NamedTuple

from sqlalchemy import text

from ledgermill.storage.connections import Transaction

WAITING = text("SELECT * FROM ledgermill_api.waiting_jobs()")
ENDED = text("SELECT * FROM ledgermill_api.ended_jobs()")
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


def waiting(tx: Transaction) -> list[WaitingJobs]:
    """What waits in the inbox."""
    return [WaitingJobs._make(row) for row in tx.execute(WAITING)]


def ended(tx: Transaction) -> list[EndedJobs]:
    """What the counters of the books say."""
    return [EndedJobs._make(row) for row in tx.execute(ENDED)]


def migration(tx: Transaction) -> str:
    """The revision of the database, as the api role may read it."""
    found: str = tx.execute(MIGRATION).scalar_one()
    return found
