"""The consumer step that empties the posting queues: it waits for messages, and has the pool drain the queue in bulk.

Celery spends three round trips and some 0.8 ms of its main process on each message, and one that it has popped is in
memory only until it is noted as unacknowledged. Here the main process only learns that something waits; a pool process
moves it, see `ledgermill.broker.intake`.
"""

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NoReturn
from uuid import uuid4

from celery import bootsteps
from redis import Redis

from ledgermill.broker import intake, publishing
from ledgermill.config import settings
from ledgermill.messages import routes
from workers.unreadable import BROKER_ERRORS, log

LOOK_EVERY_S = 1.0  # for what no push announces: lists of takers that died, and messages with a priority
# Celery looks for a dead process when its end of a pipe closes, often a moment too soon, and then every 5 seconds.
BURY_EVERY_S = 0.1
STAY_S = 0.05  # so long a process waits at an empty queue: it takes a message a millisecond sooner than one sent for
ANOTHER_AFTER_S = 0.05  # a message has waited: sooner, two processes would only wait for each other's posting lock
PAUSE_S = 0.5  # so long no process takes the place of one that failed: what fails always shall not all the time
STUCK_AFTER = 3  # times the limit of a task, which should have ended any that is stuck
EXIT_STUCK = 70
WAIT_S = 5
SILENCE_S = 3 * WAIT_S


class Intake(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Takes the posting queues from Celery's own consumer. In the app: `app.steps["consumer"].add(Intake)`."""

    requires = {"celery.worker.consumer.tasks:Tasks"}  # noqa: RUF012 - Celery's protocol

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        posting = routes.posting_queues(lanes=settings().posting_lanes)
        self.queues = [name for name in consumer.app.amqp.queues.consume_from if name in posting]
        consumer.app.amqp.queues.deselect(self.queues)
        self.consumer = consumer
        self.redis = publishing.redis_client(settings().broker_url.get_secret_value())
        self.watches: dict[str, Watch] = {}
        self.draining: Counter[str] = Counter()
        self.first: dict[str, str] = {}  # by queue, the taker that is at it for as long as messages come
        self.gone: list[str] = []  # takers that died: the next drain ends their claims in the database
        self.timers: list[Any] = []
        self.progressed_at = time.monotonic()

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Celery calls this each time that it is connected to the broker."""
        self._close()
        self.progressed_at = time.monotonic()  # nothing could be done while the broker was away
        self.watches = {queue: Watch(self.redis, queue, hub, on_message=self._hear) for queue in self.queues}
        for watch in self.watches.values():
            watch.look()
        if self.watches:
            self.timers = [
                hub.call_repeatedly(LOOK_EVERY_S, self._look),
                hub.call_repeatedly(BURY_EVERY_S, consumer.pool.maintain_pool),
            ]

    def stop(self, consumer: Any) -> None:  # noqa: ARG002 - Celery's protocol
        self._close()

    terminate = shutdown = stop

    def _close(self) -> None:
        for watch in self.watches.values():
            watch.close()
        self.watches = {}
        for timer in self.timers:
            timer.cancel()
        self.timers = []

    def _look(self) -> None:
        is_due = False
        for queue, watch in self.watches.items():
            self._watch(queue)
            if watch.is_waiting():
                is_due = True
                if not self.draining[queue]:
                    self._drain(queue)
        if not is_due:
            self.progressed_at = time.monotonic()
        elif time.monotonic() - self.progressed_at > STUCK_AFTER * settings().task_time_limit_s:
            end_worker(self.consumer.pool)

    def _hear(self, queue: str) -> None:
        """A queue holds something: a process comes, unless one is there that comes back only when it is empty."""
        if queue not in self.first:
            self._drain(queue)

    def _help(self, queue: str, taker: str, last_oldest: int | None) -> None:
        """Send another process where the first is long in coming back for the queue's oldest message."""
        if self.first.get(queue) != taker:
            return
        oldest = None
        if self.draining[queue] < self.consumer.pool.num_processes and queue in self.watches:
            oldest = self.watches[queue].oldest()
            if oldest is not None and oldest == last_oldest:
                self._drain(queue)
        self.consumer.hub.call_later(ANOTHER_AFTER_S, self._help, queue, taker, oldest)

    def _drain(self, queue: str) -> None:
        """Have one pool process more drain the queue, once one is free."""
        if self.draining[queue] >= self.consumer.pool.num_processes:
            return  # the first that ends looks again
        self.draining[queue] += 1
        taker = str(uuid4())
        if self.first.setdefault(queue, taker) == taker:
            self.consumer.hub.call_later(ANOTHER_AFTER_S, self._help, queue, taker, None)
        slots = self.consumer.controller.semaphore
        if slots is None:  # a pool without processes
            self._apply(queue, taker)
        else:
            slots.acquire(self._apply, queue, taker)

    def _apply(self, queue: str, taker: str) -> None:
        def ended(shown: Sequence[Any]) -> None:
            self._end(queue, taker)
            self.progressed_at = time.monotonic()
            self._show(shown)
            self._watch(queue)

        def died(error: Any) -> None:
            if self.first.get(queue) == taker:
                del self.first[queue]
            log.error("a pool process died or failed at the intake: queue=%s reason=%s", queue, error.type.__name__)
            try:
                intake.Intake(self.redis, queue, taker=taker, lease_s=0).leave()
            except BROKER_ERRORS:
                log.warning("what it had taken comes again when its lease ends: queue=%s", queue)
            self.gone += [taker, *gone]  # it may not have come to those
            self.consumer.hub.call_later(PAUSE_S, self._go_on, queue)
            self._drain(queue)  # its place stays taken for a moment, so this is where another one has nothing to do

        from workers.posting import drain  # noqa: PLC0415 - that module needs the app, which has this step

        gone, self.gone = self.gone, []
        # It waits for more only where other work finds a free process meanwhile.
        is_one_free = self.draining.total() < self.consumer.pool.num_processes
        stay_s = STAY_S if is_one_free and self.first.get(queue) == taker else 0
        self.consumer.pool.apply_async(
            drain,
            (queue, taker, stay_s, gone),
            callback=ended,
            error_callback=died,
            timeout=settings().task_time_limit_s,
        )

    def _go_on(self, queue: str) -> None:
        self.draining[queue] -= 1
        self._drain(queue)

    def _end(self, queue: str, taker: str) -> None:
        self.draining[queue] -= 1
        if self.first.get(queue) == taker:
            del self.first[queue]

    def _watch(self, queue: str) -> None:
        if queue in self.watches and queue not in self.first:  # not where the broker is away
            self.watches[queue].look()

    def _show(self, shown: Sequence[Any]) -> None:
        """What Flower lives on."""
        events = self.consumer.event_dispatcher
        if events is None or not events.enabled:
            return
        ended_at = time.time()
        for message_id, task, contents, runtime_s in shown:
            started_at = ended_at - runtime_s
            events.send(
                "task-received", uuid=message_id, name=task, args="()", kwargs=contents, retries=0, timestamp=started_at
            )
            events.send("task-started", uuid=message_id, timestamp=started_at)
            events.send("task-succeeded", uuid=message_id, result="None", runtime=runtime_s, timestamp=ended_at)


def end_worker(pool: Any) -> NoReturn:
    """The watchdog's last step: whoever started this worker starts it again. What it had taken comes again."""
    log.critical("messages wait, but no pool process has ended a turn for long: the worker ends")
    for pid in (pool.info or {}).get("processes", ()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os._exit(EXIT_STUCK)


class Watch:
    """Tells when a queue holds something, and leaves it there: it waits to move the last message to where it is."""

    def __init__(self, client: Redis, queue: str, hub: Any, *, on_message: Callable[[str], None]) -> None:
        self.queue = queue
        self._redis = client
        self._hub = hub
        self._on_message = on_message
        self._connection: Any = None
        self._asked_at: float | None = None
        self._is_closed = False

    def look(self) -> None:
        """Wait for a message from now on, where that is not being done already."""
        if self._is_closed:
            return
        if self._asked_at is not None:
            if time.monotonic() - self._asked_at < SILENCE_S:
                return
            self._disconnect()  # a connection whose other end is gone says nothing
        try:
            if self._connection is None:
                self._connection = self._redis.connection_pool.make_connection()
                self._connection.connect()
                self._hub.add_reader(self._connection._sock.fileno(), self._hear)  # noqa: SLF001
            self._connection.send_command("BLMOVE", self.queue, self.queue, "RIGHT", "RIGHT", WAIT_S)
            self._asked_at = time.monotonic()
        except BROKER_ERRORS as error:
            self._fail(error)

    def is_waiting(self) -> bool:
        """Whether there is something that no push announces."""
        try:
            return intake.Intake(self._redis, self.queue, taker="", lease_s=0).is_waiting()
        except BROKER_ERRORS as error:
            log.warning("the intake cannot be seen: queue=%s reason=%s", self.queue, type(error).__name__)
            return False

    def oldest(self) -> int | None:
        """A hash of the oldest message; None where none waits."""
        try:
            message = self._redis.lindex(self.queue, -1)
        except BROKER_ERRORS as error:
            log.warning("the queue cannot be seen: queue=%s reason=%s", self.queue, type(error).__name__)
            return None
        return None if message is None else hash(message)

    def close(self) -> None:
        self._is_closed = True
        self._disconnect()

    def _hear(self) -> None:
        if self._connection is None:
            return
        try:
            answer = self._connection.read_response()
        except BROKER_ERRORS as error:
            self._fail(error)
            return
        self._asked_at = None
        if answer is None:
            self.look()
        else:
            self._on_message(self.queue)

    def _fail(self, error: BaseException) -> None:
        log.warning("the queue cannot be watched: queue=%s reason=%s", self.queue, type(error).__name__)
        self._disconnect()

    def _disconnect(self) -> None:
        self._asked_at = None
        if self._connection is not None:
            if self._connection._sock is not None:  # noqa: SLF001
                self._hub.remove_reader(self._connection._sock.fileno())  # noqa: SLF001
            self._connection.disconnect()
            self._connection = None
