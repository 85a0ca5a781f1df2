"""Quarantine: what the broker held and nobody could read is brought into the database, where it stays."""

from ledgermill.broker.unreadable import drop_unreadable, take_unreadable
from ledgermill.observability import logger
from ledgermill.runtime import Runtime
from ledgermill.storage import quarantine
from ledgermill.storage.quarantine import Unreadable

AT_ONCE = 20  # each may be megabytes
UNREADABLE_CODE = "UNREADABLE_MESSAGE"

log = logger(__name__)


def bring_home(runtime: Runtime) -> int:
    """Move unreadable messages from the broker's list into the database; how many. Raises redis.RedisError."""
    moved = 0
    while taken := take_unreadable(runtime.broker.redis, limit=AT_ONCE):
        rows = [
            Unreadable(message.id, message.received_at, message.queue, UNREADABLE_CODE, message.reason, message.raw)
            for message in taken
        ]
        with runtime.engine.begin() as tx:
            quarantine.keep(tx, rows)
        drop_unreadable(runtime.broker.redis, taken)
        moved += len(taken)
    if moved:
        log.error("unreadable messages in quarantine", messages=moved)
    return moved
