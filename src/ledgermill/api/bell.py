"""The bell: requests that have accepted jobs ring for the workers, and do not wait for the broker."""

import asyncio

import anyio

from ledgermill.broker.publishing import Broker

PAUSE_S = 0.005  # between rings of a lane: the first is at once, and those behind it would cost as much as accepting


class Bell:
    """Rings of one lane one after the other: what is accepted while one is under way has the next in common.

    A ring that was begun before a job was committed may be heard too early for it, so it never counts for that job.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._wanted: set[int] = set()
        self._ringing: dict[int, asyncio.Task[None]] = {}

    def ring(self, lane: int) -> None:
        """Have the workers of this lane look into the inbox, where by now the job is committed."""
        lane %= max(self._broker.lanes, 1)
        self._wanted.add(lane)
        if lane not in self._ringing:
            self._ringing[lane] = asyncio.create_task(self._ring(lane))

    async def stop(self) -> None:
        """Wait for the rings that are under way."""
        await asyncio.gather(*self._ringing.values())

    async def _ring(self, lane: int) -> None:
        try:
            while lane in self._wanted:
                self._wanted.discard(lane)
                await anyio.to_thread.run_sync(self._broker.ring, lane)
                await asyncio.sleep(PAUSE_S)
        finally:
            del self._ringing[lane]
