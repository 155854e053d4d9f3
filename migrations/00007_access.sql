-- Access: who may call the API, and which reports were issued.

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
    digest      text        NOT NULL, -- hex SHA-256 of the bytes that were issued
    issued_to   text        NOT NULL, -- opaque caller id
    issued_at   timestamptz NOT NULL
);
CREATE INDEX reports_issued_by_time ON trakr.reports_issued (issued_at);

GRANT SELECT, INSERT ON trakr.api_tokens, trakr.reports_issued TO trakr_service;
GRANT UPDATE (revoked_at) ON trakr.api_tokens TO trakr_service;
GRANT SELECT ON trakr.reports_issued TO trakr_reader;
