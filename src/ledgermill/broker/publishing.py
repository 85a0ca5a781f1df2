"""Publishing to the broker: rings for workers, news for who waits, and counters for the metrics."""

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any, Final
from uuid import UUID, uuid4

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from ledgermill.config import Settings
from ledgermill.errors import BrokerUnavailable
from ledgermill.messages import routes
from ledgermill.observability import logger

SETTLED_CHANNEL: Final = "ledgermill:settled"
METRICS_KEY: Final = "ledgermill:metrics"
RING_KEY: Final = "ledgermill:ring:{lane}"
RING_LASTS_MS: Final = 5_000  # a ring that was lost blocks the next one no longer than this

# KEYS: the ring that is under way, the queue. ARGV: how long it counts, the message.
_RING: Final = """
if redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) then redis.call('LPUSH', KEYS[2], ARGV[2]) end
"""

log = logger(__name__)


def celery_settings(settings: Settings) -> dict[str, Any]:
    """What producers and workers must agree on."""
    return {
        "broker_url": settings.broker_url.get_secret_value(),
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_default_queue": routes.POSTING_QUEUE,
        "task_create_missing_queues": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "visibility_timeout": settings.visibility_timeout_s,
            "unacked_restore_interval": 2,
            "unacked_restore_throttle": 1,
            "socket_timeout": 10,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "retry_on_timeout": True,
        },
    }


def redis_client(url: str) -> redis.Redis:
    """A client that notices a dead server within seconds."""
    return redis.Redis.from_url(
        url, socket_timeout=5, socket_connect_timeout=3, socket_keepalive=True, health_check_interval=10
    )


def publisher(settings: Settings) -> Celery:
    """A Celery app without tasks, which sends them by name."""
    app = Celery("ledgermill-publisher", set_as_current=False)
    app.conf.update(celery_settings(settings))
    return app


def send(app: Celery, route: routes.Route, *, arguments: Mapping[str, Any], shown: str, **options: Any) -> None:
    """Publish one message; `shown` is what Flower shows of it. Raises BrokerUnavailable."""
    try:
        app.send_task(route.task, kwargs=dict(arguments), argsrepr="()", kwargsrepr=shown, **options)
    except OperationalError as error:
        raise BrokerUnavailable from error


def _ring_message(lane: int, queue: str) -> bytes:
    """A ring as Celery would send it, which takes Celery a millisecond: somebody waits for this one."""
    task_id = str(uuid4())
    body = json.dumps([[], {"lane": lane}, None]).encode()
    message = {
        "body": b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"id": task_id, "task": routes.LOOK.task, "argsrepr": "()", "kwargsrepr": f"lane {lane}"},
        "properties": {
            "body_encoding": "base64",
            "correlation_id": task_id,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "delivery_mode": 2,
            "delivery_tag": task_id,
            "priority": 0,
        },
    }
    return json.dumps(message).encode()


class Broker:
    """The broker as the rest of ledgermill sees it. A broker that is away costs time, never a job: beat rings again."""

    def __init__(self, settings: Settings) -> None:
        self.lanes = settings.posting_lanes
        self.redis = redis_client(settings.broker_url.get_secret_value())
        self.celery = publisher(settings)
        self._ringing = self.redis.register_script(_RING)

    def ring(self, lane: int) -> bool:
        """Tell a lane's workers to look into the inbox, unless a ring is under way already; False: nobody was told."""
        queue = routes.queue_of_lane(lane, lanes=self.lanes)
        try:
            self._ringing(keys=[RING_KEY.format(lane=lane), queue], args=[RING_LASTS_MS, _ring_message(lane, queue)])
        except redis.RedisError as error:
            log.warning("no ring", lane=lane, reason=type(error).__name__)
            return False
        return True

    def ring_for(self, organization: UUID) -> bool:
        """Tell the workers of this organization's lane to look into the inbox."""
        return self.ring(routes.lane_of(organization) % max(self.lanes, 1))

    def ring_was_heard(self, lane: int) -> None:
        """From here on the next ring counts; called before looking, so that none is missed."""
        try:
            self.redis.delete(RING_KEY.format(lane=lane))
        except redis.RedisError as error:
            log.warning("a ring was heard but could not be cleared", lane=lane, reason=type(error).__name__)

    def tell_settled(self, batches: Iterable[UUID], counters: Mapping[str, float]) -> None:
        """After a commit: wake who waits for these batches, and count."""
        try:
            with self.redis.pipeline(transaction=False) as pipeline:
                if names := " ".join(str(batch) for batch in batches):
                    pipeline.publish(SETTLED_CHANNEL, names)
                for name, amount in counters.items():
                    if amount:
                        pipeline.hincrbyfloat(METRICS_KEY, name, amount)
                pipeline.execute()
        except redis.RedisError as error:
            log.warning(
                "nobody was told of settled batches; who waits will look by itself", reason=type(error).__name__
            )

    def counters_and_lengths(self, queues: Iterable[str]) -> tuple[dict[str, float], dict[str, int]]:
        """All counters, and how many messages wait in each queue; nothing of both where the broker is away."""
        try:
            found: dict[bytes, bytes] = self.redis.hgetall(METRICS_KEY)  # type: ignore[assignment]  # sync client
            lengths = {queue: self.queue_length(queue) for queue in queues}
        except redis.RedisError:
            return {}, {}
        return {name.decode(): float(amount) for name, amount in found.items()}, lengths

    def queue_length(self, queue: str) -> int:
        """How many messages wait in a queue."""
        return int(self.redis.llen(queue))

    def is_there(self) -> bool:
        """Whether the broker answers."""
        try:
            return bool(self.redis.ping())
        except redis.RedisError:
            return False

    def close(self) -> None:
        self.celery.close()
        self.redis.close()
