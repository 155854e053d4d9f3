-- What the end service is told of tenants: a row for each delivery, which names no
-- customer and stays, and apart from it the sealed payload, which goes when it is
-- acknowledged or its tenant is erased.
--
-- For the operator: creates empty tables and functions only; takes no lock on live data.

-- +goose Up
CREATE TABLE trakr.outbox (
    delivery_id     uuid        NOT NULL CONSTRAINT outbox_pk PRIMARY KEY, -- random; the event's id at every attempt
    tenant_id       uuid        NOT NULL,
    seq             bigint      NOT NULL CONSTRAINT outbox_seq_from_one CHECK (seq > 0), -- of the tenant's deliveries
    kind            text        NOT NULL CONSTRAINT outbox_kind_known CHECK (kind IN ('installed', 'changed', 'erased')),
    state           text        NOT NULL CONSTRAINT outbox_state_known CHECK (state IN ('waiting', 'dead', 'acknowledged', 'superseded')),
    field_names     text[]      NOT NULL, -- which guarded values its payload discloses
    erasure_id      uuid,                 -- of which this is the notice
    told            boolean     NOT NULL, -- a notice: something was sent about the tenant before
    enqueued_at     timestamptz NOT NULL,
    attempts        integer     NOT NULL DEFAULT 0 CONSTRAINT outbox_attempts_counted CHECK (attempts >= 0), -- in which bytes may have left
    first_tried_at  timestamptz,          -- since then it is tried; not before, if nothing runs
    last_tried_at   timestamptz,
    next_attempt_at timestamptz,
    last_outcome    text        CONSTRAINT outbox_outcome_form CHECK (last_outcome ~ '^[a-z0-9 -]{1,40}$'),
    dead_at         timestamptz,
    closed_at       timestamptz,
    CONSTRAINT outbox_in_order UNIQUE (tenant_id, seq),
    CONSTRAINT outbox_one_notice UNIQUE (erasure_id),
    CONSTRAINT outbox_notice_holds_nothing CHECK ((kind = 'erased') = (erasure_id IS NOT NULL) AND (kind <> 'erased' OR field_names = '{}')),
    CONSTRAINT outbox_waits_until CHECK ((state = 'waiting') = (next_attempt_at IS NOT NULL)),
    CONSTRAINT outbox_closed CHECK ((state IN ('acknowledged', 'superseded')) = (closed_at IS NOT NULL)),
    CONSTRAINT outbox_dead CHECK (state <> 'dead' OR dead_at IS NOT NULL)
);
CREATE INDEX outbox_waiting ON trakr.outbox (next_attempt_at) WHERE state = 'waiting';
CREATE INDEX outbox_left ON trakr.outbox (tenant_id, seq) WHERE state IN ('waiting', 'dead');

CREATE TABLE trakr.outbox_payloads (
    delivery_id uuid  NOT NULL CONSTRAINT outbox_payloads_pk PRIMARY KEY CONSTRAINT outbox_payloads_of REFERENCES trakr.outbox (delivery_id),
    tenant_id   uuid  NOT NULL,
    sealed      bytea NOT NULL CONSTRAINT outbox_payloads_sealed CHECK (octet_length(sealed) > 28)
);
CREATE INDEX outbox_payloads_by_tenant ON trakr.outbox_payloads (tenant_id);

-- delivery_goes_on lets a delivery change only on its way to its end, which is final,
-- and be acknowledged only together with the audit event that says so.
-- +goose StatementBegin
CREATE FUNCTION trakr.delivery_goes_on() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    way CONSTANT text[] := ARRAY['state', 'attempts', 'first_tried_at', 'last_tried_at', 'next_attempt_at', 'last_outcome', 'dead_at', 'closed_at'];
BEGIN
    IF to_jsonb(OLD) - way IS DISTINCT FROM to_jsonb(NEW) - way OR OLD.closed_at IS NOT NULL OR NEW.attempts < OLD.attempts THEN
        RAISE EXCEPTION 'a delivery goes on to its end, and is never another one' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NEW.state = 'acknowledged' AND (NEW.attempts = 0 OR NOT EXISTS (SELECT FROM trakr.audit_events AS e
            WHERE e.recorded_at = transaction_timestamp() AND e.epoch = (SELECT max(n.epoch) FROM trakr.log_epochs AS n)
                AND e.xid = pg_current_xact_id() AND e.action = 'delivery.acknowledge' AND e.outcome = 'success'
                AND e.tenant_id = NEW.tenant_id AND e.correlation_id = coalesce(NEW.erasure_id, NEW.delivery_id)::text)) THEN
        RAISE EXCEPTION 'a delivery is acknowledged only together with its audit event' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER delivery_goes_on BEFORE UPDATE ON trakr.outbox FOR EACH ROW EXECUTE FUNCTION trakr.delivery_goes_on();
ALTER TABLE trakr.outbox ENABLE ALWAYS TRIGGER delivery_goes_on;
REVOKE ALL ON FUNCTION trakr.delivery_goes_on() FROM PUBLIC;

-- disclose records that a delivery is about to be sent and returns its sealed payload,
-- NULL for a notice, which has none. There is no other way to a payload. The record
-- must be of this delivery, say to whom it goes, and name every field it discloses.
-- +goose StatementBegin
CREATE FUNCTION door.disclose(p_record bytea) RETURNS TABLE (sealed bytea)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 1 AS $$
DECLARE
    x record;
    o record;
BEGIN
    -- With synchronous_commit off a crash could lose the event of a value that has
    -- already left.
    IF current_setting('synchronous_commit') = 'off' THEN
        RAISE EXCEPTION 'door.disclose refuses to run with synchronous_commit off' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    SELECT r.* INTO x FROM jsonb_to_record(convert_from(p_record, 'UTF8')::jsonb) AS r (tenant_id uuid, action text, outcome text,
        recipient text, request_id uuid, correlation_id text, field_names text[]);
    SELECT d.* INTO o FROM trakr.outbox AS d WHERE d.delivery_id = x.request_id AND d.tenant_id = x.tenant_id AND d.state = 'waiting' AND d.attempts > 0;
    IF NOT FOUND OR (x.action = 'delivery.send' AND x.outcome = 'success' AND x.recipient <> '' AND x.correlation_id = coalesce(o.erasure_id, o.delivery_id)::text
            AND coalesce(x.field_names, '{}') @> o.field_names) IS NOT TRUE THEN
        RAISE EXCEPTION 'door.disclose takes the record of a waiting delivery that is about to be sent' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF o.kind <> 'erased' AND NOT EXISTS (SELECT FROM trakr.tenants AS t WHERE t.tenant_id = o.tenant_id AND t.state = 'live') THEN
        RAISE EXCEPTION 'the tenant is on its way out' USING ERRCODE = 'serialization_failure';
    END IF;
    PERFORM door.append(ARRAY[p_record]);
    RETURN QUERY SELECT p.sealed FROM (SELECT o.delivery_id AS id) AS q LEFT JOIN trakr.outbox_payloads AS p ON p.delivery_id = q.id;
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION door.disclose(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION door.disclose(bytea) TO trakr_service;
GRANT SELECT ON trakr.outbox, trakr.outbox_payloads TO trakr_door;
GRANT CREATE ON SCHEMA door TO trakr_door;
ALTER FUNCTION door.disclose(bytea) OWNER TO trakr_door;
REVOKE CREATE ON SCHEMA door FROM trakr_door;

GRANT SELECT, INSERT ON trakr.outbox TO trakr_service;
GRANT UPDATE (state, attempts, first_tried_at, last_tried_at, next_attempt_at, last_outcome, dead_at, closed_at) ON trakr.outbox TO trakr_service;
GRANT INSERT, DELETE, SELECT (delivery_id, tenant_id) ON trakr.outbox_payloads TO trakr_service;
GRANT SELECT ON trakr.outbox TO trakr_reader;
-- The sweep counts payloads and needs no look into one.
REVOKE SELECT ON trakr.outbox_payloads FROM trakr_sweep;
GRANT SELECT (delivery_id, tenant_id) ON trakr.outbox_payloads TO trakr_sweep;

-- retention_rule as in migration 16, and: a delivery goes after its end; one that is
-- not over stays.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION trakr.retention_rule(p_table text, OUT due text, OUT key text, OUT key_type text, OUT takes text[], OUT at_least interval)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.due, r.key, r.key_type, r.takes, r.at_least
    FROM (VALUES
        ('trakr.erasures', 'x.erased_at < $1 AND x.verified_at IS NOT NULL AND (x.uncertified OR EXISTS (SELECT FROM trakr.certificates AS y WHERE y.erasure_id = x.erasure_id))',
            'erasure_id', 'uuid', ARRAY['trakr.erasure_counts', 'trakr.certificates'], interval '365 days'),
        ('trakr.certificates', 'x.issued_at < $1 AND x.erasure_id IS NULL', 'certificate_id', 'uuid', ARRAY[]::text[], interval '365 days'),
        ('trakr.tenants', 'x.state = ''erased'' AND x.erased_at < $1', 'tenant_id', 'uuid', ARRAY[]::text[], interval '365 days'),
        ('trakr.findings', 'x.resolved_at < $1', 'finding_id', 'uuid', ARRAY['trakr.finding_events'], interval '365 days'),
        ('trakr.sweep_runs', 'x.started_at < $1 AND x.run_id NOT IN (SELECT DISTINCT ON (r.kind, r.trigger, r.result) r.run_id
            FROM trakr.sweep_runs AS r ORDER BY r.kind, r.trigger, r.result, r.started_at DESC, r.run_id DESC)', 'run_id', 'uuid', ARRAY['trakr.sweep_results'], interval '365 days'),
        ('trakr.reports_issued', 'x.issued_at < $1', 'report_id', 'uuid', ARRAY[]::text[], interval '365 days'),
        ('trakr.verified_log', 'x.verified_at < $1 AND x.id NOT IN (SELECT max(v.id) FROM trakr.verified_log AS v GROUP BY v.whole)', 'id', 'bigint', ARRAY[]::text[], interval '365 days'),
        ('trakr.api_tokens', 'x.expires_at < $1', 'id', 'text', ARRAY[]::text[], interval '30 days'),
        ('trakr.deletion_requests', 'trakr.request_over(x.request_id, $1)', 'request_id', 'uuid', ARRAY['trakr.deletion_request_events'], interval '365 days'),
        ('trakr.outbox', 'x.closed_at < $1', 'delivery_id', 'uuid', ARRAY[]::text[], interval '365 days'),
        ('trakr.legal_holds', 'x.placed_at < $1 AND least(x.until, x.released_at) < now()', 'hold_id', 'uuid', ARRAY[]::text[], interval '365 days')
    ) AS r (name, due, key, key_type, takes, at_least)
    WHERE r.name = p_table
$$;
-- +goose StatementEnd
