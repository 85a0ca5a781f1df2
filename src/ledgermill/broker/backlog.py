"""How much waits in a posting queue on Redis, and for how long, as one process sees it that looks now and then."""

import time
from collections import deque
from typing import Any, Final, NamedTuple

import redis

from ledgermill.broker.intake import PRIORITIES, left_key

MOST_MOMENTS: Final = 1_000


class Seen(NamedTuple):
    """Messages that wait, for how long the oldest has at least, and how much of Redis's memory is used (0 to 1).

    The share is 0 where Redis has no limit, or does not tell this login.
    """

    messages: int
    oldest_s: float
    memory_share: float


class Backlog:
    """Looks at one queue, each time in one round trip.

    Messages of other producers carry no time, and clocks of hosts differ, so the age is counted: workers count what
    ever left the queue. If 500 had left and 80 waited ten seconds ago, and 560 have left by now, then the oldest was
    among the 80, and has waited for ten seconds at least. What came before the first look counts from there.
    """

    def __init__(self, client: redis.Redis, queue: str) -> None:
        self._redis = client
        self._queue = queue
        self._moments: deque[tuple[float, int]] = deque()  # when, and how many messages had come by then

    def look(self, *, now_s: float | None = None) -> Seen:
        """What is there now; `now_s` is on a clock that only moves on. Raises RedisError."""
        now_s = time.monotonic() if now_s is None else now_s
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.get(left_key(self._queue))
            for priority in PRIORITIES:
                pipeline.llen(self._queue + priority)
            pipeline.info("memory")
            left, *lengths, memory = pipeline.execute(raise_on_error=False)  # a login may not be allowed to ask it
        for answer in (left, *lengths):
            if isinstance(answer, redis.RedisError):
                raise answer
        messages = sum(lengths)
        return Seen(messages, self._age_s(now_s, int(left or 0), messages), _share(memory))

    def _age_s(self, now_s: float, left: int, messages: int) -> float:
        moments, come = self._moments, left + messages
        if moments and come < moments[-1][1]:
            moments.clear()  # the queue was emptied or lost: what waits now came later
        while moments and moments[0][1] <= left:
            moments.popleft()  # all that had come by then is gone
        if messages and (not moments or come > moments[-1][1]):
            moments.append((now_s, come))
        if len(moments) > MOST_MOMENTS:
            self._moments = deque(list(moments)[::2])
        return now_s - moments[0][0] if messages and moments else 0.0


def _share(memory: Any) -> float:
    if not isinstance(memory, dict) or not memory.get("maxmemory"):
        return 0.0
    return float(memory["used_memory"]) / float(memory["maxmemory"])
