"""Gathering: what many requests ask for at one moment is asked by one statement, and each gets its own answer."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from ledgermill.errors import Unavailable

AT_ONCE = 2  # statements under way: one more than one, so that a slow one does not hold up everybody
MOST_GATHERED = 100
MOST_GATHERED_BYTES = 1_000_000

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Gatherer(Generic[Asked, Answer]):
    """Asks for what has come together while earlier statements were under way; alone, nothing waits for company."""

    def __init__(self, ask_all: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer]]]) -> None:
        self._ask_all = ask_all
        self._waiting: deque[tuple[Asked, int, asyncio.Future[Answer]]] = deque()
        self._at_work: set[asyncio.Task[None]] = set()

    async def ask(self, asked: Asked, *, size: int = 0) -> Answer:
        """The answer to this, of `size` bytes where that can be many; or what failed with it."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, size, future))
        if len(self._at_work) < AT_ONCE:
            task = asyncio.create_task(self._work())
            self._at_work.add(task)
            task.add_done_callback(self._at_work.discard)
        return await future

    async def _work(self) -> None:
        while self._waiting:
            asked, size, future = self._waiting.popleft()
            together = [(asked, future)]
            while self._waiting and len(together) < MOST_GATHERED:
                size += self._waiting[0][1]
                if size > MOST_GATHERED_BYTES:
                    break
                asked, _, future = self._waiting.popleft()
                together.append((asked, future))
            await self._answer(together)

    async def _answer(self, together: Sequence[tuple[Asked, "asyncio.Future[Answer]"]]) -> None:
        try:
            answers = await self._ask_all([asked for asked, _ in together])
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            if len(together) > 1 and not isinstance(error, Unavailable):
                for one in together:  # so that what is wrong with one is no other's failure
                    await self._answer([one])
                return
            for _, future in together:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(together, answers, strict=True):
            if not future.done():  # its client may have gone
                future.set_result(answer)
