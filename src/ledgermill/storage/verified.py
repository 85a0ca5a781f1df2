"""Checkpoints: up to where the books of an organization were verified, and what each run found."""
# ruff: noqa: S608 - the statements are put together from constants of this package

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from sqlalchemy import func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert

from ledgermill.storage.connections import Engine, Transaction, snapshot
from ledgermill.storage.scopes import Place, Scope, statement, values_of
from ledgermill.storage.tables import organization, verification, verified

NEW: Final = "new"
ALL: Final = "all"

BEGIN_AT_NOTHING = (
    upsert(verified).from_select(["organization_id"], select(organization.c.organization_id)).on_conflict_do_nothing()
)
CHECKPOINTS = text("""
    SELECT v.organization_id, o.code, v.position, v.rejection
    FROM ledgermill.verified AS v JOIN ledgermill.organization AS o USING (organization_id)
    WHERE CAST(:organization_id AS int) IS NULL OR v.organization_id = CAST(:organization_id AS int)
    ORDER BY o.code
""")
# A run of the same organization that is not over holds the row: then there is none.
HOLD = text("""
    SELECT v.organization_id, o.code, v.position, v.rejection
    FROM ledgermill.verified AS v JOIN ledgermill.organization AS o USING (organization_id)
    WHERE v.organization_id = :organization_id
    FOR UPDATE OF v SKIP LOCKED
""")
LAST_BOOKING_DAY: Final = """
    SELECT CAST(j.ended_at AT TIME ZONE o.time_zone AS date) FROM ledgermill.job AS j
    JOIN ledgermill.organization AS o USING (organization_id)
    WHERE j.organization_id = :organization_id AND j.position = :position
"""
FORGET_DAYS = text(f"""
    DELETE FROM ledgermill.verified_day
    WHERE organization_id = :organization_id AND (:all OR booked_on IS DISTINCT FROM ({LAST_BOOKING_DAY}))
""")
KEEP_DAYS: Final = f"""
    INSERT INTO ledgermill.verified_day (organization_id, ledger_id, value_date, booked_on, debits, credits)
    SELECT d.organization_id, d.ledger_id, d.value_date, d.booked_on, d.debits, d.credits
    FROM {{days}} WHERE d.organization_id = :organization_id AND d.booked_on = ({LAST_BOOKING_DAY})
    ON CONFLICT (organization_id, ledger_id, value_date, booked_on)
    DO UPDATE SET debits = excluded.debits, credits = excluded.credits
"""
MOVED_DAYS: Final = """({moved_days}) AS f JOIN LATERAL (
        SELECT * FROM ledgermill.day_balance AS d
        WHERE (d.organization_id, d.ledger_id, d.value_date, d.booked_on)
            = (f.organization_id, f.ledger_id, f.value_date, f.booked_on)) AS d ON true"""


def organization_ids(tx: Transaction) -> list[int]:
    """Every organization; from here on each has a checkpoint, at first before its first journal."""
    tx.execute(BEGIN_AT_NOTHING)
    return list(tx.execute(select(verified.c.organization_id).order_by(verified.c.organization_id)).scalars())


def checkpoints(tx: Transaction, organization_id: int | None) -> list[Place]:
    """Where the last clean run of each organization (or of one) ended; one that was never verified has none."""
    return [Place._make(row) for row in tx.execute(CHECKPOINTS, {"organization_id": organization_id})]


@contextmanager
def held(engine: Engine, organization_id: int) -> Iterator[tuple[Transaction, Place] | None]:
    """A transaction that sees one moment and holds the checkpoint of an organization; None where another holds it."""
    with snapshot(engine, may_write=True) as tx:
        row = tx.execute(HOLD, {"organization_id": organization_id}).one_or_none()
        yield None if row is None else (tx, Place._make(row))


def move(tx: Transaction, kind: str, scope: Scope, place: Place) -> None:
    """Up to this place, which is where the books are in `tx`, they are clean: the next run begins here."""
    at = {"organization_id": place.organization_id, "position": place.position}
    tx.execute(FORGET_DAYS, {**at, "all": kind == ALL})
    days = MOVED_DAYS if kind == NEW else "ledgermill.day_balance AS d"
    tx.execute(statement(KEEP_DAYS.replace("{days}", days), scope), {**values_of(scope), **at})
    clean_at = verified.c.new_clean_at if kind == NEW else verified.c.all_clean_at
    tx.execute(
        verified.update()
        .where(verified.c.organization_id == place.organization_id)
        .values({verified.c.position: place.position, verified.c.rejection: place.rejection, clean_at: func.now()})
    )


def note_idle(tx: Transaction, organization_id: int) -> None:
    """Nothing was posted since the last clean run: what there is, is verified."""
    tx.execute(verified.update().where(verified.c.organization_id == organization_id).values(new_clean_at=func.now()))


def record(
    tx: Transaction,
    kind: str,
    *,
    organization_id: int,
    from_position: int,
    to_position: int,
    began_at: datetime,
    seconds: float,
    checks: int,
    found: Mapping[str, int],
) -> None:
    """Note a run: `found` has the violations of each check that found any."""
    tx.execute(
        insert(verification).values(
            organization_id=organization_id,
            kind=kind,
            from_position=from_position,
            to_position=to_position,
            began_at=began_at,
            seconds=seconds,
            checks=checks,
            violations=sum(found.values()),
            found=dict(found),
        )
    )
