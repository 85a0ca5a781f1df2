"""Celery's Redis transport, guarded: an item that is not a message of ours is set aside, and the worker goes on.

Without the guard one `LPUSH posting x` ends the worker, and a message without an id makes it reconnect for ever.
"""

# mypy: allow-untyped-calls
# kombu is typed in parts only.

from queue import Empty
from typing import Any
from uuid import uuid4

from kombu.transport import redis as kombu_redis
from redis import ConnectionPool, Redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.retry import Retry

from workers.envelope import Envelope, read_envelope
from workers.memory import return_large_buffers
from workers.unreadable import BROKER_ERRORS, UnreadableError, give_back, log, put_aside, report_lost


def as_kombu_reads(envelope: Envelope, *, queue: str) -> dict[str, Any]:
    """The message as Celery shall see it, made anew.

    Its delivery tag is ours, since two messages with one tag would acknowledge each other, and so is its route, since
    an unknown exchange would swallow the message when it is put back.
    """
    return {
        "body": envelope.body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": envelope.headers,
        "properties": {
            "correlation_id": envelope.correlation_id,
            "delivery_info": {"exchange": "", "routing_key": queue, "redelivered": envelope.is_redelivered},
            "delivery_tag": str(uuid4()),
            "priority": envelope.priority,
        },
    }


class Channel(kombu_redis.Channel):
    """Reads the queues; what cannot be read or handed over goes to the list of unreadable messages."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        return_large_buffers()
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
            message = as_kombu_reads(read_envelope(raw), queue=queue)
            tag = message["properties"]["delivery_tag"]
            self.connection._deliver(message, queue)  # noqa: SLF001
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
        is_kept = put_aside(self.aside, raw=raw, queue=queue, reason=reason)
        is_unacknowledged = self._is_unacknowledged(tag)
        if is_kept and is_unacknowledged:
            self.basic_reject(tag, requeue=False)
        elif not is_kept and not is_unacknowledged:
            report_lost(raw=raw, queue=queue, reason=reason)

    def _is_unacknowledged(self, tag: str | None) -> bool:
        return tag in self.qos._delivered and tag not in self.qos._dirty  # noqa: SLF001

    def _receive_one(self, c: Any) -> Any:
        # Remote control: a broadcast is nobody's job, so a broken one is only logged. Unguarded,
        # `PUBLISH /0.celery.pidbox 1` ends the worker.
        if c.connection is not None:
            # Left to itself redis-py connects again in here, and then waits for a broadcast: the whole worker with it.
            c.connection.retry = Retry(NoBackoff(), 0)
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
    # A server that became a replica, or is full, says so in a ResponseError. Celery would end the worker for it; as an
    # error of the connection it makes it connect again until the server is itself.
    connection_errors = (*kombu_redis.Transport.connection_errors, ResponseError)
