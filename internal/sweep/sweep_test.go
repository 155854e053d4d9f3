package sweep_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"trakr/internal/erasure/erasuretest"
	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/census"
	"trakr/internal/store/findings"
	"trakr/internal/store/outbox"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tenants"
	"trakr/internal/sweep"
	"trakr/internal/sweep/sweeptest"
	"trakr/migrations"
	"trakr/policy"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

var scheduler = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "cron", Role: lifecycle.RoleScheduler},
	Reason: lifecycle.Reason{Code: lifecycle.SystemSweep}}

func runner(t *testing.T, e *storetest.Env) *sweep.Runner {
	t.Helper()
	r, err := sweep.New(e.DB, e.Policy, e.Clock.Now, slog.New(slog.DiscardHandler), sweeptest.Fill(e.Policy, sweep.NewOrphans(census.New(e.DB), e.Policy), sweep.NewErasures(erasuretest.New(t, e).Eraser, e.Policy, storetest.Must(t)(outbox.New(e.DB, e.Log, e.Keys)).(*outbox.Store)))...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func run(t *testing.T, e *storetest.Env) findings.Run {
	t.Helper()
	if err := census.New(e.DB).PlantCanary(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := runner(t, e).RunOnce(t.Context(), scheduler, sweep.Orphans, sweep.ByCommand)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func check(r findings.Run, table string) findings.Check {
	i := slices.IndexFunc(r.Checks, func(c findings.Check) bool { return c.Table == table })
	if i < 0 {
		return findings.Check{Rows: -1}
	}
	return r.Checks[i]
}

func checkColumn(r findings.Run, table, column string) findings.Check {
	i := slices.IndexFunc(r.Checks, func(c findings.Check) bool { return c.Table == table && c.Column == column })
	if i < 0 {
		return findings.Check{Rows: -1}
	}
	return r.Checks[i]
}

// carrier is the column that carries the tenant in a table of the later release.
func carrier(table string) string {
	switch table {
	case "public.texts":
		return "Owner_Tenant_ID"
	case "public.linked":
		return "t"
	}
	return "tenant_id"
}

func uninstall(t *testing.T, e *storetest.Env, id lifecycle.TenantID) {
	t.Helper()
	if _, err := e.Erase(t.Context(), storetest.Ingress(), id, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: e.Delivery("bye" + id.String())}); err != nil {
		t.Fatal(err)
	}
}

func TestACleanSweepStoresTheZeroOfEveryTable(t *testing.T) {
	e := storetest.New(t)
	e.Install(storetest.Values("live"), "a")
	uninstall(t, e, e.Install(storetest.Values("gone"), "b"))
	r := run(t, e)
	if r.Result != findings.Clean || len(r.Findings) != 0 {
		t.Fatalf("%s with %d findings", r.Result, len(r.Findings))
	}
	for table, want := range map[string]findings.Disposition{"trakr.tenant_fields": findings.Checked, "trakr.replay_guard": findings.Checked, "trakr.outbox_payloads": findings.Checked,
		"trakr.tenants": findings.Retained, "trakr.erasures": findings.Retained, "trakr.audit_events": findings.Retained} {
		c := check(r, table)
		if c.Disposition != want || (want == findings.Checked && c.Rows != 0) || len(c.PredicateDigest) != 64 {
			t.Errorf("%s: %+v", table, c)
		}
	}
	if n := e.Int(`SELECT count(*) FROM trakr.sweep_results WHERE run_id = $1 AND rows = 0 AND disposition = 'checked'`, r.ID); n != 4 {
		t.Errorf("%d zeros stored, want 4", n)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'sweep.run' AND correlation_id = $1`, r.ID); n != 1 {
		t.Error("the run is not in the audit")
	}
}

// A later release adds a table and nobody tells the sweep.
func TestANewTableWithAStaleRowIsFoundWithoutTouchingTheSweep(t *testing.T) {
	e := storetest.New(t)
	gone := e.Install(storetest.Values("gone"), "b")
	live := e.Install(storetest.Values("live"), "a")
	uninstall(t, e, gone)
	later := fstest.MapFS{}
	names, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := migrations.FS.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		later[name] = &fstest.MapFile{Data: b}
	}
	later["00099_later.sql"] = &fstest.MapFile{Data: []byte(`-- +goose Up
CREATE SCHEMA "Extra";
CREATE TABLE "Extra"."Odd ""Name" (id int, tenant_id uuid);
CREATE TABLE public.texts ("Owner_Tenant_ID" text);
CREATE TABLE public.linked (t uuid REFERENCES trakr.tenants (tenant_id));
CREATE TABLE public.parts (tenant_id uuid, at int) PARTITION BY RANGE (at);
CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES FROM (0) TO (10);
CREATE MATERIALIZED VIEW public.mirror AS SELECT '` + gone.String() + `'::uuid AS tenant_id;
INSERT INTO "Extra"."Odd ""Name" VALUES (1, '` + gone.String() + `'), (2, '` + gone.String() + `'), (3, '` + live.String() + `'), (4, NULL);
INSERT INTO public.texts VALUES ('{` + gone.String() + `}'), ('` + live.String() + `');
INSERT INTO public.linked VALUES ('` + gone.String() + `');
INSERT INTO public.parts VALUES ('` + gone.String() + `', 1);
`)}
	if _, err := store.MigrateFrom(t.Context(), e.URL, later); err != nil {
		t.Fatal(err)
	}
	r := run(t, e)
	if r.Result != findings.Found {
		t.Fatalf("result %s", r.Result)
	}
	for table, rows := range map[string]int64{`"Extra"."Odd ""Name"`: 2, "public.texts": 1, "public.linked": 1, "public.parts": 1, "public.mirror": 1, "trakr.tenant_fields": 0} {
		c := check(r, table)
		if declared := strings.HasPrefix(table, "trakr."); !declared && (!c.Undeclared || c.Column != "") {
			t.Errorf("%s: not found to be undeclared: %+v", table, c)
		} else if !declared {
			c = checkColumn(r, table, carrier(table))
		}
		if c.Rows != rows || c.Disposition != findings.Checked {
			t.Errorf("%s: %+v, want %d rows", table, c, rows)
		}
	}
	if c := check(r, "public.parts_1"); c.Rows != -1 {
		t.Error("a partition was counted a second time")
	}
	if len(r.Findings) != 10 { // each table, and the rows in it
		t.Errorf("%d findings", len(r.Findings))
	}
	first := r.Findings[0].ID

	e.Clock.Add(time.Minute)
	again := run(t, e)
	if len(again.Findings) != 10 || again.Findings[0].ID != first {
		t.Error("the same rows opened a second finding")
	}
	e.Exec(`DELETE FROM "Extra"."Odd ""Name"; DELETE FROM public.texts; DROP TABLE public.linked; DROP TABLE public.parts; DROP MATERIALIZED VIEW public.mirror`)
	e.Clock.Add(time.Minute)
	if r := run(t, e); r.Result != findings.Found || len(r.Findings) != 2 || r.Findings[0].Rows != 0 || r.Findings[0].Ground == "" {
		t.Errorf("two empty tables that nobody declared: %s, %+v", r.Result, r.Findings)
	}
	e.Exec(`DROP TABLE "Extra"."Odd ""Name"; DROP TABLE public.texts`)
	e.Clock.Add(time.Minute)
	if clean := run(t, e); clean.Result != findings.Clean || len(clean.Findings) != 0 {
		t.Errorf("after the rows are gone: %s, %d findings open", clean.Result, len(clean.Findings))
	}
}

// declare adds a table of the database to the policy.
func declare(e *storetest.Env, d policy.Table) {
	e.Policy.Stores[0].Tables = append(e.Policy.Stores[0].Tables, d)
}

// What a reader would call a tenant's column is one, however it is spelled, and in
// a table that nobody declared any column may hold a tenant's id.
func TestAStaleRowIsFoundWhateverItsColumnIsCalled(t *testing.T) {
	e := storetest.New(t)
	gone := e.Install(storetest.Values("gone"), "b")
	live := e.Install(storetest.Values("live"), "a")
	uninstall(t, e, gone)
	other := lifecycle.NewTenantID().String() // never registered
	g, l := gone.String(), live.String()
	type holds struct {
		column, kind, stale string
		fine                []string
	}
	columns := []holds{
		{"tenant_ref", "uuid", g, []string{l}},
		{"Tenant ID", "uuid", g, []string{l}},
		{"tenant-id", "uuid", other, []string{l}},
		{"tenantuuid", "uuid", other, []string{l}},
		{"tenant_id_old", "text", other, []string{l, "{" + strings.ToUpper(l) + "}"}},
		{"TENANT", "text", "acme", []string{"urn:uuid:" + l, "from " + l + " of " + other}},
		{"two_tenants", "text", l + " " + g, []string{l}},
		{"tenant_ids", "uuid[]", "{" + l + "," + g + "}", []string{"{" + l + "}"}},
		{"customer_id", "uuid", g, []string{l, other}},
		{"note", "text", "moved from " + strings.ToUpper(g) + ".", []string{"of " + l, "feed" + other, "nothing"}},
		{"compact", "varchar(64)", strings.ReplaceAll(g, "-", ""), []string{strings.ReplaceAll(l, "-", "")}},
		{"payload", "jsonb", `{"a": [{"tenant_id": "` + g + `"}]}`, []string{`{"tenant_id": "` + l + `"}`, `{}`}},
		{"raw", "json", `{"tenant_id":"` + g + `"}`, []string{`{"tenant_id":"` + l + `"}`}},
		{"refs", "text[]", `{x,` + g + `}`, []string{`{x,y}`}},
		{"odd.name%I", "uuid", g, []string{l}},
	}
	var kept []string
	for i, c := range columns {
		table := fmt.Sprintf(`public.t%d`, i)
		name := `"` + c.column + `"`
		e.Exec(`CREATE TABLE ` + table + ` (` + name + ` ` + c.kind + `)`)
		for _, v := range append(c.fine, c.stale) {
			e.Exec(`INSERT INTO `+table+` SELECT $1::text::`+c.kind, v)
		}
		kept = append(kept, table)
	}
	e.Exec(`CREATE DOMAIN public.inner_id AS uuid; CREATE DOMAIN public.outer_id AS public.inner_id; CREATE TABLE public.domains (customer public.outer_id)`)
	e.Exec(`INSERT INTO public.domains VALUES ($1::text::uuid), ($2::text::uuid)`, g, l)
	r := run(t, e)
	if r.Result != findings.Found {
		t.Fatalf("result %s", r.Result)
	}
	for i, c := range columns {
		if got := checkColumn(r, kept[i], c.column); got.Rows != 1 || !got.Found() || got.Disposition != findings.Checked {
			t.Errorf("%s %s: %+v", c.column, c.kind, got)
		}
	}
	if got := checkColumn(r, "public.domains", "customer"); got.Rows != 1 || !got.Found() {
		t.Errorf("a domain over a domain: %+v", got)
	}
}

// A value's name says that there may be a value; only a declaration says that
// there may not.
func TestWhatCannotBeJudgedIsNeverClean(t *testing.T) {
	id := lifecycle.NewTenantID().String()
	for name, c := range map[string]struct {
		sql, table, column string
		columns            []string // declared
		want               findings.Result
	}{
		"a client key":                     {`CREATE TABLE public.odd (client_key text); INSERT INTO public.odd VALUES ('k')`, "public.odd", "client_key", nil, findings.Found},
		"a workspace":                      {`CREATE TABLE public.odd (workspace_uuid uuid); INSERT INTO public.odd VALUES ('` + id + `')`, "public.odd", "workspace_uuid", nil, findings.Found},
		"an installation":                  {`CREATE TABLE public.odd ("installationId" bigint); INSERT INTO public.odd VALUES (1)`, "public.odd", "installationId", nil, findings.Found},
		"bytes":                            {`CREATE TABLE public.odd (v bytea); INSERT INTO public.odd VALUES ('x')`, "public.odd", "v", nil, findings.Found},
		"a number called tenant":           {`CREATE TABLE public.odd (tenant_id bigint); INSERT INTO public.odd VALUES (1)`, "public.odd", "tenant_id", nil, findings.Found},
		"a number called tenant, declared": {`CREATE TABLE public.odd (tenant_id bigint); INSERT INTO public.odd VALUES (1)`, "public.odd", "tenant_id", []string{"tenant_id"}, findings.Blind},
		"a count that fails": {`CREATE EXTENSION IF NOT EXISTS postgres_fdw; CREATE SERVER nowhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '/nowhere');
			CREATE USER MAPPING FOR CURRENT_USER SERVER nowhere; CREATE FOREIGN TABLE public.far (tenant_id uuid) SERVER nowhere`, "public.far", "tenant_id", []string{"tenant_id"}, findings.Blind},
		"a view without data": {`CREATE MATERIALIZED VIEW public.mirror AS SELECT tenant_id FROM trakr.erasures WITH NO DATA`, "public.mirror", "tenant_id", []string{"tenant_id"}, findings.Blind},
		"hidden rows":         {`CREATE TABLE public.odd (tenant_id uuid); ALTER TABLE public.odd ENABLE ROW LEVEL SECURITY`, "public.odd", "tenant_id", []string{"tenant_id"}, findings.Blind},
	} {
		t.Run(name, func(t *testing.T) {
			e := storetest.New(t)
			e.Exec(c.sql)
			if c.columns != nil {
				declare(e, policy.Table{Name: c.table, Columns: c.columns, HasTenant: true})
			}
			r := run(t, e)
			if r.Result != c.want {
				t.Errorf("result %s, want %s", r.Result, c.want)
			}
			if got := checkColumn(r, c.table, c.column); got.Disposition != findings.Unjudged || got.Ground == "" {
				t.Errorf("%+v", got)
			}
			if c := check(r, "trakr.tenant_fields"); c.Disposition != findings.Checked {
				t.Error("one table's trouble hid the rest")
			}
		})
	}
	t.Run("an empty declared table of such a type", func(t *testing.T) {
		e := storetest.New(t)
		e.Exec(`CREATE TABLE public.odd (tenant_id bigint, client_key text)`)
		declare(e, policy.Table{Name: "public.odd", Columns: []string{"tenant_id", "client_key"}, HasTenant: true})
		if r := run(t, e); r.Result != findings.Clean {
			t.Errorf("result %s", r.Result)
		}
	})
}

func TestAnUndeclaredColumnIsFound(t *testing.T) {
	e := storetest.New(t)
	e.Install(storetest.Values("live"), "a")
	gone := e.Install(storetest.Values("gone"), "b")
	uninstall(t, e, gone)
	e.Exec(`ALTER TABLE trakr.tenants ADD owner_email text; UPDATE trakr.tenants SET owner_email = 'x' WHERE state = 'live';
		ALTER TABLE trakr.schedule_state ADD phone bigint; ALTER TABLE trakr.api_tokens ADD memo text`)
	e.Exec(`INSERT INTO trakr.api_tokens VALUES ('t', sha256('x'), 'service', 'l', 'c', now(), now(), NULL, $1::text)`, "of "+gone.String())
	r := run(t, e)
	if r.Result != findings.Found || len(r.Findings) != 3 {
		t.Fatalf("%s: %+v", r.Result, r.Findings)
	}
	for at, want := range map[[2]string]int64{{"trakr.tenants", "owner_email"}: 1, {"trakr.schedule_state", "phone"}: 0, {"trakr.api_tokens", "memo"}: 1} {
		c := checkColumn(r, at[0], at[1])
		if !c.Undeclared || c.Rows != want || (at[1] == "memo") != (c.Disposition == findings.Checked) {
			t.Errorf("%v: %+v", at, c)
		}
	}
	e.Exec(`ALTER TABLE trakr.tenants DROP owner_email; ALTER TABLE trakr.schedule_state DROP phone; ALTER TABLE trakr.api_tokens DROP memo`)
	e.Clock.Add(time.Minute)
	if r := run(t, e); r.Result != findings.Clean || len(r.Findings) != 0 {
		t.Errorf("afterwards: %s, %d findings open", r.Result, len(r.Findings))
	}
}

func TestAFindingClosesOnceItsTableIsDeclared(t *testing.T) {
	for name, d := range map[string]policy.Table{
		"retained":     {Retained: &policy.Retained{Ground: "g", What: "w"}},
		"not retained": {},
	} {
		t.Run(name, func(t *testing.T) {
			e := storetest.New(t)
			gone := e.Install(storetest.Values("gone"), "b")
			uninstall(t, e, gone)
			e.Exec(`CREATE TABLE public.kept AS SELECT $1::text::uuid AS tenant_id`, gone.String())
			if r := run(t, e); len(r.Findings) != 2 {
				t.Fatalf("%+v", r.Findings)
			}
			d.Name, d.Columns, d.HasTenant = "public.kept", []string{"tenant_id"}, true
			declare(e, d)
			e.Clock.Add(time.Minute)
			want := 1 // the row; the table is declared now
			if d.Retained != nil {
				want = 0
			}
			if r := run(t, e); len(r.Findings) != want || (r.Result == findings.Clean) != (want == 0) {
				t.Errorf("%s: %+v", r.Result, r.Findings)
			}
			if n := e.Int(`SELECT count(*) FROM trakr.findings WHERE resolved_at IS NULL`); n != int64(want) {
				t.Errorf("%d findings open", n)
			}
		})
	}
}

// Names with dots could be taken for one another.
func TestTablesWithOddNamesAreKeptApart(t *testing.T) {
	e := storetest.New(t)
	e.Exec(`CREATE SCHEMA "a.b"; CREATE SCHEMA a; CREATE TABLE "a.b".c (tenant_id uuid); CREATE TABLE a."b.c" (tenant_id uuid); CREATE TABLE public."trakr.tenants" (tenant_id uuid)`)
	r := run(t, e)
	for _, table := range []string{`"a.b".c`, `a."b.c"`, `public."trakr.tenants"`} {
		if c := check(r, table); !c.Undeclared {
			t.Errorf("%s: %+v", table, c)
		}
	}
}

// The policy's columns are those of a freshly migrated database, and the SQL knows
// every guarded field by its name.
func TestThePolicyDeclaresExactlyWhatTheMigrationsMake(t *testing.T) {
	e := storetest.New(t)
	text := e.Bytes(`SELECT convert_to(string_agg(l, E'\n' ORDER BY l), 'UTF8') FROM (
		SELECT c.schema_name || '.' || c.table_name || ': columns: [' || string_agg(c.column_name, ', ' ORDER BY a.attnum) || ']' AS l
		FROM door.tenant_columns() AS c JOIN pg_attribute AS a ON a.attrelid = format('%I.%I', c.schema_name, c.table_name)::regclass AND a.attname = c.column_name
		GROUP BY c.schema_name, c.table_name) AS x`)
	var declared []string
	for _, s := range e.Policy.Stores {
		for _, d := range s.Tables {
			declared = append(declared, d.Name+": columns: ["+strings.Join(d.Columns, ", ")+"]")
		}
	}
	found := strings.Split(string(text), "\n")
	for _, line := range found {
		if !slices.Contains(declared, line) {
			t.Errorf("the migrations make, and policy/trakr.yaml does not declare:\n%s", line)
		}
	}
	for _, line := range declared {
		if !slices.Contains(found, line) {
			t.Errorf("policy/trakr.yaml declares, and the migrations do not make:\n%s", line)
		}
	}
	for _, f := range lifecycle.Fields() {
		if n := e.Int(`SELECT count(*) FROM door.tenant_columns() WHERE table_name = 'tenant_fields' AND column_name = $1 AND carries = 'value'`, string(f)); n != 1 {
			t.Errorf("door.tenant_columns does not know %s for a value's name", f)
		}
	}
	for _, name := range []string{"tenant_ref", "Tenant ID", "tenant-id", "tenantuuid", "tenant_id_old", "customer_id", "client_key", "ten_ant"} {
		e.Exec(`CREATE TABLE public.x ("` + name + `" uuid)`)
		if n := e.Int(`SELECT count(*) FROM door.tenant_columns() WHERE table_name = 'x' AND carries = 'tenant'`); (n == 1) != policy.CarriesTenant(name) {
			t.Errorf("%q: SQL and policy disagree", name)
		}
		e.Exec(`DROP TABLE public.x`)
	}
}

// The role behind the counting functions reads everything; nothing of it comes back.
func TestCountingNeverReturnsAValue(t *testing.T) {
	e := storetest.New(t)
	const marker = "marker-7c31f2"
	e.Exec(`CREATE TABLE public.secrets (at text, word text, day date); INSERT INTO public.secrets VALUES ('` + marker + `', '` + marker + `', '2020-01-01');
		CREATE FUNCTION public.tell(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '%', $1; END $$;
		CREATE TABLE public.talks (tenant_id text); INSERT INTO public.talks VALUES ('` + marker + `');
		GRANT EXECUTE ON FUNCTION public.tell(text) TO trakr_sweep;
		CREATE POLICY loud ON public.talks FOR SELECT TO trakr_sweep USING (true); ALTER TABLE public.talks ENABLE ROW LEVEL SECURITY;
		CREATE POLICY louder ON public.talks AS RESTRICTIVE FOR SELECT TO trakr_sweep USING (public.tell(tenant_id))`)
	for _, call := range []string{
		`SELECT * FROM door.measure('public', 'secrets', 'at', now())`,
		`SELECT * FROM door.measure('public', 'secrets', 'word', now())`,
		`SELECT * FROM door.measure('public', 'talks', '', now())`,
		`SELECT * FROM door.count_orphans('public', 'talks', 'tenant_id')`,
	} {
		err := e.TryExec("SET ROLE trakr_service; " + call)
		if err == nil || strings.Contains(fmt.Sprintf("%+v", err), marker) {
			t.Errorf("%s: %v", call, err)
		}
		var full *pgconn.PgError
		if errors.As(err, &full) && strings.Contains(full.Detail+full.Hint+full.Where+full.InternalQuery, marker) {
			t.Errorf("%s: the error's context holds the value", call)
		}
	}
}

func TestReplicasDoNotRunTheSamePassTwice(t *testing.T) {
	e := storetest.New(t)
	lease, ok, err := store.TryLease(t.Context(), e.DB, "sweep/orphans")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if _, err := runner(t, e).RunOnce(t.Context(), scheduler, sweep.Orphans, sweep.ByCommand); !errors.Is(err, lifecycle.SweepRunning) {
		t.Errorf("beside a running pass: %v", err)
	}
	lease.Release()
	due := e.Clock.Now()
	if _, err := runner(t, e).RunDue(t.Context(), scheduler, sweep.Orphans, due); err != nil {
		t.Errorf("the first replica: %v", err)
	}
	e.Clock.Add(50 * time.Millisecond)
	if _, err := runner(t, e).RunDue(t.Context(), scheduler, sweep.Orphans, due); !errors.Is(err, sweep.ErrNotDue) {
		t.Errorf("the second replica, a moment later: %v", err)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.sweep_runs`); n != 1 {
		t.Errorf("%d runs", n)
	}
}

// Two replicas fire at the same time, again and again: each pass that was due is
// run once, whoever runs it.
func TestTwoRunnersShareTheWork(t *testing.T) {
	e := storetest.New(t)
	second, err := store.Open(t.Context(), storetest.ServiceURL(t, e.URL), store.Options{MaxConns: 6, Role: store.ServiceRole})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := census.New(e.DB).PlantCanary(t.Context()); err != nil {
		t.Fatal(err)
	}
	other, err := sweep.New(second, e.Policy, e.Clock.Now, slog.New(slog.DiscardHandler), sweeptest.Fill(e.Policy, sweep.NewOrphans(census.New(second), e.Policy), sweep.NewErasures(erasuretest.New(t, e).Eraser, e.Policy, storetest.Must(t)(outbox.New(e.DB, e.Log, e.Keys)).(*outbox.Store)))...)
	if err != nil {
		t.Fatal(err)
	}
	const times = 3
	for range times {
		e.Clock.Add(time.Hour)
		due := e.Clock.Now()
		var wg sync.WaitGroup
		both := []*sweep.Runner{runner(t, e), other}
		for _, r := range both {
			wg.Go(func() {
				if _, err := r.RunDue(t.Context(), scheduler, sweep.Orphans, due); err != nil && !errors.Is(err, sweep.ErrNotDue) && !errors.Is(err, lifecycle.SweepRunning) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, r := range both { // the lock is free again
			if _, err := r.RunDue(t.Context(), scheduler, sweep.Orphans, due); !errors.Is(err, sweep.ErrNotDue) {
				t.Errorf("a pass that was run already: %v", err)
			}
		}
	}
	if n := e.Int(`SELECT count(*) FROM trakr.sweep_runs WHERE result = 'clean'`); n != times {
		t.Errorf("%d runs of %d", n, times)
	}
}

// A pass that was cut off leaves a run without a result.
func TestAPassThatWasCutOffNeitherBlocksNorCounts(t *testing.T) {
	e := storetest.New(t)
	r := runner(t, e)
	due := e.Clock.Now()
	if _, err := findings.New(e.DB).Begin(t.Context(), sweep.Orphans, string(sweep.BySchedule), false, due.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	e.Clock.Add(2 * time.Second)
	h, err := r.Health(t.Context(), sweep.Orphans, time.Hour, e.Clock.Now())
	if err != nil || h.Last != nil || h.Newest != nil || !h.Overdue {
		t.Errorf("it counts: %+v, %v", h, err)
	}
	if _, err := r.RunDue(t.Context(), scheduler, sweep.Orphans, due); err != nil {
		t.Errorf("it blocks: %v", err)
	}
}

func TestANewerPassThatFailedShows(t *testing.T) {
	e := storetest.New(t)
	r := runner(t, e)
	good := run(t, e)
	e.Clock.Add(time.Minute)
	e.Exec(`ALTER FUNCTION door.tenant_columns() RENAME TO gone`)
	if _, err := r.RunOnce(t.Context(), scheduler, sweep.Orphans, sweep.ByCommand); err == nil {
		t.Fatal("it did not fail")
	}
	h, err := r.Health(t.Context(), sweep.Orphans, time.Hour, e.Clock.Now())
	if err != nil || !h.Failing() || h.Overdue || h.Last.ID != good.ID || h.Newest.Result != findings.Failed {
		t.Errorf("%+v, %v", h, err)
	}
	e.Exec(`ALTER FUNCTION door.gone() RENAME TO tenant_columns`)
	e.Clock.Add(time.Minute)
	run(t, e)
	if h, err := r.Health(t.Context(), sweep.Orphans, time.Hour, e.Clock.Now()); err != nil || h.Failing() {
		t.Errorf("after a good one: %+v, %v", h, err)
	}
}

func TestAMovedClockIsSeen(t *testing.T) {
	e := storetest.New(t)
	r := runner(t, e)
	if err := r.Expect(t.Context(), sweep.Orphans); err != nil {
		t.Fatal(err)
	}
	run(t, e)
	for by, want := range map[time.Duration]bool{0: false, 119 * time.Minute: false, 121 * time.Minute: true, -119 * time.Minute: false, -121 * time.Minute: true} {
		h, err := r.Health(t.Context(), sweep.Orphans, time.Hour, e.Clock.Now().Add(by))
		if err != nil || h.Overdue != want {
			t.Errorf("moved by %s: overdue %v, want %v (%v)", by, h.Overdue, want, err)
		}
	}
}

func TestASweepThatDidNotRunIsOverdueAfterTwiceItsInterval(t *testing.T) {
	e := storetest.New(t)
	r := runner(t, e)
	overdue := func() bool {
		t.Helper()
		h, err := r.Health(t.Context(), sweep.Orphans, time.Hour, e.Clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		return h.Overdue
	}
	if !overdue() {
		t.Error("a sweep nobody ever scheduled counts as done")
	}
	if err := r.Expect(t.Context(), sweep.Orphans); err != nil {
		t.Fatal(err)
	}
	for _, begin := range []string{"first expected", "last pass"} {
		if begin == "last pass" {
			run(t, e)
		}
		e.Clock.Add(2*time.Hour - time.Minute)
		if overdue() {
			t.Errorf("%s: overdue a minute early", begin)
		}
		e.Clock.Add(2 * time.Minute)
		if !overdue() {
			t.Errorf("%s: not overdue a minute late", begin)
		}
	}
	run(t, e)
	e.Exec(`ALTER TABLE trakr.sweep_runs DISABLE TRIGGER run_is_over; UPDATE trakr.sweep_runs SET result = 'failed'`)
	if !overdue() {
		t.Error("a pass that failed counts as done")
	}
}

func TestAPolicyWithAnUnknownSweepIsRefused(t *testing.T) {
	e := storetest.New(t)
	passes := sweeptest.Fill(e.Policy, sweep.NewOrphans(census.New(e.DB), e.Policy))
	e.Policy.Sweeps = append(e.Policy.Sweeps, policy.Sweep{Kind: "orphan"})
	if _, err := sweep.New(e.DB, e.Policy, e.Clock.Now, slog.New(slog.DiscardHandler), passes...); err == nil {
		t.Error("a sweep that can never run was scheduled")
	}
}
