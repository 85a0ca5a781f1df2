"""The posting lock: one row for each organization, taken first by all who post or change its chart."""

from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import bindparam, func, select
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from ledgermill.errors import OrganizationNotFound
from ledgermill.storage.connections import Transaction, raw
from ledgermill.storage.tables import organization, posting_lock

LOCK = (
    select(
        posting_lock.c.next_position,
        posting_lock.c.next_rejection,
        posting_lock.c.next_ledger_id,
        posting_lock.c.chart_version,
        posting_lock.c.last_booked_at,
    )
    .where(posting_lock.c.organization_id == bindparam("organization_id"))
    .with_for_update(key_share=True)
)
# A statement of its own: it begins after the wait for the lock, and sees what others committed meanwhile.
RULES = select(
    organization.c.state,
    organization.c.base_currency,
    organization.c.time_zone,
    organization.c.max_future_days,
    organization.c.suspense_id,
    func.clock_timestamp(),
).where(organization.c.organization_id == bindparam("organization_id"))
_DRIVER = PGDialect_psycopg()  # type: ignore[no-untyped-call]
_LOCK_TEXT, _RULES_TEXT = (str(statement.compile(dialect=_DRIVER)) for statement in (LOCK, RULES))
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


class Asked(NamedTuple):
    """The lock is asked for; what it says is known where the pipeline ends."""

    organization_id: int
    locked: psycopg.Cursor[Any]
    rules: psycopg.Cursor[Any]

    def held(self) -> Held:
        """Raises OrganizationNotFound."""
        locked, rules = self.locked.fetchone(), self.rules.fetchone()
        if locked is None or rules is None:
            raise OrganizationNotFound(organization=self.organization_id)
        return Held(*locked, *rules)


def take(tx: Transaction, organization_id: int) -> Held:
    """Wait for the lock and hold it until `tx` ends. Raises OrganizationNotFound."""
    parameters = {"organization_id": organization_id}
    locked = tx.execute(LOCK, parameters).one_or_none()
    rules = tx.execute(RULES, parameters).one_or_none()
    if locked is None or rules is None:
        raise OrganizationNotFound(organization=organization_id)
    return Held(*locked, *rules)


def ask(tx: Transaction, organization_id: int) -> Asked:
    """The same in the driver's pipeline: what follows in it sees what holds under the lock, without a round trip."""
    parameters = {"organization_id": organization_id}
    locked, rules = (raw(tx).execute(text, parameters) for text in (_LOCK_TEXT, _RULES_TEXT))
    return Asked(organization_id, locked, rules)


def advance(
    tx: Transaction, organization_id: int, *, next_position: int, next_rejection: int, booked_at: datetime
) -> None:
    """Note what was given out."""
    raw(tx).execute(ADVANCE, [next_position, next_rejection, booked_at, organization_id])
