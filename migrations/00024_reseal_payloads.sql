-- What waits for the end service is sealed anew as the values are, so that a rotation
-- of the field key ends whatever the end service does.
--
-- For the operator: adds two functions; takes no lock.

-- +goose Up
GRANT CREATE ON SCHEMA door TO trakr_door;
SET LOCAL ROLE trakr_door;

-- resealable_payloads lists deliveries after one, in the order of their ids, whose
-- payload is not sealed with the active key.
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

-- reseal_payload records that a delivery's payload is sealed anew and returns it, sealed
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
REVOKE ALL ON FUNCTION door.resealable_payloads(uuid, integer), door.reseal_payload(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION door.resealable_payloads(uuid, integer), door.reseal_payload(bytea) TO trakr_service;
SET LOCAL ROLE trakr_owner;
REVOKE CREATE ON SCHEMA door FROM trakr_door;
