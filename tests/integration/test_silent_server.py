"""A server that says nothing any more: whoever waits for it learns so within a time that is ours."""

import asyncio
import time

import psycopg
import pytest

from ledgermill.config import Settings
from ledgermill.storage import connections, failures


def test_a_statement_that_is_not_answered_in_time_fails_as_a_lost_connection(settings: Settings) -> None:
    async def ask(limit_s: float, pause_s: float) -> object:
        async with await psycopg.AsyncConnection.connect(settings.url_of("owner"), autocommit=True) as connection:
            with connections.answering_within(connection, limit_s):
                cursor = await connection.execute("SELECT pg_sleep(%s), 7", [pause_s])
                row = await cursor.fetchone()
            assert row is not None
            return row[1]

    assert asyncio.run(ask(limit_s=20, pause_s=0)) == 7
    started = time.monotonic()
    with pytest.raises(psycopg.OperationalError) as failed:
        asyncio.run(ask(limit_s=0.3, pause_s=20))
    assert time.monotonic() - started < 5
    assert failures.is_temporary(failed.value)
