"""Checks of journals: they balance, have their entries, and are counted in the order of their booking."""

from typing import Final

from ledgermill.storage.checks.check import Check

JOURNALS: Final = (
    Check(
        "journals_have_two_entries",
        "Every journal has 2 entries or more.",
        "job",
        """
        SELECT j.organization_id, j.job_id, j.position, count(e.position) AS entries
        FROM job AS j LEFT JOIN entry AS e USING (organization_id, position)
        WHERE j.state = 'posted'
        GROUP BY j.organization_id, j.job_id, j.position HAVING count(e.position) < 2
        """,
    ),
    Check(
        "journals_balance",
        "In every journal debits equal credits in each currency, and are its total in its own.",
        "job",
        """
        SELECT j.organization_id, j.job_id, j.position, j.total, sum(t.debits) AS debits, sum(t.credits) AS credits
        FROM job AS j JOIN (
            SELECT e.organization_id, e.position, e.currency, {sums} FROM entry AS e GROUP BY 1, 2, 3
        ) AS t USING (organization_id, position)
        WHERE j.state = 'posted'
        GROUP BY j.organization_id, j.job_id, j.position, j.currency, j.total
        HAVING bool_or(t.debits <> t.credits)
            OR coalesce(sum(t.debits) FILTER (WHERE t.currency = j.currency), 0) IS DISTINCT FROM j.total
        """,
    ),
    Check(
        "entries_belong_to_journals",
        "Every entry belongs to a journal and has its value date.",
        "entry",
        """
        SELECT e.organization_id, e.ledger_id, e.number, e.position, e.value_date, j.value_date AS of_journal
        FROM entry AS e LEFT JOIN job AS j
            ON j.organization_id = e.organization_id AND j.position = e.position AND j.state = 'posted'
        WHERE j.value_date IS DISTINCT FROM e.value_date
        """,
    ),
    Check(
        "journals_lead_to_their_entries",
        "What a journal keeps of its entries' places leads, line by line, to exactly these entries.",
        "job",
        """
        SELECT coalesce(p.organization_id, e.organization_id) AS organization_id,
               coalesce(p.position, e.position) AS position, coalesce(p.line, e.line) AS line,
               coalesce(p.ledger_id, e.ledger_id) AS ledger_id, coalesce(p.number, e.number) AS number,
               CASE WHEN p.position IS NULL THEN 'not in the journal' ELSE 'no such entry' END AS problem
        FROM (SELECT j.organization_id, j.position, place.ledger_id, place.number, place.line
              FROM job AS j CROSS JOIN LATERAL unnest(j.entry_ledgers, j.entry_numbers)
                  WITH ORDINALITY AS place (ledger_id, number, line)
              WHERE j.state = 'posted') AS p
        FULL JOIN entry AS e ON e.organization_id = p.organization_id AND e.position = p.position
            AND e.ledger_id = p.ledger_id AND e.number = p.number AND e.line = p.line
        WHERE p.position IS NULL OR e.position IS NULL
        """,
    ),
    Check(
        "entries_are_on_leaves",
        "Every entry is on a ledger that exists, is no head, and has the entry's currency.",
        "entry",
        """
        SELECT e.organization_id, e.ledger_id, e.number, e.position, e.currency, l.currency AS of_ledger, l.is_head
        FROM entry AS e LEFT JOIN ledger AS l USING (organization_id, ledger_id)
        WHERE l.is_head IS NOT FALSE OR l.currency <> e.currency
        """,
    ),
    Check(
        "positions_are_gapless",
        "In every organization the journals have the positions 1, 2, 3 and so on, and the next one is counted.",
        "job",
        """
        SELECT * FROM (
            SELECT j.organization_id, j.position,
                   lag(j.position, 1, coalesce(s.position, 0)) OVER counted + 1 AS expected
            FROM job AS j LEFT JOIN since AS s USING (organization_id) WHERE j.position IS NOT NULL
            WINDOW counted AS (PARTITION BY j.organization_id ORDER BY j.position)
        ) AS counted WHERE position <> expected
        UNION ALL
        SELECT p.organization_id, p.next_position, coalesce(max(j.position), max(s.position), 0) + 1
        FROM posting_lock AS p LEFT JOIN since AS s USING (organization_id) LEFT JOIN job AS j USING (organization_id)
        GROUP BY p.organization_id, p.next_position
        HAVING p.next_position <> coalesce(max(j.position), max(s.position), 0) + 1
        """,
    ),
    Check(
        "positions_are_in_time_order",
        "No journal was booked before one of a lower position.",
        "job",
        """
        SELECT * FROM (
            SELECT j.organization_id, j.job_id, j.position, j.ended_at AS booked_at,
                   lag(j.ended_at, 1, s.booked_at) OVER (PARTITION BY j.organization_id ORDER BY j.position) AS before
            FROM job AS j LEFT JOIN since AS s USING (organization_id) WHERE j.position IS NOT NULL
        ) AS ordered WHERE before > booked_at
        """,
    ),
    Check(
        "last_bookings_are_noted",
        "The posting lock knows when the last job ended, so that none after it is booked earlier.",
        "job",
        """
        SELECT p.organization_id, p.last_booked_at, max(j.ended_at) AS last_ended_at
        FROM posting_lock AS p JOIN job AS j USING (organization_id)
        GROUP BY p.organization_id, p.last_booked_at
        HAVING p.last_booked_at IS DISTINCT FROM max(j.ended_at)
        """,
    ),
    Check(
        "amounts_are_positive",
        "Every amount is a whole number of minor units above 0 that a balance can hold.",
        "entry",
        """
        SELECT e.organization_id, e.ledger_id, e.number, e.position, CAST(e.amount AS text) AS amount
        FROM entry AS e WHERE e.amount <= 0 OR e.amount = 'NaN' OR e.balance_after = 'NaN'
        """,
    ),
    Check(
        "entries_are_within_the_dates_of_their_ledger",
        "No entry's value date is before its ledger was opened or after it was closed.",
        "entry",
        """
        SELECT e.organization_id, e.ledger_id, e.number, e.position, e.value_date, l.opening_date, l.closing_date
        FROM entry AS e JOIN ledger AS l USING (organization_id, ledger_id)
        WHERE e.value_date < l.opening_date OR e.value_date > l.closing_date
        """,
    ),
)
