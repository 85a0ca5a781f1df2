"""How far an accepted batch is: what its sender follows until all of it has ended."""

from typing import NamedTuple
from uuid import UUID

from ledgermill.domain import ids
from ledgermill.storage import jobs
from ledgermill.storage.connections import Transaction
from ledgermill.usecases.acceptance import Accepted

NOT_POSTED = ("rejected", "quarantined")


class NotPosted(NamedTuple):
    """A job of the batch that was not posted, by its place in the batch."""

    place: int
    code: str
    message: str


def ended(tx: Transaction, organization_id: int, batch_id: UUID) -> dict[str, int]:
    """How many jobs of a batch have ended, by state; `replayed` ones had ended under their key before."""
    return jobs.count_batch(tx, organization_id, batch_id)


def not_posted(tx: Transaction, organization_id: int, accepted: Accepted) -> list[NotPosted]:
    """Why jobs of a batch were not posted, also where that was said before, when their key came first."""
    rows = jobs.not_posted(
        tx,
        organization_id,
        first_id=accepted.batch_id,
        below_id=UUID(int=accepted.batch_id.int | ids.LAST_32_BITS),
        limit=len(accepted.jobs),
    )
    found = {ids.place_of(row["job_id"]): row for row in rows}
    place_of_key = {key: place for place, (_, key) in enumerate(accepted.jobs) if key is not None}
    if "replayed" in jobs.count_batch(tx, organization_id, accepted.batch_id):
        for row in jobs.by_keys(tx, organization_id, place_of_key):
            if row["state"] in NOT_POSTED:
                found.setdefault(place_of_key[row["idempotency_key"]], row)
    return [NotPosted(place, row["code"], row["message"]) for place, row in sorted(found.items())]
