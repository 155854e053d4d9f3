-- Fields that the policy switches off: how many values of them are still there, and
-- whose, so that they can be removed. No value comes back.
--
-- For the operator: adds two functions, takes no lock on a table.

-- +goose Up
GRANT CREATE ON SCHEMA door TO trakr_door;
SET LOCAL ROLE trakr_door;
-- count_held counts the values of the fields that a policy may switch off.
-- +goose StatementBegin
CREATE FUNCTION door.count_held() RETURNS TABLE (field text, rows bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.field, x.rows
    FROM (SELECT count(v.username) AS username, count(v.avatar_url) AS avatar_url FROM trakr.tenant_fields AS v) AS c,
        LATERAL (VALUES ('username', c.username), ('avatar_url', c.avatar_url)) AS x (field, rows)
$$;
-- +goose StatementEnd
-- holders lists, in order, the tenants after one that have a value of such a field.
-- +goose StatementBegin
CREATE FUNCTION door.holders(p_fields text[], p_after uuid, p_limit integer) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT v.tenant_id FROM trakr.tenant_fields AS v
    WHERE (p_after IS NULL OR v.tenant_id > p_after)
        AND (('username' = ANY (p_fields) AND v.username IS NOT NULL) OR ('avatar_url' = ANY (p_fields) AND v.avatar_url IS NOT NULL))
    ORDER BY v.tenant_id LIMIT least(p_limit, 1000)
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION door.count_held(), door.holders(text[], uuid, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION door.count_held(), door.holders(text[], uuid, integer) TO trakr_service;
SET LOCAL ROLE trakr_owner;
REVOKE CREATE ON SCHEMA door FROM trakr_door;
