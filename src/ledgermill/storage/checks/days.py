"""Checks of day balances: what entries add up to by value date and booking day."""

from typing import Final

from ledgermill.storage.checks.check import Check

DAYS: Final = (
    Check(
        "days_are_the_sum_of_entries",
        "A leaf's totals of a value date and booking day are those of its entries of these days.",
        "day_balance",
        """
        SELECT organization_id, ledger_id, value_date, booked_on, d.debits, d.credits,
               f.debits AS expected_debits, f.credits AS expected_credits
        FROM (SELECT e.organization_id, e.ledger_id, e.value_date,
                     CAST(j.ended_at AT TIME ZONE o.time_zone AS date) AS booked_on, {sums}
              FROM entry AS e JOIN job AS j USING (organization_id, position)
              JOIN organization AS o USING (organization_id)
              GROUP BY 1, 2, 3, 4) AS f
        FULL JOIN (SELECT day.* FROM day_balance AS day LEFT JOIN ledger AS l USING (organization_id, ledger_id)
                   WHERE l.is_head IS NOT TRUE) AS d
            USING (organization_id, ledger_id, value_date, booked_on)
        WHERE d.debits IS DISTINCT FROM f.debits OR d.credits IS DISTINCT FROM f.credits
        """,
        # What the cells of the day of the last clean run held then, and what was posted since, up to the roots.
        since="""
        SELECT f.organization_id, f.ledger_id, f.value_date, f.booked_on, d.debits, d.credits,
               coalesce(v.debits, 0) + f.debits AS expected_debits,
               coalesce(v.credits, 0) + f.credits AS expected_credits
        FROM ({moved_days}) AS f
        LEFT JOIN LATERAL (SELECT * FROM ledgermill.day_balance AS d
                           WHERE (d.organization_id, d.ledger_id, d.value_date, d.booked_on)
                               = (f.organization_id, f.ledger_id, f.value_date, f.booked_on)) AS d ON true
        LEFT JOIN verified_day AS v ON v.organization_id = f.organization_id AND v.ledger_id = f.ledger_id
            AND v.value_date = f.value_date AND v.booked_on = f.booked_on
        WHERE d.debits IS DISTINCT FROM coalesce(v.debits, 0) + f.debits
           OR d.credits IS DISTINCT FROM coalesce(v.credits, 0) + f.credits
        """,
        needs_checkpoint=True,
    ),
    Check(
        "days_of_heads_are_the_sum_of_children",
        "A head's totals of a value date and booking day are those of its children.",
        "day_balance",
        """
        SELECT organization_id, ledger_id, value_date, booked_on, d.debits, d.credits,
               c.debits AS expected_debits, c.credits AS expected_credits
        FROM (SELECT day.organization_id, child.parent_id AS ledger_id, day.value_date, day.booked_on,
                     sum(day.debits) AS debits, sum(day.credits) AS credits
              FROM day_balance AS day JOIN ledger AS child USING (organization_id, ledger_id)
              WHERE child.parent_id IS NOT NULL GROUP BY 1, 2, 3, 4) AS c
        FULL JOIN (SELECT day.* FROM day_balance AS day JOIN ledger AS l USING (organization_id, ledger_id)
                   WHERE l.is_head) AS d
            USING (organization_id, ledger_id, value_date, booked_on)
        WHERE d.debits IS DISTINCT FROM c.debits OR d.credits IS DISTINCT FROM c.credits
        """,
        since=None,  # the check above looks at heads too
    ),
    Check(
        "days_balance",
        "Over all leaves of an organization, debits equal credits on each value date and booking day in each currency.",
        "day_balance",
        """
        SELECT day.organization_id, day.value_date, day.booked_on, l.currency,
               sum(day.debits) AS debits, sum(day.credits) AS credits
        FROM day_balance AS day JOIN ledger AS l USING (organization_id, ledger_id)
        WHERE NOT l.is_head
        GROUP BY day.organization_id, day.value_date, day.booked_on, l.currency
        HAVING sum(day.debits) <> sum(day.credits)
        """,
        since=None,  # follows there from journals that balance, and days that are the sum of their entries
    ),
)
