"""Which task and queue a message goes to: the names that producers and workers share."""

import zlib
from typing import Final, NamedTuple
from uuid import UUID

from ledgermill.domain.journals import POST_JOURNAL, UPDATE_BALANCE


class Route(NamedTuple):
    """A task by its name, and the queue that it is on by default."""

    task: str
    queue: str


POSTING_QUEUE: Final = "posting"
MAINTENANCE_QUEUE: Final = "maintenance"

POST_JOURNALS: Final = Route("ledgermill.post_journals", POSTING_QUEUE)
UPDATE_BALANCES: Final = Route("ledgermill.update_balances", POSTING_QUEUE)
LOOK: Final = Route("ledgermill.look", POSTING_QUEUE)
SWEEP: Final = Route("ledgermill.sweep", MAINTENANCE_QUEUE)
VERIFY_NEW: Final = Route("ledgermill.verify_new", MAINTENANCE_QUEUE)
VERIFY_ALL: Final = Route("ledgermill.verify_all", MAINTENANCE_QUEUE)

TASK_OF_KIND: Final = {POST_JOURNAL: POST_JOURNALS, UPDATE_BALANCE: UPDATE_BALANCES}
FIELD_OF_KIND: Final = {POST_JOURNAL: "journals", UPDATE_BALANCE: "updates"}


def lane_of(organization: UUID) -> int:
    """A number that is the organization's for ever; modulo the number of lanes it is its lane."""
    return zlib.crc32(organization.bytes) & 0x7FFF_FFFF


def queue_of_lane(lane: int, *, lanes: int) -> str:
    """The queue of a lane; without lanes there is one queue for all."""
    return f"{POSTING_QUEUE}.{lane}" if lanes else POSTING_QUEUE


def posting_queues(*, lanes: int) -> list[str]:
    """Every queue that posting workers can be asked to consume."""
    return [POSTING_QUEUE, *(f"{POSTING_QUEUE}.{lane}" for lane in range(lanes))]
