"""Delivery: whatever happens to a message, its worker or the database, each of its jobs ends once, and as it should."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from celery.exceptions import Reject
from running import CHART, journal
from sqlalchemy import event

from ledgermill.broker.unreadable import take_unreadable
from ledgermill.config import Settings
from ledgermill.domain.journals import POST_JOURNAL
from ledgermill.errors import DatabaseUnavailable
from ledgermill.messages import routes
from ledgermill.runtime import Runtime, new_batch_id, now
from ledgermill.storage import posting_lock
from ledgermill.storage.connections import Transaction
from ledgermill.usecases import acceptance, charts, delivery, organizations, posting, waiting
from ledgermill.usecases.verify import verify
from workers import posting as posting_tasks


class WorkerDies(BaseException):
    """What a death is to the database: the transaction ends, and nobody cleans up."""


class Books:
    """An organization, one worker's runtime, and plain SQL beside them."""

    def __init__(self, settings: Settings) -> None:
        self.owner = Runtime(settings, role="owner")
        self.worker = Runtime(settings, role="worker")
        with self.owner.engine.begin() as tx:
            organizations.create(tx, code="acme", name="Acme", base_currency="EUR", time_zone="UTC")
            opened: Any = [(item["code"], item) for item in CHART]
            charts.open_chart(tx, 1, opened, principal_id=1)

    def deliver(self, *items: dict[str, Any], is_redelivered: bool = False, message_id: str | None = None) -> None:
        delivery.take(self.worker, [self.message(*items, is_redelivered=is_redelivered, message_id=message_id)])

    def message(
        self, *items: dict[str, Any], is_redelivered: bool = False, message_id: str | None = None
    ) -> delivery.Message:
        return delivery.Message(
            message_id=message_id or str(new_batch_id()),
            kind=POST_JOURNAL,
            organization="acme",
            items=list(items),
            queue="posting",
            correlation=None,
            is_redelivered=is_redelivered,
            taken_at=now(),
        )

    def accept(self, *items: dict[str, Any]) -> None:
        with self.owner.engine.begin() as tx:
            acceptance.accept(tx, 1, kind=POST_JOURNAL, items=items, principal_id=1, correlation=None, now=now())

    def look(self) -> int:
        return waiting.look(self.worker, 0)

    def outlast_the_lease(self) -> None:
        self.run("UPDATE ledgermill.inbox SET claimed_at = claimed_at - interval '1 hour'")

    def run(self, statement: str) -> None:
        with self.owner.engine.begin() as tx:
            tx.exec_driver_sql(statement)

    def query(self, statement: str) -> list[Any]:
        with self.owner.engine.begin() as tx:
            return [tuple(row) if len(row) > 1 else row[0] for row in tx.exec_driver_sql(statement)]

    def outcomes(self) -> dict[str | None, str]:
        rows = self.query("SELECT idempotency_key, coalesce(code, state) FROM ledgermill.job")
        return dict(rows)

    def till(self) -> int:
        balance: int = self.query(
            "SELECT (debits - credits)::bigint FROM ledgermill.balance JOIN ledgermill.ledger USING (ledger_id)"
            " WHERE code = 'TILL'"
        )[0]
        return balance

    def inbox(self) -> list[tuple[int, int, int]]:
        return self.query("SELECT jobs, next_item, attempts FROM ledgermill.inbox ORDER BY batch_id, part")


@pytest.fixture
def books(settings: Settings) -> Iterator[Books]:
    books = Books(settings)
    yield books
    report = verify(books.owner.engine)
    books.worker.close()
    books.owner.close()
    assert report.is_clean, report.as_text()


def dies_at(monkeypatch: pytest.MonkeyPatch, *keys: str) -> None:
    """From here on, writing a job of these keys ends the worker."""
    write = posting._write

    def poisoned(tx: Transaction, organization_id: int, plan: Any, of: Any) -> None:
        if any(job.idempotency_key in keys for job in plan.posted):
            raise WorkerDies
        write(tx, organization_id, plan, of)

    monkeypatch.setattr(posting, "_write", poisoned)


def test_a_message_that_comes_back_goes_to_the_inbox_with_its_attempt_counted_and_is_posted_from_there(
    books: Books,
) -> None:
    books.deliver(journal("a"), journal("b"), is_redelivered=True)

    assert books.inbox() == [(2, 0, 1)]
    assert books.worker.broker.queue_length(routes.POSTING_QUEUE) == 1  # the ring
    books.look()
    assert books.outcomes() == {"a": "posted", "b": "posted"}
    assert books.inbox() == []


def test_a_message_that_comes_back_after_it_was_posted_changes_nothing(books: Books) -> None:
    for message_id in (str(new_batch_id()), "a-foreign-producers-id"):
        books.deliver(journal(message_id, 7), journal(None, 5), {"entries": []}, message_id=message_id)
        before = books.query("SELECT * FROM ledgermill.job ORDER BY job_id")

        for _ in range(2):
            books.deliver(
                journal(message_id, 7), journal(None, 5), {"entries": []}, message_id=message_id, is_redelivered=True
            )
            books.look()

        assert books.query("SELECT * FROM ledgermill.job ORDER BY job_id") == before
    assert books.till() == 2 * (7 + 5)


def test_of_a_batch_that_ends_its_worker_only_the_jobs_at_fault_are_quarantined(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"job-{place}" for place in range(50)]
    poison = {"job-17", "job-18", "job-49"}  # neighbours, and the last
    dies_at(monkeypatch, *poison)
    books.accept(*(journal(key, 10) for key in keys))

    deaths = 0
    while books.inbox():
        assert deaths < 20, books.inbox()
        try:
            books.look()
        except WorkerDies:
            deaths += 1
            books.outlast_the_lease()

    assert books.outcomes() == {key: "QUARANTINED" if key in poison else "posted" for key in keys}
    assert books.till() == 10 * 47
    assert deaths <= 3 + 1 + 2  # whole, slice, alone; its neighbour alone; the last in what is left


def test_workers_that_die_among_many_batches_count_against_none_that_they_had_not_begun(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        books.accept(journal(f"single-{number}"))
    with monkeypatch.context() as patched:
        dies_at(patched, *(f"single-{number}" for number in range(4)))  # by chance: none of them is at fault
        for _ in range(3):
            with pytest.raises(WorkerDies):
                books.look()
            books.outlast_the_lease()

    attempts = books.query("SELECT attempts FROM ledgermill.inbox ORDER BY attempts")

    assert attempts == [1, 1, 1, 3], "the first time all were in one transaction, then one at a time"
    while books.look():
        books.outlast_the_lease()
    assert books.query("SELECT state, count(*)::int FROM ledgermill.job GROUP BY 1 ORDER BY 1") == [
        ("posted", 3),
        ("quarantined", 1),
    ]


def test_a_job_that_waited_while_the_database_was_busy_is_no_job_that_ended_a_worker(
    books: Books, settings: Settings
) -> None:
    books.worker = Runtime(settings.model_copy(update={"task_time_limit_s": 2}), role="worker")  # gives up soon
    books.accept(journal("patient"))

    with psycopg.connect(settings.url_of("owner")) as other:
        other.execute("SELECT 1 FROM ledgermill.posting_lock FOR UPDATE")
        with pytest.raises(DatabaseUnavailable):
            books.look()

    assert books.inbox() == [(1, 0, 0)]
    time.sleep(waiting.PAUSE_WITHOUT_DATABASE_S)
    books.look()
    assert books.outcomes() == {"patient": "posted"}


def test_a_lock_that_others_hold_for_some_seconds_is_waited_for(books: Books, settings: Settings) -> None:
    with psycopg.connect(settings.url_of("owner")) as other:
        other.execute("SELECT 1 FROM ledgermill.posting_lock FOR UPDATE")
        release = threading.Timer(2.5, other.rollback)  # the worker's lock_timeout is 2 s
        release.start()
        books.deliver(journal("patient"))
        release.join()

    assert books.outcomes() == {"patient": "posted"}


def test_where_the_database_refuses_one_job_only_that_is_rejected(books: Books) -> None:
    books.run("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = '23514'; END $$""")
    books.run("""
        CREATE TRIGGER refuse BEFORE INSERT ON ledgermill.job FOR EACH ROW
        WHEN (new.idempotency_key = 'bad' AND new.state = 'posted') EXECUTE FUNCTION refuse()""")
    keys = ["a", "b", "bad", "c", "d"]

    books.deliver(*(journal(f"{key}", 3) for key in keys))
    books.accept(*(journal(f"{key}-2", 3) for key in keys))
    books.look()

    expected = dict.fromkeys((*keys, *(f"{key}-2" for key in keys)), "posted") | {"bad": "DATABASE_REFUSED"}
    assert books.outcomes() == expected
    assert books.till() == 3 * 9


def test_what_the_database_refuses_among_batches_of_several_clients_harms_only_the_one(books: Books) -> None:
    books.run("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = '22003'; END $$""")
    books.run("""
        CREATE TRIGGER refuse BEFORE INSERT ON ledgermill.entry FOR EACH ROW
        WHEN (new.amount = 666) EXECUTE FUNCTION refuse()""")
    for client in range(3):
        books.accept(*(journal(f"{client}-{n}", 666 if (client, n) == (1, 2) else 3) for n in range(5)))

    books.look()

    refused = [key for key, outcome in books.outcomes().items() if outcome != "posted"]
    assert refused == ["1-2"]
    assert books.till() == 3 * 14


@pytest.mark.parametrize("after_commit", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("enter", ["message", "inbox"])
def test_a_connection_that_ends_before_or_after_the_commit_posts_once(
    books: Books, settings: Settings, enter: str, *, after_commit: bool
) -> None:
    is_first = True

    @event.listens_for(books.worker.engine, "commit")
    def end_the_connection(connection: Any) -> None:
        nonlocal is_first
        raw: psycopg.Connection[Any] = connection.connection.driver_connection
        wrote = raw.execute(
            "SELECT pg_current_xact_id_if_assigned() IS NOT NULL AND EXISTS (SELECT FROM ledgermill.job)"
        )
        if not is_first or wrote.fetchone() != (True,):
            return  # the claim, not the posting
        is_first = False
        if after_commit:
            raw.commit()
        with psycopg.connect(settings.url_of("worker"), autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (raw.info.backend_pid,))
        raw.execute("SELECT 1")  # raises: the server is gone, and whoever asks it to commit hears nothing

    items = [journal(f"{n}", 4) for n in range(3)]
    if enter == "message":
        books.deliver(*items)
    else:
        books.accept(*items)
        books.look()

    assert not is_first
    assert books.outcomes() == dict.fromkeys("012", "posted")
    assert books.till() == 4 * 3
    assert books.inbox() == []


def test_keys_that_are_there_already_keep_their_outcome_and_the_others_of_their_message_are_posted(
    books: Books,
) -> None:
    books.deliver(journal("old", 1), journal("poor", 5, debit="SALES", credit="BANK"))

    books.deliver(
        journal("new", 2),
        journal("old", 1),
        journal("old", 100),
        journal("poor", 5, debit="SALES", credit="BANK"),
        journal("twice", 4),
        journal("twice", 4),
    )

    outcomes = books.query("SELECT idempotency_key, coalesce(code, state) FROM ledgermill.job ORDER BY job_id")
    assert outcomes == [
        ("old", "posted"),
        ("poor", "INSUFFICIENT_BALANCE"),
        ("new", "posted"),
        (None, "KEY_REUSED"),
        ("twice", "posted"),
    ]
    assert books.till() == 1 + 2 + 4


@pytest.mark.parametrize("is_redelivered", [False, True])
def test_a_job_for_later_waits_for_its_time_also_where_its_message_comes_back(
    books: Books, *, is_redelivered: bool
) -> None:
    later = (now() + timedelta(hours=1)).isoformat()

    books.deliver(journal("now"), journal("later", due_at=later), is_redelivered=is_redelivered)
    books.look()

    assert books.outcomes() == {"now": "posted"}
    assert books.query("SELECT job_keys, due_at > now() FROM ledgermill.inbox") == [(["later"], True)]


def test_the_sweep_rings_for_what_nobody_works_on_and_for_what_a_dead_worker_had_claimed(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert waiting.sweep(books.worker) == 0
    books.accept(journal("orphan"))

    assert waiting.sweep(books.worker) == 1
    assert books.worker.broker.queue_length(routes.POSTING_QUEUE) == 1
    with monkeypatch.context() as patched:
        dies_at(patched, "orphan")
        with pytest.raises(WorkerDies):
            books.look()
    assert waiting.sweep(books.worker) == 0  # for all that others know, it is worked on
    books.outlast_the_lease()
    assert waiting.sweep(books.worker) == 1
    books.look()
    assert books.outcomes() == {"orphan": "posted"}


def test_a_message_that_comes_back_twice_finds_its_replays_there(books: Books) -> None:
    books.deliver(journal("a"), journal("b"))
    published_again = str(new_batch_id())  # by a Producer that did not see them arrive
    for _ in range(2):
        books.deliver(journal("a"), journal("b"), is_redelivered=True, message_id=published_again)
        books.look()

    assert books.inbox() == []
    assert books.outcomes() == {"a": "posted", "b": "posted"}
    assert books.query("SELECT count(*) FROM ledgermill.replay") == [2]


def test_a_claimed_batch_that_another_claim_looks_at_is_settled_all_the_same(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.accept(journal("a"))
    take, is_locked, looked = posting_lock.take, threading.Event(), threading.Event()

    def other_claim() -> None:
        with books.owner.engine.begin() as tx:
            tx.exec_driver_sql("SELECT 1 FROM ledgermill.inbox FOR UPDATE")
            is_locked.set()
            looked.wait(0.3)

    other = threading.Thread(target=other_claim)

    def take_after_it(tx: Transaction, organization_id: int) -> posting_lock.Held:
        other.start()
        assert is_locked.wait(5)
        return take(tx, organization_id)

    monkeypatch.setattr(posting_lock, "take", take_after_it)
    books.look()
    other.join()

    assert books.outcomes() == {"a": "posted"}
    assert books.inbox() == []


def test_a_worker_that_looks_for_long_rings_for_the_next_before_its_time_is_up(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.accept(journal("waits"))
    monkeypatch.setattr(waiting, "LOOKING_ENDS_AFTER", 0)

    assert books.look() == 0
    assert books.worker.broker.queue_length(routes.POSTING_QUEUE) == 1
    assert books.inbox() == [(1, 0, 0)]


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
    def no_memory(*_: object) -> None:
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
    drain.publish(journal("a"))
    raw = drain.redis.lindex("posting", 0)

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(delivery, "take", fail)
    drain.run()

    kept = take_unreadable(books.worker.broker.redis, limit=10)
    assert [(message.raw, message.reason) for message in kept] == [(raw, "RuntimeError in the worker")]
    assert drain.taken() == 0


def test_what_cannot_even_be_set_aside_stays_in_the_broker(drain: Drain, monkeypatch: pytest.MonkeyPatch) -> None:
    drain.redis.lpush("posting", b"rubbish")
    monkeypatch.setattr(posting_tasks, "put_aside", lambda *_, **__: False)

    drain.run()

    assert drain.taken() == 1


def test_messages_of_more_organizations_than_there_is_time_for_wait_in_the_inbox(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    with books.owner.engine.begin() as tx:
        organizations.create(tx, code="other", name="Other", base_currency="EUR", time_zone="UTC")
        charts.open_chart(tx, 2, [(item["code"], item) for item in CHART], principal_id=1)  # type: ignore[misc]
    monkeypatch.setattr(delivery, "SETTLING_ENDS_AFTER", 0)

    delivery.take(
        books.worker, [books.message(journal("a")), books.message(journal("b"))._replace(organization="other")]
    )

    assert books.outcomes() == {"a": "posted"}
    assert books.inbox() == [(1, 0, 0)]
    books.look()
    assert books.outcomes() == {"a": "posted", "b": "posted"}
