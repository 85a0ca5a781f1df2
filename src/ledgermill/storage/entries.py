"""Entries: copied in when a batch is posted, read newest first."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import psycopg
from sqlalchemy import BigInteger, RowMapping, any_, bindparam, column, func, select, true
from sqlalchemy.dialects.postgresql import ARRAY

from ledgermill.domain.plans import PostedEntry, Shift
from ledgermill.storage.connections import Transaction
from ledgermill.storage.tables import entry, job

LINES_AT_ONCE = 250
COPY = f"COPY ledgermill.entry ({', '.join(PostedEntry._fields)}) FROM STDIN"

# Numbers have no gap, so a page is a range; a LIMIT would not reach through the views of the api role.
OF_LEDGER = (
    select(entry)
    .where(
        entry.c.organization_id == bindparam("organization_id"),
        entry.c.ledger_id == bindparam("ledger_id"),
        entry.c.number < bindparam("below"),
        entry.c.number >= bindparam("first", type_=BigInteger),
    )
    .order_by(entry.c.number.desc())
)
JOURNALS = select(
    job.c.position, job.c.job_id, job.c.type, job.c.description, job.c.reference_id, job.c.ended_at.label("booked_at")
).where(
    job.c.organization_id == bindparam("organization_id"),
    job.c.position == any_(bindparam("positions", type_=ARRAY(BigInteger))),
)
_PLACE = (
    func.unnest(bindparam("ledger_ids", type_=ARRAY(BigInteger)), bindparam("numbers", type_=ARRAY(BigInteger)))
    .table_valued(column("ledger_id", BigInteger), column("number", BigInteger), name="place")
    .render_derived()
)
# Lateral, and kept apart by OFFSET 0: one index look-up for each place, also behind the views of the api role.
_AT_PLACE = (
    select(entry)
    .where(
        entry.c.organization_id == bindparam("organization_id"),
        entry.c.ledger_id == _PLACE.c.ledger_id,
        entry.c.number == _PLACE.c.number,
    )
    .offset(0)
    .lateral("at_place")
)
OF_JOURNAL = select(_AT_PLACE).select_from(_PLACE.join(_AT_PLACE, true())).order_by(_AT_PLACE.c.line)


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
        "below": below_number,
        "first": below_number - limit,
    }
    rows = tx.execute(OF_LEDGER, parameters).mappings().all()
    positions = sorted({row["position"] for row in rows})
    journals = tx.execute(JOURNALS, {"organization_id": organization_id, "positions": positions}).mappings()
    by_position = {row["position"]: row for row in journals}
    return [{**row, **by_position[row["position"]]} for row in rows]


def of_journal(
    tx: Transaction, organization_id: int, *, ledger_ids: Sequence[int], numbers: Sequence[int]
) -> Sequence[RowMapping]:
    """The entries of one journal in the order of their lines, from the places that its row keeps."""
    parameters = {"organization_id": organization_id, "ledger_ids": list(ledger_ids), "numbers": list(numbers)}
    return tx.execute(OF_JOURNAL, parameters).mappings().all()
