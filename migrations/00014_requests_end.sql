-- Deletion requests and legal holds end: the sweep of retention removes them after
-- their period, and with them what kept a registry row for ever.
--
-- For the operator: replaces functions, and the trigger on the requests' history;
-- takes a short lock on that table.

-- +goose Up
-- request_over says of a request whether it ended and was received before a moment.
-- A duplicate goes with the request that it repeats, which it would keep otherwise.
-- +goose StatementBegin
CREATE FUNCTION trakr.request_over(p_request uuid, p_before timestamptz) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM trakr.deletion_requests AS r JOIN trakr.deletion_requests AS o ON o.request_id = coalesce(r.existing_request_id, r.request_id)
        WHERE r.request_id = p_request AND o.received_time < p_before AND o.state IN ('completed', 'completed_nothing_held', 'denied', 'cancelled'))
$$;
-- +goose StatementEnd

-- retention_rule as in migration 10, with two more tables.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION trakr.retention_rule(p_table text, OUT due text, OUT key text, OUT key_type text, OUT takes text[], OUT at_least interval)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.due, r.key, r.key_type, r.takes, r.at_least
    FROM (VALUES
        ('trakr.erasures', 'x.erased_at < $1', 'erasure_id', 'uuid', ARRAY['trakr.erasure_counts', 'trakr.certificates'], interval '365 days'),
        ('trakr.certificates', 'x.issued_at < $1 AND x.erasure_id IS NULL', 'certificate_id', 'uuid', ARRAY[]::text[], interval '365 days'),
        ('trakr.tenants', 'x.state = ''erased'' AND x.erased_at < $1', 'tenant_id', 'uuid', ARRAY[]::text[], interval '365 days'),
        ('trakr.findings', 'x.resolved_at < $1', 'finding_id', 'uuid', ARRAY['trakr.finding_events'], interval '365 days'),
        ('trakr.sweep_runs', 'x.started_at < $1 AND x.run_id NOT IN (SELECT DISTINCT ON (r.kind, r.trigger, r.result) r.run_id
            FROM trakr.sweep_runs AS r ORDER BY r.kind, r.trigger, r.result, r.started_at DESC, r.run_id DESC)', 'run_id', 'uuid', ARRAY['trakr.sweep_results'], interval '365 days'),
        ('trakr.reports_issued', 'x.issued_at < $1', 'report_id', 'uuid', ARRAY[]::text[], interval '365 days'),
        ('trakr.verified_log', 'x.verified_at < $1 AND x.id NOT IN (SELECT max(v.id) FROM trakr.verified_log AS v GROUP BY v.whole)', 'id', 'bigint', ARRAY[]::text[], interval '365 days'),
        ('trakr.api_tokens', 'x.expires_at < $1', 'id', 'text', ARRAY[]::text[], interval '30 days'),
        ('trakr.deletion_requests', 'trakr.request_over(x.request_id, $1)', 'request_id', 'uuid', ARRAY['trakr.deletion_request_events'], interval '365 days'),
        ('trakr.legal_holds', 'x.placed_at < $1 AND least(x.until, x.released_at) < now()', 'hold_id', 'uuid', ARRAY[]::text[], interval '365 days')
    ) AS r (name, due, key, key_type, takes, at_least)
    WHERE r.name = p_table
$$;
-- +goose StatementEnd

-- history_stays refuses every change of a request's history but its end: the owner,
-- as whom door.retire acts, may remove it with a request that is over for a year. No
-- other role, a superuser's included, removes a row.
-- +goose StatementBegin
CREATE FUNCTION trakr.history_stays() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_user = 'trakr_owner' AND trakr.request_over(OLD.request_id, now() - interval '365 days') THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'append-only: % on % is refused', TG_OP, TG_RELID::regclass
        USING ERRCODE = 'insufficient_privilege';
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION trakr.request_over(uuid, timestamptz), trakr.history_stays() FROM PUBLIC;
DROP TRIGGER rows_stay ON trakr.deletion_request_events;
CREATE TRIGGER rows_stay BEFORE UPDATE OR DELETE ON trakr.deletion_request_events FOR EACH ROW EXECUTE FUNCTION trakr.history_stays();
ALTER TABLE trakr.deletion_request_events ENABLE ALWAYS TRIGGER rows_stay;
