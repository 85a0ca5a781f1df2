"""Delivery: whatever happens to a message, its worker or the database, each of its jobs ends once, and as it should."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from running import CHART, Books, journal, open_books, refusing
from sqlalchemy import event

from ledgermill.config import Settings
from ledgermill.messages import routes
from ledgermill.runtime import new_batch_id, now
from ledgermill.usecases import charts, delivery, organizations


@pytest.fixture
def books(settings: Settings) -> Iterator[Books]:
    with open_books(settings) as books:
        yield books


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


def test_a_lock_that_others_hold_for_some_seconds_is_waited_for(books: Books, settings: Settings) -> None:
    with psycopg.connect(settings.url_of("owner")) as other:
        other.execute("SELECT 1 FROM ledgermill.posting_lock FOR UPDATE")
        release = threading.Timer(2.5, other.rollback)  # the worker's lock_timeout is 2 s
        release.start()
        books.deliver(journal("patient"))
        release.join()

    assert books.outcomes() == {"patient": "posted"}


def test_where_the_database_refuses_one_job_only_that_is_rejected(books: Books) -> None:
    keys = ["a", "b", "bad", "c", "d"]

    with refusing(books, "job", "new.idempotency_key = 'bad' AND new.state = 'posted'", sqlstate="23514"):
        books.deliver(*(journal(f"{key}", 3) for key in keys))
        books.accept(*(journal(f"{key}-2", 3) for key in keys))
        books.look()

    expected = dict.fromkeys((*keys, *(f"{key}-2" for key in keys)), "posted") | {"bad": "DATABASE_REFUSED"}
    assert books.outcomes() == expected
    assert books.till() == 3 * 9


def test_what_the_database_refuses_among_batches_of_several_clients_harms_only_the_one(books: Books) -> None:
    for client in range(3):
        books.accept(*(journal(f"{client}-{n}", 666 if (client, n) == (1, 2) else 3) for n in range(5)))

    with refusing(books, "entry", "new.amount = 666", sqlstate="22003"):
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


def test_a_message_that_comes_back_twice_finds_its_replays_there(books: Books) -> None:
    books.deliver(journal("a"), journal("b"))
    published_again = str(new_batch_id())  # by a Producer that did not see them arrive
    for _ in range(2):
        books.deliver(journal("a"), journal("b"), is_redelivered=True, message_id=published_again)
        books.look()

    assert books.inbox() == []
    assert books.outcomes() == {"a": "posted", "b": "posted"}
    assert books.query("SELECT count(*) FROM ledgermill.replay") == [2]


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
