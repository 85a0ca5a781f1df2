"""Celery's Redis transport, guarded: an item that is not a message of ours is set aside, and the worker goes on.

Without the guard one `LPUSH posting x` ends the worker, and a message without an id makes it reconnect for ever.
"""

# mypy: allow-untyped-calls
# kombu is typed in parts only.

from base64 import b64decode
from datetime import UTC, datetime
from queue import Empty
from typing import Any
from uuid import uuid4

import orjson
from kombu.transport import redis as kombu_redis
from redis import ConnectionPool, Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from workers.unreadable import BROKER_ERRORS, UnreadableError, give_back, log, put_aside

# All other headers are left out. Some would steer the worker instead of describing the task: `timelimit` kills pool
# processes, `expires` drops messages while they wait for one, and a value of the wrong type in them ends the worker.
TEXT_HEADERS = ("argsrepr", "kwargsrepr", "lang", "origin", "parent_id", "root_id", "traceparent", "tracestate")

LONGEST_ID = 200


def read_envelope(raw: bytes, *, queue: str) -> dict[str, Any]:
    """The message as Celery shall see it: made anew from the fields that we know, each of the right type.

    Its delivery tag is ours, since two messages with one tag would acknowledge each other, and so is its route, since
    an unknown exchange would swallow the message when it is put back.
    Raises: UnreadableError.
    """
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
    return {
        "body": _text_body(envelope, properties),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "correlation_id": correlation_id if isinstance(correlation_id, str) else None,
            "delivery_info": {
                "exchange": "",
                "routing_key": queue,
                "redelivered": delivery.get("redelivered") is True,
            },
            "delivery_tag": str(uuid4()),
            "priority": _a_count(properties.get("priority"), most=9),
        },
    }


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


class Channel(kombu_redis.Channel):
    """Reads the queues; what cannot be read or handed over goes to the list of unreadable messages."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Apart from kombu's connections: one of them is blocked in BRPOP, and all may add a prefix to our key. Made
        # here, for when it is needed the channel may have lost its address; it connects when first used.
        retry = Retry(ExponentialBackoff(cap=1, base=0.1), retries=3)
        self.aside = Redis(connection_pool=ConnectionPool(**self._connparams() | {"retry": retry}))

    def _connparams(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        # After Redis restarted, a task may end whose message came by a channel that is gone. Without an address to
        # acknowledge at, kombu 5.7 raises AttributeError, which ends the worker; Celery lives through this one.
        if getattr(self.connection, "client", None) is None:
            raise RedisConnectionError("the channel of this message is closed")
        return super()._connparams(asynchronous)

    def close(self) -> None:
        super().close()
        self.aside.connection_pool.disconnect()

    def _brpop_read(self, **options: Any) -> bool:
        # As in kombu 5.7, but that the popped bytes go to `_take`. A test notices when kombu changes it.
        try:
            try:
                answer = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            if not answer:
                raise Empty
            key = answer[0].decode("utf-8")
            queue = key.rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self._take(answer[1], key=key, queue=queue)
            return True
        finally:
            self._in_poll = False
            self._flush_brpop_reauth()

    def _take(self, raw: bytes, *, key: str, queue: str) -> None:
        tag = None
        try:
            envelope = read_envelope(raw, queue=queue)
            tag = envelope["properties"]["delivery_tag"]
            self.connection._deliver(envelope, queue)  # noqa: SLF001
            return
        except BROKER_ERRORS:
            if not self._is_unacknowledged(tag):
                give_back(self.aside, key=self.global_keyprefix + key, raw=raw)
            raise
        except UnreadableError as error:
            reason = error.reason
        except Exception as error:  # noqa: BLE001 - whatever a message sets off must not end the worker
            reason = f"{type(error).__name__} in the worker"
        # Kept first, acknowledged then: a message that could not be kept comes back from Redis later.
        if put_aside(self.aside, raw=raw, queue=queue, reason=reason) and self._is_unacknowledged(tag):
            self.basic_reject(tag, requeue=False)

    def _is_unacknowledged(self, tag: str | None) -> bool:
        return tag in self.qos._delivered and tag not in self.qos._dirty  # noqa: SLF001

    def _receive_one(self, c: Any) -> Any:
        # Remote control: a broadcast is nobody's job, so a broken one is only logged. Unguarded,
        # `PUBLISH /0.celery.pidbox 1` ends the worker.
        try:
            return super()._receive_one(c)
        except (Empty, *BROKER_ERRORS):
            raise
        except Exception as error:  # noqa: BLE001 - see above
            log.error("unreadable control message ignored: %s", type(error).__name__)
            return None


class Transport(kombu_redis.Transport):
    """Celery's setting: `broker_transport = "workers.transport:Transport"`, beside an ordinary `redis://` URL."""

    Channel = Channel
