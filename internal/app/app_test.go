package app

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"trakr/internal/platform/config"
	"trakr/internal/store/findings"
	"trakr/internal/store/storetest"
	"trakr/internal/sweep"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// installation is a database and the data directory that belongs to it.
type installation struct {
	*storetest.Env
	dir string
}

func newInstallation(t *testing.T) installation {
	t.Helper()
	return installation{storetest.New(t), t.TempDir()}
}

// open opens the service of the installation.
func (e installation) open(t *testing.T, mode Mode, environ ...string) (*App, error) {
	t.Helper()
	environ = append(environ, "TRAKR_DATABASE_URL="+storetest.ServiceURL(t, e.URL), "TRAKR_DATA_DIR="+e.dir)
	cfg, err := config.Load(environ, false)
	if err != nil {
		t.Fatal(err)
	}
	a, err := Open(t.Context(), Options{Mode: mode, Config: cfg, Environ: environ, Version: "test", Now: e.Clock.Now})
	if err == nil {
		t.Cleanup(func() {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return a, err
}

// drift runs the drift sweep once and returns what it found, by name.
func (e installation) drift(t *testing.T, a *App) map[string]findings.Check {
	t.Helper()
	e.Clock.Add(time.Hour)
	r, err := a.Runner.RunOnce(t.Context(), StartAccess(), sweep.Drift, sweep.BySchedule)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]findings.Check{}
	for _, c := range r.Checks {
		if c.Found() {
			found[strings.TrimSuffix(c.Table+"."+c.Column, ".")] = c
		}
	}
	return found
}

func TestOpenRefusesAnUnknownMode(t *testing.T) {
	if a, err := Open(t.Context(), Options{}); err == nil || a != nil {
		t.Errorf("%v, %v", a, err)
	}
}

// The comparison covers the jobs that a scheduler really has, not the ones planned.
func TestAJobThatIsNotScheduledIsFound(t *testing.T) {
	e := newInstallation(t)
	a := storetest.Must(t)(e.open(t, Command)).(*App)
	if found := e.drift(t, a); len(found) != 0 {
		t.Errorf("before it has a scheduler: %v", found)
	}
	if _, err := a.Scheduler(noop.NewMeterProvider()); err != nil {
		t.Fatal(err)
	}
	if found := e.drift(t, a); len(found) != 0 {
		t.Errorf("with its scheduler: %v", found)
	}
	jobs := slices.Clone(*a.observed.jobs.Load())
	jobs[0].Name = "sweep clouds"
	a.observed.setJobs(jobs)
	found := e.drift(t, a)
	if len(found) != 2 || found["schedule.sweep orphans"].Rows != 1 ||
		!strings.Contains(found["schedule.sweep clouds"].Ground, "the policy does not declare it") {
		t.Errorf("a job in the place of another: %v", found)
	}
}

func TestASettingThatNamesAnUndeclaredHostIsFound(t *testing.T) {
	e := newInstallation(t)
	a := storetest.Must(t)(e.open(t, Command, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=collector.example.net:4317")).(*App)
	found := e.drift(t, a)
	c := found["host.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
	if len(found) != 1 || c.Severity != findings.Critical || !strings.Contains(c.Ground, "collector.example.net") {
		t.Errorf("%v", found)
	}
}

// Each mode requires what its table states: a missing guard, and a ledger that knows an
// erasure which the database forgot.
func TestModesRequireWhatTheirTableStates(t *testing.T) {
	e := newInstallation(t)
	e.Exec(`ALTER TABLE trakr.audit_events DISABLE TRIGGER rows_stay`)
	for mode, need := range requirements {
		if mode == Serve { // needs its addresses, and is tested where it is started
			continue
		}
		_, err := e.open(t, mode)
		if (err != nil) != need.guards {
			t.Errorf("mode %d with a missing guard: %v", mode, err)
		}
	}
	a := storetest.Must(t)(e.open(t, Inspect)).(*App)
	if err := a.Serve(t.Context()); err == nil {
		t.Error("a service that was opened to inspect serves")
	}
}

// A service that cannot be opened leaves nothing open, and doctor reports every guard as
// unknown.
func TestDoctorReportsADatabaseThatDoesNotAnswer(t *testing.T) {
	environ := []string{"TRAKR_DATABASE_URL=postgres://nobody@127.0.0.1:1/none?sslmode=disable", "TRAKR_DATA_DIR=" + t.TempDir()}
	cfg, err := config.Load(environ, false)
	if err != nil {
		t.Fatal(err)
	}
	unknown := 0
	for _, r := range Doctor(t.Context(), Options{Config: cfg, Environ: environ, Now: time.Now}) {
		if r.ID == "" || r.Title == "" {
			t.Errorf("a check without a name: %+v", r)
		}
		if strings.HasPrefix(r.ID, "guard.") || r.ID == "service.opens" {
			unknown++
			if r.State != "unknown" {
				t.Errorf("%+v", r)
			}
		}
	}
	if unknown < 10 {
		t.Errorf("only %d checks are unknown", unknown)
	}
}
