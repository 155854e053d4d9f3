package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"trakr/internal/app"
	"trakr/internal/lifecycle"
	"trakr/internal/platform/config"
	"trakr/internal/platform/telemetry"
	"trakr/internal/store/storetest"
	"trakr/internal/sweep"
)

// house is a whole service on a database of its own, with a clock that moves when told.
type house struct {
	*storetest.Env
	service *app.App
	tel     *telemetry.Telemetry
	admin   *httptest.Server
	token   string
}

func newHouse(t *testing.T, back time.Duration) *house {
	t.Helper()
	must := storetest.Must(t)
	h := &house{Env: storetest.New(t)}
	h.Clock.Add(-back)
	cfg := must(config.Load([]string{"TRAKR_DATABASE_URL=" + storetest.ServiceURL(t, h.URL), "TRAKR_DATA_DIR=" + t.TempDir()}, false)).(config.Config)
	tel, err := telemetry.Setup(t.Context(), telemetry.Config{Service: "trakr", Version: "test", LogWriter: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	h.tel = tel
	h.service, err = app.Open(t.Context(), app.Options{Mode: app.Command, Config: cfg, Version: toolVersion(), Now: h.Clock.Now, Telemetry: tel})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.service.Close() })
	admin, _, err := h.service.AdminHandler(tel, tel.Observe)
	if err != nil {
		t.Fatal(err)
	}
	h.admin = httptest.NewServer(admin)
	t.Cleanup(h.admin.Close)
	why := reasonFlags{code: string(lifecycle.ServiceOperation)}
	plain, _, err := h.service.Tokens.Create(t.Context(), why.access(), lifecycle.RoleReviewer, "test", 30*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	h.token = plain.Reveal()
	return h
}

// work lets a scheduler do what is due, and then stands still.
func (h *house) work(ctx context.Context) {
	h.T.Helper()
	if err := h.service.Census.PlantCanary(ctx); err != nil { // as the start does
		h.T.Fatal(err)
	}
	for _, rule := range h.service.Policy.Sweeps {
		if err := h.service.Runner.Expect(ctx, rule.Kind); err != nil {
			h.T.Fatal(err)
		}
	}
	jobs, err := h.service.Scheduler(h.tel.Meter)
	if err != nil {
		h.T.Fatal(err)
	}
	if err := jobs.Start(ctx); err != nil {
		h.T.Fatal(err)
	}
	jobs.Stop()
}

// jobNames lists the jobs that the service schedules.
func (h *house) jobNames() (out []string) {
	h.T.Helper()
	jobs, err := h.service.Jobs()
	if err != nil {
		h.T.Fatal(err)
	}
	for _, j := range jobs {
		out = append(out, j.Name)
	}
	return out
}

func (h *house) text(path string) string {
	h.T.Helper()
	_, b := h.fetch(path)
	return string(b)
}

func (h *house) get(path string, v any) int {
	h.T.Helper()
	status, b := h.fetch(path)
	if err := json.Unmarshal(b, v); err != nil {
		h.T.Fatalf("%s: %v: %s", path, err, b)
	}
	return status
}

func (h *house) fetch(path string) (int, []byte) {
	h.T.Helper()
	req, err := http.NewRequestWithContext(h.T.Context(), http.MethodGet, h.admin.URL+path, nil)
	if err != nil {
		h.T.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.T.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.T.Fatal(err)
	}
	return resp.StatusCode, b
}

// red lists what keeps the service from being ready.
func (h *house) red() map[string]string {
	h.T.Helper()
	var out struct {
		Ready  bool
		Checks []struct {
			Name   string
			OK     bool
			Detail string
		}
	}
	status := h.get("/readyz", &out)
	red := map[string]string{}
	for _, c := range out.Checks {
		if !c.OK {
			red[c.Name] = c.Detail
		}
	}
	if (status == http.StatusOK) != (len(red) == 0) || out.Ready != (len(red) == 0) {
		h.T.Errorf("%d, %+v", status, out)
	}
	return red
}

// document is the JSON of a report.
type document struct {
	Verdict    string
	Reasons    []string
	Statements []documentStatement
	Sections   []struct {
		ID   string
		Rows []map[string]any
	}
}

type documentStatement struct{ Text, State, Why string }

func (h *house) report(kind string) document {
	h.T.Helper()
	var d document
	if status := h.get("/v1/reports/"+kind+"?format=json", &d); status != http.StatusOK {
		h.T.Fatalf("report %s: %d", kind, status)
	}
	return d
}

// control returns the state of a job's control in the location report.
func (h *house) control(job string) string {
	h.T.Helper()
	var d struct {
		Sections []struct{ Rows []map[string]any }
	}
	h.get("/v1/reports/location?format=json", &d)
	for _, s := range d.Sections {
		for _, row := range s.Rows {
			if row["control"] == "The scheduled job “"+job+"” runs in time" {
				return row["state"].(string)
			}
		}
	}
	return "not there"
}

func why(t *testing.T, d document, beginning string) documentStatement {
	t.Helper()
	for _, s := range d.Statements {
		if strings.HasPrefix(s.Text, beginning) {
			return s
		}
	}
	t.Fatalf("no statement %q in %+v", beginning, d.Statements)
	return documentStatement{}
}

// The scheduler stands still while the clock goes on: nobody is told that all is well.
func TestAFrozenSchedulerIsRedAndNothingIsCalledClean(t *testing.T) {
	const rest = 72 * time.Hour // longer than twice any job's interval
	h := newHouse(t, rest)
	if red := h.red(); len(red) == 0 {
		t.Error("a service that never scheduled anything is ready")
	}
	h.work(t.Context())
	if red := h.red(); len(red) != 0 {
		t.Fatalf("after the work was done: %v", red)
	}
	h.Clock.Add(rest)
	red := h.red()
	for _, name := range h.jobNames() {
		if !strings.Contains(red["job "+name], "job "+name+" did not succeed") {
			t.Errorf("job %s: %q", name, red["job "+name])
		}
	}
	kinds := len(sweep.Kinds())
	if red["sweep orphans"] == "" || len(red) != kinds+len(h.jobNames()) {
		t.Errorf("red: %v", red)
	}
	for _, kind := range []string{"location", "retention", "requests", "attestation"} {
		d := h.report(kind)
		if d.Verdict == "holds" {
			t.Errorf("the %s report of a frozen service holds", kind)
		}
		if kind == "requests" {
			if s := why(t, d, "The jobs that carry out requests"); s.State != "cannot tell" || !strings.Contains(s.Why, "overdue") {
				t.Errorf("%s: %+v", kind, s)
			}
			continue
		}
		if s := why(t, d, "No row of a tenant"); s.State != "cannot tell" || !strings.Contains(s.Why, "overdue") {
			t.Errorf("%s: %+v", kind, s)
		}
	}

	// It thaws: what was missed is caught up once, and all is well again.
	h.work(t.Context())
	if red := h.red(); len(red) != 0 {
		t.Errorf("after it thawed: %v", red)
	}
	if n := h.Int(`SELECT count(*) FROM trakr.sweep_runs`); n != int64(2*kinds) {
		t.Errorf("%d sweeps, want of each kind the first and one that caught up", n)
	}
	if d := h.report("retention"); d.Verdict != "holds" {
		for _, s := range d.Sections {
			if s.ID == "findings" {
				t.Error(s.Rows)
			}
		}
		t.Errorf("%s: %v", d.Verdict, d.Reasons)
	}
	if state := h.control("replay guard"); state != "pass" {
		t.Errorf("the control of the replay guard: %s", state)
	}

	// What an alarm can be set on.
	h.Exec(`CREATE TABLE public.cache (tenant_id uuid)`)
	h.Clock.Add(time.Hour)
	h.work(t.Context())
	if err := sweep.Measure(h.tel.Meter, h.service.Findings); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`trakr_job_last_success_seconds{trakr_job="replay guard"}`,
		`trakr_job_runs_total{trakr_job="sweep orphans",trakr_outcome="success"} 3`,
		`trakr_findings_open{trakr_kind="orphans",trakr_severity="high"} 1`,
	} {
		// A gauge that needs the database is left out of an answer that would wait for it.
		found := false
		for range 20 {
			if found = strings.Contains(h.text("/metrics"), want); found {
				break
			}
		}
		if !found {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	h.Exec(`DROP TABLE public.cache`)
	h.Clock.Add(-time.Hour)
	h.Exec(`UPDATE trakr.job_heartbeats SET last_succeeded_at = now()`)

	// One job alone that fails, while the sweeps run, is told by its name.
	h.Exec(`UPDATE trakr.job_heartbeats SET last_succeeded_at = now() - interval '11 minutes', last_failed_at = now(), failure = 'timeout' WHERE job = 'replay guard'`)
	if red := h.red(); len(red) != 1 || !strings.Contains(red["job replay guard"], "replay guard did not succeed within twice its interval; it last failed: timeout") {
		t.Errorf("red: %v", red)
	}
	if s := why(t, h.report("retention"), "The sweeps that this report"); s.State != "cannot tell" || !strings.Contains(s.Why, "replay guard") {
		t.Errorf("%+v", s)
	}
	if state, other := h.control("replay guard"), h.control("audit partitions"); state != "fail" || other != "pass" {
		t.Errorf("the control of the replay guard: %s; of another job: %s", state, other)
	}
}

// A second signal does not wait for what the first one waits for.
func TestASecondSignalEndsAtOnce(t *testing.T) {
	m := usedMachine(t)
	service, out := m.serve()
	frozen := family(t, m.postmaster())
	defer func() {
		for _, pid := range frozen {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}()
	for _, pid := range frozen { // an orderly end would wait for the database
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	if err := service.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(out.String(), "a second signal ends at once"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the first signal was not noticed:\n%s", tail(out.String()))
		}
	}
	begin := time.Now()
	if err := service.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	state, err := service.Process.Wait()
	if err != nil || state.Success() || time.Since(begin) > 5*time.Second {
		t.Errorf("it ended with %v after %s (%v)", state, time.Since(begin), err)
	}
}

// Every job of the service has a lock: the runner's, or the lead.
func TestEveryJobHasALock(t *testing.T) {
	h := newHouse(t, 0)
	jobs, err := h.service.Jobs()
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range jobs {
		if !j.Lead && !strings.HasPrefix(j.Name, "sweep ") {
			t.Errorf("%s runs on every replica at once", j.Name)
		}
	}
}
