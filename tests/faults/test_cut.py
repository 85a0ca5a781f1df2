"""Connections that break, hang or lose the answer to COMMIT: what a worker and an API make of it."""

import os
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from fleet import Fleet, ended, fleet, long, new_books, proxied, publish, require_posted_once
from proxy import Proxy, through
from running import eventually, journal

from ledgermill.config import Settings
from ledgermill.embedded.postgres import PostgresServer
from ledgermill.embedded.redis import RedisServer
from ledgermill.errors import BrokerUnavailable
from ledgermill.producer import Producer
from ledgermill.storage import connections


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Proxy]:
    with Proxy(postgres_server.port, speaks="postgres") as proxy:
        yield proxy


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[Proxy]:
    with Proxy(redis_server.port, speaks="redis") as proxy:
        yield proxy


@pytest.fixture
def programs(settings: Settings, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(settings.model_copy(update={"visibility_timeout_s": 6, "task_time_limit_s": 4}), tmp_path) as found:
        yield found


@pytest.mark.parametrize("how", ["simple", "extended", "prepared", "pipelined"])
def test_a_swallowed_answer_leaves_the_row_committed_and_the_client_without_an_answer(
    how: str, database: Proxy, settings: Settings
) -> None:
    url = through(settings.url_of("owner"), database)
    with psycopg.connect(url, autocommit=True) as connection, psycopg.connect(settings.url_of("owner")) as beside:
        connection.execute("CREATE TABLE seen (n int)")
        if how == "prepared":
            connection.execute("BEGIN", prepare=True)
            connection.execute("COMMIT", prepare=True)
        database.swallow_answer("COMMIT")
        with pytest.raises(psycopg.OperationalError):
            _commit_a_row(connection, how)

        assert beside.execute("SELECT n FROM seen").fetchall() == [(1,)]
        assert database.counts["swallowed"] == database.counts["committed"] == 1


def _commit_a_row(connection: psycopg.Connection[Any], how: str) -> None:
    if how == "pipelined":
        with connection.pipeline():
            for statement in ("BEGIN", "INSERT INTO seen VALUES (1)", "COMMIT"):
                connection.execute(statement)
    else:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO seen VALUES (1)")
        connection.execute("COMMIT", [] if how == "extended" else None, prepare=how == "prepared")


@pytest.mark.parametrize("statement", ["INSERT INTO seen VALUES (1)", "COPY seen FROM STDIN"])
def test_a_made_up_error_reaches_the_client_and_the_connection_goes_on(
    statement: str, database: Proxy, settings: Settings
) -> None:
    with psycopg.connect(through(settings.url_of("owner"), database), autocommit=True) as connection:
        connection.execute("CREATE TABLE seen (n int)")
        for parameters, prepare in ((None, False), ([], False), ([], True)):
            database.answer_error(statement[:4], sqlstate="53100")
            with pytest.raises(psycopg.errors.DiskFull), connection.transaction():  # noqa: PT012 - it rolls back
                if statement.startswith("COPY"):
                    with connection.cursor().copy(statement, parameters):
                        pass
                else:
                    connection.execute(statement, parameters, prepare=prepare)
            connection.execute("INSERT INTO seen VALUES (2)")

        assert connection.execute("SELECT sum(n) FROM seen").fetchone() == (6,)
        assert database.counts["refused"] == 3


def test_a_worker_whose_commits_are_answered_by_a_dead_connection_posts_each_journal_once(
    database: Proxy, programs: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    system = programs.system()
    new_books(system)
    programs.worker(settings=proxied(programs.settings, postgres=database))
    keys = [f"m-{n}" for n in range(200)]

    for start in range(0, len(keys), 10):
        database.swallow_answer("COMMIT")
        publish(system, keys[start : start + 10], each=2)
        time.sleep(0.05)

    require_posted_once(system, keys)
    assert database.counts["committed"] >= 5
    assert "failed for a reason" not in programs.log("worker")
    with capsys.disabled():
        print(f"\ncommit answers swallowed: {dict(database.counts)}")


def test_a_worker_whose_connections_are_cut_anywhere_posts_each_journal_once(
    database: Proxy, broker: Proxy, programs: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    system = programs.system()
    new_books(system)
    process = programs.worker(settings=proxied(programs.settings, postgres=database, redis=broker))
    chance = random.Random(1)
    keys = [f"m-{n}" for n in range(400)]

    for start in range(0, len(keys), 10):
        publish(system, keys[start : start + 10], each=5)
        proxy = chance.choice([database, broker])
        if chance.random() < 0.5:
            proxy.reset()
        else:
            proxy.cut_after(chance.choice([0, 1, 40, 300, 1_000, 3_000]))
        time.sleep(0.05)
    for proxy in (database, broker):
        proxy.calm()

    require_posted_once(system, keys)
    assert process.poll() is None
    with capsys.disabled():
        print(f"\ncuts: database {dict(database.counts)}, broker {dict(broker.counts)}")
    assert database.counts["reset"] + database.counts["cut_after"] >= 5
    assert broker.counts["reset"] + broker.counts["cut_after"] >= 10


# Of the database the time limit of a task makes an end; of the broker, kombu after half a minute.
@long
@pytest.mark.parametrize(
    ("which", "limits"), [("database", {}), ("broker", {"visibility_timeout_s": 30, "task_time_limit_s": 20})]
)
def test_a_worker_gives_up_connections_that_hang_and_goes_on_with_new_ones(
    which: str,
    limits: dict[str, int],
    database: Proxy,
    broker: Proxy,
    programs: Fleet,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As behind a proxy or host that stands still: the kernel there says yes to everything, and nobody answers."""
    system = programs.system()
    new_books(system)
    known = programs.settings.model_copy(update=limits)
    programs.worker(settings=proxied(known, postgres=database, redis=broker))
    publish(system, ["before"])
    eventually(lambda: ended(system, ["before"]))

    hanging = (database if which == "database" else broker).half_open()
    started = time.monotonic()
    publish(system, ["after"])

    require_posted_once(system, ["before", "after"], within_s=60)
    with capsys.disabled():
        print(f"\n{which}: {hanging} connections hang; a journal was posted after {time.monotonic() - started:.1f} s")


@long
def test_a_producer_notices_within_10_s_that_its_broker_does_not_answer(
    broker: Proxy, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with Producer(through(settings.broker_url.get_secret_value(), broker), "acme") as producer:
        producer.post_many([journal("first")])
        took_s = []
        for how in ("half-open", "silent"):
            broker.half_open() if how == "half-open" else broker.blackhole(30)
            started = time.monotonic()
            with suppress(BrokerUnavailable):
                producer.post_many([journal(how)])
            took_s.append(time.monotonic() - started)
        broker.calm()
    with capsys.disabled():
        print(f"\npublishing: half-open {took_s[0]:.1f} s, silent {took_s[1]:.1f} s")
    assert max(took_s) <= 10.5


@long
@pytest.mark.parametrize("which", ["database", "broker"])
def test_an_api_whose_connections_hang_answers_again_within_a_minute(
    which: str, database: Proxy, broker: Proxy, programs: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    url = programs.api(settings=proxied(programs.settings, postgres=database, redis=broker))
    system = programs.system(api_url=url)
    acme = system.new_organization()
    programs.worker()
    assert acme.post(journal("before")).status_code == 201

    (database if which == "database" else broker).half_open()
    started = time.monotonic()
    answers = []
    while not answers or answers[-1] != 201:
        assert time.monotonic() - started < 60, answers
        try:
            answers.append(_post(url, acme.key))
        except httpx2.TransportError as error:
            answers.append(type(error).__name__)
        time.sleep(0.2)
    with capsys.disabled():
        print(
            f"\napi, {which} hangs: posted again after {time.monotonic() - started:.1f} s; answers {Counter(answers)}"
        )


def _post(url: str, key: str) -> int:
    answer = httpx2.post(f"{url}/v1/ledgers/journals", json=journal("after"), headers={"X-API-Key": key}, timeout=6)
    return answer.status_code


@pytest.mark.parametrize("role", ["owner", "worker", "api"])
def test_connections_to_the_database_notice_a_host_that_is_gone(role: str, settings: Settings) -> None:
    """What a test on one machine cannot show: the kernel gives up after 10 s without an acknowledgement."""
    engine = connections.engine(settings.url_of(role))
    with engine.connect() as tx:
        fileno = connections.raw(tx).fileno()
        with socket.socket(fileno=os.dup(fileno)) as found:
            options = {
                name: found.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                for name in ("TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
            }
            keeps_alive = found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    engine.dispose()

    assert keeps_alive
    assert options["TCP_USER_TIMEOUT"] <= 10_000
    assert options["TCP_KEEPIDLE"] + options["TCP_KEEPINTVL"] * options["TCP_KEEPCNT"] <= 15
