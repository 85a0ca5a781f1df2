"""Back-pressure: no job is accepted while those that are due wait too long; requests know it from once a second."""

import asyncio
import contextlib
import math
from typing import Final
from uuid import UUID

import anyio

from ledgermill.broker.backlog import Backlog, Seen
from ledgermill.broker.publishing import Broker
from ledgermill.config import Settings
from ledgermill.errors import Backlogged
from ledgermill.messages import routes
from ledgermill.observability import logger
from ledgermill.storage import connections, metrics
from ledgermill.storage.connections import AsyncStatements

LOOK_EVERY_S: Final = 1.0
LOOK_WITHIN_S: Final = 5.0
LONGEST_RETRY_S: Final = 60

log = logger(__name__)


class Room:
    """For how long the oldest due work of each queue has waited: in the broker, and in the inbox.

    What cannot be seen just now counts as nothing: what is accepted needs no broker, and is refused without a database.
    """

    def __init__(self, settings: Settings, statements: AsyncStatements, broker: Broker) -> None:
        self._most_s = settings.most_backlog_s
        self._lanes = settings.posting_lanes
        self._statements = statements
        self._backlogs = {
            queue: Backlog(broker.redis, queue) for queue in routes.posting_queues(lanes=settings.posting_lanes)
        }
        self._task: asyncio.Task[None] | None = None
        self.in_broker: dict[str, Seen] = {}
        self.in_inbox: dict[str, float] = {}

    def require(self, organization: UUID) -> None:
        """Raises Backlogged, where the oldest due work of this organization's queue has waited for too long."""
        queue = routes.queue_of_lane(routes.lane_of(organization) % max(self._lanes, 1), lanes=self._lanes)
        seen = self.in_broker.get(queue)
        oldest_s = max(seen.oldest_s if seen else 0.0, self.in_inbox.get(queue, 0.0))
        if oldest_s > self._most_s:
            # So far behind as it is now, it will not be there sooner.
            retry_after_s = min(LONGEST_RETRY_S, max(1, math.ceil(oldest_s - self._most_s)))
            raise Backlogged(
                queue=queue, oldest_s=round(oldest_s), most_s=round(self._most_s, 1), retry_after_s=retry_after_s
            )

    def start(self) -> None:
        self._task = asyncio.create_task(self._look_again_and_again())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def look(self) -> None:
        """See how it is now."""
        self.in_inbox, self.in_broker = await self._look_into_inbox(), await self._look_into_broker()

    async def _look_into_inbox(self) -> dict[str, float]:
        try:
            async with self._statements.connection() as connection:
                with connections.answering_within(connection, LOOK_WITHIN_S):
                    oldest = await metrics.oldest_due(connection, lanes=max(self._lanes, 1))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the looking
            log.warning("nobody knows what waits in the inbox", reason=repr(error))
            return {}
        return {routes.queue_of_lane(lane, lanes=self._lanes): age_s for lane, age_s in oldest.items()}

    async def _look_into_broker(self) -> dict[str, Seen]:
        def look() -> dict[str, Seen]:
            return {queue: backlog.look() for queue, backlog in self._backlogs.items()}

        try:
            return await anyio.to_thread.run_sync(look)
        except Exception as error:  # noqa: BLE001 - as above
            log.warning("nobody knows what waits in the broker", reason=repr(error))
            return {}

    async def _look_again_and_again(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)
