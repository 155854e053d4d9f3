// Package sweep runs the checks that prove what the statement promises: one pass
// of a kind, from its lock to its stored results. It knows neither cron nor HTTP.
//
// A pass stores a result for everything it looked at, zero included. It says
// "clean" only when it could judge all of it.
package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/findings"
	"trakr/internal/store/heartbeats"
	"trakr/policy"
)

// Pass is one kind of sweep. Its Look is the whole of one pass between the lock and
// the stored results, which are the runner's.
type Pass interface {
	// Kind is the word by which policy, API and commands know it, e.g. "orphans".
	Kind() string
	// Destructive reports whether a pass deletes or erases rows. A destructive pass that
	// a person starts is a dry run unless they ask otherwise.
	Destructive() bool
	// Look looks, and acts where the kind does. What it could not judge is a check
	// with the disposition Unjudged; an error means that nothing can be claimed.
	Look(ctx context.Context, o Order) (Found, error)
}

// Order is what a pass works by.
type Order struct {
	Access lifecycle.Access // whose events the pass records; its CorrelationID is the run's id
	RunID  string
	Now    time.Time
	DryRun bool // look and count, change nothing
	// Progress is called now and then with how many of how many steps are done; nil for
	// a caller that shows none.
	Progress func(done, total int64)
}

// Found is what a pass saw.
type Found struct {
	Checks     []findings.Check
	SnapshotAt time.Time // the database's clock when what was judged was read
	// Then is what rests on the run's word and waits until that is stored; nil for
	// nothing. What it leaves undone is the next pass's.
	Then func(context.Context) error
}

// Runner runs sweeps on one database.
type Runner struct {
	db       *store.DB
	findings *findings.Store
	beats    *heartbeats.Store
	policy   *policy.Policy
	passes   []Pass
	now      func() time.Time
	log      *slog.Logger
}

// New returns a runner of these passes. The policy must give each kind a schedule
// and a timeout, and schedule no other.
func New(db *store.DB, p *policy.Policy, now func() time.Time, log *slog.Logger, passes ...Pass) (*Runner, error) {
	r := &Runner{db: db, findings: findings.New(db), beats: heartbeats.New(db), policy: p, passes: passes, now: now, log: log}
	for _, k := range r.Kinds() {
		if _, ok := p.Sweep(k); !ok {
			return nil, fmt.Errorf("the policy has no schedule for the sweep %q", k)
		}
	}
	for _, s := range p.Sweeps {
		if _, err := r.pass(s.Kind); err != nil {
			return nil, fmt.Errorf("the policy schedules the sweep %q, which this version cannot run", s.Kind)
		}
	}
	return r, nil
}

// Kinds lists the kinds this runner can run.
func (r *Runner) Kinds() []string {
	var out []string
	for _, p := range r.passes {
		out = append(out, p.Kind())
	}
	return out
}

func (r *Runner) pass(kind string) (Pass, error) {
	for _, p := range r.passes {
		if p.Kind() == kind {
			return p, nil
		}
	}
	return nil, lifecycle.Fail(lifecycle.NotFound, "There is no sweep of this kind; there is: "+strings.Join(r.Kinds(), ", ")+".")
}

// ErrNotDue means that another replica already ran the pass that was due.
var ErrNotDue = errors.New("this pass was already run")

// Trigger says what started a pass.
type Trigger string

// The triggers.
const (
	BySchedule Trigger = "schedule"
	ByCommand  Trigger = "command"
	ByAPI      Trigger = "api"
)

// Option changes how RunOnce runs a pass.
type Option func(*settings)

type settings struct {
	dry      *bool
	progress func(done, total int64)
}

// DryRun says whether the pass changes nothing. Without a word, one that somebody
// starts by hand is dry when its kind acts.
func DryRun(dry bool) Option { return func(s *settings) { s.dry = &dry } }

// ReportProgress has a long pass call f now and then.
func ReportProgress(f func(done, total int64)) Option { return func(s *settings) { s.progress = f } }

// RunOnce runs one pass now and returns what it found. Only one pass of a kind
// runs at a time over all replicas: otherwise it fails with sweep-running.
//
// A dry run only looks: it opens and resolves no finding, and stands for no pass
// that was due.
func (r *Runner) RunOnce(ctx context.Context, a lifecycle.Access, kind string, by Trigger, opts ...Option) (findings.Run, error) {
	var s settings
	for _, o := range opts {
		o(&s)
	}
	return r.run(ctx, a, kind, by, s, time.Time{})
}

// RunDue is RunOnce for the pass that was due at that time; it acts. When some
// replica started a pass since then that did not fail, it fails with ErrNotDue;
// one that was cut off, or dry, does not count.
func (r *Runner) RunDue(ctx context.Context, a lifecycle.Access, kind string, due time.Time) (findings.Run, error) {
	act := false
	return r.run(ctx, a, kind, BySchedule, settings{dry: &act}, due)
}

func (r *Runner) run(ctx context.Context, a lifecycle.Access, kind string, by Trigger, s settings, due time.Time) (findings.Run, error) {
	pass, err := r.pass(kind)
	if err != nil {
		return findings.Run{}, err
	}
	if err := a.CheckReason(); err != nil {
		return findings.Run{}, err
	}
	dry := pass.Destructive() && by != BySchedule
	if s.dry != nil {
		dry = *s.dry
	}
	rule, _ := r.policy.Sweep(kind)
	ctx, cancel := context.WithTimeout(ctx, rule.Timeout.Duration())
	defer cancel()

	lease, ok, err := store.TryLease(ctx, r.db, "sweep/"+kind)
	if err != nil {
		return findings.Run{}, fmt.Errorf("locking the sweep: %w", err)
	}
	if !ok {
		return findings.Run{}, lifecycle.Fail(lifecycle.SweepRunning, "A sweep of this kind is running now; its result will be listed under sweeps.", lifecycle.After(10*time.Second))
	}
	defer lease.Release()
	if !due.IsZero() {
		done, err := r.findings.SuccessSince(ctx, kind, due)
		if err != nil {
			return findings.Run{}, err
		}
		if done != nil {
			return findings.Run{}, ErrNotDue
		}
	}

	// A crash after Begin leaves a run without a result, which counts as no run;
	// a crash before Finish loses the counts, and the next pass counts again.
	run, err := r.findings.Begin(ctx, kind, string(by), dry, r.now())
	if err != nil {
		return findings.Run{}, err
	}
	o := Order{Access: a, RunID: run.ID, Now: run.StartedAt, DryRun: dry, Progress: s.progress}
	o.Access.CorrelationID = run.ID
	found, err := pass.Look(ctx, o)
	if err != nil {
		return run, r.fail(a, &run, err)
	}
	weigh(kind, found.Checks)
	run.Checks, run.SnapshotAt, run.Result = found.Checks, &found.SnapshotAt, judge(found.Checks)
	if err := r.findings.Finish(ctx, a, &run, r.now()); err != nil {
		return run, r.fail(a, &run, err)
	}
	// A crash here leaves a run that is over, and what rests on it to the next one.
	if found.Then != nil {
		if err := found.Then(ctx); err != nil {
			r.log.WarnContext(ctx, "what a sweep found could not all be acted upon; the next one goes on", "kind", kind, "error", err)
		}
	}
	r.log.InfoContext(ctx, "sweep finished", "kind", kind, "result", string(run.Result), "dry_run", dry, "checks", len(found.Checks), "findings", len(run.Findings))
	return run, nil
}

// fail stores that the run failed, even when its own time is up.
func (r *Runner) fail(a lifecycle.Access, run *findings.Run, cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	run.Result, run.Checks, run.SnapshotAt = findings.Failed, nil, nil
	return errors.Join(cause, r.findings.Finish(ctx, a, run, r.now()))
}

// judge says what a pass may claim. Findings outrank blindness: they are known.
func judge(checks []findings.Check) findings.Result {
	result := findings.Clean
	for _, c := range checks {
		switch {
		case c.Found():
			return findings.Found
		case c.Disposition == findings.Unjudged:
			result = findings.Blind
		}
	}
	return result
}

// weigh says how much it matters that something cannot be judged. Nothing is promised
// for what nobody sees; but whether a tenant is alive is often not to be told, where
// there are few of them or Bitbucket is out.
func weigh(kind string, checks []findings.Check) {
	for i, c := range checks {
		if !c.Blind() {
			continue
		}
		checks[i].Severity = findings.High
		if kind == Liveness {
			checks[i].Severity = findings.Medium
		}
	}
}

// Health is how recently a kind of sweep did its duty.
type Health struct {
	Kind     string
	Last     *findings.Run // newest pass that finished and did not fail; nil when none
	Newest   *findings.Run // newest pass that finished, failed or not; nil when none
	Since    time.Time     // since when it is expected to run; zero when it never was
	Interval time.Duration
	Overdue  bool
}

// Failing reports whether the newest pass failed: what an older one found is then
// no answer any more, although it may not be overdue.
func (h Health) Failing() bool { return h.Newest != nil && h.Newest.Result == findings.Failed }

// Health returns how recently one kind ran, as of a moment. Whether it is overdue is
// heartbeats' rule.
func (r *Runner) Health(ctx context.Context, kind string, interval time.Duration, at time.Time) (Health, error) {
	h := Health{Kind: kind, Interval: interval}
	var err error
	if h.Last, err = r.findings.LastSuccess(ctx, kind, at); err != nil {
		return h, err
	}
	if h.Newest, err = r.findings.LastFinished(ctx, kind, at); err != nil {
		return h, err
	}
	if h.Since, err = r.beats.SweepExpectedSince(ctx, kind); err != nil {
		return h, err
	}
	beat := heartbeats.Beat{Job: kind, ExpectedSince: h.Since, Interval: interval}
	if h.Last != nil {
		beat.LastSucceeded = h.Last.FinishedAt
	}
	h.Overdue = beat.Overdue(at)
	return h, nil
}

// Expect notes that a kind is scheduled from now on.
func (r *Runner) Expect(ctx context.Context, kind string) error {
	return r.beats.ExpectSweep(ctx, kind, r.now())
}
