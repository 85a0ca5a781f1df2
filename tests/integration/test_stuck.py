"""Processes that stand still: a stale worker commits nothing, and one that makes no progress ends and is started again."""

import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from conftest import environment
from running import Books, WorkerProcess, eventually, journal, open_books, worker_process

from ledgermill.config import Settings
from workers import intake

TIME_LIMIT_S = 2
LIMITS = {"TASK_TIME_LIMIT_S": str(TIME_LIMIT_S), "VISIBILITY_TIMEOUT_S": "5"}
ENDS_WITHIN_S = intake.STUCK_AFTER * TIME_LIMIT_S + 20  # a machine that does much else


@pytest.fixture
def books(settings: Settings) -> Iterator[Books]:
    with open_books(settings) as books:
        yield books


def publish(books: Books, *keys: str) -> None:
    books.worker.broker.celery.send_task(
        "ledgermill.post_journals",
        kwargs={"organization": "acme", "journals": [journal(key) for key in keys]},
        queue="posting",
    )


@contextmanager
def worker(settings: Settings, folder: Path, name: str = "worker", **more: str) -> Iterator[WorkerProcess]:
    with worker_process(
        environment(settings) | LIMITS | more, folder, app="tests.integration.poison_app", name=name
    ) as found:
        yield found


@pytest.mark.parametrize("enter", ["message", "inbox"])
def test_a_worker_that_stood_still_beyond_its_lease_commits_nothing_that_another_has_done(
    books: Books, settings: Settings, tmp_path: Path, enter: str
) -> None:
    with worker(settings, tmp_path, "stale") as stale:
        if enter == "message":
            publish(books, "slow", "next")
        else:
            books.accept(journal("slow"), journal("next"))
            books.worker.broker.ring(0)
        at_work = int(eventually(lambda: books.worker.broker.redis.get("test:slow")))
        stopped = [stale.process.pid, *stale.children()]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            with worker(settings, tmp_path, "other"):
                eventually(lambda: len(books.outcomes()) == 2, within_s=40)
            before = books.query("SELECT job_id, position, ended_at FROM ledgermill.job ORDER BY 1")
        finally:
            os.kill(at_work, signal.SIGCONT)
            time.sleep(2.5)  # alone, so that nobody ends it: it goes on to its transaction
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        time.sleep(1)  # its watchdog may end it, which is as good
    with worker(settings, tmp_path, "later"):
        publish(books, "later")
        eventually(lambda: "later" in books.outcomes(), within_s=30)

    assert books.query("SELECT job_id, position, ended_at FROM ledgermill.job ORDER BY 1")[:2] == before
    assert books.outcomes() == dict.fromkeys(["slow", "next", "later"], "posted")
    assert books.till() == 300
    assert books.inbox() == []


def test_a_worker_whose_pool_stands_still_ends_and_the_next_posts_everything(
    books: Books, settings: Settings, tmp_path: Path
) -> None:
    # Only posting: a process that has a sweep at work when it stands still is ended by the time limit, sooner than this.
    with worker_process(
        environment(settings) | LIMITS, tmp_path, queues="posting", name="stuck", with_beat=False
    ) as stuck:
        for pid in stuck.children():
            os.kill(pid, signal.SIGSTOP)
        publish(books, "a", "b")
        books.accept(journal("c"))
        started = time.monotonic()

        eventually(lambda: stuck.process.poll() is not None, within_s=ENDS_WITHIN_S)
        ended_after_s = time.monotonic() - started
        assert stuck.process.returncode == intake.EXIT_STUCK

    with worker(settings, tmp_path):
        eventually(lambda: len(books.outcomes()) == 3, within_s=30)
    print(f"a pool that stood still: the worker ended after {ended_after_s:.1f} s")
    assert books.outcomes() == dict.fromkeys("abc", "posted")


class Proxy:
    """A way to a server that can stand still: connections stay, and nothing passes any more."""

    def __init__(self, host: str, port: int) -> None:
        self._to = host, port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.flows = threading.Event()
        self.flows.set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._is_over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._is_over = True
        self.flows.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _run(self) -> None:
        while not self._is_over:
            self.flows.wait()
            for key, _ in self._selector.select(timeout=0.05):
                self._pass_on(key.fileobj, key.data)  # type: ignore[arg-type]

    def _pass_on(self, source: socket.socket, target: socket.socket | None) -> None:
        if source.fileno() < 0:
            return  # its other end was closed a moment ago
        if target is None:
            client, server = self._listening.accept()[0], socket.create_connection(self._to)
            self._selector.register(client, selectors.EVENT_READ, server)
            self._selector.register(server, selectors.EVENT_READ, client)
            return
        try:
            found = source.recv(65_536)
            target.sendall(found)
        except OSError:
            found = b""
        if not found:
            for end in (source, target):
                self._selector.unregister(end)
                end.close()


@pytest.fixture
def proxy(settings: Settings) -> Iterator[Proxy]:
    parts = urlsplit(settings.url_of("worker"))
    proxy = Proxy(parts.hostname or "", parts.port or 0)
    yield proxy
    proxy.close()


def test_a_worker_whose_database_hangs_ends_and_the_next_posts_everything_once_it_answers(
    books: Books, settings: Settings, tmp_path: Path, proxy: Proxy
) -> None:
    parts = urlsplit(settings.url_of("worker"))
    through = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}")
    variables = {"WORKER_DATABASE_URL": urlunsplit(through)}
    keys = [f"{n}" for n in range(20)]
    with worker(settings, tmp_path, **variables) as hanging:
        publish(books, *keys[:10])
        eventually(lambda: len(books.outcomes()) == 10)
        proxy.flows.clear()
        publish(books, *keys[10:])
        started = time.monotonic()

        eventually(lambda: hanging.process.poll() is not None, within_s=ENDS_WITHIN_S)
        ended_after_s = time.monotonic() - started
        assert hanging.process.returncode == intake.EXIT_STUCK

    with worker(settings, tmp_path, **variables) as next_one:
        time.sleep(3)
        proxy.flows.set()
        eventually(lambda: len(books.outcomes()) == 20, within_s=30)
        assert next_one.process.poll() is None
    print(f"a database that hung: the worker ended after {ended_after_s:.1f} s")
    assert books.outcomes() == dict.fromkeys(keys, "posted")
