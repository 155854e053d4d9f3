-- What sweeps found, table by table, zero included, and when they should run.
--
-- For the operator: creates empty tables only; takes no lock on live data.

-- +goose Up
CREATE TABLE trakr.sweep_runs (
    run_id      uuid        NOT NULL CONSTRAINT sweep_runs_pk PRIMARY KEY,
    kind        text        NOT NULL,
    trigger     text        NOT NULL CONSTRAINT sweep_runs_trigger_known CHECK (trigger IN ('schedule', 'command', 'api')),
    started_at  timestamptz NOT NULL,
    finished_at timestamptz,
    snapshot_at timestamptz, -- the database's clock when the snapshot that was judged was taken
    -- blind: something could not be judged, so nothing is claimed.
    result      text        CONSTRAINT sweep_runs_result_known CHECK (result IN ('clean', 'findings', 'blind', 'failed')),
    CONSTRAINT sweep_runs_finished_has_result CHECK ((finished_at IS NULL) = (result IS NULL))
);
CREATE INDEX sweep_runs_by_kind ON trakr.sweep_runs (kind, started_at DESC);

CREATE TABLE trakr.sweep_results (
    run_id           uuid        NOT NULL CONSTRAINT sweep_results_run REFERENCES trakr.sweep_runs (run_id),
    store            text        NOT NULL,
    table_name       text        NOT NULL,
    column_name      text        NOT NULL,
    -- checked: rows was counted. retained: declared to outlive the tenant, rows
    -- are counted and expected. unjudged: the column's type cannot be compared.
    disposition      text        NOT NULL CONSTRAINT sweep_results_disposition_known CHECK (disposition IN ('checked', 'retained', 'unjudged')),
    ground           text,
    predicate_digest text        NOT NULL, -- hex SHA-256 of the SQL that was run
    rows             bigint      NOT NULL CONSTRAINT sweep_results_rows_counted CHECK (rows >= 0),
    checked_at       timestamptz NOT NULL,
    CONSTRAINT sweep_results_pk PRIMARY KEY (run_id, store, table_name, column_name)
);

CREATE TABLE trakr.findings (
    finding_id    uuid        NOT NULL CONSTRAINT findings_pk PRIMARY KEY,
    kind          text        NOT NULL,
    store         text        NOT NULL,
    table_name    text        NOT NULL,
    column_name   text        NOT NULL,
    rows          bigint      NOT NULL,
    opened_at     timestamptz NOT NULL,
    last_seen_at  timestamptz NOT NULL,
    resolved_at   timestamptz,
    opened_by_run uuid        NOT NULL CONSTRAINT findings_run REFERENCES trakr.sweep_runs (run_id)
);
CREATE UNIQUE INDEX findings_open_once ON trakr.findings (kind, store, table_name, column_name) WHERE resolved_at IS NULL;

-- When each scheduled job was first expected, so that a job that never ran is
-- overdue too.
CREATE TABLE trakr.schedule_state (
    job               text        NOT NULL CONSTRAINT schedule_state_pk PRIMARY KEY,
    first_expected_at timestamptz NOT NULL
);
