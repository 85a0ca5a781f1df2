"""Poison among real workers: the job at fault ends alone in quarantine, and a release at fault quarantines nothing."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from conftest import environment
from running import Books, WorkerProcess, eventually, journal, open_books, worker_process

from ledgermill.config import Settings

POISON = ("kill", "segfault", "bug", "memory", "recursion", "loop")
TIME_LIMIT_S = 3
LOCK_TIMEOUT = "-c lock_timeout=200"  # as the role has 2 s of 20 s: who waits for a job that loops gives up before that
_names = itertools.count()


@pytest.fixture
def books(settings: Settings) -> Iterator[Books]:
    with open_books(settings) as books:
        yield books


@contextmanager
def worker(settings: Settings, folder: Path, **more: str) -> Iterator[WorkerProcess]:
    limits = {"TASK_TIME_LIMIT_S": str(TIME_LIMIT_S), "VISIBILITY_TIMEOUT_S": "8", "TEST_RELEASE": "this one"}
    limits["WORKER_DATABASE_URL"] = (
        settings.url_of("worker") + "?" + urlencode({"options": LOCK_TIMEOUT}, quote_via=quote)
    )
    with worker_process(
        environment(settings) | limits | more, folder, app="tests.integration.poison_app", name=f"worker-{next(_names)}"
    ) as found:
        yield found


def publish(books: Books, *keys: str) -> None:
    books.worker.broker.celery.send_task(
        "ledgermill.post_journals",
        kwargs={"organization": "acme", "journals": [journal(key) for key in keys]},
        queue="posting",
    )


def met(books: Books) -> dict[str, int]:
    found: Any = books.worker.broker.redis.hgetall("test:met")
    return {key.decode(): int(count) for key, count in found.items()}


def paused(books: Books) -> bool:
    return bool(books.query("SELECT 1 FROM ledgermill.worker_release WHERE paused_at IS NOT NULL"))


def test_whatever_a_job_does_to_its_process_it_alone_is_quarantined_after_two_attempts_alone(
    books: Books, settings: Settings, tmp_path: Path
) -> None:
    good = [f"good-{batch}-{place}" for batch in range(20) for place in range(10)]
    with worker(settings, tmp_path) as process:
        for batch, what in enumerate(POISON):
            publish(books, *good[batch * 10 : batch * 10 + 7], f"{what}-1", *good[batch * 10 + 7 : batch * 10 + 10])
        for batch in range(len(POISON), 20):
            publish(books, *good[batch * 10 : batch * 10 + 10])
            time.sleep(0.1)

        eventually(lambda: len(books.outcomes()) == len(good) + len(POISON), within_s=60)

        assert process.process.poll() is None
        assert process.log.read_text().count("Unrecoverable error") == 0
    culprits = {f"{what}-1" for what in POISON}
    assert books.outcomes() == dict.fromkeys(good, "posted") | dict.fromkeys(culprits, "QUARANTINED")
    assert {key: count for key, count in met(books).items() if count > 4} == {}
    assert books.inbox() == []


@pytest.mark.parametrize("bug", ["kill", "bug"])
def test_a_release_that_posts_nothing_quarantines_nothing_and_the_next_goes_on(
    books: Books, settings: Settings, tmp_path: Path, bug: str
) -> None:
    keys = [f"{batch}-{place}" for batch in range(12) for place in range(10)]
    batches = [keys[start : start + 10] for start in range(0, len(keys), 10)]
    with worker(settings, tmp_path, TEST_BAD_RELEASE=bug) as process:
        for batch in batches[:8]:
            publish(books, *batch)
        eventually(lambda: paused(books), within_s=40)
        before = sum(met(books).values())
        for batch in batches[8:]:
            publish(books, *batch)
        time.sleep(6)
        tried = sum(met(books).values()) - before
        assert process.process.poll() is None
        assert "the worker pauses" in process.log.read_text()

    assert books.outcomes() == {}
    assert tried <= 10, "in a pause one job a second is tried"
    assert books.query("SELECT (SELECT sum(jobs - next_item) FROM ledgermill.inbox)::int") == [len(keys)]
    with worker(settings, tmp_path):
        eventually(lambda: len(books.outcomes()) == len(keys), within_s=40)
    assert books.outcomes() == dict.fromkeys(keys, "posted")
    assert not paused(books)


def test_a_job_at_fault_that_is_alone_in_the_system_waits_for_another_that_posts(
    books: Books, settings: Settings, tmp_path: Path
) -> None:
    with worker(settings, tmp_path):
        publish(books, "kill-alone")
        eventually(lambda: paused(books), within_s=30)
        assert books.outcomes() == {}

        publish(books, "another")
        eventually(lambda: len(books.outcomes()) == 2, within_s=30)
    assert books.outcomes() == {"another": "posted", "kill-alone": "QUARANTINED"}
