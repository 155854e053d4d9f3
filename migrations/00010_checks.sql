-- What the sweeps need to prove that they see, to remove what is past its period,
-- to go on where they ended, and to look for values that should not be there.
--
-- For the operator: creates empty tables and functions, and adds a check to
-- trakr.tenants, whose writers wait while its rows are read once.

-- +goose Up
-- A row of a tenant that never was: each pass of the orphan sweep must find it, by
-- the same SQL as any other. The id is of no kind that is ever made (its version is
-- 8; its last six bytes read "canary").
CREATE TABLE trakr.sweep_canaries (
    canary_id  uuid        NOT NULL DEFAULT gen_random_uuid() CONSTRAINT sweep_canaries_pk PRIMARY KEY,
    tenant_id  uuid        NOT NULL DEFAULT '00000000-0000-8000-8000-63616e617279'
                           CONSTRAINT sweep_canaries_reserved CHECK (tenant_id = '00000000-0000-8000-8000-63616e617279'),
    planted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE trakr.tenants ADD CONSTRAINT tenants_never_the_canary CHECK (tenant_id <> '00000000-0000-8000-8000-63616e617279');

-- plant_canary plants a fresh one and removes those before it.
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

-- retention_rule says of a table which rows are past a moment ($1) and may go, what
-- goes with them, and how old they must be whatever a policy says. The newest run
-- of each kind, trigger and result stays: the health of the sweeps is read from it.
-- A table that is not here loses no row.
-- +goose StatementBegin
CREATE FUNCTION trakr.retention_rule(p_table text, OUT due text, OUT key text, OUT key_type text, OUT takes text[], OUT at_least interval)
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
        ('trakr.api_tokens', 'x.expires_at < $1', 'id', 'text', ARRAY[]::text[], interval '30 days')
    ) AS r (name, due, key, key_type, takes, at_least)
    WHERE r.name = p_table
$$;
-- +goose StatementEnd

-- retention_links lists what refers to a table: rows that are referred to stay,
-- unless what refers to them goes with them.
-- +goose StatementBegin
CREATE FUNCTION trakr.retention_links(p_table text, p_takes text[])
RETURNS TABLE (name text, column_name name, goes_along boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT f.conrelid::regclass::text, a.attname, f.conrelid::regclass::text = ANY (p_takes)
    FROM pg_constraint AS f JOIN pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[1]
    WHERE f.contype = 'f' AND f.confrelid = to_regclass(p_table) AND f.conparentid = 0 ORDER BY 1, 2
$$;
-- +goose StatementEnd

-- retention_predicate is the whole condition under which a row may go.
-- +goose StatementBegin
CREATE FUNCTION trakr.retention_predicate(p_table text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.due || coalesce((SELECT string_agg(format(' AND NOT EXISTS (SELECT FROM %s AS c WHERE c.%I = x.%I)', l.name, l.column_name, r.key), '' ORDER BY l.name, l.column_name)
        FROM trakr.retention_links(p_table, r.takes) AS l WHERE NOT l.goes_along), '')
    FROM trakr.retention_rule(p_table) AS r WHERE r.due IS NOT NULL
$$;
-- +goose StatementEnd

-- retirable counts, of a table and of what goes with its rows, the rows that are
-- due and all of them. It changes nothing.
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

-- retire removes at most p_limit rows that are due, fewer where others go with
-- them, and says how many went of which table.
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

-- Up to where the log was verified, and the root its leaves had there. whole: from
-- the first position on.
CREATE TABLE trakr.verified_log (
    id          bigint      GENERATED ALWAYS AS IDENTITY CONSTRAINT verified_log_pk PRIMARY KEY,
    size        bigint      NOT NULL CONSTRAINT verified_log_some CHECK (size > 0),
    root        bytea       NOT NULL CONSTRAINT verified_log_root_form CHECK (octet_length(root) = 32),
    verified_at timestamptz NOT NULL,
    whole       boolean     NOT NULL
);

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

-- count_shaped counts, of every column of a table that can hold text, the rows with
-- a value in it that is shaped like an e-mail address or a telephone number; bytes
-- count as text when they are text throughout. It reads the whole table, or of the
-- audit the next p_limit events after a place in the order of the log, and says
-- where it ended. It can count and do nothing else: an error keeps its SQLSTATE and
-- loses its text, which could quote a value.
-- +goose StatementBegin
CREATE FUNCTION door.count_shaped(p_schema name, p_table name, p_epoch integer, p_xid xid8, p_id bigint, p_limit integer)
RETURNS TABLE (column_name name, predicate text, emails bigint, phones bigint, scanned bigint, epoch integer, xid xid8, id bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_sort = off AS $$
DECLARE
    -- Nothing before an e-mail's last local character matters. A telephone number is
    -- international (+ and 8 to 15 digits), or American, or begins with a 0 and is
    -- written in groups. Dates, UUIDs, digests, tickets, base64 and versions are none
    -- of these: neither letters, digits nor their usual joints stand around a number.
    mail CONSTANT text := '[\w.+-](@|%40)[\w-]+(\.[\w-]+)*\.[[:alpha:]]{2,}';
    tel  CONSTANT text := '(?<![\w+/=.-])\+[1-9]([ ().-]{0,2}[0-9]){7,14}(?![\w/=+-])'
        '|(?<![\w+/=.,:-])(\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-. ])[0-9]{3}[-. ][0-9]{4}(?![\w-])'
        '|(?<![\w+/=.,:-])(?![0-9]{2}-[0-9]{2}-[0-9]{4})(\(0[0-9]{1,4}\)|0[0-9]{1,4})[ /-]([0-9]{5,8}|[0-9]{3,4}[ -][0-9]{3,4}|[0-9]{2}([ .-][0-9]{2}){3})(?![\w-])'
        '|(?<![\w+/=.,:-])0[0-9]([ .][0-9]{2}){4}(?![\w-])';
    -- Bytes with a zero or a control character among them are no text.
    words CONSTANT text := '(CASE WHEN position(''\x00''::bytea IN %1$s) > 0 THEN NULL WHEN encode(%1$s, ''escape'') ~ ''[\x01-\x08\x0e-\x1f\x7f]'' THEN NULL ELSE encode(%1$s, ''escape'') END)';
    col     record;
    names   name[] := '{}';
    asked   text := '';
    source  text := format('%I.%I', p_schema, p_table);
    found   bigint[];
BEGIN
    FOR col IN
        SELECT c.column_name AS name, b.oid AS base, e.oid AS element
        FROM door.tenant_columns() AS c
        JOIN pg_attribute AS a ON a.attrelid = format('%I.%I', c.schema_name, c.table_name)::regclass AND a.attname = c.column_name,
        LATERAL (WITH RECURSIVE t AS (
                SELECT y.oid, y.typtype, y.typbasetype, y.typcategory, y.typelem FROM pg_type AS y WHERE y.oid = a.atttypid
                UNION ALL
                SELECT y.oid, y.typtype, y.typbasetype, y.typcategory, y.typelem FROM t JOIN pg_type AS y ON t.typtype = 'd' AND y.oid = t.typbasetype)
            SELECT t.oid, CASE WHEN t.typcategory = 'A' THEN t.typelem END AS element FROM t WHERE t.typtype <> 'd') AS b
        LEFT JOIN pg_type AS e ON e.oid = b.element
        WHERE c.schema_name = p_schema AND c.table_name = p_table AND c.kind IN ('text', 'opaque')
        ORDER BY a.attnum
    LOOP
        DECLARE
            v text := format('x.%I', col.name);
        BEGIN
            v := CASE WHEN col.base = 'bytea'::regtype THEN format(words, v)
                WHEN col.element = 'bytea'::regtype THEN format('(SELECT string_agg(%s, E''\n'') FROM unnest(%s) AS u)', format(words, 'u'), v)
                ELSE v || '::text' END;
            names := names || col.name;
            asked := asked || format(', count(*) FILTER (WHERE (%1$s LIKE ''%%@%%'' OR %1$s LIKE ''%%\%%40%%'') AND %1$s ~ %2$L), count(*) FILTER (WHERE %1$s ~ %3$L)', v, mail, tel);
        END;
    END LOOP;
    IF cardinality(names) = 0 THEN
        RETURN;
    END IF;
    IF p_limit IS NOT NULL THEN
        IF source <> 'trakr.audit_events' OR p_limit NOT BETWEEN 1 AND 100000 THEN
            RAISE EXCEPTION 'only the audit is searched in parts, of 1 to 100000 events' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        -- Below the snapshot's xmin every transaction has ended: nothing comes before
        -- what is searched now.
        source := '(SELECT e.* FROM trakr.audit_events AS e WHERE (e.epoch, e.xid, e.id) > ($1, $2, $3)
            AND (e.xid < pg_snapshot_xmin(pg_current_snapshot()) OR e.epoch < (SELECT max(n.epoch) FROM trakr.log_epochs AS n))
            ORDER BY e.epoch, e.xid, e.id LIMIT $4)';
    END IF;
    asked := 'SELECT ARRAY[count(*)' || asked || '] FROM ' || source || ' AS x';
    BEGIN
        EXECUTE asked INTO found USING p_epoch, p_xid, p_id, p_limit;
        IF p_limit IS NOT NULL THEN
            EXECUTE 'SELECT x.epoch, x.xid, x.id FROM ' || source || ' AS x ORDER BY x.epoch DESC, x.xid DESC, x.id DESC LIMIT 1'
                INTO epoch, xid, id USING p_epoch, p_xid, p_id, p_limit;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        RAISE EXCEPTION 'the count failed' USING ERRCODE = SQLSTATE;
    END;
    predicate := asked;
    scanned := found[1];
    FOR i IN 1..cardinality(names) LOOP
        column_name := names[i];
        emails := found[2 * i];
        phones := found[2 * i + 1];
        RETURN NEXT;
    END LOOP;
END $$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION door.plant_canary(), trakr.retention_rule(text), trakr.retention_links(text, text[]), trakr.retention_predicate(text),
    door.retirable(text, timestamptz), door.retire(text, timestamptz, integer), door.count_shaped(name, name, integer, xid8, bigint, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION door.plant_canary(), door.retirable(text, timestamptz), door.retire(text, timestamptz, integer),
    door.count_shaped(name, name, integer, xid8, bigint, integer) TO trakr_service;
GRANT SELECT, INSERT ON trakr.verified_log, trakr.payload_keys_seen TO trakr_service;
GRANT SELECT, INSERT, UPDATE ON trakr.shape_scans TO trakr_service;
GRANT SELECT ON trakr.sweep_canaries, trakr.verified_log, trakr.shape_scans, trakr.payload_keys_seen TO trakr_reader;
GRANT SELECT ON trakr.log_epochs TO trakr_sweep;

GRANT CREATE ON SCHEMA door TO trakr_sweep;
ALTER FUNCTION door.count_shaped(name, name, integer, xid8, bigint, integer) OWNER TO trakr_sweep;
REVOKE CREATE ON SCHEMA door FROM trakr_sweep;
