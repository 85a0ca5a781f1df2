"""Checks of balances: entries follow one another, and what a ledger holds is what its entries say."""

from typing import Final

from ledgermill.storage.checks.check import Check

BALANCES: Final = (
    Check(
        "numbers_are_gapless",
        "In every ledger the entries are numbered 1, 2, 3 and so on.",
        "entry",
        """
        SELECT e.organization_id, e.ledger_id, coalesce(b.number, 0) AS before, min(e.number) AS first,
               max(e.number) AS last, count(*) AS entries
        FROM entry AS e LEFT JOIN base AS b USING (organization_id, ledger_id)
        GROUP BY e.organization_id, e.ledger_id, b.number
        HAVING min(e.number) <> coalesce(b.number, 0) + 1
            OR max(e.number) - coalesce(b.number, 0) <> count(DISTINCT e.number)
            OR max(e.number) - coalesce(b.number, 0) <> count(*)
        """,
    ),
    Check(
        "numbers_follow_positions",
        "In every ledger the entries are numbered in the order of their journals.",
        "entry",
        """
        SELECT * FROM (
            SELECT e.organization_id, e.ledger_id, e.number, e.position,
                   lag(e.position, 1, b.position) OVER ledger_order AS before
            FROM entry AS e LEFT JOIN base AS b USING (organization_id, ledger_id)
            WINDOW ledger_order AS (PARTITION BY e.organization_id, e.ledger_id ORDER BY e.number)
        ) AS ordered WHERE before > position
        """,
    ),
    Check(
        "running_balances_follow",
        "The balance after each entry is the one before it plus a debit or minus a credit.",
        "entry",
        """
        SELECT * FROM (
            SELECT e.organization_id, e.ledger_id, e.number, e.balance_after,
                   coalesce(lag(e.balance_after, 1, b.balance_after) OVER ledger_order, 0) + {signed} AS expected
            FROM entry AS e LEFT JOIN base AS b USING (organization_id, ledger_id)
            WINDOW ledger_order AS (PARTITION BY e.organization_id, e.ledger_id ORDER BY e.number)
        ) AS followed WHERE balance_after IS DISTINCT FROM expected
        """,
    ),
    Check(
        "balances_are_the_sum_of_entries",
        "The debits and credits of every leaf are those of its entries.",
        "balance",
        """
        SELECT b.organization_id, b.ledger_id, b.debits, b.credits,
               coalesce(f.debits, 0) AS expected_debits, coalesce(f.credits, 0) AS expected_credits
        FROM balance AS b JOIN ledger AS l USING (organization_id, ledger_id)
        LEFT JOIN (SELECT e.organization_id, e.ledger_id, {sums} FROM entry AS e GROUP BY 1, 2) AS f
            USING (organization_id, ledger_id)
        WHERE NOT l.is_head AND (b.debits <> coalesce(f.debits, 0) OR b.credits <> coalesce(f.credits, 0))
        """,
        # Debits and credits apart are the sum of all entries; their difference is what the last entry says.
        since="""
        SELECT b.organization_id, b.ledger_id, b.debits, b.credits, e.balance_after AS expected_difference
        FROM balance AS b JOIN (
            SELECT DISTINCT ON (organization_id, ledger_id) organization_id, ledger_id, balance_after
            FROM entry ORDER BY organization_id, ledger_id, number DESC
        ) AS e USING (organization_id, ledger_id)
        WHERE b.debits - b.credits IS DISTINCT FROM e.balance_after
        """,
    ),
    Check(
        "balances_count_entries",
        "A leaf's last number and version count its entries; a head has no number, and a version for all below it.",
        "balance",
        """
        SELECT b.organization_id, b.ledger_id, b.last_number, b.version,
               coalesce(f.entries, 0) AS own_entries, coalesce(c.versions, 0) AS versions_below
        FROM balance AS b JOIN ledger AS l USING (organization_id, ledger_id)
        LEFT JOIN (SELECT organization_id, ledger_id, count(*) AS entries FROM entry GROUP BY 1, 2) AS f
            USING (organization_id, ledger_id)
        LEFT JOIN (SELECT child.organization_id, child.parent_id AS ledger_id, sum(below.version) AS versions
                   FROM ledger AS child JOIN balance AS below USING (organization_id, ledger_id) GROUP BY 1, 2) AS c
            USING (organization_id, ledger_id)
        WHERE CASE WHEN l.is_head THEN b.last_number <> 0 OR b.version <> coalesce(c.versions, 0)
                   ELSE b.last_number <> coalesce(f.entries, 0) OR b.version <> coalesce(f.entries, 0) END
        """,
        since="""
        SELECT b.organization_id, b.ledger_id, b.last_number, b.version,
               f.last_entry, coalesce(c.versions, 0) AS versions_below
        FROM balance AS b JOIN ledger AS l USING (organization_id, ledger_id)
        LEFT JOIN (SELECT organization_id, ledger_id, max(number) AS last_entry FROM entry GROUP BY 1, 2) AS f
            USING (organization_id, ledger_id)
        LEFT JOIN (SELECT child.organization_id, child.parent_id AS ledger_id, sum(below.version) AS versions
                   FROM ledger AS child JOIN balance AS below USING (organization_id, ledger_id) GROUP BY 1, 2) AS c
            USING (organization_id, ledger_id)
        WHERE CASE WHEN l.is_head THEN b.last_number <> 0 OR b.version <> coalesce(c.versions, 0)
                   ELSE b.last_number <> coalesce(f.last_entry, b.last_number) OR b.version <> b.last_number END
        """,
    ),
    Check(
        "heads_are_the_sum_of_children",
        "The debits and credits of every head are those of its children.",
        "balance",
        """
        SELECT b.organization_id, b.ledger_id, b.debits, b.credits,
               coalesce(c.debits, 0) AS expected_debits, coalesce(c.credits, 0) AS expected_credits
        FROM balance AS b JOIN ledger AS l USING (organization_id, ledger_id)
        LEFT JOIN (SELECT child.organization_id, child.parent_id AS ledger_id,
                          sum(below.debits) AS debits, sum(below.credits) AS credits
                   FROM ledger AS child JOIN balance AS below USING (organization_id, ledger_id) GROUP BY 1, 2) AS c
            USING (organization_id, ledger_id)
        WHERE l.is_head AND (b.debits <> coalesce(c.debits, 0) OR b.credits <> coalesce(c.credits, 0))
        """,
    ),
    Check(
        "books_balance",
        "Over all leaves of an organization, debits equal credits in each currency.",
        "balance",
        """
        SELECT organization_id, l.currency, sum(b.debits) AS debits, sum(b.credits) AS credits
        FROM balance AS b JOIN ledger AS l USING (organization_id, ledger_id)
        WHERE NOT l.is_head GROUP BY organization_id, l.currency HAVING sum(b.debits) <> sum(b.credits)
        """,
    ),
    Check(
        "nothing_is_held",
        "No ledger has money held: there are no holds yet, and what is held could not be spent.",
        "balance",
        """
        SELECT b.organization_id, b.ledger_id, b.held FROM balance AS b WHERE b.held <> 0
        """,
    ),
    Check(
        "balances_know_their_last_booking",
        "A ledger with entries was last booked when its last journal was.",
        "balance",
        """
        SELECT b.organization_id, b.ledger_id, b.last_booked_at, j.ended_at AS expected
        FROM balance AS b
        JOIN entry AS e ON e.organization_id = b.organization_id AND e.ledger_id = b.ledger_id
            AND e.number = b.last_number
        JOIN job AS j ON j.organization_id = e.organization_id AND j.position = e.position
        WHERE b.last_booked_at IS DISTINCT FROM j.ended_at
        """,
    ),
    Check(
        "floors_hold",
        "No journal took a ledger with a floor below it, as the floor is today; a movement up may leave it below.",
        "entry",
        """
        WITH floored AS (
            SELECT organization_id, ledger_id, CASE normal_side WHEN 'D' THEN 1 ELSE -1 END AS sign,
                   CASE WHEN overdraft_enabled THEN -overdraft_limit ELSE 0 END AS lowest
            FROM ledger WHERE balance_floor = 'limit' AND NOT is_head
        ), low AS (  -- seldom any: then only their entries are put together into journals
            SELECT DISTINCT organization_id, ledger_id, f.sign, f.lowest
            FROM entry AS e JOIN floored AS f USING (organization_id, ledger_id)
            WHERE e.balance_after * f.sign < f.lowest
        )
        SELECT e.organization_id, e.ledger_id, e.position, low.lowest, sum({signed}) * low.sign AS moved,
               (array_agg(e.balance_after ORDER BY e.number DESC))[1] * low.sign AS balance_after
        FROM low JOIN entry AS e USING (organization_id, ledger_id)
        GROUP BY e.organization_id, e.ledger_id, e.position, low.sign, low.lowest
        HAVING sum({signed}) * low.sign < 0
           AND (array_agg(e.balance_after ORDER BY e.number DESC))[1] * low.sign < low.lowest
        """,
    ),
)
