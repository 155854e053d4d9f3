package tenants_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/holds"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tenants"
)

// asService connects with the service's real login: no SET ROLE stands between.
func asService(t *testing.T, e *storetest.Env) *pgx.Conn {
	t.Helper()
	return login(t, storetest.ServiceURL(t, e.URL), "")
}

func login(t *testing.T, url, role string) *pgx.Conn {
	t.Helper()
	cfg := storetest.Must(t)(pgx.ParseConfig(url)).(*pgx.ConnConfig)
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol // several statements at once
	if role != "" {
		cfg.RuntimeParams["role"] = role
	}
	c := storetest.Must(t)(pgx.ConnectConfig(t.Context(), cfg)).(*pgx.Conn)
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// attempt runs SQL in a transaction that is rolled back, and returns the rows of
// its last statement.
func attempt(t *testing.T, c *pgx.Conn, sql string) (rows int64, err error) {
	t.Helper()
	if _, err := c.Exec(t.Context(), `BEGIN`); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := c.Exec(context.Background(), `ROLLBACK`); err != nil {
			t.Errorf("after %s: %v", sql, err)
		}
	}()
	tag, err := c.Exec(t.Context(), sql)
	return tag.RowsAffected(), err
}

// appended is the SQL that records an event of the tenant.
func appended(e *storetest.Env, act audit.Action, out audit.Outcome, id lifecycle.TenantID) string {
	ev := audit.New(context.Background(), e.Clock.Now(), storetest.Service(), act, out)
	ev.TenantID, ev.FieldNames = id, []lifecycle.Field{lifecycle.Username}
	return fmt.Sprintf(`SELECT door.append(ARRAY['\x%x'::bytea]); `, ev.Record())
}

// logTables are the tables that only grow, every month of the audit included.
func logTables(t *testing.T, e *storetest.Env) []string {
	t.Helper()
	c := login(t, e.URL, "")
	rows, err := c.Query(t.Context(), `SELECT 'trakr.' || relname FROM pg_class WHERE relnamespace = 'trakr'::regnamespace AND relkind IN ('r', 'p') AND relname ~ '^(audit|log)_' ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	tables := storetest.Must(t)(pgx.CollectRows(rows, pgx.RowTo[string])).([]string)
	if len(tables) < 7+12 {
		t.Fatalf("only %v", tables)
	}
	return tables
}

// The list of issue 3 and what else comes to mind. denied is part of the error
// that the database must answer; a row without it may succeed and must give nothing.
func TestTheServicesLoginIsRefusedEveryWayAroundTheDoor(t *testing.T) {
	e := storetest.New(t)
	a, b := e.Install(storetest.Values("marker-a"), "a"), e.Install(storetest.Values("marker-b"), "b")
	e.Exec(`ANALYZE trakr.tenant_fields`)
	if e.Int(`SELECT count(*) FROM pg_statistic WHERE starelid = 'trakr.tenant_fields'::regclass`) == 0 {
		t.Fatal("there are no statistics to be read")
	}
	month := logTables(t, e)[3]
	if !strings.HasPrefix(month, "trakr.audit_events_2") {
		t.Fatal(month)
	}
	conn, recorded := asService(t, e), appended(e, audit.TenantRead, audit.Success, a)
	const denied, owner, nothing = "permission denied", "must be owner", ""
	for _, c := range []struct{ why, sql, refused string }{
		{"values are read through the door alone", `SELECT username FROM trakr.tenant_fields`, denied},
		{"each of them", `SELECT client_key FROM trakr.tenant_fields`, denied},
		{"each of them", `SELECT shared_secret FROM trakr.tenant_fields`, denied},
		{"each of them", `SELECT principal_uuid FROM trakr.tenant_fields`, denied},
		{"each of them", `SELECT avatar_url FROM trakr.tenant_fields`, denied},
		{"all at once", `SELECT * FROM trakr.tenant_fields`, denied},
		{"the row as one value", `SELECT f FROM trakr.tenant_fields AS f`, denied},
		{"as JSON", `SELECT to_jsonb(f) FROM trakr.tenant_fields AS f`, denied},
		{"as XML", `SELECT query_to_xml('SELECT username FROM trakr.tenant_fields', true, true, '')`, denied},
		{"counted", `SELECT count(username) FROM trakr.tenant_fields`, denied},
		{"TABLE is SELECT *", `TABLE trakr.tenant_fields`, denied},
		{"explained", `EXPLAIN ANALYZE SELECT username FROM trakr.tenant_fields`, denied},
		{"recorded, but not through the door", recorded + `SELECT username FROM trakr.tenant_fields`, denied},
		{"returned by an update", recorded + `UPDATE trakr.tenant_fields SET written_at = now() RETURNING username`, denied},
		{"returned by a delete", recorded + `DELETE FROM trakr.tenant_fields RETURNING username`, denied},
		{"copied between columns", `UPDATE trakr.tenant_fields SET username = client_key`, denied},
		{"guessed by a condition", `UPDATE trakr.tenant_fields SET written_at = now() WHERE username IS NOT NULL`, denied},
		{"guessed by a delete", `DELETE FROM trakr.tenant_fields WHERE username IS NOT NULL`, denied},
		{"taken from the excluded row", `INSERT INTO trakr.tenant_fields SELECT * FROM trakr.tenant_fields ON CONFLICT DO NOTHING`, denied},
		{"by MERGE", `MERGE INTO trakr.tenant_fields AS f USING (SELECT 1) AS x ON f.username IS NOT NULL WHEN MATCHED THEN DELETE`, denied},
		{"by COPY", `COPY trakr.tenant_fields TO STDOUT`, denied},
		{"by COPY of a query", `COPY (SELECT username FROM trakr.tenant_fields) TO STDOUT`, denied},
		{"into a file", `COPY trakr.tenants TO '/tmp/tenants'`, "COPY to a file"},
		{"to a program", `COPY trakr.tenants TO PROGRAM 'cat'`, "external program"},
		{"from a program", `COPY trakr.replay_guard FROM PROGRAM 'echo'`, "external program"},
		{"in a block", `DO $$ BEGIN PERFORM username FROM trakr.tenant_fields; END $$`, denied},
		{"in a cursor", `DECLARE c CURSOR FOR SELECT username FROM trakr.tenant_fields`, denied},
		{"in a prepared statement", `PREPARE p AS SELECT username FROM trakr.tenant_fields; EXECUTE p`, denied},
		{"by a planner's statistics", `SELECT most_common_vals, histogram_bounds FROM pg_stats WHERE tablename = 'tenant_fields'`, nothing},
		{"by the statistics themselves", `SELECT stavalues1 FROM pg_statistic`, denied},
		{"with row security off", `SET LOCAL row_security = off; SELECT tenant_id FROM trakr.tenant_fields`, "row-level security"},
		{"without a record there is no row", `SELECT tenant_id FROM trakr.tenant_fields`, nothing},
		{"nor one to delete", `DELETE FROM trakr.tenant_fields`, nothing},
		{"nor one to change", `UPDATE trakr.tenant_fields SET username = NULL`, nothing},
		{"an insert needs its event too", `INSERT INTO trakr.tenant_fields (tenant_id, client_key, shared_secret, principal_uuid, written_at) VALUES (gen_random_uuid(), '', '', '', now())`, "row-level security"},
		{"a reading gives no right to delete", recorded + `DELETE FROM trakr.tenant_fields`, nothing},
		{"a read whose record a crash could lose", `SET LOCAL synchronous_commit = off; SELECT door.read(ARRAY['\x7b7d'::bytea])`, "synchronous_commit off"},

		{"events are written by door.append alone", `INSERT INTO trakr.audit_events (epoch, event_id, occurred_at, actor_type, actor_id, action, outcome, reason_code, schema_version, record) VALUES (1, gen_random_uuid(), now(), 'service', 'x', 'tenant.read', 'success', '', 1, '')`, denied},
		{"by COPY", `COPY trakr.audit_events FROM STDIN`, denied},
		{"content does not expire by itself", `INSERT INTO trakr.audit_expiries (up_to, older_than, event_id) VALUES (1, now(), gen_random_uuid())`, denied},
		{"epochs begin by door.ensure_epoch", `INSERT INTO trakr.log_epochs (epoch, system_identifier) VALUES (2, 1)`, denied},
		{"the log keeps its name", `INSERT INTO trakr.log_identity DEFAULT VALUES`, denied},
		{"ids come from the database", `SELECT nextval(pg_get_serial_sequence('trakr.audit_events', 'id'))`, denied},
		{"and are not set", `SELECT setval(pg_get_serial_sequence('trakr.audit_events', 'id'), 1)`, denied},
		{"a lock would hold writers up", `LOCK TABLE trakr.audit_events IN SHARE MODE`, denied},
		{"a lock would hold the sequencer up", `LOCK TABLE trakr.audit_leaves IN ACCESS EXCLUSIVE MODE`, denied},
		{"months are made by door.make_partitions", `SELECT trakr.make_partition('1999-01-01')`, denied},
		{"guards are set by migrations", `SELECT trakr.guard_growth('trakr.tenants', true)`, denied},

		{"a trigger is the owner's", `ALTER TABLE trakr.audit_events DISABLE TRIGGER rows_stay`, owner},
		{"of a month too", `ALTER TABLE ` + month + ` DISABLE TRIGGER ALL`, owner},
		{"replication would skip triggers", `SET session_replication_role = replica`, denied},
		{"for good", `ALTER ROLE trakr_service SET session_replication_role = replica`, denied},
		{"a trigger could swallow events", `CREATE TRIGGER t BEFORE INSERT ON trakr.audit_events FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()`, denied},
		{"a rule could too", `CREATE RULE r AS ON INSERT TO trakr.audit_leaves DO INSTEAD NOTHING`, owner},
		{"no guard off", `ALTER TABLE trakr.tenant_fields DISABLE ROW LEVEL SECURITY`, owner},
		{"nor unforced", `ALTER TABLE trakr.tenant_fields NO FORCE ROW LEVEL SECURITY`, owner},
		{"no policy more", `CREATE POLICY p ON trakr.tenant_fields USING (true)`, owner},
		{"no policy changed", `ALTER POLICY recorded_read ON trakr.tenant_fields USING (true)`, owner},
		{"no policy less", `DROP POLICY recorded_read ON trakr.tenant_fields`, owner},
		{"no new owner", `ALTER TABLE trakr.tenant_fields OWNER TO trakr_service`, owner},
		{"no column", `ALTER TABLE trakr.audit_events ADD COLUMN x text`, owner},
		{"no default", `ALTER TABLE trakr.audit_events ALTER COLUMN recorded_at SET DEFAULT now()`, owner},
		{"no month taken out", `ALTER TABLE trakr.audit_events DETACH PARTITION ` + month, owner},
		{"nothing dropped", `DROP TABLE trakr.audit_events`, owner},
		{"no month dropped", `DROP TABLE ` + month, owner},
		{"no trigger dropped", `DROP TRIGGER rows_stay ON trakr.audit_events`, owner},
		{"no function dropped", `DROP FUNCTION door.append(bytea[])`, owner},
		{"no schema dropped", `DROP SCHEMA trakr CASCADE`, owner},
		{"no index dropped", `DROP INDEX trakr.audit_events_in_order`, owner},
		{"no function changed", `ALTER FUNCTION door.read(bytea[]) RESET ALL`, owner},

		{"nobody else", `SET ROLE trakr_owner`, denied},
		{"nobody else", `SET ROLE trakr_door`, denied},
		{"nobody else", `SET ROLE trakr_sweep`, denied},
		{"nobody else", `SET ROLE trakr_reader`, denied},
		{"nobody else", `SET ROLE trakr_backup`, denied},
		{"nobody else", `SET ROLE pg_read_all_data`, denied},
		{"no superuser", `DO $$ BEGIN EXECUTE format('SET ROLE %I', (SELECT rolname FROM pg_roles WHERE rolsuper LIMIT 1)); END $$`, denied},
		{"no other session", `SET SESSION AUTHORIZATION trakr_owner`, denied},
		{"no other session", `SET SESSION AUTHORIZATION trakr_backup`, denied},
		{"there is nothing to go back to", `RESET ROLE; SELECT 1 WHERE current_user <> 'trakr_service'`, nothing},
		{"there is nothing to go back to", `SET ROLE NONE; SELECT 1 WHERE current_user <> 'trakr_service'`, nothing},
		{"there is nothing to go back to", `SET SESSION AUTHORIZATION DEFAULT; SELECT 1 WHERE session_user <> 'trakr_service'`, nothing},
		{"no membership", `GRANT trakr_owner TO trakr_service`, "admin option"},
		{"no right given to itself", `GRANT SELECT ON trakr.tenant_fields TO trakr_service; SELECT 1 WHERE has_column_privilege('trakr.tenant_fields', 'username', 'SELECT')`, nothing},
		{"nor to everybody", `GRANT DELETE ON trakr.audit_leaves TO PUBLIC; SELECT 1 WHERE has_table_privilege('trakr.audit_leaves', 'DELETE')`, nothing},
		{"no attribute", `ALTER ROLE trakr_service BYPASSRLS`, "must be superuser"},
		{"no attribute", `ALTER ROLE trakr_service SUPERUSER`, "must be superuser"},
		{"no role", `CREATE ROLE somebody`, denied},
		{"no passwords", `SELECT rolpassword FROM pg_authid`, denied},

		{"no function in trakr", `CREATE FUNCTION trakr.f() RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'`, denied},
		{"no function in door", `CREATE OR REPLACE FUNCTION door.append(p_records bytea[]) RETURNS void LANGUAGE sql AS 'SELECT'`, denied},
		{"no function in public", `CREATE FUNCTION public.f() RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'`, denied},
		{"no function in pg_temp", `CREATE FUNCTION pg_temp.f() RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'`, denied},
		{"no operator that leaks", `CREATE OPERATOR public.=== (FUNCTION = byteaeq, LEFTARG = bytea, RIGHTARG = bytea)`, denied},
		{"no table", `CREATE TABLE public.copy AS SELECT tenant_id FROM trakr.tenants`, denied},
		{"no table in trakr", `CREATE TABLE trakr.copy (x bytea)`, denied},
		{"no temporary table", `CREATE TEMPORARY TABLE copy (x bytea)`, denied},
		{"no temporary table", `SELECT tenant_id INTO TEMPORARY copy FROM trakr.tenants`, denied},
		{"no view", `CREATE VIEW public.v AS SELECT tenant_id FROM trakr.tenant_fields`, denied},
		{"no temporary view", `CREATE TEMPORARY VIEW v AS SELECT tenant_id FROM trakr.tenant_fields`, denied},
		{"no materialised view", `CREATE MATERIALIZED VIEW trakr.m AS SELECT 1`, denied},
		{"no schema", `CREATE SCHEMA mine`, denied},
		{"no type", `CREATE TYPE public.t AS (x bytea)`, denied},
		{"no extension", `CREATE EXTENSION lo`, denied},
		{"no publication", `CREATE PUBLICATION p FOR TABLE trakr.tenant_fields`, denied},
		{"no event trigger", `CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION trakr.refuse_change()`, denied},
		{"no way out to a server", `CREATE FOREIGN DATA WRAPPER w`, denied},
		{"no replication slot", `SELECT pg_create_logical_replication_slot('s', 'pgoutput')`, "must be superuser or replication role"},
		{"no files", `SELECT pg_read_file('PG_VERSION')`, denied},
		{"no files", `SELECT pg_read_binary_file('global/pg_control')`, denied},
		{"no directories", `SELECT pg_ls_dir('.')`, denied},
		{"no files as large objects", `SELECT lo_import('/etc/passwd')`, denied},
		{"no large objects as files", `SELECT lo_export(1, '/tmp/x')`, denied},
		{"no log of statements", `SET log_statement = 'all'`, denied},
		{"a path of its own shadows nothing", `SET search_path = pg_temp, public; SELECT username FROM trakr.tenant_fields`, denied},
		{"a path of its own shadows nothing", `SET search_path = public; SELECT door.read(ARRAY['\x7b7d'::bytea])`, "door.read takes"},
	} {
		n, err := attempt(t, conn, c.sql)
		switch {
		case c.refused == nothing && (err != nil || n != 0):
			t.Errorf("%s: %s gave %d rows, %v", c.why, c.sql, n, err)
		case c.refused != nothing && (err == nil || !strings.Contains(err.Error(), c.refused)):
			t.Errorf("%s: %s gave %d rows and %v, want %q", c.why, c.sql, n, err, c.refused)
		}
	}
	// These cannot run in a transaction at all.
	for _, sql := range []string{`ALTER SYSTEM SET fsync = off`, `CREATE DATABASE mine`} {
		if _, err := conn.Exec(t.Context(), sql); err == nil {
			t.Errorf("%s was done", sql)
		}
	}
	for _, table := range logTables(t, e) {
		for _, sql := range []string{`UPDATE ` + table + ` SET ` + anyColumn(table), `DELETE FROM ` + table, `TRUNCATE ` + table, `MERGE INTO ` + table + ` USING (SELECT 1) AS x ON true WHEN MATCHED THEN DELETE`} {
			if n, err := attempt(t, conn, sql); err == nil || !strings.Contains(err.Error(), denied) {
				t.Errorf("the log only grows: %s gave %d rows, %v", sql, n, err)
			}
		}
	}
	// What was refused left nothing, and the door still works for both tenants.
	for _, id := range []lifecycle.TenantID{a, b} {
		if got, err := e.Door.Read(t.Context(), storetest.Service(), id, lifecycle.Username); err != nil || len(got.Values) != 1 {
			t.Errorf("%v", err)
		}
	}
}

// What an erasure leaves can be neither undone nor rewritten by the service's login.
func TestTheServicesLoginCannotUndoAnErasure(t *testing.T) {
	e := storetest.New(t)
	id := e.Install(storetest.Values("gone"), "a")
	if _, err := e.Erase(t.Context(), storetest.Ingress(), id, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: e.Delivery("bye")}); err != nil {
		t.Fatal(err)
	}
	conn := asService(t, e)
	for _, sql := range []string{
		`UPDATE trakr.tenants SET state = 'live', erased_at = NULL, subject_digest = decode(repeat('00', 36), 'hex') WHERE tenant_id = '` + id.String() + `'`,
		`UPDATE trakr.tenants SET state = 'erasing', erased_at = NULL WHERE tenant_id = '` + id.String() + `'`,
		`UPDATE trakr.tenants SET erased_at = now() WHERE tenant_id = '` + id.String() + `'`,
		`UPDATE trakr.tenants SET tenant_id = gen_random_uuid() WHERE tenant_id = '` + id.String() + `'`,
		`DELETE FROM trakr.tenants`, `DELETE FROM trakr.erasures`, `TRUNCATE trakr.erasures CASCADE`,
		`UPDATE trakr.erasures SET trigger = 'probe'`, `UPDATE trakr.erasures SET subject_digest = decode(repeat('00', 36), 'hex')`,
		`UPDATE trakr.erasures SET erased_at = NULL`, `UPDATE trakr.erasures SET erased_at = now()`, `UPDATE trakr.erasures SET noted_at = NULL, ledger_seq = NULL, ledger_hash = NULL`,
		`UPDATE trakr.erasures SET ledger_seq = ledger_seq + 1`,
		`DELETE FROM trakr.erasure_counts`, `UPDATE trakr.erasure_counts SET rows = 0`, `DELETE FROM trakr.certificates`, `UPDATE trakr.certificates SET document = ''`,
		`DELETE FROM trakr.ledger_identity`, `UPDATE trakr.ledger_identity SET ledger_id = gen_random_uuid()`, `TRUNCATE trakr.ledger_identity`,
	} {
		n, err := attempt(t, conn, sql)
		if err == nil || !strings.Contains(err.Error(), "42501") && !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("%s gave %d rows, %v", sql, n, err)
		}
	}
	if n := e.Int(`SELECT count(*) FROM trakr.tenants AS t JOIN trakr.erasures AS x USING (tenant_id) WHERE t.state = 'erased' AND x.erased_at IS NOT NULL`); n != 1 {
		t.Errorf("%d erased tenants", n)
	}
}

// anyColumn is a change that would change nothing but needs the right.
func anyColumn(table string) string {
	for name, column := range map[string]string{"events": "record = record", "leaves": "hashes = hashes", "tiles": "data = data", "checkpoints": "note = note",
		"expiries": "up_to = up_to", "epochs": "epoch = epoch", "identity": "log_id = log_id"} {
		if strings.Contains(table, name) {
			return column
		}
	}
	return "x = x"
}

func TestOnlyARecordedTransactionSeesItsOwnTenant(t *testing.T) {
	e := storetest.New(t)
	a, b := e.Install(storetest.Values("a"), "a"), e.Install(storetest.Values("b"), "b")
	c := asService(t, e)
	const all, one = `SELECT tenant_id FROM trakr.tenant_fields`, `SELECT tenant_id FROM trakr.tenant_fields WHERE tenant_id = `
	for _, row := range []struct {
		why, sql string
		want     int64
	}{
		{"nothing recorded", all, 0},
		{"its own tenant", appended(e, audit.TenantRead, audit.Success, a) + all, 1},
		{"its own tenant, by name", appended(e, audit.TenantRead, audit.Success, a) + one + `'` + a.String() + `'`, 1},
		{"another tenant", appended(e, audit.TenantRead, audit.Success, a) + one + `'` + b.String() + `'`, 0},
		{"both recorded", appended(e, audit.TenantRead, audit.Success, a) + appended(e, audit.TenantRead, audit.Success, b) + all, 2},
		{"a denial gives nothing", appended(e, audit.TenantRead, audit.Denied, a) + all, 0},
		{"a look-up gives nothing", appended(e, audit.TenantLookup, audit.Success, a) + all, 0},
		{"recorded too late", all + `; ` + strings.TrimSuffix(appended(e, audit.TenantRead, audit.Success, a), "; ") + ` LIMIT 0`, 0},
		{"after the recording was undone", `SAVEPOINT s; ` + appended(e, audit.TenantRead, audit.Success, a) + `ROLLBACK TO s; ` + all, 0},
		{"a reading does not permit an erasure", appended(e, audit.TenantRead, audit.Success, a) + `DELETE FROM trakr.tenant_fields`, 0},
		{"an erasure of another tenant", appended(e, audit.TenantErase, audit.Success, b) + `DELETE FROM trakr.tenant_fields WHERE tenant_id = '` + a.String() + `'`, 0},
		{"an erasure that never began", appended(e, audit.TenantErase, audit.Success, b) + `DELETE FROM trakr.tenant_fields`, 0},
		{"an erasure that the ledger does not have", appended(e, audit.TenantErase, audit.Success, b) + begun(b) + `DELETE FROM trakr.tenant_fields`, 0},
		{"an erasure that has not come to it", appended(e, audit.TenantErase, audit.Success, b) + begun(b) + noted + `DELETE FROM trakr.tenant_fields`, 0},
		{"an erasure of its own", appended(e, audit.TenantErase, audit.Success, b) + begun(b) + noted + gone + `DELETE FROM trakr.tenant_fields`, 1},
		{"without its event", begun(b) + noted + gone + `DELETE FROM trakr.tenant_fields`, 0},
	} {
		if n, err := attempt(t, c, row.sql); err != nil || n != row.want {
			t.Errorf("%s: %d rows, %v; want %d", row.why, n, err, row.want)
		}
	}
	// The transaction after one that was recorded and committed.
	if _, err := c.Exec(t.Context(), appended(e, audit.TenantRead, audit.Success, a)); err != nil {
		t.Fatal(err)
	}
	if n, err := attempt(t, c, all); err != nil || n != 0 {
		t.Errorf("the next transaction: %d rows, %v", n, err)
	}
}

// begun, noted and gone are the steps of an erasure, as the service's role may enter
// them.
func begun(id lifecycle.TenantID) string {
	return `INSERT INTO trakr.erasures (erasure_id, tenant_id, ingress, trigger, subject_digest, requested_at)
		VALUES (gen_random_uuid(), '` + id.String() + `', 'connect', 'uninstall', decode(repeat('00', 36), 'hex'), now()); `
}

const (
	noted = `UPDATE trakr.erasures SET noted_at = now(), ledger_seq = 1, ledger_hash = sha256('a'); `
	gone  = `UPDATE trakr.erasures SET erased_at = now(); `
)

// The service's own login, with every event that its role may forge, deletes nothing
// that a legal hold keeps.
func TestALegalHoldKeepsTheValuesFromTheServicesLogin(t *testing.T) {
	e := storetest.New(t)
	held := storetest.Must(t)(holds.New(e.DB, e.Log, e.Policy, &storetest.Outside{})).(*holds.Store)
	e.Clock.Add(-2 * time.Hour)
	lawyer := lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorStaff, ID: "token:lawyer", Role: lifecycle.RoleReviewer},
		Reason: lifecycle.Reason{Code: lifecycle.LegalRequest, Ref: "LEG-1"}, RequestID: "req-test"}
	id, other := e.Install(storetest.Values("a"), "a"), e.Install(storetest.Values("b"), "b")
	place := func(id lifecycle.TenantID, until time.Duration) holds.Hold {
		return storetest.Must(t)(held.Place(t.Context(), lawyer, holds.Order{Tenant: id, Ground: holds.LegalClaim, Until: e.Clock.Now().Add(until)})).(holds.Hold)
	}
	c := asService(t, e)
	deletes := func(why string, want int64) {
		t.Helper()
		sql := appended(e, audit.TenantErase, audit.Success, id) + begun(id) + noted + gone + `DELETE FROM trakr.tenant_fields WHERE tenant_id = '` + id.String() + `'`
		if n, err := attempt(t, c, sql); err != nil || n != want {
			t.Errorf("%s: %d rows, %v; want %d", why, n, err, want)
		}
	}
	place(other, 100*time.Hour)
	place(id, time.Hour)
	deletes("a hold that ended an hour ago, and one of another tenant", 1)
	active := place(id, 3*time.Hour)
	deletes("a hold that ends in an hour", 0)
	if _, err := attempt(t, c, `UPDATE trakr.legal_holds SET released_at = now(), released_by = 'nobody'`); err == nil {
		t.Error("the hold was released without an event")
	}
	storetest.Must(t)(held.Release(t.Context(), lawyer, active.ID))
	deletes("a hold that was released", 1)
}

func TestTheOwnerIsBoundToo(t *testing.T) {
	e := storetest.New(t)
	e.Install(storetest.Values("a"), "a")
	c := login(t, e.URL, "trakr_owner")
	for _, table := range logTables(t, e) {
		for _, sql := range []string{`DELETE FROM ` + table, `UPDATE ` + table + ` SET ` + anyColumn(table), `TRUNCATE ` + table} {
			// A statement without a row meets no row trigger; TRUNCATE always does.
			if n, err := attempt(t, c, sql); (err == nil && (n > 0 || strings.HasPrefix(sql, "TRUNCATE"))) || (err != nil && !strings.Contains(err.Error(), "append-only")) {
				t.Errorf("%s: %d rows, %v", sql, n, err)
			}
		}
	}
	for _, sql := range []string{`DELETE FROM trakr.audit_events`, `UPDATE trakr.log_identity SET log_id = gen_random_uuid()`, `DELETE FROM trakr.log_epochs`} {
		if _, err := attempt(t, c, sql); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if n, err := attempt(t, c, `SELECT tenant_id FROM trakr.tenant_fields`); err != nil || n != 0 {
		t.Errorf("the owner sees %d rows of values, %v", n, err)
	}
}

func TestTheReaderSeesTheAuditAndNoValue(t *testing.T) {
	e := storetest.New(t)
	a := e.Install(storetest.Values("a"), "a")
	c := login(t, e.URL, "trakr_reader")
	for _, table := range []string{"audit_events", "audit_leaves", "audit_tiles", "audit_checkpoints", "audit_expiries", "log_identity", "log_epochs", "tenants", "erasures",
		"sweep_runs", "sweep_results", "findings", "reports_issued"} {
		if _, err := attempt(t, c, `SELECT * FROM trakr.`+table); err != nil {
			t.Errorf("%s: %v", table, err)
		}
	}
	if n, err := attempt(t, c, `SELECT * FROM trakr.audit_events`); err != nil || n == 0 {
		t.Errorf("the reader sees %d events, %v", n, err)
	}
	for _, sql := range []string{
		`SELECT * FROM trakr.tenant_fields`, `SELECT tenant_id FROM trakr.tenant_fields`, `SELECT secret_hash FROM trakr.api_tokens`, `SELECT * FROM trakr.replay_guard`,
		`SELECT digest FROM trakr.keyring_checks`, appended(e, audit.TenantRead, audit.Success, a), `SELECT door.read(ARRAY['\x7b7d'::bytea])`, `SELECT door.ensure_epoch()`,
		`INSERT INTO trakr.findings DEFAULT VALUES`, `UPDATE trakr.tenants SET state = 'live'`, `DELETE FROM trakr.audit_events`, `TRUNCATE trakr.sweep_runs`,
		`CREATE TEMPORARY TABLE x (y integer)`, `CREATE TABLE public.x (y integer)`, `INSERT INTO trakr.audit_leaves DEFAULT VALUES`,
	} {
		if n, err := attempt(t, c, sql); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("the reader may %s: %d rows, %v", sql, n, err)
		}
	}
}

// The database itself, not the code in front of it, returns no column that a record
// does not name: each request of a batch gets its own, at its own place.
func TestTheReadFunctionReturnsOnlyWhatEachRecordNames(t *testing.T) {
	e := storetest.New(t)
	c := asService(t, e)
	columns := lifecycle.Fields()
	ids := []lifecycle.TenantID{e.Install(storetest.Values("one"), "one"), e.Install(storetest.Values("two"), "two")}
	var records []string
	var asked []map[lifecycle.Field]bool
	for bits := 1; bits < 1<<len(columns); bits++ {
		ev := audit.New(t.Context(), e.Clock.Now(), storetest.Service(), audit.TenantRead, audit.Success)
		ev.TenantID = ids[bits%2]
		names := map[lifecycle.Field]bool{}
		for i, f := range columns {
			if bits>>i&1 == 1 {
				ev.FieldNames, names[f] = append(ev.FieldNames, f), true
			}
		}
		records, asked = append(records, fmt.Sprintf(`'\x%x'::bytea`, ev.Record())), append(asked, names)
	}
	rows, err := c.Query(t.Context(), `SELECT ord, client_key, shared_secret, principal_uuid, username, avatar_url FROM door.read(ARRAY[`+strings.Join(records, ",")+`])`)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	var ord int
	got := make([][]byte, len(columns))
	_, err = pgx.ForEachRow(rows, []any{&ord, &got[0], &got[1], &got[2], &got[3], &got[4]}, func() error {
		seen++
		for i, f := range columns {
			if (got[i] != nil) != asked[ord-1][f] {
				t.Errorf("request %d names %v: %s returned is %v", ord, asked[ord-1], f, got[i] != nil)
			}
			if got[i] == nil {
				continue
			}
			// It is the value of the tenant the record names, and of no other.
			if _, err := e.Keys.Decrypt(ids[ord%2], f, got[i]); err != nil {
				t.Errorf("request %d: %s is not this tenant's: %v", ord, f, err)
			}
		}
		return nil
	})
	if err != nil || seen != len(records) {
		t.Errorf("%d rows for %d requests: %v", seen, len(records), err)
	}
}
