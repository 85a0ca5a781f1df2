"""The intake of a posting queue: many messages are taken at once, and none is ever only in a worker's memory.

A take moves messages from the queue into a list of the taker's own, in one step inside Redis; the list is dropped once
they are settled. What a taker does not drop within its lease goes to whoever takes next, marked as redelivered.
"""

from typing import Final, NamedTuple

import redis

MOST_MESSAGES: Final = 2_000
MOST_BYTES: Final = 4_000_000
PRIORITIES: Final = ("", "\x06\x163", "\x06\x166", "\x06\x169")  # how Celery names the lists of a queue on Redis

# KEYS: the leases, the taker's list, what ever left, the queue's lists. ARGV: the prefix of lists, the taker, lease,
# messages, bytes. ZREM first: where Redis is full it refuses whatever may need memory, unless a script has written
# already, and only taking what waits makes room.
_TAKE: Final = """
redis.call('ZREM', KEYS[1], ARGV[2])
redis.call('DEL', KEYS[2])
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)
local late = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)[1]
if late then
    redis.call('ZREM', KEYS[1], late)
    if redis.call('EXISTS', ARGV[1] .. late) == 1 then
        redis.call('RENAME', ARGV[1] .. late, KEYS[2])
        redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[2])
        return {1, redis.call('LRANGE', KEYS[2], 0, -1)}
    end
end
local taken, bytes = {}, 0
for place = 4, #KEYS do
    while #taken < tonumber(ARGV[4]) and bytes < tonumber(ARGV[5]) do
        local message = redis.call('LMOVE', KEYS[place], KEYS[2], 'RIGHT', 'RIGHT')
        if not message then break end
        taken[#taken + 1] = message
        bytes = bytes + #message
    end
end
if #taken > 0 then
    redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[2])
    redis.call('INCRBY', KEYS[3], #taken)
end
return {0, taken}
"""
# KEYS: the leases, the taker's list, what ever left, the queue. ARGV: the taker. The oldest message goes last, so it
# leaves first. ZREM first, as above.
_GIVE_BACK: Final = """
redis.call('ZREM', KEYS[1], ARGV[1])
while redis.call('LMOVE', KEYS[2], KEYS[4], 'RIGHT', 'RIGHT') do redis.call('DECR', KEYS[3]) end
"""


class Taken(NamedTuple):
    """Messages as they lay in the queue, oldest first. Redelivered: an earlier taker may have died of them."""

    messages: list[bytes]
    is_redelivered: bool


class Intake:
    """One posting queue, as one taker sees it; `taker` names it among all that ever were. Methods raise RedisError.

    A taker has one list at a time: what it took it drops, gives back or leaves before it takes again.
    """

    def __init__(self, client: redis.Redis, queue: str, *, taker: str, lease_s: float) -> None:
        self._redis = client
        self._queue = queue
        self._taker = taker
        self._lease_ms = int(lease_s * 1000)
        self._leases = leases_key(queue)
        self._prefix = f"ledgermill:taken:{queue}:"
        self._taking = client.register_script(_TAKE)
        self._giving_back = client.register_script(_GIVE_BACK)

    def take(self, *, most_messages: int = MOST_MESSAGES, most_bytes: int = MOST_BYTES) -> Taken | None:
        """The list of a taker that is gone, else up to so many messages; None where nothing waits.

        What this one took before is settled: it is dropped in the same step.
        """
        lists = [self._queue + priority for priority in PRIORITIES]
        keys = [self._leases, self._prefix + self._taker, left_key(self._queue), *lists]
        arguments: list[str | int] = [self._prefix, self._taker, self._lease_ms, most_messages, most_bytes]
        is_redelivered, messages = self._taking(keys=keys, args=arguments)
        return Taken(messages, bool(is_redelivered)) if messages else None

    def wait(self, timeout_s: float) -> bool:
        """Whether a take finds something within this time, or up to a tenth of a second later."""
        queue = self._queue
        return self._redis.blmove(queue, queue, timeout_s, "RIGHT", "RIGHT") is not None  # type: ignore[arg-type]  # float

    def drop(self) -> None:
        """What was taken is settled."""
        with self._redis.pipeline(transaction=False) as pipeline:  # a full Redis refuses MULTI
            pipeline.delete(self._prefix + self._taker)
            pipeline.zrem(self._leases, self._taker)
            pipeline.execute()

    def give_back(self) -> None:
        """Return what was taken to the queue, as if it had never been touched."""
        keys = [self._leases, self._prefix + self._taker, left_key(self._queue), self._queue]
        self._giving_back(keys=keys, args=[self._taker])

    def leave(self) -> None:
        """The taker is gone: end its lease, so that the next take gets its list."""
        self._redis.zadd(self._leases, {self._taker: 0}, xx=True)

    def is_waiting(self) -> bool:
        """Whether a take would find something."""
        seconds, microseconds = self._redis.time()
        with self._redis.pipeline(transaction=False) as pipeline:
            for priority in PRIORITIES:
                pipeline.llen(self._queue + priority)
            pipeline.zcount(self._leases, "-inf", seconds * 1000 + microseconds // 1000)
            return any(pipeline.execute())


def leases_key(queue: str) -> str:
    """The sorted set of takers, each until when it has its list, in milliseconds of Redis's clock."""
    return f"ledgermill:taken:{queue}"


def left_key(queue: str) -> str:
    """The count of messages that ever left a queue."""
    return f"ledgermill:left:{queue}"
