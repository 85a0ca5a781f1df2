-- Most jobs are journals, which this index leaves out: it costs them nothing, and a page of any other kind is found at
-- once.
CREATE INDEX job_of_seldom_kind ON ledgermill.job (organization_id, job_id) WHERE kind <> 'post_journal';

CREATE OR REPLACE FUNCTION ledgermill_api.newest_jobs(first_id uuid, below_id uuid, of_states text[], of_kind text,
                                           of_reference text, most int)
    RETURNS SETOF ledgermill_api.job
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = ledgermill, pg_temp
    AS $$
    DECLARE shown int := ledgermill_api.organization_id();
    BEGIN
        IF of_reference IS NOT NULL THEN
            RETURN QUERY SELECT * FROM job
                WHERE organization_id = shown AND reference_id = of_reference AND job_id >= first_id AND job_id < below_id
                AND (of_states IS NULL OR state = ANY (of_states)) AND (of_kind IS NULL OR kind = of_kind)
                ORDER BY job_id DESC LIMIT most;
        ELSIF NOT 'posted' = ANY (of_states) THEN
            RETURN QUERY SELECT * FROM job
                WHERE organization_id = shown AND state <> 'posted' AND job_id >= first_id AND job_id < below_id
                AND state = ANY (of_states) AND (of_kind IS NULL OR kind = of_kind)
                ORDER BY job_id DESC LIMIT most;
        ELSIF of_kind <> 'post_journal' THEN
            RETURN QUERY SELECT * FROM job
                WHERE organization_id = shown AND kind <> 'post_journal' AND job_id >= first_id AND job_id < below_id
                AND (of_states IS NULL OR state = ANY (of_states)) AND kind = of_kind
                ORDER BY job_id DESC LIMIT most;
        ELSE
            RETURN QUERY SELECT * FROM job
                WHERE organization_id = shown AND job_id >= first_id AND job_id < below_id
                AND (of_states IS NULL OR state = ANY (of_states)) AND (of_kind IS NULL OR kind = of_kind)
                ORDER BY job_id DESC LIMIT most;
        END IF;
    END $$;
