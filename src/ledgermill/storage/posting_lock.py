"""The posting lock: one row for each organization, taken first by all who post or change its chart."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, func, select

from ledgermill.errors import OrganizationNotFound
from ledgermill.storage.connections import Transaction, raw
from ledgermill.storage.tables import organization, posting_lock

_LOCKED = (
    select(
        posting_lock.c.next_position,
        posting_lock.c.next_rejection,
        posting_lock.c.next_ledger_id,
        posting_lock.c.chart_version,
        posting_lock.c.last_booked_at,
        organization.c.state,
        organization.c.base_currency,
        organization.c.time_zone,
        organization.c.max_future_days,
        organization.c.suspense_id,
    )
    .join(organization, organization.c.organization_id == posting_lock.c.organization_id)
    .where(posting_lock.c.organization_id == bindparam("organization_id"))
    .with_for_update(of=posting_lock, key_share=True)
    .subquery("locked")
)
# The clock is read of rows that are locked, and so after the wait for them.
TAKE = select(_LOCKED, func.clock_timestamp())
ADVANCE = """
    UPDATE ledgermill.posting_lock SET next_position = %s, next_rejection = %s, last_booked_at = %s
    WHERE organization_id = %s
"""


class Held(NamedTuple):
    """What the lock's row and its organization say, while the lock is held."""

    next_position: int
    next_rejection: int
    next_ledger_id: int
    chart_version: int
    last_booked_at: datetime | None
    state: str
    base_currency: str
    time_zone: str
    max_future_days: int
    suspense_id: int
    clock: datetime

    @property
    def booking_time(self) -> datetime:
        """The database's clock, never before the last booking: so the order of numbers is an order of time."""
        return self.clock if self.last_booked_at is None else max(self.clock, self.last_booked_at)


def take(tx: Transaction, organization_id: int) -> Held:
    """Wait for the lock and hold it until `tx` ends. Raises OrganizationNotFound."""
    row = tx.execute(TAKE, {"organization_id": organization_id}).one_or_none()
    if row is None:
        raise OrganizationNotFound(organization=organization_id)
    return Held._make(row)


def advance(
    tx: Transaction, organization_id: int, *, next_position: int, next_rejection: int, booked_at: datetime
) -> None:
    """Note what was given out."""
    raw(tx).execute(ADVANCE, [next_position, next_rejection, booked_at, organization_id])
