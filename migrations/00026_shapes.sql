-- One definition of what an e-mail address and a telephone number look like, for what
-- comes in and for the sweep; and a word for what no sweep can search.
--
-- For the operator: adds a function, replaces one and widens a check on
-- trakr.sweep_results, which is read once under a short lock.

-- +goose Up
GRANT CREATE ON SCHEMA door TO trakr_sweep;
SET LOCAL ROLE trakr_sweep;

-- value_shapes says what the two look like: the texts of internal/shape, which tells
-- more about them; a test compares them. They read alike in every locale.
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
REVOKE ALL ON FUNCTION door.value_shapes() FROM PUBLIC;

-- count_shaped as in migration 10, but that it looks for these.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION door.count_shaped(p_schema name, p_table name, p_epoch integer, p_xid xid8, p_id bigint, p_limit integer)
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
SET LOCAL ROLE trakr_owner;
REVOKE CREATE ON SCHEMA door FROM trakr_sweep;

-- not_searched: the service sealed what stands there, and no sweep can search it.
ALTER TABLE trakr.sweep_results DROP CONSTRAINT sweep_results_disposition_known,
    ADD CONSTRAINT sweep_results_disposition_known CHECK (disposition IN ('checked', 'retained', 'not_searched', 'unjudged'));
