"""One posting transaction: what it writes is what was asked, whether drafted or planned, and what it does when refused."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from running import Books, journal, open_books, refusing

from ledgermill.config import Settings
from ledgermill.domain.journals import POST_JOURNAL
from ledgermill.domain.plans import Batch
from ledgermill.messages import posting as messages
from ledgermill.runtime import Runtime, new_batch_id, now
from ledgermill.storage import posting_lock
from ledgermill.usecases import posting
from ledgermill.usecases.posting import Work

ODD_TEXTS = (
    "\t\n\r\b\v\f\\",
    r"\N \. \\ \t \x41 \101",
    r"\.",
    "{1,2}",
    "'\"%s",
    "Ω\u2028𝄞\x7f",
    " ",
)


@pytest.fixture
def books(settings: Settings) -> Iterator[Books]:
    with open_books(settings) as books:
        yield books


def settle(books: Books, *works: Work) -> None:
    posting.settle(books.worker, 1, works)


def work(*items: dict[str, Any]) -> Work:
    requests = messages.read(POST_JOURNAL, list(items), new_key=str)
    return Work(Batch(new_batch_id(), None, 1, None, now(), False, requests))


@pytest.mark.parametrize("is_drafted", [False, True])
def test_every_text_arrives_as_it_was_sent(books: Books, is_drafted: bool) -> None:
    if is_drafted:
        settle(books, work(journal("before")))  # from then on this process knows the ledgers, and drafts
    items = [
        journal(
            f"{place}-\\N\\",
            transaction={"type": "t\\t", "description": text, "reference_id": "\\.", "metadata": {"note": text}},
        )
        for place, text in enumerate(ODD_TEXTS)
    ]

    settle(books, work(*items))

    assert books.query("""
        SELECT idempotency_key, type, description, reference_id, metadata ->> 'note' FROM ledgermill.job
        WHERE state = 'posted' AND idempotency_key <> 'before' ORDER BY position""") == [
        (f"{place}-\\N\\", "t\\t", text, "\\.", text) for place, text in enumerate(ODD_TEXTS)
    ]


def test_a_drafted_row_is_the_row_that_planning_under_the_lock_writes(books: Books) -> None:
    items = [
        journal(f"k{n}", n + 1, transaction={"reference_id": f"r{n}", "timestamp": "2026-01-02T03:04:05Z"})
        for n in range(4)
    ]
    for half in (items[:2], items[2:]):  # the first is planned, the second drafted
        settle(books, work(*half))

    rows = books.query("SELECT * FROM ledgermill.job ORDER BY position")
    entries = books.query("SELECT ledger_id, number, position, balance_after FROM ledgermill.entry ORDER BY 1, 2")

    vary = {"job_id", "idempotency_key", "fingerprint", "accepted_at", "ended_at", "position", "total", "reference_id"}
    names = books.query(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'ledgermill' AND table_name = 'job'"
        " ORDER BY ordinal_position")  # fmt: skip
    alike = [
        {name: value for name, value in zip(names, row, strict=True) if name not in vary | {"entry_numbers"}}
        for row in rows
    ]
    assert alike == [alike[0]] * 4
    assert [row[names.index("entry_numbers")] for row in rows] == [[1, 1], [2, 2], [3, 3], [4, 4]]
    assert [(number, position, abs(after)) for _, number, position, after in entries] == 2 * [
        (1, 1, 1),
        (2, 2, 3),
        (3, 3, 6),
        (4, 4, 10),
    ]


def test_the_booking_time_is_read_after_the_wait_for_the_lock(books: Books) -> None:
    waited: list[posting_lock.Held] = []

    def wait() -> None:
        with books.worker.engine.begin() as tx:
            waited.append(posting_lock.take(tx, 1))

    with books.owner.engine.begin() as tx:
        posting_lock.take(tx, 1)
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.3)
        released_at = datetime.now(UTC)
    waiting.join()

    assert waited[0].booking_time >= released_at


def test_one_job_that_the_database_refuses_among_many_works_is_found_by_halves(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, transactions = posting._commit, []

    def counted(runtime: Runtime, organization_id: int, works: Any, timings: Any) -> Any:
        transactions.append(len(works))
        return commit(runtime, organization_id, works, timings)

    monkeypatch.setattr(posting, "_commit", counted)

    with refusing(books, "entry", "new.amount = 666", sqlstate="22003"):
        settle(books, *(work(journal(f"k{n}", 666 if n == 77 else 1)) for n in range(128)))

    assert len(transactions) <= 16  # 128, then two of each half, and the refused one again
    assert books.query("SELECT idempotency_key, code FROM ledgermill.job WHERE state = 'rejected'") == [
        ("k77", "DATABASE_REFUSED")
    ]
    assert books.query("SELECT count(*) FROM ledgermill.job WHERE state = 'posted'") == [127]
    posted = books.query("SELECT idempotency_key FROM ledgermill.job WHERE state = 'posted' ORDER BY position")
    assert posted == [f"k{n}" for n in range(128) if n != 77]  # in the order of the works
