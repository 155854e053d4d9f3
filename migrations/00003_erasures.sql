-- One erasure in steps, each of which can be resumed: the tombstone with its progress, what
-- was counted, the certificate, and the binding to the ledger outside the database.

-- +goose Up
-- One row is one erasure: that a tenant was erased, when and why. Its times record its
-- progress: begun, recorded in the ledger (noted_at), deleted (erased_at), verified; it is
-- certified when trakr.certificates has it. A time is set once and in this order.
--
-- The keyed digest answers "was this client key erased?" later; the token's hash makes a
-- repeated delivery of the same uninstall a no-op.
CREATE TABLE trakr.erasures (
    erasure_id       uuid        NOT NULL CONSTRAINT erasures_pk PRIMARY KEY,
    tenant_id        uuid        NOT NULL CONSTRAINT erasures_once UNIQUE
                                 CONSTRAINT erasures_tenant REFERENCES trakr.tenants (tenant_id),
    ingress          text        NOT NULL CONSTRAINT erasures_ingress_known CHECK (ingress IN ('connect')),
    trigger          text        NOT NULL CONSTRAINT erasures_trigger_known
                                 CHECK (trigger IN ('uninstall', 'request', 'probe', 'retention', 'restore_replay', 'forge_migration')),
    subject_digest   bytea       NOT NULL CONSTRAINT erasures_subject_form CHECK (octet_length(subject_digest) = 36),
    token_hash       bytea       CONSTRAINT erasures_token_form CHECK (octet_length(token_hash) = 32),
    requested_at     timestamptz NOT NULL,
    erased_at        timestamptz,
    -- iat of the uninstall (of an erasure without a callback: its own time). A signed
    -- install dated before it was sent before it.
    token_iat        timestamptz,
    -- SHA-256 of the tokens that acted on the tenant and had not expired. The rows of the
    -- replay guard name the tenant and are deleted with it; these name no tenant.
    spent_tokens     bytea[]     NOT NULL DEFAULT '{}',
    begun_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    request_id       uuid,       -- the deletion request that it fulfils
    -- Until the values are deleted, so that a request by workspace does not find that
    -- nothing is held.
    principal_digest bytea       CONSTRAINT erasures_principal_form CHECK (octet_length(principal_digest) = 36),
    noted_at         timestamptz,
    ledger_seq       bigint,     -- which line of the ledger
    ledger_hash      bytea       CONSTRAINT erasures_ledger_form CHECK (octet_length(ledger_hash) = 32),
    verified_at      timestamptz,
    verified_by      uuid,       -- the sweep that counted
    uncertified      boolean     NOT NULL DEFAULT false, -- begun before its beginning was recorded: no certificate can rest on it
    CONSTRAINT erasures_in_order CHECK (
        (noted_at IS NULL) = (ledger_seq IS NULL) AND (noted_at IS NULL) = (ledger_hash IS NULL) AND (verified_at IS NULL) = (verified_by IS NULL)
        AND (verified_at IS NULL OR (erased_at IS NOT NULL AND noted_at IS NOT NULL))
        AND (erased_at IS NULL OR principal_digest IS NULL))
);
CREATE INDEX erasures_subject ON trakr.erasures (subject_digest);
CREATE INDEX erasures_token ON trakr.erasures (token_hash);
CREATE INDEX erasures_spent ON trakr.erasures USING gin (spent_tokens);
CREATE INDEX erasures_principal ON trakr.erasures (principal_digest) WHERE principal_digest IS NOT NULL;
CREATE INDEX erasures_unverified ON trakr.erasures (begun_at) WHERE verified_at IS NULL;
CREATE INDEX erasures_ledger ON trakr.erasures (ledger_seq DESC NULLS LAST);

-- erasure_goes_on lets each step of an erasure be taken once and after the step before it,
-- and lets it be verified only by a sweep that is finished and did not fail: a certificate
-- rests on a sweep that counted.
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
    IF OLD.verified_by IS NULL AND NEW.verified_by IS NOT NULL AND NOT EXISTS (SELECT FROM trakr.sweep_runs AS r
            WHERE r.run_id = NEW.verified_by AND r.finished_at IS NOT NULL AND r.result <> 'failed' AND NOT r.dry_run) THEN
        RAISE EXCEPTION 'an erasure is verified by a sweep that is over and did not fail' USING ERRCODE = 'insufficient_privilege';
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
    rows             bigint  NOT NULL, -- deleted, or remaining
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

-- Which erasure ledger belongs to this database. It survives dump and restore, so that a
-- restored database knows that a ledger exists.
CREATE TABLE trakr.ledger_identity (
    ledger_id uuid        NOT NULL CONSTRAINT ledger_identity_pk PRIMARY KEY,
    bound_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
SELECT trakr.guard_growth('trakr.ledger_identity', true);

-- Up to which line the ledger was compared with this database, and every tenant that a
-- restore had brought back was erased again.
CREATE TABLE trakr.ledger_replays (
    up_to       bigint      NOT NULL CONSTRAINT ledger_replays_pk PRIMARY KEY,
    ledger_hash bytea       NOT NULL CONSTRAINT ledger_replays_form CHECK (octet_length(ledger_hash) = 32),
    replayed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

GRANT SELECT, INSERT ON trakr.erasures, trakr.erasure_counts, trakr.certificates, trakr.ledger_identity TO trakr_service;
GRANT UPDATE (noted_at, ledger_seq, ledger_hash, erased_at, verified_at, verified_by, principal_digest) ON trakr.erasures TO trakr_service;
GRANT SELECT, INSERT, DELETE ON trakr.ledger_replays TO trakr_service;

GRANT SELECT ON trakr.erasures, trakr.erasure_counts, trakr.certificates, trakr.ledger_identity, trakr.ledger_replays TO trakr_reader, trakr_sweep;
