package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"

	"trakr/internal/delivery/findings"
	"trakr/internal/drift"
	"trakr/internal/egress/webhook"
	"trakr/internal/lifecycle"
	"trakr/internal/schedule"
	"trakr/internal/schedule/leader"
	"trakr/internal/store"
	"trakr/internal/store/census"
	"trakr/internal/sweep"
	"trakr/policy"
)

// Names of the housekeeping jobs. A sweep's job is named by sweepJob.
const (
	canaryJob     = "canary"
	guardJob      = "replay guard"
	requestsJob   = "deletion requests"
	partitionsJob = "audit partitions"
)

func sweepJob(kind string) string { return "sweep " + kind }

// planJobs returns what a service schedules: one job for each sweep of the policy, and
// the housekeeping jobs. The jobs lack their Run, which needs the database; App.Jobs adds
// it. So the plan can be compared with the policy before anything is opened.
func planJobs(p *policy.Policy) []schedule.Job {
	var jobs []schedule.Job
	for _, rule := range p.Sweeps {
		// The runner has the sweep's own lock and time limit; the job's is a little longer.
		jobs = append(jobs, schedule.Job{Name: sweepJob(rule.Kind), Spec: rule.Schedule,
			Timeout: rule.Timeout.Duration() + time.Minute})
	}
	return append(jobs,
		schedule.Job{Name: canaryJob, Spec: census.CanarySpec, Lead: true},
		schedule.Job{Name: guardJob, Spec: "*/5 * * * *", Lead: true},
		schedule.Job{Name: requestsJob, Spec: "* * * * *", Lead: true},
		schedule.Job{Name: partitionsJob, Spec: "41 3 * * *", Lead: true},
	)
}

// comparableJobs returns the jobs in the form that is compared with the policy.
func comparableJobs(jobs []schedule.Job) []drift.Job {
	out := make([]drift.Job, len(jobs))
	for i, j := range jobs {
		out[i] = drift.Job{Name: j.Name, Schedule: j.Spec}
	}
	return out
}

// jobNames returns the names of the jobs that a running service schedules.
func jobNames(p *policy.Policy) []string {
	var out []string
	for _, j := range planJobs(p) {
		out = append(out, j.Name)
	}
	return out
}

// Jobs returns what a running service schedules.
func (a *App) Jobs() ([]schedule.Job, error) {
	run := map[string]func(ctx context.Context, due time.Time) error{
		canaryJob: func(ctx context.Context, _ time.Time) error { return a.Census.PlantCanary(ctx) },
		guardJob: func(ctx context.Context, _ time.Time) error {
			_, err := a.Door.ForgetExpired(ctx)
			return err
		},
		requestsJob: func(ctx context.Context, _ time.Time) error { return a.Deletions.Run(ctx, "cron") },
		partitionsJob: func(ctx context.Context, _ time.Time) error {
			_, err := a.Audit.MakePartitions(ctx, monthsAhead)
			return err
		},
	}
	for _, rule := range a.Policy.Sweeps {
		run[sweepJob(rule.Kind)] = a.sweepWhenDue(rule.Kind)
	}
	jobs := planJobs(a.Policy)
	for i := range jobs {
		if jobs[i].Run = run[jobs[i].Name]; jobs[i].Run == nil {
			return nil, fmt.Errorf("the job %q is planned and nothing runs it", jobs[i].Name)
		}
	}
	return jobs, nil
}

// sweepWhenDue runs the pass of a kind that was due.
func (a *App) sweepWhenDue(kind string) func(ctx context.Context, due time.Time) error {
	cron := lifecycle.Access{
		Caller:    lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "cron", Role: lifecycle.RoleScheduler},
		Reason:    lifecycle.Reason{Code: lifecycle.SystemSweep},
		RequestID: "cron",
	}
	return func(ctx context.Context, due time.Time) error {
		_, err := a.Runner.RunDue(ctx, cron, kind, due)
		switch {
		case errors.Is(err, sweep.ErrNotDue):
			return nil // another replica did it
		case errors.Is(err, lifecycle.SweepRunning):
			return schedule.ErrSkipped // another replica, or a person, runs it
		}
		return err
	}
}

// Scheduler returns the scheduler of Jobs, which does nothing until it is started. From
// now on the drift comparison uses the jobs that it really has.
func (a *App) Scheduler(meter metric.MeterProvider) (*schedule.Scheduler, error) {
	jobs, err := a.Jobs()
	if err != nil {
		return nil, err
	}
	s, err := schedule.New(schedule.Config{
		Log: a.log, Now: a.now, Heartbeats: a.beats, Meter: meter,
		Lease: func(ctx context.Context, name string) (func(), bool, error) {
			l, ok, err := store.TryLease(ctx, a.DB, name)
			if err != nil || !ok {
				return nil, false, err
			}
			return l.Release, true, nil
		},
	}, jobs...)
	if err != nil {
		return nil, err
	}
	a.observed.setJobs(comparableJobs(s.Jobs()))
	return s, nil
}

// relay returns what delivers findings to the webhook, or nil when there is no webhook.
func (a *App) relay(meter metric.MeterProvider) (*findings.Relay, error) {
	cfg := a.Config
	if cfg.WebhookURL.Empty() {
		return nil, nil
	}
	key, err := webhook.ParseKey(cfg.WebhookSecret)
	if err != nil {
		return nil, err
	}
	return findings.NewRelay(findings.Config{
		Outbox: findings.NewOutbox(a.Findings, cfg.BaseURL, a.Policy.App.Key),
		Send:   webhook.NewSender(cfg.WebhookURL.Reveal(), key, a.now).Send,
		Now:    a.now, Log: a.log, Meter: meter,
		Lease: func(ctx context.Context) (leader.Lease, bool, error) { return store.TryLease(ctx, a.DB, "webhook") },
	})
}
