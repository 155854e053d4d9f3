-- The outbox for the end service: a row for each delivery, which names no customer and is
-- kept, and apart from it the encrypted payload, which is deleted when the delivery is
-- acknowledged or its tenant is erased.

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
    first_tried_at  timestamptz,          -- of the first attempt: while nothing runs, no time counts against the recipient
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

-- delivery_goes_on lets a delivery change only towards its end, which is final, and be
-- acknowledged only together with the audit event of it.
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

-- judge_payload_seal is judge_seal for payloads: they are encrypted with the active key, so
-- that a retired key can be destroyed as soon as no payload needs it.
-- +goose StatementBegin
CREATE FUNCTION trakr.judge_payload_seal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    active bigint;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('trakr/field-keys', 0));
    SELECT k.key_id INTO active FROM trakr.field_keys AS k WHERE k.state = 'active';
    IF active IS NOT NULL AND substring(NEW.sealed FROM 1 FOR 5) <> decode('01' || lpad(to_hex(active), 8, '0'), 'hex') THEN
        RAISE EXCEPTION 'a payload is sealed with a key that is not the active one' USING ERRCODE = 'TK423';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER judge_payload_seal BEFORE INSERT OR UPDATE ON trakr.outbox_payloads FOR EACH ROW EXECUTE FUNCTION trakr.judge_payload_seal();
ALTER TABLE trakr.outbox_payloads ENABLE ALWAYS TRIGGER judge_payload_seal;

GRANT SELECT, INSERT ON trakr.outbox TO trakr_service;
GRANT UPDATE (state, attempts, first_tried_at, last_tried_at, next_attempt_at, last_outcome, dead_at, closed_at) ON trakr.outbox TO trakr_service;
GRANT INSERT, DELETE, SELECT (delivery_id, tenant_id) ON trakr.outbox_payloads TO trakr_service;
GRANT SELECT ON trakr.outbox TO trakr_reader;
GRANT SELECT ON trakr.outbox, trakr.outbox_payloads TO trakr_door;
GRANT SELECT ON trakr.outbox TO trakr_sweep;
-- The sweep counts payloads and needs to read none.
GRANT SELECT (delivery_id, tenant_id) ON trakr.outbox_payloads TO trakr_sweep;
