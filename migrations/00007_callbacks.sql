-- What a tombstone remembers so that nothing Bitbucket sent before an uninstall
-- brings the tenant back after it.
--
-- For the operator: adds two columns without rewriting the table and builds an
-- index on trakr.erasures, whose writers (uninstalls) wait meanwhile. Older code
-- runs on: it leaves the columns at their defaults.

-- +goose Up
ALTER TABLE trakr.erasures
    -- iat of the uninstall (of an erasure by nobody's callback: its own time). A
    -- signed install dated before it was sent before it. NULL in rows written
    -- before this migration.
    ADD COLUMN token_iat timestamptz,
    -- SHA-256 of the tokens that acted on the tenant and had not expired. The
    -- replay guard's rows name the tenant and go with it; these name nobody.
    ADD COLUMN spent_tokens bytea[] NOT NULL DEFAULT '{}';
CREATE INDEX erasures_spent ON trakr.erasures USING gin (spent_tokens);

-- The service's SELECT and INSERT on trakr.erasures (00006) cover new columns.
COMMENT ON COLUMN trakr.tenants.last_token_iat IS
    'a callback dated before this was sent before what was last accepted: its iat, at most our time of receipt, less the leeway when it brought a new secret';
