-- Sweeps: their runs, what they counted and found, when each job ran, and the rules by which
-- the sweep of retention removes rows.

-- +goose Up
CREATE TABLE trakr.sweep_runs (
    run_id      uuid        NOT NULL CONSTRAINT sweep_runs_pk PRIMARY KEY,
    kind        text        NOT NULL,
    trigger     text        NOT NULL CONSTRAINT sweep_runs_trigger_known CHECK (trigger IN ('schedule', 'command', 'api')),
    started_at  timestamptz NOT NULL,
    finished_at timestamptz,
    snapshot_at timestamptz, -- the database's clock when the snapshot was taken that was checked
    -- blind: something could not be checked, so nothing is claimed.
    result      text        CONSTRAINT sweep_runs_result_known CHECK (result IN ('clean', 'findings', 'blind', 'failed')),
    -- A dry run counts and changes nothing. It does not replace a run that was due.
    dry_run     boolean     NOT NULL DEFAULT false,
    CONSTRAINT sweep_runs_finished_has_result CHECK ((finished_at IS NULL) = (result IS NULL))
);
CREATE INDEX sweep_runs_by_kind ON trakr.sweep_runs (kind, started_at DESC);

-- run_is_over keeps a finished run as it ended.
-- +goose StatementBegin
CREATE FUNCTION trakr.run_is_over() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.finished_at IS NOT NULL AND OLD IS DISTINCT FROM NEW THEN
        RAISE EXCEPTION 'a sweep that is over stays as it ended' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER run_is_over BEFORE UPDATE ON trakr.sweep_runs FOR EACH ROW EXECUTE FUNCTION trakr.run_is_over();
ALTER TABLE trakr.sweep_runs ENABLE ALWAYS TRIGGER run_is_over;

-- What a run counted, table by table, zero included.
CREATE TABLE trakr.sweep_results (
    run_id           uuid        NOT NULL CONSTRAINT sweep_results_run REFERENCES trakr.sweep_runs (run_id),
    store            text        NOT NULL,
    table_name       text        NOT NULL,
    column_name      text        NOT NULL,
    -- checked: rows was counted. retained: declared to outlive the tenant, rows are counted
    -- and expected. not_searched: the service encrypted the values, and no sweep can search
    -- them. unjudged: the column's type cannot be compared.
    disposition      text        NOT NULL CONSTRAINT sweep_results_disposition_known
                                 CHECK (disposition IN ('checked', 'retained', 'not_searched', 'unjudged')),
    ground           text,
    predicate_digest text        NOT NULL, -- hex SHA-256 of the SQL that was run
    rows             bigint      NOT NULL CONSTRAINT sweep_results_rows_counted CHECK (rows >= 0),
    checked_at       timestamptz NOT NULL,
    duration_us      bigint      CONSTRAINT sweep_results_duration_known CHECK (duration_us >= 0), -- how long this check took
    CONSTRAINT sweep_results_pk PRIMARY KEY (run_id, store, table_name, column_name)
);

CREATE TABLE trakr.findings (
    finding_id      uuid        NOT NULL CONSTRAINT findings_pk PRIMARY KEY,
    kind            text        NOT NULL,
    store           text        NOT NULL,
    table_name      text        NOT NULL,
    column_name     text        NOT NULL,
    rows            bigint      NOT NULL,
    opened_at       timestamptz NOT NULL,
    last_seen_at    timestamptz NOT NULL,
    resolved_at     timestamptz,
    opened_by_run   uuid        NOT NULL CONSTRAINT findings_run REFERENCES trakr.sweep_runs (run_id),
    severity        text        NOT NULL DEFAULT 'high'
                                CONSTRAINT findings_severity_known CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    acknowledged_at timestamptz,
    acknowledged_by text,       -- opaque caller id
    reason_code     text,
    reason_ref      text,       -- ticket
    -- A blind finding records that a sweep could not check its subject: what may be there
    -- is not known.
    blind           boolean     NOT NULL DEFAULT false,
    CONSTRAINT findings_acknowledged_whole CHECK (num_nulls(acknowledged_at, acknowledged_by, reason_code, reason_ref) IN (0, 4))
);
CREATE UNIQUE INDEX findings_open_once ON trakr.findings (kind, store, table_name, column_name) WHERE resolved_at IS NULL;

-- Every transition of a finding. A row never changes except for its delivery.
CREATE TABLE trakr.finding_events (
    event_id        uuid        NOT NULL CONSTRAINT finding_events_pk PRIMARY KEY,
    finding_id      uuid        NOT NULL CONSTRAINT finding_events_finding REFERENCES trakr.findings (finding_id),
    transition      text        NOT NULL CONSTRAINT finding_events_transition_known CHECK (transition IN ('opened', 'acknowledged', 'resolved')),
    occurred_at     timestamptz NOT NULL,
    severity        text        NOT NULL,
    rows            bigint      NOT NULL,
    run_id          uuid        CONSTRAINT finding_events_run REFERENCES trakr.sweep_runs (run_id), -- the sweep that opened or resolved it
    actor_id        text,       -- who acknowledged it
    reason_code     text,
    reason_ref      text,
    -- The webhook. next_attempt_at is NULL once it was delivered or given up.
    attempts        integer     NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    delivered_at    timestamptz
);
CREATE UNIQUE INDEX finding_events_once ON trakr.finding_events (finding_id, transition);
CREATE INDEX finding_events_waiting ON trakr.finding_events (next_attempt_at) WHERE next_attempt_at IS NOT NULL;

-- When each scheduled job was first expected, so that a job that never ran is overdue too.
CREATE TABLE trakr.schedule_state (
    job               text        NOT NULL CONSTRAINT schedule_state_pk PRIMARY KEY,
    first_expected_at timestamptz NOT NULL
);

-- When each repeated job ran.
CREATE TABLE trakr.job_heartbeats (
    job               text        NOT NULL CONSTRAINT job_heartbeats_pk PRIMARY KEY,
    expected_since    timestamptz NOT NULL,
    interval_seconds  integer     NOT NULL CONSTRAINT job_heartbeats_interval_positive CHECK (interval_seconds > 0),
    jitter_seconds    integer     NOT NULL CONSTRAINT job_heartbeats_jitter_known CHECK (jitter_seconds >= 0),
    last_started_at   timestamptz,
    last_succeeded_at timestamptz,
    last_failed_at    timestamptz,
    failure           text        -- why the last failure failed, of a closed set
);

-- The canary, a row of a tenant that never existed: each run of the orphan sweep must find
-- it, by the same SQL as any other row. The id is of no kind that is ever made (its version
-- is 8; its last six bytes read "canary").
CREATE TABLE trakr.sweep_canaries (
    canary_id  uuid        NOT NULL DEFAULT gen_random_uuid() CONSTRAINT sweep_canaries_pk PRIMARY KEY,
    tenant_id  uuid        NOT NULL DEFAULT '00000000-0000-8000-8000-63616e617279'
                           CONSTRAINT sweep_canaries_reserved CHECK (tenant_id = '00000000-0000-8000-8000-63616e617279'),
    planted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- plant_canary plants a new canary and removes the older ones.
-- +goose StatementBegin
CREATE FUNCTION door.plant_canary() RETURNS timestamptz
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fresh trakr.sweep_canaries;
BEGIN
    INSERT INTO trakr.sweep_canaries DEFAULT VALUES RETURNING * INTO fresh;
    DELETE FROM trakr.sweep_canaries WHERE canary_id <> fresh.canary_id;
    RETURN fresh.planted_at;
END $$;
-- +goose StatementEnd

-- How far the audit was searched for shapes of values, and what was found so far.
CREATE TABLE trakr.shape_scans (
    column_name text        NOT NULL CONSTRAINT shape_scans_pk PRIMARY KEY, -- of trakr.audit_events
    scanned     bigint      NOT NULL CONSTRAINT shape_scans_counted CHECK (scanned >= 0),
    emails      bigint      NOT NULL,
    phones      bigint      NOT NULL,
    epoch       integer     NOT NULL, -- the last event searched
    xid         xid8        NOT NULL,
    id          bigint      NOT NULL,
    scanned_at  timestamptz NOT NULL
);

-- Names of payload members that were seen and not kept; no value.
CREATE TABLE trakr.payload_keys_seen (
    name          text        NOT NULL CONSTRAINT payload_keys_seen_pk PRIMARY KEY CONSTRAINT payload_keys_seen_form CHECK (octet_length(name) BETWEEN 1 AND 1000),
    first_seen_at timestamptz NOT NULL
);

-- retention_rule returns, for a table, which rows are past a moment ($1) and may be removed,
-- which tables lose rows with them, and how old they must be whatever the policy declares.
-- The newest run of each kind, trigger and result is kept: the health of the sweeps is read
-- from it. An erasure is removed only when it was verified, and certified unless no
-- certificate can rest on it; a delivery only after it was closed. A table that is not
-- listed here loses no row.
-- +goose StatementBegin
CREATE FUNCTION trakr.retention_rule(p_table text, OUT due text, OUT key text, OUT key_type text, OUT takes text[], OUT at_least interval)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.due, r.key, r.key_type, r.takes, r.at_least
    FROM (VALUES
        ('trakr.erasures', 'x.erased_at < $1 AND x.verified_at IS NOT NULL AND (x.uncertified OR EXISTS (SELECT FROM trakr.certificates AS y WHERE y.erasure_id = x.erasure_id))',
            'erasure_id', 'uuid', ARRAY['trakr.erasure_counts', 'trakr.certificates'], interval '365 days'),
        ('trakr.certificates', 'x.issued_at < $1 AND x.erasure_id IS NULL', 'certificate_id', 'uuid', ARRAY[]::text[], interval '365 days'),
        ('trakr.tenants', 'x.state = ''erased'' AND x.erased_at < $1', 'tenant_id', 'uuid', ARRAY[]::text[], interval '365 days'),
        ('trakr.findings', 'x.resolved_at < $1', 'finding_id', 'uuid', ARRAY['trakr.finding_events'], interval '365 days'),
        ('trakr.sweep_runs', 'x.started_at < $1 AND x.run_id NOT IN (SELECT DISTINCT ON (r.kind, r.trigger, r.result) r.run_id
            FROM trakr.sweep_runs AS r ORDER BY r.kind, r.trigger, r.result, r.started_at DESC, r.run_id DESC)', 'run_id', 'uuid', ARRAY['trakr.sweep_results'], interval '365 days'),
        ('trakr.reports_issued', 'x.issued_at < $1', 'report_id', 'uuid', ARRAY[]::text[], interval '365 days'),
        ('trakr.verified_log', 'x.verified_at < $1 AND x.id NOT IN (SELECT max(v.id) FROM trakr.verified_log AS v GROUP BY v.whole)', 'id', 'bigint', ARRAY[]::text[], interval '365 days'),
        ('trakr.api_tokens', 'x.expires_at < $1', 'id', 'text', ARRAY[]::text[], interval '30 days'),
        ('trakr.deletion_requests', 'trakr.request_over(x.request_id, $1)', 'request_id', 'uuid', ARRAY['trakr.deletion_request_events'], interval '365 days'),
        ('trakr.outbox', 'x.closed_at < $1', 'delivery_id', 'uuid', ARRAY[]::text[], interval '365 days'),
        ('trakr.legal_holds', 'x.placed_at < $1 AND least(x.until, x.released_at) < now()', 'hold_id', 'uuid', ARRAY[]::text[], interval '365 days')
    ) AS r (name, due, key, key_type, takes, at_least)
    WHERE r.name = p_table
$$;
-- +goose StatementEnd

-- retention_links lists what refers to a table: rows that are referred to are kept, unless
-- the rows that refer to them are removed with them.
-- +goose StatementBegin
CREATE FUNCTION trakr.retention_links(p_table text, p_takes text[])
RETURNS TABLE (name text, column_name name, goes_along boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT f.conrelid::regclass::text, a.attname, f.conrelid::regclass::text = ANY (p_takes)
    FROM pg_constraint AS f JOIN pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[1]
    WHERE f.contype = 'f' AND f.confrelid = to_regclass(p_table) AND f.conparentid = 0 ORDER BY 1, 2
$$;
-- +goose StatementEnd

-- retention_predicate returns the whole condition under which a row may be removed.
-- +goose StatementBegin
CREATE FUNCTION trakr.retention_predicate(p_table text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.due || coalesce((SELECT string_agg(format(' AND NOT EXISTS (SELECT FROM %s AS c WHERE c.%I = x.%I)', l.name, l.column_name, r.key), '' ORDER BY l.name, l.column_name)
        FROM trakr.retention_links(p_table, r.takes) AS l WHERE NOT l.goes_along), '')
    FROM trakr.retention_rule(p_table) AS r WHERE r.due IS NOT NULL
$$;
-- +goose StatementEnd

-- retirable counts, of a table and of what is removed with its rows, the rows that are due
-- and all rows. It changes nothing.
-- +goose StatementBegin
CREATE FUNCTION door.retirable(p_table text, p_cutoff timestamptz)
RETURNS TABLE (table_name text, predicate text, due bigint, total bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rule record;
    link record;
    which text := trakr.retention_predicate(p_table);
BEGIN
    SELECT * INTO rule FROM trakr.retention_rule(p_table);
    IF which IS NULL THEN
        RAISE EXCEPTION 'no row of this table is ever retired' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    table_name := p_table;
    predicate := format('SELECT count(*) FILTER (WHERE %s), count(*) FROM %s AS x', which, p_table);
    EXECUTE predicate INTO due, total USING p_cutoff;
    RETURN NEXT;
    FOR link IN SELECT * FROM trakr.retention_links(p_table, rule.takes) AS l WHERE l.goes_along LOOP
        table_name := link.name;
        predicate := format('SELECT count(*) FILTER (WHERE EXISTS (SELECT FROM %1$s AS x WHERE x.%2$I = c.%3$I AND %4$s)), count(*) FROM %5$s AS c',
            p_table, rule.key, link.column_name, which, link.name);
        EXECUTE predicate INTO due, total USING p_cutoff;
        RETURN NEXT;
    END LOOP;
END $$;
-- +goose StatementEnd

-- retire removes at most p_limit rows that are due, fewer where rows of other tables are
-- removed with them, and returns how many it removed from each table.
-- +goose StatementBegin
CREATE FUNCTION door.retire(p_table text, p_cutoff timestamptz, p_limit integer)
RETURNS TABLE (table_name text, rows bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rule record;
    link record;
    keys text[];
BEGIN
    SELECT * INTO rule FROM trakr.retention_rule(p_table);
    IF rule.due IS NULL THEN
        RAISE EXCEPTION 'no row of this table is ever retired' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF p_cutoff IS NULL OR p_cutoff > now() - rule.at_least THEN
        RAISE EXCEPTION 'rows of this table are kept for at least %', rule.at_least USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF p_limit IS NULL OR p_limit NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'door.retire removes 1 to 1000 rows at once' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF cardinality(rule.takes) > 0 THEN
        p_limit := greatest(p_limit / 50, 1);
    END IF;
    EXECUTE format('SELECT array_agg(q.k::text) FROM (SELECT x.%1$I AS k FROM %2$s AS x WHERE %3$s ORDER BY 1 LIMIT $2 FOR UPDATE SKIP LOCKED) AS q',
        rule.key, p_table, trakr.retention_predicate(p_table)) INTO keys USING p_cutoff, p_limit;
    IF keys IS NULL THEN
        RETURN;
    END IF;
    FOR link IN SELECT * FROM trakr.retention_links(p_table, rule.takes) AS l WHERE l.goes_along LOOP
        EXECUTE format('DELETE FROM %s WHERE %I = ANY ($1::%s[])', link.name, link.column_name, rule.key_type) USING keys;
        GET DIAGNOSTICS rows = ROW_COUNT;
        table_name := link.name;
        RETURN NEXT;
    END LOOP;
    EXECUTE format('DELETE FROM %s WHERE %I = ANY ($1::%s[])', p_table, rule.key, rule.key_type) USING keys;
    GET DIAGNOSTICS rows = ROW_COUNT;
    table_name := p_table;
    RETURN NEXT;
END $$;
-- +goose StatementEnd

GRANT SELECT, INSERT, UPDATE ON trakr.sweep_runs, trakr.findings, trakr.job_heartbeats, trakr.shape_scans TO trakr_service;
GRANT SELECT, INSERT ON trakr.sweep_results, trakr.finding_events, trakr.schedule_state, trakr.payload_keys_seen TO trakr_service;
GRANT UPDATE (attempts, next_attempt_at, delivered_at) ON trakr.finding_events TO trakr_service;
GRANT EXECUTE ON FUNCTION door.plant_canary(), door.retirable(text, timestamptz), door.retire(text, timestamptz, integer) TO trakr_service;

GRANT SELECT ON trakr.sweep_runs, trakr.sweep_results, trakr.findings, trakr.finding_events, trakr.schedule_state, trakr.job_heartbeats,
    trakr.sweep_canaries, trakr.shape_scans, trakr.payload_keys_seen TO trakr_reader;

GRANT SELECT ON trakr.finding_events, trakr.job_heartbeats, trakr.sweep_canaries, trakr.shape_scans, trakr.payload_keys_seen TO trakr_sweep;
