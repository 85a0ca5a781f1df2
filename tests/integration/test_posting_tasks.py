"""The tasks and the drain of the posting queues, as a pool process runs them: what fails loses no message."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery.exceptions import Reject
from running import Books, journal, open_books

from ledgermill.broker.unreadable import take_unreadable
from ledgermill.config import Settings
from ledgermill.runtime import Runtime, new_batch_id
from ledgermill.usecases import delivery, waiting
from workers import posting as posting_tasks


@pytest.fixture
def books(settings: Settings) -> Iterator[Books]:
    with open_books(settings) as books:
        yield books


@pytest.fixture
def task(books: Books, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Runs the task `post_journals` as a worker does, but in this process."""
    monkeypatch.setattr(posting_tasks, "runtime", lambda: books.worker)
    monkeypatch.setattr(posting_tasks, "PAUSE_S", 0.0)

    def run() -> None:
        posting_tasks.post_journals.push_request(id="id-1", delivery_info={"routing_key": "posting"})
        try:
            posting_tasks.post_journals.run(organization="acme", journals=[journal("a")])
        finally:
            posting_tasks.post_journals.pop_request()

    return run


def test_a_task_without_memory_returns_its_message_and_the_worker_lives(
    task: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(delivery, "take", no_memory)
    monkeypatch.setattr(waiting, "look", no_memory)

    with pytest.raises(Reject) as caught:
        task()
    assert caught.value.requeue
    posting_tasks.look.run(lane=0)  # raises nothing


def test_a_message_goes_back_while_the_database_is_away(
    task: Callable[[], None], books: Books, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = settings.model_copy(
        update={
            "worker_database_url": None,
            "database_url": type(settings.database_url)("postgresql://127.0.0.1:1/none"),
        }
    )
    monkeypatch.setattr(posting_tasks, "runtime", lambda: Runtime(nobody, role="worker"))
    with pytest.raises(Reject) as caught:
        task()
    assert caught.value.requeue

    monkeypatch.setattr(posting_tasks, "runtime", lambda: books.worker)
    task()
    assert books.outcomes() == {"a": "posted"}


def test_a_message_that_fails_for_a_reason_that_nobody_foresaw_is_kept(
    task: Callable[[], None], books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    books.deliver(journal("before"))  # this process is known to post
    monkeypatch.setattr(delivery, "take", fail)

    task()  # raises nothing, so that Celery acknowledges it

    kept = take_unreadable(books.worker.broker.redis, limit=10)
    assert [(message.queue, message.reason) for message in kept] == [("posting", "RuntimeError in the worker")]
    assert b'"idempotency_key": "a"' in kept[0].raw


class Drain:
    """The drain as a pool process runs it, but in this process; each with a taker of its own."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.redis: Any = books.worker.broker.redis

    def publish(self, *journals: dict[str, Any]) -> None:
        for one in journals:
            self.books.worker.broker.celery.send_task(
                "ledgermill.post_journals", kwargs={"organization": "acme", "journals": [one]}, queue="posting"
            )

    def run(self) -> list[posting_tasks.Shown]:
        return posting_tasks.drain("posting", str(new_batch_id()))

    def outlast_the_lease(self) -> None:
        for taker in self.redis.zrange("ledgermill:taken:posting", 0, -1):
            self.redis.zadd("ledgermill:taken:posting", {taker: 0})

    def taken(self) -> int:
        return sum(self.redis.llen(key) for key in self.redis.keys("ledgermill:taken:posting:*"))


@pytest.fixture
def drain(books: Books, monkeypatch: pytest.MonkeyPatch) -> Drain:
    monkeypatch.setattr(posting_tasks, "runtime", lambda: books.worker)
    monkeypatch.setattr(posting_tasks, "PAUSE_S", 0.0)
    return Drain(books)


def test_what_a_drain_settled_is_gone_from_the_broker(drain: Drain, books: Books) -> None:
    drain.publish(journal("a"), journal("b"))

    shown = drain.run()

    assert [(one.task, one.contents) for one in shown] == [("ledgermill.post_journals", "2 journals, acme, 2 messages")]
    assert books.outcomes() == {"a": "posted", "b": "posted"}
    assert (drain.redis.llen("posting"), drain.taken()) == (0, 0)


def test_a_drain_without_memory_leaves_its_messages_and_they_come_again_as_redelivered(
    drain: Drain, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain.publish(journal("a"))
    with monkeypatch.context() as context:

        def no_memory(*_: object) -> None:
            raise MemoryError

        context.setattr(delivery, "take", no_memory)
        drain.run()
    assert (drain.redis.llen("posting"), drain.taken()) == (0, 1)

    drain.run()

    assert books.inbox() == []  # its ring was in the queue by then
    assert books.outcomes() == {"a": "posted"}
    assert drain.taken() == 0


def test_a_drain_without_database_gives_its_messages_back_as_if_never_taken(
    drain: Drain, books: Books, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = type(settings.database_url)("postgresql://127.0.0.1:1/none")
    nobody = settings.model_copy(update={"worker_database_url": None, "database_url": away})
    drain.publish(journal("a"), journal("b"))
    before = drain.redis.lrange("posting", 0, -1)
    with monkeypatch.context() as context:
        context.setattr(posting_tasks, "runtime", lambda: Runtime(nobody, role="worker"))
        drain.run()
    assert drain.redis.lrange("posting", 0, -1) == before
    assert drain.taken() == 0

    drain.run()

    assert books.outcomes() == {"a": "posted", "b": "posted"}
    assert books.inbox() == []  # no attempt was counted


def test_what_fails_in_a_drain_for_a_reason_that_nobody_foresaw_is_kept_byte_for_byte(
    drain: Drain, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.deliver(journal("before"))  # this process is known to post
    drain.publish(journal("a"))
    raw = drain.redis.lindex("posting", 0)

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(delivery, "take", fail)
    drain.run()

    kept = take_unreadable(books.worker.broker.redis, limit=10)
    assert [(message.raw, message.reason) for message in kept] == [(raw, "RuntimeError in the worker")]
    assert drain.taken() == 0


def test_a_process_that_posted_nothing_yet_sets_no_message_aside_for_its_own_failures(
    drain: Drain, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain.publish(journal("a"), journal("b"))
    with monkeypatch.context() as context:

        def fail(*_: object) -> None:
            raise RuntimeError

        context.setattr(delivery, "_read", fail)
        drain.run()
    assert (drain.taken(), take_unreadable(drain.redis, limit=10)) == (2, [])
    assert books.query("SELECT count(*) FROM ledgermill.quarantine") == [0]

    drain.outlast_the_lease()
    for _ in range(2):  # the messages, and the ring
        drain.run()

    assert books.outcomes() == {"a": "posted", "b": "posted"}


def test_of_messages_that_were_taken_together_only_the_one_that_sets_off_a_bug_is_left_in_the_broker(
    drain: Drain, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain.publish(journal("a"), journal("bug"), journal("b"))
    keep = delivery.posting_messages.as_json

    def fail(items: Any) -> bytes:
        if items[0]["idempotency_key"] == "bug":
            raise RuntimeError
        return keep(items)

    monkeypatch.setattr(delivery.posting_messages, "as_json", fail)
    monkeypatch.setattr(delivery.soundness, "paused", lambda *_: {"post_journal"})  # so that all are kept
    drain.run()
    monkeypatch.undo()
    monkeypatch.setattr(posting_tasks, "runtime", lambda: books.worker)

    assert (drain.taken(), take_unreadable(drain.redis, limit=10)) == (3, [])
    books.look()
    assert books.outcomes() == {"a": "posted", "b": "posted"}


def test_of_messages_that_were_taken_together_only_the_one_that_nobody_foresaw_is_set_aside(
    drain: Drain, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.deliver(journal("before"))  # this process is known to post
    drain.publish(journal("a"), journal("bug"), journal("b"))
    take = delivery.take

    def fail(runtime: Runtime, messages: Any) -> None:
        if any(message.items[0]["idempotency_key"] == "bug" for message in messages):
            raise RuntimeError
        take(runtime, messages)

    monkeypatch.setattr(delivery, "take", fail)
    drain.run()

    kept = take_unreadable(books.worker.broker.redis, limit=10)
    assert [message.reason for message in kept] == ["RuntimeError in the worker"]
    assert books.outcomes() == dict.fromkeys(["before", "a", "b"], "posted")
    assert drain.taken() == 0


def test_what_cannot_even_be_set_aside_stays_in_the_broker(drain: Drain, monkeypatch: pytest.MonkeyPatch) -> None:
    drain.redis.lpush("posting", b"rubbish")
    monkeypatch.setattr(posting_tasks, "put_aside", lambda *_, **__: False)

    drain.run()

    assert drain.taken() == 1
