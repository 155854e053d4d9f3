-- Customers' deletion requests, and legal holds.

-- +goose Up
-- While a hold is active (not released, until in the future), no erasure deletes anything
-- of its tenant. Another hold extends one; a row is never taken back.
CREATE TABLE trakr.legal_holds (
    hold_id     uuid        NOT NULL CONSTRAINT legal_holds_pk PRIMARY KEY,
    tenant_id   uuid        NOT NULL CONSTRAINT legal_holds_tenant REFERENCES trakr.tenants (tenant_id),
    ground      text        NOT NULL CONSTRAINT legal_holds_ground_known
                            CHECK (ground IN ('legal_obligation', 'legal_claim', 'authority_order', 'restriction')),
    reason_ref  text        NOT NULL CONSTRAINT legal_holds_ref_form CHECK (reason_ref ~ '^[A-Za-z0-9][A-Za-z0-9._/#:-]{0,63}$'),
    placed_by   text        NOT NULL, -- opaque caller id
    placed_at   timestamptz NOT NULL,
    until       timestamptz NOT NULL,
    released_at timestamptz,
    released_by text,
    CONSTRAINT legal_holds_end CHECK (until > placed_at AND until <= placed_at + interval '366 days'),
    CONSTRAINT legal_holds_released_by_somebody CHECK ((released_at IS NULL) = (released_by IS NULL))
);
CREATE INDEX legal_holds_by_tenant ON trakr.legal_holds (tenant_id, until);

-- judge_hold lets a hold be placed on a tenant that is not erased, and be released once,
-- each only with its audit event in the same transaction.
-- +goose StatementBegin
CREATE FUNCTION trakr.judge_hold() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    release CONSTANT text[] := ARRAY['released_at', 'released_by'];
    held    text;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.released_at IS NOT NULL THEN
            RAISE EXCEPTION 'a legal hold is placed, and then released once' USING ERRCODE = 'insufficient_privilege';
        END IF;
        -- The registry's row is what everyone locks who changes a tenant's fate.
        SELECT t.state INTO held FROM trakr.tenants AS t WHERE t.tenant_id = NEW.tenant_id FOR UPDATE;
        IF held = 'erased' THEN
            RAISE EXCEPTION 'this tenant is erased: there is nothing left to hold' USING ERRCODE = 'insufficient_privilege';
        END IF;
    ELSIF OLD.released_at IS NOT NULL OR NEW.released_at IS NULL OR to_jsonb(OLD) - release IS DISTINCT FROM to_jsonb(NEW) - release THEN
        RAISE EXCEPTION 'a legal hold is placed, and then released once' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT EXISTS (SELECT FROM trakr.audit_events AS e
            WHERE e.recorded_at = transaction_timestamp() AND e.epoch = (SELECT max(n.epoch) FROM trakr.log_epochs AS n)
                AND e.xid = pg_current_xact_id() AND e.outcome = 'success' AND e.correlation_id = NEW.hold_id::text AND e.tenant_id = NEW.tenant_id
                AND e.action = CASE TG_OP WHEN 'INSERT' THEN 'hold.place' ELSE 'hold.release' END
                AND e.actor_id = CASE TG_OP WHEN 'INSERT' THEN NEW.placed_by ELSE NEW.released_by END) THEN
        RAISE EXCEPTION 'a legal hold is placed and released only together with its audit event' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER hold_changes AFTER INSERT OR UPDATE ON trakr.legal_holds FOR EACH ROW EXECUTE FUNCTION trakr.judge_hold();
ALTER TABLE trakr.legal_holds ENABLE ALWAYS TRIGGER hold_changes;

-- A customer's request that its data be deleted, and its progress. Neither the client key
-- nor the workspace's uuid is stored here: only the tenant's id or, when no tenant was
-- known, the keyed digests of what was searched for.
CREATE TABLE trakr.deletion_requests (
    request_id               uuid        NOT NULL CONSTRAINT deletion_requests_pk PRIMARY KEY,
    state                    text        NOT NULL CONSTRAINT deletion_requests_state_known CHECK (state IN (
                                'received', 'identity_check', 'awaiting_approval', 'approved', 'in_progress', 'verifying', 'awaiting_recipient', 'completed',
                                'completed_nothing_held', 'partially_completed', 'denied', 'cancelled', 'failed', 'on_hold', 'duplicate')),
    tenant_id                uuid        CONSTRAINT deletion_requests_tenant REFERENCES trakr.tenants (tenant_id),
    subject_digests          text[],               -- hex, one for each version of the key, newest first
    ticket                   text        NOT NULL CONSTRAINT deletion_requests_ticket_form CHECK (ticket ~ '^[A-Za-z0-9][A-Za-z0-9._/#:-]{0,63}$'),
    requested_by             text        NOT NULL, -- opaque caller ids, these three
    approved_by              text,
    moved_by                 text        NOT NULL,
    submitted_time           timestamptz NOT NULL, -- by the customer: the legal period begins here (GDPR Art. 12(3))
    received_time            timestamptz NOT NULL,
    expected_completion_time timestamptz NOT NULL,
    moved_at                 timestamptz NOT NULL,
    moved_ref                text,                 -- ticket of the last transition
    approved_at              timestamptz,
    not_before               timestamptz,          -- end of the cooling-off
    ground                   text        CONSTRAINT deletion_requests_ground_known
                                         CHECK (ground IN ('identity_not_proven', 'not_entitled', 'manifestly_unfounded', 'legal_obligation', 'legal_claim')),
    held_from                text,                 -- the state to which the end of a hold returns
    existing_request_id      uuid        CONSTRAINT deletion_requests_existing REFERENCES trakr.deletion_requests (request_id),
    attempts                 integer     NOT NULL DEFAULT 0,
    retry_at                 timestamptz,
    erasure_id               uuid,
    deleted_live_at          timestamptz,
    verified_at              timestamptz,
    backups_clear_after      timestamptz,
    certificate_id           uuid,
    CONSTRAINT deletion_requests_of_something CHECK ((tenant_id IS NULL) <> (subject_digests IS NULL)),
    CONSTRAINT deletion_requests_two_people CHECK (approved_by <> requested_by),
    CONSTRAINT deletion_requests_approval_whole CHECK ((approved_by IS NULL) = (approved_at IS NULL) AND (approved_by IS NULL) = (not_before IS NULL) AND not_before >= approved_at),
    CONSTRAINT deletion_requests_denied_on_ground CHECK ((state = 'denied') = (ground IS NOT NULL)),
    CONSTRAINT deletion_requests_held_from_somewhere CHECK ((state = 'on_hold') = (held_from IS NOT NULL)),
    CONSTRAINT deletion_requests_duplicate_of_one CHECK ((state = 'duplicate') = (existing_request_id IS NOT NULL)),
    CONSTRAINT deletion_requests_completed_with_proof CHECK (state NOT IN ('completed', 'completed_nothing_held') OR certificate_id IS NOT NULL)
);
CREATE UNIQUE INDEX deletion_requests_one_open ON trakr.deletion_requests (tenant_id)
    WHERE state NOT IN ('completed', 'completed_nothing_held', 'denied', 'cancelled', 'duplicate');
CREATE INDEX deletion_requests_open ON trakr.deletion_requests (expected_completion_time)
    WHERE state NOT IN ('completed', 'completed_nothing_held', 'denied', 'cancelled', 'duplicate');
CREATE INDEX deletion_requests_by_time ON trakr.deletion_requests (received_time DESC, request_id);
CREATE INDEX deletion_requests_of_tenant ON trakr.deletion_requests (tenant_id);

-- The history of each request, which judge_request writes.
CREATE TABLE trakr.deletion_request_events (
    request_id uuid        NOT NULL CONSTRAINT deletion_request_events_of REFERENCES trakr.deletion_requests (request_id),
    seq        integer     NOT NULL,
    from_state text,       -- NULL when it was received
    to_state   text        NOT NULL,
    moved_by   text        NOT NULL,
    moved_ref  text,
    moved_at   timestamptz NOT NULL,
    CONSTRAINT deletion_request_events_pk PRIMARY KEY (request_id, seq)
);

-- judge_request allows only the transitions that the states allow, each only with its audit
-- event in the same transaction, and writes the history: no role of the service can skip an
-- approval or move a request without a trace. Nothing is verified before the tenant's own
-- erasure has deleted, and nothing is completed without the certificate of that erasure
-- (or, where nothing was held, of this request). Times are not invented, and two people
-- decide, even without the table's check.
-- +goose StatementBegin
CREATE FUNCTION trakr.judge_request() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- to: the states from which it can be reached; '' is a new request
    moves  CONSTANT jsonb := '{
        "received": [""], "duplicate": [""],
        "identity_check": ["received", "on_hold"],
        "awaiting_approval": ["identity_check", "on_hold"],
        "approved": ["awaiting_approval", "on_hold"],
        "in_progress": ["received", "identity_check", "awaiting_approval", "approved", "failed", "on_hold"],
        "verifying": ["in_progress", "partially_completed"],
        "awaiting_recipient": ["verifying"],
        "completed": ["verifying", "awaiting_recipient"],
        "completed_nothing_held": ["received"],
        "partially_completed": ["verifying", "awaiting_recipient"],
        "failed": ["in_progress"],
        "on_hold": ["identity_check", "awaiting_approval", "approved", "in_progress", "failed"],
        "denied": ["identity_check", "awaiting_approval", "on_hold"],
        "cancelled": ["received", "identity_check", "awaiting_approval", "approved", "on_hold"]}';
    fixed  CONSTANT text[] := ARRAY['request_id', 'tenant_id', 'subject_digests', 'ticket', 'requested_by', 'submitted_time', 'received_time',
        'expected_completion_time', 'existing_request_id'];
    before text := '';
    was    jsonb;
    is_now jsonb := to_jsonb(NEW);
    begun  boolean := EXISTS (SELECT FROM trakr.erasures AS x WHERE x.tenant_id = NEW.tenant_id); -- by any trigger: deletes what was asked for
    ok     boolean;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        before := OLD.state;
        was := to_jsonb(OLD);
    END IF;
    ok := moves -> NEW.state ? before;
    IF before = '' THEN
        ok := ok AND NEW.approved_by IS NULL AND NEW.erasure_id IS NULL AND NEW.certificate_id IS NULL AND NEW.moved_by = NEW.requested_by;
    ELSE
        ok := ok AND NOT EXISTS (SELECT FROM unnest(fixed) AS c WHERE was -> c IS DISTINCT FROM is_now -> c);
        -- An approval is given once, by the step that approves, and by a second person.
        IF (OLD.approved_by, OLD.approved_at, OLD.not_before) IS DISTINCT FROM (NEW.approved_by, NEW.approved_at, NEW.not_before) THEN
            ok := ok AND OLD.approved_by IS NULL AND before = 'awaiting_approval' AND NEW.state = 'approved' AND NEW.approved_by = NEW.moved_by
                AND NEW.approved_by <> NEW.requested_by AND NEW.approved_at = NEW.moved_at AND NEW.not_before >= NEW.approved_at;
        END IF;
        -- An erasure is the tenant's own, and stays the one it is.
        IF OLD.erasure_id IS DISTINCT FROM NEW.erasure_id THEN
            ok := ok AND OLD.erasure_id IS NULL
                AND EXISTS (SELECT FROM trakr.erasures AS x WHERE x.erasure_id = NEW.erasure_id AND x.tenant_id = NEW.tenant_id);
        END IF;
        IF NEW.state = 'approved' THEN
            ok := ok AND NEW.approved_by IS NOT NULL;
        ELSIF NEW.state = 'in_progress' THEN
            ok := ok AND (begun OR (NEW.approved_by <> NEW.requested_by AND NEW.not_before >= NEW.approved_at AND NEW.not_before <= NEW.moved_at));
        ELSIF NEW.state IN ('verifying', 'awaiting_recipient', 'partially_completed', 'completed') THEN
            ok := ok AND EXISTS (SELECT FROM trakr.erasures AS x
                WHERE x.erasure_id = NEW.erasure_id AND x.tenant_id = NEW.tenant_id AND x.noted_at IS NOT NULL AND x.erased_at IS NOT NULL);
        ELSIF NEW.state = 'completed_nothing_held' THEN
            ok := ok AND NEW.tenant_id IS NULL
                AND EXISTS (SELECT FROM trakr.certificates AS c WHERE c.certificate_id = NEW.certificate_id AND c.request_id = NEW.request_id);
        ELSIF NEW.state = 'on_hold' THEN
            ok := ok AND NEW.held_from = CASE before WHEN 'failed' THEN 'in_progress' ELSE before END;
        END IF;
        IF NEW.state = 'completed' THEN
            ok := ok AND EXISTS (SELECT FROM trakr.certificates AS c WHERE c.certificate_id = NEW.certificate_id AND c.erasure_id = NEW.erasure_id);
        END IF;
        IF before = 'on_hold' THEN
            ok := ok AND CASE NEW.state WHEN 'cancelled' THEN OLD.held_from <> 'in_progress'
                WHEN 'denied' THEN OLD.held_from IN ('identity_check', 'awaiting_approval')
                WHEN 'in_progress' THEN begun OR OLD.held_from = 'in_progress'
                ELSE NEW.state = OLD.held_from END;
        END IF;
    END IF;
    -- A cooling-off is over when it is over. Clocks differ, by less than a minute.
    IF NEW.moved_at > clock_timestamp() + interval '1 minute' THEN
        RAISE EXCEPTION 'a deletion request moves now, and this one at a time to come by the database''s clock' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF ok IS NOT TRUE THEN
        RAISE EXCEPTION 'a deletion request may not move like this' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT EXISTS (SELECT FROM trakr.audit_events AS e
            WHERE e.recorded_at = transaction_timestamp() AND e.epoch = (SELECT max(n.epoch) FROM trakr.log_epochs AS n)
                AND e.xid = pg_current_xact_id() AND e.action = 'request.move' AND e.correlation_id = NEW.request_id::text
                AND e.status_detail = NEW.state AND e.actor_id = NEW.moved_by) THEN
        RAISE EXCEPTION 'a deletion request moves only together with its audit event' USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO trakr.deletion_request_events (request_id, seq, from_state, to_state, moved_by, moved_ref, moved_at)
    SELECT NEW.request_id, count(*) + 1, NULLIF(before, ''), NEW.state, NEW.moved_by, NEW.moved_ref, NEW.moved_at
    FROM trakr.deletion_request_events AS e WHERE e.request_id = NEW.request_id;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER request_moves AFTER INSERT OR UPDATE ON trakr.deletion_requests FOR EACH ROW EXECUTE FUNCTION trakr.judge_request();
ALTER TABLE trakr.deletion_requests ENABLE ALWAYS TRIGGER request_moves;

-- request_over returns whether a request ended and was received before a moment. A
-- duplicate ends with the request that it repeats, which it would keep otherwise.
-- +goose StatementBegin
CREATE FUNCTION trakr.request_over(p_request uuid, p_before timestamptz) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM trakr.deletion_requests AS r JOIN trakr.deletion_requests AS o ON o.request_id = coalesce(r.existing_request_id, r.request_id)
        WHERE r.request_id = p_request AND o.received_time < p_before AND o.state IN ('completed', 'completed_nothing_held', 'denied', 'cancelled'))
$$;
-- +goose StatementEnd

-- history_stays refuses every change of a request's history but its end: the owner, as whom
-- door.retire acts, may remove it with a request that ended a year ago. No other role,
-- superusers included, removes a row.
-- +goose StatementBegin
CREATE FUNCTION trakr.history_stays() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_user = 'trakr_owner' AND trakr.request_over(OLD.request_id, now() - interval '365 days') THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'append-only: % on % is refused', TG_OP, TG_RELID::regclass
        USING ERRCODE = 'insufficient_privilege';
END $$;
-- +goose StatementEnd
CREATE TRIGGER rows_stay BEFORE UPDATE OR DELETE ON trakr.deletion_request_events FOR EACH ROW EXECUTE FUNCTION trakr.history_stays();
SELECT trakr.guard_growth('trakr.deletion_request_events', false);

GRANT SELECT, INSERT ON trakr.legal_holds, trakr.deletion_requests TO trakr_service;
GRANT UPDATE (released_at, released_by) ON trakr.legal_holds TO trakr_service;
GRANT UPDATE (state, approved_by, moved_by, moved_at, moved_ref, approved_at, not_before, ground, held_from, attempts, retry_at,
    erasure_id, deleted_live_at, verified_at, backups_clear_after, certificate_id) ON trakr.deletion_requests TO trakr_service;
GRANT SELECT ON trakr.deletion_request_events TO trakr_service;

GRANT SELECT ON trakr.legal_holds, trakr.deletion_requests, trakr.deletion_request_events TO trakr_reader, trakr_sweep;
