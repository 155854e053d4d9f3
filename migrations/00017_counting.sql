-- What counts a tenant looks where nobody said what is kept, and knows when it is
-- shown less than there is; what a sweep cannot see is a finding of its own.
--
-- For the operator: replaces functions and adds a column with a constant default;
-- takes a short lock on trakr.findings.

-- +goose Up
GRANT CREATE ON SCHEMA door TO trakr_sweep;
SET LOCAL ROLE trakr_sweep;
-- tenant_columns as in migration 6, but that a restrictive policy hides rows too,
-- whatever another one shows.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION door.tenant_columns()
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

-- count_tenant counts the rows of one tenant, with the SQL it ran: in every column
-- of the live catalog that carries a tenant, and in every column that is not among
-- the declared ones (schema.table.column, each as quote_ident writes it) and can hold
-- an id, whatever its name. rows is NULL where it cannot be told: the table may not
-- be read or hides rows, the column's type hides ids and is not empty, or the count
-- failed. It returns no value.
DROP FUNCTION door.count_tenant(uuid);
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
REVOKE ALL ON FUNCTION door.count_tenant(uuid, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION door.count_tenant(uuid, text[]) TO trakr_service;
SET LOCAL ROLE trakr_owner;
REVOKE CREATE ON SCHEMA door FROM trakr_sweep;

-- A finding that is blind says that a sweep cannot judge its subject: what may be
-- there is not known.
ALTER TABLE trakr.findings ADD COLUMN blind boolean NOT NULL DEFAULT false;
