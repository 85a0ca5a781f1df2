"""Balances: locked, read and written inside the caller's transaction."""

from collections.abc import Collection, Iterable, Sequence
from datetime import date, datetime

from sqlalchemy import text

from ledgermill.domain.plans import Balance, BalanceChange, DayChange
from ledgermill.storage.connections import Transaction

# One order for all, the hot root last: no deadlocks. Amounts come as text, the short way to Python's integers.
LOCK = text("""
    SELECT ledger_id, CAST(debits AS text), CAST(credits AS text), CAST(held AS text), last_number
    FROM ledgermill.balance
    WHERE organization_id = :organization_id AND ledger_id = ANY (CAST(:ledger_ids AS bigint[]))
    ORDER BY depth DESC, ledger_id
    FOR NO KEY UPDATE
""")
ADD = text("""
    UPDATE ledgermill.balance AS b
    SET debits = b.debits + change.debits,
        credits = b.credits + change.credits,
        last_number = b.last_number + change.own_entries,
        version = b.version + change.entries,
        last_booked_at = :booked_at
    FROM unnest(CAST(:ledger_ids AS bigint[]), CAST(:debits AS numeric[]), CAST(:credits AS numeric[]),
                CAST(:entries AS bigint[]), CAST(:own_entries AS bigint[]))
         AS change (ledger_id, debits, credits, entries, own_entries)
    WHERE b.organization_id = :organization_id AND b.ledger_id = change.ledger_id
""")
ADD_DAYS = text("""
    INSERT INTO ledgermill.day_balance AS d (organization_id, ledger_id, value_date, booked_on, debits, credits)
    SELECT :organization_id, change.ledger_id, change.value_date, :booked_on, change.debits, change.credits
    FROM unnest(CAST(:ledger_ids AS bigint[]), CAST(:value_dates AS date[]),
                CAST(:debits AS numeric[]), CAST(:credits AS numeric[]))
         AS change (ledger_id, value_date, debits, credits)
    ON CONFLICT (organization_id, ledger_id, value_date, booked_on)
    DO UPDATE SET debits = d.debits + excluded.debits, credits = d.credits + excluded.credits
""")


def array_text(values: Iterable[object]) -> str:
    """Numbers or dates as PostgreSQL writes an array: several times as fast as the driver's general way."""
    return f"{{{','.join(map(str, values))}}}"


def lock(tx: Transaction, organization_id: int, ledger_ids: Collection[int]) -> dict[int, Balance]:
    """Lock these balances until `tx` ends, and read them."""
    rows = tx.execute(LOCK, {"organization_id": organization_id, "ledger_ids": array_text(ledger_ids)})
    return {
        ledger_id: Balance(int(debits), int(credits_), int(held), last_number)
        for ledger_id, debits, credits_, held, last_number in rows
    }


def add(tx: Transaction, organization_id: int, changes: Sequence[BalanceChange], *, booked_at: datetime) -> None:
    """Add to locked balances, in one statement."""
    if not changes:
        return
    tx.execute(
        ADD,
        {
            "organization_id": organization_id,
            "booked_at": booked_at,
            "ledger_ids": array_text(change.ledger_id for change in changes),
            "debits": array_text(change.debits for change in changes),
            "credits": array_text(change.credits for change in changes),
            "entries": array_text(change.entries for change in changes),
            "own_entries": array_text(change.own_entries for change in changes),
        },
    )


def add_days(tx: Transaction, organization_id: int, changes: Sequence[DayChange], *, booked_on: date) -> None:
    """Add to the totals of each value date, in one statement; the balances above them are locked."""
    if not changes:
        return
    tx.execute(
        ADD_DAYS,
        {
            "organization_id": organization_id,
            "booked_on": booked_on,
            "ledger_ids": array_text(change.ledger_id for change in changes),
            "value_dates": array_text(change.value_date for change in changes),
            "debits": array_text(change.debits for change in changes),
            "credits": array_text(change.credits for change in changes),
        },
    )
