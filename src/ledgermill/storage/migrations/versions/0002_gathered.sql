-- Functions that answer, or accept, what many requests ask for at one moment in one statement. Whom a request may see
-- and post for is what its own key allows at this moment: the hash of the key is the only way in, and the organization
-- comes from the key, never from the caller. plpgsql, since it keeps plans where the `sql` language plans at each call.

CREATE FUNCTION ledgermill_api.find_keys(sha256s bytea[])
    RETURNS TABLE (place bigint, organization_id int, organization_uuid uuid, organization_code text, key_uuid uuid,
                   principal_id int, scopes text[])
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = ledgermill, pg_temp
    AS $$
    BEGIN
        RETURN QUERY
            SELECT a.place, k.organization_id, o.organization_uuid, o.code, k.key_uuid, k.principal_id, k.scopes
            FROM unnest(sha256s) WITH ORDINALITY AS a (sha256, place)
            JOIN api_key k ON k.key_sha256 = a.sha256
                AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
            JOIN organization o ON o.organization_id = k.organization_id;
    END $$;

-- For each pair of a key and a job: what the key stands for, and the job if it has ended and the key may read it. By
-- index always: a plan made while the books were empty would read them whole, until they are next analyzed.
CREATE FUNCTION ledgermill_api.find_ended_jobs(sha256s bytea[], job_ids uuid[])
    RETURNS TABLE (place bigint, organization_id int, organization_uuid uuid, organization_code text, key_uuid uuid,
                   principal_id int, scopes text[], job_id uuid, kind text, state text, idempotency_key text,
                   accepted_at timestamptz, ended_at timestamptz, "position" bigint, value_date date,
                   total numeric, currency char(3), reference_id text, code text, message text, details text,
                   correlation text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = ledgermill, pg_temp
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    AS $$
    BEGIN
        RETURN QUERY
            SELECT a.place, k.organization_id, o.organization_uuid, o.code, k.key_uuid, k.principal_id, k.scopes,
                   j.job_id, j.kind, j.state, j.idempotency_key, j.accepted_at, j.ended_at, j.position, j.value_date,
                   j.total, j.currency, j.reference_id, j.code, j.message, j.details, j.correlation
            FROM unnest(sha256s, job_ids) WITH ORDINALITY AS a (sha256, job_id, place)
            JOIN api_key k ON k.key_sha256 = a.sha256
                AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
            JOIN organization o ON o.organization_id = k.organization_id
            LEFT JOIN job j ON j.organization_id = k.organization_id AND j.job_id = a.job_id
                AND 'read' = ANY (k.scopes);
    END $$;

-- Single jobs into the inbox, each for the organization and by the principal of its key, all or none. Answers the state
-- of the organization: nothing was accepted where it is draining, nor where the key is missing from the answer.
CREATE FUNCTION ledgermill_api.accept_jobs(sha256s bytea[], batch_ids uuid[], lanes int[], kinds text[],
                                           payloads bytea[], job_keys text[], accepted_ats timestamptz[],
                                           due_ats timestamptz[], correlations text[])
    RETURNS TABLE (place bigint, organization_state text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = ledgermill, pg_temp
    AS $$
    BEGIN
        RETURN QUERY
            WITH asked AS MATERIALIZED (
                SELECT a.*, k.organization_id, k.principal_id, o.state AS organization_state
                FROM unnest(sha256s, batch_ids, lanes, kinds, payloads, job_keys, accepted_ats, due_ats, correlations)
                     WITH ORDINALITY
                     AS a (sha256, batch_id, lane, kind, payload, job_key, accepted_at, due_at, correlation, place)
                JOIN api_key k ON k.key_sha256 = a.sha256
                    AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
                    AND 'post' = ANY (k.scopes)
                JOIN organization o ON o.organization_id = k.organization_id
            ), accepted AS (
                INSERT INTO inbox (organization_id, batch_id, lane, kind, payload, jobs, job_keys, accepted_at, due_at,
                                   principal_id, correlation)
                SELECT i.organization_id, i.batch_id, i.lane, i.kind, i.payload, 1, ARRAY[i.job_key], i.accepted_at,
                       i.due_at, i.principal_id, i.correlation
                FROM asked i WHERE i.organization_state <> 'draining'
            )
            SELECT asked.place, asked.organization_state FROM asked;
    END $$;

REVOKE ALL ON FUNCTION ledgermill_api.find_keys, ledgermill_api.find_ended_jobs, ledgermill_api.accept_jobs FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledgermill_api.find_keys, ledgermill_api.find_ended_jobs, ledgermill_api.accept_jobs
    TO ledgermill_api;
