package sweep_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace/noop"

	"trakr/internal/bitbucket"
	"trakr/internal/connect"
	"trakr/internal/erasure"
	"trakr/internal/erasure/erasuretest"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/findings"
	"trakr/internal/store/liveness"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tenants"
	"trakr/internal/sweep"
	"trakr/internal/sweep/sweeptest"
)

// atlassian is Bitbucket's protected resource: it checks the token as Bitbucket does
// and answers for each workspace what the story says; 200 when it says nothing.
type atlassian struct {
	mu      sync.Mutex
	secrets map[string]string // by workspace
	say     map[string]int
	all     int // 0: each as say says
	asked   []string
	during  func(workspace string)
}

func (b *atlassian) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/2.0/workspaces/{"), "}/hooks")
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.during != nil {
		b.during(id)
	}
	b.asked = append(b.asked, id)
	u, err := connect.NewVerifier(connect.Config{BaseURL: "http://" + r.Host, Now: func() time.Time { return time.Now() }}).Inspect(r)
	status := http.StatusOK
	switch {
	case b.all != 0:
		status = b.all
	case b.say[id] != 0:
		status = b.say[id]
	case err != nil || u.Verify(lifecycle.NewSecret(b.secrets[id])) != nil:
		status = http.StatusUnauthorized
	}
	w.WriteHeader(status)
}

func (b *atlassian) answer(change func()) { b.mu.Lock(); defer b.mu.Unlock(); change() }

// eraser is the one erasure with the trigger probe, or an error.
type eraser struct {
	*erasuretest.Rig
	err error
}

func (x *eraser) EraseMissing(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, g sweep.Missing) error {
	if x.err != nil {
		return x.err
	}
	_, err := x.Eraser.Erase(ctx, a, id, erasure.Order{Trigger: lifecycle.TriggerProbe, RequestedAt: g.At, Delivery: tenants.Delivery{Version: g.Version}})
	return err
}

// world is a service whose Bitbucket is played.
type world struct {
	*storetest.Env
	bitbucket  *atlassian
	host       string
	eraser     *eraser
	pass       *sweep.LivenessPass
	runner     *sweep.Runner
	workspaces map[lifecycle.TenantID]string
	marker     int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Env: storetest.New(t), bitbucket: &atlassian{secrets: map[string]string{}, say: map[string]int{}}, workspaces: map[lifecycle.TenantID]string{}}
	w.Policy.Liveness.PerSecond = 10_000
	srv := httptest.NewServer(w.bitbucket)
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	w.host = u.Host
	client, err := bitbucket.New(bitbucket.Config{Origin: srv.URL, AppKey: "trakr", Resource: w.Policy.App.Proof.Resource, Now: time.Now, Tracer: noop.NewTracerProvider()})
	if err != nil {
		t.Fatal(err)
	}
	w.eraser = &eraser{Rig: erasuretest.New(t, w.Env)}
	w.pass = sweep.NewLiveness(liveness.New(w.DB), w.Policy, w.Door, client, w.eraser)
	w.runner, err = sweep.New(w.DB, w.Policy, w.Clock.Now, slog.New(slog.DiscardHandler), sweeptest.Fill(w.Policy, w.pass)...)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) tenant() lifecycle.TenantID {
	w.T.Helper()
	w.marker++
	values := storetest.Values("m" + strconv.Itoa(w.marker))
	id := w.Install(values, "install"+strconv.Itoa(w.marker))
	w.workspaces[id] = values[lifecycle.PrincipalUUID].Reveal()
	w.bitbucket.secrets[w.workspaces[id]] = values[lifecycle.SharedSecret].Reveal()
	return id
}

func (w *world) says(id lifecycle.TenantID, status int) {
	w.bitbucket.answer(func() { w.bitbucket.say[w.workspaces[id]] = status })
}

func (w *world) everybody(status int) { w.bitbucket.answer(func() { w.bitbucket.all = status }) }

// tomorrow moves the clock by a day and runs the scheduled pass.
func (w *world) tomorrow() findings.Run {
	w.T.Helper()
	w.Clock.Add(24 * time.Hour)
	r, err := w.runner.RunDue(w.T.Context(), scheduler, sweep.Liveness, w.Clock.Now())
	if err != nil {
		w.T.Fatal(err)
	}
	return r
}

// now runs the scheduled pass that is due now.
func (w *world) now() findings.Run {
	w.T.Helper()
	r, err := w.runner.RunDue(w.T.Context(), scheduler, sweep.Liveness, w.Clock.Now())
	if err != nil {
		w.T.Fatal(err)
	}
	return r
}

func (w *world) anHourLater() findings.Run { w.T.Helper(); w.Clock.Add(time.Hour); return w.now() }

func (w *world) live() int64 {
	w.T.Helper()
	return w.Int(`SELECT count(*) FROM trakr.tenants WHERE state = 'live'`)
}

func (w *world) counted() int64 {
	w.T.Helper()
	return w.Int(`SELECT coalesce(sum(suspicions), 0) FROM trakr.tenant_liveness`)
}

func (w *world) state(id lifecycle.TenantID) lifecycle.TenantState {
	w.T.Helper()
	t, err := w.Door.Get(w.T.Context(), id)
	if err != nil {
		w.T.Fatal(err)
	}
	return t.State
}

func (w *world) suspicions(id lifecycle.TenantID) int64 {
	w.T.Helper()
	return w.Int(`SELECT coalesce(sum(suspicions), 0) FROM trakr.tenant_liveness WHERE tenant_id = $1`, id.String())
}

func subject(r findings.Run, what string) findings.Check {
	return checkColumn(r, "trakr.tenant_liveness", what)
}

func TestOnlyATenantThatIsGoneForDaysIsErased(t *testing.T) {
	w := newWorld(t)
	a, b, c, d := w.tenant(), w.tenant(), w.tenant(), w.tenant()
	w.says(a, 404) // its uninstall was dropped
	w.says(c, 500)
	for day := 1; day <= 7; day++ {
		if day == 2 {
			w.says(b, 404)
		} else {
			w.says(b, 0)
		}
		r := w.tomorrow()
		wantA, wantB := lifecycle.Live, int64(0)
		if day >= 5 { // the first suspicion on day 1, the fifth four days later
			wantA = lifecycle.Erased
		}
		if day == 2 {
			wantB = 1
		}
		if w.state(a) != wantA || w.suspicions(b) != wantB || w.suspicions(c) != 0 || w.suspicions(d) != 0 {
			t.Errorf("day %d: A is %s, suspicions of B %d, C %d, D %d", day, w.state(a), w.suspicions(b), w.suspicions(c), w.suspicions(d))
		}
		// C was installed on day 0: once nothing was heard of it for more than four
		// days, nobody claims to know.
		wantResult := findings.Clean
		if day > 4 {
			wantResult = findings.Blind
		}
		if r.Result != wantResult || (day > 4) != (subject(r, "unheard").Rows == 1) {
			t.Errorf("day %d: %s, unheard %+v", day, r.Result, subject(r, "unheard"))
		}
	}
	for name, id := range map[string]lifecycle.TenantID{"B": b, "C": c, "D": d} {
		if w.state(id) != lifecycle.Live {
			t.Errorf("%s is %s", name, w.state(id))
		}
	}
	if n := w.Int(`SELECT count(*) FROM trakr.erasures WHERE trigger = 'probe' AND tenant_id = $1`, a.String()); n != 1 {
		t.Error("A's tombstone does not say probe")
	}
	if n := w.Int(`SELECT count(*) FROM trakr.tenant_liveness WHERE tenant_id = $1`, a.String()); n != 0 {
		t.Error("what was known of A's life stayed behind")
	}
	w.audited(a, c)
}

// audited: each question shows who was asked and what came back, and no value.
func (w *world) audited(gone, silent lifecycle.TenantID) {
	w.T.Helper()
	reads, probes := map[lifecycle.TenantID]int{}, map[lifecycle.TenantID]int{}
	for _, e := range w.Events() {
		switch {
		case e.Action == audit.TenantRead:
			if e.ActorType != lifecycle.ActorScheduler || e.ReasonCode != lifecycle.SystemSweep || len(e.FieldNames) != 3 || e.CorrelationID == "" {
				w.T.Errorf("a read that does not say what it was for: %+v", e)
			}
			reads[e.TenantID]++
		case e.Action == audit.TenantProbe:
			probes[e.TenantID]++
			want, outcome := "alive 200", audit.Success
			switch {
			case e.TenantID == gone:
				want = "suspected 404"
			case e.TenantID == silent:
				want, outcome = "cannot-tell 500", audit.Failure
			case e.StatusDetail == "suspected 404":
				want = e.StatusDetail // B's one day
			}
			if e.StatusDetail != want || e.Outcome != outcome || e.Recipient != w.host {
				w.T.Errorf("a probe's event says %s, %s, %s", e.StatusDetail, e.Outcome, e.Recipient)
			}
		}
	}
	if probes[gone] != 5 || probes[silent] != 7 || reads[gone] != 5 || reads[silent] != 7 {
		w.T.Errorf("probes %v, reads %v", probes, reads)
	}
}

func TestAnOutageErasesNobody(t *testing.T) {
	w := newWorld(t)
	a, b := w.tenant(), w.tenant()
	w.tomorrow()
	for _, status := range []int{404, 401, 403} {
		w.everybody(status)
		for range 6 {
			r := w.tomorrow()
			if c := subject(r, "suspected"); r.Result != findings.Blind || c.Disposition != findings.Unjudged || !strings.Contains(c.Ground, "Bitbucket itself may be out") {
				t.Fatalf("%d: %s, %+v", status, r.Result, c)
			}
		}
	}
	// The day it is over, one of them is still not found: that is its first suspicion.
	w.everybody(0)
	w.says(a, 404)
	r := w.tomorrow()
	if r.Result != findings.Clean || w.suspicions(a) != 1 || w.state(a) != lifecycle.Live || w.state(b) != lifecycle.Live {
		t.Errorf("%s, %d suspicions, A %s", r.Result, w.suspicions(a), w.state(a))
	}
}

func TestSilenceIsNoSuspicion(t *testing.T) {
	for _, status := range []int{500, 503, 302, 400, 429} {
		w := newWorld(t)
		a := w.tenant()
		w.tenant()
		w.everybody(status)
		r := w.tomorrow()
		if c := subject(r, "silent"); r.Result != findings.Blind || c.Disposition != findings.Unjudged || w.suspicions(a) != 0 {
			t.Errorf("%d: %s, %+v, %d suspicions", status, r.Result, c, w.suspicions(a))
		}
	}
}

func TestBitbucketAsksForRestAndGetsIt(t *testing.T) {
	w := newWorld(t)
	w.Policy.Liveness.Parallel = 1
	for range 20 {
		w.tenant()
	}
	w.everybody(429)
	r := w.tomorrow()
	if n := len(w.bitbucket.asked); n > 2 { // one more may be on its way
		t.Errorf("%d questions after Bitbucket asked to slow down", n)
	}
	if c := subject(r, "silent"); r.Result != findings.Blind || c.Rows != 20 || !strings.Contains(c.Ground, "429") {
		t.Errorf("%s, %+v", r.Result, c)
	}
	// Those not asked come first the next time.
	first := w.bitbucket.asked[0]
	w.bitbucket.answer(func() { w.bitbucket.all, w.bitbucket.asked = 0, nil })
	w.Policy.Liveness.Batch = 15
	w.tomorrow()
	for _, id := range w.bitbucket.asked {
		if id == first {
			t.Error("the one that was asked came before some that were not")
		}
	}
}

func TestTheOnlyTenantIsNeverErasedByAProbe(t *testing.T) {
	w := newWorld(t)
	a := w.tenant()
	if r := w.tomorrow(); r.Result != findings.Clean || !strings.Contains(subject(r, "gone").Ground, "never erased by a probe") {
		t.Errorf("alive: %s, %+v", r.Result, subject(r, "gone"))
	}
	w.says(a, 404)
	for range 10 {
		if r := w.tomorrow(); r.Result != findings.Blind || !strings.Contains(subject(r, "suspected").Ground, "only one tenant") {
			t.Fatalf("%s, %+v", r.Result, subject(r, "suspected"))
		}
	}
	if w.state(a) != lifecycle.Live {
		t.Error("erased without a control")
	}
}

// The control was asked an hour ago and is not due: it is asked besides.
func TestAControlIsFoundBesideThoseThatAreDue(t *testing.T) {
	w := newWorld(t)
	a := w.tenant()
	w.tomorrow()
	w.says(a, 404)
	w.Clock.Add(19 * time.Hour)
	b := w.tenant()
	w.Clock.Add(-18 * time.Hour)
	if _, err := w.runner.RunOnce(t.Context(), scheduler, sweep.Liveness, sweep.BySchedule); err != nil {
		t.Fatal(err)
	}
	_ = b
	w.Clock.Add(20 * time.Hour)
	r, err := w.runner.RunDue(t.Context(), scheduler, sweep.Liveness, w.Clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	if r.Result != findings.Clean || w.suspicions(a) != 1 || subject(r, "alive").Rows != 1 {
		t.Errorf("%s, %d suspicions, %+v", r.Result, w.suspicions(a), subject(r, "alive"))
	}
}

func TestSuspicionsCountOnceInTheirTime(t *testing.T) {
	w := newWorld(t)
	a := w.tenant()
	w.tenant()
	w.says(a, 404)
	w.tomorrow()
	apart := w.Policy.Liveness.Apart.Duration()
	for _, x := range []struct {
		after time.Duration
		want  int64
	}{{apart - time.Minute, 1}, {2 * time.Minute, 2}, {time.Hour, 2}} {
		w.Clock.Add(x.after)
		if _, err := w.runner.RunDue(t.Context(), scheduler, sweep.Liveness, w.Clock.Now()); err != nil {
			t.Fatal(err)
		}
		if n := w.suspicions(a); n != x.want {
			t.Errorf("%v later: %d suspicions, want %d", x.after, n, x.want)
		}
	}
	// It installs again: a proof of life that needs no question.
	values := storetest.Values("again")
	values[lifecycle.PrincipalUUID] = lifecycle.NewSecret(w.workspaces[a])
	w.Clock.Add(apart)
	if _, err := w.Door.Update(t.Context(), storetest.Ingress(), a, values, w.Delivery("again")); err != nil {
		t.Fatal(err)
	}
	w.Clock.Add(time.Hour)
	if _, err := w.runner.RunDue(t.Context(), scheduler, sweep.Liveness, w.Clock.Now()); err != nil {
		t.Fatal(err)
	}
	if n := w.suspicions(a); n != 1 {
		t.Errorf("%d suspicions after an install, want to begin anew", n)
	}
}

func TestADryRunAsksAndKeepsNothing(t *testing.T) {
	w := newWorld(t)
	a := w.tenant()
	w.tenant()
	w.says(a, 404)
	for range 4 {
		w.tomorrow()
	}
	before := w.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'tenant.probe'`)
	w.Clock.Add(24 * time.Hour)
	o := sweep.Order{Access: scheduler, RunID: "run", Now: w.Clock.Now(), DryRun: true}
	for range 2 {
		found, err := w.pass.Look(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		r := findings.Run{Checks: found.Checks}
		if c := subject(r, "gone"); !c.Found() || c.Rows != 1 || subject(r, "suspected").Rows != 1 {
			t.Errorf("%+v, %+v", c, subject(r, "suspected"))
		}
	}
	if w.state(a) != lifecycle.Live || w.suspicions(a) != 4 {
		t.Errorf("A is %s with %d suspicions", w.state(a), w.suspicions(a))
	}
	if n := w.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'tenant.probe'`); n != before+4 {
		t.Errorf("%d questions recorded, want 4: a dry run discloses too", n-before)
	}
	if !w.pass.Destructive() {
		t.Error("a kind that erases must say so")
	}
}

func TestWhatStopsAnErasureIsTold(t *testing.T) {
	w := newWorld(t)
	a := w.tenant()
	w.tenant()
	w.says(a, 404)
	for range 4 {
		w.tomorrow()
	}
	w.eraser.err = lifecycle.Fail(lifecycle.OnHold, "held")
	if r := w.tomorrow(); r.Result != findings.Clean || subject(r, "held").Rows != 1 {
		t.Errorf("a legal hold: %s, %+v", r.Result, subject(r, "held"))
	}
	w.eraser.err = errors.New("broken")
	w.Clock.Add(24 * time.Hour)
	if r, err := w.runner.RunDue(t.Context(), scheduler, sweep.Liveness, w.Clock.Now()); err == nil || r.Result != findings.Failed {
		t.Errorf("an erasure that failed: %s, %v", r.Result, err)
	}
	// It installs again between the question and the erasure.
	w.eraser.err = nil
	w.bitbucket.answer(func() {
		w.bitbucket.during = func(workspace string) {
			if workspace != w.workspaces[a] {
				return
			}
			values := storetest.Values("again")
			values[lifecycle.PrincipalUUID] = lifecycle.NewSecret(workspace)
			if _, err := w.Door.Update(context.Background(), storetest.Ingress(), a, values, w.Delivery("again")); err != nil {
				t.Error(err)
			}
		}
	})
	w.tomorrow()
	if w.state(a) != lifecycle.Live {
		t.Error("erased although it had just been installed again")
	}
}

func TestADatabaseErrorIsNeverAnAnswer(t *testing.T) {
	for name, sql := range map[string]string{
		"no audit": storetest.Breaks()["insert refused"], "no commit": storetest.Breaks()["commit fails"],
		"no table": `ALTER TABLE trakr.tenant_liveness RENAME TO gone`, "no writing": `REVOKE INSERT ON trakr.tenant_liveness FROM trakr_service`,
	} {
		w := newWorld(t)
		a := w.tenant()
		w.tenant()
		w.says(a, 404)
		w.Exec(sql)
		w.Clock.Add(24 * time.Hour)
		if r, err := w.runner.RunDue(t.Context(), scheduler, sweep.Liveness, w.Clock.Now()); err == nil || r.Result == findings.Clean {
			t.Errorf("%s: %s, %v", name, r.Result, err)
		}
		if w.state(a) != lifecycle.Live {
			t.Errorf("%s: erased", name)
		}
	}
}

// The app needs a new scope: who has not granted it answers 403, one new install 200.
func TestAMassOfSuspicionsErasesNobody(t *testing.T) {
	w := newWorld(t)
	w.tenant()
	var others []lifecycle.TenantID
	for range 20 {
		others = append(others, w.tenant())
		w.says(others[len(others)-1], 403)
	}
	w.Clock.Add(time.Hour)
	dry, err := w.pass.Look(t.Context(), sweep.Order{Access: scheduler, RunID: "run", Now: w.Clock.Now(), DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if c := subject(findings.Run{Checks: dry.Checks}, "too_many"); !c.Found() || c.Rows != 20 {
		t.Errorf("a dry run: %+v", c)
	}
	for day := range 6 {
		for _, r := range []findings.Run{w.tomorrow(), w.anHourLater()} { // nobody is due in the second
			c := subject(r, "too_many")
			if r.Result != findings.Found || !c.Found() || c.Rows != 20 || c.Severity != findings.Critical || !strings.Contains(c.Ground, "20 of 21") {
				t.Fatalf("day %d: %s, %+v", day, r.Result, c)
			}
			if c := subject(r, "suspected"); c.Disposition != findings.Unjudged {
				t.Fatalf("day %d: %+v", day, c)
			}
		}
	}
	if w.live() != 21 || w.counted() != 0 {
		t.Fatalf("%d tenants left of 21, %d suspicions counted", w.live(), w.counted())
	}
	// Bitbucket falls silent: that is no sign that it is over.
	w.everybody(500)
	for range 4 {
		if c := subject(w.tomorrow(), "too_many"); c.Disposition == findings.Checked && c.Rows == 0 {
			t.Fatalf("over without an answer: %+v", c)
		}
	}
	if n := w.Int(`SELECT count(*) FROM trakr.findings WHERE column_name = 'too_many' AND severity = 'critical' AND resolved_at IS NULL`); n != 1 {
		t.Errorf("%d open findings, want the one", n)
	}
	w.everybody(0)
	for _, id := range others[2:] { // two are really gone
		w.says(id, 0)
	}
	if r := w.tomorrow(); r.Result != findings.Clean || w.counted() != 2 {
		t.Errorf("when it is over: %s, %d suspicions, %+v", r.Result, w.counted(), subject(r, "too_many"))
	}
	if n := w.Int(`SELECT count(*) FROM trakr.findings WHERE column_name = 'too_many' AND resolved_at IS NOT NULL`); n != 1 {
		t.Errorf("%d resolved findings, want the one", n)
	}
}

// Each tenant has its own hour, so that no pass sees more than one of them.
func TestAMassSpreadOverPassesErasesNobody(t *testing.T) {
	w := newWorld(t)
	w.tenant()
	for range 6 {
		w.Clock.Add(3 * time.Hour)
		w.now()
		w.says(w.tenant(), 403)
	}
	var last findings.Run
	for range 6 * 8 {
		w.Clock.Add(3 * time.Hour)
		last = w.now()
	}
	if w.live() != 7 {
		t.Errorf("%d tenants left of 7", w.live())
	}
	if c := subject(last, "too_many"); !c.Found() || c.Rows != 6 {
		t.Errorf("%+v", c)
	}
}

func TestAMassIsMoreThanThreeAndMoreThanOneInTwenty(t *testing.T) {
	w := newWorld(t)
	var ids []lifecycle.TenantID
	for _, x := range []struct {
		tenants, gone int
		mass          bool
	}{{4, 3, false}, {5, 4, true}, {79, 4, true}, {80, 4, false}, {99, 5, true}, {100, 5, false}} {
		for len(ids) < x.tenants {
			ids = append(ids, w.tenant())
		}
		for i, id := range ids {
			w.says(id, map[bool]int{true: 404}[i < x.gone])
		}
		before := w.counted()
		c := subject(w.tomorrow(), "too_many")
		if c.Found() != x.mass || (w.counted() > before) == x.mass {
			t.Errorf("%d of %d: %+v, %d suspicions after %d", x.gone, x.tenants, c, w.counted(), before)
		}
	}
}

func TestOnlySoManyAreErasedInOnePass(t *testing.T) {
	w := newWorld(t)
	w.Policy.Liveness.MaxErasures = 2
	for i := range 6 {
		if id := w.tenant(); i < 3 {
			w.says(id, 404)
		}
	}
	for range 4 {
		w.tomorrow()
	}
	if r := w.tomorrow(); w.live() != 4 || subject(r, "waiting").Rows != 1 || r.Result != findings.Clean {
		t.Errorf("%d tenants left of 6, want 4: %s, %+v", w.live(), r.Result, subject(r, "waiting"))
	}
	if r := w.tomorrow(); w.live() != 3 || subject(r, "waiting").Rows > 0 {
		t.Errorf("%d tenants left of 6, want 3: %+v", w.live(), subject(r, "waiting"))
	}
}

// Three days of 404, half a year of silence, and one 404 more.
func TestOldSuspicionsDoNotAddUp(t *testing.T) {
	w := newWorld(t)
	a := w.tenant()
	w.tenant()
	w.says(a, 404)
	for range 3 {
		w.tomorrow()
	}
	w.says(a, 500)
	for range 3 {
		w.Clock.Add(60 * 24 * time.Hour)
		w.now()
	}
	w.says(a, 404)
	w.tomorrow()
	if w.state(a) != lifecycle.Live || w.suspicions(a) != 1 {
		t.Errorf("A is %s with %d suspicions, want one that begins anew", w.state(a), w.suspicions(a))
	}
	long := 3 * w.Policy.Liveness.Apart.Duration()
	for _, x := range []struct {
		after time.Duration
		want  int64
	}{{long, 2}, {long - time.Minute, 3}, {long + time.Minute, 1}} {
		w.Clock.Add(x.after)
		w.now()
		if w.state(a) != lifecycle.Live || w.suspicions(a) != x.want {
			t.Errorf("%v after the last: A is %s with %d suspicions, want %d", x.after, w.state(a), w.suspicions(a), x.want)
		}
	}
}
