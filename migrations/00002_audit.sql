-- The audit is a log: partitioned by month, with its Merkle tree and its checkpoints beside
-- it. Everything in it can only grow.

-- +goose Up
-- Which log this is. Checkpoints carry the id; it survives dump and restore.
CREATE TABLE trakr.log_identity (
    log_id     uuid        NOT NULL DEFAULT gen_random_uuid() CONSTRAINT log_identity_pk PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO trakr.log_identity DEFAULT VALUES;

-- Transaction ids order the log only within one cluster. A restored database has another
-- system identifier, or a counter that was set back: a new epoch.
CREATE TABLE trakr.log_epochs (
    epoch             integer     NOT NULL CONSTRAINT log_epochs_pk PRIMARY KEY,
    system_identifier bigint      NOT NULL,
    began_at          timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO trakr.log_epochs (epoch, system_identifier) SELECT 1, system_identifier FROM pg_control_system();

-- record contains the exact canonical bytes (RFC 8785) of the event. The other event
-- columns are derived from it by door.append and exist for queries; the database itself
-- sets recorded_at, epoch, xid and id, which are the event's place.
CREATE TABLE trakr.audit_events (
    recorded_at    timestamptz NOT NULL DEFAULT transaction_timestamp(),
    epoch          integer     NOT NULL,
    xid            xid8        NOT NULL DEFAULT pg_current_xact_id(),
    id             bigint      GENERATED ALWAYS AS IDENTITY,
    event_id       uuid        NOT NULL,
    occurred_at    timestamptz NOT NULL,
    tenant_id      uuid,
    actor_type     text        NOT NULL CONSTRAINT audit_events_actor_known
                               CHECK (actor_type IN ('bitbucket', 'forge', 'service', 'staff', 'scheduler', 'operator', 'anonymous')),
    actor_id       text        NOT NULL,
    action         text        NOT NULL CONSTRAINT audit_events_action_form CHECK (action LIKE '%_._%'),
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
    record         bytea       NOT NULL,
    CONSTRAINT audit_events_pk PRIMARY KEY (id, recorded_at)
) PARTITION BY RANGE (recorded_at);
-- The order of the log; the policies on tenant_fields find the running transaction's own
-- events by it too. Every index is paid for at every read: add none without need.
CREATE INDEX audit_events_in_order ON trakr.audit_events (epoch, xid, id);
CREATE INDEX audit_events_by_tenant ON trakr.audit_events (tenant_id, id);

-- Leaf hashes (RFC 6962) in log order, one row for up to 1024 events: position
-- first_index + i is the event ids[i], its hash the i-th 32 bytes of hashes.
CREATE TABLE trakr.audit_leaves (
    first_index bigint   NOT NULL CONSTRAINT audit_leaves_pk PRIMARY KEY CONSTRAINT audit_leaves_from_zero CHECK (first_index >= 0),
    epoch       integer  NOT NULL,
    first_xid   xid8     NOT NULL,
    last_xid    xid8     NOT NULL,
    ids         bigint[] NOT NULL CONSTRAINT audit_leaves_some CHECK (cardinality(ids) BETWEEN 1 AND 1024),
    hashes      bytea    NOT NULL,
    CONSTRAINT audit_leaves_one_hash_each CHECK (octet_length(hashes) = 32 * cardinality(ids))
);
-- Uncompressed, so that a slice of a row can be read alone: hashes do not compress anyway.
ALTER TABLE trakr.audit_leaves ALTER COLUMN ids SET STORAGE EXTERNAL, ALTER COLUMN hashes SET STORAGE EXTERNAL;
CREATE INDEX audit_leaves_in_order ON trakr.audit_leaves (epoch, first_xid, (ids[1]));

-- Full tiles of the Merkle tree (height 8, 256 hashes). Partial tiles are computed.
CREATE TABLE trakr.audit_tiles (
    level smallint NOT NULL,
    n     bigint   NOT NULL,
    data  bytea    NOT NULL CONSTRAINT audit_tiles_full CHECK (octet_length(data) = 8192),
    CONSTRAINT audit_tiles_pk PRIMARY KEY (level, n)
);
ALTER TABLE trakr.audit_tiles ALTER COLUMN data SET STORAGE EXTERNAL;

-- Signed tree heads in the C2SP tlog-checkpoint form.
CREATE TABLE trakr.audit_checkpoints (
    size      bigint      NOT NULL CONSTRAINT audit_checkpoints_pk PRIMARY KEY CONSTRAINT audit_checkpoints_some CHECK (size > 0),
    note      text        NOT NULL,
    signed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Content that the policy removed: of positions below up_to only leaf hashes remain.
CREATE TABLE trakr.audit_expiries (
    up_to      bigint      NOT NULL CONSTRAINT audit_expiries_pk PRIMARY KEY,
    older_than timestamptz NOT NULL,
    event_id   uuid        NOT NULL,
    expired_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Up to where the log was verified, and the root of its leaves there. whole: from the
-- first position on.
CREATE TABLE trakr.verified_log (
    id          bigint      GENERATED ALWAYS AS IDENTITY CONSTRAINT verified_log_pk PRIMARY KEY,
    size        bigint      NOT NULL CONSTRAINT verified_log_some CHECK (size > 0),
    root        bytea       NOT NULL CONSTRAINT verified_log_root_form CHECK (octet_length(root) = 32),
    verified_at timestamptz NOT NULL,
    whole       boolean     NOT NULL
);

-- +goose StatementBegin
CREATE FUNCTION trakr.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'append-only: % on % is refused', TG_OP, TG_RELID::regclass
        USING ERRCODE = 'insufficient_privilege';
END $$;
-- +goose StatementEnd

-- guard_growth puts the triggers on a table that make it append-only: on its rows when
-- p_rows, and against TRUNCATE.
-- +goose StatementBegin
CREATE FUNCTION trakr.guard_growth(p_table regclass, p_rows boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- ENABLE ALWAYS: session_replication_role = replica switches ordinary triggers off.
    IF p_rows THEN
        EXECUTE format('CREATE TRIGGER rows_stay BEFORE UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION trakr.refuse_change()', p_table);
    END IF;
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER rows_stay', p_table);
    -- A TRUNCATE trigger is not cloned to partitions.
    EXECUTE format('CREATE TRIGGER table_stays BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION trakr.refuse_change()', p_table);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER table_stays', p_table);
END $$;
-- +goose StatementEnd
SELECT trakr.guard_growth(t, true) FROM unnest(ARRAY['trakr.log_identity', 'trakr.log_epochs', 'trakr.audit_events', 'trakr.audit_leaves',
    'trakr.audit_tiles', 'trakr.audit_checkpoints', 'trakr.audit_expiries']::regclass[]) AS t;

-- make_partition creates the month that contains p_day unless it exists.
-- +goose StatementBegin
CREATE FUNCTION trakr.make_partition(p_day timestamptz) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    begins timestamptz := date_trunc('month', p_day, 'UTC');
    ends   timestamptz := date_trunc('month', p_day, 'UTC') + interval '1 month';
    name   text := 'audit_events_' || to_char(date_trunc('month', p_day, 'UTC') AT TIME ZONE 'UTC', 'YYYYMM');
BEGIN
    -- "+ 1 month" counts in the session's time zone; 32 days and back does not.
    ends := date_trunc('month', begins + interval '32 days', 'UTC');
    IF to_regclass('trakr.' || name) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- Made apart and then attached: PARTITION OF would lock the whole audit against
    -- everyone, and wait for every export and verification that reads it.
    EXECUTE format('CREATE TABLE trakr.%I (LIKE trakr.audit_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
    EXECUTE format('ALTER TABLE trakr.audit_events ATTACH PARTITION trakr.%I FOR VALUES FROM (%L) TO (%L)', name, begins, ends);
    EXECUTE format('CREATE UNIQUE INDEX %I ON trakr.%I (event_id)', name || '_event_once', name);
    PERFORM trakr.guard_growth(to_regclass('trakr.' || name), false); -- the row trigger is cloned
    RETURN true;
END $$;
-- +goose StatementEnd

-- make_partitions creates the current month and the next p_ahead, and returns how many it
-- created. The service may call it; it can only add.
-- +goose StatementBegin
CREATE FUNCTION door.make_partitions(p_ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made integer := 0;
BEGIN
    IF p_ahead NOT BETWEEN 1 AND 36 THEN
        RAISE EXCEPTION 'door.make_partitions makes 1 to 36 months' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('trakr/partitions', 0));
    FOR i IN 0..p_ahead LOOP
        made := made + trakr.make_partition(date_trunc('month', now(), 'UTC') + make_interval(days => 31 * i))::integer;
    END LOOP;
    RETURN made;
END $$;
-- +goose StatementEnd

-- ensure_epoch begins a new epoch when this cluster is not the one that wrote last. Every
-- connection of the service calls it before anything else.
-- +goose StatementBegin
CREATE FUNCTION door.ensure_epoch() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- The newest event by the index, also where statistics are missing.
SET enable_seqscan = off SET enable_sort = off AS $$
DECLARE
    here bigint := (SELECT system_identifier FROM pg_control_system());
    last trakr.log_epochs;
    top  xid8;
BEGIN
    IF pg_is_in_recovery() THEN
        RETURN;
    END IF;
    SELECT * INTO STRICT last FROM trakr.log_epochs ORDER BY epoch DESC LIMIT 1;
    SELECT xid INTO top FROM trakr.audit_events WHERE epoch = last.epoch ORDER BY epoch DESC, xid DESC, id DESC LIMIT 1;
    IF last.system_identifier = here AND (top IS NULL OR top < pg_snapshot_xmax(pg_current_snapshot())) THEN
        RETURN;
    END IF;
    -- Two that see it at once agree on the number; the second has nothing to add.
    INSERT INTO trakr.log_epochs (epoch, system_identifier) VALUES (last.epoch + 1, here) ON CONFLICT DO NOTHING;
END $$;
-- +goose StatementEnd

GRANT SELECT ON trakr.audit_events, trakr.log_identity, trakr.log_epochs, trakr.audit_expiries TO trakr_service;
GRANT SELECT, INSERT ON trakr.audit_leaves, trakr.audit_tiles, trakr.audit_checkpoints, trakr.verified_log TO trakr_service;
GRANT EXECUTE ON FUNCTION door.make_partitions(integer), door.ensure_epoch() TO trakr_service;

GRANT SELECT ON trakr.audit_events, trakr.audit_leaves, trakr.audit_tiles, trakr.audit_checkpoints, trakr.audit_expiries, trakr.log_identity,
    trakr.log_epochs, trakr.verified_log TO trakr_reader;

GRANT INSERT ON trakr.audit_events TO trakr_door;
GRANT SELECT ON trakr.log_epochs TO trakr_door;

GRANT SELECT ON trakr.audit_events, trakr.log_epochs, trakr.verified_log TO trakr_sweep;

SELECT door.make_partitions(12);
