"""Others keep four fifths of their speed while a batch that kills its worker is taken apart."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Self

import pytest
from conftest import environment
from fleet import long
from running import Books, eventually, journal, open_books, worker_process

from ledgermill.config import Settings

ROUNDS = int(os.environ.get("LEDGERMILL_ROUNDS", "3"))
JOURNALS = 100
WAITING = 20  # messages that always wait, so that the worker is never idle
LEAST_RATIO = 0.8
PLACEHOLDER = "@@@@@@@@"


def message(prefix: str, *, count: int) -> bytes:
    """A message as any producer sends it, of journals whose keys have a prefix."""
    body = [[], {"organization": "acme", "journals": [journal(f"{prefix}-{n}") for n in range(count)]}, None]
    return json.dumps(
        {
            "body": json.dumps(body),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"id": f"id-{prefix}", "task": "ledgermill.post_journals"},
            "properties": {"delivery_info": {"exchange": "", "routing_key": "posting"}, "delivery_tag": prefix},
        }
    ).encode()


class Stream:
    """Good batches without end: as many are published as are taken."""

    def __init__(self, books: Books) -> None:
        self.books, self.redis, self.published = books, books.worker.broker.redis, 0
        self._template = message(PLACEHOLDER, count=JOURNALS)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def posted(self) -> int:
        found: int = self.books.query("SELECT next_position FROM ledgermill.posting_lock")[0]
        return found

    def _run(self) -> None:
        while not self._is_over.wait(0.01):
            raws = []
            for _ in range(WAITING - int(self.redis.llen("posting"))):  # type: ignore[arg-type]  # sync client
                self.published += 1
                raws.append(self._template.replace(PLACEHOLDER.encode(), b"%08d" % self.published))
            if raws:
                self.redis.lpush("posting", *raws)


def rate(stream: Stream, until: Any) -> tuple[float, float]:
    """Journals a second until something is so, and how long that took."""
    started, before = time.monotonic(), stream.posted()
    while not until():
        assert time.monotonic() - started < 100
        time.sleep(0.05)
    took_s = time.monotonic() - started
    return (stream.posted() - before) / took_s, took_s


@long
@pytest.mark.timeout(300)
def test_others_keep_four_fifths_of_their_speed_while_poison_is_taken_apart(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = "tests.integration.poison_app"
    with (
        open_books(settings) as books,
        worker_process(environment(settings), tmp_path, app=app) as worker,
        Stream(books) as stream,
    ):
        eventually(lambda: stream.posted() > 5_000, within_s=30)
        clean, poisoned = [], []
        for number in range(ROUNDS):
            poison = json.loads(message(f"good-{number}", count=20))
            poison["body"] = poison["body"].replace(f"good-{number}-11", f"kill-{number}")
            books.worker.broker.redis.lpush("posting", json.dumps(poison))
            poisoned.append(rate(stream, lambda: count_quarantined(books) == number + 1))  # noqa: B023
            lasts_until = time.monotonic() + max(2.0, poisoned[-1][1])
            clean.append(rate(stream, lambda: time.monotonic() > lasts_until))  # noqa: B023
        deaths = books.worker.broker.redis.hvals("test:met")
        assert worker.process.poll() is None
    ratio = (sum(r * s for r, s in poisoned) / sum(s for _, s in poisoned)) / (
        sum(r * s for r, s in clean) / sum(s for _, s in clean)
    )
    with capsys.disabled():
        print(f"\npoisoned: {' '.join(f'{r:.0f}/s for {s:.1f} s' for r, s in poisoned)}")
        print(f"clean: {' '.join(f'{r:.0f}/s' for r, _ in clean)}; ratio={ratio:.2f} deaths={[int(d) for d in deaths]}")
    assert ratio >= LEAST_RATIO


def count_quarantined(books: Books) -> int:
    found: int = books.query("SELECT count(*) FROM ledgermill.job WHERE state = 'quarantined'")[0]
    return found
