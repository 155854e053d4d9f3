package sweep_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"trakr/internal/erasure"
	"trakr/internal/erasure/erasuretest"
	"trakr/internal/lifecycle"
	"trakr/internal/store/census"
	"trakr/internal/store/findings"
	"trakr/internal/store/outbox"
	"trakr/internal/store/storetest"
	"trakr/internal/sweep"
	"trakr/internal/sweep/sweeptest"
	"trakr/policy"
)

var operator = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorOperator, ID: "uid:7", Role: lifecycle.RoleOperator},
	Reason: lifecycle.Reason{Code: lifecycle.IncidentResponse, Ref: "OPS-12"}}

// stale makes a table that nobody declared, with a row of an erased tenant.
func stale(t *testing.T, e *storetest.Env) {
	t.Helper()
	gone := e.Install(storetest.Values("gone"), "b")
	uninstall(t, e, gone)
	e.Exec(`CREATE TABLE public.cache AS SELECT $1::text::uuid AS tenant_id`, gone.String())
}

func TestAFindingLivesFromOpenedToResolvedAndThenIsANewOne(t *testing.T) {
	e := storetest.New(t)
	store := findings.New(e.DB)
	gone := e.Install(storetest.Values("gone"), "b")
	uninstall(t, e, gone)
	e.Exec(`CREATE TABLE public.cache (tenant_id uuid)`)
	declare(e, policy.Table{Name: "public.cache", Columns: []string{"tenant_id"}, HasTenant: true})
	plant := func() { e.Exec(`INSERT INTO public.cache VALUES ($1::text::uuid)`, gone.String()) }

	plant()
	opened := run(t, e).Findings[0]
	if opened.State() != "open" || opened.Severity != findings.Critical {
		t.Errorf("%+v", opened)
	}
	e.Clock.Add(time.Minute)
	known, err := store.Acknowledge(t.Context(), operator, opened.ID, e.Clock.Now())
	if err != nil || known.State() != "acknowledged" || known.AcknowledgedBy != "uid:7" || known.ReasonRef != "OPS-12" || known.ReasonCode != "incident_response" {
		t.Fatalf("%+v, %v", known, err)
	}
	// An acknowledged finding is still one.
	e.Clock.Add(time.Minute)
	if again := run(t, e); again.Result != findings.Found || len(again.Findings) != 1 || again.Findings[0].ID != opened.ID || again.Findings[0].State() != "acknowledged" {
		t.Errorf("%+v", again)
	}
	if counts, err := store.OpenCounts(t.Context()); err != nil || len(counts) != 1 || counts[0] != (findings.Open{Kind: "orphans", Severity: findings.Critical, Count: 1}) {
		t.Errorf("%+v, %v", counts, err)
	}
	e.Exec(`DELETE FROM public.cache`)
	e.Clock.Add(time.Minute)
	run(t, e)
	f, life, err := store.Finding(t.Context(), opened.ID)
	if err != nil || f.State() != "resolved" || len(life) != 3 || life[0].Transition != findings.Opened || life[1].Transition != findings.Acknowledged || life[2].Transition != findings.Resolved {
		t.Fatalf("%+v %+v, %v", f, life, err)
	}
	if life[1].ActorID != "uid:7" || life[0].RunID == "" || life[2].RunID == life[0].RunID || life[2].Rows != 1 {
		t.Errorf("%+v", life)
	}
	plant()
	e.Clock.Add(time.Minute)
	if back := run(t, e).Findings; len(back) != 1 || back[0].ID == opened.ID || back[0].State() != "open" {
		t.Errorf("it came back as %+v", back)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'finding.move' AND status_detail = 'acknowledged' AND correlation_id = $1 AND reason_ref = 'OPS-12'`, opened.ID); n != 1 {
		t.Errorf("%d acknowledgements in the audit", n)
	}
}

func TestAnAcknowledgementNeedsAnOpenFindingAReasonAndATicket(t *testing.T) {
	e := storetest.New(t)
	store := findings.New(e.DB)
	stale(t, e)
	id := run(t, e).Findings[0].ID
	acknowledge := func(a lifecycle.Access, id string) error {
		_, err := store.Acknowledge(t.Context(), a, id, e.Clock.Now())
		return err
	}
	without := operator
	without.Reason.Ref = ""
	machine := scheduler
	for name, c := range map[string]struct {
		a    lifecycle.Access
		id   string
		want lifecycle.Kind
	}{
		"a person without a ticket":  {without, id, lifecycle.ReasonRequired},
		"a machine without a ticket": {machine, id, lifecycle.ReasonRequired},
		"an unknown finding":         {operator, lifecycle.NewTenantID().String(), lifecycle.NotFound},
		"no id at all":               {operator, "marker", lifecycle.NotFound},
	} {
		if err := acknowledge(c.a, c.id); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if _, _, err := store.Finding(t.Context(), "marker"); !errors.Is(err, lifecycle.NotFound) {
		t.Errorf("no id at all: %v", err)
	}
	if err := acknowledge(operator, id); err != nil {
		t.Fatal(err)
	}
	if err := acknowledge(operator, id); !errors.Is(err, lifecycle.RequestConflict) {
		t.Errorf("a second time: %v", err)
	}
	e.Exec(`DROP TABLE public.cache`)
	e.Clock.Add(time.Minute)
	run(t, e)
	if err := acknowledge(operator, id); !errors.Is(err, lifecycle.RequestConflict) {
		t.Errorf("after it was resolved: %v", err)
	}
}

// An acknowledgement that cannot be recorded does not happen.
func TestNoAcknowledgementWithoutItsAuditEvent(t *testing.T) {
	for name, sql := range storetest.Breaks() {
		t.Run(name, func(t *testing.T) {
			e := storetest.New(t)
			stale(t, e)
			id := run(t, e).Findings[0].ID
			e.Exec(sql)
			if _, err := findings.New(e.DB).Acknowledge(t.Context(), operator, id, e.Clock.Now()); err == nil {
				t.Error("acknowledged")
			}
			if n := e.Int(`SELECT count(*) FROM trakr.findings WHERE acknowledged_at IS NOT NULL`) + e.Int(`SELECT count(*) FROM trakr.finding_events WHERE transition = 'acknowledged'`); n != 0 {
				t.Error("it is stored all the same")
			}
		})
	}
}

// The service may add steps and note their delivery, no more.
func TestAStepOfALifeCannotBeChanged(t *testing.T) {
	e := storetest.New(t)
	stale(t, e)
	run(t, e)
	for _, sql := range []string{`UPDATE trakr.finding_events SET transition = 'resolved'`, `UPDATE trakr.finding_events SET occurred_at = now()`, `DELETE FROM trakr.finding_events`, `TRUNCATE trakr.finding_events`} {
		if err := e.TryExec("SET ROLE trakr_service; " + sql); err == nil {
			t.Errorf("%s was done", sql)
		}
	}
}

// acting is a kind that changes something, and says whether it was told to.
type acting struct{ dry []bool }

func (*acting) Kind() string      { return sweep.Orphans }
func (*acting) Destructive() bool { return true }
func (a *acting) Look(_ context.Context, o sweep.Order) (sweep.Found, error) {
	a.dry = append(a.dry, o.DryRun)
	return sweep.Found{SnapshotAt: o.Now, Checks: []findings.Check{{Store: "database", Table: "t", Disposition: findings.Checked, Rows: 1, CheckedAt: o.Now, Duration: 1500 * time.Microsecond}}}, nil
}

func TestWhatActsIsDryWhenAPersonStartsItUnlessTheySayOtherwise(t *testing.T) {
	e := storetest.New(t)
	kind := &acting{}
	e.Policy.Sweeps = e.Policy.Sweeps[:1]
	r, err := sweep.New(e.DB, e.Policy, e.Clock.Now, slog.New(slog.DiscardHandler), kind)
	if err != nil {
		t.Fatal(err)
	}
	var runs []findings.Run
	for _, opts := range [][]sweep.Option{nil, {sweep.DryRun(true)}, {sweep.DryRun(false)}} {
		for _, by := range []sweep.Trigger{sweep.ByCommand, sweep.ByAPI} {
			got, err := r.RunOnce(t.Context(), scheduler, sweep.Orphans, by, opts...)
			if err != nil {
				t.Fatal(err)
			}
			runs = append(runs, got)
			e.Clock.Add(time.Second)
		}
	}
	scheduled, err := r.RunDue(t.Context(), scheduler, sweep.Orphans, e.Clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, true, true, true, false, false} {
		if kind.dry[i] != want || runs[i].DryRun != want {
			t.Errorf("run %d: told %v, says %v, want %v", i, kind.dry[i], runs[i].DryRun, want)
		}
	}
	if kind.dry[6] || scheduled.DryRun {
		t.Error("the schedule does not act")
	}
	stored, err := findings.New(e.DB).Runs(t.Context(), "", 20)
	if err != nil || len(stored) != 7 || stored[0].DryRun || !stored[6].DryRun || stored[0].Checks[0].Duration != 1500*time.Microsecond {
		t.Errorf("%+v, %v", stored, err)
	}
}

// A dry run looks and leaves everything as it was.
func TestADryRunIsNoPassAndMovesNoFinding(t *testing.T) {
	e := storetest.New(t)
	r := runner(t, e)
	if err := r.Expect(t.Context(), sweep.Orphans); err != nil {
		t.Fatal(err)
	}
	stale(t, e)
	if err := census.New(e.DB).PlantCanary(t.Context()); err != nil {
		t.Fatal(err)
	}
	dry := func() findings.Run {
		t.Helper()
		got, err := r.RunOnce(t.Context(), scheduler, sweep.Orphans, sweep.ByCommand, sweep.DryRun(true))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	due := e.Clock.Now()
	if got := dry(); !got.DryRun || got.Result != findings.Found || len(got.Findings) != 0 || check(got, "public.cache").Rows != 1 {
		t.Errorf("%+v", got)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.findings`) + e.Int(`SELECT count(*) FROM trakr.finding_events`); n != 0 {
		t.Error("a dry run opened a finding")
	}
	if h, err := r.Health(t.Context(), sweep.Orphans, time.Hour, e.Clock.Now()); err != nil || h.Last != nil || h.Newest != nil {
		t.Errorf("a dry run counts as the newest pass: %+v, %v", h, err)
	}
	if _, err := r.RunDue(t.Context(), scheduler, sweep.Orphans, due); err != nil {
		t.Errorf("a dry run stands for the pass that was due: %v", err)
	}
	e.Exec(`DROP TABLE public.cache`)
	e.Clock.Add(time.Minute)
	if got := dry(); got.Result != findings.Clean || len(got.Findings) != 2 {
		t.Errorf("%s with %d findings", got.Result, len(got.Findings))
	}
	e.Clock.Add(3 * time.Hour)
	dry()
	if h, err := r.Health(t.Context(), sweep.Orphans, time.Hour, e.Clock.Now()); err != nil || !h.Overdue {
		t.Errorf("dry runs keep a sweep from being overdue: %+v, %v", h, err)
	}
}

func TestADryRunFinishesNoErasure(t *testing.T) {
	e := storetest.New(t)
	rig := erasuretest.New(t, e)
	r, err := sweep.New(e.DB, e.Policy, e.Clock.Now, slog.New(slog.DiscardHandler), sweeptest.Fill(e.Policy, sweep.NewOrphans(census.New(e.DB), e.Policy), sweep.NewErasures(rig.Eraser, e.Policy, storetest.Must(t)(outbox.New(e.DB, e.Log, e.Keys)).(*outbox.Store)))...)
	if err != nil {
		t.Fatal(err)
	}
	gone := e.Install(storetest.Values("gone"), "b")
	if _, err := rig.Erase(t.Context(), storetest.Ingress(), gone, erasure.Order{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: e.Delivery("bye")}); err != nil {
		t.Fatal(err)
	}
	certificates := func() int64 { return e.Int(`SELECT count(*) FROM trakr.certificates`) }
	dry, err := r.RunOnce(t.Context(), scheduler, sweep.Erasures, sweep.ByCommand, sweep.DryRun(true))
	if err != nil {
		t.Fatal(err)
	}
	if n := certificates(); n != 0 || checkColumn(dry, "trakr.erasures", "under way").Rows != 1 {
		t.Errorf("%d certificates after %+v", n, dry)
	}
	if _, err := r.RunOnce(t.Context(), scheduler, sweep.Erasures, sweep.ByCommand); err != nil || certificates() != 1 {
		t.Errorf("%d certificates, %v", certificates(), err)
	}
}

func TestEachCheckSaysHowLongItTook(t *testing.T) {
	e := storetest.New(t)
	r := run(t, e)
	for _, c := range r.Checks {
		if c.Duration <= 0 {
			t.Errorf("%s took %s", c.Table, c.Duration)
		}
	}
	if n := e.Int(`SELECT count(*) FROM trakr.sweep_results WHERE run_id = $1 AND duration_us > 0`, r.ID); n != int64(len(r.Checks)) {
		t.Errorf("%d of %d durations stored", n, len(r.Checks))
	}
}

func TestSeverityFollowsWhatWasFound(t *testing.T) {
	e := storetest.New(t)
	stale(t, e)
	got := map[string]findings.Severity{}
	for _, f := range run(t, e).Findings {
		got[f.Column] = f.Severity
	}
	if got[""] != findings.High || got["tenant_id"] != findings.Critical {
		t.Errorf("%v", got)
	}
}
