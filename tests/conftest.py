"""Real servers for all tests: one PostgreSQL and one Redis for the run, a database of its own for each test that asks."""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from ledgermill.broker import publishing
from ledgermill.config import Settings, with_login
from ledgermill.embedded import postgres, redis
from ledgermill.storage import connections, migrations, roles

TEMPLATE = "ledgermill_template"


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


@pytest.fixture
def settings(
    postgres_server: postgres.PostgresServer,
    redis_server: redis.RedisServer,
    template: str,
    logins: dict[str, str],
    tmp_path: Path,
) -> Iterator[Settings]:
    """Settings of a fresh system: an empty, migrated database and an empty broker."""
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
        ledgermill_home=tmp_path / "home",
        log_format="text",
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
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
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
    }


@pytest.fixture
def workers(settings: Settings, tmp_path: Path) -> Iterator[list[int]]:
    """Real Celery workers of this test's system, ready for messages: the ids of their processes."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(worker(settings, tmp_path, queue="posting", processes=2)),
            stack.enter_context(worker(settings, tmp_path, queue="maintenance", processes=1)),
        ]


@contextmanager
def worker(settings: Settings, folder: Path, *, queue: str, processes: int) -> Iterator[int]:
    """A worker of one queue, from when it takes messages; its log is in the folder. Gives the id of its process."""
    alive = folder / f"{queue}.alive"
    alive.unlink(missing_ok=True)  # a worker that was killed leaves it behind
    options = ["-Q", queue, "-n", f"{queue}@%h", "-c", str(processes), "--without-gossip", "--without-mingle"]
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
