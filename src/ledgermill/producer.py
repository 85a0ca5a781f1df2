"""The Producer: for upstream systems in Python that publish journals and balance updates.

    with Producer(broker_url, "acme", api_url=..., api_key=...) as producer:
        handle = producer.post({"idempotency_key": "order-1", "entries": [...]})
        producer.confirm()

A publish is not yet acceptance: the broker may lose a message. `confirm` asks which jobs have arrived in the books or
their inbox, and publishes the others again; a job that arrives twice has one effect.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from uuid import UUID

import httpx2
import orjson

from ledgermill.broker import publishing
from ledgermill.config import Settings
from ledgermill.domain.journals import POST_JOURNAL, UPDATE_BALANCE
from ledgermill.errors import BrokerUnavailable, LookupUnavailable
from ledgermill.messages import posting, routes
from ledgermill.messages.jobs import MOST_KEYS
from ledgermill.runtime import new_batch_id

MOST_IN_A_MESSAGE: Final = 2_000
LOOK_EVERY_S: Final = 0.5
PUBLISH_AGAIN_AFTER_S: Final = 5.0


class Handle(NamedTuple):
    """What a producer holds of a job: the batch that it was published in, and its idempotency key."""

    batch_id: UUID
    idempotency_key: str


class Confirmation(NamedTuple):
    """How many jobs have arrived, how many were published again, and the keys that had not arrived at the end."""

    arrived: int
    published_again: int
    missing: list[str]


class _Published(NamedTuple):
    kind: str
    text: bytes
    at: float


class _Gathering:
    """Items of one kind that wait to be published together."""

    def __init__(self) -> None:
        self.batch_id = new_batch_id()
        self.started = time.monotonic()
        self.items: list[tuple[str, bytes]] = []


class Producer:
    """Publishes for one organization. Safe to share between threads; close it, or use it in `with`.

    Args:
        broker_url: where workers listen.
        organization: its code or its id.
        api_url, api_key: where to ask what has arrived (scope read); needed by `confirm` only.
        linger_s: how long a single call waits for others to go with.
        most_in_a_message: at how many it waits no longer; 1 to 2,000.
        queue: the posting queue, or the organization's lane.
    """

    def __init__(
        self,
        broker_url: str,
        organization: str,
        *,
        api_url: str | None = None,
        api_key: str | None = None,
        linger_s: float = 0.01,
        most_in_a_message: int = 1_000,
        queue: str = routes.POSTING_QUEUE,
    ) -> None:
        if not 1 <= most_in_a_message <= MOST_IN_A_MESSAGE:
            raise ValueError(f"most_in_a_message is 1 to {MOST_IN_A_MESSAGE}, not {most_in_a_message}")
        self.organization = organization
        self.linger_s = linger_s
        self.most_in_a_message = most_in_a_message
        self.queue = queue
        self._celery = publishing.publisher(Settings(broker_url=broker_url))
        self._api = (
            httpx2.Client(base_url=api_url, headers={"X-API-Key": api_key or ""}, timeout=10) if api_url else None
        )
        self._lock = threading.Lock()
        self._publishing = threading.Lock()
        self._gathering: defaultdict[str, _Gathering] = defaultdict(_Gathering)
        self._unconfirmed: dict[str, _Published] = {}
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
        """Publish journals at once, as many to a message as allowed, in their order.

        Raises what is wrong with one, before any is sent; or BrokerUnavailable: then `confirm` sends again what is
        missing of all of them.
        """
        given = list(journals)
        items = list(zip(posting.require_readable(POST_JOURNAL, given), given, strict=True))
        messages = []
        for start in range(0, len(items), self.most_in_a_message):
            gathering = _Gathering()
            gathering.items = [(key, _as_json(item)) for key, item in items[start : start + self.most_in_a_message]]
            messages.append(gathering)
            self._note(POST_JOURNAL, gathering)  # all of them before the first is sent
        for gathering in messages:
            self._publish(POST_JOURNAL, gathering)
        return [Handle(gathering.batch_id, key) for gathering in messages for key, _ in gathering.items]

    def flush(self) -> None:
        """Publish what was gathered. Raises BrokerUnavailable; what could not be sent is sent again by `confirm`."""
        for kind in (POST_JOURNAL, UPDATE_BALANCE):
            with self._lock:
                gathering = self._gathering.pop(kind, None)
            if gathering is not None:
                self._publish(kind, gathering)

    def confirm(self, *, timeout_s: float = 60.0) -> Confirmation:
        """Ask until every job that was published has arrived, and publish again what has not within some seconds.

        Raises: LookupUnavailable, where the API does not answer within the time.
        """
        deadline = time.monotonic() + timeout_s
        again = 0
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
        self._clock.join()
        try:
            self.flush()
        finally:
            self._celery.close()
            if self._api is not None:
                self._api.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _gather(self, kind: str, item: Mapping[str, Any]) -> Handle:
        key, text = posting.require_readable(kind, [item])[0], _as_json(item)
        full = None
        with self._lock:
            gathering = self._gathering[kind]
            handle = Handle(gathering.batch_id, key)
            gathering.items.append((key, text))
            if len(gathering.items) >= self.most_in_a_message:
                full = self._gathering.pop(kind)
        if full is not None:
            self._publish(kind, full)
        return handle

    def _note(self, kind: str, gathering: _Gathering) -> None:
        """What is published, or could not be, is unconfirmed until the API knows it."""
        at = time.monotonic()
        for key, text in gathering.items:
            first = self._unconfirmed.get(key)  # of two contents for one key, the first is the one that counts
            self._unconfirmed[key] = _Published(kind, first.text if first else text, at)

    def _publish(self, kind: str, gathering: _Gathering) -> None:
        self._note(kind, gathering)
        route, field = routes.TASK_OF_KIND[kind], routes.FIELD_OF_KIND[kind]
        items = b",".join(text for _, text in gathering.items).decode()
        with self._publishing:
            publishing.send(
                self._celery,
                route,
                arguments={"organization": self.organization, field: f"[{items}]"},
                shown=f"{len(gathering.items)} {field}, {self.organization}",
                task_id=str(gathering.batch_id),
                queue=self.queue,
            )

    def _publish_what_lingers(self) -> None:
        while not self._closed.wait(self.linger_s):
            self._try_to_flush()

    def _try_to_flush(self) -> None:
        try:
            self.flush()
        except BrokerUnavailable:
            return  # kept as unconfirmed: `confirm` publishes it again

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
        due = time.monotonic() - PUBLISH_AGAIN_AFTER_S
        late: defaultdict[str, list[tuple[str, bytes]]] = defaultdict(list)
        for key, published in list(self._unconfirmed.items()):
            if published.at <= due:
                late[published.kind].append((key, published.text))
        count = 0
        for kind, items in late.items():
            for start in range(0, len(items), self.most_in_a_message):
                gathering = _Gathering()
                gathering.items = items[start : start + self.most_in_a_message]
                try:
                    self._publish(kind, gathering)
                except BrokerUnavailable:
                    return count
                count += len(gathering.items)
        return count


def _as_json(item: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(item)
    except TypeError:  # an amount beyond 64 bits
        return posting.as_json([item])[1:-1]
