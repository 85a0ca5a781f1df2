"""The key of an entry begins with its number: books that began with another key are brought to this one, and stay whole."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from conftest import Servers
from running import CHART, journal
from sqlalchemy.exc import IntegrityError

from ledgermill.config import Settings, with_login
from ledgermill.domain.journals import POST_JOURNAL
from ledgermill.domain.plans import Batch
from ledgermill.messages import posting as messages
from ledgermill.messages.fields import read_reference
from ledgermill.runtime import Runtime, new_batch_id, now
from ledgermill.storage import migrations, roles
from ledgermill.usecases import charts, ledgers, organizations, posting
from ledgermill.usecases.posting import Work
from ledgermill.usecases.verify import verify

BEFORE = "0007"  # the last revision with entries by ledger first
KEY = """
    SELECT pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conname = 'entry_pkey' AND conrelid = 'ledgermill.entry'::regclass AND convalidated
"""
PLACES = "SELECT ledger_id, number, position, line, amount, balance_after FROM ledgermill.entry ORDER BY 1, 2"


class Books:
    """The books of one organization in a database of the revision before."""

    def __init__(self, settings: Settings) -> None:
        self.owner, self.worker = Runtime(settings, role="owner"), Runtime(settings, role="worker")
        with self.owner.engine.begin() as tx:
            tx.exec_driver_sql("CREATE SCHEMA ledgermill")
            config = migrations._config()
            config.attributes["connection"] = tx
            command.upgrade(config, BEFORE)
        with self.owner.engine.begin() as tx:
            organizations.create(tx, code="acme", name="Acme", base_currency="EUR", time_zone="UTC")
            opened: Any = [(item["code"], item) for item in CHART]
            charts.open_chart(tx, 1, opened, principal_id=1)

    def post(self, name: str, count: int) -> None:
        items = [journal(f"{name}-{n}", n + 1) for n in range(count)]
        requests = messages.read(POST_JOURNAL, items, new_key=str)
        posting.settle(self.worker, 1, [Work(Batch(new_batch_id(), None, 1, None, now(), False, requests))])

    def query(self, statement: str) -> list[Any]:
        with self.owner.engine.begin() as tx:
            return [tuple(row) for row in tx.exec_driver_sql(statement)]

    def close(self) -> None:
        self.worker.close()
        self.owner.close()


@pytest.fixture
def books(servers: Servers, tmp_path: Path) -> Iterator[Books]:
    name = "books_of_before"
    url = servers.postgres.url.rpartition("/")[0] + "/" + name
    settings = Settings(
        database_url=url,
        worker_database_url=with_login(url, user=roles.WORKER, password=servers.logins[roles.WORKER]),
        broker_url=servers.redis.url,
        ledgermill_home=tmp_path,
    )
    with (
        psycopg.connect(servers.postgres.url, autocommit=True) as connection,
        psycopg.connect(servers.postgres.superuser_url, autocommit=True) as superuser,  # may end autovacuum's workers
    ):
        connection.execute(f"CREATE DATABASE {name}")
        found = Books(settings)
        yield found
        found.close()
        superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")


def numbers(books: Books, *, below: int | None = None, limit: int = 1_000) -> list[int]:
    """Of the till's entries, newest first, as the API shows them."""
    with books.owner.engine.begin() as tx:
        page = ledgers.entries_of(tx, 1, read_reference("TILL"), below_number=below, limit=limit)
    return [entry.number for entry in page.entries]


def test_books_with_entries_are_brought_to_the_key_and_are_read_and_written_at_once(books: Books) -> None:
    books.post("before", 300)
    places = books.query(PLACES)
    shown = numbers(books)
    assert books.query(KEY) == [("PRIMARY KEY (organization_id, ledger_id, number)",)]

    migrations.upgrade(books.owner.engine)

    assert books.query(KEY) == [("PRIMARY KEY (organization_id, number, ledger_id)",)]
    assert books.query(PLACES) == places
    assert numbers(books) == shown == list(range(300, 0, -1))
    books.post("after", 300)
    assert numbers(books) == list(range(600, 0, -1))
    assert numbers(books, below=310, limit=20) == list(range(309, 289, -1))
    report = verify(books.owner.engine)
    assert report.is_clean, report.as_text()


def test_a_worker_posts_on_while_the_key_is_changed(books: Books) -> None:
    books.post("first", 100)
    under_way = threading.Event()

    def go_on() -> None:
        for number in range(20):
            books.post(f"meanwhile-{number}", 10)
            under_way.set()

    with ThreadPoolExecutor(1) as threads:
        posted = threads.submit(go_on)
        under_way.wait(10)
        migrations.upgrade(books.owner.engine)
        posted.result()

    assert numbers(books) == list(range(300, 0, -1))
    report = verify(books.owner.engine)
    assert report.is_clean, report.as_text()


def test_a_ledger_has_each_number_once(books: Books) -> None:
    books.post("first", 3)
    migrations.upgrade(books.owner.engine)
    again = "INSERT INTO ledgermill.entry SELECT * FROM ledgermill.entry WHERE number = 2"

    with pytest.raises(IntegrityError, match="entry_pkey"), books.worker.engine.begin() as tx:
        tx.exec_driver_sql(again)


@pytest.mark.parametrize("number", [1, 2, 100, 2**31, 2**62])
def test_a_page_of_entries_ends_at_the_first(books: Books, number: int) -> None:
    books.post("first", 50)
    migrations.upgrade(books.owner.engine)

    assert numbers(books, below=number, limit=10) == list(
        range(min(number - 1, 50), max(0, min(number - 1, 50) - 10), -1)
    )
