-- The census: functions that count rows in the live catalog, declared or not, and return no
-- value. The sweeps and the verifying step of an erasure use them.

-- +goose Up
-- They act as the sweep's role, which may count every table and read no guarded value.
GRANT CREATE ON SCHEMA door TO trakr_sweep;
SET LOCAL ROLE trakr_sweep;

-- tenant_columns lists every column of the live catalog, in every ordinary, partitioned (as
-- a whole) and foreign table and materialised view, and how it may carry a tenant.
--   carries:  tenant (by its name, or because it refers to the registry), value (named like
--             a guarded value or another name of the installation, which cannot be compared
--             with a tenant's id), or '' for nothing known
--   kind:     uuid; text, whose text form shows an id that it contains; opaque, whose form
--             hides one; number; none, which cannot contain an id
--   filtered: row security hides rows from this role; a restrictive policy hides rows
--             whatever another policy shows
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
        -- hidden rows, unless a policy shows this role every one and none takes any back
        row_security_active(c.oid) AND (NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND p.polpermissive
                AND p.polcmd IN ('r', '*') AND current_user::regrole = ANY (p.polroles) AND pg_get_expr(p.polqual, c.oid) = 'true')
            OR EXISTS (SELECT FROM pg_policy AS p, unnest(p.polroles) AS g (role) WHERE p.polrelid = c.oid AND NOT p.polpermissive
                AND p.polcmd IN ('r', '*') AND (g.role = 0 OR pg_has_role(current_user, g.role, 'USAGE'))))
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

-- pace is called before each piece of a table is read. While others write to the database it
-- sleeps three times as long as the piece before took, at most two seconds. Four minutes
-- after the transaction began it stops sleeping: a sweep that reaches its timeout proves
-- nothing.
-- +goose StatementBegin
CREATE FUNCTION door.pace() RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last   text[] := string_to_array(current_setting('trakr.pace', true), '|'); -- time and place in the write-ahead log
    worked float8;
BEGIN
    IF cardinality(last) = 2 AND clock_timestamp() < transaction_timestamp() + interval '4 minutes' THEN
        worked := extract(epoch FROM clock_timestamp() - last[1]::timestamptz);
        IF pg_wal_lsn_diff(pg_current_wal_insert_lsn(), last[2]::pg_lsn) > 65536 * worked THEN
            PERFORM pg_sleep(least(3 * worked, 2));
        END IF;
    END IF;
    PERFORM set_config('trakr.pace', clock_timestamp()::text || '|' || pg_current_wal_insert_lsn()::text, true);
    RETURN true;
END $$;
-- +goose StatementEnd

-- source returns what count_orphans reads a column from: the table or, where it is large and
-- others write to the database now, the table in pieces of its pages with a pause before
-- each. Both are the same rows: one statement, one snapshot.
-- +goose StatementBegin
CREATE FUNCTION door.source(p_schema name, p_table name, p_column name) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    whole text := format('%I.%I', p_schema, p_table);
    pages bigint; -- of the largest part
    step  bigint;
    lsn   pg_lsn := pg_current_wal_insert_lsn();
    parts text;
BEGIN
    SELECT max(pg_relation_size(c.oid) / current_setting('block_size')::bigint) INTO pages
    FROM pg_class AS c WHERE c.relkind IN ('r', 'm')
        AND (c.oid = whole::regclass OR c.oid IN (SELECT relid FROM pg_partition_tree(whole::regclass)));
    IF coalesce(pages, 0) < 4000 THEN
        RETURN whole;
    END IF;
    PERFORM pg_sleep(0.05);
    IF pg_wal_lsn_diff(pg_current_wal_insert_lsn(), lsn) < 3000 THEN
        RETURN whole;
    END IF;
    step := greatest(500, pages / 200);
    SELECT string_agg(format('SELECT p.%I FROM %s AS p WHERE p.ctid >= ''(%s,0)'' AND p.ctid < ''(%s,0)'' AND (SELECT door.pace())',
        p_column, whole, at, CASE WHEN at + step > pages THEN 4294967295 ELSE at + step END), ' UNION ALL ' ORDER BY at)
    INTO parts FROM generate_series(0, pages, step) AS at;
    PERFORM set_config('trakr.pace', '', true);
    RETURN '(' || parts || ')';
END $$;
-- +goose StatementEnd

-- count_orphans counts, of one column, the stale rows, and returns the SQL that it ran: where
-- the column carries a tenant, rows that name no tenant that is live or being erased (the
-- sweep of erasures covers those); in any other column, rows that contain the id of an
-- erased tenant. A type that hides ids has no stale rows; filled is then how many rows
-- contain anything at all (NULL where that need not be known). The predicate names the
-- table, however it was read. The function can count and do nothing else: an error keeps
-- its SQLSTATE and loses its text, which could quote a value.
-- +goose StatementBegin
CREATE FUNCTION door.count_orphans(p_schema name, p_table name, p_column name)
RETURNS TABLE (predicate text, rows bigint, filled bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    col    record;
    source text := format('FROM %I.%I AS x WHERE x.%I IS NOT NULL', p_schema, p_table, p_column);
    paced  text;
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
        predicate := 'SELECT count(*) ' || source || format(' AND NOT EXISTS (SELECT FROM trakr.tenants AS t WHERE t.state IN (''live'', ''erasing'') AND t.tenant_id = x.%I)', p_column);
    ELSIF col.kind = 'uuid' THEN
        predicate := 'SELECT count(*) ' || source || format(' AND EXISTS (SELECT FROM trakr.tenants AS t WHERE t.state = ''erased'' AND t.tenant_id = x.%I)', p_column);
    ELSIF col.kind = 'text' AND col.carries = 'tenant' THEN
        -- OFFSET 0: what is exactly a live tenant's id falls out in one hash join,
        -- before anything is searched.
        predicate := format('SELECT count(*) FROM (SELECT x.%I::text AS v ', p_column) || source
            || format(' AND NOT EXISTS (SELECT FROM trakr.tenants AS t WHERE t.state IN (''live'', ''erasing'') AND t.tenant_id::text = lower(btrim(x.%I::text, '' {}'') COLLATE "C")) OFFSET 0) AS y', p_column)
            || ' WHERE coalesce((SELECT bool_or(t.state = ''erased'') OR NOT bool_or(t.state IN (''live'', ''erasing'')) ' || format(named, 'y.v') || '), true)';
    ELSIF col.kind = 'text' THEN
        predicate := 'SELECT count(*) ' || source || ' AND EXISTS (SELECT ' || format(named, format('x.%I::text', p_column)) || ' WHERE t.state = ''erased'')';
    ELSE
        rows := 0;
    END IF;
    BEGIN
        paced := format('FROM %s AS x WHERE x.%I IS NOT NULL', door.source(p_schema, p_table, p_column), p_column);
        IF predicate IS NOT NULL THEN
            EXECUTE replace(predicate, source, paced) INTO rows;
        END IF;
        IF predicate IS NULL OR col.carries <> 'tenant' THEN
            EXECUTE 'SELECT count(*) ' || paced INTO filled;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        RAISE EXCEPTION 'the count failed' USING ERRCODE = SQLSTATE;
    END;
    predicate := coalesce(predicate, 'SELECT count(*) ' || source);
    RETURN NEXT;
END $$;
-- +goose StatementEnd

-- count_subject counts the tenants, live or being erased, that any of some keyed digests
-- recognises: whether anything is held under a name that was given.
-- +goose StatementBegin
CREATE FUNCTION door.count_subject(p_digests bytea[]) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT (SELECT count(*) FROM trakr.tenants AS t WHERE t.subject_digest = ANY (p_digests) OR t.principal_digest = ANY (p_digests))
        + (SELECT count(*) FROM trakr.erasures AS x WHERE x.erased_at IS NULL AND (x.subject_digest = ANY (p_digests) OR x.principal_digest = ANY (p_digests)))
$$;
-- +goose StatementEnd

-- count_tenant counts the rows of one tenant, with the SQL that it ran: in every column of
-- the live catalog that carries a tenant, and in every column that is not among the declared
-- ones (schema.table.column, each as quote_ident writes it) and can contain an id, whatever
-- its name. rows is NULL where it is not known: the table may not be read or hides rows, the
-- column's type hides ids and is not empty, or the count failed.
-- +goose StatementBegin
CREATE FUNCTION door.count_tenant(p_tenant uuid, p_declared text[])
RETURNS TABLE (schema_name name, table_name name, column_name name, rows bigint, predicate text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    col record;
BEGIN
    FOR col IN SELECT c.* FROM door.tenant_columns() AS c
        WHERE (c.carries = 'tenant' AND c.kind <> 'none')
            OR (c.kind IN ('uuid', 'text', 'opaque') AND format('%I.%I.%I', c.schema_name, c.table_name, c.column_name) <> ALL (coalesce(p_declared, '{}')))
    LOOP
        schema_name := col.schema_name;
        table_name := col.table_name;
        column_name := col.column_name;
        rows := NULL;
        predicate := format('SELECT count(*) FROM %I.%I AS x WHERE ', schema_name, table_name)
            || format(CASE col.kind
                WHEN 'uuid' THEN 'x.%I = $1'
                -- an id in any spelling that the type uuid reads
                WHEN 'text' THEN 'strpos(replace(lower(x.%I::text COLLATE "C"), ''-'', ''''), replace($1::text, ''-'', '''')) > 0'
                ELSE 'x.%I IS NOT NULL' END, column_name);
        IF col.readable AND NOT col.filtered THEN
            BEGIN
                EXECUTE predicate INTO rows USING p_tenant;
            EXCEPTION WHEN OTHERS THEN
                rows := NULL; -- an error's text could quote a value
            END;
        END IF;
        IF rows > 0 AND col.kind NOT IN ('uuid', 'text') THEN
            rows := NULL;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;
-- +goose StatementEnd

-- measure counts a table's rows up to a time, with the oldest and the newest. Rows without a
-- time are counted whatever the moment. Only a column of times can be compared with one, so
-- no other value is returned; errors lose their text.
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

-- value_shapes returns what an e-mail address and a telephone number look like, for values
-- that are received and for the sweep: the texts of internal/contactdata, which explains
-- them; a test compares them. They match alike in every locale.
-- +goose StatementBegin
CREATE FUNCTION door.value_shapes() RETURNS TABLE (email text, phone text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp ROWS 1 AS $$
    SELECT '[^\x01-*,/:-@[-^\x60{-\x7f]+(?:@|%40)[^\x01-,./:-@[-^\x60{-\x7f]+(?:\.[^\x01-,./:-@[-^\x60{-\x7f]+)*\.[^\x01-@[-\x60{-\x7f]{2,}',
        '(?:^|[^A-Za-z0-9_+/=.-])\+[1-9](?:[ ().-]{0,2}[0-9]){7,14}(?:[^A-Za-z0-9_/=+-]|$)'
        '|(?:^|[^A-Za-z0-9_+/=.,:-])(?:'
        '(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-. ])[0-9]{3}[-. ][0-9]{4}'
        '|(?:\(0[0-9]{1,4}\)|0[0-9]{1,4})[ /-](?:[0-9]{5,8}|[0-9]{3,4}[ -][0-9]{3,4}|[0-9]{2}(?:[ .-][0-9]{2}){3})'
        '|0[0-9](?:[ .][0-9]{2}){4}'
        ')(?:[^A-Za-z0-9_-]|$)'
$$;
-- +goose StatementEnd

-- count_shaped counts, of every column of a table that can contain text, the rows with a
-- value of one of these shapes; bytes count as text when they are text throughout. It reads
-- the whole table, or of the audit the next p_limit events after a place in the order of the
-- log, and returns where it ended. It can count and do nothing else: an error keeps its
-- SQLSTATE and loses its text, which could quote a value.
-- +goose StatementBegin
CREATE FUNCTION door.count_shaped(p_schema name, p_table name, p_epoch integer, p_xid xid8, p_id bigint, p_limit integer)
RETURNS TABLE (column_name name, predicate text, emails bigint, phones bigint, scanned bigint, epoch integer, xid xid8, id bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_sort = off AS $$
DECLARE
    mail text;
    tel  text;
    -- Bytes with a zero or a control character among them are no text.
    words CONSTANT text := '(CASE WHEN position(''\x00''::bytea IN %1$s) > 0 THEN NULL WHEN encode(%1$s, ''escape'') ~ ''[\x01-\x08\x0e-\x1f\x7f]'' THEN NULL ELSE encode(%1$s, ''escape'') END)';
    col     record;
    names   name[] := '{}';
    asked   text := '';
    source  text := format('%I.%I', p_schema, p_table);
    found   bigint[];
BEGIN
    SELECT s.email, s.phone INTO mail, tel FROM door.value_shapes() AS s;
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

REVOKE ALL ON FUNCTION door.tenant_columns(), door.pace(), door.source(name, name, name), door.count_orphans(name, name, name), door.count_subject(bytea[]),
    door.count_tenant(uuid, text[]), door.measure(name, name, name, timestamptz), door.value_shapes(),
    door.count_shaped(name, name, integer, xid8, bigint, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION door.tenant_columns(), door.count_orphans(name, name, name), door.count_subject(bytea[]), door.count_tenant(uuid, text[]),
    door.measure(name, name, name, timestamptz), door.count_shaped(name, name, integer, xid8, bigint, integer) TO trakr_service;
SET LOCAL ROLE trakr_owner;
REVOKE CREATE ON SCHEMA door FROM trakr_sweep;

-- From here on, so that the sweep counts a table of a later release from the beginning. The
-- tables above have explicit grants; the months of the audit have none of their own.
ALTER DEFAULT PRIVILEGES FOR ROLE trakr_owner GRANT SELECT ON TABLES TO trakr_sweep;
