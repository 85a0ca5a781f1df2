"""Entries: copied in when a batch is posted, read newest first."""

from collections.abc import Sequence
from typing import Any

import psycopg
from sqlalchemy import BigInteger, RowMapping, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from ledgermill.domain.posting import PostedEntry
from ledgermill.storage.connections import Transaction
from ledgermill.storage.tables import entry, job

COPY = f"COPY ledgermill.entry ({', '.join(PostedEntry._fields)}) FROM STDIN"

_COLUMNS = (
    entry.c.ledger_id,
    entry.c.number,
    entry.c.position,
    entry.c.line,
    entry.c.side,
    entry.c.amount,
    entry.c.currency,
    entry.c.balance_after,
    entry.c.value_date,
    job.c.job_id,
    job.c.type,
    job.c.description,
    job.c.reference_id,
    job.c.ended_at.label("booked_at"),
)
_WITH_JOURNAL = select(*_COLUMNS).join(
    job, (job.c.organization_id == entry.c.organization_id) & (job.c.position == entry.c.position)
)
OF_LEDGER = (
    _WITH_JOURNAL.where(
        entry.c.organization_id == bindparam("organization_id"),
        entry.c.ledger_id == bindparam("ledger_id"),
        entry.c.number < bindparam("below"),
    )
    .order_by(entry.c.number.desc())
    .limit(bindparam("limit"))
)
_PLACES = func.unnest(
    bindparam("ledger_ids", type_=ARRAY(BigInteger)), bindparam("numbers", type_=ARRAY(BigInteger))
).table_valued("ledger_id", "number", name="place")
OF_JOURNAL = (
    select(entry)
    .join(_PLACES, (entry.c.ledger_id == _PLACES.c.ledger_id) & (entry.c.number == _PLACES.c.number))
    .where(entry.c.organization_id == bindparam("organization_id"))
    .order_by(entry.c.line)
)


def copy(connection: psycopg.Connection[Any], entries: Sequence[PostedEntry]) -> None:
    """Insert these, as fast as PostgreSQL takes rows."""
    if not entries:
        return
    with connection.cursor() as cursor, cursor.copy(COPY) as rows:
        for row in entries:
            rows.write_row(row)


def of_ledger(
    tx: Transaction, organization_id: int, ledger_id: int, *, below_number: int, limit: int
) -> Sequence[RowMapping]:
    """Up to `limit` entries of a leaf, numbered below `below_number`, newest first, with their journals' texts."""
    parameters = {"organization_id": organization_id, "ledger_id": ledger_id, "below": below_number, "limit": limit}
    return tx.execute(OF_LEDGER, parameters).mappings().all()


def of_journal(
    tx: Transaction, organization_id: int, *, ledger_ids: Sequence[int], numbers: Sequence[int]
) -> Sequence[RowMapping]:
    """The entries of one journal in the order of their lines, from the places that its row keeps."""
    parameters = {"organization_id": organization_id, "ledger_ids": list(ledger_ids), "numbers": list(numbers)}
    return tx.execute(OF_JOURNAL, parameters).mappings().all()
