package sweep_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"trakr/internal/egress"
	"trakr/internal/erasure"
	"trakr/internal/erasure/erasuretest"
	"trakr/internal/lifecycle"
	"trakr/internal/proof/certificate"
	"trakr/internal/store/findings"
	"trakr/internal/store/outbox"
	"trakr/internal/store/storetest"
	"trakr/internal/sweep"
	"trakr/internal/sweep/sweeptest"
)

// A run counts, finds nothing, and then fails to store what it saw. No certificate may
// cite it: the next run counts again, and is the one that is cited.
func TestNoCertificateRestsOnASweepThatFailed(t *testing.T) {
	e := storetest.New(t)
	rig := erasuretest.New(t, e)
	r, err := sweep.New(e.DB, e.Policy, e.Clock.Now, slog.New(slog.DiscardHandler), sweeptest.Fill(e.Policy, sweep.NewErasures(rig.Eraser, e.Policy, storetest.Must(t)(outbox.New(e.DB, e.Log, e.Keys)).(*outbox.Store)))...)
	if err != nil {
		t.Fatal(err)
	}
	gone := e.Install(storetest.Values("gone"), "b")
	out, err := rig.Erase(t.Context(), storetest.Ingress(), gone, erasure.Order{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: e.Delivery("bye")})
	if err != nil {
		t.Fatal(err)
	}
	e.Exec(`CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$;
		CREATE TRIGGER no BEFORE INSERT ON trakr.sweep_results FOR EACH ROW EXECUTE FUNCTION public.no()`)
	failed, err := r.RunOnce(t.Context(), scheduler, sweep.Erasures, sweep.ByCommand)
	if err == nil {
		t.Fatal("the run was stored")
	}
	if n := e.Int(`SELECT count(*) FROM trakr.sweep_runs WHERE run_id = $1 AND result = 'failed'`, failed.ID); n != 1 {
		t.Error("the run that failed is not stored as failed")
	}
	x, err := rig.Config.Erasures.Get(t.Context(), uuid.MustParse(out.ErasureID))
	if err != nil || !x.VerifiedAt.IsZero() || x.CertificateID != "" {
		t.Errorf("a run that failed verified: %+v, %v", x, err)
	}
	// Nor by hand, nor by a run that is not over, nor by one that nobody ran.
	open, err := findings.New(e.DB).Begin(t.Context(), sweep.Erasures, "command", false, e.Clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, run := range map[string]string{"failed": failed.ID, "not over": open.ID, "invented": uuid.NewString()} {
		if err := rig.Finish(t.Context(), scheduler, uuid.MustParse(out.ErasureID), run); err == nil || erasure.StepOf(err) != erasure.Verify {
			t.Errorf("a run that is %s verified: %v", name, err)
		}
	}
	if err := e.TryExec(`UPDATE trakr.sweep_runs SET result = 'clean' WHERE run_id = $1`, failed.ID); err == nil || !strings.Contains(err.Error(), "is over") {
		t.Errorf("the run that failed was made clean: %v", err)
	}

	e.Exec(`DROP TRIGGER no ON trakr.sweep_results`)
	e.Clock.Add(time.Minute)
	good, err := r.RunOnce(t.Context(), scheduler, sweep.Erasures, sweep.ByCommand)
	if err != nil || good.Result != findings.Clean {
		t.Fatalf("%+v, %v", good, err)
	}
	stored, err := rig.Config.Erasures.CertificateOf(t.Context(), uuid.MustParse(out.ErasureID))
	if err != nil {
		t.Fatal(err)
	}
	c, err := certificate.Parse([]byte(stored.Document))
	if err != nil || c.Verification.SweepRunID != good.ID {
		t.Errorf("the certificate cites %s, want %s; %v", c.Verification.SweepRunID, good.ID, err)
	}
}

// An installation and the notice of an erasure are entered, and no sender runs: after five
// days each is a finding, though nobody ever gave it up.
func TestWhatNobodySendsIsAFindingAfterFiveDays(t *testing.T) {
	e := storetest.New(t)
	g, err := egress.New(e.Policy, lifecycle.ToEndService, "https://trakr.example.com")
	if err != nil {
		t.Fatal(err)
	}
	o := e.AnnounceTo(g)
	rig := erasuretest.New(t, e)
	r, err := sweep.New(e.DB, e.Policy, e.Clock.Now, slog.New(slog.DiscardHandler), sweeptest.Fill(e.Policy, sweep.NewErasures(rig.Eraser, e.Policy, o))...)
	if err != nil {
		t.Fatal(err)
	}
	look := func(column string) (found findings.Check, result findings.Result) {
		t.Helper()
		run, err := r.RunOnce(t.Context(), scheduler, sweep.Erasures, sweep.ByCommand)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range run.Checks {
			if c.Table == "trakr.outbox" && c.Column == column {
				return c, run.Result
			}
		}
		t.Fatal("the pass does not look for what waits too long")
		return
	}
	overdue := func() (findings.Check, findings.Result) { t.Helper(); return look("overdue") }
	e.Install(storetest.Values("stays"), "a")
	gone := e.Install(storetest.Values("gone"), "b")
	if _, err := rig.Erase(t.Context(), storetest.Ingress(), gone, erasure.Order{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: e.Delivery("bye")}); err != nil {
		t.Fatal(err)
	}
	e.Clock.Add(outbox.MaxAge - time.Minute)
	if c, result := overdue(); c.Rows != 0 || result != findings.Clean {
		t.Errorf("a minute before: %+v, %s", c, result)
	}
	e.Clock.Add(2 * time.Minute)
	if c, result := overdue(); c.Rows != 2 || result != findings.Found || !c.Found() || !strings.Contains(c.Ground, "1 of them notices of an erasure") {
		t.Errorf("a minute after: %+v, %s", c, result)
	}
	// Tried again by a person it is still not acknowledged, and so still a finding.
	all, err := o.List(t.Context(), true, 10)
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, d := range all {
		if _, err := o.Retry(t.Context(), scheduler, d.ID.String()); err != nil {
			t.Fatal(err)
		}
	}
	e.Clock.Add(time.Minute)
	if c, _ := overdue(); c.Rows != 2 {
		t.Errorf("after a retry: %+v", c)
	}
	// What the guard refuses is one at once.
	if c, _ := look("dead letters"); c.Rows != 0 {
		t.Errorf("before anything is dead: %+v", c)
	}
	v := storetest.Values("refused")
	v[lifecycle.ClientKey], v[lifecycle.Username] = lifecycle.NewSecret("custom-acmeteam-key"), lifecycle.NewSecret("acmeteam")
	e.Install(v, "c")
	if c, _ := look("dead letters"); c.Rows != 1 || !c.Found() || !strings.Contains(c.Ground, "the guard refused them") {
		t.Errorf("refused by the guard: %+v", c)
	}
}
