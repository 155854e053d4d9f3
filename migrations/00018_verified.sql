-- A certificate rests on a sweep that counted. So an erasure is verified only by a run
-- that is over and did not fail, and what a run said stays what it said.
--
-- For the operator: replaces a function and adds a trigger to trakr.sweep_runs; takes
-- short exclusive locks. Erasures that were verified by a run which failed or was cut
-- off, and have no certificate yet, are verified again by the next sweep.

-- +goose Up
ALTER TABLE trakr.erasures DISABLE TRIGGER erasure_goes_on;
WITH again AS (
    UPDATE trakr.erasures AS x SET verified_at = NULL, verified_by = NULL
    WHERE x.verified_at IS NOT NULL AND NOT x.uncertified
        AND NOT EXISTS (SELECT FROM trakr.certificates AS c WHERE c.erasure_id = x.erasure_id)
        AND NOT EXISTS (SELECT FROM trakr.sweep_runs AS r WHERE r.run_id = x.verified_by AND r.result <> 'failed')
    RETURNING x.erasure_id)
DELETE FROM trakr.erasure_counts AS n USING again WHERE n.erasure_id = again.erasure_id AND n.step = 'verify';

-- erasure_goes_on as in migration 8, and: verified is what a run counted that is over.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION trakr.erasure_goes_on() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    steps CONSTANT text[] := ARRAY['noted_at', 'ledger_seq', 'ledger_hash', 'erased_at', 'verified_at', 'verified_by'];
    old_row jsonb := to_jsonb(OLD);
    new_row jsonb := to_jsonb(NEW);
BEGIN
    IF old_row - steps - 'principal_digest' IS DISTINCT FROM new_row - steps - 'principal_digest'
        OR (NEW.principal_digest IS NOT NULL AND NEW.principal_digest IS DISTINCT FROM OLD.principal_digest)
        OR EXISTS (SELECT FROM unnest(steps) AS s WHERE old_row ->> s IS NOT NULL AND old_row ->> s IS DISTINCT FROM new_row ->> s)
        OR (OLD.erased_at IS NULL AND NEW.erased_at IS NOT NULL AND NEW.noted_at IS NULL) THEN
        RAISE EXCEPTION 'a step of an erasure is taken once, and after the one before it' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF OLD.verified_by IS NULL AND NEW.verified_by IS NOT NULL AND NOT EXISTS (SELECT FROM trakr.sweep_runs AS r
            WHERE r.run_id = NEW.verified_by AND r.finished_at IS NOT NULL AND r.result <> 'failed' AND NOT r.dry_run) THEN
        RAISE EXCEPTION 'an erasure is verified by a sweep that is over and did not fail' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
ALTER TABLE trakr.erasures ENABLE ALWAYS TRIGGER erasure_goes_on;

-- +goose StatementBegin
CREATE FUNCTION trakr.run_is_over() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.finished_at IS NOT NULL AND OLD IS DISTINCT FROM NEW THEN
        RAISE EXCEPTION 'a sweep that is over stays as it ended' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER run_is_over BEFORE UPDATE ON trakr.sweep_runs FOR EACH ROW EXECUTE FUNCTION trakr.run_is_over();
ALTER TABLE trakr.sweep_runs ENABLE ALWAYS TRIGGER run_is_over;
REVOKE ALL ON FUNCTION trakr.run_is_over() FROM PUBLIC;
