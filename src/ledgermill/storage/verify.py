"""Verification: the checks run over one snapshot, however many entries there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text

from ledgermill.storage.checks import CHECKS, Check
from ledgermill.storage.connections import Transaction

MOST_EXAMPLES: Final = 10


@dataclass(frozen=True, slots=True)
class Violations:
    """How many there are, and the first of them: inner ids, with the codes of organization and ledger beside."""

    count: int
    examples: tuple[Mapping[str, Any], ...]


# What a check reads: the tables, cut down to one organization where one is named. The planner makes nothing of it.
_TABLES: Final = (
    "organization",
    "posting_lock",
    "principal",
    "ledger",
    "balance",
    "day_balance",
    "inbox",
    "job",
    "replay",
    "entry",
)
_ONE_TABLE: Final = """{table} AS NOT MATERIALIZED (
    SELECT * FROM ledgermill.{table}
    WHERE CAST(:organization_id AS int) IS NULL OR organization_id = CAST(:organization_id AS int))"""
_SHORTHANDS: Final = {
    "{tables}": ", ".join(_ONE_TABLE.replace("{table}", table) for table in _TABLES),
    "{signed}": "CASE e.side WHEN 'D' THEN e.amount WHEN 'C' THEN -e.amount END",
    "{sums}": "coalesce(sum(e.amount) FILTER (WHERE e.side = 'D'), 0) AS debits,"
    " coalesce(sum(e.amount) FILTER (WHERE e.side = 'C'), 0) AS credits",
    "{most}": str(MOST_EXAMPLES),
}


def _written_out(sql: str) -> str:
    for shorthand, meaning in _SHORTHANDS.items():
        sql = sql.replace(shorthand, meaning)
    return sql


# Nested loops over entries would take days where statistics are missing, as after a restore.
PREPARE: Final = text("""
    SELECT set_config('work_mem', '64MB', true), set_config('statement_timeout', '0', true),
           set_config('jit', 'off', true), set_config('enable_nestloop', 'off', true)
""")
POSITIONS: Final = text(
    _written_out("""
    WITH {tables}
    SELECT o.code, coalesce(p.next_position, 1) - 1 AS position
    FROM organization AS o LEFT JOIN posting_lock AS p USING (organization_id) ORDER BY o.code
""")
)
COUNT: Final = "WITH {tables} SELECT count(*) FROM {subject}"
FIND: Final = """
    WITH {tables}
    SELECT found.violations, o.code AS organization, l.code AS ledger, found.facts
    FROM (SELECT count(*) OVER () AS violations, v.organization_id, to_jsonb(v) - 'organization_id' AS facts
          FROM ({sql}) AS v LIMIT {most}) AS found
    LEFT JOIN organization AS o ON o.organization_id = found.organization_id
    LEFT JOIN ledger AS l ON l.organization_id = found.organization_id
                         AND l.ledger_id = CAST(found.facts ->> 'ledger_id' AS bigint)
"""


def prepare(tx: Transaction) -> None:
    """Until `tx` ends, let statements take the memory, the time and the plans that many entries need."""
    tx.execute(PREPARE)


def positions(tx: Transaction, organization_id: int | None) -> dict[str, int]:
    """The last position of each organization (or of one), by its code: what is verified."""
    return {row.code: row.position for row in tx.execute(POSITIONS, {"organization_id": organization_id})}


def count_rows(tx: Transaction, organization_id: int | None) -> dict[str, int]:
    """How many rows the tables have that checks read, by table."""
    parameters = {"organization_id": organization_id}
    return {
        subject: int(tx.execute(text(_written_out(COUNT.replace("{subject}", subject))), parameters).scalar_one())
        for subject in sorted({check.subject for check in CHECKS})
    }


def find(tx: Transaction, check: Check, organization_id: int | None) -> Violations:
    """What breaks this promise, in one organization or (None) in all."""
    statement = text(_written_out(FIND.replace("{sql}", check.sql)))
    rows = tx.execute(statement, {"organization_id": organization_id}).all()
    return Violations(rows[0].violations if rows else 0, tuple(_example(row) for row in rows))


def _example(row: Any) -> Mapping[str, Any]:
    facts: dict[str, Any] = dict(row.facts)
    names = {"organization": row.organization, "ledger": row.ledger}
    return {**{name: code for name, code in names.items() if code is not None}, **facts}
