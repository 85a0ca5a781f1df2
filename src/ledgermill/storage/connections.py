"""Connections: engines and transactions, each as one database role."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import URL, Connection, Engine, RowMapping, create_engine, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ledgermill.storage.tables import API_SCHEMA, SCHEMA

__all__ = [
    "AsyncEngine",
    "AsyncStatement",
    "AsyncStatements",
    "Engine",
    "Row",
    "Transaction",
    "api_engine",
    "api_statements",
    "engine",
    "raw",
    "show_organization",
    "snapshot",
]

# The names that the layers above use, so that SQLAlchemy is known here only.
Transaction = Connection
Row = RowMapping
# The driver's connections, each statement a transaction of its own: a third of what a statement costs by SQLAlchemy.
AsyncStatement = psycopg.AsyncConnection[Any]
AsyncStatements = AsyncConnectionPool[AsyncStatement]

CONNECT_ARGS: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "ledgermill",
}

SHOW_ORGANIZATION = text("SELECT set_config('ledgermill.organization', :organization_id, true)")


def engine(url: str, *, prepare_threshold: int = 5, pool_size: int = 2) -> Engine:
    """An engine of one role. Make it in the process that uses it: connections do not survive a fork."""
    return create_engine(
        _psycopg(url), pool_size=pool_size, max_overflow=2, pool_timeout=5, connect_args=_arguments(prepare_threshold)
    )


def api_engine(url: str, *, prepare_threshold: int = 5, pool_size: int = 10) -> AsyncEngine:
    """The engine of the API: the same statements as everywhere, on views that show one organization."""
    return create_async_engine(
        _psycopg(url),
        pool_size=pool_size,
        max_overflow=5,
        pool_timeout=2,
        connect_args=_arguments(prepare_threshold),
        execution_options={"schema_translate_map": {SCHEMA: API_SCHEMA}},
    )


def api_statements(url: str, *, prepare_threshold: int = 5, pool_size: int = 4) -> AsyncStatements:
    """Connections of the API for statements that need no transaction around them. To be opened in its event loop."""
    return AsyncConnectionPool(
        url,
        connection_class=psycopg.AsyncConnection[Any],
        kwargs={**_arguments(prepare_threshold), "autocommit": True},
        min_size=1,
        max_size=pool_size,
        timeout=2,
        open=False,
    )


@contextmanager
def snapshot(engine: Engine) -> Iterator[Transaction]:
    """A read-only transaction that sees one moment, however many statements it takes."""
    with engine.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with connection.begin():
            yield connection


def raw(tx: Transaction) -> psycopg.Connection[Any]:
    """The driver's connection below a transaction, for COPY."""
    return tx.connection.driver_connection  # type: ignore[return-value]  # psycopg is the driver


def show_organization(tx: Transaction, organization_id: int) -> None:
    """From here to the end of `tx`, the views of the api role show this organization."""
    tx.execute(SHOW_ORGANIZATION, {"organization_id": str(organization_id)})


def _psycopg(url: str) -> URL:
    return make_url(url).set(drivername="postgresql+psycopg")


def _arguments(prepare_threshold: int) -> dict[str, Any]:
    return {**CONNECT_ARGS, "prepare_threshold": None if prepare_threshold < 0 else prepare_threshold}
