"""The floor: raw COPY of the rows that a journal needs, on one connection in batches of 1,000, with nothing else."""

import json
import time
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
from system import System

from ledgermill.domain.plans import PostedEntry, PostedJob

BATCH = 1_000
JOB_COLUMNS, ENTRY_COLUMNS = ", ".join(PostedJob._fields), ", ".join(PostedEntry._fields)


class Rows(NamedTuple):
    """Rows that were posted, journals of two entries."""

    jobs: list[tuple[Any, ...]]
    entries: list[tuple[Any, ...]]


def read(system: System, organization: str, journals: int) -> Rows:
    """The last rows that the worker wrote for an organization, as plain texts and numbers.

    So the floor pays for no conversion: the driver's own of ids, times and decimals would make it a fifth slower.
    """
    number = system.value("SELECT organization_id FROM ledgermill.organization WHERE code = %s", organization)
    last = system.value("SELECT next_position - 1 FROM ledgermill.posting_lock WHERE organization_id = %s", number)
    chosen = "WHERE organization_id = %s AND position > %s ORDER BY position"
    asked = [number, last - journals]
    jobs = system.database.execute(f"SELECT {JOB_COLUMNS} FROM ledgermill.job {chosen}", asked)
    entries = system.database.execute(f"SELECT {ENTRY_COLUMNS} FROM ledgermill.entry {chosen}, line", asked)
    return Rows([tuple(map(_plain, row)) for row in jobs], [tuple(map(_plain, row)) for row in entries])


def run(system: System, rows: Rows) -> float:
    """Journals a second, into empty tables with the columns, indexes and checks of the real ones."""
    with psycopg.connect(system.settings.url_of("owner")) as connection:
        connection.execute("DROP TABLE IF EXISTS floor_job, floor_entry")
        connection.execute("CREATE TABLE floor_job (LIKE ledgermill.job INCLUDING ALL)")
        connection.execute("CREATE TABLE floor_entry (LIKE ledgermill.entry INCLUDING ALL)")
        connection.commit()
        started = time.perf_counter()
        for start in range(0, len(rows.jobs), BATCH):
            with connection.cursor() as cursor:
                _copy(cursor, f"COPY floor_job ({JOB_COLUMNS}) FROM STDIN", rows.jobs[start : start + BATCH])
                lines = rows.entries[2 * start : 2 * (start + BATCH)]
                _copy(cursor, f"COPY floor_entry ({ENTRY_COLUMNS}) FROM STDIN", lines)
            connection.commit()
        return len(rows.jobs) / (time.perf_counter() - started)


def _copy(cursor: psycopg.Cursor[Any], statement: str, rows: list[tuple[Any, ...]]) -> None:
    with cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | str() | bytes():
            return value
        case list():
            return "{" + ",".join(map(str, value)) + "}"
        case dict():
            return json.dumps(value)
        case Decimal():
            return int(value)
        case _:  # ids, times and dates
            return str(value)
