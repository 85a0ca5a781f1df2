"""Checks of jobs: each ended once, under one key, and none both waits and has ended."""

from typing import Final

from ledgermill.storage.checks.check import Check

JOBS: Final = (
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
        "states_are_known",
        "A job that has ended was posted, rejected or quarantined, and is of a kind that there is.",
        "job",
        """
        SELECT j.organization_id, j.job_id, j.state, j.kind FROM job AS j
        WHERE j.state NOT IN ('posted', 'rejected', 'quarantined') OR j.kind NOT IN ('post_journal', 'update_balance')
        """,
    ),
    Check(
        "jobs_have_principals",
        "Every job that has ended was asked for by a principal of its organization.",
        "job",
        """
        SELECT j.organization_id, j.job_id, j.principal_id
        FROM job AS j LEFT JOIN principal AS p USING (organization_id, principal_id) WHERE p.principal_id IS NULL
        """,
    ),
    Check(
        "waiting_batches_have_principals",
        "Every batch that waits was asked for by a principal of its organization.",
        "inbox",
        """
        SELECT i.organization_id, i.batch_id, i.part, i.principal_id
        FROM inbox AS i LEFT JOIN principal AS p USING (organization_id, principal_id) WHERE p.principal_id IS NULL
        """,
    ),
    Check(
        "rejections_are_gapless",
        "In every organization jobs that were not posted are numbered 1, 2, 3 and so on, and the next one is counted.",
        "job",
        """
        SELECT * FROM (
            SELECT j.organization_id, j.rejection,
                   lag(j.rejection, 1, coalesce(s.rejection, 0)) OVER counted + 1 AS expected
            FROM job AS j LEFT JOIN since AS s USING (organization_id) WHERE j.rejection IS NOT NULL
            WINDOW counted AS (PARTITION BY j.organization_id ORDER BY j.rejection)
        ) AS counted WHERE rejection <> expected
        UNION ALL
        SELECT p.organization_id, p.next_rejection, coalesce(max(j.rejection), max(s.rejection), 0) + 1
        FROM posting_lock AS p LEFT JOIN since AS s USING (organization_id) LEFT JOIN job AS j USING (organization_id)
        GROUP BY p.organization_id, p.next_rejection
        HAVING p.next_rejection <> coalesce(max(j.rejection), max(s.rejection), 0) + 1
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
        since="""
        SELECT j.organization_id, j.job_id, j.idempotency_key, other.job_id AS bound_to
        FROM job AS j CROSS JOIN LATERAL (
            SELECT o.job_id FROM ledgermill.job AS o
            WHERE o.organization_id = j.organization_id AND o.idempotency_key = j.idempotency_key
            OFFSET 0) AS other
        WHERE other.job_id <> j.job_id
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
        since=None,  # nothing says when a replay was noted
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
)
