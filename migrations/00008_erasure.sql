-- One erasure in steps, each of which can be taken up again: what a tombstone
-- remembers of its way, what was counted, the certificate, and the ledger outside
-- the database to which all of it is bound.
--
-- For the operator: adds columns to trakr.erasures (which is rewritten: short) and
-- relaxes two checks of trakr.tenants; takes short exclusive locks. Erasures from
-- before it are entered in the ledger and verified by the next sweep.

-- +goose Up
-- erasing: the tombstone stands, the tenant answers nothing any more, and the
-- customer is not recognised in the registry; the values are on their way out or
-- held by law.
ALTER TABLE trakr.tenants DROP CONSTRAINT tenants_state_known, DROP CONSTRAINT tenants_erased_is_empty;
ALTER TABLE trakr.tenants
    ADD CONSTRAINT tenants_state_known CHECK (state IN ('live', 'erasing', 'erased')),
    ADD CONSTRAINT tenants_erased_is_empty CHECK (
        (state = 'live' AND subject_digest IS NOT NULL AND erased_at IS NULL) OR
        (state <> 'live' AND subject_digest IS NULL AND principal_digest IS NULL AND last_token_iat IS NULL
            AND (erased_at IS NOT NULL) = (state = 'erased')));

-- One row is one erasure, and its times tell how far it has come: begun, noted in
-- the ledger, deleted (erased_at), verified; certified when trakr.certificates has
-- it. A time is set once and in this order.
ALTER TABLE trakr.erasures
    ALTER COLUMN erased_at DROP NOT NULL,
    ADD COLUMN begun_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN request_id  uuid,        -- the deletion request it fulfils
    -- Until the values are gone, so that who asks by workspace is not told that
    -- nothing is held.
    ADD COLUMN principal_digest bytea CONSTRAINT erasures_principal_form CHECK (octet_length(principal_digest) = 36),
    ADD COLUMN noted_at    timestamptz,
    ADD COLUMN ledger_seq  bigint,      -- which line of the ledger
    ADD COLUMN ledger_hash bytea CONSTRAINT erasures_ledger_form CHECK (octet_length(ledger_hash) = 32),
    ADD COLUMN verified_at timestamptz,
    ADD COLUMN verified_by uuid,        -- the sweep that counted
    ADD COLUMN uncertified boolean NOT NULL DEFAULT false; -- begun before its beginning was recorded: no certificate can rest on it
UPDATE trakr.erasures SET begun_at = erased_at, uncertified = true;
ALTER TABLE trakr.erasures ADD CONSTRAINT erasures_in_order CHECK (
    (noted_at IS NULL) = (ledger_seq IS NULL) AND (noted_at IS NULL) = (ledger_hash IS NULL) AND (verified_at IS NULL) = (verified_by IS NULL)
    AND (verified_at IS NULL OR (erased_at IS NOT NULL AND noted_at IS NOT NULL))
    AND (erased_at IS NULL OR principal_digest IS NULL));
CREATE INDEX erasures_principal ON trakr.erasures (principal_digest) WHERE principal_digest IS NOT NULL;
CREATE INDEX erasures_unverified ON trakr.erasures (begun_at) WHERE verified_at IS NULL;
CREATE INDEX erasures_ledger ON trakr.erasures (ledger_seq DESC NULLS LAST);

-- +goose StatementBegin
CREATE FUNCTION trakr.erasure_goes_on() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    steps CONSTANT text[] := ARRAY['noted_at', 'ledger_seq', 'ledger_hash', 'erased_at', 'verified_at', 'verified_by'];
    old_row jsonb := to_jsonb(OLD);
    new_row jsonb := to_jsonb(NEW);
BEGIN
    IF old_row - steps - 'principal_digest' IS DISTINCT FROM new_row - steps - 'principal_digest'
        OR (NEW.principal_digest IS NOT NULL AND NEW.principal_digest IS DISTINCT FROM OLD.principal_digest)
        OR EXISTS (SELECT FROM unnest(steps) AS s WHERE old_row ->> s IS NOT NULL AND old_row ->> s IS DISTINCT FROM new_row ->> s)
        OR (OLD.erased_at IS NULL AND NEW.erased_at IS NOT NULL AND NEW.noted_at IS NULL) THEN
        RAISE EXCEPTION 'a step of an erasure is taken once, and after the one before it' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER erasure_goes_on BEFORE UPDATE ON trakr.erasures FOR EACH ROW EXECUTE FUNCTION trakr.erasure_goes_on();
ALTER TABLE trakr.erasures ENABLE ALWAYS TRIGGER erasure_goes_on;

-- What the deleting and the verifying step counted, table by table, zero included.
CREATE TABLE trakr.erasure_counts (
    erasure_id       uuid    NOT NULL CONSTRAINT erasure_counts_of REFERENCES trakr.erasures (erasure_id),
    step             text    NOT NULL CONSTRAINT erasure_counts_step_known CHECK (step IN ('delete', 'verify')),
    store            text    NOT NULL,
    table_name       text    NOT NULL,
    column_name      text    NOT NULL,
    retained         boolean NOT NULL, -- the policy keeps such rows, with a ground
    rows_before      bigint,           -- of the deleting step
    rows             bigint  NOT NULL, -- deleted, or still there
    predicate_digest text    NOT NULL, -- hex SHA-256 of the SQL that counted; '' for the deleting step
    CONSTRAINT erasure_counts_pk PRIMARY KEY (erasure_id, step, store, table_name, column_name)
);

-- One certificate for each erasure, or for a request under which nothing was held.
CREATE TABLE trakr.certificates (
    certificate_id uuid        NOT NULL CONSTRAINT certificates_pk PRIMARY KEY,
    erasure_id     uuid        CONSTRAINT certificates_one_each UNIQUE CONSTRAINT certificates_of REFERENCES trakr.erasures (erasure_id),
    request_id     uuid        CONSTRAINT certificates_one_a_request UNIQUE,
    issued_at      timestamptz NOT NULL,
    document       text        NOT NULL,
    CONSTRAINT certificates_of_something CHECK (erasure_id IS NOT NULL OR request_id IS NOT NULL)
);

-- Which erasure ledger belongs to this database. It survives dump and restore, so
-- that a restored database knows that there is one.
CREATE TABLE trakr.ledger_identity (
    ledger_id uuid        NOT NULL CONSTRAINT ledger_identity_pk PRIMARY KEY,
    bound_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
SELECT trakr.guard_growth('trakr.ledger_identity', true);

-- Up to which line the ledger was held against this database and every tenant in it
-- that had come back was erased again.
CREATE TABLE trakr.ledger_replays (
    up_to       bigint      NOT NULL CONSTRAINT ledger_replays_pk PRIMARY KEY,
    ledger_hash bytea       NOT NULL CONSTRAINT ledger_replays_form CHECK (octet_length(ledger_hash) = 32),
    replayed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

GRANT SELECT, INSERT, DELETE ON trakr.ledger_replays TO trakr_service;
GRANT SELECT ON trakr.ledger_replays TO trakr_reader;
GRANT UPDATE (noted_at, ledger_seq, ledger_hash, erased_at, verified_at, verified_by, principal_digest) ON trakr.erasures TO trakr_service;
GRANT SELECT, INSERT ON trakr.erasure_counts, trakr.certificates, trakr.ledger_identity TO trakr_service;
GRANT SELECT ON trakr.erasure_counts, trakr.certificates, trakr.ledger_identity TO trakr_reader;
REVOKE ALL ON FUNCTION trakr.erasure_goes_on() FROM PUBLIC;

-- count_orphans as in migration 6, but that an erasure under way is not an orphan:
-- the sweep of erasures answers for it.
GRANT CREATE ON SCHEMA door TO trakr_sweep;
SET LOCAL ROLE trakr_sweep;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION door.count_orphans(p_schema name, p_table name, p_column name)
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

-- count_subject counts the tenants, live or on their way out, that are recognised by
-- any of some keyed digests: whether anything is held under a name that was given.
-- +goose StatementBegin
CREATE FUNCTION door.count_subject(p_digests bytea[]) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT (SELECT count(*) FROM trakr.tenants AS t WHERE t.subject_digest = ANY (p_digests) OR t.principal_digest = ANY (p_digests))
        + (SELECT count(*) FROM trakr.erasures AS x WHERE x.erased_at IS NULL AND (x.subject_digest = ANY (p_digests) OR x.principal_digest = ANY (p_digests)))
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION door.count_subject(bytea[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION door.count_subject(bytea[]) TO trakr_service;
SET LOCAL ROLE trakr_owner;
REVOKE CREATE ON SCHEMA door FROM trakr_sweep;
