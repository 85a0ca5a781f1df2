-- The books: organizations, ledgers, balances, jobs (a posted job is its journal), entries, the inbox.
-- No extension, no trigger that does work, no foreign key from the rows that a posting inserts: those cost 40 % of its
-- rate, and the references are checked under the lock and again by `ledgermill verify`.

CREATE SCHEMA ledgermill_api;

CREATE TABLE ledgermill.organization (
    organization_id int GENERATED ALWAYS AS IDENTITY,
    organization_uuid uuid NOT NULL,
    code text NOT NULL,
    name text NOT NULL,
    base_currency char(3) NOT NULL,
    time_zone text NOT NULL,
    fiscal_year_start_month smallint NOT NULL DEFAULT 1,
    state text NOT NULL DEFAULT 'active',
    max_future_days int NOT NULL DEFAULT 0,
    suspense_id bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT organization_pkey PRIMARY KEY (organization_id),
    CONSTRAINT organization_uuid_is_unique UNIQUE (organization_uuid),
    CONSTRAINT organization_code_is_unique UNIQUE (code),
    CONSTRAINT organization_state_is_known CHECK (state IN ('active', 'paused', 'draining')),
    CONSTRAINT fiscal_year_starts_in_a_month CHECK (fiscal_year_start_month BETWEEN 1 AND 12)
);

CREATE TABLE ledgermill.principal (
    organization_id int NOT NULL,
    principal_id int NOT NULL,
    principal_uuid uuid NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    CONSTRAINT principal_pkey PRIMARY KEY (organization_id, principal_id),
    CONSTRAINT principal_is_named_once UNIQUE (organization_id, kind, name),
    CONSTRAINT principal_kind_is_known CHECK (kind IN ('broker', 'key', 'cli'))
);

CREATE TABLE ledgermill.api_key (
    organization_id int NOT NULL,
    key_uuid uuid NOT NULL,
    key_sha256 bytea NOT NULL,
    principal_id int NOT NULL,
    name text NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT api_key_pkey PRIMARY KEY (organization_id, key_uuid)
);
CREATE UNIQUE INDEX api_key_sha256 ON ledgermill.api_key (key_sha256);

CREATE TABLE ledgermill.currency (
    organization_id int NOT NULL,
    code char(3) NOT NULL,
    currency_uuid uuid NOT NULL,
    exponent smallint NOT NULL,
    CONSTRAINT currency_pkey PRIMARY KEY (organization_id, code),
    CONSTRAINT currency_uuid_is_unique UNIQUE (organization_id, currency_uuid)
);

CREATE TABLE ledgermill.ledger (
    organization_id int NOT NULL,
    ledger_id bigint NOT NULL,
    ledger_uuid uuid NOT NULL,
    code text NOT NULL,
    number bigint NOT NULL,
    name text NOT NULL,
    description text,
    type text NOT NULL,
    type_code smallint NOT NULL,
    currency char(3) NOT NULL,
    is_head boolean NOT NULL,
    parent_id bigint,
    depth smallint NOT NULL,
    normal_side char(1) NOT NULL,
    active boolean NOT NULL DEFAULT true,
    allow_manual_entry boolean NOT NULL DEFAULT true,
    balance_floor text NOT NULL,
    overdraft_enabled boolean NOT NULL DEFAULT false,
    overdraft_limit numeric(38,0) NOT NULL DEFAULT 0,
    opening_date date,
    closing_date date,
    metadata jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by int NOT NULL,
    modified_at timestamptz NOT NULL DEFAULT now(),
    modified_by int NOT NULL,
    changed_at_version bigint NOT NULL,
    CONSTRAINT ledger_pkey PRIMARY KEY (organization_id, ledger_id),
    CONSTRAINT ledger_uuid_is_unique UNIQUE (organization_id, ledger_uuid),
    CONSTRAINT ledger_code_is_unique UNIQUE (organization_id, code),
    CONSTRAINT ledger_number_is_unique UNIQUE (organization_id, number),
    CONSTRAINT ledger_type_is_known CHECK (type IN ('asset', 'liability', 'equity', 'income', 'expense')),
    CONSTRAINT ledger_floor_is_known CHECK (balance_floor IN ('limit', 'none')),
    CONSTRAINT ledger_number_has_10_digits CHECK (number BETWEEN 1 AND 9999999999),
    CONSTRAINT ledger_overdraft_is_not_negative CHECK (overdraft_limit >= 0),
    CONSTRAINT ledger_normal_side_is_known CHECK (normal_side IN ('D', 'C')),
    CONSTRAINT ledger_parent_exists FOREIGN KEY (organization_id, parent_id)
        REFERENCES ledgermill.ledger (organization_id, ledger_id) DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX ledger_parent ON ledgermill.ledger (organization_id, parent_id);
CREATE INDEX ledger_changed ON ledgermill.ledger (organization_id, changed_at_version);

-- One row for each organization: whoever posts or changes the chart takes it first.
CREATE TABLE ledgermill.posting_lock (
    organization_id int NOT NULL,
    next_position bigint NOT NULL DEFAULT 1,
    next_rejection bigint NOT NULL DEFAULT 1,
    next_ledger_id bigint NOT NULL DEFAULT 1,
    chart_version bigint NOT NULL DEFAULT 0,
    last_booked_at timestamptz,
    CONSTRAINT posting_lock_pkey PRIMARY KEY (organization_id)
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

-- Totals of the ledger, or of the whole subtree below a head, in minor units. Base totals stay null where the ledger is
-- kept in base currency: they are the same.
CREATE TABLE ledgermill.balance (
    organization_id int NOT NULL,
    ledger_id bigint NOT NULL,
    depth smallint NOT NULL,
    debits numeric(38,0) NOT NULL DEFAULT 0,
    credits numeric(38,0) NOT NULL DEFAULT 0,
    base_debits numeric(38,0),
    base_credits numeric(38,0),
    held numeric(38,0) NOT NULL DEFAULT 0,
    last_number bigint NOT NULL DEFAULT 0,
    version bigint NOT NULL DEFAULT 0,
    last_booked_at timestamptz,
    CONSTRAINT balance_pkey PRIMARY KEY (organization_id, ledger_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE ledgermill.day_balance (
    organization_id int NOT NULL,
    ledger_id bigint NOT NULL,
    value_date date NOT NULL,
    booked_on date NOT NULL,
    debits numeric(38,0) NOT NULL,
    credits numeric(38,0) NOT NULL,
    base_debits numeric(38,0),
    base_credits numeric(38,0),
    CONSTRAINT day_balance_pkey PRIMARY KEY (organization_id, ledger_id, value_date, booked_on)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Accepted batches that wait. `payload` is the batch as it came; `next_item` counts what is settled of it already.
CREATE TABLE ledgermill.inbox (
    organization_id int NOT NULL,
    batch_id uuid NOT NULL,
    part smallint NOT NULL DEFAULT 0,
    lane int NOT NULL,
    kind text NOT NULL,
    payload bytea NOT NULL,
    jobs int NOT NULL,
    places int[],
    job_keys text[] NOT NULL,
    next_item int NOT NULL DEFAULT 0,
    attempts smallint NOT NULL DEFAULT 0,
    accepted_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    claimed_at timestamptz,
    held boolean NOT NULL DEFAULT false,
    principal_id int NOT NULL,
    correlation text,
    message_id text,
    last_error text,
    CONSTRAINT inbox_pkey PRIMARY KEY (organization_id, batch_id, part)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX inbox_due ON ledgermill.inbox (due_at, batch_id);

-- Insert-only, in its final state. A posted job is its journal. Where its entries are: two arrays, by line.
CREATE TABLE ledgermill.job (
    organization_id int NOT NULL,
    job_id uuid NOT NULL,
    idempotency_key text COLLATE "C",
    fingerprint bytea,
    kind text NOT NULL,
    state text NOT NULL,
    accepted_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    principal_id int NOT NULL,
    correlation text,
    position bigint,
    type text,
    currency char(3),
    total numeric(38,0),
    base_total numeric(38,0),
    value_date date,
    event_at timestamptz,
    description text,
    reference_id text,
    metadata jsonb,
    entry_ledgers bigint[],
    entry_numbers bigint[],
    after_position bigint,
    rejection bigint,
    code text,
    message text,
    details text,
    asked text,
    CONSTRAINT job_pkey PRIMARY KEY (organization_id, job_id),
    CONSTRAINT job_key_is_bound_once UNIQUE (organization_id, idempotency_key),
    CONSTRAINT job_position_is_given_once UNIQUE (organization_id, position)
);
CREATE INDEX job_unposted ON ledgermill.job (organization_id, rejection) WHERE state <> 'posted';
CREATE INDEX job_unposted_by_id ON ledgermill.job (organization_id, job_id) WHERE state <> 'posted';
CREATE INDEX job_reference ON ledgermill.job (organization_id, reference_id, job_id) WHERE reference_id IS NOT NULL;

-- A job whose key was settled before: its id leads to the job that settled it.
CREATE TABLE ledgermill.replay (
    organization_id int NOT NULL,
    job_id uuid NOT NULL,
    first_job_id uuid NOT NULL,
    CONSTRAINT replay_pkey PRIMARY KEY (organization_id, job_id)
);

-- `balance_after` is debits minus credits. Base columns stay null where the ledger is kept in base currency.
CREATE TABLE ledgermill.entry (
    organization_id int NOT NULL,
    ledger_id bigint NOT NULL,
    number bigint NOT NULL,
    position bigint NOT NULL,
    line int NOT NULL,
    side char(1) NOT NULL,
    amount numeric(38,0) NOT NULL,
    currency char(3) NOT NULL,
    base_amount numeric(38,0),
    rate numeric(20,10),
    rate_date date,
    rate_source text,
    balance_after numeric(38,0) NOT NULL,
    value_date date NOT NULL,
    CONSTRAINT entry_pkey PRIMARY KEY (organization_id, ledger_id, number),
    CONSTRAINT entry_amount_is_positive CHECK (amount > 0)
);

-- Messages that are not ours or cannot be read, with their raw bytes.
CREATE TABLE ledgermill.quarantine (
    quarantine_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    queue text NOT NULL,
    code text NOT NULL,
    reason text NOT NULL,
    body bytea NOT NULL,
    CONSTRAINT quarantine_pkey PRIMARY KEY (quarantine_id)
);
CREATE INDEX quarantine_received ON ledgermill.quarantine (received_at, quarantine_id);

-- What is posted stays as it is, for the owner of the tables too.
CREATE FUNCTION ledgermill.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is insert-only; correct a journal by a reversal', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER job_is_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledgermill.job
    FOR EACH STATEMENT EXECUTE FUNCTION ledgermill.refuse_change();
CREATE TRIGGER entry_is_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledgermill.entry
    FOR EACH STATEMENT EXECUTE FUNCTION ledgermill.refuse_change();

-- Roles belong to the whole server: another ledgermill database there may have made them.
DO $$
DECLARE role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['ledgermill_worker', 'ledgermill_api', 'ledgermill_readonly'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I', role_name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            CONTINUE;
        END;
        EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', role_name, '5s');
        EXECUTE format('ALTER ROLE %I SET lock_timeout = %L', role_name, '2s');
        -- The statement of a client that was killed ends with it, and with its locks.
        EXECUTE format('ALTER ROLE %I SET client_connection_check_interval = %L', role_name, '1s');
    END LOOP;
END $$;
DO $$ BEGIN
    ALTER ROLE ledgermill_worker SET statement_timeout = '10s';
    ALTER ROLE ledgermill_api SET statement_timeout = '2s';
    ALTER ROLE ledgermill_readonly SET default_transaction_read_only = on;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'the roles belong to another login; their timeouts stay as they are';
END $$;

GRANT USAGE ON SCHEMA ledgermill TO ledgermill_worker, ledgermill_readonly;
GRANT USAGE ON SCHEMA ledgermill_api TO ledgermill_api;

GRANT SELECT ON ALL TABLES IN SCHEMA ledgermill TO ledgermill_worker;
REVOKE SELECT ON ledgermill.api_key FROM ledgermill_worker;
GRANT INSERT ON ledgermill.job, ledgermill.entry, ledgermill.replay, ledgermill.quarantine, ledgermill.principal
    TO ledgermill_worker;
GRANT INSERT, UPDATE ON ledgermill.day_balance TO ledgermill_worker;
GRANT UPDATE ON ledgermill.balance, ledgermill.posting_lock TO ledgermill_worker;
GRANT INSERT, UPDATE, DELETE ON ledgermill.inbox TO ledgermill_worker;

GRANT SELECT ON ALL TABLES IN SCHEMA ledgermill TO ledgermill_readonly;
REVOKE SELECT ON ledgermill.api_key FROM ledgermill_readonly;

-- The api role sees one organization at a time: the one that the transaction has named.
CREATE FUNCTION ledgermill_api.organization_id() RETURNS int LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT nullif(current_setting('ledgermill.organization', true), '')::int $$;

DO $$
DECLARE table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['organization', 'principal', 'currency', 'ledger', 'posting_lock', 'balance',
                                      'day_balance', 'inbox', 'job', 'replay', 'entry'] LOOP
        EXECUTE format(
            'CREATE VIEW ledgermill_api.%1$I WITH (security_barrier) AS SELECT * FROM ledgermill.%1$I'
            ' WHERE organization_id = (SELECT ledgermill_api.organization_id()) WITH LOCAL CHECK OPTION', table_name);
        EXECUTE format('GRANT SELECT ON ledgermill_api.%I TO ledgermill_api', table_name);
    END LOOP;
END $$;
GRANT INSERT ON ledgermill_api.inbox, ledgermill_api.ledger, ledgermill_api.currency TO ledgermill_api;
GRANT INSERT (organization_id, ledger_id, depth) ON ledgermill_api.balance TO ledgermill_api;
GRANT UPDATE (currency_uuid) ON ledgermill_api.currency TO ledgermill_api;
GRANT UPDATE (next_ledger_id, chart_version) ON ledgermill_api.posting_lock TO ledgermill_api;
GRANT UPDATE (active, modified_at, modified_by, changed_at_version) ON ledgermill_api.ledger TO ledgermill_api;

CREATE FUNCTION ledgermill_api.find_key(sha256 bytea)
    RETURNS TABLE (organization_id int, organization_uuid uuid, organization_code text, key_uuid uuid,
                   principal_id int, scopes text[])
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ledgermill, pg_temp
    AS $$
        SELECT k.organization_id, o.organization_uuid, o.code, k.key_uuid, k.principal_id, k.scopes
        FROM api_key k JOIN organization o USING (organization_id)
        WHERE k.key_sha256 = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
    $$;

-- A LIMIT does not reach through a view that is a security barrier: behind one, a page of the newest jobs would read all.
CREATE FUNCTION ledgermill_api.newest_jobs(first_id uuid, below_id uuid, of_states text[], of_kind text,
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
        ELSE
            RETURN QUERY SELECT * FROM job
                WHERE organization_id = shown AND job_id >= first_id AND job_id < below_id
                AND (of_states IS NULL OR state = ANY (of_states)) AND (of_kind IS NULL OR kind = of_kind)
                ORDER BY job_id DESC LIMIT most;
        END IF;
    END $$;

CREATE FUNCTION ledgermill_api.waiting_jobs()
    RETURNS TABLE (organization_code text, state text, kind text, jobs bigint, oldest_due_s double precision)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ledgermill, pg_temp
    AS $$
        SELECT o.code,
               CASE WHEN i.due_at > now() THEN 'scheduled' ELSE 'accepted' END,
               i.kind, sum(i.jobs - i.next_item)::bigint,
               greatest(0, extract(epoch FROM now() - min(i.due_at)))::double precision
        FROM inbox i JOIN organization o USING (organization_id)
        GROUP BY 1, 2, 3
    $$;

CREATE FUNCTION ledgermill_api.ended_jobs()
    RETURNS TABLE (organization_code text, posted bigint, not_posted bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ledgermill, pg_temp
    AS $$
        SELECT o.code, p.next_position - 1, p.next_rejection - 1
        FROM posting_lock p JOIN organization o USING (organization_id)
    $$;

CREATE FUNCTION ledgermill_api.migration() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ledgermill, pg_temp
    AS $$ SELECT version_num FROM ledgermill.alembic_version $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ledgermill_api FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA ledgermill_api TO ledgermill_api;
