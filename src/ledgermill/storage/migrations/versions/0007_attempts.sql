-- A claim has a name, so that whoever lost it changes nothing. Tries count for each release of the worker by itself: what
-- a bad one did says nothing of a job. All null or empty for a batch that nobody tried.
ALTER TABLE ledgermill.inbox
    ADD COLUMN claimed_by uuid,
    ADD COLUMN tried_under text[] NOT NULL DEFAULT '{}',
    ADD COLUMN first_tried_at timestamptz,
    ADD COLUMN tried_at timestamptz,
    ADD COLUMN alone_until int NOT NULL DEFAULT 0;

-- Per release of the worker and kind of job: when one was last posted, and since when none is known to be, so that
-- workers of this release pause. A few rows in all, which belong to no organization.
CREATE TABLE ledgermill.worker_release (
    release text NOT NULL,
    kind text NOT NULL,
    posted_at timestamptz,
    paused_at timestamptz,
    resumed_at timestamptz,
    canary_at timestamptz,
    problem text,
    CONSTRAINT worker_release_pkey PRIMARY KEY (release, kind)
);
GRANT SELECT, INSERT, UPDATE ON ledgermill.worker_release TO ledgermill_worker;
GRANT SELECT ON ledgermill.worker_release TO ledgermill_readonly;

-- A release that tried nothing for a minute is gone, or has nothing to do.
CREATE FUNCTION ledgermill_api.paused_workers()
    RETURNS TABLE (release text, kind text, paused_s double precision, problem text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ledgermill, pg_temp
    AS $$
        SELECT w.release, w.kind, extract(epoch FROM now() - w.paused_at)::double precision, w.problem
        FROM worker_release w
        WHERE w.paused_at IS NOT NULL AND greatest(w.paused_at, w.canary_at) > now() - interval '1 minute'
    $$;
REVOKE ALL ON FUNCTION ledgermill_api.paused_workers FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledgermill_api.paused_workers TO ledgermill_api;
