"""Publishing to the broker: rings for workers, news for who waits, and counters for the metrics."""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final
from uuid import UUID, uuid4

import redis
from celery import Celery
from kombu.exceptions import OperationalError
from pydantic import SecretStr

from ledgermill.broker import envelopes
from ledgermill.broker.backlog import Backlog, Seen
from ledgermill.config import Settings
from ledgermill.errors import BrokerFull, BrokerUnavailable
from ledgermill.messages import routes
from ledgermill.observability import logger

SETTLED_CHANNEL: Final = "ledgermill:settled"
METRICS_KEY: Final = "ledgermill:metrics"
RING_KEY: Final = "ledgermill:ring:{lane}"
COUNTS_TOLD_EVERY_S: Final = 0.5
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


def is_redis(broker_url: str) -> bool:
    """Whether this broker is one that we can talk to without Celery."""
    return broker_url.startswith(("redis://", "rediss://"))


def publisher(settings: Settings) -> Celery:
    """A Celery app without tasks, which sends them by name."""
    app = Celery("ledgermill-publisher", set_as_current=False)
    app.conf.update(celery_settings(settings))
    return app


class Sender:
    """Publishes tasks by name: on Redis by itself, which takes a tenth of Celery's time, on other brokers by Celery."""

    def __init__(self, broker_url: str) -> None:
        self._redis = redis_client(broker_url) if is_redis(broker_url) else None
        self._backlogs: dict[str, Backlog] = {}
        self._celery = None if self._redis else publisher(Settings(broker_url=SecretStr(broker_url)))

    def send(self, route: routes.Route, *, arguments: Mapping[str, Any], shown: str, task_id: str, queue: str) -> None:
        """Publish one message; `shown` is what Flower shows of it. Raises BrokerUnavailable, BrokerFull."""
        try:
            if self._redis is not None:
                message = envelopes.message(route.task, arguments, shown=shown, task_id=task_id, queue=queue)
                self._redis.lpush(queue, message)
            elif self._celery is not None:
                named = dict(arguments)
                self._celery.send_task(
                    route.task, kwargs=named, argsrepr="()", kwargsrepr=shown, task_id=task_id, queue=queue
                )
        except redis.exceptions.OutOfMemoryError:
            raise BrokerFull(queue=queue, problem="Redis has no memory left") from None
        except (OperationalError, redis.RedisError) as error:
            raise BrokerUnavailable from error

    def look(self, queue: str) -> Seen | None:
        """How much waits in a queue; None where that cannot be told."""
        if self._redis is None:
            return None
        backlog = self._backlogs.setdefault(queue, Backlog(self._redis, queue))
        try:
            return backlog.look()
        except redis.RedisError:
            return None  # whoever publishes now learns why

    def close(self) -> None:
        for opened in (self._redis, self._celery):
            if opened is not None:
                opened.close()


class Broker:
    """The broker as the rest of ledgermill sees it. A broker that is away costs time, never a job: beat rings again."""

    def __init__(self, settings: Settings) -> None:
        self.lanes = settings.posting_lanes
        self.redis = redis_client(settings.broker_url.get_secret_value())
        self.celery = publisher(settings)
        self._ringing = self.redis.register_script(_RING)
        self._counted: defaultdict[str, float] = defaultdict(float)
        self._told_at = time.monotonic()

    def ring(self, lane: int) -> bool:
        """Tell a lane's workers to look into the inbox, unless a ring is under way already; False: nobody was told."""
        queue = routes.queue_of_lane(lane, lanes=self.lanes)
        message = envelopes.message(
            routes.LOOK.task, {"lane": lane}, shown=f"lane {lane}", task_id=str(uuid4()), queue=queue
        )
        try:
            self._ringing(keys=[RING_KEY.format(lane=lane), queue], args=[RING_LASTS_MS, message])
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

    def tell_settled(self, batches: Iterable[UUID]) -> None:
        """After a commit: wake who waits for these batches."""
        if names := " ".join(str(batch) for batch in batches):
            try:
                self.redis.publish(SETTLED_CHANNEL, names)
            except redis.RedisError as error:
                log.warning(
                    "nobody was told of settled batches; who waits will look by itself", reason=type(error).__name__
                )

    def count(self, counters: Mapping[str, float]) -> None:
        """Count what was done. It is told at most once in a while, and lost where the process dies before."""
        for name, amount in counters.items():
            self._counted[name] += amount
        if time.monotonic() - self._told_at > COUNTS_TOLD_EVERY_S:
            self.tell_counts()

    def tell_counts(self) -> None:
        """Add what was counted here to what all processes counted."""
        counted, self._counted = self._counted, defaultdict(float)
        self._told_at = time.monotonic()
        if not counted:
            return
        try:
            with self.redis.pipeline(transaction=False) as pipeline:
                for name, amount in counted.items():
                    if amount:
                        pipeline.hincrbyfloat(METRICS_KEY, name, amount)
                pipeline.execute()
        except redis.RedisError as error:
            log.warning("the metrics lack what was counted", reason=type(error).__name__)

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
        self.tell_counts()
        self.celery.close()
        self.redis.close()
