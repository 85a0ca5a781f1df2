"""Outcomes: how jobs ended, with the journal where one was posted, for all who wait for theirs at one moment."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from ledgermill.storage.connections import AsyncStatement

FIND = "SELECT * FROM ledgermill_api.find_outcomes(%b, %b)"

Outcome = Mapping[str, Any]


async def find(connection: AsyncStatement, asked: Sequence[tuple[bytes, UUID]]) -> list[Outcome | None]:
    """For each pair of a key's hash and a job's id: the ended job, or the one that settled its key before.

    Beside the job's columns it has those of its organization, author and currency, and `entries`: by line an array of
    line, ledger (uuid, code, number, normal side), side, amount, currency, number and balance after. None where the job
    has not ended or is of another organization, or the key may neither read nor post.
    """
    cursor = connection.cursor(binary=True)
    await cursor.execute(FIND, [[sha256 for sha256, _ in asked], [job_id for _, job_id in asked]])
    names = [column.name for column in cursor.description or ()]
    found = {row[0]: dict(zip(names, row, strict=True)) for row in await cursor.fetchall()}
    return [found.get(place) for place in range(1, len(asked) + 1)]
