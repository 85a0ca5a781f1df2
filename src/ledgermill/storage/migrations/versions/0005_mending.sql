-- Jobs that were sent again: each leads to the job whose request it repeats, mended or as it was, and says who did it.
-- All that came of one job are one family, named by `first_job_id` and counted without a gap: of two who send the same
-- at one moment, the unique number lets one through.
CREATE TABLE ledgermill.mending (
    organization_id int NOT NULL,
    job_id uuid NOT NULL,
    mended_from uuid NOT NULL,
    first_job_id uuid NOT NULL,
    number int NOT NULL,
    principal_id int NOT NULL,
    mended_at timestamptz NOT NULL,
    CONSTRAINT mending_pkey PRIMARY KEY (organization_id, job_id),
    CONSTRAINT mending_is_counted_once UNIQUE (organization_id, first_job_id, number),
    CONSTRAINT mending_number_counts_from_1 CHECK (number >= 1),
    CONSTRAINT mending_leads_to_another_job CHECK (job_id <> mended_from AND job_id <> first_job_id)
);
CREATE TRIGGER mending_is_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledgermill.mending
    FOR EACH STATEMENT EXECUTE FUNCTION ledgermill.refuse_change();

-- When messages of the quarantine were given back to their queue, and by whom.
CREATE TABLE ledgermill.requeue (
    quarantine_id uuid NOT NULL,
    requeued_at timestamptz NOT NULL,
    requeued_by text NOT NULL,
    CONSTRAINT requeue_pkey PRIMARY KEY (quarantine_id, requeued_at)
);
CREATE TRIGGER requeue_is_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledgermill.requeue
    FOR EACH STATEMENT EXECUTE FUNCTION ledgermill.refuse_change();

CREATE VIEW ledgermill_api.mending WITH (security_barrier) AS SELECT * FROM ledgermill.mending
    WHERE organization_id = (SELECT ledgermill_api.organization_id()) WITH LOCAL CHECK OPTION;
GRANT SELECT, INSERT ON ledgermill_api.mending TO ledgermill_api;
GRANT SELECT ON ledgermill.mending, ledgermill.requeue TO ledgermill_worker, ledgermill_readonly;

-- How many jobs of the organization that is shown had been refused before this moment. Refusals are counted without a
-- gap and in the order of time, so that a range of time is a range of that count: found in some twenty look-ups.
CREATE FUNCTION ledgermill_api.refused_before(moment timestamptz) RETURNS bigint
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = ledgermill, pg_temp
    AS $$
    DECLARE
        shown int := ledgermill_api.organization_id();
        low bigint := 0;
        high bigint := (SELECT p.next_rejection - 1 FROM posting_lock p WHERE p.organization_id = shown);
        middle bigint;
        refused_at timestamptz;
    BEGIN
        WHILE low < high LOOP
            middle := (low + high + 1) / 2;
            SELECT j.ended_at INTO refused_at FROM job j
                WHERE j.organization_id = shown AND j.state <> 'posted' AND j.rejection = middle;
            IF refused_at >= moment THEN high := middle - 1; ELSE low := middle; END IF;
        END LOOP;
        RETURN low;
    END $$;

-- Jobs that were not posted, of the organization that is shown, by the count of their refusal: above one, up to another.
-- One is open where nobody has sent it again, nor is anything else of its family posted or still to be worked on.
-- `asking` is looked for in the request, `saying` in the message. A request is given only `with_request`.
CREATE FUNCTION ledgermill_api.refused_jobs(above bigint, upto bigint, of_code text, of_kind text, of_state text,
                                            asking text, saying text, only_open boolean, newest_first boolean,
                                            with_request boolean, most int)
    RETURNS TABLE (job_id uuid, rejection bigint, idempotency_key text, kind text, state text, accepted_at timestamptz,
                   ended_at timestamptz, principal_id int, correlation text, code text, message text, details text,
                   asked text, first_job_id uuid, number int, is_open boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ledgermill, pg_temp
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
    AS $$
        SELECT f.* FROM (
            SELECT j.job_id, j.rejection, j.idempotency_key, j.kind, j.state, j.accepted_at, j.ended_at,
                   j.principal_id, j.correlation, j.code, j.message, j.details,
                   CASE WHEN with_request THEN j.asked END, coalesce(own.first_job_id, j.job_id),
                   coalesce(own.number, 0),
                   NOT EXISTS (
                       SELECT FROM mending m
                       LEFT JOIN job o ON o.organization_id = m.organization_id AND o.job_id = m.job_id
                       WHERE m.organization_id = j.organization_id
                       AND m.first_job_id = coalesce(own.first_job_id, j.job_id)
                       AND (m.number > coalesce(own.number, 0) OR o.job_id IS NULL OR o.state = 'posted')
                   ) AS is_open
            FROM job j
            LEFT JOIN mending own ON own.organization_id = j.organization_id AND own.job_id = j.job_id
            WHERE j.organization_id = ledgermill_api.organization_id() AND j.state <> 'posted'
            AND j.rejection > above AND j.rejection <= upto
            AND (of_code IS NULL OR j.code = of_code) AND (of_kind IS NULL OR j.kind = of_kind)
            AND (of_state IS NULL OR j.state = of_state) AND (asking IS NULL OR strpos(j.asked, asking) > 0)
            AND (saying IS NULL OR strpos(lower(j.message), lower(saying)) > 0)
        ) f
        WHERE f.is_open OR NOT only_open
        ORDER BY CASE WHEN newest_first THEN -f.rejection ELSE f.rejection END
        LIMIT most
    $$;

REVOKE ALL ON FUNCTION ledgermill_api.refused_before, ledgermill_api.refused_jobs FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledgermill_api.refused_before, ledgermill_api.refused_jobs TO ledgermill_api;
