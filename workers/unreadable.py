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
    """Keep the message on the list of unreadable ones and log one line. Never raises; False when Redis refuses it."""
    facts = (unreadable_id(raw), queue, len(raw), reason)
    try:
        set_aside(client, raw=raw, queue=queue, reason=reason)
    except (*BROKER_ERRORS, MemoryError) as error:
        log.critical(
            "unreadable message LOST: id=%s queue=%s bytes=%d reason=%s error=%s", *facts, type(error).__name__
        )
        return False
    log.error("unreadable message set aside: id=%s queue=%s bytes=%d reason=%s", *facts)
    return True


def give_back(client: Redis, *, key: str, raw: bytes) -> None:
    """Return a message to the queue that it was popped from, because Redis failed before it was safe. Never raises."""
    try:
        client.rpush(key, raw)
    except BROKER_ERRORS as error:
        facts = (unreadable_id(raw), key, len(raw), type(error).__name__)
        log.critical("message LOST: id=%s queue=%s bytes=%d error=%s", *facts)
