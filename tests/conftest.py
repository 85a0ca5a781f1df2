"""Real servers for all tests: one PostgreSQL and one Redis for the run, a database of its own for each test that asks."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

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
