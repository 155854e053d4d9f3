-- Who may call the API, and which reports left the house.
--
-- For the operator: creates empty tables only; takes no lock on live data.

-- +goose Up
CREATE TABLE trakr.api_tokens (
    id          text        NOT NULL CONSTRAINT api_tokens_pk PRIMARY KEY,
    secret_hash bytea       NOT NULL CONSTRAINT api_tokens_hash_once UNIQUE
                            CONSTRAINT api_tokens_hash_form CHECK (octet_length(secret_hash) = 32),
    role        text        NOT NULL CONSTRAINT api_tokens_role_known CHECK (role IN ('service', 'support', 'reviewer', 'operator')),
    label       text        NOT NULL,
    created_by  text        NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    revoked_at  timestamptz
);

CREATE TABLE trakr.reports_issued (
    report_id   uuid        NOT NULL CONSTRAINT reports_issued_pk PRIMARY KEY,
    kind        text        NOT NULL,
    format      text        NOT NULL,
    as_of       timestamptz NOT NULL,
    policy_hash text        NOT NULL,
    digest      text        NOT NULL, -- hex SHA-256 of the bytes handed out
    issued_to   text        NOT NULL, -- opaque caller id
    issued_at   timestamptz NOT NULL
);
CREATE INDEX reports_issued_by_time ON trakr.reports_issued (issued_at);
