"""A message of a posting queue read down to what it asks for, with nothing looked at twice."""

import json
from datetime import datetime
from typing import Any, NamedTuple

from pydantic_core import from_json

from ledgermill.domain.journals import POST_JOURNAL, UPDATE_BALANCE
from ledgermill.messages import routes
from ledgermill.usecases.delivery import Message
from workers.consumer import count_items
from workers.envelope import read_envelope
from workers.unreadable import UnreadableError

KIND_OF_TASK = {routes.POST_JOURNALS.task: POST_JOURNAL, routes.UPDATE_BALANCES.task: UPDATE_BALANCE}
LONGEST_TRACE = 200


class Order(NamedTuple):
    """Jobs that one message asks for. `raw` is the message as it lay in the queue, `items` about how many jobs."""

    raw: bytes
    message: Message
    items: int


class Ring(NamedTuple):
    """A message that asks to look into the inbox of a lane."""

    lane: int


def read_order(raw: bytes, *, queue: str, taken_at: datetime, is_redelivered: bool) -> Order | Ring:
    """What a message asks for; fields that a newer sender adds are ignored. Raises: UnreadableError."""
    envelope = read_envelope(raw)
    task = envelope.headers["task"]
    arguments = _arguments(envelope.body)
    if task == routes.LOOK.task:
        lane = arguments.get("lane", 0)
        if not isinstance(lane, int):
            raise UnreadableError("arguments do not fit the task")
        return Ring(lane)
    kind = KIND_OF_TASK.get(task)
    if kind is None:
        raise UnreadableError("unknown task")
    field = routes.FIELD_OF_KIND[kind]
    items = arguments.get(field)
    message = Message(
        message_id=envelope.headers["id"],
        kind=kind,
        organization=arguments.get("organization"),
        items=items,
        queue=queue,
        correlation=as_correlation(envelope.headers.get("traceparent")),
        is_redelivered=is_redelivered or envelope.is_redelivered,
        taken_at=taken_at,
    )
    return Order(raw, message, count_items(field, items))


def as_correlation(trace: object) -> str | None:
    """A trace as jobs keep it; None where it is none."""
    return trace if isinstance(trace, str) and trace.isprintable() and len(trace) <= LONGEST_TRACE else None


def _arguments(body: str) -> dict[str, Any]:
    try:
        found = from_json(body)
    except ValueError:
        try:
            found = json.loads(body)  # reads lone surrogates too, which only make the job at fault unusable
        except (ValueError, RecursionError):
            raise UnreadableError("body is not JSON, or nests too deep") from None
    match found:
        case [[], dict(arguments), dict() | None]:
            return arguments
        case [list(), dict(), dict() | None]:
            raise UnreadableError("arguments do not fit the task")
        case _:
            raise UnreadableError("body is not [args, kwargs, embed]")
