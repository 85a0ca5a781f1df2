"""Real servers for all tests: one PostgreSQL and one Redis for the run, a database of its own for each test that asks."""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2
import psycopg
import pytest
from psycopg import sql
from running import Organization, System, api_process, running

from ledgermill.broker import publishing
from ledgermill.config import Settings, with_login
from ledgermill.embedded import postgres, redis
from ledgermill.storage import connections, migrations, roles

TEMPLATE = "ledgermill_template"


class Servers(NamedTuple):
    """The servers of the run, the database to copy, and the passwords of the roles."""

    postgres: postgres.PostgresServer
    redis: redis.RedisServer
    template: str
    logins: dict[str, str]


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ledgermill-tests-"))
    yield folder
    redis.discard(folder)
    postgres.discard(folder)


@pytest.fixture(scope="session")
def postgres_server(home: Path) -> Iterator[postgres.PostgresServer]:
    yield postgres.start(home, preferred_port=15433)
    postgres.stop(home, mode="immediate")


@pytest.fixture(scope="session")
def redis_server(home: Path) -> Iterator[redis.RedisServer]:
    yield redis.start(home, preferred_port=16380)
    redis.stop(home, save=False)


@pytest.fixture(scope="session")
def logins() -> dict[str, str]:
    return {role: secrets.token_urlsafe(12) for role in roles.LOGINS}


@pytest.fixture(scope="session")
def template(postgres_server: postgres.PostgresServer, logins: dict[str, str]) -> str:
    """A migrated database that tests copy."""
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
    url = postgres_server.url.rpartition("/")[0] + "/" + TEMPLATE
    engine = connections.engine(url)
    migrations.upgrade(engine)
    with engine.begin() as tx:
        roles.set_passwords(tx, logins)
    engine.dispose()
    return TEMPLATE


@pytest.fixture(scope="session")
def servers(
    postgres_server: postgres.PostgresServer, redis_server: redis.RedisServer, template: str, logins: dict[str, str]
) -> Servers:
    return Servers(postgres_server, redis_server, template, logins)


@pytest.fixture
def settings(servers: Servers, tmp_path: Path) -> Iterator[Settings]:
    """Settings of a fresh system: an empty, migrated database and an empty broker."""
    with fresh_settings(servers, tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def shared_settings(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The same, for all tests of a module; none of them may ask for `settings` too, which empties the broker."""
    with fresh_settings(servers, tmp_path_factory.mktemp("shared")) as found:
        yield found


@contextmanager
def fresh_settings(servers: Servers, folder: Path) -> Iterator[Settings]:
    """An empty, migrated database and an empty broker."""
    postgres_server, redis_server, template, logins = servers
    name = f"test_{secrets.token_hex(6)}"
    with publishing.redis_client(redis_server.url) as client:
        client.flushall()  # an earlier test may have rung, or published, without a worker
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
    url = postgres_server.url.rpartition("/")[0] + "/" + name
    found = Settings(
        database_url=url,
        broker_url=redis_server.url,
        ledgermill_home=folder / "home",
        log_format="text",
        sweep_every_s=0.5,
        **{
            f"{field}_database_url": with_login(url, user=login, password=logins[login])
            for field, login in (
                ("worker", roles.WORKER),
                ("api", roles.API),
                ("read_only", roles.READ_ONLY),
            )
        },
    )
    yield found
    with publishing.redis_client(redis_server.url) as client:
        client.flushall()  # what the last workers gave back is no later test's
    # As superuser: an autovacuum worker may be at work in it, which nobody else may end.
    with psycopg.connect(postgres_server.superuser_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def environment(settings: Settings) -> dict[str, str]:
    """The variables that give a process these settings."""
    return {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "WORKER_DATABASE_URL": settings.url_of("worker"),
        "API_DATABASE_URL": settings.url_of("api"),
        "READ_ONLY_DATABASE_URL": settings.url_of("readonly"),
        "BROKER_URL": settings.broker_url.get_secret_value(),
        "LEDGERMILL_HOME": str(settings.home),
        "LOG_FORMAT": "text",
        "SWEEP_EVERY_S": str(settings.sweep_every_s),
    }


@pytest.fixture
def workers(settings: Settings, tmp_path: Path) -> Iterator[list[int]]:
    """Real Celery workers of this test's system, ready for messages: the ids of their processes."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(worker(settings, tmp_path, queue="posting", processes=2)),
            stack.enter_context(worker(settings, tmp_path, queue="maintenance", processes=1)),
        ]


@pytest.fixture(scope="module")
def system(shared_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A worker with beat and an API process, for all tests of a module: each opens an organization of its own."""
    folder = tmp_path_factory.mktemp("system")
    beat = ["-B", "-s", str(folder / "schedule")]
    queues = "posting,maintenance"
    with (
        api_process(environment(shared_settings), folder / "api.log") as api_url,
        worker(shared_settings, folder, queue=queues, processes=2, more_options=beat) as worker_pid,
        running(shared_settings, api_url=api_url, worker_pid=worker_pid) as found,
    ):
        yield found


@pytest.fixture(scope="module")
def api(system: System) -> httpx2.Client:
    """A client of the API that sends no key."""
    return system.api


@pytest.fixture
def acme(system: System) -> Organization:
    """A new organization with a chart of four levels and a key of all scopes."""
    return system.new_organization()


@contextmanager
def worker(
    settings: Settings, folder: Path, *, queue: str, processes: int, more_options: Sequence[str] = ()
) -> Iterator[int]:
    """A worker of one queue, from when it takes messages; its log is in the folder. Gives the id of its process."""
    alive = folder / f"{queue}.alive"
    alive.unlink(missing_ok=True)  # a worker that was killed leaves it behind
    options = ["-Q", queue, "-n", f"{queue}@%h", "-c", str(processes), "--without-gossip", "--without-mingle"]
    options += more_options
    with (folder / f"{queue}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "workers.app", "worker", *options],
            env=environment(settings) | {"LEDGERMILL_HEARTBEAT_FILE": str(alive)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        for _ in range(300):
            if alive.exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        assert alive.exists(), (folder / f"{queue}.log").read_text()
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
