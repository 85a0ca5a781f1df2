"""What planning reads, without a lock: the books of one moment and balances, for a look that writes nothing."""

from collections.abc import Collection
from zoneinfo import ZoneInfo

from sqlalchemy import bindparam, func, select

from ledgermill.domain.plans import Balance, Books
from ledgermill.storage import ledgers
from ledgermill.storage.connections import Transaction
from ledgermill.storage.tables import organization, posting_lock

# Two statements, since the api role's views are not merged with what is joined to them.
LOCK_ROW = select(posting_lock, func.clock_timestamp().label("clock")).where(
    posting_lock.c.organization_id == bindparam("organization_id")
)
ORGANIZATION = select(organization).where(organization.c.organization_id == bindparam("organization_id"))


def books(tx: Transaction, organization_id: int) -> tuple[Books, int]:
    """The organization as it is now, and the version of its chart."""
    named = {"organization_id": organization_id}
    row = tx.execute(LOCK_ROW, named).mappings().one()
    rules = tx.execute(ORGANIZATION, named).mappings().one()
    booked_at = max(row["clock"], row["last_booked_at"] or row["clock"])
    found = Books(
        organization_id=organization_id,
        base_currency=rules["base_currency"],
        next_position=row["next_position"],
        next_rejection=row["next_rejection"],
        booked_at=booked_at,
        today=booked_at.astimezone(ZoneInfo(rules["time_zone"])).date(),
        max_future_days=rules["max_future_days"],
        suspense_id=rules["suspense_id"],
    )
    return found, row["chart_version"]


def balances(tx: Transaction, organization_id: int, ledger_ids: Collection[int]) -> dict[int, Balance]:
    """These balances at one moment."""
    rows = tx.execute(ledgers.BALANCES, {"organization_id": organization_id, "ledger_ids": list(ledger_ids)})
    return {row.ledger_id: Balance(int(row.debits), int(row.credits), int(row.held), row.last_number) for row in rows}
