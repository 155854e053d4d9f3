-- A sweep that reads a large table gives way to the traffic of the service.
--
-- For the operator: replaces a function and adds one; no lock on a table.

-- +goose Up
GRANT CREATE ON SCHEMA door TO trakr_sweep;
SET LOCAL ROLE trakr_sweep;
-- pace is called before each piece of a table is read. While others write to the
-- database it sleeps three times as long as the piece before took, at most two seconds.
-- Four minutes after the transaction began it lets everything through: a sweep that
-- runs into its timeout proves nothing.
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

-- source is what count_orphans reads a column from: the table, or, where it is large
-- and others write to the database now, the table in pieces of its pages with a pause
-- before each. Both are the same rows: one statement, one snapshot.
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
REVOKE ALL ON FUNCTION door.pace(), door.source(name, name, name) FROM PUBLIC;

-- count_orphans as in migration 8, but that it reads from where source says. The
-- predicate it returns names the table, however it was read.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION door.count_orphans(p_schema name, p_table name, p_column name)
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
SET LOCAL ROLE trakr_owner;
REVOKE CREATE ON SCHEMA door FROM trakr_sweep;
