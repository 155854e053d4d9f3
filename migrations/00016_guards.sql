-- What the states and the audit promise holds in SQL too: a request is completed by a
-- certificate alone, a legal hold keeps values from every DELETE and ends only with
-- its event, and an erasure that is not finished is not retired.
--
-- For the operator: replaces functions and a policy, and adds a trigger to
-- trakr.legal_holds; takes short exclusive locks, on trakr.tenant_fields too.

-- +goose Up
-- judge_request as in migration 11, and: nothing is verified before the tenant's own
-- erasure has deleted, nothing completed without the certificate of that erasure (or,
-- where nothing was held, of this request); times are not invented; and two people
-- decide, whether or not the table's check still says so.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION trakr.judge_request() RETURNS trigger
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

-- Values go only with an erasure that the ledger has, and not while a hold keeps them.
ALTER POLICY recorded_erase ON trakr.tenant_fields USING (
    tenant_id IN (
        SELECT e.tenant_id FROM trakr.audit_events AS e
        WHERE e.recorded_at = transaction_timestamp() AND e.epoch = (SELECT max(n.epoch) FROM trakr.log_epochs AS n)
            AND e.xid = pg_current_xact_id() AND e.outcome = 'success'
            AND e.action = 'tenant.erase')
    AND tenant_id IN (SELECT x.tenant_id FROM trakr.erasures AS x WHERE x.noted_at IS NOT NULL AND x.erased_at IS NOT NULL)
    AND tenant_id NOT IN (SELECT h.tenant_id FROM trakr.legal_holds AS h WHERE h.released_at IS NULL AND h.until > now()));

-- judge_hold lets a hold be placed on what is there to be held, and be released once,
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
REVOKE ALL ON FUNCTION trakr.judge_hold() FROM PUBLIC;

-- retention_rule as in migration 14, but that an erasure goes only when it was
-- verified, and certified unless no certificate can rest on it.
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
        ('trakr.legal_holds', 'x.placed_at < $1 AND least(x.until, x.released_at) < now()', 'hold_id', 'uuid', ARRAY[]::text[], interval '365 days')
    ) AS r (name, due, key, key_type, takes, at_least)
    WHERE r.name = p_table
$$;
-- +goose StatementEnd
