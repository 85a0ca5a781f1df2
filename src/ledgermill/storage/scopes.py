"""What is verified, as the tables that checks name: all of the books, or what was posted after a position."""
# ruff: noqa: S608 - the statements are put together from constants of this package

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import TextClause, text

from ledgermill.storage.checks import CHECKS, Check
from ledgermill.storage.connections import Transaction, raw


class Place(NamedTuple):
    """Where the books of an organization are: its last journal, and the last of its jobs that were not posted."""

    organization_id: int
    code: str
    position: int
    rejection: int


class Scope(NamedTuple):
    """What is verified: an organization or (None) all; everything, or (`since`) what came after these places.

    `from_checkpoint`: they are places that a clean run has kept, not ones that somebody chose.
    """

    organization_id: int | None = None
    since: Sequence[Place] | None = None
    from_checkpoint: bool = False

    @property
    def checks(self) -> list[Check]:
        """The checks that can be made there."""
        if self.since is None:
            return list(CHECKS)
        return [
            check
            for check in CHECKS
            if check.sql_since is not None and (self.from_checkpoint or not check.needs_checkpoint)
        ]


# What a check reads: the tables, cut down to one organization where one is named. The planner makes nothing of it.
_ONE_TABLE: Final = """{table} AS NOT MATERIALIZED (
    SELECT * FROM ledgermill.{table}
    WHERE CAST(:organization_id AS int) IS NULL OR organization_id = CAST(:organization_id AS int))"""
_CHART: Final = ("organization", "posting_lock", "principal", "currency", "ledger", "balance", "inbox")
_HISTORY: Final = ("job", "entry", "day_balance", "replay")


def _cut_down(*tables: str) -> str:
    return ", ".join(_ONE_TABLE.replace("{table}", table) for table in tables)


_ALL: Final = (
    _cut_down(*_CHART, *_HISTORY)
    + """,
since AS NOT MATERIALIZED (
    SELECT CAST(NULL AS int) AS organization_id, CAST(NULL AS bigint) AS position, CAST(NULL AS bigint) AS rejection,
           CAST(NULL AS timestamptz) AS booked_at WHERE false),
base AS NOT MATERIALIZED (
    SELECT organization_id, ledger_id, number, position, balance_after FROM ledgermill.entry WHERE false)
"""
)
_SINCE: Final = _cut_down(*_CHART, "verified_day")

# What is new is copied once, into temporary tables that hide ours: each check reads it, and the planner knows its size.
_TEMPORARY: Final = """
    CREATE TEMPORARY TABLE since (organization_id int, position bigint, rejection bigint, booked_at timestamptz)
        ON COMMIT DROP;
    CREATE TEMPORARY TABLE job ON COMMIT DROP AS SELECT * FROM ledgermill.job WITH NO DATA;
    CREATE TEMPORARY TABLE named (organization_id int, ledger_id bigint, number bigint) ON COMMIT DROP;
    CREATE TEMPORARY TABLE moved (organization_id int, ledger_id bigint, first bigint, last bigint) ON COMMIT DROP;
    CREATE TEMPORARY TABLE entry ON COMMIT DROP AS SELECT * FROM ledgermill.entry WITH NO DATA;
    CREATE TEMPORARY TABLE base ON COMMIT DROP AS
        SELECT organization_id, ledger_id, number, position, balance_after FROM ledgermill.entry WITH NO DATA;
"""
# New jobs by position and rejection; the entries that they name, and the one behind the last in each ledger, which no
# journal may know; the one before the first. Each is looked up by its key: OFFSET 0 keeps the planner to that.
_COPIES: Final = (
    """
    INSERT INTO pg_temp.since
    SELECT s.organization_id, s.position, s.rejection, j.ended_at
    FROM unnest(CAST(:organization_ids AS int[]), CAST(:positions AS bigint[]), CAST(:rejections AS bigint[]))
        AS s (organization_id, position, rejection)
    LEFT JOIN ledgermill.job AS j ON j.organization_id = s.organization_id AND j.position = s.position
    """,
    """
    INSERT INTO pg_temp.job
    SELECT j.* FROM pg_temp.since AS s CROSS JOIN LATERAL (
        SELECT * FROM ledgermill.job AS p WHERE p.organization_id = s.organization_id AND p.position > s.position
        OFFSET 0) AS j
    UNION ALL
    SELECT j.* FROM pg_temp.since AS s CROSS JOIN LATERAL (
        SELECT * FROM ledgermill.job AS r
        WHERE r.organization_id = s.organization_id AND r.rejection > s.rejection AND r.state <> 'posted'
        OFFSET 0) AS j
    WHERE j.position IS NULL OR j.position <= s.position
    """,
    """
    INSERT INTO pg_temp.named
    SELECT j.organization_id, place.ledger_id, place.number
    FROM pg_temp.job AS j CROSS JOIN LATERAL unnest(j.entry_ledgers, j.entry_numbers) AS place (ledger_id, number)
    WHERE j.state = 'posted'
    """,
    """
    INSERT INTO pg_temp.moved
    SELECT organization_id, ledger_id, min(number), max(number) FROM pg_temp.named GROUP BY 1, 2
    """,
    """
    INSERT INTO pg_temp.entry
    SELECT e.* FROM (SELECT * FROM pg_temp.named
                     UNION SELECT organization_id, ledger_id, last + 1 FROM pg_temp.moved) AS n
    CROSS JOIN LATERAL (
        SELECT * FROM ledgermill.entry AS e
        WHERE e.organization_id = n.organization_id AND e.ledger_id = n.ledger_id AND e.number = n.number
        OFFSET 0) AS e
    """,
    """
    INSERT INTO pg_temp.base
    SELECT e.organization_id, e.ledger_id, e.number, e.position, e.balance_after
    FROM pg_temp.moved AS m CROSS JOIN LATERAL (
        SELECT * FROM ledgermill.entry AS e
        WHERE e.organization_id = m.organization_id AND e.ledger_id = m.ledger_id AND e.number = m.first - 1
        OFFSET 0) AS e
    """,
    "ANALYZE pg_temp.since, pg_temp.job, pg_temp.named, pg_temp.moved, pg_temp.entry, pg_temp.base",
)
_SUMS: Final = (
    "coalesce(sum(e.amount) FILTER (WHERE e.side = 'D'), 0) AS debits,"
    " coalesce(sum(e.amount) FILTER (WHERE e.side = 'C'), 0) AS credits"
)
_SHORTHANDS: Final = {
    # What new entries add to the days of their ledgers and of all heads above.
    "{moved_days}": """
        WITH RECURSIVE own AS MATERIALIZED (
            SELECT e.organization_id, e.ledger_id, e.value_date,
                   CAST(j.ended_at AT TIME ZONE o.time_zone AS date) AS booked_on, {sums}
            FROM entry AS e JOIN job AS j USING (organization_id, position)
            JOIN organization AS o USING (organization_id)
            GROUP BY 1, 2, 3, 4
        ), above (organization_id, leaf_id, ledger_id) AS (
            SELECT DISTINCT organization_id, ledger_id, ledger_id FROM own
            UNION
            SELECT a.organization_id, a.leaf_id, l.parent_id
            FROM above AS a JOIN ledger AS l USING (organization_id, ledger_id) WHERE l.parent_id IS NOT NULL
        )
        SELECT own.organization_id, a.ledger_id, own.value_date, own.booked_on,
               sum(own.debits) AS debits, sum(own.credits) AS credits
        FROM own JOIN above AS a ON a.organization_id = own.organization_id AND a.leaf_id = own.ledger_id
        GROUP BY 1, 2, 3, 4""",
    "{signed}": "CASE e.side WHEN 'D' THEN e.amount WHEN 'C' THEN -e.amount END",
    "{sums}": _SUMS,
}


def not_made(scope: Scope) -> list[Check]:
    """The checks that cannot be made there."""
    made = {check.name for check in scope.checks}
    return [check for check in CHECKS if check.name not in made]


def subject_of(check: Check, scope: Scope) -> str:
    """The table whose rows say how much a check looked at."""
    return "entry" if scope.since is not None and check.subject == "day_balance" else check.subject


def statement(sql: str, scope: Scope) -> TextClause:
    """A statement on the tables of this scope. Its parameters are `values_of(scope)`."""
    sql = f"WITH {_ALL if scope.since is None else _SINCE} {sql}"
    for shorthand, meaning in _SHORTHANDS.items():
        sql = sql.replace(shorthand, meaning)
    return text(sql)


def values_of(scope: Scope) -> dict[str, Any]:
    """The parameters of a statement on the tables of this scope."""
    return {"organization_id": scope.organization_id}


def load(tx: Transaction, scope: Scope) -> None:
    """Copy what is new, for the rest of `tx`, which must be one that may write. All of the books are not copied."""
    if scope.since is None:
        return
    raw(tx).execute(_TEMPORARY)  # as one script
    values = {
        "organization_ids": [place.organization_id for place in scope.since],
        "positions": [place.position for place in scope.since],
        "rejections": [place.rejection for place in scope.since],
    }
    for copy in _COPIES:
        tx.execute(text(copy), values if ":positions" in copy else {})
