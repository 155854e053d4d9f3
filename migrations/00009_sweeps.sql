-- Sweeps that only look, findings with a life, and when each scheduled job ran.
--
-- For the operator: adds columns with constant defaults, which rewrites no table,
-- and creates empty ones. Older code runs on: it leaves the columns at their defaults.

-- +goose Up
-- A dry run looked and counted. It stands for no pass that was due.
ALTER TABLE trakr.sweep_runs ADD COLUMN dry_run boolean NOT NULL DEFAULT false;

-- How long one check took; NULL in rows written before this migration.
ALTER TABLE trakr.sweep_results ADD COLUMN duration_us bigint
    CONSTRAINT sweep_results_duration_known CHECK (duration_us >= 0);

ALTER TABLE trakr.findings
    ADD COLUMN severity        text NOT NULL DEFAULT 'high'
        CONSTRAINT findings_severity_known CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    ADD COLUMN acknowledged_at timestamptz,
    ADD COLUMN acknowledged_by text, -- opaque caller id
    ADD COLUMN reason_code     text,
    ADD COLUMN reason_ref      text, -- ticket
    ADD CONSTRAINT findings_acknowledged_whole CHECK (num_nulls(acknowledged_at, acknowledged_by, reason_code, reason_ref) IN (0, 4));

-- Every step of a finding's life. A row never changes but for its delivery.
CREATE TABLE trakr.finding_events (
    event_id        uuid        NOT NULL CONSTRAINT finding_events_pk PRIMARY KEY,
    finding_id      uuid        NOT NULL CONSTRAINT finding_events_finding REFERENCES trakr.findings (finding_id),
    transition      text        NOT NULL CONSTRAINT finding_events_transition_known CHECK (transition IN ('opened', 'acknowledged', 'resolved')),
    occurred_at     timestamptz NOT NULL,
    severity        text        NOT NULL,
    rows            bigint      NOT NULL,
    run_id          uuid        CONSTRAINT finding_events_run REFERENCES trakr.sweep_runs (run_id), -- the sweep that opened or resolved it
    actor_id        text,       -- who acknowledged it
    reason_code     text,
    reason_ref      text,
    -- The webhook. next_attempt_at is NULL once it was delivered, or given up.
    attempts        integer     NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    delivered_at    timestamptz
);
CREATE UNIQUE INDEX finding_events_once ON trakr.finding_events (finding_id, transition);
CREATE INDEX finding_events_waiting ON trakr.finding_events (next_attempt_at) WHERE next_attempt_at IS NOT NULL;

CREATE TABLE trakr.job_heartbeats (
    job               text        NOT NULL CONSTRAINT job_heartbeats_pk PRIMARY KEY,
    expected_since    timestamptz NOT NULL,
    interval_seconds  integer     NOT NULL CONSTRAINT job_heartbeats_interval_positive CHECK (interval_seconds > 0),
    jitter_seconds    integer     NOT NULL CONSTRAINT job_heartbeats_jitter_known CHECK (jitter_seconds >= 0),
    last_started_at   timestamptz,
    last_succeeded_at timestamptz,
    last_failed_at    timestamptz,
    failure           text -- closed-set word: why the last failure failed
);

GRANT SELECT, INSERT ON trakr.finding_events TO trakr_service;
GRANT UPDATE (attempts, next_attempt_at, delivered_at) ON trakr.finding_events TO trakr_service;
GRANT SELECT, INSERT, UPDATE ON trakr.job_heartbeats TO trakr_service;
GRANT SELECT ON trakr.finding_events, trakr.job_heartbeats TO trakr_reader;
