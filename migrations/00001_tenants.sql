-- Tenants: the registry, their encrypted values, and what protects both.
--
-- For the operator: this file and the other files of the baseline create empty tables and
-- functions in a new database; none of them reads or locks live data. deploy/roles.sql,
-- which creates the roles and the schemas, must have run (trakr migrate runs it when its
-- login may).

-- +goose Up
-- The mark of the baseline. Databases of the versions before it have other files under
-- the same numbers; the service recognises them by the missing mark and refuses them.
COMMENT ON TABLE trakr.schema_migrations IS 'baseline 1';

-- A function of the owner can be called by no other role until it is granted.
ALTER DEFAULT PRIVILEGES FOR ROLE trakr_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
GRANT USAGE ON SCHEMA trakr TO trakr_door, trakr_sweep, trakr_service, trakr_reader;
GRANT USAGE ON SCHEMA door TO trakr_service, trakr_door, trakr_sweep;

-- The registry contains no customer data: digests are keyed (HMAC-SHA-256 with a key
-- outside the database) and are removed at the erasure. Lists and sweeps use this table
-- alone.
--
-- erasing: the tombstone is committed, every read of the tenant is refused, and the
-- customer is not recognised in the registry; the values are about to be deleted, or a
-- legal hold keeps them.
CREATE TABLE trakr.tenants (
    tenant_id        uuid        NOT NULL CONSTRAINT tenants_pk PRIMARY KEY
                                 CONSTRAINT tenants_never_the_canary CHECK (tenant_id <> '00000000-0000-8000-8000-63616e617279'),
    ingress          text        NOT NULL CONSTRAINT tenants_ingress_known CHECK (ingress IN ('connect')),
    state            text        NOT NULL CONSTRAINT tenants_state_known CHECK (state IN ('live', 'erasing', 'erased')),
    subject_digest   bytea       CONSTRAINT tenants_subject_form CHECK (octet_length(subject_digest) = 36),
    principal_digest bytea       CONSTRAINT tenants_principal_form CHECK (octet_length(principal_digest) = 36),
    installed_at     timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    erased_at        timestamptz,
    -- iat of the newest accepted callback: the only ordering hint that Bitbucket gives.
    last_token_iat   timestamptz,
    -- The row of an erased tenant keeps its id, state and times, and nothing by which the
    -- customer could be recognised.
    CONSTRAINT tenants_erased_is_empty CHECK (
        (state = 'live' AND subject_digest IS NOT NULL AND erased_at IS NULL) OR
        (state <> 'live' AND subject_digest IS NULL AND principal_digest IS NULL AND last_token_iat IS NULL
            AND (erased_at IS NOT NULL) = (state = 'erased')))
);
COMMENT ON COLUMN trakr.tenants.last_token_iat IS
    'a callback dated before this was sent before what was last accepted: its iat, at most our time of receipt, less the leeway when it brought a new secret';
CREATE UNIQUE INDEX tenants_subject_live ON trakr.tenants (subject_digest) WHERE state = 'live';
CREATE INDEX tenants_principal_live ON trakr.tenants (principal_digest) WHERE state = 'live';

-- tenant_goes_on lets a tenant's state change in one direction only, for every role.
-- +goose StatementBegin
CREATE FUNCTION trakr.tenant_goes_on() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ways CONSTANT text[] := ARRAY['live', 'erasing', 'erased'];
BEGIN
    IF NEW.tenant_id <> OLD.tenant_id OR array_position(ways, NEW.state) < array_position(ways, OLD.state)
        OR (OLD.erased_at IS NOT NULL AND NEW.erased_at IS DISTINCT FROM OLD.erased_at) THEN
        RAISE EXCEPTION 'a tenant goes from live to erasing to erased, and never back' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER tenant_goes_on BEFORE UPDATE ON trakr.tenants FOR EACH ROW EXECUTE FUNCTION trakr.tenant_goes_on();
ALTER TABLE trakr.tenants ENABLE ALWAYS TRIGGER tenant_goes_on;

-- The five guarded values, each encrypted with the tenant and the column as associated
-- data. A row exists exactly as long as its tenant is live. 00008 adds the row security.
CREATE TABLE trakr.tenant_fields (
    tenant_id      uuid        NOT NULL CONSTRAINT tenant_fields_pk PRIMARY KEY
                               CONSTRAINT tenant_fields_tenant REFERENCES trakr.tenants (tenant_id),
    client_key     bytea       NOT NULL,
    shared_secret  bytea       NOT NULL,
    principal_uuid bytea       NOT NULL,
    username       bytea,
    avatar_url     bytea,
    written_at     timestamptz NOT NULL
);

-- Tokens that were already acted upon, until their exp. Bitbucket's signature does not
-- cover the JSON body, so a captured token must not work twice on any replica.
CREATE TABLE trakr.replay_guard (
    token_hash bytea       NOT NULL CONSTRAINT replay_guard_pk PRIMARY KEY
                           CONSTRAINT replay_guard_form CHECK (octet_length(token_hash) = 32),
    tenant_id  uuid        NOT NULL CONSTRAINT replay_guard_tenant REFERENCES trakr.tenants (tenant_id),
    seen_at    timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX replay_guard_expiry ON trakr.replay_guard (expires_at);
CREATE INDEX replay_guard_of_tenant ON trakr.replay_guard (tenant_id);

-- What Bitbucket last answered about each installation, for uninstalls that never reach
-- the service. Times and a count, never a value. A row is deleted with its tenant.
CREATE TABLE trakr.tenant_liveness (
    tenant_id          uuid        NOT NULL CONSTRAINT tenant_liveness_pk PRIMARY KEY
                                   CONSTRAINT tenant_liveness_tenant REFERENCES trakr.tenants (tenant_id),
    last_probed_at     timestamptz NOT NULL, -- time of the last question, whatever the answer
    last_answered_at   timestamptz,          -- Bitbucket answered about this installation
    last_alive_at      timestamptz,
    -- Answers that the installation is gone since the last answer that it is alive.
    suspicions         integer     NOT NULL DEFAULT 0 CONSTRAINT tenant_liveness_counted CHECK (suspicions >= 0),
    first_suspected_at timestamptz,
    last_suspected_at  timestamptz,
    CONSTRAINT tenant_liveness_suspicion_has_times CHECK (
        (suspicions > 0) = (first_suspected_at IS NOT NULL) AND (suspicions > 0) = (last_suspected_at IS NOT NULL)
        AND (suspicions = 0 OR first_suspected_at <= last_suspected_at))
);
CREATE INDEX tenant_liveness_oldest ON trakr.tenant_liveness (last_probed_at);

-- Digests of a fixed text under the keyring's digest keys. A service that starts with
-- another keyring would recognise no tenant and let each be installed again; it sees the
-- difference here and refuses to start.
CREATE TABLE trakr.keyring_checks (
    digest   bytea       NOT NULL CONSTRAINT keyring_checks_pk PRIMARY KEY
                         CONSTRAINT keyring_checks_form CHECK (octet_length(digest) = 36),
    noted_at timestamptz NOT NULL
);

-- A field key by its id; the key itself is never stored here. One key is active: it
-- encrypts. A retired key may still decrypt; a destroyed key decrypts nothing, because
-- nothing is encrypted with it.
CREATE TABLE trakr.field_keys (
    key_id       bigint      NOT NULL CONSTRAINT field_keys_pk PRIMARY KEY
                             CONSTRAINT field_keys_form CHECK (key_id BETWEEN 0 AND 4294967295),
    state        text        NOT NULL CONSTRAINT field_keys_state_known CHECK (state IN ('active', 'retired', 'destroyed')),
    active_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    retired_at   timestamptz,
    destroyed_at timestamptz,
    CONSTRAINT field_keys_in_order CHECK ((retired_at IS NULL) = (state = 'active') AND (destroyed_at IS NULL) = (state <> 'destroyed'))
);
CREATE UNIQUE INDEX field_keys_one_active ON trakr.field_keys (state) WHERE state = 'active';

-- Each running service: the field keys it has, so that no key becomes active that one of
-- them could not decrypt with, and the policy and destinations it acts by, so that a
-- report describes the services that run and not the environment of the command that
-- makes it. A service that was not seen for half a minute does not run.
--
-- settings, destinations and hosts correspond by position. A host is a name or an address,
-- never a URL, which may contain a secret; '' is a unix socket of the machine.
CREATE TABLE trakr.key_holders (
    instance_id  uuid        NOT NULL CONSTRAINT key_holders_pk PRIMARY KEY,
    key_ids      bigint[]    NOT NULL,
    seen_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    policy_hash  text        NOT NULL DEFAULT '' CONSTRAINT key_holders_policy_form CHECK (policy_hash ~ '^([0-9a-f]{64})?$'),
    settings     text[]      NOT NULL DEFAULT '{}',
    destinations text[]      NOT NULL DEFAULT '{}',
    hosts        text[]      NOT NULL DEFAULT '{}',
    CONSTRAINT key_holders_parties_whole CHECK (cardinality(settings) = cardinality(destinations) AND cardinality(settings) = cardinality(hosts))
);

-- judge_seal accepts a value only when the active key encrypted it. It shares a lock that
-- door.activate_field_key takes alone: when that commits, no value that the old key
-- encrypted can be committed any more. While no key is recorded (before the first start of
-- the service) every value is accepted.
-- +goose StatementBegin
CREATE FUNCTION trakr.judge_seal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    active bigint;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('trakr/field-keys', 0));
    SELECT k.key_id INTO active FROM trakr.field_keys AS k WHERE k.state = 'active';
    -- Tink's output begins with the byte 1 and the key's id.
    IF active IS NOT NULL AND EXISTS (
            SELECT FROM unnest(ARRAY[NEW.client_key, NEW.shared_secret, NEW.principal_uuid, NEW.username, NEW.avatar_url]) AS v (sealed)
            WHERE substring(v.sealed FROM 1 FOR 5) <> decode('01' || lpad(to_hex(active), 8, '0'), 'hex')) THEN
        RAISE EXCEPTION 'a value is sealed with a key that is not the active one' USING ERRCODE = 'TK423';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER judge_seal BEFORE INSERT OR UPDATE ON trakr.tenant_fields FOR EACH ROW EXECUTE FUNCTION trakr.judge_seal();
ALTER TABLE trakr.tenant_fields ENABLE ALWAYS TRIGGER judge_seal;

-- The service gets what each of its packages needs, and nothing more; so in every file.
GRANT SELECT, INSERT, UPDATE ON trakr.tenants TO trakr_service;
GRANT SELECT (tenant_id), INSERT, DELETE,
    UPDATE (client_key, shared_secret, principal_uuid, username, avatar_url, written_at) ON trakr.tenant_fields TO trakr_service;
GRANT SELECT, INSERT, DELETE ON trakr.replay_guard TO trakr_service;
GRANT UPDATE (seen_at) ON trakr.replay_guard TO trakr_service; -- SELECT … FOR UPDATE requires it
GRANT SELECT, INSERT, UPDATE, DELETE ON trakr.tenant_liveness, trakr.key_holders TO trakr_service;
GRANT SELECT, INSERT ON trakr.keyring_checks TO trakr_service;
GRANT SELECT ON trakr.field_keys, trakr.schema_migrations TO trakr_service;

GRANT SELECT ON trakr.tenants, trakr.field_keys, trakr.key_holders, trakr.schema_migrations TO trakr_reader;

GRANT SELECT ON trakr.tenants, trakr.tenant_fields, trakr.key_holders TO trakr_door;
GRANT SELECT, INSERT, UPDATE ON trakr.field_keys TO trakr_door;

GRANT SELECT ON trakr.tenants, trakr.replay_guard, trakr.tenant_liveness, trakr.field_keys, trakr.key_holders TO trakr_sweep;
GRANT SELECT (tenant_id, written_at) ON trakr.tenant_fields TO trakr_sweep;
