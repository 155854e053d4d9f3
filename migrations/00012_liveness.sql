-- What Bitbucket last said of each installation, for uninstalls that never reach us.
--
-- For the operator: creates an empty table only; takes no lock on live data.

-- +goose Up

-- Times and a count, never a value. A row goes with its tenant.
CREATE TABLE trakr.tenant_liveness (
    tenant_id          uuid        NOT NULL CONSTRAINT tenant_liveness_pk PRIMARY KEY
                                   CONSTRAINT tenant_liveness_tenant REFERENCES trakr.tenants (tenant_id),
    last_probed_at     timestamptz NOT NULL, -- asked, whatever came back
    last_answered_at   timestamptz,          -- Bitbucket said something of this installation
    last_alive_at      timestamptz,
    -- Answers that say gone since the last one that said alive.
    suspicions         integer     NOT NULL DEFAULT 0 CONSTRAINT tenant_liveness_counted CHECK (suspicions >= 0),
    first_suspected_at timestamptz,
    last_suspected_at  timestamptz,
    CONSTRAINT tenant_liveness_suspicion_has_times CHECK (
        (suspicions > 0) = (first_suspected_at IS NOT NULL) AND (suspicions > 0) = (last_suspected_at IS NOT NULL)
        AND (suspicions = 0 OR first_suspected_at <= last_suspected_at))
);
CREATE INDEX tenant_liveness_oldest ON trakr.tenant_liveness (last_probed_at);

GRANT SELECT, INSERT, UPDATE, DELETE ON trakr.tenant_liveness TO trakr_service;
