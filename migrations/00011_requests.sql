-- Legal holds, customers' deletion requests, and the count of one tenant's rows.
--
-- For the operator: creates empty tables and functions only; takes no lock on
-- live data.

-- +goose Up
-- count_tenant counts the rows of one tenant in every column of the live catalog
-- that carries a tenant, declared or not, with the SQL it ran. rows is NULL where
-- it cannot be told: the table may not be read or hides rows, the column's type
-- hides ids and is not empty, or the count failed. It returns no value.
-- +goose StatementBegin
CREATE FUNCTION door.count_tenant(p_tenant uuid)
RETURNS TABLE (schema_name name, table_name name, column_name name, rows bigint, predicate text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    col record;
BEGIN
    FOR col IN SELECT c.* FROM door.tenant_columns() AS c WHERE c.carries = 'tenant' AND c.kind <> 'none' LOOP
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
REVOKE ALL ON FUNCTION door.count_tenant(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION door.count_tenant(uuid) TO trakr_service;
GRANT CREATE ON SCHEMA door TO trakr_sweep;
ALTER FUNCTION door.count_tenant(uuid) OWNER TO trakr_sweep;
REVOKE CREATE ON SCHEMA door FROM trakr_sweep;
