-- A tenant's state goes one way, whoever writes it: nobody is made live again.
--
-- For the operator: adds a trigger to trakr.tenants; takes a short lock.

-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION trakr.tenant_goes_on() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ways CONSTANT text[] := ARRAY['live', 'erasing', 'erased'];
BEGIN
    IF NEW.tenant_id <> OLD.tenant_id OR array_position(ways, NEW.state) < array_position(ways, OLD.state)
        OR (OLD.erased_at IS NOT NULL AND NEW.erased_at IS DISTINCT FROM OLD.erased_at) THEN
        RAISE EXCEPTION 'a tenant goes from live to erasing to erased, and never back' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER tenant_goes_on BEFORE UPDATE ON trakr.tenants FOR EACH ROW EXECUTE FUNCTION trakr.tenant_goes_on();
ALTER TABLE trakr.tenants ENABLE ALWAYS TRIGGER tenant_goes_on;
REVOKE ALL ON FUNCTION trakr.tenant_goes_on() FROM PUBLIC;
