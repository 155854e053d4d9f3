-- The door: the only functions that write the audit and release values, and the row security
-- that keeps every other path closed.

-- +goose Up
-- A row of values can be seen or written only in a transaction that has already recorded,
-- for this very tenant, a successful event of the matching action; a row is deleted only
-- with an erasure that the ledger has, and not while a legal hold keeps it. recorded_at is
-- the partition key: comparing it prunes to one partition. FORCE binds the owner too;
-- superusers and BYPASSRLS are not bound.
ALTER TABLE trakr.tenant_fields ENABLE ROW LEVEL SECURITY;
ALTER TABLE trakr.tenant_fields FORCE ROW LEVEL SECURITY;
CREATE POLICY recorded_read ON trakr.tenant_fields FOR SELECT USING (tenant_id IN (
    SELECT e.tenant_id FROM trakr.audit_events AS e
    WHERE e.recorded_at = transaction_timestamp() AND e.epoch = (SELECT max(n.epoch) FROM trakr.log_epochs AS n)
        AND e.xid = pg_current_xact_id() AND e.outcome = 'success'
        AND e.action IN ('tenant.read', 'tenant.install', 'tenant.update', 'tenant.erase', 'tenant.reencrypt')));
CREATE POLICY recorded_install ON trakr.tenant_fields FOR INSERT WITH CHECK (tenant_id IN (
    SELECT e.tenant_id FROM trakr.audit_events AS e
    WHERE e.recorded_at = transaction_timestamp() AND e.epoch = (SELECT max(n.epoch) FROM trakr.log_epochs AS n)
        AND e.xid = pg_current_xact_id() AND e.outcome = 'success'
        AND e.action = 'tenant.install'));
CREATE POLICY recorded_update ON trakr.tenant_fields FOR UPDATE USING (tenant_id IN (
    SELECT e.tenant_id FROM trakr.audit_events AS e
    WHERE e.recorded_at = transaction_timestamp() AND e.epoch = (SELECT max(n.epoch) FROM trakr.log_epochs AS n)
        AND e.xid = pg_current_xact_id() AND e.outcome = 'success'
        AND e.action IN ('tenant.update', 'tenant.reencrypt')));
CREATE POLICY recorded_erase ON trakr.tenant_fields FOR DELETE USING (
    tenant_id IN (
        SELECT e.tenant_id FROM trakr.audit_events AS e
        WHERE e.recorded_at = transaction_timestamp() AND e.epoch = (SELECT max(n.epoch) FROM trakr.log_epochs AS n)
            AND e.xid = pg_current_xact_id() AND e.outcome = 'success'
            AND e.action = 'tenant.erase')
    AND tenant_id IN (SELECT x.tenant_id FROM trakr.erasures AS x WHERE x.noted_at IS NOT NULL AND x.erased_at IS NOT NULL)
    AND tenant_id NOT IN (SELECT h.tenant_id FROM trakr.legal_holds AS h WHERE h.released_at IS NULL AND h.until > now()));
-- door.read reads after it has recorded, in the same statement of its caller: it needs no
-- check against itself, and a check of each batch costs as much as the read.
CREATE POLICY door_reads ON trakr.tenant_fields FOR SELECT TO trakr_door USING (true);
-- The sweep counts every row; its grant covers no value.
CREATE POLICY sweep_counts ON trakr.tenant_fields FOR SELECT TO trakr_sweep USING (true);

-- The functions act as the door's role, which owns no table and alone sees every value: for
-- any other role row security would show none, and a count would be a false zero.
GRANT CREATE ON SCHEMA door TO trakr_door;
SET LOCAL ROLE trakr_door;

-- append writes canonical records in the order given. The caller supplies bytes only: what
-- is queried later is what the database parsed from those bytes.
-- +goose StatementBegin
CREATE FUNCTION door.append(p_records bytea[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    IF p_records IS NULL OR cardinality(p_records) NOT BETWEEN 1 AND 256 THEN
        RAISE EXCEPTION 'door.append takes 1 to 256 records' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO trakr.audit_events (epoch, event_id, occurred_at, tenant_id, actor_type, actor_id, action, outcome,
        status_detail, reason_code, reason_ref, field_names, dropped_names, subject_digest, recipient,
        request_id, trace_id, correlation_id, schema_version, record)
    SELECT (SELECT max(l.epoch) FROM trakr.log_epochs AS l), x.event_id, x.occurred_at, x.tenant_id, x.actor_type, x.actor_id, x.action, x.outcome,
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

-- read records each request and returns, for each, only the columns that its own record
-- names. A request whose tenant is not live is neither recorded nor answered with a value:
-- its state is returned, and the caller records the denial. A record that is not a
-- successful tenant.read refuses the whole batch, so nothing can be read under another
-- name.
-- +goose StatementBegin
CREATE FUNCTION door.read(p_records bytea[])
RETURNS TABLE (ord integer, state text, client_key bytea, shared_secret bytea, principal_uuid bytea, username bytea, avatar_url bytea)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 256
-- The plan is made once for the life of a connection: planning over every month
-- of the audit costs more than the read. One made while the tables were small
-- must not read them whole when they are large.
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    asked    uuid[];
    fields   integer[]; -- one bit for each column a record names
    sound    boolean;
    live     boolean[];
    returned bigint;
BEGIN
    -- With synchronous_commit off a crash could lose the event of a value that
    -- has already left.
    IF current_setting('synchronous_commit') = 'off' THEN
        RAISE EXCEPTION 'door.read refuses to run with synchronous_commit off' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    SELECT array_agg(x.tenant_id ORDER BY u.o),
        array_agg(('client_key' = ANY (x.field_names))::integer + 2 * ('shared_secret' = ANY (x.field_names))::integer
            + 4 * ('principal_uuid' = ANY (x.field_names))::integer + 8 * ('username' = ANY (x.field_names))::integer
            + 16 * ('avatar_url' = ANY (x.field_names))::integer ORDER BY u.o),
        bool_and(coalesce(x.action = 'tenant.read' AND x.outcome = 'success' AND x.tenant_id IS NOT NULL AND cardinality(x.field_names) > 0, false))
    INTO asked, fields, sound
    FROM unnest(p_records) WITH ORDINALITY AS u (r, o),
        jsonb_to_record(convert_from(u.r, 'UTF8')::jsonb) AS x (tenant_id uuid, field_names text[], action text, outcome text);
    IF sound IS NOT TRUE THEN
        RAISE EXCEPTION 'door.read takes successful tenant.read records that name fields' USING ERRCODE = 'invalid_parameter_value';
    END IF;

    SELECT array_agg(t.state IS NOT DISTINCT FROM 'live' ORDER BY q.o) INTO live
    FROM unnest(asked) WITH ORDINALITY AS q (id, o) LEFT JOIN trakr.tenants AS t ON t.tenant_id = q.id;
    IF false = ANY (live) THEN
        RETURN QUERY
        SELECT q.o::integer, coalesce(t.state, 'unknown'), NULL::bytea, NULL::bytea, NULL::bytea, NULL::bytea, NULL::bytea
        FROM unnest(asked) WITH ORDINALITY AS q (id, o) LEFT JOIN trakr.tenants AS t ON t.tenant_id = q.id
        WHERE NOT live[q.o];
        SELECT array_agg(r ORDER BY o) INTO p_records FROM unnest(p_records) WITH ORDINALITY AS u (r, o) WHERE live[o];
        IF p_records IS NULL THEN
            RETURN;
        END IF;
    END IF;

    PERFORM door.append(p_records);
    RETURN QUERY
    SELECT q.o::integer, 'live'::text,
        CASE WHEN q.f & 1 > 0 THEN v.client_key END,
        CASE WHEN q.f & 2 > 0 THEN v.shared_secret END,
        CASE WHEN q.f & 4 > 0 THEN v.principal_uuid END,
        CASE WHEN q.f & 8 > 0 THEN v.username END,
        CASE WHEN q.f & 16 > 0 THEN v.avatar_url END
    FROM unnest(asked, fields) WITH ORDINALITY AS q (id, f, o)
    JOIN trakr.tenant_fields AS v ON v.tenant_id = q.id
    WHERE live[q.o];
    GET DIAGNOSTICS returned = ROW_COUNT;
    IF returned <> cardinality(p_records) THEN
        -- An erasure was committed between the two looks: no event, no value.
        RAISE EXCEPTION 'a tenant was erased meanwhile' USING ERRCODE = 'serialization_failure';
    END IF;
END $$;
-- +goose StatementEnd

-- note_field_key records which key is in use where none is recorded.
-- +goose StatementBegin
CREATE FUNCTION door.note_field_key(p_key bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('trakr/field-keys', 0));
    INSERT INTO trakr.field_keys (key_id, state) SELECT p_key, 'active' WHERE NOT EXISTS (SELECT FROM trakr.field_keys);
END $$;
-- +goose StatementEnd

-- count_sealed counts what is encrypted, by the key that encrypted it; NULL is no key at
-- all. Payloads in the outbox count too: their key must be kept.
-- +goose StatementBegin
CREATE FUNCTION door.count_sealed() RETURNS TABLE (key_id bigint, sealed bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    every text := 'SELECT v.sealed FROM trakr.tenant_fields AS f, unnest(ARRAY[f.client_key, f.shared_secret, f.principal_uuid, f.username, f.avatar_url]) AS v (sealed)
        WHERE v.sealed IS NOT NULL';
BEGIN
    IF to_regclass('trakr.outbox_payloads') IS NOT NULL THEN
        every := every || ' UNION ALL SELECT p.sealed FROM trakr.outbox_payloads AS p';
    END IF;
    RETURN QUERY EXECUTE format('SELECT CASE WHEN length(y.head) = 5 AND get_byte(y.head, 0) = 1 THEN (''x'' || encode(substring(y.head FROM 2), ''hex''))::bit(32)::bigint END, sum(y.n)::bigint
        FROM (SELECT substring(e.sealed FROM 1 FOR 5) AS head, count(*) AS n FROM (%s) AS e GROUP BY 1) AS y GROUP BY 1 ORDER BY 1', every);
END $$;
-- +goose StatementEnd

-- resealable lists tenants after one, in the order of their ids, of which some value is not
-- encrypted with the active key.
-- +goose StatementBegin
CREATE FUNCTION door.resealable(p_after uuid, p_limit integer) RETURNS SETOF uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    head bytea := (SELECT decode('01' || lpad(to_hex(k.key_id), 8, '0'), 'hex') FROM trakr.field_keys AS k WHERE k.state = 'active');
BEGIN
    RETURN QUERY
    SELECT f.tenant_id FROM trakr.tenant_fields AS f
    WHERE (p_after IS NULL OR f.tenant_id > p_after)
        AND EXISTS (SELECT FROM unnest(ARRAY[f.client_key, f.shared_secret, f.principal_uuid, f.username, f.avatar_url]) AS v (sealed)
            WHERE substring(v.sealed FROM 1 FOR 5) <> head)
    ORDER BY f.tenant_id LIMIT p_limit;
END $$;
-- +goose StatementEnd

-- reseal records that values are re-encrypted and returns them, encrypted as they are, for
-- each tenant of which some value is not encrypted with the active key; of others nothing
-- is recorded and nothing returned. The caller has locked the tenants in the registry, and
-- writes the values back in the same transaction.
-- +goose StatementBegin
CREATE FUNCTION door.reseal(p_records bytea[])
RETURNS TABLE (ord integer, client_key bytea, shared_secret bytea, principal_uuid bytea, username bytea, avatar_url bytea)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 256 AS $$
DECLARE
    head     bytea := (SELECT decode('01' || lpad(to_hex(k.key_id), 8, '0'), 'hex') FROM trakr.field_keys AS k WHERE k.state = 'active');
    asked    uuid[];
    sound    boolean;
    due      boolean[];
    returned bigint;
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        RAISE EXCEPTION 'door.reseal refuses to run with synchronous_commit off' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    SELECT array_agg(x.tenant_id ORDER BY u.o),
        bool_and(coalesce(x.action = 'tenant.reencrypt' AND x.outcome = 'success' AND x.tenant_id IS NOT NULL
            AND x.field_names @> ARRAY['client_key', 'shared_secret', 'principal_uuid', 'username', 'avatar_url'], false))
    INTO asked, sound
    FROM unnest(p_records) WITH ORDINALITY AS u (r, o),
        jsonb_to_record(convert_from(u.r, 'UTF8')::jsonb) AS x (tenant_id uuid, field_names text[], action text, outcome text);
    IF sound IS NOT TRUE THEN
        RAISE EXCEPTION 'door.reseal takes successful tenant.reencrypt records that name every field' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT array_agg(EXISTS (SELECT FROM trakr.tenant_fields AS f,
            unnest(ARRAY[f.client_key, f.shared_secret, f.principal_uuid, f.username, f.avatar_url]) AS v (sealed)
            WHERE f.tenant_id = q.id AND substring(v.sealed FROM 1 FOR 5) <> head) ORDER BY q.o)
    INTO due FROM unnest(asked) WITH ORDINALITY AS q (id, o);
    SELECT array_agg(u.r ORDER BY u.o) INTO p_records FROM unnest(p_records) WITH ORDINALITY AS u (r, o) WHERE due[u.o];
    IF p_records IS NULL THEN
        RETURN;
    END IF;
    PERFORM door.append(p_records);
    RETURN QUERY
    SELECT q.o::integer, f.client_key, f.shared_secret, f.principal_uuid, f.username, f.avatar_url
    FROM unnest(asked) WITH ORDINALITY AS q (id, o) JOIN trakr.tenant_fields AS f ON f.tenant_id = q.id
    WHERE due[q.o];
    GET DIAGNOSTICS returned = ROW_COUNT;
    IF returned <> cardinality(p_records) THEN
        RAISE EXCEPTION 'a tenant was erased meanwhile' USING ERRCODE = 'serialization_failure';
    END IF;
END $$;
-- +goose StatementEnd

-- resealable_payloads lists deliveries after one, in the order of their ids, whose payload
-- is not encrypted with the active key.
-- +goose StatementBegin
CREATE FUNCTION door.resealable_payloads(p_after uuid, p_limit integer) RETURNS SETOF uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    head bytea := (SELECT decode('01' || lpad(to_hex(k.key_id), 8, '0'), 'hex') FROM trakr.field_keys AS k WHERE k.state = 'active');
BEGIN
    RETURN QUERY
    SELECT p.delivery_id FROM trakr.outbox_payloads AS p
    WHERE (p_after IS NULL OR p.delivery_id > p_after) AND substring(p.sealed FROM 1 FOR 5) <> head
    ORDER BY p.delivery_id LIMIT p_limit;
END $$;
-- +goose StatementEnd

-- reseal_payload records that a delivery's payload is re-encrypted and returns it, encrypted
-- as it is. The caller has locked the delivery, and replaces the payload in the same
-- transaction. The record must be of this delivery and name every field in it.
-- +goose StatementBegin
CREATE FUNCTION door.reseal_payload(p_record bytea) RETURNS TABLE (sealed bytea)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 1 AS $$
DECLARE
    x record;
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        RAISE EXCEPTION 'door.reseal_payload refuses to run with synchronous_commit off' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    SELECT r.* INTO x FROM jsonb_to_record(convert_from(p_record, 'UTF8')::jsonb) AS r (tenant_id uuid, action text, outcome text, request_id uuid, field_names text[]);
    IF (x.action = 'tenant.reencrypt' AND x.outcome = 'success') IS NOT TRUE
            OR NOT EXISTS (SELECT FROM trakr.outbox AS d WHERE d.delivery_id = x.request_id AND d.tenant_id = x.tenant_id
                AND d.closed_at IS NULL AND coalesce(x.field_names, '{}') @> d.field_names) THEN
        RAISE EXCEPTION 'door.reseal_payload takes a successful tenant.reencrypt record of an open delivery that names every field in it' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM door.append(ARRAY[p_record]);
    RETURN QUERY SELECT p.sealed FROM trakr.outbox_payloads AS p WHERE p.delivery_id = x.request_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the delivery has no payload any more' USING ERRCODE = 'serialization_failure';
    END IF;
END $$;
-- +goose StatementEnd

-- activate_field_key makes a key the active one and retires the one before, with the record
-- of it. It refuses while another key is retired and not yet destroyed, and while a service
-- runs that could not decrypt what the key encrypts.
-- +goose StatementBegin
CREATE FUNCTION door.activate_field_key(p_record bytea, p_key bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT x.action = 'key.activate' AND x.outcome = 'success' AND x.correlation_id = 'field-key-' || p_key
            FROM jsonb_to_record(convert_from(p_record, 'UTF8')::jsonb) AS x (action text, outcome text, correlation_id text)) IS NOT TRUE THEN
        RAISE EXCEPTION 'a key becomes active only with the record of it' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('trakr/field-keys', 0));
    IF EXISTS (SELECT FROM trakr.field_keys AS k WHERE k.key_id = p_key OR k.state = 'retired') THEN
        RAISE EXCEPTION 'another rotation is under way, or the key was used before' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF EXISTS (SELECT FROM trakr.key_holders AS h WHERE h.seen_at > clock_timestamp() - interval '30 seconds' AND NOT p_key = ANY (h.key_ids)) THEN
        RAISE EXCEPTION 'a service runs that does not hold this key' USING ERRCODE = 'TK424';
    END IF;
    PERFORM door.append(ARRAY[p_record]);
    UPDATE trakr.field_keys SET state = 'retired', retired_at = clock_timestamp() WHERE state = 'active';
    INSERT INTO trakr.field_keys (key_id, state) VALUES (p_key, 'active');
END $$;
-- +goose StatementEnd

-- destroy_field_key records that a retired key is destroyed. It refuses while a value is
-- encrypted with it.
-- +goose StatementBegin
CREATE FUNCTION door.destroy_field_key(p_record bytea, p_key bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT x.action = 'key.destroy' AND x.outcome = 'success' AND x.correlation_id = 'field-key-' || p_key
            FROM jsonb_to_record(convert_from(p_record, 'UTF8')::jsonb) AS x (action text, outcome text, correlation_id text)) IS NOT TRUE THEN
        RAISE EXCEPTION 'a key is destroyed only with the record of it' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('trakr/field-keys', 0));
    IF NOT EXISTS (SELECT FROM trakr.field_keys AS k WHERE k.key_id = p_key AND k.state = 'retired') THEN
        RAISE EXCEPTION 'only a retired key is destroyed' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF EXISTS (SELECT FROM door.count_sealed() AS c WHERE c.key_id = p_key) THEN
        RAISE EXCEPTION 'values are still sealed with this key' USING ERRCODE = 'TK425';
    END IF;
    PERFORM door.append(ARRAY[p_record]);
    UPDATE trakr.field_keys SET state = 'destroyed', destroyed_at = clock_timestamp() WHERE key_id = p_key;
END $$;
-- +goose StatementEnd

-- disclose records that a delivery is about to be sent and returns its encrypted payload,
-- NULL for a notice, which has none. There is no other way to a payload. The record must be
-- of this delivery, name the recipient, and name every field that the payload discloses.
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

-- count_held counts the values of the fields that a policy may switch off.
-- +goose StatementBegin
CREATE FUNCTION door.count_held() RETURNS TABLE (field text, rows bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.field, x.rows
    FROM (SELECT count(v.username) AS username, count(v.avatar_url) AS avatar_url FROM trakr.tenant_fields AS v) AS c,
        LATERAL (VALUES ('username', c.username), ('avatar_url', c.avatar_url)) AS x (field, rows)
$$;
-- +goose StatementEnd

-- holders lists, in order, the tenants after one that have a value of such a field.
-- +goose StatementBegin
CREATE FUNCTION door.holders(p_fields text[], p_after uuid, p_limit integer) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT v.tenant_id FROM trakr.tenant_fields AS v
    WHERE (p_after IS NULL OR v.tenant_id > p_after)
        AND (('username' = ANY (p_fields) AND v.username IS NOT NULL) OR ('avatar_url' = ANY (p_fields) AND v.avatar_url IS NOT NULL))
    ORDER BY v.tenant_id LIMIT least(p_limit, 1000)
$$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION door.append(bytea[]), door.read(bytea[]), door.note_field_key(bigint), door.count_sealed(), door.resealable(uuid, integer),
    door.reseal(bytea[]), door.resealable_payloads(uuid, integer), door.reseal_payload(bytea), door.activate_field_key(bytea, bigint),
    door.destroy_field_key(bytea, bigint), door.disclose(bytea), door.count_held(), door.holders(text[], uuid, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION door.append(bytea[]), door.read(bytea[]), door.note_field_key(bigint), door.count_sealed(), door.resealable(uuid, integer),
    door.reseal(bytea[]), door.resealable_payloads(uuid, integer), door.reseal_payload(bytea), door.activate_field_key(bytea, bigint),
    door.destroy_field_key(bytea, bigint), door.disclose(bytea), door.count_held(), door.holders(text[], uuid, integer) TO trakr_service;
-- The owner records what it expires.
GRANT EXECUTE ON FUNCTION door.append(bytea[]) TO trakr_owner;
SET LOCAL ROLE trakr_owner;
REVOKE CREATE ON SCHEMA door FROM trakr_door;
