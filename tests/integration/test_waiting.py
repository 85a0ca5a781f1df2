"""The inbox worked off: claims, leases and attempts, and batches taken apart where they end their worker."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from running import Books, journal, open_books

from ledgermill.config import Settings
from ledgermill.errors import DatabaseUnavailable
from ledgermill.messages import routes
from ledgermill.runtime import Runtime
from ledgermill.storage import posting_lock
from ledgermill.storage.connections import Transaction
from ledgermill.usecases import posting, soundness, waiting


class WorkerDies(BaseException):
    """What a death is to the database: the transaction ends, and nobody cleans up."""


@pytest.fixture
def books(settings: Settings) -> Iterator[Books]:
    with open_books(settings) as books:
        yield books


def dies_at(monkeypatch: pytest.MonkeyPatch, *keys: str) -> None:
    """From here on, writing a job of these keys ends the worker."""
    write = posting._write

    def poisoned(tx: Transaction, organization_id: int, plan: Any, of: Any) -> None:
        if any(job.idempotency_key in keys for job in plan.posted):
            raise WorkerDies
        write(tx, organization_id, plan, of)

    monkeypatch.setattr(posting, "_write", poisoned)


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
    assert deaths <= 2 + 3 * 2  # whole, in a slice; each of the three alone, and alone again


def test_workers_that_die_among_many_batches_count_against_none_that_was_never_tried_alone(
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

    assert attempts == [2, 2, 2, 3], "twice they were tried together, then one at a time"
    while books.look():
        books.outlast_the_lease()
    assert books.outcomes() == {f"single-{number}": "posted" for number in range(4)}


def test_a_job_that_is_alone_when_its_worker_ends_by_chance_is_not_set_aside(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.accept(*(journal(f"job-{place}") for place in range(10)))
    books.deliver(journal("another"))
    with monkeypatch.context() as patched:
        dies_at(patched, "job-4")  # by chance: it is not at fault
        deaths = 0
        while deaths < 3:
            with contextlib.suppress(WorkerDies):
                books.look()
                continue
            deaths += 1
            books.outlast_the_lease()
    assert books.inbox() == [(10, 4, 3)]

    while books.look():
        books.outlast_the_lease()

    assert books.outcomes() == dict.fromkeys(["another", *(f"job-{place}" for place in range(10))], "posted")


def test_a_task_that_waits_for_a_lock_gives_up_well_before_its_time_limit(books: Books, settings: Settings) -> None:
    limit_s = 6
    books.worker = Runtime(settings.model_copy(update={"task_time_limit_s": limit_s}), role="worker")
    books.accept(journal("patient"))
    started = time.monotonic()

    with psycopg.connect(settings.url_of("owner")) as other, books.worker.turn():
        other.execute("SELECT 1 FROM ledgermill.posting_lock FOR UPDATE")
        time.sleep(0.2 * limit_s)  # what else the task has done so far
        with pytest.raises(DatabaseUnavailable):
            books.look()

    assert time.monotonic() - started < 0.75 * limit_s
    assert books.inbox() == [(1, 0, 0)], "and no attempt is counted"


def test_what_is_tried_again_takes_a_bounded_share_of_the_time_where_there_is_other_work(books: Books) -> None:
    books.worker.may_retry_at = time.monotonic() + 60  # it had its share
    books.accept(journal("tried"))
    books.run(f"UPDATE ledgermill.inbox SET attempts = 1, tried_under = ARRAY[{soundness.release()!r}]")
    books.accept(journal("new"))

    assert waiting.look(books.worker, 0, is_busy=True) == 1
    assert books.outcomes() == {"new": "posted"}
    assert books.worker.broker.queue_length(routes.POSTING_QUEUE) == 1, "somebody will look again"

    books.look()
    assert books.outcomes() == {"new": "posted", "tried": "posted"}
    assert books.worker.may_retry_at > time.monotonic()


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


def test_a_claimed_batch_that_another_claim_looks_at_is_settled_all_the_same(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.accept(journal("a"))
    ask, is_locked, looked = posting_lock.ask, threading.Event(), threading.Event()

    def other_claim() -> None:
        with books.owner.engine.begin() as tx:
            tx.exec_driver_sql("SELECT 1 FROM ledgermill.inbox FOR UPDATE")
            is_locked.set()
            looked.wait(0.3)

    other = threading.Thread(target=other_claim)

    def ask_after_it(tx: Transaction, organization_id: int) -> posting_lock.Asked:
        other.start()
        assert is_locked.wait(5)
        return ask(tx, organization_id)

    monkeypatch.setattr(posting_lock, "ask", ask_after_it)
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
