package guard_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"trakr/internal/check"
	"trakr/internal/store"
	"trakr/internal/store/guard"
	"trakr/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

func look(t *testing.T, e *storetest.Env) []guard.Control {
	t.Helper()
	got, err := guard.Check(t.Context(), e.DB)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// After a migration that changes a function on purpose, put the printed lines into
// the table of expect.go; everything else there is changed by hand.
func TestTheExpectationIsWhatTheMigrationsMake(t *testing.T) {
	e := storetest.New(t)
	for _, c := range look(t, e) {
		switch {
		case c.ID == "fsync" || c.ID == "full_page_writes":
			if c.State != check.Fail || c.Required {
				t.Errorf("the test server does not flush, and %s is %s", c.ID, c.State)
			}
		case c.State != check.Pass || c.Remark != "":
			t.Errorf("%s: %s: %s %s", c.ID, c.State, c.Remark, strings.Join(c.Differences, "\n  "))
		}
	}
	if t.Failed() {
		changed(t, e, `SELECT`, func(tx pgx.Tx) {
			for _, line := range guard.Bodies(t.Context(), tx) {
				fmt.Println("put into expect.go:", line)
			}
			for _, line := range guard.Constraints(t.Context(), tx) {
				fmt.Println("put into constraints.go:", line)
			}
		})
	}
	if err := guard.Refusal(look(t, e)); err != nil {
		t.Error(err)
	}
}

// Each row changes the database as a superuser could; only the named control must
// fail, and the difference must say what was done.
func TestEveryChangeOfTheCatalogIsNamed(t *testing.T) {
	const partition = `DO $$ BEGIN EXECUTE format(%L, to_char(now() AT TIME ZONE 'UTC', 'YYYYMM')); END $$`
	month := func(sql string) string { return strings.ReplaceAll(partition, "%L", "$f$"+sql+"$f$") }
	e := storetest.New(t)
	for _, c := range []struct{ name, sql, control, says string }{
		{"row trigger dropped", `DROP TRIGGER rows_stay ON trakr.audit_events`, "triggers", "missing: rows_stay"},
		{"row trigger disabled", `ALTER TABLE trakr.audit_leaves DISABLE TRIGGER rows_stay`, "triggers", "but disabled"},
		{"trigger off in replica mode", `ALTER TABLE trakr.audit_tiles ENABLE TRIGGER rows_stay`, "triggers", "but not in replica mode"},
		{"truncate trigger of one month", month(`DROP TRIGGER table_stays ON trakr.audit_events_%s`), "triggers", "missing: table_stays BEFORE TRUNCATE ON trakr.audit_events_2"},
		{"row trigger of one month disabled", month(`ALTER TABLE trakr.audit_events_%s DISABLE TRIGGER rows_stay`), "triggers", "trakr.audit_events_2"},
		{"a condition on the trigger", `DROP TRIGGER rows_stay ON trakr.audit_checkpoints; CREATE TRIGGER rows_stay BEFORE DELETE OR UPDATE ON trakr.audit_checkpoints FOR EACH ROW WHEN (OLD.size < 0) EXECUTE FUNCTION trakr.refuse_change(); ALTER TABLE trakr.audit_checkpoints ENABLE ALWAYS TRIGGER rows_stay`, "triggers", "WHEN"},
		{"a further trigger", `CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; CREATE TRIGGER a_swallow BEFORE INSERT ON trakr.audit_events FOR EACH ROW EXECUTE FUNCTION public.swallow()`, "triggers", "too much: a_swallow"},
		{"a rule", `CREATE RULE nothing AS ON INSERT TO trakr.audit_checkpoints DO INSTEAD NOTHING`, "triggers", "rule nothing"},
		{"foreign keys unchecked", `ALTER TABLE trakr.tenant_fields DISABLE TRIGGER ALL`, "triggers", "foreign key of trakr.tenant_fields"},
		{"the trigger's function changed", `CREATE OR REPLACE FUNCTION trakr.refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ BEGIN RETURN OLD; END $$`, "functions", "trakr.refuse_change() has body"},
		{"the read function changed", `CREATE OR REPLACE FUNCTION door.append(p_records bytea[]) RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ BEGIN END $$`, "functions", "door.append(bytea[]) has body"},
		{"search_path of a definer function", `ALTER FUNCTION door.read(bytea[]) RESET search_path`, "functions", "missing: door.read(bytea[]) sets search_path"},
		{"no definer any more", `ALTER FUNCTION door.ensure_epoch() SECURITY INVOKER`, "functions", "SECURITY INVOKER"},
		{"a function dropped", `DROP FUNCTION door.measure(name, name, name, timestamptz)`, "functions", "missing: door.measure"},
		{"a further function", `CREATE FUNCTION door.more() RETURNS integer LANGUAGE sql AS 'SELECT 1'; REVOKE ALL ON FUNCTION door.more() FROM PUBLIC; ALTER FUNCTION door.more() OWNER TO trakr_owner`, "functions", "too much: door.more()"},
		{"SELECT on the values", `GRANT SELECT ON trakr.tenant_fields TO trakr_service`, "table grants", "trakr_service may SELECT trakr.tenant_fields"},
		{"one column of the values", `GRANT SELECT (username) ON trakr.tenant_fields TO trakr_service`, "table grants", "(tenant_id, username)"},
		{"values for everybody", `GRANT SELECT (username) ON trakr.tenant_fields TO PUBLIC`, "table grants", "PUBLIC may SELECT trakr.tenant_fields (username)"},
		{"values for a stranger", `GRANT SELECT ON trakr.tenant_fields TO pg_monitor`, "table grants", "pg_monitor"},
		{"DELETE on the audit", `GRANT DELETE ON trakr.audit_events TO trakr_service`, "table grants", "DELETE trakr.audit_events"},
		{"INSERT into the audit", `GRANT INSERT ON trakr.audit_events TO trakr_service`, "table grants", "INSERT trakr.audit_events"},
		{"UPDATE on one month", month(`GRANT UPDATE ON trakr.audit_events_%s TO trakr_service`), "table grants", "trakr_service may UPDATE trakr.audit_events_2"},
		{"a reader that writes", `GRANT INSERT ON trakr.findings TO trakr_reader`, "table grants", "trakr_reader may INSERT"},
		{"a grant that is missing", `REVOKE SELECT ON trakr.audit_leaves FROM trakr_reader`, "table grants", "missing: trakr_reader may SELECT trakr.audit_leaves"},
		{"the sequence", `GRANT USAGE ON SEQUENCE trakr.audit_events_id_seq TO trakr_service`, "table grants", "USAGE"},
		{"a function for everybody", `GRANT EXECUTE ON FUNCTION door.read(bytea[]) TO PUBLIC`, "function grants", "PUBLIC may call door.read"},
		{"making partitions at will", `GRANT EXECUTE ON FUNCTION trakr.make_partition(timestamptz) TO trakr_service`, "function grants", "trakr.make_partition"},
		{"another owner", `ALTER TABLE trakr.audit_tiles OWNER TO trakr_service; GRANT SELECT, INSERT ON trakr.audit_tiles TO trakr_service; REVOKE ALL ON trakr.audit_tiles FROM trakr_owner`, "owners", "trakr.audit_tiles belongs to trakr_service"},
		{"a definer function of a superuser", `ALTER FUNCTION door.append(bytea[]) OWNER TO trakr_owner; REVOKE ALL ON FUNCTION door.append(bytea[]) FROM trakr_door; GRANT EXECUTE ON FUNCTION door.append(bytea[]) TO trakr_service`, "owners", "door.append(bytea[]) belongs to trakr_owner"},
		{"row security off", `ALTER TABLE trakr.tenant_fields DISABLE ROW LEVEL SECURITY`, "row security", "missing: trakr.tenant_fields has row-level security enabled"},
		{"not forced", `ALTER TABLE trakr.tenant_fields NO FORCE ROW LEVEL SECURITY`, "row security", "forced"},
		{"a policy more", `CREATE POLICY all_of_it ON trakr.tenant_fields FOR SELECT USING (true)`, "row security", "all_of_it"},
		{"a policy changed", `ALTER POLICY recorded_erase ON trakr.tenant_fields USING (true)`, "row security", "recorded_erase: DELETE to PUBLIC using true"},
		{"TEMP", `DO $$ BEGIN EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO PUBLIC', current_database()); END $$`, "creation", "trakr_service may TEMPORARY"},
		{"CREATE in public", `GRANT CREATE ON SCHEMA public TO PUBLIC`, "creation", "trakr_service may CREATE in schema public"},
		{"CREATE in door", `GRANT CREATE ON SCHEMA door TO trakr_service`, "creation", "trakr_service has CREATE on schema door"},
		{"future tables", `ALTER DEFAULT PRIVILEGES FOR ROLE trakr_owner IN SCHEMA trakr GRANT SELECT ON TABLES TO trakr_service`, "creation", "every new table"},
		{"future functions", `ALTER DEFAULT PRIVILEGES FOR ROLE trakr_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC`, "creation", "PUBLIC may EXECUTE every new function"},
		{"two people", `ALTER TABLE trakr.deletion_requests DROP CONSTRAINT deletion_requests_two_people`, "constraints", "missing: trakr.deletion_requests has deletion_requests_two_people"},
		{"a hold without end", `ALTER TABLE trakr.legal_holds DROP CONSTRAINT legal_holds_end`, "constraints", "missing: trakr.legal_holds has legal_holds_end"},
		{"erasures out of order", `ALTER TABLE trakr.erasures DROP CONSTRAINT erasures_in_order`, "constraints", "missing: trakr.erasures has erasures_in_order"},
		{"two certificates", `ALTER TABLE trakr.certificates DROP CONSTRAINT certificates_one_each`, "constraints", "missing: trakr.certificates has certificates_one_each"},
		{"two open requests", `DROP INDEX trakr.deletion_requests_one_open`, "constraints", "missing: trakr.deletion_requests has trakr.deletion_requests_one_open"},
		{"a check that says less", `ALTER TABLE trakr.legal_holds DROP CONSTRAINT legal_holds_end, ADD CONSTRAINT legal_holds_end CHECK (until > placed_at)`, "constraints", "too much: trakr.legal_holds has legal_holds_end"},
		{"a check that looks at new rows alone", `ALTER TABLE trakr.legal_holds DROP CONSTRAINT legal_holds_end, ADD CONSTRAINT legal_holds_end CHECK (until > placed_at AND until <= placed_at + interval '366 days') NOT VALID`, "constraints", "legal_holds_end"},
		{"an open end", `ALTER TABLE trakr.legal_holds ALTER until DROP NOT NULL`, "constraints", "missing: trakr.legal_holds has columns that are always filled"},
		{"a foreign key", `ALTER TABLE trakr.erasures DROP CONSTRAINT erasures_tenant`, "constraints", "missing: trakr.erasures has erasures_tenant"},
		{"the hold's trigger dropped", `DROP TRIGGER hold_changes ON trakr.legal_holds`, "triggers", "missing: hold_changes"},
		{"event_id not unique", month(`DROP INDEX trakr.audit_events_%1$s_event_once`), "partitions", "has each event_id once"},
		{"a month by another name", `CREATE TABLE trakr.audit_events_197001 PARTITION OF trakr.audit_events FOR VALUES FROM ('1980-01-01+00') TO ('1980-02-01+00'); ALTER TABLE trakr.audit_events_197001 OWNER TO trakr_owner`, "partitions", "audit_events_197001"},
		{"a month is missing", `DO $$ BEGIN EXECUTE 'DROP TABLE trakr.audit_events_' || to_char(date_trunc('month', now() AT TIME ZONE 'UTC') + interval '2 months', 'YYYYMM'); END $$`, "months ahead", "is missing"},
		{"a view on the values", `CREATE VIEW public.v AS SELECT username FROM trakr.tenant_fields`, "ways around", "view public.v"},
		{"a definer function elsewhere", `GRANT USAGE ON SCHEMA public TO PUBLIC; CREATE FUNCTION public.peek() RETURNS bytea LANGUAGE sql SECURITY DEFINER AS 'SELECT username FROM trakr.tenant_fields LIMIT 1'`, "ways around", "public.peek()"},
		{"replication", `CREATE PUBLICATION p FOR TABLE trakr.tenant_fields`, "ways around", "publication p"},
		{"a setting of the database", `DO $$ BEGIN EXECUTE format('ALTER ROLE trakr_service IN DATABASE %I SET synchronous_commit = off', current_database()); END $$`, "role settings", "synchronous_commit=off"},
		{"ALTER ROLE trakr_owner LOGIN", `ALTER ROLE trakr_owner LOGIN`, "roles", "trakr_owner LOGIN"},
		{"ALTER ROLE trakr_service SUPERUSER", `ALTER ROLE trakr_service SUPERUSER`, "roles", "trakr_service SUPERUSER"},
		{"ALTER ROLE trakr_service BYPASSRLS", `ALTER ROLE trakr_service BYPASSRLS`, "roles", "trakr_service BYPASSRLS"},
		{"ALTER ROLE trakr_door BYPASSRLS", `ALTER ROLE trakr_door BYPASSRLS`, "roles", "trakr_door BYPASSRLS"},
		{"ALTER ROLE trakr_service CREATEROLE", `ALTER ROLE trakr_service CREATEROLE`, "roles", "CREATEROLE"},
		{"ALTER ROLE trakr_reader REPLICATION", `ALTER ROLE trakr_reader REPLICATION`, "roles", "REPLICATION"},
		{"GRANT trakr_owner TO trakr_service", `GRANT trakr_owner TO trakr_service`, "memberships", "trakr_service is a member of trakr_owner"},
		{"GRANT pg_read_all_data TO trakr_service", `GRANT pg_read_all_data TO trakr_service`, "memberships", "pg_read_all_data"},
		{"GRANT trakr_door TO trakr_reader", `GRANT trakr_door TO trakr_reader`, "memberships", "trakr_reader is a member of trakr_door"},
		{"GRANT pg_write_all_data TO trakr_sweep", `GRANT pg_write_all_data TO trakr_sweep`, "memberships", "pg_write_all_data"},
		{"GRANT SET ON PARAMETER session_replication_role TO trakr_service", `GRANT SET ON PARAMETER session_replication_role TO trakr_service`, "role settings", "session_replication_role"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []guard.Control
			changed(t, e, c.sql, func(tx pgx.Tx) { got = storetest.Must(t)(guard.In(t.Context(), tx)).([]guard.Control) })
			i := slices.IndexFunc(got, func(x guard.Control) bool { return x.ID == c.control })
			said := strings.Join(got[i].Differences, "\n")
			if got[i].State != check.Fail || !strings.Contains(said, c.says) || got[i].WayOut == "" {
				t.Errorf("%s is %s and says\n%s\nwant %q", c.control, got[i].State, said, c.says)
			}
			err := guard.Refusal(got[i : i+1])
			if (err != nil) != got[i].Required || (err != nil && (!strings.Contains(err.Error(), got[i].Name) || !strings.Contains(err.Error(), "Way out"))) {
				t.Errorf("refusal: %v", err)
			}
		})
	}
	if err := guard.Refusal(look(t, e)); err != nil {
		t.Errorf("a change was not undone: %v", err)
	}
}

// changed lets do see the catalog after the SQL, and undoes it.
func changed(t *testing.T, e *storetest.Env, sql string, do func(pgx.Tx)) {
	t.Helper()
	c := storetest.Must(t)(pgx.Connect(t.Context(), e.URL)).(*pgx.Conn)
	defer func() { _ = c.Close(context.Background()) }()
	tx := storetest.Must(t)(c.Begin(t.Context())).(pgx.Tx)
	for _, s := range []string{sql, `SET LOCAL ROLE ` + store.ServiceRole} {
		if _, err := tx.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	do(tx)
}

func TestAHigherLoginIsWeaker(t *testing.T) {
	e := storetest.New(t)
	for _, c := range []struct {
		role    string
		session check.State
		remark  string
	}{{store.ServiceRole, check.Pass, "weaker"}, {store.OwnerRole, check.Fail, "weaker"}} {
		db, err := store.Open(t.Context(), e.URL, store.Options{MaxConns: 2, Role: c.role})
		if err != nil {
			t.Fatal(err)
		}
		got, err := guard.Check(t.Context(), db)
		db.Close()
		if err != nil {
			t.Fatal(err)
		}
		if got[0].ID != "session" || got[0].State != c.session || !strings.Contains(got[1].Remark, c.remark) {
			t.Errorf("as %s: %+v", c.role, got[:2])
		}
	}
}

func TestADatabaseThatDoesNotAnswerIsUnknown(t *testing.T) {
	e := storetest.New(t)
	e.DB.Close()
	_, err := guard.Check(t.Context(), e.DB)
	if err == nil {
		t.Fatal("a closed database was judged")
	}
	for _, c := range guard.Unknown(err) {
		if c.State != check.Unknown {
			t.Errorf("%+v", c)
		}
	}
	if guard.Refusal(guard.Unknown(err)) == nil {
		t.Error("unknown controls do not keep the service from starting")
	}
}
