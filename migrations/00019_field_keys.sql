-- Which key seals the values, and which no longer may; who runs with which keys; and
-- how every value is sealed anew with another key.
--
-- For the operator: creates two small tables, replaces two policies and adds a trigger
-- to trakr.tenant_fields; takes a short exclusive lock there. The key that is in use
-- is noted by the next start of the service.

-- +goose Up
-- A field key by its id; the key itself is never here. One is active: it seals. A
-- retired one may still open values; a destroyed one opens nothing, because nothing is
-- sealed with it.
CREATE TABLE trakr.field_keys (
    key_id       bigint      NOT NULL CONSTRAINT field_keys_pk PRIMARY KEY
                             CONSTRAINT field_keys_form CHECK (key_id BETWEEN 0 AND 4294967295),
    state        text        NOT NULL CONSTRAINT field_keys_state_known CHECK (state IN ('active', 'retired', 'destroyed')),
    active_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    retired_at   timestamptz,
    destroyed_at timestamptz,
    CONSTRAINT field_keys_in_order CHECK ((retired_at IS NULL) = (state = 'active') AND (destroyed_at IS NULL) = (state <> 'destroyed'))
);
CREATE UNIQUE INDEX field_keys_one_active ON trakr.field_keys (state) WHERE state = 'active';

-- Each running service with the field keys it holds, so that no key becomes active
-- that one of them could not open with. A service that was not seen for half a minute
-- does not run.
CREATE TABLE trakr.key_holders (
    instance_id uuid        NOT NULL CONSTRAINT key_holders_pk PRIMARY KEY,
    key_ids     bigint[]    NOT NULL,
    seen_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

GRANT SELECT ON trakr.field_keys TO trakr_service, trakr_reader;
GRANT SELECT, INSERT, UPDATE, DELETE ON trakr.key_holders TO trakr_service;
GRANT SELECT ON trakr.key_holders TO trakr_reader;
GRANT SELECT, INSERT, UPDATE ON trakr.field_keys TO trakr_door;
GRANT SELECT ON trakr.key_holders TO trakr_door;

-- judge_seal lets a value in only when the active key sealed it. It shares a lock that
-- whoever makes another key active takes alone: when that is committed, no value that
-- the old key sealed can be committed any more. Without a key on record (before the
-- first start of a service that knows of them) everything is let in.
-- +goose StatementBegin
CREATE FUNCTION trakr.judge_seal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    active bigint;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('trakr/field-keys', 0));
    SELECT k.key_id INTO active FROM trakr.field_keys AS k WHERE k.state = 'active';
    -- Tink's output begins with the byte 1 and the key's id.
    IF active IS NOT NULL AND EXISTS (
            SELECT FROM unnest(ARRAY[NEW.client_key, NEW.shared_secret, NEW.principal_uuid, NEW.username, NEW.avatar_url]) AS v (sealed)
            WHERE substring(v.sealed FROM 1 FOR 5) <> decode('01' || lpad(to_hex(active), 8, '0'), 'hex')) THEN
        RAISE EXCEPTION 'a value is sealed with a key that is not the active one' USING ERRCODE = 'TK423';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER judge_seal BEFORE INSERT OR UPDATE ON trakr.tenant_fields FOR EACH ROW EXECUTE FUNCTION trakr.judge_seal();
ALTER TABLE trakr.tenant_fields ENABLE ALWAYS TRIGGER judge_seal;
REVOKE ALL ON FUNCTION trakr.judge_seal() FROM PUBLIC;

-- Values may be sealed anew in a transaction that recorded it.
ALTER POLICY recorded_read ON trakr.tenant_fields USING (tenant_id IN (
    SELECT e.tenant_id FROM trakr.audit_events AS e
    WHERE e.recorded_at = transaction_timestamp() AND e.epoch = (SELECT max(n.epoch) FROM trakr.log_epochs AS n)
        AND e.xid = pg_current_xact_id() AND e.outcome = 'success'
        AND e.action IN ('tenant.read', 'tenant.install', 'tenant.update', 'tenant.erase', 'tenant.reencrypt')));
ALTER POLICY recorded_update ON trakr.tenant_fields USING (tenant_id IN (
    SELECT e.tenant_id FROM trakr.audit_events AS e
    WHERE e.recorded_at = transaction_timestamp() AND e.epoch = (SELECT max(n.epoch) FROM trakr.log_epochs AS n)
        AND e.xid = pg_current_xact_id() AND e.outcome = 'success'
        AND e.action IN ('tenant.update', 'tenant.reencrypt')));

-- The functions act as the door's role, which alone sees every value: as any other
-- role row-level security would show them none, and a count would be a false zero.
GRANT CREATE ON SCHEMA door TO trakr_door;
SET LOCAL ROLE trakr_door;

-- note_field_key puts down which key is in use where none is on record.
-- +goose StatementBegin
CREATE FUNCTION door.note_field_key(p_key bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('trakr/field-keys', 0));
    INSERT INTO trakr.field_keys (key_id, state) SELECT p_key, 'active' WHERE NOT EXISTS (SELECT FROM trakr.field_keys);
END $$;
-- +goose StatementEnd

-- count_sealed counts what is sealed, by the key that sealed it; NULL is no key at all.
-- What waits to be sent (a later migration's table) counts too: its key must stay.
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

-- resealable lists tenants after one, in the order of their ids, of which some value
-- is not sealed with the active key.
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

-- reseal records that values are sealed anew and returns them, sealed as they are, for
-- each tenant of which some value is not sealed with the active key; of others nothing
-- is recorded and nothing returned. The caller has locked the tenants in the registry,
-- and writes the values back in the same transaction.
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

-- activate_field_key makes a key the active one and retires the one before, with the
-- record of it. It refuses while another one is retired and not yet destroyed, and while
-- a service runs that could not open what the key seals.
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

-- destroy_field_key notes, with the record of it, that a retired key is gone. It
-- refuses while a value is sealed with it.
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
REVOKE ALL ON FUNCTION door.note_field_key(bigint), door.count_sealed(), door.resealable(uuid, integer), door.reseal(bytea[]),
    door.activate_field_key(bytea, bigint), door.destroy_field_key(bytea, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION door.note_field_key(bigint), door.count_sealed(), door.resealable(uuid, integer), door.reseal(bytea[]),
    door.activate_field_key(bytea, bigint), door.destroy_field_key(bytea, bigint) TO trakr_service;
SET LOCAL ROLE trakr_owner;
REVOKE CREATE ON SCHEMA door FROM trakr_door;
