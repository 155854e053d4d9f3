-- The append-only audit and the two functions through which it is written.
--
-- For the operator: creates an empty table and functions; takes no lock on
-- live data.

-- +goose Up
-- record holds the exact canonical bytes (RFC 8785) of the event. The other
-- event columns are derived from it by door.append and exist for querying;
-- recorded_at and xid are the database's own word on when it was committed.
CREATE TABLE trakr.audit_events (
    id             bigint      GENERATED ALWAYS AS IDENTITY CONSTRAINT audit_events_pk PRIMARY KEY,
    recorded_at    timestamptz NOT NULL DEFAULT transaction_timestamp(),
    xid            xid8        NOT NULL DEFAULT pg_current_xact_id(),
    event_id       uuid        NOT NULL CONSTRAINT audit_events_id_once UNIQUE,
    occurred_at    timestamptz NOT NULL,
    tenant_id      uuid,
    actor_type     text        NOT NULL CONSTRAINT audit_events_actor_known
                               CHECK (actor_type IN ('bitbucket', 'forge', 'service', 'staff', 'scheduler', 'operator', 'anonymous')),
    actor_id       text        NOT NULL,
    action         text        NOT NULL CONSTRAINT audit_events_action_form CHECK (action ~ '^[a-z]+(_[a-z]+)*(\.[a-z]+(_[a-z]+)*)+$'),
    outcome        text        NOT NULL CONSTRAINT audit_events_outcome_known CHECK (outcome IN ('success', 'denied', 'failure')),
    status_detail  text,
    reason_code    text        NOT NULL,
    reason_ref     text,
    field_names    text[],
    dropped_names  text[],
    subject_digest text,
    recipient      text,
    request_id     text,
    trace_id       text,
    correlation_id text,
    schema_version integer     NOT NULL,
    record         bytea       NOT NULL
);
CREATE INDEX audit_events_by_tenant ON trakr.audit_events (tenant_id, id);
CREATE INDEX audit_events_by_time ON trakr.audit_events (recorded_at);
CREATE INDEX audit_events_by_xid ON trakr.audit_events (xid, tenant_id);

-- +goose StatementBegin
CREATE FUNCTION trakr.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'append-only: % on % is refused', TG_OP, TG_RELID::regclass
        USING ERRCODE = 'insufficient_privilege';
END $$;
-- +goose StatementEnd

CREATE TRIGGER audit_events_rows_stay BEFORE UPDATE OR DELETE ON trakr.audit_events
    FOR EACH ROW EXECUTE FUNCTION trakr.refuse_change();
CREATE TRIGGER audit_events_table_stays BEFORE TRUNCATE ON trakr.audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION trakr.refuse_change();
-- ENABLE ALWAYS: session_replication_role = replica switches ordinary triggers off.
ALTER TABLE trakr.audit_events ENABLE ALWAYS TRIGGER audit_events_rows_stay;
ALTER TABLE trakr.audit_events ENABLE ALWAYS TRIGGER audit_events_table_stays;

-- append writes canonical records in the order given. The caller supplies bytes
-- only: what is queried later is what the database read in those bytes.
-- +goose StatementBegin
CREATE FUNCTION door.append(p_records bytea[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_records IS NULL OR cardinality(p_records) NOT BETWEEN 1 AND 256 THEN
        RAISE EXCEPTION 'door.append takes 1 to 256 records' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO trakr.audit_events (event_id, occurred_at, tenant_id, actor_type, actor_id, action, outcome,
        status_detail, reason_code, reason_ref, field_names, dropped_names, subject_digest, recipient,
        request_id, trace_id, correlation_id, schema_version, record)
    SELECT x.event_id, x.occurred_at, x.tenant_id, x.actor_type, x.actor_id, x.action, x.outcome,
        x.status_detail, x.reason_code, x.reason_ref, x.field_names, x.dropped_names, x.subject_digest, x.recipient,
        x.request_id, x.trace_id, x.correlation_id, x.schema_version, u.r
    FROM unnest(p_records) WITH ORDINALITY AS u (r, o),
        jsonb_to_record(convert_from(u.r, 'UTF8')::jsonb) AS x (event_id uuid, occurred_at timestamptz, tenant_id uuid,
            actor_type text, actor_id text, action text, outcome text, status_detail text, reason_code text,
            reason_ref text, field_names text[], dropped_names text[], subject_digest text, recipient text,
            request_id text, trace_id text, correlation_id text, schema_version integer)
    ORDER BY u.o;
END $$;
-- +goose StatementEnd

-- read records each request and returns, for each, only the columns its own
-- record names. It refuses a record that is not a successful tenant.read, so
-- nothing can be read under another name, and a tenant that is not live: the
-- transaction then ends without a value and without an event, and the caller
-- records the denial in a transaction of its own.
-- +goose StatementBegin
CREATE FUNCTION door.read(p_records bytea[])
RETURNS TABLE (ord integer, client_key bytea, shared_secret bytea, principal_uuid bytea, username bytea, avatar_url bytea)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 256 AS $$
DECLARE
    returned bigint;
    missing  uuid;
BEGIN
    -- With synchronous_commit off a crash could lose the event of a value that
    -- has already left.
    IF current_setting('synchronous_commit') = 'off' THEN
        RAISE EXCEPTION 'door.read refuses to run with synchronous_commit off' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    PERFORM door.append(p_records);

    RETURN QUERY
    SELECT q.o::integer,
        CASE WHEN 'client_key'     = ANY (q.field_names) THEN f.client_key END,
        CASE WHEN 'shared_secret'  = ANY (q.field_names) THEN f.shared_secret END,
        CASE WHEN 'principal_uuid' = ANY (q.field_names) THEN f.principal_uuid END,
        CASE WHEN 'username'       = ANY (q.field_names) THEN f.username END,
        CASE WHEN 'avatar_url'     = ANY (q.field_names) THEN f.avatar_url END
    FROM (SELECT u.o, x.tenant_id, x.field_names
          FROM unnest(p_records) WITH ORDINALITY AS u (r, o),
              jsonb_to_record(convert_from(u.r, 'UTF8')::jsonb) AS x (tenant_id uuid, field_names text[], action text, outcome text)
          WHERE x.action = 'tenant.read' AND x.outcome = 'success' AND cardinality(x.field_names) > 0) AS q
    JOIN trakr.tenant_fields AS f ON f.tenant_id = q.tenant_id
    ORDER BY q.o;

    GET DIAGNOSTICS returned = ROW_COUNT;
    IF returned = cardinality(p_records) THEN
        RETURN;
    END IF;
    SELECT x.tenant_id INTO missing
    FROM unnest(p_records) AS r, jsonb_to_record(convert_from(r, 'UTF8')::jsonb) AS x (tenant_id uuid)
    WHERE NOT EXISTS (SELECT FROM trakr.tenant_fields AS f WHERE f.tenant_id = x.tenant_id)
    LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'door.read takes successful tenant.read records that name fields' USING ERRCODE = 'invalid_parameter_value';
    ELSIF EXISTS (SELECT FROM trakr.tenants AS t WHERE t.tenant_id = missing AND t.state = 'erased') THEN
        RAISE EXCEPTION 'the tenant is erased' USING ERRCODE = 'TK410';
    ELSE
        RAISE EXCEPTION 'no such tenant' USING ERRCODE = 'TK404';
    END IF;
END $$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION door.append(bytea[]), door.read(bytea[]) FROM PUBLIC;
