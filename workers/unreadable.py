"""What a worker does with a message that it cannot read: keep its bytes, say so once, go on."""

import logging

from redis import Redis, RedisError

from ledgermill.broker.unreadable import set_aside, unreadable_id

log = logging.getLogger("ledgermill.worker")

# Redis itself failed, which is no fault of the message: Celery reconnects on these.
BROKER_ERRORS = (RedisError, OSError)


class UnreadableError(Exception):
    """This message is not a task of ours. `reason` repeats nothing of what it holds."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def put_aside(client: Redis, *, raw: bytes, queue: str, reason: str) -> bool:
    """Keep the message on the list of unreadable ones and log one line. Never raises; False when Redis refuses it.

    Then it is where it was: one that waits to be acknowledged comes back later.
    """
    facts = (unreadable_id(raw), queue, len(raw), reason)
    try:
        set_aside(client, raw=raw, queue=queue, reason=reason)
    except (*BROKER_ERRORS, MemoryError) as error:
        log.critical(
            "unreadable message not set aside: id=%s queue=%s bytes=%d reason=%s error=%s", *facts, type(error).__name__
        )
        return False
    log.error("unreadable message set aside: id=%s queue=%s bytes=%d reason=%s", *facts)
    return True


def report_lost(*, raw: bytes, queue: str, reason: str) -> None:
    """Say that a message is nowhere any more: it was popped, and Redis took it back neither way."""
    log.critical("message LOST: id=%s queue=%s bytes=%d reason=%s", unreadable_id(raw), queue, len(raw), reason)


def give_back(client: Redis, *, key: str, raw: bytes) -> None:
    """Return a message to the queue that it was popped from, because Redis failed before it was safe. Never raises."""
    try:
        client.rpush(key, raw)
    except BROKER_ERRORS as error:
        report_lost(raw=raw, queue=key, reason=type(error).__name__)
