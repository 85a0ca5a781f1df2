-- What verify found, and from where the next run goes on. The worker writes it, from beat; nobody changes a run.
CREATE TABLE ledgermill.verification (
    organization_id int NOT NULL,
    verification_id bigint GENERATED ALWAYS AS IDENTITY,
    kind text NOT NULL,
    from_position bigint NOT NULL,
    to_position bigint NOT NULL,
    began_at timestamptz NOT NULL,
    seconds double precision NOT NULL,
    checks int NOT NULL,
    violations bigint NOT NULL,
    found jsonb NOT NULL, -- violations of each check that found any
    CONSTRAINT verification_pkey PRIMARY KEY (organization_id, kind, verification_id),
    CONSTRAINT verification_kind_is_known CHECK (kind IN ('new', 'all'))
);
CREATE TRIGGER verification_is_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledgermill.verification
    FOR EACH STATEMENT EXECUTE FUNCTION ledgermill.refuse_change();

-- The checkpoint: up to these two counts the books were clean. Whoever verifies an organization holds its row.
CREATE TABLE ledgermill.verified (
    organization_id int NOT NULL,
    position bigint NOT NULL DEFAULT 0,
    rejection bigint NOT NULL DEFAULT 0,
    new_clean_at timestamptz,
    all_clean_at timestamptz,
    CONSTRAINT verified_pkey PRIMARY KEY (organization_id)
);

-- At the checkpoint, the totals of the booking day that was not over: what is posted on the same day is added to them.
CREATE TABLE ledgermill.verified_day (
    organization_id int NOT NULL,
    ledger_id bigint NOT NULL,
    value_date date NOT NULL,
    booked_on date NOT NULL,
    debits numeric(38,0) NOT NULL,
    credits numeric(38,0) NOT NULL,
    CONSTRAINT verified_day_pkey PRIMARY KEY (organization_id, ledger_id, value_date, booked_on)
);

GRANT SELECT ON ledgermill.verification, ledgermill.verified, ledgermill.verified_day
    TO ledgermill_worker, ledgermill_readonly;
GRANT INSERT ON ledgermill.verification TO ledgermill_worker;
GRANT INSERT, UPDATE ON ledgermill.verified TO ledgermill_worker;
GRANT INSERT, UPDATE, DELETE ON ledgermill.verified_day TO ledgermill_worker;

-- The last run of each kind over each organization, and for how long its books were not known to be clean: since its
-- last clean run of that kind, or since it is there.
CREATE FUNCTION ledgermill_api.verifications()
    RETURNS TABLE (organization_code text, kind text, began_at timestamptz, seconds double precision, found jsonb,
                   unverified_s double precision)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ledgermill, pg_temp
    AS $$
        SELECT o.code, k.kind, r.began_at, r.seconds, r.found,
               greatest(0, extract(epoch FROM now() - coalesce(
                   CASE k.kind WHEN 'new' THEN v.new_clean_at ELSE v.all_clean_at END, o.created_at)))::double precision
        FROM organization o CROSS JOIN (VALUES ('new'), ('all')) AS k (kind)
        LEFT JOIN verified v ON v.organization_id = o.organization_id
        LEFT JOIN LATERAL (
            SELECT * FROM verification AS last
            WHERE last.organization_id = o.organization_id AND last.kind = k.kind
            ORDER BY last.verification_id DESC LIMIT 1
        ) AS r ON true
    $$;
REVOKE ALL ON FUNCTION ledgermill_api.verifications FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledgermill_api.verifications TO ledgermill_api;
