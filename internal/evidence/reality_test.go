package evidence_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace/noop"

	"trakr/internal/bitbucket"
	"trakr/internal/check"
	"trakr/internal/connect"
	"trakr/internal/drift"
	"trakr/internal/egress"
	"trakr/internal/erasure"
	"trakr/internal/erasure/erasuretest"
	"trakr/internal/evidence"
	"trakr/internal/lifecycle"
	deletionrequests "trakr/internal/requests"
	"trakr/internal/schedule"
	"trakr/internal/store/audit"
	"trakr/internal/store/census"
	"trakr/internal/store/facts"
	"trakr/internal/store/findings"
	"trakr/internal/store/heartbeats"
	"trakr/internal/store/holds"
	"trakr/internal/store/instances"
	"trakr/internal/store/liveness"
	"trakr/internal/store/outbox"
	"trakr/internal/store/requests"
	"trakr/internal/store/retention"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tenants"
	"trakr/internal/sweep"
	"trakr/internal/sweep/sweeptest"
	"trakr/policy"
	"trakr/reports"
)

// reality is a whole service on a database of its own, as cmd/trakr puts it together,
// with every sweep there is. Bitbucket alone is played.
type reality struct {
	*storetest.Env
	t         *testing.T
	reporter  *evidence.Reporter
	rig       *erasuretest.Rig
	findings  *findings.Store
	census    *census.Store
	beats     *heartbeats.Store
	outbox    *outbox.Store
	deletions *deletionrequests.Service
	seq       *audit.Sequencer

	instance  uuid.UUID               // of the running service
	parties   []instances.Destination // whom its settings name
	actsBy    string                  // the hash of its policy
	away      bool                    // no service runs
	served    *policy.Policy          // what the descriptor is made of
	still     []string                // jobs that do not run any more
	sinkFails error                   // the checkpoints kept elsewhere cannot be read
	bitbucket *played                 // who is asked about each installation
	alive     []lifecycle.TenantID    // the first is never touched
	left      lifecycle.TenantID      // was erased
	values    map[lifecycle.TenantID]lifecycle.Values
}

// played is Bitbucket's protected resource: 200 but for the workspaces it answers
// otherwise.
type played struct {
	mu  sync.Mutex
	say map[string]int
	all int // 0: each as say says
}

func (b *played) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	status := b.say[strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/2.0/workspaces/{"), "}/hooks")]
	if b.all != 0 {
		status = b.all
	}
	w.WriteHeader(max(status, http.StatusOK))
}

// gone has Bitbucket answer that it does not know some installations.
func (w *reality) gone(ids ...lifecycle.TenantID) {
	w.bitbucket.mu.Lock()
	defer w.bitbucket.mu.Unlock()
	w.bitbucket.say = map[string]int{}
	for _, id := range ids {
		w.bitbucket.say[w.values[id][lifecycle.PrincipalUUID].Reveal()] = http.StatusNotFound
	}
}

// answers has Bitbucket answer everybody the same; 0 as before.
func (w *reality) answers(status int) {
	w.bitbucket.mu.Lock()
	defer w.bitbucket.mu.Unlock()
	w.bitbucket.all = status
}

const (
	publicURL  = "https://data.trakr.example.com"
	endService = "api.trakr.example.com"
)

// newReality is a service on which everything runs and is as it should be.
func newReality(t *testing.T) *reality {
	t.Helper()
	must := storetest.Must(t)
	e := storetest.New(t)
	w := &reality{Env: e, t: t, bitbucket: &played{}, values: map[lifecycle.TenantID]lifecycle.Values{}}
	w.declare()
	w.served = w.policy()
	w.instance, w.parties = uuid.New(), []instances.Destination{{Setting: "TRAKR_BITBUCKET_API_URL", Name: string(lifecycle.ToBitbucket), Host: "api.bitbucket.org"},
		{Setting: "TRAKR_END_SERVICE_URL", Name: string(lifecycle.ToEndService), Host: endService}, database("nyc3")}
	srv := httptest.NewServer(w.bitbucket)
	t.Cleanup(srv.Close)
	client := must(bitbucket.New(bitbucket.Config{Origin: srv.URL, AppKey: e.Policy.App.Key, Resource: e.Policy.App.Proof.Resource, Now: time.Now, Tracer: noop.NewTracerProvider()})).(*bitbucket.Client)
	w.rig, w.findings, w.census, w.beats = erasuretest.New(t, e), findings.New(e.DB), census.New(e.DB), heartbeats.New(e.DB)
	w.outbox = must(outbox.New(e.DB, e.Log, e.Keys)).(*outbox.Store)
	w.seq = must(e.Log.NewSequencer()).(*audit.Sequencer)
	runner := must(sweep.New(e.DB, e.Policy, e.Clock.Now, slog.New(slog.DiscardHandler), sweeptest.Fill(e.Policy,
		sweep.NewOrphans(w.census, e.Policy), sweep.NewErasures(w.rig.Eraser, e.Policy, w.outbox),
		sweep.NewLiveness(liveness.New(e.DB), e.Policy, e.Door, client, w), sweep.NewRetention(retention.New(e.DB), e.Policy, e.Door),
		flushing{sweep.NewIntegrity(e.DB, e.Log, w.findings, w.kept), t}, sweep.NewMinimisation(w.census, e.Policy),
		sweep.NewDrift(e.Policy, w.running))...)).(*sweep.Runner)
	w.reporter = &evidence.Reporter{Policy: e.Policy, Inventory: facts.New(e.DB), Sweeps: runner, Now: e.Clock.Now, Version: "test", Heartbeats: w.beats, SwitchedOff: e.Door.CountSwitchedOff, Running: instances.New(e.DB).List,
		Statement: must(policy.LoadStatement("", reports.Checks())).(*policy.SecurityStatement)}
	w.deletions = must(deletionrequests.New(deletionrequests.Config{Requests: must(requests.New(e.DB, e.Log)).(*requests.Store), Holds: w.rig.Config.Holds, Door: e.Door, Census: w.census, Policy: e.Policy,
		Log: slog.New(slog.DiscardHandler), Erasures: &deletionrequests.Eraser{Eraser: w.rig.Eraser, Store: w.rig.Config.Erasures, Findings: w.findings, Runner: runner, Policy: e.Policy, Now: e.Clock.Now}})).(*deletionrequests.Service)
	for i := range 5 {
		values := storetest.Values("t" + strconv.Itoa(i))
		id := w.Install(values, "install"+strconv.Itoa(i))
		w.values[id], w.alive = values, append(w.alive, id)
	}
	w.left = w.Install(storetest.Values("left"), "install left")
	w.uninstall(w.left, w.now(), nil)
	w.expect()
	w.sweep(runner.Kinds()...)
	return w
}

// uninstall erases a tenant, which asked for it at that time; delay is what the values
// wait for.
func (w *reality) uninstall(id lifecycle.TenantID, at time.Time, delay error) {
	w.t.Helper()
	out, err := w.rig.Erase(w.t.Context(), storetest.Ingress(), id, erasure.Order{Trigger: lifecycle.TriggerUninstall, RequestedAt: at, Delivery: w.Delivery("bye " + id.String())})
	if err != nil || out.Deleted != (delay == nil) || !errors.Is(out.Delay, delay) {
		w.t.Fatalf("%+v %v", out, err)
	}
}

// database is the setting of a database in some region.
func database(region string) instances.Destination {
	return instances.Destination{Setting: "TRAKR_DATABASE_URL", Name: instances.Database, Host: "db-postgresql-" + region + "-12345-do-user-1-0.db.ondigitalocean.com"}
}

// policy loads the built-in policy with some words replaced, as a file of it would be.
func (w *reality) policy(replace ...string) *policy.Policy {
	w.t.Helper()
	// The tests reach their database through a socket of this machine.
	replace = append(replace, "    connection: network\n", "    connection: local\n")
	text := string(policy.DefaultYAML())
	for i := 0; i < len(replace); i += 2 {
		if strings.Count(text, replace[i]) != 1 {
			w.t.Fatalf("the policy has not one %q", replace[i])
		}
		text = strings.Replace(text, replace[i], replace[i+1], 1)
	}
	p := storetest.Must(w.t)(policy.Load("changed", []byte(text))).(*policy.Policy)
	// A pass asks each tenant, not only those that were not asked for hours, and at once.
	p.Liveness.Apart, p.Liveness.PerSecond = policy.Period{}, 10_000
	return p
}

// declare has the service act by the built-in policy with some words replaced.
func (w *reality) declare(replace ...string) {
	w.t.Helper()
	*w.Policy = *w.policy(replace...)
	w.actsBy = w.Policy.Hash()
}

// kept is the log's newest checkpoint, which is kept elsewhere.
func (w *reality) kept(ctx context.Context, _ bool) ([]audit.Outside, error) {
	for n := 1; n > 0; {
		var err error
		if n, err = w.seq.Pass(ctx); err != nil {
			return nil, err
		}
	}
	cp, err := w.Log.Latest(ctx)
	return []audit.Outside{{Name: "kept", Note: cp.Note}}, errors.Join(err, w.sinkFails)
}

// EraseMissing implements sweep.Eraser.
func (w *reality) EraseMissing(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, g sweep.Missing) error {
	_, err := w.rig.Erase(ctx, a, id, erasure.Order{Trigger: lifecycle.TriggerProbe, RequestedAt: g.At, Delivery: tenants.Delivery{Version: g.Version}})
	return err
}

// running are the facts that the drift sweep compares with the policy.
func (w *reality) running(ctx context.Context) (f drift.Facts, err error) {
	f = drift.Facts{Sweeps: w.reporter.Sweeps.Kinds()}
	for _, x := range w.parties {
		if x.Name == instances.Database {
			f.Databases = append(f.Databases, drift.Database{Setting: x.Setting, Host: x.Host})
		} else {
			f.Endpoints = append(f.Endpoints, drift.Endpoint{Setting: x.Setting, To: lifecycle.Destination(x.Name), Address: "https://" + x.Host})
		}
	}
	for name, spec := range w.jobs() {
		f.Jobs = append(f.Jobs, drift.Job{Name: name, Schedule: spec})
	}
	if f.Scopes, err = connect.Scopes(w.descriptor()); err != nil {
		return f, err
	}
	if f.Tables, err = w.census.Catalog(ctx); err != nil {
		return f, err
	}
	f.SwitchedOff, err = w.Door.CountSwitchedOff(ctx)
	return f, err
}

func (w *reality) descriptor() []byte {
	return storetest.Must(w.t)(connect.Descriptor(w.served, publicURL)).([]byte)
}

// jobs are all that a service schedules, with their times.
func (w *reality) jobs() map[string]string {
	out := map[string]string{}
	for _, s := range w.Policy.Sweeps {
		out[drift.SweepJob+s.Kind] = s.Schedule
	}
	for _, j := range w.Policy.Jobs {
		out[j.Name] = j.Schedule
	}
	return out
}

// unflushed are the two guards that the tests' server fails on purpose: it survives no
// power failure and need not, because it is removed after the tests.
var errBroken = errors.New("broken")

var unflushed = []string{"fsync", "full_page_writes"}

// flushing is the integrity sweep as on a server that flushes. All its other checks are
// what they are.
type flushing struct {
	*sweep.IntegrityPass
	t *testing.T
}

func (p flushing) Look(ctx context.Context, o sweep.Order) (sweep.Found, error) {
	f, err := p.IntegrityPass.Look(ctx, o)
	for i, c := range f.Checks {
		if id, ok := strings.CutPrefix(c.Column, "control: "); ok && slices.Contains(unflushed, id) {
			if !c.Found() {
				p.t.Errorf("%s is called sound on a server that does not flush", id)
			}
			f.Checks[i].Rows = 0
		}
	}
	return f, err
}

// now moves the clock to the time that it is, which is what the database has.
func (w *reality) now() time.Time {
	w.Clock.Add(time.Since(w.Clock.Now()).Truncate(time.Microsecond))
	return w.Clock.Now()
}

// sweep runs a pass of each kind as it is scheduled. One that fails is stored as such.
func (w *reality) sweep(kinds ...string) {
	w.t.Helper()
	for _, kind := range kinds {
		w.now()
		if kind == sweep.Orphans && !slices.Contains(w.still, "canary") {
			if err := w.census.PlantCanary(w.t.Context()); err != nil {
				w.t.Fatal(err)
			}
		}
		r, err := w.reporter.Sweeps.RunOnce(w.t.Context(), scheduler, kind, sweep.BySchedule)
		if err != nil && r.Result != findings.Failed {
			w.t.Fatal(err)
		}
	}
}

// expect notes that every job is scheduled, as a scheduler does when it starts.
func (w *reality) expect() {
	w.t.Helper()
	now := w.now()
	w.reporter.Jobs = slices.Sorted(maps.Keys(w.jobs()))
	for name, spec := range w.jobs() {
		interval, err := schedule.Interval(spec, now)
		if err == nil {
			err = w.beats.Expect(w.t.Context(), name, interval, schedule.Jitter(interval), now)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	w.beat(now, w.reporter.Jobs...)
}

// beat notes that jobs ran and did what was due.
func (w *reality) beat(at time.Time, jobs ...string) {
	w.t.Helper()
	for _, name := range jobs {
		if err := errors.Join(w.beats.Started(w.t.Context(), name, at), w.beats.Succeeded(w.t.Context(), name, at)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// standStill lets a job have run last three of its intervals ago.
func (w *reality) standStill(job string) {
	w.t.Helper()
	interval, err := schedule.Interval(w.jobs()[job], w.now())
	if err != nil {
		w.t.Fatal(err)
	}
	w.Exec(`UPDATE trakr.job_heartbeats SET expected_since = expected_since - interval '3 days' WHERE job = $1`, job)
	w.beat(w.now().Add(-3*interval), job)
	w.still = []string{job}
}

// old lets the passes of a kind have been three days ago: the trigger that keeps what
// is over as it ended is off for that long.
func (w *reality) old(kind string) {
	w.t.Helper()
	w.Exec(`ALTER TABLE trakr.sweep_runs DISABLE TRIGGER run_is_over; UPDATE trakr.sweep_runs SET started_at = started_at - interval '3 days',
		finished_at = finished_at - interval '3 days', snapshot_at = snapshot_at - interval '3 days' WHERE kind = '` + kind + `';
		ALTER TABLE trakr.sweep_runs ENABLE ALWAYS TRIGGER run_is_over`)
}

// tamper changes the log as a superuser can, with its guards off for that long.
func (w *reality) tamper(sql string, args ...any) {
	w.t.Helper()
	w.Exec(`ALTER TABLE trakr.audit_events DISABLE TRIGGER USER`)
	w.Exec(`DO $$ DECLARE r regclass; BEGIN FOR r IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'trakr.audit_events'::regclass LOOP
		EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', r); END LOOP; END $$`)
	w.Exec(sql, args...)
	w.Exec(`DO $$ DECLARE r regclass; t text; BEGIN FOR r IN SELECT 'trakr.audit_events'::regclass UNION SELECT inhrelid FROM pg_inherits WHERE inhparent = 'trakr.audit_events'::regclass LOOP
		FOREACH t IN ARRAY ARRAY['rows_stay', 'table_stays'] LOOP EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', r, t); END LOOP; END LOOP; END $$`)
}

// said is what is said of the reality, and what of it is not true.
type said struct {
	checks, sentences states
	statement         map[reports.Format][]byte
	sheet             []byte
	why               []string
}

// states are those of what is not true, by id.
type states = map[string]check.State

// said judges the statement and the sheet from the same facts, twice: the same moment
// and state give the same bytes. All jobs but those that stand still have run, and the
// service has said that it is there and what it acts by.
func (w *reality) said() said {
	w.t.Helper()
	w.beat(w.now(), slices.DeleteFunc(slices.Clone(w.reporter.Jobs), func(job string) bool { return slices.Contains(w.still, job) })...)
	err := instances.New(w.DB).Leave(w.t.Context(), w.instance)
	if !w.away {
		err = instances.New(w.DB).Record(w.t.Context(), w.instance, w.Keys, instances.Facts{PolicyHash: w.actsBy, Destinations: w.parties})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	at, err := w.reporter.Inventory.Clock(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	first, second := w.judge(at), w.judge(at)
	if !bytes.Equal(first.sheet, second.sheet) {
		w.t.Error("the same state twice, and another sheet")
	}
	for f, b := range first.statement {
		if !bytes.Equal(b, second.statement[f]) {
			w.t.Errorf("the same state twice, and another statement in %s", f)
		}
	}
	return second
}

func (w *reality) judge(at time.Time) said {
	w.t.Helper()
	must := storetest.Must(w.t)
	w.reporter.Scopes = evidence.Scopes(must(connect.Scopes(w.descriptor())).([]string), w.Policy)
	f := must(w.reporter.Facts(w.t.Context(), at)).(reports.Facts)
	for i, c := range f.Guards {
		if id := strings.TrimPrefix(c.ID, "guard."); slices.Contains(unflushed, id) {
			if c.State != check.Fail {
				w.t.Errorf("%s is %s on a server that does not flush", id, c.State)
			}
			f.Guards[i].State = check.Pass
		}
	}
	s := reports.SecurityStatementOf(w.Policy, w.reporter.Statement, f, "test")
	out := said{checks: states{}, sentences: states{}, statement: map[reports.Format][]byte{}}
	for _, x := range s.Sentences {
		if x.State != check.Pass {
			out.sentences[x.ID] = x.State
		}
		for _, b := range x.Checks {
			if b.State != check.Pass {
				out.checks[b.ID] = b.State
				out.why = append(out.why, x.ID+": "+b.ID+": "+b.Evidence)
			}
		}
	}
	for _, format := range reports.FormatsOf("statement") {
		out.statement[format] = must(s.Render(format)).([]byte)
	}
	out.sheet = must(reports.SheetOf(w.Policy, f).Render(reports.JSON)).([]byte)
	return out
}

// differ lists the places of the sheet that say another thing than before.
func (w *reality) differ(before, after said) []string {
	w.t.Helper()
	out := []string{}
	for _, d := range storetest.Must(w.t)(reports.CompareSheets(before.sheet, after.sheet)).([]reports.Difference) {
		out = append(out, d.Path)
	}
	return out
}

// release has the policy release the UUID to these destinations.
func (w *reality) release(to ...lifecycle.Destination) {
	i := slices.IndexFunc(w.Policy.Fields, func(f policy.FieldRule) bool { return f.Name == lifecycle.PrincipalUUID })
	w.Policy.Fields[i].Egress = to
}

// told installs a tenant and tells the end service of it.
func (w *reality) told(name string) lifecycle.TenantID {
	w.t.Helper()
	before := w.Door
	w.AnnounceTo(w.guard())
	defer func() { w.Door = before }()
	id := w.Install(storetest.Values(name), name)
	w.deliver()
	return id
}

func (w *reality) guard() *egress.Guard {
	w.t.Helper()
	return storetest.Must(w.t)(egress.New(w.Policy, lifecycle.ToEndService, publicURL)).(*egress.Guard)
}

// deliver takes the one event that waits for the end service out of the outbox, which
// records what it discloses, and acknowledges it.
func (w *reality) deliver() {
	w.t.Helper()
	due, err := w.outbox.Due(w.t.Context(), w.Clock.Now(), 2)
	if err != nil || len(due) != 1 {
		w.t.Fatal(len(due), err)
	}
	if _, err = w.outbox.Open(w.t.Context(), scheduler, due[0], w.guard(), endService); err == nil {
		err = w.outbox.Acknowledge(w.t.Context(), scheduler, due[0], endService)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

var support = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorStaff, ID: "token:s", Role: lifecycle.RoleSupport},
	Reason: lifecycle.Reason{Code: lifecycle.CustomerRequestFulfilment, Ref: "SUP-1"}}

// request enters a customer's deletion request of some time ago, and returns its id.
func (w *reality) request(of lifecycle.Values, ago time.Duration) string {
	w.t.Helper()
	r, err := w.deletions.Request(w.t.Context(), support, tenants.Subject{ClientKey: of[lifecycle.ClientKey]}, w.now().Add(-ago))
	if err != nil {
		w.t.Fatal(err)
	}
	return r.ID
}

// withdraw cancels it.
func (w *reality) withdraw(id string) {
	w.t.Helper()
	if _, err := w.deletions.Cancel(w.t.Context(), support, id); err != nil {
		w.t.Fatal(err)
	}
}

// hold places a legal hold.
func (w *reality) hold(id lifecycle.TenantID) {
	w.t.Helper()
	lawyer := reviewer
	lawyer.Reason = lifecycle.Reason{Code: lifecycle.LegalRequest, Ref: "LEG-1"}
	if _, err := w.rig.Config.Holds.Place(w.t.Context(), lawyer, holds.Order{Tenant: id, Ground: holds.LegalClaim, Until: w.now().Add(time.Hour)}); err != nil {
		w.t.Fatal(err)
	}
}
