"""The Redis list of messages that no worker could read, each with its raw bytes, until someone stores them."""

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from redis import Redis

UNREADABLE_LIST = "ledgermill:unreadable"

# A full Redis refuses RPUSH, unless the script has written already. The message leaves its queue for it, and while it
# could not, no other would: so the list is first trimmed to all that it has.
_APPEND = """
redis.call('LTRIM', KEYS[1], 0, -1)
redis.call('RPUSH', KEYS[1], ARGV[1])
"""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message as it lay in its queue, and why it was taken out."""

    id: UUID
    queue: str
    reason: str
    received_at: datetime
    raw: bytes
    _item: Any = field(repr=False)


def set_aside(client: Redis, *, raw: bytes, queue: str, reason: str) -> None:
    """Append a message to the list. `reason` must not repeat the message: logs and operators see it.

    A message may be there twice when a worker died at the wrong moment; both then have one id.
    Raises: redis.RedisError, when Redis does not take it.
    """
    item = {
        "id": str(unreadable_id(raw)),
        "queue": queue,
        "reason": reason,
        "received_at": datetime.now(UTC).isoformat(),
        "body": b64encode(raw).decode("ascii"),
    }
    client.eval(_APPEND, 1, UNREADABLE_LIST, json.dumps(item))


def unreadable_id(raw: bytes) -> UUID:
    """The same bytes have the same id, wherever and however often they turn up."""
    return UUID(bytes=hashlib.sha256(raw).digest()[:16], version=5)


def take_unreadable(client: Redis, *, limit: int) -> list[Unreadable]:
    """Up to `limit` messages, oldest first. They stay on the list until `drop_unreadable`."""
    return [_read(item) for item in client.lrange(UNREADABLE_LIST, 0, limit - 1)]


def drop_unreadable(client: Redis, taken: Sequence[Unreadable]) -> None:
    """Remove what was taken, once it is safe elsewhere.

    Each goes by its value, not by its place: two takers at a time remove nothing that neither has seen.
    """
    with client.pipeline(transaction=False) as pipeline:
        for message in taken:
            pipeline.lrem(UNREADABLE_LIST, 1, message._item)  # noqa: SLF001
        pipeline.execute()


def give_back(client: Redis, *, queue: str, raw: bytes) -> None:
    """Append a message, as it lay there, to its queue again. Raises: redis.RedisError."""
    client.lpush(queue, raw)


def _read(item: Any) -> Unreadable:
    fields = json.loads(item)
    return Unreadable(
        id=UUID(fields["id"]),
        queue=fields["queue"],
        reason=fields["reason"],
        received_at=datetime.fromisoformat(fields["received_at"]),
        raw=b64decode(fields["body"], validate=True),
        _item=item,
    )
