"""The checks of `ledgermill verify`: for each promise of the books, one statement that finds what breaks it.

`{tables}`, `{sums}` and the other shorthands are written out by `verify.py`.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Check:
    """A promise. `sql` selects its violations, each with an organization_id; `subject` is the table that it reads."""

    name: str
    sentence: str
    subject: str
    sql: str


CHECKS: Final = (
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
        "numbers_are_gapless",
        "In every ledger the entries are numbered 1, 2, 3 and so on.",
        "entry",
        """
        SELECT e.organization_id, e.ledger_id, min(e.number) AS first, max(e.number) AS last, count(*) AS entries
        FROM entry AS e GROUP BY e.organization_id, e.ledger_id
        HAVING min(e.number) <> 1 OR max(e.number) <> count(DISTINCT e.number) OR count(*) <> max(e.number)
        """,
    ),
    Check(
        "numbers_follow_positions",
        "In every ledger the entries are numbered in the order of their journals.",
        "entry",
        """
        SELECT * FROM (
            SELECT e.organization_id, e.ledger_id, e.number, e.position, lag(e.position) OVER ledger_order AS before
            FROM entry AS e
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
                   coalesce(lag(e.balance_after) OVER ledger_order, 0) + {signed} AS expected
            FROM entry AS e
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
    Check(
        "positions_are_gapless",
        "In every organization the journals have the positions 1, 2, 3 and so on, and the next one is counted.",
        "job",
        """
        SELECT * FROM (
            SELECT j.organization_id, j.position,
                   lag(j.position, 1, 0::bigint) OVER counted + 1 AS expected
            FROM job AS j WHERE j.position IS NOT NULL
            WINDOW counted AS (PARTITION BY j.organization_id ORDER BY j.position)
        ) AS counted WHERE position <> expected
        UNION ALL
        SELECT p.organization_id, p.next_position, coalesce(max(j.position), 0) + 1
        FROM posting_lock AS p LEFT JOIN job AS j USING (organization_id)
        GROUP BY p.organization_id, p.next_position HAVING p.next_position <> coalesce(max(j.position), 0) + 1
        """,
    ),
    Check(
        "positions_are_in_time_order",
        "No journal was booked before one of a lower position.",
        "job",
        """
        SELECT * FROM (
            SELECT j.organization_id, j.job_id, j.position, j.ended_at AS booked_at,
                   lag(j.ended_at) OVER (PARTITION BY j.organization_id ORDER BY j.position) AS before
            FROM job AS j WHERE j.position IS NOT NULL
        ) AS ordered WHERE before > booked_at
        """,
    ),
    Check(
        "jobs_are_whole",
        "A posted job has a key, a position and entries, and no code; any other has a code and a rejection number, and "
        "neither position nor entries.",
        "job",
        """
        SELECT j.organization_id, j.job_id, j.state, j.position, j.rejection, j.code
        FROM job AS j
        WHERE CASE WHEN j.state = 'posted' THEN
            num_nulls(j.idempotency_key, j.fingerprint, j.position, j.type, j.currency, j.total, j.value_date) > 0
            OR coalesce(cardinality(j.entry_ledgers), 0) = 0
            OR cardinality(j.entry_ledgers) IS DISTINCT FROM cardinality(j.entry_numbers)
            OR num_nonnulls(j.rejection, j.after_position, j.code, j.message) > 0
        ELSE
            num_nulls(j.rejection, j.after_position, j.code, j.message) > 0
            OR num_nulls(j.idempotency_key, j.fingerprint) = 1
            OR num_nonnulls(j.position, j.total, j.entry_ledgers, j.entry_numbers) > 0
        END
        """,
    ),
    Check(
        "rejections_are_gapless",
        "In every organization jobs that were not posted are numbered 1, 2, 3 and so on, and the next one is counted.",
        "job",
        """
        SELECT * FROM (
            SELECT j.organization_id, j.rejection,
                   lag(j.rejection, 1, 0::bigint) OVER counted + 1 AS expected
            FROM job AS j WHERE j.rejection IS NOT NULL
            WINDOW counted AS (PARTITION BY j.organization_id ORDER BY j.rejection)
        ) AS counted WHERE rejection <> expected
        UNION ALL
        SELECT p.organization_id, p.next_rejection, coalesce(max(j.rejection), 0) + 1
        FROM posting_lock AS p LEFT JOIN job AS j USING (organization_id)
        GROUP BY p.organization_id, p.next_rejection HAVING p.next_rejection <> coalesce(max(j.rejection), 0) + 1
        """,
    ),
    Check(
        "rejections_are_in_order",
        "Jobs that were not posted were counted in the order in which they ended, among the journals too.",
        "job",
        """
        SELECT * FROM (
            SELECT j.organization_id, j.job_id, j.rejection, j.after_position, j.ended_at,
                   lag(j.after_position) OVER counted AS position_before, lag(j.ended_at) OVER counted AS ended_before
            FROM job AS j WHERE j.rejection IS NOT NULL
            WINDOW counted AS (PARTITION BY j.organization_id ORDER BY j.rejection)
        ) AS ordered JOIN (SELECT organization_id, next_position FROM posting_lock) AS p USING (organization_id)
        WHERE position_before > after_position OR ended_before > ended_at
           OR after_position NOT BETWEEN 0 AND next_position - 1
        """,
    ),
    Check(
        "keys_are_bound_once",
        "No idempotency key is bound to two jobs.",
        "job",
        """
        SELECT j.organization_id, j.idempotency_key, count(*) AS jobs
        FROM job AS j WHERE j.idempotency_key IS NOT NULL
        GROUP BY j.organization_id, j.idempotency_key HAVING count(*) > 1
        """,
    ),
    Check(
        "replays_lead_to_jobs",
        "The id of a repeated job leads to the job that settled its key, and is no job itself.",
        "replay",
        """
        SELECT r.organization_id, r.job_id, r.first_job_id
        FROM replay AS r
        LEFT JOIN job AS first ON first.organization_id = r.organization_id AND first.job_id = r.first_job_id
        LEFT JOIN job AS own ON own.organization_id = r.organization_id AND own.job_id = r.job_id
        WHERE first.job_id IS NULL OR own.job_id IS NOT NULL
        """,
    ),
    Check(
        # A broker's message that comes back waits here even where its first delivery settled it: then it is a replay.
        "no_job_waits_that_has_ended",
        "No job that was accepted over HTTP, the command line or a schedule both waits and has ended.",
        "inbox",
        """
        SELECT w.organization_id, j.job_id, j.state, w.batch_id, w.part
        FROM (SELECT i.organization_id, i.batch_id, i.part,
                     CAST(left(CAST(i.batch_id AS text), 28) || lpad(to_hex(place.place), 4, '0') || '0000' AS uuid)
                         AS job_id
              FROM inbox AS i JOIN principal AS p USING (organization_id, principal_id)
              CROSS JOIN LATERAL unnest(coalesce(i.places, ARRAY(SELECT generate_series(0, i.jobs - 1))))
                  WITH ORDINALITY AS place (place, item)
              WHERE p.kind <> 'broker' AND place.item > i.next_item) AS w
        JOIN job AS j ON j.organization_id = w.organization_id AND j.job_id = w.job_id
        """,
    ),
    Check(
        "waiting_batches_are_whole",
        "A waiting batch has a key slot and a place for each of its jobs, and at least one that is not settled.",
        "inbox",
        """
        SELECT i.organization_id, i.batch_id, i.part, i.jobs, i.next_item
        FROM inbox AS i
        WHERE i.next_item NOT BETWEEN 0 AND i.jobs - 1 OR cardinality(i.job_keys) <> i.jobs
           OR cardinality(i.places) <> i.jobs
        """,
    ),
    Check(
        "organizations_can_post",
        "Every organization has a posting lock that counts its ledgers, and a suspense ledger that takes entries.",
        "organization",
        """
        SELECT o.organization_id, o.suspense_id AS ledger_id, p.next_ledger_id, max(l.ledger_id) AS last_ledger_id
        FROM organization AS o
        LEFT JOIN posting_lock AS p USING (organization_id)
        LEFT JOIN ledger AS l USING (organization_id)
        GROUP BY o.organization_id, o.suspense_id, p.next_ledger_id
        HAVING coalesce(p.next_ledger_id <= max(l.ledger_id), true)
            OR coalesce(bool_or(l.is_head) FILTER (WHERE l.ledger_id = o.suspense_id), true)
        """,
    ),
    Check(
        "ledgers_have_balances",
        "Every ledger has one balance, of the same depth, and every balance a ledger.",
        "ledger",
        """
        SELECT coalesce(l.organization_id, b.organization_id) AS organization_id,
               coalesce(l.ledger_id, b.ledger_id) AS ledger_id, l.depth, b.depth AS depth_of_balance
        FROM ledger AS l FULL JOIN balance AS b ON b.organization_id = l.organization_id AND b.ledger_id = l.ledger_id
        WHERE l.depth IS DISTINCT FROM b.depth
        """,
    ),
    Check(
        "parents_are_heads",
        "Every ledger that is below another is below a head of the same organization.",
        "ledger",
        """
        SELECT l.organization_id, l.ledger_id, l.parent_id
        FROM ledger AS l LEFT JOIN ledger AS p ON p.organization_id = l.organization_id AND p.ledger_id = l.parent_id
        WHERE l.parent_id IS NOT NULL AND p.is_head IS NOT TRUE
        """,
    ),
    Check(
        "children_are_one_deeper",
        "The depth of a ledger is that of its parent and 1, and 0 without one.",
        "ledger",
        """
        SELECT l.organization_id, l.ledger_id, l.depth, p.depth + 1 AS expected
        FROM ledger AS l LEFT JOIN ledger AS p ON p.organization_id = l.organization_id AND p.ledger_id = l.parent_id
        WHERE l.depth <> coalesce(p.depth + 1, 0)
        """,
    ),
    Check(
        "children_have_their_parents_type",
        "A ledger has the type of its parent.",
        "ledger",
        """
        SELECT l.organization_id, l.ledger_id, l.type, p.type AS of_parent
        FROM ledger AS l JOIN ledger AS p ON p.organization_id = l.organization_id AND p.ledger_id = l.parent_id
        WHERE l.type <> p.type
        """,
    ),
    Check(
        "trees_have_roots",
        "Every ledger hangs below a root: no chain of parents is a circle.",
        "ledger",
        """
        WITH RECURSIVE hanging AS (
            SELECT l.organization_id, l.ledger_id FROM ledger AS l WHERE l.parent_id IS NULL
            UNION ALL
            SELECT l.organization_id, l.ledger_id
            FROM hanging AS h JOIN ledger AS l ON l.organization_id = h.organization_id AND l.parent_id = h.ledger_id
        )
        SELECT l.organization_id, l.ledger_id, l.parent_id
        FROM ledger AS l LEFT JOIN hanging AS h USING (organization_id, ledger_id) WHERE h.ledger_id IS NULL
        """,
    ),
    Check(
        "safeguards_are_in_place",
        "The constraints and triggers that keep ids, keys and positions unique and journals unchanged are in force.",
        "organization",
        """
        SELECT CAST(NULL AS int) AS organization_id, wanted.name AS missing
        FROM (VALUES ('job_pkey'), ('job_key_is_bound_once'), ('job_position_is_given_once'), ('replay_pkey'),
                     ('entry_pkey'), ('entry_amount_is_positive'), ('balance_pkey'), ('day_balance_pkey'),
                     ('ledger_pkey'), ('inbox_pkey'), ('job_is_insert_only'), ('entry_is_insert_only')) AS wanted (name)
        WHERE NOT EXISTS (SELECT FROM pg_constraint AS c
                          WHERE c.conname = wanted.name AND c.convalidated
                            AND c.connamespace = 'ledgermill'::regnamespace)
          AND NOT EXISTS (SELECT FROM pg_trigger AS t JOIN pg_class AS r ON r.oid = t.tgrelid
                          WHERE t.tgname = wanted.name AND t.tgenabled IN ('O', 'A')
                            AND r.relnamespace = 'ledgermill'::regnamespace)
        """,
    ),
)
