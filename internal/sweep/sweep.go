// Package sweep runs the checks that prove what the statement promises: one pass
// of a kind, from its lock to its stored results. It knows neither cron nor HTTP.
//
// A pass stores a result for everything that it looked at, zero included. Its result is
// "clean" only when it could check all of it.
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

// Pass is one kind of sweep. Look is everything between the lock and the stored results,
// which are the runner's.
type Pass interface {
	// Kind returns the entry of Kinds, e.g. "orphans".
	Kind() string
	// Destructive reports whether a pass deletes or erases rows. A destructive pass that
	// a person starts is a dry run unless they ask otherwise.
	Destructive() bool
	// Look looks, and acts where the kind does. What it could not check is a result with
	// the disposition Unjudged; after an error nothing can be claimed.
	Look(ctx context.Context, o Order) (Found, error)
}

// Order is the input of a pass.
type Order struct {
	Access lifecycle.Access // the caller of the events that the pass records; its CorrelationID is the run's id
	RunID  string
	Now    time.Time
	DryRun bool // look and count, change nothing
	// Progress is called now and then with how many of how many steps are done; nil for
	// a caller that shows none.
	Progress func(done, total int64)
}

// Found is the output of a pass.
type Found struct {
	Checks     []findings.Check
	SnapshotAt time.Time // the database's clock when the checked rows were read
	// Then is called once the run is stored, for work that depends on its result; nil for
	// none. The next pass continues what it leaves undone.
	Then func(context.Context) error
}

// checked returns a result of the database for a pass to complete: without a count, and
// nothing found.
func checked(table, column string, at time.Time) findings.Check {
	return findings.Check{Store: "database", Table: table, Column: column, Disposition: findings.Checked, CheckedAt: at}
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

// Trigger is what started a pass.
type Trigger string

// The triggers.
const (
	BySchedule Trigger = "schedule"
	ByCommand  Trigger = "command"
	ByAPI      Trigger = "api"
)

// Option changes how RunOnce runs a pass.
type Option func(*request)

// request is one call of RunOnce or RunDue.
type request struct {
	kind     string
	by       Trigger
	dry      *bool     // nil: dry when a person starts a destructive kind
	due      time.Time // zero: now, whatever ran before
	progress func(done, total int64)
}

// DryRun chooses whether the pass changes nothing. Without this option a pass that a
// person starts is dry when its kind is destructive.
func DryRun(dry bool) Option { return func(r *request) { r.dry = &dry } }

// ReportProgress makes a long pass call f now and then.
func ReportProgress(f func(done, total int64)) Option { return func(r *request) { r.progress = f } }

// RunOnce runs one pass now and returns what it found. Only one pass of a kind
// runs at a time over all replicas: otherwise it fails with sweep-running.
//
// A dry run only looks: it opens and resolves no finding, and does not count as a pass
// that was due.
func (r *Runner) RunOnce(ctx context.Context, a lifecycle.Access, kind string, by Trigger, opts ...Option) (findings.Run, error) {
	q := request{kind: kind, by: by}
	for _, o := range opts {
		o(&q)
	}
	return r.run(ctx, a, q)
}

// RunDue is RunOnce for the scheduled pass that was due at that time; it is no dry run.
// It fails with ErrNotDue when a replica has started a pass since then that did not fail;
// an interrupted or dry pass does not count.
func (r *Runner) RunDue(ctx context.Context, a lifecycle.Access, kind string, due time.Time) (findings.Run, error) {
	dry := false
	return r.run(ctx, a, request{kind: kind, by: BySchedule, dry: &dry, due: due})
}

func (r *Runner) run(ctx context.Context, a lifecycle.Access, q request) (findings.Run, error) {
	pass, err := r.pass(q.kind)
	if err != nil {
		return findings.Run{}, err
	}
	if err := a.CheckReason(); err != nil {
		return findings.Run{}, err
	}
	rule, _ := r.policy.Sweep(q.kind)
	ctx, cancel := context.WithTimeout(ctx, rule.Timeout.Duration())
	defer cancel()

	lease, ok, err := store.TryLease(ctx, r.db, "sweep/"+q.kind)
	if err != nil {
		return findings.Run{}, fmt.Errorf("locking the sweep: %w", err)
	}
	if !ok {
		return findings.Run{}, lifecycle.Fail(lifecycle.SweepRunning,
			"A sweep of this kind is running now; its result will be listed under sweeps.",
			lifecycle.After(10*time.Second))
	}
	defer lease.Release()
	if !q.due.IsZero() {
		done, err := r.findings.SuccessSince(ctx, q.kind, q.due)
		if err != nil {
			return findings.Run{}, err
		}
		if done != nil {
			return findings.Run{}, ErrNotDue
		}
	}

	return r.once(ctx, a, pass, q)
}

// once runs the pass, whose lock is taken, and stores its results.
func (r *Runner) once(ctx context.Context, a lifecycle.Access, pass Pass, q request) (findings.Run, error) {
	dry := pass.Destructive() && q.by != BySchedule
	if q.dry != nil {
		dry = *q.dry
	}
	// A crash after Begin leaves a run without a result, which counts as no run;
	// a crash before Finish loses the counts, and the next pass counts again.
	run, err := r.findings.Begin(ctx, q.kind, string(q.by), dry, r.now())
	if err != nil {
		return findings.Run{}, err
	}
	o := Order{Access: a, RunID: run.ID, Now: run.StartedAt, DryRun: dry, Progress: q.progress}
	o.Access.CorrelationID = run.ID
	found, err := pass.Look(ctx, o)
	if err != nil {
		return run, r.fail(a, &run, err)
	}
	rateBlind(q.kind, found.Checks)
	run.Checks, run.SnapshotAt, run.Result = found.Checks, &found.SnapshotAt, resultOf(found.Checks)
	if err := r.findings.Finish(ctx, a, &run, r.now()); err != nil {
		return run, r.fail(a, &run, err)
	}
	// A crash here leaves a finished run, and the work that depends on it to the next pass.
	if found.Then != nil {
		if err := found.Then(ctx); err != nil {
			r.log.WarnContext(ctx, "not everything that a sweep found could be acted upon; the next one continues",
				"kind", q.kind, "error", err)
		}
	}
	r.log.InfoContext(ctx, "sweep finished", "kind", q.kind, "result", string(run.Result), "dry_run", dry,
		"checks", len(found.Checks), "findings", len(run.Findings))
	return run, nil
}

// fail stores that the run failed, even when its timeout has passed.
func (r *Runner) fail(a lifecycle.Access, run *findings.Run, cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	run.Result, run.Checks, run.SnapshotAt = findings.Failed, nil, nil
	return errors.Join(cause, r.findings.Finish(ctx, a, run, r.now()))
}

// resultOf returns what a pass may claim. Findings outrank blindness: they are known.
func resultOf(checks []findings.Check) findings.Result {
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

// rateBlind sets the severity of results that could not be checked: high, because the
// statement then promises something that no pass sees. Liveness is medium: with few
// tenants, or while Bitbucket is down, it often cannot be determined.
func rateBlind(kind string, checks []findings.Check) {
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
