"""Quarantine: what the broker held and nobody could read is brought into the database, where it stays.

From there a message can be given back to its queue, as when its organization has been created meanwhile. It is noted
after the broker took it: a broker that is away leaves the message as it was, and one that is given back twice has the
same message id both times, so that its jobs are settled once.
"""

import json
from datetime import datetime
from typing import Any
from uuid import UUID

import redis

from ledgermill.broker.publishing import Sender
from ledgermill.broker.unreadable import drop_unreadable, give_back, take_unreadable
from ledgermill.errors import BrokerUnavailable, QuarantineNotFound
from ledgermill.messages import routes
from ledgermill.observability import logger
from ledgermill.runtime import Runtime
from ledgermill.storage import quarantine
from ledgermill.storage.quarantine import Unreadable

AT_ONCE = 20  # each may be megabytes
UNREADABLE_CODE = "UNREADABLE_MESSAGE"
KIND_OF_FIELD = {field: kind for kind, field in routes.FIELD_OF_KIND.items()}

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


def requeue(runtime: Runtime, quarantine_id: UUID, *, by: str, at: datetime) -> str:
    """Give a message back to its queue, and return the queue; the message stays in quarantine, with a note of that.

    One whose queue no worker consumes any more goes to the default queue. One that still cannot be read comes back.
    Raises: QuarantineNotFound, BrokerUnavailable (nothing was noted: try again).
    """
    with runtime.engine.connect() as tx:
        row = quarantine.find(tx, quarantine_id)
    if row is None:
        raise QuarantineNotFound(message=quarantine_id)
    known = routes.posting_queues(lanes=runtime.settings.posting_lanes)
    queue: str = row["queue"] if row["queue"] in known else routes.POSTING_QUEUE
    order = _order(row["body"])
    if order is None:
        try:
            give_back(runtime.broker.redis, queue=queue, raw=row["body"])
        except redis.RedisError as error:
            raise BrokerUnavailable from error
    else:
        kind, arguments, message_id = order
        shown = f"from quarantine, {str(arguments['organization'])[:100]}"
        sender = Sender(runtime.settings.broker_url.get_secret_value())
        try:
            # Keys of items that have none follow from this id, so it is the same whenever the message is given back.
            task_id = message_id or str(quarantine_id)
            sender.send(routes.TASK_OF_KIND[kind], arguments=arguments, shown=shown, task_id=task_id, queue=queue)
        finally:
            sender.close()
    with runtime.engine.begin() as tx:
        quarantine.note_requeued(tx, quarantine_id, at=at, by=by)
    return queue


def _order(body: bytes) -> tuple[str, dict[str, Any], str | None] | None:
    """Of a message that was read before it was set aside: its kind, its arguments, and its id where that was kept.

    None for anything else, which goes back as the bytes that it is.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or "organization" not in found:
        return None
    organization, kind = found["organization"], found.get("kind")
    if "items" in found and kind in routes.FIELD_OF_KIND:
        return kind, {"organization": organization, routes.FIELD_OF_KIND[kind]: found["items"]}, str(found.get("id"))
    for field, kind_of_field in KIND_OF_FIELD.items():
        if field in found:
            return kind_of_field, {"organization": organization, field: found[field]}, None
    return None
