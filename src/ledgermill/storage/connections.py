"""Connections: engines and transactions, each as one database role."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    "answering_within",
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
def snapshot(engine: Engine, *, may_write: bool = False) -> Iterator[Transaction]:
    """A transaction that sees one moment, however many statements it takes; read-only, unless it may write."""
    with engine.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=not may_write)
        with connection.begin():
            yield connection


@contextmanager
def answering_within(connection: AsyncStatement, limit_s: float) -> Iterator[None]:
    """Cut the connection where this takes longer; whoever waits for its answer learns that it is closed.

    The server's timeouts do not help where it is silent, nor do TCP's where something in between is alive. A cancelled
    task would first ask the same server to cancel, and wait for its answer.
    """
    timer = asyncio.get_running_loop().call_later(limit_s, _cut, connection)
    try:
        yield
    finally:
        timer.cancel()


def _cut(connection: AsyncStatement) -> None:
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as beside:
        beside.shutdown(socket.SHUT_RDWR)


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
