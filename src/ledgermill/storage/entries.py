"""Entries: copied in when a batch is posted, read newest first."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import psycopg
from sqlalchemy import BigInteger, any_, bindparam, column, func, select, true
from sqlalchemy.dialects.postgresql import ARRAY

from ledgermill.domain.plans import PostedEntry, Shift
from ledgermill.storage.connections import Transaction
from ledgermill.storage.tables import entry, job

LINES_AT_ONCE = 250
COPY = f"COPY ledgermill.entry ({', '.join(PostedEntry._fields)}) FROM STDIN"

JOURNALS = select(
    job.c.position, job.c.job_id, job.c.type, job.c.description, job.c.reference_id, job.c.ended_at.label("booked_at")
).where(
    job.c.organization_id == bindparam("organization_id"),
    job.c.position == any_(bindparam("positions", type_=ARRAY(BigInteger))),
)
# Numbers have no gap, so a page is a range; a LIMIT would not reach through the views of the api role. The key has the
# number before the ledger, so there is one index look-up for each number: lateral, and kept apart by OFFSET 0.
_ASKED = (
    func.generate_series(bindparam("first", type_=BigInteger), bindparam("last", type_=BigInteger))
    .table_valued(column("number", BigInteger), name="asked")
    .render_derived()
)
_AT_NUMBER = (
    select(entry)
    .where(
        entry.c.organization_id == bindparam("organization_id"),
        entry.c.ledger_id == bindparam("ledger_id"),
        entry.c.number == _ASKED.c.number,
    )
    .offset(0)
    .lateral("at_number")
)
OF_LEDGER = select(_AT_NUMBER).select_from(_ASKED.join(_AT_NUMBER, true())).order_by(_AT_NUMBER.c.number.desc())


def copy(connection: psycopg.Connection[Any], entries: Sequence[PostedEntry], *, shift: Shift) -> None:
    """Insert these, shifted, as fast as PostgreSQL takes rows."""
    if not entries:
        return
    days = {day: str(day) for day in {row.value_date for row in entries}}
    starts = shift.entries or dict.fromkeys({row.ledger_id for row in entries}, (0, 0))
    with connection.cursor() as cursor, cursor.copy(COPY) as rows:
        for start in range(0, len(entries), LINES_AT_ONCE):  # the server takes one part while we write the next
            rows.write("".join(_lines(entries[start : start + LINES_AT_ONCE], days, shift.positions, starts)))


def _lines(
    rows: Sequence[PostedEntry], days: Mapping[date, str], positions: int, starts: Mapping[int, tuple[int, int]]
) -> Iterator[str]:
    # Numbers, single letters, currency codes and dates: nothing in them needs COPY's escapes.
    for organization_id, ledger_id, line, side, amount, currency, day, number, position, balance in rows:
        first, start = starts[ledger_id]
        yield (
            f"{organization_id}\t{ledger_id}\t{line}\t{side}\t{amount}\t{currency}\t{days[day]}"
            f"\t{first + number}\t{positions + position}\t{start + balance}\n"
        )


def of_ledger(
    tx: Transaction, organization_id: int, ledger_id: int, *, below_number: int, limit: int
) -> list[dict[str, Any]]:
    """Up to `limit` entries of a leaf, numbered below `below_number`, newest first, with their journals' texts."""
    parameters = {
        "organization_id": organization_id,
        "ledger_id": ledger_id,
        "first": max(1, below_number - limit),
        "last": below_number - 1,
    }
    rows = tx.execute(OF_LEDGER, parameters).mappings().all()
    positions = sorted({row["position"] for row in rows})
    journals = tx.execute(JOURNALS, {"organization_id": organization_id, "positions": positions}).mappings()
    by_position = {row["position"]: row for row in journals}
    return [{**row, **by_position[row["position"]]} for row in rows]
