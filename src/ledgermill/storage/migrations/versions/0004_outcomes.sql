-- What clients that wait are told of their jobs, in one round trip for all who wait at one moment: the posted journal
-- with its entries, or why there is none. As in 0002 the hash of the key is the only way in; who may post may see what
-- became of it. By index always, as there.

CREATE FUNCTION ledgermill_api.find_outcomes(sha256s bytea[], job_ids uuid[])
    RETURNS TABLE (place bigint, organization_code text, base_currency char(3), author_uuid uuid, currency_uuid uuid,
                   job_id uuid, kind text, state text, idempotency_key text, accepted_at timestamptz,
                   ended_at timestamptz, "position" bigint, type text, currency char(3), total numeric,
                   base_total numeric, value_date date, event_at timestamptz, description text, reference_id text,
                   metadata jsonb, code text, message text, details text, correlation text, entries json)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = ledgermill, pg_temp
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    AS $$
    BEGIN
        RETURN QUERY
            SELECT a.place, o.code, o.base_currency, p.principal_uuid, c.currency_uuid,
                   j.job_id, j.kind, j.state, j.idempotency_key, j.accepted_at, j.ended_at, j.position, j.type,
                   j.currency, j.total, j.base_total, j.value_date, j.event_at, j.description, j.reference_id,
                   j.metadata, j.code, j.message, j.details, j.correlation,
                   -- An array for each entry, by line: numbers of any length stay whole in JSON.
                   (SELECT json_agg(json_build_array(e.line, l.ledger_uuid, l.code, l.number, l.normal_side, e.side,
                                                     e.amount, e.currency, e.number, e.balance_after) ORDER BY e.line)
                    FROM unnest(j.entry_ledgers, j.entry_numbers) AS at (ledger_id, number)
                    JOIN entry e ON e.organization_id = j.organization_id AND e.ledger_id = at.ledger_id
                        AND e.number = at.number
                    JOIN ledger l ON l.organization_id = j.organization_id AND l.ledger_id = at.ledger_id)
            FROM unnest(sha256s, job_ids) WITH ORDINALITY AS a (sha256, job_id, place)
            JOIN api_key k ON k.key_sha256 = a.sha256
                AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
                AND k.scopes && ARRAY['read', 'post']
            JOIN organization o ON o.organization_id = k.organization_id
            LEFT JOIN replay r ON r.organization_id = k.organization_id AND r.job_id = a.job_id
            JOIN job j ON j.organization_id = k.organization_id AND j.job_id = coalesce(r.first_job_id, a.job_id)
            LEFT JOIN principal p ON p.organization_id = j.organization_id AND p.principal_id = j.principal_id
            LEFT JOIN currency c ON c.organization_id = j.organization_id AND c.code = j.currency;
    END $$;


-- As in 0002, but what is due as it is accepted is so by the database's clock: that of an API may be hours off. As given,
-- where that is within the second before.
CREATE OR REPLACE FUNCTION ledgermill_api.accept_jobs(sha256s bytea[], batch_ids uuid[], lanes int[], kinds text[],
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
                       greatest(CASE i.due_at WHEN i.accepted_at THEN least(i.due_at, now()) ELSE i.due_at END,
                                now() - interval '1 second'),
                       i.principal_id, i.correlation
                FROM asked i WHERE i.organization_state <> 'draining'
            )
            SELECT asked.place, asked.organization_state FROM asked;
    END $$;


-- For how long the oldest due batch of each lane has waited, in seconds. Of what is due the first thousand rows are
-- looked at, by index: where a paused organization fills them, the lanes behind it count as having none.
CREATE FUNCTION ledgermill_api.oldest_due(lanes int) RETURNS TABLE (lane int, oldest_s double precision)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = ledgermill, pg_temp
    SET enable_seqscan = off
    AS $$
    BEGIN
        RETURN QUERY
            SELECT d.lane % lanes, extract(epoch FROM clock_timestamp() - min(d.due_at))::double precision
            FROM (SELECT i.organization_id, i.lane, i.due_at, i.held FROM inbox i
                  WHERE i.due_at <= now() ORDER BY i.due_at, i.batch_id LIMIT 1000) d
            JOIN organization o ON o.organization_id = d.organization_id
            WHERE o.state <> 'paused' AND (o.state = 'active' OR NOT d.held)
            GROUP BY 1;
    END $$;

REVOKE ALL ON FUNCTION ledgermill_api.find_outcomes, ledgermill_api.oldest_due FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledgermill_api.find_outcomes, ledgermill_api.oldest_due TO ledgermill_api;
