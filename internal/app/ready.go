package app

import (
	"context"
	"fmt"
	"strings"
	"time"

	"trakr/internal/check"
	"trakr/internal/lifecycle"
	"trakr/internal/schedule"
	"trakr/internal/sequencer"
	"trakr/internal/store"
	"trakr/internal/store/heartbeats"
	"trakr/policy"
)

// maxLag is how long an event may wait for its position in the log.
const maxLag = time.Minute

// readyTimeout bounds one answer of Ready.
const readyTimeout = 5 * time.Second

// Ready reports whether this replica should get traffic: the database answers, its
// tables are of this version, the log keeps up and is sound, the field keys are there,
// and no sweep and no scheduled job is overdue.
func (a *App) Ready(ctx context.Context) []check.Result {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	pending, err := store.Pending(ctx, a.DB)
	schema := check.Pass
	if len(pending) > 0 {
		schema = check.Fail
	}
	out := []check.Result{
		readiness("database", "the database answers", err, check.Pass, "answers"),
		readiness("schema", "the tables are of this version", err, schema, fmt.Sprintf("%d migrations pending", len(pending))),
		a.logReady(ctx),
		a.instance.ready(),
	}
	for _, rule := range a.Policy.Sweeps {
		out = append(out, a.sweepReady(ctx, rule))
	}
	return append(out, a.jobsReady(ctx)...)
}

// readiness returns the result of a readiness check: unknown, with nothing of the error
// but its kind, when it could not be made.
func readiness(id, title string, err error, s check.State, evidence string) check.Result {
	r := check.Result{ID: strings.ReplaceAll(id, " ", "-"), Title: title, State: s, Evidence: evidence}
	if err != nil {
		r.State, r.Evidence = check.Unknown, string(lifecycle.AsFault(err).Kind)
	}
	return r
}

func (a *App) logReady(ctx context.Context) check.Result {
	const id, title = "audit-log", "every event gets its position in the log within a minute"
	if a.Sequencer.Err() != nil {
		return readiness(id, title, nil, check.Fail, "the stored log is not the one that was sequenced; run: trakr audit verify")
	}
	b, err := a.Audit.Backlog(ctx)
	if err == nil && sequencer.Lag(b, a.now()) >= maxLag {
		return readiness(id, title, nil, check.Fail, "events wait for their position for more than a minute")
	}
	return readiness(id, title, err, check.Pass, "keeps up")
}

func (a *App) sweepReady(ctx context.Context, rule policy.Sweep) check.Result {
	id, title := "sweep."+rule.Kind, "the sweep "+rule.Kind+" runs in time"
	interval, err := schedule.Interval(rule.Schedule, a.now())
	if err != nil {
		return readiness(id, title, err, check.Unknown, "")
	}
	h, err := a.Runner.Health(ctx, rule.Kind, interval, a.now())
	if err == nil && h.Overdue {
		return readiness(id, title, nil, check.Fail, "no pass within twice its interval")
	}
	return readiness(id, title, err, check.Pass, "ran in time")
}

// jobsReady reports of each scheduled job whether it ran in time, by its heartbeat.
func (a *App) jobsReady(ctx context.Context) []check.Result {
	beats, err := a.beats.List(ctx)
	var out []check.Result
	for _, name := range jobNames(a.Policy) {
		id, title := "job."+name, "the scheduled job "+name+" runs in time"
		b := heartbeats.Find(beats, name)
		if err != nil || !b.Overdue(a.now()) {
			out = append(out, readiness(id, title, err, check.Pass, "ran in time"))
			continue
		}
		late := "the job " + name + " did not succeed within twice its interval"
		if b.Failure != "" && b.LastFailed != nil && (b.LastSucceeded == nil || b.LastFailed.After(*b.LastSucceeded)) {
			late += "; it last failed: " + b.Failure
		}
		out = append(out, readiness(id, title, nil, check.Fail, late))
	}
	return out
}
