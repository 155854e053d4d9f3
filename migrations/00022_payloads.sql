-- What waits to be sent is sealed with the active key, as the values are: a retired key
-- can be destroyed only when nothing that waits needs it.
--
-- For the operator: adds a trigger to trakr.outbox_payloads; takes a short exclusive
-- lock there. A rotation ends when the end service has taken what was queued before it.

-- +goose Up
-- judge_payload_seal is judge_seal (migration 19) for what waits.
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
REVOKE ALL ON FUNCTION trakr.judge_payload_seal() FROM PUBLIC;
