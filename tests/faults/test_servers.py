"""Servers that move, fill up, refuse to write or hold a lock for long: nothing is lost, nothing is posted twice."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fleet import Fleet, ended, fleet, long, new_books, proxied, publish, require_posted_once
from proxy import Proxy
from redis import Redis
from redis.exceptions import RedisError
from running import System, eventually, journal

from ledgermill.broker.publishing import redis_client
from ledgermill.config import Settings
from ledgermill.embedded.postgres import PostgresServer
from ledgermill.embedded.redis import RedisServer
from ledgermill.storage import roles


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Proxy]:
    with Proxy(postgres_server.port, speaks="postgres") as proxy:
        yield proxy


@pytest.fixture
def programs(settings: Settings, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(settings.model_copy(update={"visibility_timeout_s": 6, "task_time_limit_s": 4}), tmp_path) as found:
        yield found


@pytest.fixture
def superuser(postgres_server: PostgresServer, settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    """In the database of the test."""
    url = postgres_server.superuser_url.rpartition("/")[0] + "/" + settings.url_of("owner").rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def redis(redis_server: RedisServer, settings: Settings) -> Iterator[Redis]:
    """The broker, which is as it was after the test."""
    with redis_client(redis_server.url) as client:
        yield client
        client.replicaof("NO", "ONE")
        client.config_set("maxmemory", 0)


@long
def test_a_worker_and_an_api_follow_the_database_to_another_address(
    database: Proxy, programs: Fleet, postgres_server: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second proxy stands for the new address: both lead to the same data, as after a fail-over without loss."""
    with Proxy(postgres_server.port, speaks="postgres") as promoted:
        known = proxied(programs.settings, postgres=database)
        url = programs.api(settings=known)
        system = programs.system(api_url=url)
        acme = system.new_organization()
        programs.worker(settings=known)
        keys = [f"k-{n}" for n in range(60)]
        for n, key in enumerate(keys):
            if n == 20:
                database.turn_away()
                database.reset()
                moved = time.monotonic()
            if n == 40:
                database.switch_to(promoted.port)
                database.turn_away(False)
            acme.publish([journal(key)])
            time.sleep(0.02)
        eventually(lambda: len(ended(system, keys)) == len(keys), within_s=30)
        took_s = time.monotonic() - moved

        assert set(ended(system, keys).values()) == {"posted"}
        eventually(lambda: acme.get("/v1/ledgers/TILL/balance").status_code == 200)
        assert acme.balance("TILL") == 100 * len(keys)
        assert promoted.counts["connections"] >= 2
        with capsys.disabled():
            print(f"\naddress changed: all posted {took_s:.1f} s after the old one died")


@long
def test_a_database_that_only_reads_delays_jobs_and_rejects_none(
    programs: Fleet, superuser: psycopg.Connection[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """As a standby that is not promoted yet."""
    url = programs.api()
    system = programs.system(api_url=url)
    acme = system.new_organization()
    programs.worker()
    keys = [f"k-{n}" for n in range(20)]

    _make_read_only(superuser, "on")
    for key in keys[:10]:
        acme.publish([journal(key)])
    refused = [acme.post(journal("http"), prefer="respond-async").status_code for _ in range(3)]
    time.sleep(4)
    assert ended(system, keys) == {}
    _make_read_only(superuser, "off")
    for key in keys[10:]:
        acme.publish([journal(key)])

    with capsys.disabled():
        print(f"\nread-only database: HTTP answered {refused}")
    eventually(lambda: len(ended(system, keys)) == len(keys), within_s=30)
    assert set(ended(system, keys).values()) == {"posted"}
    assert set(refused) == {503}


def _make_read_only(superuser: psycopg.Connection[Any], state: str) -> None:
    name = superuser.info.dbname
    superuser.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {state}')
    superuser.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND usename = ANY(%s)",
        [name, list(roles.LOGINS)],
    )


def test_a_broker_that_is_a_replica_delays_jobs_and_loses_none(
    programs: Fleet, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    url = programs.api()
    system = programs.system(api_url=url)
    acme = system.new_organization()
    worker = programs.worker()
    keys = [f"k-{n}" for n in range(20)]
    for key in keys[:5]:
        acme.publish([journal(key)])

    redis.replicaof("127.0.0.1", "9")  # nobody there: it keeps its data, reads, and refuses to write
    with pytest.raises(RedisError, match="replica"):
        redis.lpush("posting", "x")
    started = time.monotonic()
    answers = [acme.post(journal(key), prefer="respond-async").status_code for key in keys[5:15]]
    accepting_s = time.monotonic() - started
    time.sleep(3)
    redis.replicaof("NO", "ONE")
    started = time.monotonic()
    for key in keys[15:]:
        acme.publish([journal(key)])

    assert {job["state"] for job in acme.ended(keys, within_s=40).values()} == {"posted"}
    assert acme.balance("TILL") == 100 * len(keys)
    with capsys.disabled():
        print(
            f"\nread-only broker: 10 requests accepted in {accepting_s:.1f} s; all posted {time.monotonic() - started:.1f} s after"
        )
    assert set(answers) == {202}
    assert worker.poll() is None


@long
def test_a_full_broker_delays_jobs_and_loses_none(
    programs: Fleet, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    url = programs.api()
    system = programs.system(api_url=url)
    acme = system.new_organization()
    worker = programs.worker()
    keys = [f"k-{n}" for n in range(15)]
    for key in keys[:5]:
        acme.publish([journal(key)])

    redis.config_set("maxmemory", 1_000)
    answers = [acme.post(journal(key), prefer="respond-async").status_code for key in keys[5:10]]
    time.sleep(3)
    redis.config_set("maxmemory", 0)
    started = time.monotonic()
    for key in keys[10:]:
        acme.publish([journal(key)])

    assert {job["state"] for job in acme.ended(keys, within_s=40).values()} == {"posted"}
    assert acme.balance("TILL") == 100 * len(keys)
    with capsys.disabled():
        print(f"\nfull broker: all posted {time.monotonic() - started:.1f} s after it has room again")
    assert set(answers) == {202}
    assert worker.poll() is None


@long
@pytest.mark.parametrize("held_s", [3, 30])
def test_a_session_that_holds_the_posting_lock_delays_jobs_and_rejects_none(
    held_s: float, programs: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    """Longer than the lock timeout of 2 s; then longer than a task may last."""
    system = programs.system()
    new_books(system)
    programs.worker()
    keys = [f"k-{n}" for n in range(10)]

    with _holding(system, "SELECT 1 FROM ledgermill.posting_lock FOR NO KEY UPDATE"):
        publish(system, keys)
        time.sleep(held_s)
        assert ended(system, keys) == {}
    started = time.monotonic()

    require_posted_once(system, keys)
    log = programs.log("worker")
    with capsys.disabled():
        print(
            f"\nlock held {held_s} s: posted {time.monotonic() - started:.1f} s after; "
            f"55P03 {log.count('sqlstate=55P03')}, time limits {log.count('TimeLimitExceeded')}"
        )
    assert "55P03" in log


@long
def test_a_statement_that_times_out_delays_jobs_and_rejects_none(
    programs: Fleet, superuser: psycopg.Connection[Any]
) -> None:
    """One that waits for no lock but takes too long, here for a trigger that sleeps, ends with 57014."""
    system = programs.system()
    new_books(system)
    superuser.execute(
        f"ALTER ROLE {roles.WORKER} IN DATABASE \"{superuser.info.dbname}\" SET statement_timeout = '300ms'"
    )
    programs.worker()
    superuser.execute(
        "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$"
    )
    superuser.execute(
        "CREATE TRIGGER slow AFTER INSERT ON ledgermill.entry FOR EACH STATEMENT EXECUTE FUNCTION public.slow()"
    )
    keys = [f"k-{n}" for n in range(5)]

    publish(system, keys)
    eventually(lambda: "57014" in programs.log("worker"))
    assert ended(system, keys) == {}
    superuser.execute("DROP TRIGGER slow ON ledgermill.entry")

    require_posted_once(system, keys)


@pytest.mark.parametrize("statement", ["COPY", pytest.param("COMMIT", marks=long)])
def test_a_full_disk_delays_jobs_and_rejects_none(statement: str, database: Proxy, programs: Fleet) -> None:
    system = programs.system()
    new_books(system)
    programs.worker(settings=proxied(programs.settings, postgres=database))
    keys = [f"k-{n}" for n in range(20)]

    database.answer_error(statement, sqlstate="53100", times=6)
    publish(system, keys, each=4)

    require_posted_once(system, keys)
    assert database.counts["refused"] == 6


@contextmanager
def _holding(system: System, statement: str) -> Iterator[None]:
    with psycopg.connect(system.settings.url_of("owner")) as connection:
        connection.execute(statement)
        yield
