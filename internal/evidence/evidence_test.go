package evidence_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trakr/internal/check"
	"trakr/internal/erasure/erasuretest"
	"trakr/internal/evidence"
	"trakr/internal/lifecycle"
	"trakr/internal/store/census"
	"trakr/internal/store/facts"
	"trakr/internal/store/findings"
	"trakr/internal/store/outbox"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tenants"
	"trakr/internal/sweep"
	"trakr/internal/sweep/sweeptest"
	"trakr/policy"
	"trakr/reports"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

var reviewer = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorStaff, ID: "token:r", Role: lifecycle.RoleReviewer},
	Reason: lifecycle.Reason{Code: lifecycle.ReviewerExport}}

func reporter(t *testing.T, e *storetest.Env) *evidence.Reporter {
	t.Helper()
	r, err := sweep.New(e.DB, e.Policy, e.Clock.Now, slog.New(slog.DiscardHandler), sweeptest.Fill(e.Policy, sweep.NewOrphans(census.New(e.DB), e.Policy), sweep.NewErasures(erasuretest.New(t, e).Eraser, e.Policy, storetest.Must(t)(outbox.New(e.DB, e.Log, e.Keys)).(*outbox.Store)))...)
	if err != nil {
		t.Fatal(err)
	}
	return &evidence.Reporter{Policy: e.Policy, Inventory: facts.New(e.DB), Sweeps: r, Now: e.Clock.Now, Version: "test"}
}

func TestTheSameMomentAndStateGiveTheSameBytes(t *testing.T) {
	e := storetest.New(t)
	e.Clock.Add(-time.Hour) // what happens, happens before the moment
	e.Install(storetest.Values("a"), "a")
	r := reporter(t, e)
	asOf, err := facts.New(e.DB).Clock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"location", "retention"} {
		for _, format := range []string{"json", "csv", "html"} {
			first, _, err := r.Issue(t.Context(), reviewer, kind, format, asOf)
			if err != nil {
				t.Fatal(err)
			}
			e.Clock.Add(time.Minute)
			second, _, err := r.Issue(t.Context(), reviewer, kind, format, asOf)
			if err != nil || !bytes.Equal(first, second) {
				t.Errorf("%s as %s changed although nothing else did: %v", kind, format, err)
			}
		}
	}
	if n := e.Int(`SELECT count(*) FROM trakr.reports_issued`); n != 12 {
		t.Errorf("%d reports recorded, want 12", n)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'report.issue'`); n != 12 {
		t.Errorf("%d reports in the audit, want 12", n)
	}
}

func TestFactsAreWhatTheDatabaseHolds(t *testing.T) {
	e := storetest.New(t)
	e.Clock.Add(-time.Hour)
	e.Install(storetest.Values("a"), "a")
	gone := e.Install(storetest.Values("b"), "b")
	requested := e.Clock.Now()
	e.Clock.Add(2 * time.Hour / 3)
	if _, err := e.Erase(t.Context(), storetest.Ingress(), gone, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: requested.Add(-time.Hour), Delivery: e.Delivery("c")}); err != nil {
		t.Fatal(err)
	}
	e.Exec(`CREATE TABLE public.cache (x int); INSERT INTO public.cache VALUES (1), (2)`)
	f, err := reporter(t, e).Facts(t.Context(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if f.LiveTenants != 1 || f.ErasedTenants != 1 || f.Erasures.Total != 1 || f.Erasures.Late != 1 || f.Erasures.LongestLag != time.Hour+2*time.Hour/3 {
		t.Errorf("%+v", f)
	}
	seen := map[string]int64{}
	for _, table := range f.Tables {
		seen[table.Name] = table.Rows
		if table.Declared == (table.Name == "public.cache") {
			t.Errorf("%s: declared=%v", table.Name, table.Declared)
		}
	}
	if seen["trakr.tenant_fields"] != 1 || seen["trakr.tenants"] != 2 || seen["public.cache"] != 2 {
		t.Errorf("rows: %v", seen)
	}
	if !f.Sweeps[0].Overdue || f.Sweeps[0].RunID != "" {
		t.Errorf("a sweep that never ran: %+v", f.Sweeps[0])
	}
	conflict := false
	for _, o := range f.Observations {
		conflict = conflict || o.Conflict
	}
	if !conflict {
		t.Error("a database on this machine does not contradict a managed one elsewhere")
	}
}

var scheduler = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "cron", Role: lifecycle.RoleScheduler},
	Reason: lifecycle.Reason{Code: lifecycle.SystemSweep}}

// build returns both reports as of a moment.
func build(t *testing.T, e *storetest.Env, asOf time.Time) map[string]reports.Document {
	t.Helper()
	f, err := reporter(t, e).Facts(t.Context(), asOf)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]reports.Document{}
	for _, kind := range []string{"location", "retention", "requests", "attestation"} {
		r, err := reports.Build(kind, e.Policy, nil, f, "test")
		if err != nil {
			t.Fatal(err)
		}
		out[kind] = r.(reports.Document)
	}
	return out
}

func statement(t *testing.T, d reports.Document, beginning string) check.Result {
	t.Helper()
	for _, s := range d.Statements {
		if strings.HasPrefix(s.Title, beginning) {
			return s
		}
	}
	t.Fatalf("no statement %q", beginning)
	return check.Result{}
}

func sweepNow(t *testing.T, e *storetest.Env) {
	t.Helper()
	r, err := sweep.New(e.DB, e.Policy, time.Now, slog.New(slog.DiscardHandler), sweeptest.Fill(e.Policy, sweep.NewOrphans(census.New(e.DB), e.Policy), sweep.NewErasures(erasuretest.New(t, e).Eraser, e.Policy, storetest.Must(t)(outbox.New(e.DB, e.Log, e.Keys)).(*outbox.Store)))...)
	if err != nil {
		t.Fatal(err)
	}
	// Another one would replace it, and what was counted before would be gone.
	if e.Int(`SELECT count(*) FROM trakr.sweep_canaries`) == 0 {
		if err := census.New(e.DB).PlantCanary(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.RunOnce(t.Context(), scheduler, sweep.Orphans, sweep.ByCommand); err != nil {
		t.Fatal(err)
	}
}

func TestAReportRightAfterASweepSeesIt(t *testing.T) {
	e := storetest.New(t)
	for range 3 {
		sweepNow(t, e)
		s := statement(t, build(t, e, time.Time{})["retention"], "No row of a tenant")
		last := e.Bytes(`SELECT convert_to(run_id::text, 'UTF8') FROM trakr.sweep_runs ORDER BY started_at DESC LIMIT 1`)
		if s.State != check.Pass || !strings.Contains(s.Evidence, string(last)) {
			t.Fatalf("%+v; the newest run is %s", s, last)
		}
	}
}

func TestANewerPassThatFailedUnsaysTheOlder(t *testing.T) {
	e := storetest.New(t)
	sweepNow(t, e)
	e.Exec(`INSERT INTO trakr.sweep_runs (run_id, kind, trigger, started_at, finished_at, result) VALUES (gen_random_uuid(), 'orphans', 'command', clock_timestamp(), clock_timestamp(), 'failed')`)
	for kind, d := range build(t, e, time.Time{}) {
		if kind == "requests" {
			continue // it speaks of no sweep of orphans
		}
		if s := statement(t, d, "No row of a tenant"); s.State != check.Unknown || d.Verdict == check.Pass {
			t.Errorf("%s: %s, %+v", kind, d.Verdict, s)
		}
	}
}

// What a report said about a moment, it says again later.
func TestAPastMomentStaysAsItWas(t *testing.T) {
	e := storetest.New(t)
	e.Clock.Add(-time.Hour)
	gone := e.Install(storetest.Values("gone"), "b")
	if _, err := e.Erase(t.Context(), storetest.Ingress(), gone, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: e.Delivery("bye")}); err != nil {
		t.Fatal(err)
	}
	e.Exec(`CREATE TABLE public.cache AS SELECT $1::text::uuid AS tenant_id, now() AS at FROM generate_series(1, 2)`, gone.String())
	e.Policy.Stores[0].Tables = append(e.Policy.Stores[0].Tables, policy.Table{Name: "public.cache", Columns: []string{"tenant_id", "at"}, TimeCol: "at", Class: "operations", HasTenant: true})
	sweepNow(t, e)
	at, err := facts.New(e.DB).Clock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := build(t, e, at)
	e.Exec(`INSERT INTO public.cache SELECT tenant_id, clock_timestamp() FROM public.cache`)
	sweepNow(t, e)
	now, after := build(t, e, time.Time{}), build(t, e, at)
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("the report about the past changed:\n%s", d)
	}
	if cmp.Equal(before["retention"].Sections, now["retention"].Sections) {
		t.Error("the rows that came later show nowhere")
	}
}

// An acknowledged finding is open all the same; from then on the report says that
// somebody knows.
func TestAnAcknowledgedFindingStillFailsTheReport(t *testing.T) {
	e := storetest.New(t)
	e.Exec(`CREATE TABLE public.cache (tenant_id uuid)`)
	sweepNow(t, e)
	found := func(asOf time.Time) reports.FindingFacts {
		t.Helper()
		f, err := reporter(t, e).Facts(t.Context(), asOf)
		if err != nil || len(f.OpenFindings) != 1 {
			t.Fatalf("%+v, %v", f.OpenFindings, err)
		}
		return f.OpenFindings[0]
	}
	before, err := facts.New(e.DB).Clock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	known := reviewer
	known.Reason.Ref = "OPS-12"
	if _, err := findings.New(e.DB).Acknowledge(t.Context(), known, found(before).ID, time.Now()); err != nil {
		t.Fatal(err)
	}
	if found(before).Acknowledged || !found(time.Time{}).Acknowledged {
		t.Error("when it was acknowledged does not show")
	}
	if d := build(t, e, time.Time{})["retention"]; d.Verdict == check.Pass {
		t.Errorf("acknowledging made the report hold: %+v", d.Statements)
	}
}

func TestAnUndeclaredColumnIsNamed(t *testing.T) {
	e := storetest.New(t)
	e.Exec(`ALTER TABLE trakr.tenants ADD owner_email text, ADD "x, ""y"" \ {z}" text`)
	sweepNow(t, e)
	all := build(t, e, time.Time{})
	if s := statement(t, all["location"], "Every table and column"); s.State != check.Fail || !strings.Contains(s.Evidence, "trakr.tenants.owner_email") || !strings.Contains(s.Evidence, `trakr.tenants.x, "y" \ {z}`) {
		t.Errorf("%+v", s)
	}
	if s := statement(t, all["retention"], "No row of a tenant"); s.State == check.Pass {
		t.Errorf("%+v", s)
	}
}

// One table that cannot be read is not counted; the others are, and both reports
// are still made.
func TestOneUnreadableTableDoesNotHideTheRest(t *testing.T) {
	e := storetest.New(t)
	e.Install(storetest.Values("a"), "a")
	e.Exec(`CREATE MATERIALIZED VIEW public.mirror AS SELECT 1 AS x WITH NO DATA;
		CREATE SCHEMA "a.b"; CREATE TABLE "a.b"."c.d" (x int); INSERT INTO "a.b"."c.d" VALUES (1);
		ALTER TABLE trakr.api_tokens RENAME COLUMN created_at TO made_at`)
	f, err := reporter(t, e).Facts(t.Context(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]reports.TableFacts{}
	for _, x := range f.Tables {
		found[x.Name] = x
	}
	if x := found["public.mirror"]; x.Uncounted != "SQLSTATE 55000" {
		t.Errorf("the view: %+v", x)
	}
	if x := found["trakr.api_tokens"]; x.Uncounted == "" || !slices.Equal(x.Undeclared, []string{"made_at"}) {
		t.Errorf("the table that lost its time: %+v", x)
	}
	if x := found[`"a.b"."c.d"`]; x.Rows != 1 || x.Uncounted != "" {
		t.Errorf("the dotted name: %+v", x)
	}
	if x := found["trakr.tenant_fields"]; x.Rows != 1 {
		t.Errorf("another table: %+v", x)
	}
	for kind, d := range build(t, e, time.Time{}) {
		if (kind == "location" || kind == "retention") && d.Verdict != check.Fail { // undeclared, too
			t.Errorf("%s: %s", kind, d.Verdict)
		}
	}
	e.Policy.Stores[0].Tables = append(e.Policy.Stores[0].Tables, policy.Table{Name: "public.mirror", Columns: []string{"x"}, Class: "evidence"},
		policy.Table{Name: `"a.b"."c.d"`, Columns: []string{"x"}, Class: "evidence"})
	e.Exec(`ALTER TABLE trakr.api_tokens RENAME COLUMN made_at TO created_at`)
	if s := statement(t, build(t, e, time.Time{})["retention"], "No table contains rows"); s.State != check.Unknown || !strings.Contains(s.Evidence, "public.mirror") {
		t.Errorf("%+v", s)
	}
}

func TestAControlThatIsOffFailsTheStatement(t *testing.T) {
	e := storetest.New(t)
	const named = "In the database: the audit only grows"
	if s := state(t, build(t, e, time.Time{})["location"], named); s != "pass" {
		t.Fatalf("before: %s", s)
	}
	e.Exec(`ALTER TABLE trakr.audit_events DISABLE TRIGGER ALL`)
	d := build(t, e, time.Time{})["location"]
	if s := state(t, d, named); s != "fail" {
		t.Errorf("the triggers are off: %s", s)
	}
	if s := statement(t, d, "The controls"); s.State != check.Fail || d.Verdict != check.Fail {
		t.Errorf("%+v", s)
	}
}

// state returns the state of the control whose title begins so.
func state(t *testing.T, d reports.Document, beginning string) string {
	t.Helper()
	for _, s := range d.Sections {
		for _, row := range s.Rows {
			if s.ID == "controls" && strings.HasPrefix(row[0], beginning) {
				return row[1]
			}
		}
	}
	t.Fatalf("no control %q", beginning)
	return ""
}

func TestReplayGuardRowsBeyondTheirPeriodAreNotWithinIt(t *testing.T) {
	e := storetest.New(t)
	id := e.Install(storetest.Values("a"), "a")
	sweepNow(t, e)
	if s := statement(t, build(t, e, time.Time{})["retention"], "No table contains rows"); s.State != check.Pass {
		t.Fatalf("before: %+v", s)
	}
	e.Exec(`INSERT INTO trakr.replay_guard VALUES (sha256('old'), $1::text::uuid, now() - interval '40 days', now() - interval '40 days')`, id.String())
	if s := statement(t, build(t, e, time.Time{})["retention"], "No table contains rows"); s.State != check.Fail || !strings.Contains(s.Evidence, "trakr.replay_guard") {
		t.Errorf("%+v", s)
	}
}

func TestNoReportAboutTheFutureOrWithoutARecord(t *testing.T) {
	e := storetest.New(t)
	r := reporter(t, e)
	if _, _, err := r.Issue(t.Context(), reviewer, "location", "html", time.Now().Add(time.Hour)); !errors.Is(err, lifecycle.RequestInvalid) {
		t.Errorf("the future: %v", err)
	}
	for _, sql := range storetest.Breaks() {
		e := storetest.New(t)
		r := reporter(t, e)
		e.Exec(sql)
		if b, _, err := r.Issue(t.Context(), reviewer, "retention", "html", time.Time{}); err == nil || b != nil {
			t.Errorf("a report left unrecorded after: %s", sql)
		}
	}
}

// The register, the holds and the newest pass are what the database held at the moment.
func TestRequestsAndHoldsAreShownAsTheyStoodThen(t *testing.T) {
	e := storetest.New(t)
	id := e.Install(storetest.Values("a"), "a")
	e.Exec(`ALTER TABLE trakr.deletion_requests DISABLE TRIGGER request_moves; ALTER TABLE trakr.legal_holds DISABLE TRIGGER hold_changes`)
	e.Exec(`INSERT INTO trakr.deletion_requests (request_id, state, tenant_id, ticket, requested_by, moved_by, submitted_time, received_time, expected_completion_time, moved_at, deleted_live_at, backups_clear_after, certificate_id)
		VALUES ('00000000-0000-4000-8000-000000000601', 'completed', $1::text::uuid, 'SUP-7', 'a', 'a', now() - interval '4 hours', now() - interval '3 hours', now() - interval '90 minutes', now() - interval '1 hour',
			now() - interval '1 hour', now() + interval '7 days', gen_random_uuid())`, id.String())
	e.Exec(`INSERT INTO trakr.deletion_request_events (request_id, seq, to_state, moved_by, moved_at) VALUES ('00000000-0000-4000-8000-000000000601', 1, 'received', 'a', now() - interval '3 hours'),
		('00000000-0000-4000-8000-000000000601', 2, 'completed', 'a', now() - interval '1 hour')`)
	e.Exec(`INSERT INTO trakr.legal_holds (hold_id, tenant_id, ground, reason_ref, placed_by, placed_at, until, released_at, released_by)
		VALUES (gen_random_uuid(), $1::text::uuid, 'legal_claim', 'LEG-7', 'a', now() - interval '3 hours', now() + interval '1 day', now() - interval '1 hour', 'a')`, id.String())
	sweepNow(t, e)
	for ago, want := range map[time.Duration][3]int{4 * time.Hour: {0, 0, 0}, 2 * time.Hour: {1, 0, 1}, 80 * time.Minute: {1, 1, 1}, 0: {1, 0, 0}} {
		var at time.Time
		if ago > 0 {
			at = time.Now().Add(-ago)
		}
		f, err := reporter(t, e).Facts(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		late := 0
		for _, r := range f.Requests {
			if r.Overdue {
				late++
			}
			if done := ago == 0; r.TenantID != id.String() || done != (r.CertificateID != "") || done != (r.DeletedAt != nil) || done != (r.BackupsClear != nil) || done == r.Open {
				t.Errorf("%s ago: %+v", ago, r)
			}
		}
		if got := [3]int{len(f.Requests), late, len(f.Holds)}; got != want {
			t.Errorf("%s ago: %v requests, overdue, holds; want %v", ago, got, want)
		}
		if (len(f.OrphanChecks) > 5) != (ago == 0) {
			t.Errorf("%s ago: %d columns of the newest pass", ago, len(f.OrphanChecks))
		}
	}
}
