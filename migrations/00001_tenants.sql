-- The registry, the guarded values, the tombstones and the replay guard.
--
-- For the operator: creates empty tables only; takes no lock on live data.

-- +goose Up
CREATE SCHEMA IF NOT EXISTS trakr;
CREATE SCHEMA IF NOT EXISTS door;

-- The registry holds no customer data: digests are keyed (HMAC-SHA-256 with a
-- key outside the database) and are removed at erasure. Lists and sweeps work
-- on this table alone.
CREATE TABLE trakr.tenants (
    tenant_id        uuid        NOT NULL CONSTRAINT tenants_pk PRIMARY KEY,
    ingress          text        NOT NULL CONSTRAINT tenants_ingress_known CHECK (ingress IN ('connect')),
    state            text        NOT NULL CONSTRAINT tenants_state_known CHECK (state IN ('live', 'erased')),
    subject_digest   bytea       CONSTRAINT tenants_subject_form CHECK (octet_length(subject_digest) = 36),
    principal_digest bytea       CONSTRAINT tenants_principal_form CHECK (octet_length(principal_digest) = 36),
    installed_at     timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    erased_at        timestamptz,
    -- iat of the newest accepted callback: the only ordering hint Bitbucket gives.
    last_token_iat   timestamptz,
    -- An erased tenant's row keeps its id, state and times, and nothing by
    -- which the customer could be recognised.
    CONSTRAINT tenants_erased_is_empty CHECK (
        (state = 'live' AND subject_digest IS NOT NULL AND erased_at IS NULL) OR
        (state = 'erased' AND subject_digest IS NULL AND principal_digest IS NULL
            AND last_token_iat IS NULL AND erased_at IS NOT NULL))
);
CREATE UNIQUE INDEX tenants_subject_live ON trakr.tenants (subject_digest) WHERE state = 'live';
CREATE INDEX tenants_principal_live ON trakr.tenants (principal_digest) WHERE state = 'live';

-- The five guarded values, each sealed with the tenant and column as associated
-- data. A row exists exactly as long as its tenant is live.
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

-- Tombstones: that a tenant was erased, when and why. The keyed digest answers
-- "was this client key erased?" later; the token's hash makes a repeated
-- delivery of the same uninstall a no-op.
CREATE TABLE trakr.erasures (
    erasure_id     uuid        NOT NULL CONSTRAINT erasures_pk PRIMARY KEY,
    tenant_id      uuid        NOT NULL CONSTRAINT erasures_once UNIQUE
                               CONSTRAINT erasures_tenant REFERENCES trakr.tenants (tenant_id),
    ingress        text        NOT NULL CONSTRAINT erasures_ingress_known CHECK (ingress IN ('connect')),
    trigger        text        NOT NULL CONSTRAINT erasures_trigger_known
                               CHECK (trigger IN ('uninstall', 'request', 'probe', 'retention', 'restore_replay', 'forge_migration')),
    subject_digest bytea       NOT NULL CONSTRAINT erasures_subject_form CHECK (octet_length(subject_digest) = 36),
    token_hash     bytea       CONSTRAINT erasures_token_form CHECK (octet_length(token_hash) = 32),
    requested_at   timestamptz NOT NULL,
    erased_at      timestamptz NOT NULL
);
CREATE INDEX erasures_subject ON trakr.erasures (subject_digest);
CREATE INDEX erasures_token ON trakr.erasures (token_hash);

-- Tokens already acted upon, until their exp. Bitbucket's signature does not
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

-- Digests of a fixed text under the keyring's digest keys. A service that starts
-- with another keyring would know no tenant and let each be installed anew; it
-- sees the difference here and refuses.
CREATE TABLE trakr.keyring_checks (
    digest   bytea       NOT NULL CONSTRAINT keyring_checks_pk PRIMARY KEY
                         CONSTRAINT keyring_checks_form CHECK (octet_length(digest) = 36),
    noted_at timestamptz NOT NULL
);
