"""What a Celery message on Redis looks like, read strictly: an item that is not a message of ours is told apart."""

from base64 import b64decode
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from workers.unreadable import UnreadableError

# All other headers are left out. Some would steer the worker instead of describing the task: `timelimit` kills pool
# processes, `expires` drops messages while they wait for one, and a value of the wrong type in them ends the worker.
TEXT_HEADERS = ("argsrepr", "kwargsrepr", "lang", "origin", "parent_id", "root_id", "traceparent", "tracestate")

LONGEST_ID = 200


class Envelope(NamedTuple):
    """The fields of a message that we know, each of the right type. `body` is JSON text."""

    headers: dict[str, Any]
    body: str
    correlation_id: str | None
    is_redelivered: bool
    priority: int


def read_envelope(raw: bytes) -> Envelope:
    """A message as it lay in its queue. Raises: UnreadableError."""
    try:
        envelope = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise UnreadableError("envelope is not JSON") from None
    if not isinstance(envelope, dict):
        raise UnreadableError("envelope is not a JSON object")
    properties = _an_object(envelope, "properties")
    _a_text(properties, "delivery_tag")
    delivery = _an_object(properties, "delivery_info")
    headers = _read_headers(_an_object(envelope, "headers"))
    if envelope.get("content-type") != "application/json":
        raise UnreadableError("content type is not application/json")
    correlation_id = properties.get("correlation_id")
    return Envelope(
        headers,
        _text_body(envelope, properties),
        correlation_id if isinstance(correlation_id, str) else None,
        delivery.get("redelivered") is True,
        _a_count(properties.get("priority"), most=9),
    )


def _read_headers(headers: dict[str, Any]) -> dict[str, Any]:
    if headers.get("compression"):
        # It would be unpacked here, in the main process, and a kilobyte can unpack to a gigabyte.
        raise UnreadableError("compressed")
    if headers.get("eta") is not None:
        raise UnreadableError("eta or countdown: send due_at instead")
    if (expires := headers.get("expires")) is not None and _is_past(expires):
        raise UnreadableError("expired before a worker took it")  # Celery would drop it without a word
    texts = {name: headers[name] for name in TEXT_HEADERS if isinstance(headers.get(name), str)}
    return texts | {
        "task": _a_text(headers, "task"),
        "id": _a_name(headers, "id"),
        "retries": _a_count(headers.get("retries"), most=1_000_000),
        "redelivered": headers.get("redelivered") is True,
    }


def _text_body(envelope: dict[str, Any], properties: dict[str, Any]) -> str:
    body = _a_text(envelope, "body")
    match properties.get("body_encoding"):
        case "base64":
            try:
                return b64decode(body, validate=True).decode("utf-8")
            except ValueError:
                raise UnreadableError("body is not UTF-8 in base64") from None
        case None:
            return body
        case _:
            raise UnreadableError("body encoding is not base64")


def _an_object(parent: dict[str, Any], name: str) -> dict[str, Any]:
    value = parent.get(name)
    if not isinstance(value, dict):
        raise UnreadableError(f"{name} missing or not an object")
    return value


def _a_text(parent: dict[str, Any], name: str) -> str:
    value = parent.get(name)
    if not isinstance(value, str) or not value:
        raise UnreadableError(f"{name} missing or not a text")
    return value


def _a_name(parent: dict[str, Any], name: str) -> str:
    """A text that keys of jobs can be made of."""
    value = _a_text(parent, name)
    if len(value) > LONGEST_ID or not value.isprintable():
        raise UnreadableError(f"{name} longer than {LONGEST_ID} characters or not printable")
    return value


def _a_count(value: object, *, most: int) -> int:
    return min(max(value, 0), most) if isinstance(value, int) else 0


def _is_past(moment: object) -> bool:
    try:
        at = datetime.fromisoformat(str(moment))
    except ValueError:
        raise UnreadableError("expires is not a time") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)) <= datetime.now(UTC)
