"""The Producer: for upstream systems in Python that publish journals and balance updates.

    with Producer(broker_url, "acme", api_url=..., api_key=...) as producer:
        handle = producer.post({"idempotency_key": "order-1", "entries": [...]})
        producer.confirm()

A publish is not yet acceptance: the broker may lose a message. `confirm` asks which jobs have arrived in the books or
their inbox, and publishes the others again; a job that arrives twice has one effect.

Where workers do not keep up the Producer slows down: it looks twice a second how much waits in the queue, and publishes
no more while that is over a limit. So `post` waits when its message is full, and `post_many` and `flush` wait.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from itertools import islice
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from uuid import UUID

import httpx2
import orjson

from ledgermill.broker import publishing
from ledgermill.broker.backlog import Seen
from ledgermill.domain.journals import POST_JOURNAL, UPDATE_BALANCE
from ledgermill.errors import BrokerFull, BrokerUnavailable, LookupUnavailable
from ledgermill.messages import posting, routes
from ledgermill.messages.jobs import MOST_KEYS
from ledgermill.runtime import new_batch_id

MOST_IN_A_MESSAGE: Final = 2_000
CHECKED_AT_ONCE: Final = 100  # with more, the garbage collector takes as long as the checks
LOOK_EVERY_S: Final = 0.5
PUBLISH_AGAIN_AFTER_S: Final = 5.0
MOST_MEMORY_SHARE: Final = 0.8  # of what Redis may use: the rest is for what is at work, and for other producers


class Handle(NamedTuple):
    """What a producer holds of a job: the batch that it was published in, and its idempotency key."""

    batch_id: UUID
    idempotency_key: str


class Confirmation(NamedTuple):
    """How many jobs have arrived, how many were published again, and the keys that had not arrived at the end."""

    arrived: int
    published_again: int
    missing: list[str]


class _Message:
    """Jobs of one kind that are published together: the key of each, and each as JSON."""

    def __init__(self, kind: str, keys: list[str], texts: list[bytes]) -> None:
        self.kind = kind
        self.batch_id = new_batch_id()
        self.keys = keys
        self.texts = texts
        self.published_at = time.monotonic()


class Producer:
    """Publishes for one organization. Safe to share between threads; close it, or use it in `with`.

    Args:
        broker_url: where workers listen.
        organization: its code or its id.
        api_url, api_key: where to ask what has arrived (scope read). With them every job is kept until `confirm` has
            seen it arrive, so call that from time to time; without them a publish that fails is the caller's to repeat.
        linger_s: how long a single call waits for others to go with. Shorter is sooner posted, but makes more
            messages of a steady stream; each costs a twentieth of a millisecond here, and more at the worker.
        most_in_a_message: at how many it waits no longer; 1 to 2,000.
        queue: the posting queue, or the organization's lane.
        most_queued: it publishes no more while so many messages wait in the queue, or 80 % of Redis's memory is used.
        most_delay_s: how long it then waits for room. After that whatever published raises BrokerFull, which is a
            BrokerUnavailable. On brokers other than Redis it never waits.
    """

    def __init__(
        self,
        broker_url: str,
        organization: str,
        *,
        api_url: str | None = None,
        api_key: str | None = None,
        linger_s: float = 0.003,
        most_in_a_message: int = 1_000,
        queue: str = routes.POSTING_QUEUE,
        most_queued: int = 10_000,
        most_delay_s: float = 60.0,
    ) -> None:
        if not 1 <= most_in_a_message <= MOST_IN_A_MESSAGE:
            raise ValueError(f"most_in_a_message is 1 to {MOST_IN_A_MESSAGE}, not {most_in_a_message}")
        self.organization = organization
        self.linger_s = linger_s
        self.most_in_a_message = most_in_a_message
        self.queue = queue
        self.most_queued = most_queued
        self.most_delay_s = most_delay_s
        self._sender = publishing.Sender(broker_url)
        self._api = (
            httpx2.Client(base_url=api_url, headers={"X-API-Key": api_key or ""}, timeout=10) if api_url else None
        )
        self._seen: Seen | None = None
        self._looked_at = -LOOK_EVERY_S
        self._lock = threading.Lock()
        self._publishing = threading.Lock()
        self._gathering: dict[str, _Message] = {}  # by kind
        self._ready: deque[_Message] = deque()
        self._unconfirmed: dict[str, _Message] = {}  # by key
        self._waiting = threading.Event()  # set: something lingers
        self._closed = threading.Event()
        self._clock = threading.Thread(target=self._publish_what_lingers, name="ledgermill-producer", daemon=True)
        self._clock.start()

    def post(self, journal: Mapping[str, Any]) -> Handle:
        """Gather one journal; it is published within `linger_s`. Raises what is wrong with it, before it is sent."""
        return self._gather(POST_JOURNAL, journal)

    def update_balance(self, update: Mapping[str, Any]) -> Handle:
        """Gather one balance update; it is published within `linger_s`. Raises what is wrong with it."""
        return self._gather(UPDATE_BALANCE, update)

    def post_many(self, journals: Iterable[Mapping[str, Any]]) -> list[Handle]:
        """Publish journals at once, as many to a message as allowed, in their order and after what was gathered.

        Raises what is wrong with one, before any is sent; or BrokerUnavailable, BrokerFull: then `confirm` sends again
        what is missing of all of them.
        """
        given, most = iter(journals), self.most_in_a_message
        keys: list[str] = []
        texts: list[bytes] = []
        while some := list(islice(given, CHECKED_AT_ONCE)):
            their_keys, items = posting.require_readable(POST_JOURNAL, some)
            keys += their_keys
            texts += map(_as_json, items)
        messages = [
            _Message(POST_JOURNAL, keys[start : start + most], texts[start : start + most])
            for start in range(0, len(keys), most)
        ]
        for message in messages:
            self._note(message)  # all of them before the first is sent
        self._gathered_is_ready(then=messages)
        self._publish_ready()
        return [Handle(message.batch_id, key) for message in messages for key in message.keys]

    def flush(self) -> None:
        """Publish what was gathered. Raises BrokerUnavailable, BrokerFull; `confirm` sends again what was not sent."""
        self._gathered_is_ready()
        self._publish_ready()

    def confirm(self, *, timeout_s: float = 60.0) -> Confirmation:
        """Ask until every job that was published has arrived, and publish again what has not within some seconds.

        What may still wait in the queue is not published again, and nothing while the queue has no room. Where Redis
        turns out to be full, it waits for room up to `most_delay_s` longer.
        Raises: LookupUnavailable, where the API does not answer within the time.
        """
        deadline = time.monotonic() + timeout_s
        again = 0
        if self._problem() is None:
            self._try_to_flush()
        known = len(self._unconfirmed)
        while True:
            try:
                self._forget_arrived()
                problem: Exception | None = None
            except httpx2.HTTPError as error:
                problem = error
            if not self._unconfirmed or time.monotonic() >= deadline:
                if problem is not None:
                    raise LookupUnavailable(reason=repr(problem)) from problem
                missing = list(self._unconfirmed)
                return Confirmation(max(0, known - len(missing)), again, missing)
            if problem is None:
                again += self._publish_again()
            time.sleep(LOOK_EVERY_S)

    def close(self) -> None:
        """Publish what was gathered, and end. Raises BrokerUnavailable."""
        self._closed.set()
        self._waiting.set()
        self._clock.join()
        try:
            self.flush()
        finally:
            self._sender.close()
            if self._api is not None:
                self._api.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _gather(self, kind: str, item: Mapping[str, Any]) -> Handle:
        (key,), (read,) = posting.require_readable(kind, [item])
        text = _as_json(read)
        with self._lock:
            message = self._gathering.get(kind)
            if message is None:
                message = self._gathering[kind] = _Message(kind, [], [])
                self._waiting.set()
            message.keys.append(key)
            message.texts.append(text)
            is_full = len(message.keys) >= self.most_in_a_message
            if is_full:
                self._ready.append(self._gathering.pop(kind))
        if is_full:
            self._publish_ready()
        return Handle(message.batch_id, key)

    def _gathered_is_ready(self, then: Iterable[_Message] = ()) -> None:
        with self._lock:
            self._ready.extend(self._gathering.values())
            self._gathering.clear()
            self._ready.extend(then)

    def _publish_ready(self) -> None:
        with self._publishing:  # one thread at a time, or a message might overtake another
            while self._ready:
                self._publish(self._ready.popleft())

    def _note(self, message: _Message) -> None:
        """What is published, or could not be, is unconfirmed until the API knows it."""
        if self._api is None:
            return  # nobody can ask
        message.published_at = time.monotonic()
        for key in message.keys:
            self._unconfirmed.setdefault(key, message)  # of two contents for one key, the first is the one that counts

    def _publish(self, message: _Message) -> None:
        """Send a message once there is room for it. Raises BrokerUnavailable, BrokerFull."""
        self._note(message)
        give_up_at = time.monotonic() + self.most_delay_s
        while problem := self._problem() or self._send(message):
            if time.monotonic() + LOOK_EVERY_S > give_up_at:
                raise BrokerFull(queue=self.queue, problem=problem)
            time.sleep(LOOK_EVERY_S)

    def _problem(self) -> str | None:
        """Why the queue has no room just now, as of at most half a second ago; None where it has."""
        if (now := time.monotonic()) >= self._looked_at + LOOK_EVERY_S:
            self._looked_at = now
            self._seen = self._sender.look(self.queue)
        if (seen := self._seen) is None:
            return None
        if seen.messages >= self.most_queued:
            return f"{seen.messages} messages wait, the oldest for {seen.oldest_s:.0f} s"
        if seen.memory_share >= MOST_MEMORY_SHARE:
            return f"{seen.memory_share:.0%} of Redis's memory is used"
        return None

    def _send(self, message: _Message) -> str | None:
        """Send it now: None, or why Redis has no room for it."""
        route, field = routes.TASK_OF_KIND[message.kind], routes.FIELD_OF_KIND[message.kind]
        items = b",".join(message.texts).decode()
        try:
            self._sender.send(
                route,
                arguments={"organization": self.organization, field: f"[{items}]"},
                shown=f"{len(message.keys)} {field}, {self.organization}",
                task_id=str(message.batch_id),
                queue=self.queue,
            )
        except BrokerFull as error:
            return str(error.details["problem"])
        return None

    def _publish_what_lingers(self) -> None:
        while not self._closed.is_set():  # `close` says so before it rings: also a ring that is cleared below ends this
            self._waiting.wait()
            if self._closed.wait(self.linger_s):
                return
            self._waiting.clear()  # before the flush: what is gathered from here on rings again
            self._try_to_flush()

    def _try_to_flush(self) -> None:
        try:
            self.flush()
        except BrokerUnavailable:  # what was sent is kept as unconfirmed: `confirm` publishes it again
            self._waiting.set()  # and what was to follow is tried in its turn

    def _forget_arrived(self) -> None:
        if self._api is None:
            raise ValueError("confirm needs api_url and api_key")
        keys = list(self._unconfirmed)
        for start in range(0, len(keys), MOST_KEYS):
            asked = keys[start : start + MOST_KEYS]
            answer = self._api.post("/v1/jobs/lookup", json={"idempotency_keys": asked})
            answer.raise_for_status()
            for key in set(asked) - set(answer.json()["missing"]):
                self._unconfirmed.pop(key, None)

    def _publish_again(self) -> int:
        if self._problem() is not None:
            return 0
        waiting_s = self._seen.oldest_s if self._seen else 0.0  # what was published since may wait in the queue as well
        due = time.monotonic() - max(PUBLISH_AGAIN_AFTER_S, waiting_s)
        texts_of: dict[_Message, dict[str, bytes]] = {}
        late: defaultdict[str, list[tuple[str, bytes]]] = defaultdict(list)
        for key, message in list(self._unconfirmed.items()):
            if message.published_at > due:
                continue
            if message not in texts_of:  # backwards, so that of two contents for one key the first stays
                texts_of[message] = dict(zip(reversed(message.keys), reversed(message.texts), strict=True))
            late[message.kind].append((key, texts_of[message][key]))
        count = 0
        for kind, jobs in late.items():
            for start in range(0, len(jobs), self.most_in_a_message):
                keys, texts = zip(*jobs[start : start + self.most_in_a_message], strict=True)
                again = _Message(kind, list(keys), list(texts))
                self._unconfirmed.update(dict.fromkeys(keys, again))
                self._ready.append(again)
                try:
                    self._publish_ready()
                except BrokerUnavailable:
                    return count
                count += len(keys)
        return count


def _as_json(item: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(item)
    except TypeError:  # an amount beyond 64 bits
        return posting.as_json([item])[1:-1]
