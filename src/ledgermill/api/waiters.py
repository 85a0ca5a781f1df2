"""Clients that wait for an outcome: woken by the workers' news, and by a look of their own if no news comes."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import redis.asyncio
from redis.exceptions import RedisError

from ledgermill.broker.publishing import SETTLED_CHANNEL
from ledgermill.observability import logger

LOOK_EVERY_S = 0.2
SUBSCRIBE_AGAIN_AFTER_S = 1.0

log = logger(__name__)


class Waiters:
    """One subscription for each API process, however many clients wait."""

    def __init__(self, broker_url: str) -> None:
        self._client = redis.asyncio.Redis.from_url(broker_url, socket_connect_timeout=3, health_check_interval=10)
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._client.aclose()

    @contextlib.asynccontextmanager
    async def expecting(
        self, batch_id: UUID
    ) -> AsyncIterator[Callable[[Callable[[], Awaitable[bool]], float], Awaitable[bool]]]:
        """Listen for a batch from here on; the value waits until `is_there` says yes, or for so many seconds."""
        event = asyncio.Event()
        name = str(batch_id)
        self._waiting[name].add(event)

        async def wait(is_there: Callable[[], Awaitable[bool]], timeout_s: float) -> bool:
            deadline = asyncio.get_running_loop().time() + timeout_s
            while True:
                left_s = deadline - asyncio.get_running_loop().time()
                if left_s <= 0:
                    return await is_there()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), min(LOOK_EVERY_S, left_s))
                event.clear()
                if await is_there():
                    return True

        try:
            yield wait
        finally:
            self._waiting[name].discard(event)
            if not self._waiting[name]:
                del self._waiting[name]

    async def _listen(self) -> None:
        while True:
            try:
                async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(SETTLED_CHANNEL)
                    async for message in channel.listen():
                        for name in message["data"].decode().split():
                            for event in self._waiting.get(name, ()):
                                event.set()
            except (RedisError, OSError) as error:
                log.warning("no news from the workers; waiting clients look by themselves", reason=type(error).__name__)
                await asyncio.sleep(SUBSCRIBE_AGAIN_AFTER_S)
