"""Balances: locked, read and written inside the caller's transaction."""

from collections.abc import Collection, Iterable, Sequence
from datetime import date, datetime
from typing import Any, Final

import psycopg

from ledgermill.domain.plans import Balance, BalanceChange, DayChange
from ledgermill.storage.connections import Transaction, raw

# These run under the posting lock, so they go to the driver directly: by SQLAlchemy each would take 0.1 ms more.
# One order for all, the hot root last: no deadlocks. Amounts come as text, the short way to Python's integers.
LOCK = """
    SELECT ledger_id, debits::text, credits::text, held::text, last_number
    FROM ledgermill.balance
    WHERE organization_id = %(organization_id)s AND ledger_id = ANY (%(ledger_ids)s::bigint[])
    ORDER BY depth DESC, ledger_id
    FOR NO KEY UPDATE
"""
ADD = """
    UPDATE ledgermill.balance AS b
    SET debits = b.debits + change.debits,
        credits = b.credits + change.credits,
        last_number = b.last_number + change.own_entries,
        version = b.version + change.entries,
        last_booked_at = %(booked_at)s
    FROM unnest(%(ledger_ids)s::bigint[], %(debits)s::numeric[], %(credits)s::numeric[], %(entries)s::bigint[],
                %(own_entries)s::bigint[])
         AS change (ledger_id, debits, credits, entries, own_entries)
    WHERE b.organization_id = %(organization_id)s AND b.ledger_id = change.ledger_id
"""
ADD_DAYS = """
    INSERT INTO ledgermill.day_balance AS d (organization_id, ledger_id, value_date, booked_on, debits, credits)
    SELECT %(organization_id)s, change.ledger_id, change.value_date, %(booked_on)s, change.debits, change.credits
    FROM unnest(%(ledger_ids)s::bigint[], %(value_dates)s::date[], %(debits)s::numeric[], %(credits)s::numeric[])
         AS change (ledger_id, value_date, debits, credits)
    ON CONFLICT (organization_id, ledger_id, value_date, booked_on)
    DO UPDATE SET debits = d.debits + excluded.debits, credits = d.credits + excluded.credits
"""

_new: Final = tuple.__new__  # makes a NamedTuple in half the time of its own constructor


def array_text(values: Iterable[object]) -> str:
    """Numbers or dates as PostgreSQL writes an array: several times as fast as the driver's general way."""
    return f"{{{','.join(map(str, values))}}}"


def lock(tx: Transaction, organization_id: int, ledger_ids: Collection[int]) -> dict[int, Balance]:
    """Lock these balances until `tx` ends, and read them."""
    return read(ask(tx, organization_id, ledger_ids))


def ask(tx: Transaction, organization_id: int, ledger_ids: Collection[int]) -> psycopg.Cursor[Any]:
    """The same in the driver's pipeline, behind the posting lock: where that ends, `read` what was locked."""
    return raw(tx).execute(LOCK, {"organization_id": organization_id, "ledger_ids": array_text(ledger_ids)})


def read(asked: psycopg.Cursor[Any]) -> dict[int, Balance]:
    """By ledger."""
    return {
        ledger_id: _new(Balance, (int(debits), int(credits_), int(held), last_number))
        for ledger_id, debits, credits_, held, last_number in asked.fetchall()
    }


def add(tx: Transaction, organization_id: int, changes: Sequence[BalanceChange], *, booked_at: datetime) -> None:
    """Add to locked balances, in one statement."""
    if not changes:
        return
    ledger_ids, _, debits, credits_, entries, own_entries = zip(*changes, strict=True)
    raw(tx).execute(
        ADD,
        {
            "organization_id": organization_id,
            "booked_at": booked_at,
            "ledger_ids": array_text(ledger_ids),
            "debits": array_text(debits),
            "credits": array_text(credits_),
            "entries": array_text(entries),
            "own_entries": array_text(own_entries),
        },
    )


def add_days(tx: Transaction, organization_id: int, changes: Sequence[DayChange], *, booked_on: date) -> None:
    """Add to the totals of each value date, in one statement; the balances above them are locked."""
    if not changes:
        return
    ledger_ids, _, value_dates, debits, credits_ = zip(*changes, strict=True)
    texts = {value_date: str(value_date) for value_date in set(value_dates)}
    raw(tx).execute(
        ADD_DAYS,
        {
            "organization_id": organization_id,
            "booked_on": booked_on,
            "ledger_ids": array_text(ledger_ids),
            "value_dates": array_text(map(texts.__getitem__, value_dates)),
            "debits": array_text(debits),
            "credits": array_text(credits_),
        },
    )
