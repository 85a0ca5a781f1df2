"""What a posting transaction knows once it has waited for the posting lock: all that was committed meanwhile."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from running import Books, journal, open_books

from ledgermill.config import Settings
from ledgermill.domain.journals import POST_JOURNAL
from ledgermill.domain.plans import Batch
from ledgermill.messages import posting as messages
from ledgermill.runtime import Runtime, new_batch_id, now
from ledgermill.usecases import organizations, posting
from ledgermill.usecases.posting import NotActive, Work

WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.fixture
def books(settings: Settings) -> Iterator[Books]:
    with open_books(settings) as books:
        for key in ("before", "before-2"):  # from then on this process knows the ledgers, and drafts
            settle(books.worker, key)
        yield books


def settle(runtime: Runtime, *keys: str) -> None:
    requests = messages.read(POST_JOURNAL, [journal(key) for key in keys], new_key=str)
    posting.settle(runtime, 1, [Work(Batch(new_batch_id(), None, 1, None, now(), False, requests))])


def wait_until_one_waits(books: Books) -> None:
    for _ in range(500):
        with books.worker.engine.begin() as tx:  # each role sees what its own connections wait for
            if tx.exec_driver_sql(WAITING).scalar_one() == 1:
                return
        time.sleep(0.01)
    pytest.fail("nobody waits for the lock")


def test_a_draft_that_waited_for_the_lock_is_fitted_to_what_was_posted_meanwhile(
    books: Books, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Runtime(settings, role="worker")
    finish, is_written, may_commit = posting._finish, threading.Event(), threading.Event()
    fit, fitted = posting.posting.fit, []

    def finish_slowly(*arguments: Any) -> None:
        finish(*arguments)
        if threading.current_thread() is first:
            is_written.set()
            assert may_commit.wait(10)

    def counted(*arguments: Any, **named: Any) -> Any:
        fitted.append(fit(*arguments, **named))
        return fitted[-1]

    first = threading.Thread(target=settle, args=(other, "meanwhile-1", "meanwhile-2"))
    second = threading.Thread(target=settle, args=(books.worker, "waited"))
    monkeypatch.setattr(posting, "_finish", finish_slowly)
    monkeypatch.setattr(posting.posting, "fit", counted)
    first.start()
    assert is_written.wait(10)
    second.start()
    wait_until_one_waits(books)
    may_commit.set()
    first.join()
    second.join()
    other.close()

    assert fitted[-1] is not None
    assert len(fitted) == 1  # the one that waited; the other process knew no ledger yet
    assert [abs(after) for after in books.query(
        "SELECT balance_after FROM ledgermill.entry WHERE ledger_id = (SELECT ledger_id FROM ledgermill.ledger"
        " WHERE code = 'TILL') ORDER BY number")] == [100, 200, 300, 400, 500]  # fmt: skip


def test_an_organization_that_was_paused_while_a_batch_waited_for_the_lock_posts_it_no_more(books: Books) -> None:
    refused: list[BaseException] = []

    def try_to() -> None:
        try:
            settle(books.worker, "too-late")
        except NotActive as error:
            refused.append(error)

    with books.owner.engine.begin() as tx:
        organizations.set_state(tx, "acme", "paused")
        trying = threading.Thread(target=try_to)
        trying.start()
        wait_until_one_waits(books)
    trying.join()

    assert len(refused) == 1
    assert books.outcomes() == {"before": "posted", "before-2": "posted"}
