"""Verification: the checks run over one snapshot; over all of the books, or over what was posted after a position."""
# ruff: noqa: S608 - the statements are put together from constants of this package

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text

from ledgermill.storage import scopes
from ledgermill.storage.checks import Check
from ledgermill.storage.connections import Transaction
from ledgermill.storage.scopes import Place, Scope, statement, subject_of, values_of

MOST_EXAMPLES: Final = 10


@dataclass(frozen=True, slots=True)
class Violations:
    """How many there are, and the first of them: inner ids, with the codes of organization and ledger beside."""

    count: int
    examples: tuple[Mapping[str, Any], ...]


# Over all of the books, nested loops over entries would take days where statistics are missing, as after a restore;
# over what is new, reading a table whole would.
PREPARE: Final = text("""
    SELECT set_config('work_mem', '64MB', true), set_config('statement_timeout', CAST(:timeout_ms AS text), true),
           set_config('jit', 'off', true), set_config('enable_nestloop', :nestloop, true),
           set_config('enable_seqscan', :seqscan, true),
           set_config('search_path', 'pg_catalog', true) -- the catalog writes our names with their schema
""")
PLACES: Final = text("""
    SELECT o.organization_id, o.code, coalesce(p.next_position, 1) - 1 AS position,
           coalesce(p.next_rejection, 1) - 1 AS rejection
    FROM ledgermill.organization AS o LEFT JOIN ledgermill.posting_lock AS p USING (organization_id)
    WHERE CAST(:organization_id AS int) IS NULL OR o.organization_id = CAST(:organization_id AS int)
    ORDER BY o.code
""")
# Jobs that were not posted are counted in the order of the journals that were there.
REJECTED_BY: Final = text("""
    SELECT coalesce((SELECT j.rejection FROM ledgermill.job AS j
                     WHERE j.organization_id = :organization_id AND j.state <> 'posted' AND j.after_position < :position
                     ORDER BY j.rejection DESC LIMIT 1), 0)
""")
COUNT: Final = "SELECT count(*) FROM {subject}"
FIND: Final = f"""
    SELECT found.violations, o.code AS organization, l.code AS ledger, found.facts
    FROM (SELECT count(*) OVER () AS violations, v.organization_id, to_jsonb(v) - 'organization_id' AS facts
          FROM ({{sql}}) AS v LIMIT {MOST_EXAMPLES}) AS found
    LEFT JOIN organization AS o ON o.organization_id = found.organization_id
    LEFT JOIN ledger AS l ON l.organization_id = found.organization_id
                         AND l.ledger_id = CAST(found.facts ->> 'ledger_id' AS bigint)
"""


def prepare(tx: Transaction, scope: Scope, *, statement_timeout_s: float = 0) -> None:
    """Until `tx` ends, let statements take the memory, the time (0: any), the plans and the copies of this scope."""
    is_all = scope.since is None
    tx.execute(
        PREPARE,
        {
            "timeout_ms": round(statement_timeout_s * 1000),
            "nestloop": "off" if is_all else "on",
            "seqscan": "on" if is_all else "off",
        },
    )
    scopes.load(tx, scope)


def places(tx: Transaction, organization_id: int | None) -> list[Place]:
    """Where the books of each organization (or of one) are now, by code."""
    return [Place._make(row) for row in tx.execute(PLACES, {"organization_id": organization_id})]


def place_at(tx: Transaction, place: Place, position: int) -> Place:
    """The place of an organization at an earlier position."""
    rejection = tx.execute(
        REJECTED_BY, {"organization_id": place.organization_id, "position": min(position, place.position)}
    ).scalar_one()
    return place._replace(position=min(position, place.position), rejection=rejection)


def count_rows(tx: Transaction, scope: Scope) -> dict[str, int]:
    """How many rows the tables have that checks read, by table."""
    return {
        subject: int(tx.execute(statement(COUNT.replace("{subject}", subject), scope), values_of(scope)).scalar_one())
        for subject in sorted({subject_of(check, scope) for check in scope.checks})
    }


def find(tx: Transaction, check: Check, scope: Scope) -> Violations:
    """What breaks this promise there."""
    sql = check.sql if scope.since is None else check.sql_since
    rows = tx.execute(statement(FIND.replace("{sql}", sql or ""), scope), values_of(scope)).all()
    return Violations(rows[0].violations if rows else 0, tuple(_example(row) for row in rows))


def _example(row: Any) -> Mapping[str, Any]:
    facts: dict[str, Any] = dict(row.facts)
    names = {"organization": row.organization, "ledger": row.ledger}
    return {**{name: code for name, code in names.items() if code is not None}, **facts}
