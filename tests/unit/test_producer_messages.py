"""The Producer without a broker: what it sends, in which order, and what it holds as unconfirmed."""

import json
import threading
import time
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import pytest
from running import journal

from ledgermill import Producer
from ledgermill.broker import publishing
from ledgermill.broker.backlog import Seen
from ledgermill.errors import BrokerFull, BrokerUnavailable, MissingIdempotencyKey, Unbalanced

NEVER_S = 3_600.0


class Broker:
    """Stands for `publishing.Sender`: keeps what is sent, after it could not be reached for some times."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, list[dict[str, Any]]]] = []
        self.away = 0
        self.full = 0
        self.seen: list[Seen | None] = [None]  # at each look, the last of them for ever

    def send(self, _route: object, *, arguments: dict[str, Any], task_id: str, **_others: object) -> None:
        if self.away:
            self.away -= 1
            raise BrokerUnavailable
        if self.full:
            self.full -= 1
            raise BrokerFull(queue="posting", problem="Redis has no memory left")
        self.sent.append((task_id, json.loads(arguments.get("journals") or arguments["updates"])))

    def look(self, _queue: str) -> Seen | None:
        return self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]

    def close(self) -> None:
        pass

    @property
    def keys(self) -> list[str]:
        return [item["idempotency_key"] for _, items in self.sent for item in items]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker()
    monkeypatch.setattr(publishing, "Sender", lambda _broker_url: made)
    return made


@pytest.fixture
def producer(broker: Broker) -> Iterator[Producer]:
    """It publishes only what is full, or when it is told to."""
    with Producer(
        "redis://127.0.0.1:1/0", "acme", api_url="http://127.0.0.1:1", linger_s=NEVER_S, most_in_a_message=10
    ) as made:
        yield made


def journals(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    return [journal(f"k{number}", 1 + number) for number in range(first, first + count)]


def unbalanced(key: str) -> dict[str, Any]:
    return journal(key) | {"entries": journal(None, 1)["entries"][:1] + journal(None, 2)["entries"][1:]}


def test_what_is_sent_is_what_was_checked(broker: Broker, producer: Producer) -> None:
    plain = journal("a", 10**38 - 1, transaction={"description": "Zürich €", "metadata": {"a": None}})

    producer.post(MappingProxyType(plain))
    producer.post(journal("b", "0005"))
    producer.post_many([plain | {"idempotency_key": "c"}])

    assert [item for _, items in broker.sent for item in items] == [
        plain,
        journal("b", 5),
        plain | {"idempotency_key": "c"},
    ]


def test_a_journal_that_is_changed_after_the_call_is_sent_as_it_was(broker: Broker, producer: Producer) -> None:
    changing = journal("a", 5)
    producer.post(changing)
    changing["entries"][0]["amount"] = 6

    producer.flush()

    assert broker.sent[0][1] == [journal("a", 5)]


def test_single_calls_fill_messages_and_go_before_what_is_published_at_once(broker: Broker, producer: Producer) -> None:
    handles = [producer.post(item) for item in journals(12)]
    handles += producer.post_many(journals(25, first=12))

    assert broker.keys == [f"k{number}" for number in range(37)]
    assert [len(items) for _, items in broker.sent] == [10, 2, 10, 10, 5]
    batch_of = {item["idempotency_key"]: batch_id for batch_id, items in broker.sent for item in items}
    assert [str(handle.batch_id) for handle in handles] == [batch_of[handle.idempotency_key] for handle in handles]


@pytest.mark.parametrize(
    ("wrong", "error"), [(unbalanced("wrong"), Unbalanced), (journal(None), MissingIdempotencyKey)]
)
@pytest.mark.parametrize("place", [0, 99, 100, 250])
def test_nothing_is_sent_of_many_where_one_is_wrong(
    broker: Broker, producer: Producer, wrong: dict[str, Any], error: type[Exception], place: int
) -> None:
    items = journals(300)
    items[place] = wrong

    with pytest.raises(error):
        producer.post_many(items)

    producer.flush()
    assert broker.sent == []
    assert producer._unconfirmed == {}


def test_calls_of_many_threads_are_all_sent_once_and_each_threads_in_its_order(broker: Broker) -> None:
    threads, each = 6, 300

    def call(name: int) -> None:
        for number in range(each):
            producer.post(journal(f"{name}-{number}", 1))

    with Producer("redis://127.0.0.1:1/0", "acme", linger_s=0.0001, most_in_a_message=7) as producer:
        running = [threading.Thread(target=call, args=(name,)) for name in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    assert len(broker.keys) == threads * each
    for name in range(threads):
        own = [key for key in broker.keys if key.startswith(f"{name}-")]
        assert own == [f"{name}-{number}" for number in range(each)]
    assert max(len(items) for _, items in broker.sent) <= 7


def test_a_single_call_is_published_after_its_linger_and_an_idle_producer_sleeps(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Producer("redis://127.0.0.1:1/0", "acme", linger_s=0.001) as producer:
        flushes = []
        flush = producer.flush
        monkeypatch.setattr(producer, "flush", lambda: (flushes.append(1), flush()))
        for number in range(2):
            producer.post(journal(f"k{number}", 1))
            deadline = time.monotonic() + 5
            while len(broker.keys) <= number and time.monotonic() < deadline:
                time.sleep(0.001)
        time.sleep(0.05)

        assert broker.keys == ["k0", "k1"]
        assert len(flushes) == 2


def test_what_follows_a_message_that_could_not_be_sent_is_sent_in_its_turn(broker: Broker, producer: Producer) -> None:
    broker.away = 1
    with pytest.raises(BrokerUnavailable):
        producer.post_many(journals(30))

    assert len(producer._unconfirmed) == 30, "all are noted before the first is sent"
    producer.flush()
    assert broker.keys == [f"k{number}" for number in range(10, 30)]


def test_what_is_published_again_is_the_first_content_of_its_key(
    broker: Broker, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer.post_many([journal("a", 1), journal("b", 2), journal("a", 3)])
    producer.post_many([journal("b", 4)])
    broker.sent.clear()
    assert producer._publish_again() == 0, "it is too early"
    monkeypatch.setattr("ledgermill.producer.PUBLISH_AGAIN_AFTER_S", -1.0)

    count = producer._publish_again()

    assert count == 2
    assert [items for _, items in broker.sent] == [[journal("a", 1), journal("b", 2)]]
    assert set(producer._unconfirmed) == {"a", "b"}


def test_closing_while_the_clock_is_about_to_publish_ends_both(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    producer = Producer("redis://127.0.0.1:1/0", "acme", linger_s=0.001)
    closing = threading.Thread(target=producer.close, daemon=True)
    clear = producer._waiting.clear

    def close_first() -> None:
        closing.start()
        producer._closed.wait()
        time.sleep(0.02)  # until the bell has rung as well
        clear()

    monkeypatch.setattr(producer._waiting, "clear", close_first)
    producer.post(journal("a", 1))
    while closing.ident is None:
        time.sleep(0.001)
    closing.join(5)

    assert not closing.is_alive()
    assert broker.keys == ["a"]


def test_a_producer_that_cannot_ask_what_has_arrived_keeps_nothing(broker: Broker) -> None:
    with Producer("redis://127.0.0.1:1/0", "acme", linger_s=NEVER_S) as producer:
        producer.post_many([journal("a"), journal("b")])

        assert (broker.keys, producer._unconfirmed) == (["a", "b"], {})


def full(messages: int = 10_000, *, oldest_s: float = 0.0, memory_share: float = 0.0) -> Seen:
    return Seen(messages, oldest_s, memory_share)


@pytest.fixture
def impatient(producer: Producer, monkeypatch: pytest.MonkeyPatch) -> Producer:
    """It looks each time, and finds no time to wait."""
    monkeypatch.setattr("ledgermill.producer.LOOK_EVERY_S", 0.0)
    producer._looked_at = 0.0
    producer.most_delay_s = 0.05
    return producer


@pytest.mark.parametrize("seen", [full(), full(0, memory_share=0.8)])
def test_a_producer_publishes_nothing_while_the_queue_has_no_room(
    broker: Broker, impatient: Producer, seen: Seen
) -> None:
    broker.seen = [seen, seen, full(9_999, memory_share=0.79)]

    impatient.post_many(journals(3))

    assert broker.keys == ["k0", "k1", "k2"]
    assert broker.seen == [full(9_999, memory_share=0.79)], "it has looked until there was room"


def test_a_producer_that_finds_no_room_raises_and_sends_later(broker: Broker, impatient: Producer) -> None:
    broker.seen = [full(12_345, oldest_s=40)]
    with pytest.raises(BrokerFull, match="12345 messages wait, the oldest for 40 s"):
        impatient.post_many(journals(30))

    assert (broker.keys, len(impatient._unconfirmed)) == ([], 30)
    broker.seen = [full(0)]
    impatient.flush()
    assert broker.keys == [f"k{number}" for number in range(10, 30)]


def test_what_redis_has_no_memory_for_is_sent_as_soon_as_it_has(broker: Broker, impatient: Producer) -> None:
    broker.full = 2

    impatient.post_many(journals(3))

    assert broker.keys == ["k0", "k1", "k2"]
    broker.full = 10_000
    with pytest.raises(BrokerFull, match="no memory"):
        impatient.post_many(journals(1, first=5))


def test_nothing_is_published_again_that_may_still_wait_in_the_queue(
    broker: Broker, impatient: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledgermill.producer.PUBLISH_AGAIN_AFTER_S", 0.0)
    impatient.post_many(journals(2))
    time.sleep(0.02)
    broker.sent.clear()

    broker.seen = [full(5, oldest_s=60)]
    assert impatient._publish_again() == 0, "the queue is older than the message"
    broker.seen = [full()]
    assert impatient._publish_again() == 0, "there is no room"
    broker.seen = [full(5, oldest_s=0.001)]
    assert impatient._publish_again() == 2
    assert broker.keys == ["k0", "k1"]
