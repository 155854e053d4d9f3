-- Who may do what: the door's functions get owners of their own, the service
-- loses every other path to values and to the audit.
--
-- For the operator: takes short exclusive locks; needs roles.sql to have run.

-- +goose Up
ALTER DEFAULT PRIVILEGES FOR ROLE trakr_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- A later release's table can be counted by the sweep before anyone thinks of it.
ALTER DEFAULT PRIVILEGES FOR ROLE trakr_owner GRANT SELECT ON TABLES TO trakr_sweep;

GRANT USAGE ON SCHEMA trakr TO trakr_door, trakr_sweep, trakr_service, trakr_reader;
GRANT USAGE ON SCHEMA door TO trakr_service, trakr_door, trakr_sweep;

-- The service: what each of its packages needs, and nothing on top.
GRANT SELECT, INSERT, UPDATE ON trakr.tenants TO trakr_service;
GRANT SELECT (tenant_id), INSERT, DELETE,
    UPDATE (client_key, shared_secret, principal_uuid, username, avatar_url, written_at) ON trakr.tenant_fields TO trakr_service;
GRANT SELECT, INSERT, DELETE ON trakr.replay_guard TO trakr_service;
GRANT UPDATE (seen_at) ON trakr.replay_guard TO trakr_service; -- SELECT … FOR UPDATE asks for it
GRANT SELECT, INSERT ON trakr.erasures, trakr.keyring_checks, trakr.sweep_results, trakr.schedule_state, trakr.reports_issued TO trakr_service;
GRANT SELECT, INSERT, UPDATE ON trakr.sweep_runs, trakr.findings TO trakr_service;
GRANT SELECT, INSERT ON trakr.api_tokens TO trakr_service;
GRANT UPDATE (revoked_at) ON trakr.api_tokens TO trakr_service;
GRANT SELECT ON trakr.audit_events, trakr.log_identity, trakr.log_epochs, trakr.audit_expiries, trakr.schema_migrations TO trakr_service;
GRANT SELECT, INSERT ON trakr.audit_leaves, trakr.audit_tiles, trakr.audit_checkpoints TO trakr_service;

GRANT SELECT ON trakr.tenants, trakr.erasures, trakr.sweep_runs, trakr.sweep_results, trakr.findings, trakr.schedule_state, trakr.reports_issued,
    trakr.audit_events, trakr.audit_leaves, trakr.audit_tiles, trakr.audit_checkpoints, trakr.audit_expiries, trakr.log_identity, trakr.log_epochs,
    trakr.schema_migrations TO trakr_reader;

GRANT SELECT ON trakr.tenants, trakr.erasures, trakr.replay_guard, trakr.audit_events TO trakr_sweep;
GRANT SELECT (tenant_id, written_at) ON trakr.tenant_fields TO trakr_sweep;

GRANT INSERT ON trakr.audit_events TO trakr_door;
GRANT SELECT ON trakr.log_epochs, trakr.tenants, trakr.tenant_fields TO trakr_door;

-- The guard. A row of values can be seen or written only in a transaction that
-- has already recorded, for this very tenant, an event of the fitting action.
-- recorded_at is the partition key: comparing it prunes to one partition. The
-- owner is bound too (FORCE); superusers and BYPASSRLS are not.
ALTER TABLE trakr.tenant_fields ENABLE ROW LEVEL SECURITY;
ALTER TABLE trakr.tenant_fields FORCE ROW LEVEL SECURITY;
CREATE POLICY recorded_read ON trakr.tenant_fields FOR SELECT USING (tenant_id IN (
    SELECT e.tenant_id FROM trakr.audit_events AS e
    WHERE e.recorded_at = transaction_timestamp() AND e.epoch = (SELECT max(n.epoch) FROM trakr.log_epochs AS n)
        AND e.xid = pg_current_xact_id() AND e.outcome = 'success'
        AND e.action IN ('tenant.read', 'tenant.install', 'tenant.update', 'tenant.erase')));
CREATE POLICY recorded_install ON trakr.tenant_fields FOR INSERT WITH CHECK (tenant_id IN (
    SELECT e.tenant_id FROM trakr.audit_events AS e
    WHERE e.recorded_at = transaction_timestamp() AND e.epoch = (SELECT max(n.epoch) FROM trakr.log_epochs AS n)
        AND e.xid = pg_current_xact_id() AND e.outcome = 'success'
        AND e.action = 'tenant.install'));
CREATE POLICY recorded_update ON trakr.tenant_fields FOR UPDATE USING (tenant_id IN (
    SELECT e.tenant_id FROM trakr.audit_events AS e
    WHERE e.recorded_at = transaction_timestamp() AND e.epoch = (SELECT max(n.epoch) FROM trakr.log_epochs AS n)
        AND e.xid = pg_current_xact_id() AND e.outcome = 'success'
        AND e.action = 'tenant.update'));
CREATE POLICY recorded_erase ON trakr.tenant_fields FOR DELETE USING (tenant_id IN (
    SELECT e.tenant_id FROM trakr.audit_events AS e
    WHERE e.recorded_at = transaction_timestamp() AND e.epoch = (SELECT max(n.epoch) FROM trakr.log_epochs AS n)
        AND e.xid = pg_current_xact_id() AND e.outcome = 'success'
        AND e.action = 'tenant.erase'));
-- door.read looks after it has recorded, in the same statement of its caller: it
-- needs no guard against itself, and a guard on each batch costs as much as the look.
CREATE POLICY door_reads ON trakr.tenant_fields FOR SELECT TO trakr_door USING (true);
-- The sweep counts every row; its grant covers no value.
CREATE POLICY sweep_counts ON trakr.tenant_fields FOR SELECT TO trakr_sweep USING (true);

-- append writes canonical records in the order given. The caller supplies bytes
-- only: what is queried later is what the database read in those bytes.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION door.append(p_records bytea[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    IF p_records IS NULL OR cardinality(p_records) NOT BETWEEN 1 AND 256 THEN
        RAISE EXCEPTION 'door.append takes 1 to 256 records' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO trakr.audit_events (epoch, event_id, occurred_at, tenant_id, actor_type, actor_id, action, outcome,
        status_detail, reason_code, reason_ref, field_names, dropped_names, subject_digest, recipient,
        request_id, trace_id, correlation_id, schema_version, record)
    SELECT (SELECT max(l.epoch) FROM trakr.log_epochs AS l), x.event_id, x.occurred_at, x.tenant_id, x.actor_type, x.actor_id, x.action, x.outcome,
        x.status_detail, x.reason_code, x.reason_ref, x.field_names, x.dropped_names, x.subject_digest, x.recipient,
        x.request_id, x.trace_id, x.correlation_id, x.schema_version, u.r
    FROM unnest(p_records) WITH ORDINALITY AS u (r, o),
        jsonb_to_record(convert_from(u.r, 'UTF8')::jsonb) AS x (event_id uuid, occurred_at timestamptz, tenant_id uuid,
            actor_type text, actor_id text, action text, outcome text, status_detail text, reason_code text,
            reason_ref text, field_names text[], dropped_names text[], subject_digest text, recipient text,
            request_id text, trace_id text, correlation_id text, schema_version integer)
    ORDER BY u.o;
END $$;
-- +goose StatementEnd

-- read records each request and returns, for each, only the columns its own
-- record names. A request whose tenant is not live is neither recorded nor
-- answered with a value: its state comes back, and the caller records the denial.
-- A record that is not a successful tenant.read refuses the whole batch, so
-- nothing can be read under another name.
DROP FUNCTION door.read(bytea[]);
-- +goose StatementBegin
CREATE FUNCTION door.read(p_records bytea[])
RETURNS TABLE (ord integer, state text, client_key bytea, shared_secret bytea, principal_uuid bytea, username bytea, avatar_url bytea)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 256
-- The plan is made once for the life of a connection: planning over every month
-- of the audit costs more than the read. One made while the tables were small
-- must not read them whole when they are large.
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    asked    uuid[];
    fields   integer[]; -- one bit for each column a record names
    sound    boolean;
    live     boolean[];
    returned bigint;
BEGIN
    -- With synchronous_commit off a crash could lose the event of a value that
    -- has already left.
    IF current_setting('synchronous_commit') = 'off' THEN
        RAISE EXCEPTION 'door.read refuses to run with synchronous_commit off' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    SELECT array_agg(x.tenant_id ORDER BY u.o),
        array_agg(('client_key' = ANY (x.field_names))::integer + 2 * ('shared_secret' = ANY (x.field_names))::integer
            + 4 * ('principal_uuid' = ANY (x.field_names))::integer + 8 * ('username' = ANY (x.field_names))::integer
            + 16 * ('avatar_url' = ANY (x.field_names))::integer ORDER BY u.o),
        bool_and(coalesce(x.action = 'tenant.read' AND x.outcome = 'success' AND x.tenant_id IS NOT NULL AND cardinality(x.field_names) > 0, false))
    INTO asked, fields, sound
    FROM unnest(p_records) WITH ORDINALITY AS u (r, o),
        jsonb_to_record(convert_from(u.r, 'UTF8')::jsonb) AS x (tenant_id uuid, field_names text[], action text, outcome text);
    IF sound IS NOT TRUE THEN
        RAISE EXCEPTION 'door.read takes successful tenant.read records that name fields' USING ERRCODE = 'invalid_parameter_value';
    END IF;

    SELECT array_agg(t.state IS NOT DISTINCT FROM 'live' ORDER BY q.o) INTO live
    FROM unnest(asked) WITH ORDINALITY AS q (id, o) LEFT JOIN trakr.tenants AS t ON t.tenant_id = q.id;
    IF false = ANY (live) THEN
        RETURN QUERY
        SELECT q.o::integer, coalesce(t.state, 'unknown'), NULL::bytea, NULL::bytea, NULL::bytea, NULL::bytea, NULL::bytea
        FROM unnest(asked) WITH ORDINALITY AS q (id, o) LEFT JOIN trakr.tenants AS t ON t.tenant_id = q.id
        WHERE NOT live[q.o];
        SELECT array_agg(r ORDER BY o) INTO p_records FROM unnest(p_records) WITH ORDINALITY AS u (r, o) WHERE live[o];
        IF p_records IS NULL THEN
            RETURN;
        END IF;
    END IF;

    PERFORM door.append(p_records);
    RETURN QUERY
    SELECT q.o::integer, 'live'::text,
        CASE WHEN q.f & 1 > 0 THEN v.client_key END,
        CASE WHEN q.f & 2 > 0 THEN v.shared_secret END,
        CASE WHEN q.f & 4 > 0 THEN v.principal_uuid END,
        CASE WHEN q.f & 8 > 0 THEN v.username END,
        CASE WHEN q.f & 16 > 0 THEN v.avatar_url END
    FROM unnest(asked, fields) WITH ORDINALITY AS q (id, f, o)
    JOIN trakr.tenant_fields AS v ON v.tenant_id = q.id
    WHERE live[q.o];
    GET DIAGNOSTICS returned = ROW_COUNT;
    IF returned <> cardinality(p_records) THEN
        -- An erasure was committed between the two looks: no event, no value.
        RAISE EXCEPTION 'a tenant was erased meanwhile' USING ERRCODE = 'serialization_failure';
    END IF;
END $$;
-- +goose StatementEnd

-- tenant_columns lists every column of the live catalog, in every ordinary,
-- partitioned (as a whole) and foreign table and materialised view, and says how
-- it may carry a tenant.
--   carries: tenant (by its name, or because it refers to the registry), value
--            (named like a guarded value or another name of the installation,
--            which cannot be compared with a tenant's id), or nothing known
--   kind:    uuid; text, whose text form shows an id that is in it; opaque, whose
--            form hides one; number; none, which cannot hold an id
-- +goose StatementBegin
CREATE FUNCTION door.tenant_columns()
RETURNS TABLE (schema_name name, table_name name, column_name name, carries text, kind text, readable boolean, filtered boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE bases (oid, base) AS ( -- a domain may rest on another
        SELECT t.oid, t.oid FROM pg_type AS t WHERE t.typtype <> 'd'
        UNION ALL
        SELECT t.oid, b.base FROM pg_type AS t JOIN bases AS b ON t.typtype = 'd' AND t.typbasetype = b.oid),
    kinds (oid, kind) AS (
        SELECT b.oid, CASE
            WHEN t.oid = 'uuid'::regtype THEN 'uuid'
            WHEN e.oid IN ('bytea'::regtype, 'oid'::regtype) OR e.typtype IN ('c', 'p') THEN 'opaque'
            WHEN e.typcategory = 'N' THEN 'number'
            WHEN e.typcategory IN ('B', 'D', 'T', 'E', 'G', 'I') THEN 'none'
            WHEN e.typcategory = 'V' THEN 'opaque'
            ELSE 'text' END
        FROM bases AS b JOIN pg_type AS t ON t.oid = b.base
        LEFT JOIN bases AS eb ON t.typcategory = 'A' AND eb.oid = t.typelem -- an array is what its elements are
        JOIN pg_type AS e ON e.oid = coalesce(eb.base, t.oid))
    SELECT n.nspname, c.relname, a.attname,
        CASE WHEN w.word LIKE '%tenant%' OR EXISTS (SELECT FROM pg_constraint AS f WHERE f.contype = 'f' AND f.conrelid = c.oid
                AND f.confrelid = 'trakr.tenants'::regclass AND a.attnum = ANY (f.conkey)) THEN 'tenant'
            WHEN w.word ~ 'clientkey|sharedsecret|principal|username|avatar|workspace|installationid' THEN 'value'
            ELSE '' END,
        k.kind,
        has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT'),
        -- hidden rows, unless a policy shows this role every one
        row_security_active(c.oid) AND NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND p.polpermissive
            AND p.polcmd IN ('r', '*') AND current_user::regrole = ANY (p.polroles) AND pg_get_expr(p.polqual, c.oid) = 'true')
    FROM pg_attribute AS a
    JOIN pg_class AS c ON c.oid = a.attrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN kinds AS k ON k.oid = a.atttypid,
    LATERAL (SELECT regexp_replace(lower(a.attname), '[^a-z]', '', 'g')) AS w (word)
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'm', 'f') AND NOT c.relispartition
        AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname NOT LIKE 'pg\_temp\_%' AND n.nspname NOT LIKE 'pg\_toast\_temp\_%'
    ORDER BY 1, 2, 3
$$;
-- +goose StatementEnd

-- count_orphans counts, of one column, the stale rows, and returns the SQL it ran:
-- where the column carries a tenant, rows that name none that is live; in any
-- other, rows with the id of an erased tenant in them. A type that hides ids has
-- no stale rows; filled then says how many rows hold anything at all (NULL where
-- that need not be known). It can count and do nothing else: an error keeps its
-- SQLSTATE and loses its text, which could quote a value.
-- +goose StatementBegin
CREATE FUNCTION door.count_orphans(p_schema name, p_table name, p_column name)
RETURNS TABLE (predicate text, rows bigint, filled bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    col    record;
    source text := format('FROM %I.%I AS x WHERE x.%I IS NOT NULL', p_schema, p_table, p_column);
    -- The states of the registered tenants whose ids stand in a text, in any
    -- spelling that the type uuid reads. C: letters of an id are ASCII, and it is fast.
    named  text := 'FROM regexp_matches(lower(%s COLLATE "C"), ''[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}'', ''g'') AS m (id) '
        'JOIN trakr.tenants AS t ON t.tenant_id = m.id[1]::uuid';
BEGIN
    SELECT c.carries, c.kind INTO col FROM door.tenant_columns() AS c
    WHERE c.schema_name = p_schema AND c.table_name = p_table AND c.column_name = p_column;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such column' USING ERRCODE = 'undefined_column';
    END IF;
    IF col.kind = 'uuid' AND col.carries = 'tenant' THEN
        predicate := 'SELECT count(*) ' || source || format(' AND NOT EXISTS (SELECT FROM trakr.tenants AS t WHERE t.state = ''live'' AND t.tenant_id = x.%I)', p_column);
    ELSIF col.kind = 'uuid' THEN
        predicate := 'SELECT count(*) ' || source || format(' AND EXISTS (SELECT FROM trakr.tenants AS t WHERE t.state = ''erased'' AND t.tenant_id = x.%I)', p_column);
    ELSIF col.kind = 'text' AND col.carries = 'tenant' THEN
        -- OFFSET 0: what is exactly a live tenant's id falls out in one hash join,
        -- before anything is searched.
        predicate := format('SELECT count(*) FROM (SELECT x.%I::text AS v ', p_column) || source
            || format(' AND NOT EXISTS (SELECT FROM trakr.tenants AS t WHERE t.state = ''live'' AND t.tenant_id::text = lower(btrim(x.%I::text, '' {}'') COLLATE "C")) OFFSET 0) AS y', p_column)
            || ' WHERE coalesce((SELECT bool_or(t.state = ''erased'') OR NOT bool_or(t.state = ''live'') ' || format(named, 'y.v') || '), true)';
    ELSIF col.kind = 'text' THEN
        predicate := 'SELECT count(*) ' || source || ' AND EXISTS (SELECT ' || format(named, format('x.%I::text', p_column)) || ' WHERE t.state = ''erased'')';
    ELSE
        rows := 0;
    END IF;
    BEGIN
        IF predicate IS NOT NULL THEN
            EXECUTE predicate INTO rows;
        END IF;
        IF predicate IS NULL OR col.carries <> 'tenant' THEN
            EXECUTE 'SELECT count(*) ' || source INTO filled;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        RAISE EXCEPTION 'the count failed' USING ERRCODE = SQLSTATE;
    END;
    predicate := coalesce(predicate, 'SELECT count(*) ' || source);
    RETURN NEXT;
END $$;
-- +goose StatementEnd

-- measure counts a table's rows up to a time, with the oldest and the newest. Rows
-- without a time are counted whatever the moment. Only a column of times can be
-- compared with one, so that no other comes back; errors lose their text.
-- +goose StatementBegin
CREATE FUNCTION door.measure(p_schema name, p_table name, p_time_column name, p_as_of timestamptz)
RETURNS TABLE (rows bigint, undated bigint, oldest timestamptz, newest timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_time_column IS NULL OR p_time_column = '' THEN
        EXECUTE format('SELECT count(*), count(*) FROM %I.%I', p_schema, p_table) INTO rows, undated;
    ELSE
        EXECUTE format('SELECT count(*), count(*) - count(%3$I), min(%3$I)::timestamptz, max(%3$I)::timestamptz FROM %1$I.%2$I WHERE %3$I <= $1 OR %3$I IS NULL',
            p_schema, p_table, p_time_column) INTO rows, undated, oldest, newest USING p_as_of;
    END IF;
    RETURN NEXT;
EXCEPTION WHEN OTHERS THEN
    RAISE EXCEPTION 'the count failed' USING ERRCODE = SQLSTATE;
END $$;
-- +goose StatementEnd

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA door, trakr FROM PUBLIC;
GRANT EXECUTE ON FUNCTION door.append(bytea[]), door.read(bytea[]), door.tenant_columns(), door.count_orphans(name, name, name),
    door.measure(name, name, name, timestamptz), door.make_partitions(integer), door.ensure_epoch() TO trakr_service;

-- A definer function acts as its owner: one that owns no table.
GRANT CREATE ON SCHEMA door TO trakr_door, trakr_sweep;
ALTER FUNCTION door.append(bytea[]) OWNER TO trakr_door;
ALTER FUNCTION door.read(bytea[]) OWNER TO trakr_door;
ALTER FUNCTION door.tenant_columns() OWNER TO trakr_sweep;
ALTER FUNCTION door.count_orphans(name, name, name) OWNER TO trakr_sweep;
ALTER FUNCTION door.measure(name, name, name, timestamptz) OWNER TO trakr_sweep;
REVOKE CREATE ON SCHEMA door FROM trakr_door, trakr_sweep;
-- The owner records what it expires; only the function's own owner can give that.
SET LOCAL ROLE trakr_door;
GRANT EXECUTE ON FUNCTION door.append(bytea[]) TO trakr_owner;
SET LOCAL ROLE trakr_owner;
