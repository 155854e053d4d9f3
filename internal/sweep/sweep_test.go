package sweep_test

import (
	"errors"
	"log/slog"
	"os"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/storetest"
	"trakr/internal/store/sweeps"
	"trakr/internal/store/tenants"
	"trakr/internal/sweep"
	"trakr/migrations"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

var scheduler = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "cron", Role: lifecycle.RoleScheduler},
	Reason: lifecycle.Reason{Code: lifecycle.SystemSweep}}

func runner(t *testing.T, e *storetest.Env) *sweep.Runner {
	t.Helper()
	r, err := sweep.New(e.DB, e.Policy, e.Clock.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func run(t *testing.T, e *storetest.Env) sweeps.Run {
	t.Helper()
	got, err := runner(t, e).RunOnce(t.Context(), scheduler, sweep.Orphans, sweep.ByCommand)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func check(r sweeps.Run, table string) sweeps.Check {
	i := slices.IndexFunc(r.Checks, func(c sweeps.Check) bool { return c.Table == table })
	if i < 0 {
		return sweeps.Check{Rows: -1}
	}
	return r.Checks[i]
}

func uninstall(t *testing.T, e *storetest.Env, id lifecycle.TenantID) {
	t.Helper()
	if _, err := e.Door.Erase(t.Context(), storetest.Ingress(), id, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: e.Delivery("bye" + id.String())}); err != nil {
		t.Fatal(err)
	}
}

func TestACleanSweepStoresTheZeroOfEveryTable(t *testing.T) {
	e := storetest.New(t)
	e.Install(storetest.Values("live"), "a")
	uninstall(t, e, e.Install(storetest.Values("gone"), "b"))
	r := run(t, e)
	if r.Result != sweeps.Clean || len(r.Findings) != 0 {
		t.Fatalf("%s with %d findings", r.Result, len(r.Findings))
	}
	for table, want := range map[string]sweeps.Disposition{"trakr.tenant_fields": sweeps.Checked, "trakr.replay_guard": sweeps.Checked,
		"trakr.tenants": sweeps.Retained, "trakr.erasures": sweeps.Retained, "trakr.audit_events": sweeps.Retained} {
		c := check(r, table)
		if c.Disposition != want || (want == sweeps.Checked && c.Rows != 0) || len(c.PredicateDigest) != 64 {
			t.Errorf("%s: %+v", table, c)
		}
	}
	if n := e.Int(`SELECT count(*) FROM trakr.sweep_results WHERE run_id = $1 AND rows = 0 AND disposition = 'checked'`, r.ID); n != 2 {
		t.Errorf("%d zeros stored, want 2", n)
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
	for _, name := range []string{"00001_tenants.sql", "00002_audit.sql", "00003_sweeps.sql", "00004_access.sql"} {
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
	if r.Result != sweeps.Findings {
		t.Fatalf("result %s", r.Result)
	}
	for table, rows := range map[string]int64{`Extra.Odd "Name`: 2, "public.texts": 1, "public.linked": 1, "public.parts": 1, "public.mirror": 1, "trakr.tenant_fields": 0} {
		if c := check(r, table); c.Rows != rows || c.Disposition != sweeps.Checked {
			t.Errorf("%s: %+v, want %d rows", table, c, rows)
		}
	}
	if c := check(r, "public.parts_1"); c.Rows != -1 {
		t.Error("a partition was counted a second time")
	}
	if len(r.Findings) != 5 {
		t.Errorf("%d findings", len(r.Findings))
	}
	first := r.Findings[0].ID

	e.Clock.Add(time.Minute)
	again := run(t, e)
	if len(again.Findings) != 5 || again.Findings[0].ID != first {
		t.Error("the same rows opened a second finding")
	}
	e.Exec(`DELETE FROM "Extra"."Odd ""Name"; DELETE FROM public.texts; DROP TABLE public.linked; DROP TABLE public.parts; DROP MATERIALIZED VIEW public.mirror`)
	e.Clock.Add(time.Minute)
	if clean := run(t, e); clean.Result != sweeps.Clean || len(clean.Findings) != 0 {
		t.Errorf("after the rows are gone: %s, %d findings open", clean.Result, len(clean.Findings))
	}
}

func TestWhatCannotBeJudgedIsNeverClean(t *testing.T) {
	for name, sql := range map[string]string{
		"a type that cannot be compared": `CREATE TABLE public.odd (tenant_id bigint); INSERT INTO public.odd VALUES (1)`,
		"a count that fails": `CREATE FUNCTION public.boom() RETURNS uuid LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'x'; END $$;
			CREATE EXTENSION IF NOT EXISTS postgres_fdw; CREATE SERVER nowhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '/nowhere');
			CREATE USER MAPPING FOR CURRENT_USER SERVER nowhere; CREATE FOREIGN TABLE public.far (tenant_id uuid) SERVER nowhere`,
	} {
		t.Run(name, func(t *testing.T) {
			e := storetest.New(t)
			e.Exec(sql)
			r := run(t, e)
			if r.Result != sweeps.Blind {
				t.Errorf("result %s", r.Result)
			}
			if c := check(r, "trakr.tenant_fields"); c.Disposition != sweeps.Checked {
				t.Error("one table's trouble hid the rest")
			}
		})
	}
	t.Run("an empty table of such a type", func(t *testing.T) {
		e := storetest.New(t)
		e.Exec(`CREATE TABLE public.odd (tenant_id bigint)`)
		if r := run(t, e); r.Result != sweeps.Clean {
			t.Errorf("result %s", r.Result)
		}
	})
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
	e.Exec(`UPDATE trakr.sweep_runs SET result = 'failed'`)
	if !overdue() {
		t.Error("a pass that failed counts as done")
	}
}

func TestAPolicyWithAnUnknownSweepIsRefused(t *testing.T) {
	e := storetest.New(t)
	e.Policy.Sweeps[0].Kind = "orphan"
	if _, err := sweep.New(e.DB, e.Policy, e.Clock.Now, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a sweep that can never run was scheduled")
	}
}
