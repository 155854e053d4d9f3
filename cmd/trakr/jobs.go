package main

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/metric"

	"trakr/internal/delivery/findings"
	"trakr/internal/egress/webhook"
	"trakr/internal/httpapi"
	"trakr/internal/lifecycle"
	"trakr/internal/schedule"
	"trakr/internal/schedule/leader"
	"trakr/internal/store"
	"trakr/internal/store/census"
	"trakr/internal/store/heartbeats"
	"trakr/internal/sweep"
)

// monthsAhead is how many months of the audit have their place made in advance: a
// job that does not run for a year is noticed before an event lacks one.
const monthsAhead = 12

// jobs are the scheduled sweeps, the planting of their canary, the forgetting of expired tokens, and the making
// of the audit's partitions.
func (s *service) jobs() []schedule.Job {
	scheduler := lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "cron", Role: lifecycle.RoleScheduler},
		Reason: lifecycle.Reason{Code: lifecycle.SystemSweep}, RequestID: "cron"}
	var jobs []schedule.Job
	for _, rule := range s.policy.Sweeps {
		// The runner has the sweep's own lock and time limit; the job's is a little longer.
		jobs = append(jobs, schedule.Job{Name: "sweep " + rule.Kind, Spec: rule.Schedule, Timeout: rule.Timeout.Duration() + time.Minute,
			Run: func(ctx context.Context, due time.Time) error {
				_, err := s.runner.RunDue(ctx, scheduler, rule.Kind, due)
				switch {
				case errors.Is(err, sweep.ErrNotDue):
					return nil // another replica did it
				case errors.Is(err, lifecycle.SweepRunning):
					return schedule.ErrSkipped // another replica, or a person, is at it
				}
				return err
			}})
	}
	jobs = append(jobs, schedule.Job{Name: "canary", Spec: census.CanarySpec, Lead: true, Run: func(ctx context.Context, _ time.Time) error {
		return s.census.PlantCanary(ctx)
	}})
	return append(jobs, schedule.Job{Name: "replay guard", Spec: "*/5 * * * *", Lead: true, Run: func(ctx context.Context, _ time.Time) error {
		_, err := s.door.ForgetExpired(ctx)
		return err
	}}, schedule.Job{Name: "deletion requests", Spec: "* * * * *", Lead: true, Run: func(ctx context.Context, _ time.Time) error {
		return s.deletions.Run(ctx, "cron")
	}}, schedule.Job{Name: "audit partitions", Spec: "41 3 * * *", Lead: true, Run: func(ctx context.Context, _ time.Time) error {
		_, err := s.audit.MakePartitions(ctx, monthsAhead)
		return err
	}})
}

// jobNames are the jobs that a running service schedules.
func (s *service) jobNames() []string {
	var out []string
	for _, j := range s.jobs() {
		out = append(out, j.Name)
	}
	return out
}

func (a *app) scheduler(s *service, meter metric.MeterProvider) (*schedule.Scheduler, error) {
	return schedule.New(schedule.Config{Log: s.log, Now: a.now, Heartbeats: s.beats, Meter: meter,
		Lease: func(ctx context.Context, name string) (func(), bool, error) {
			l, ok, err := store.TryLease(ctx, s.db, name)
			if err != nil || !ok {
				return nil, false, err
			}
			return l.Release, true, nil
		}}, s.jobs()...)
}

// jobsReady judges each scheduled job by its heartbeat.
func (a *app) jobsReady(ctx context.Context, s *service) []httpapi.ReadyCheck {
	beats, err := s.beats.List(ctx)
	var checks []httpapi.ReadyCheck
	for _, name := range s.jobNames() {
		b := heartbeats.Find(beats, name)
		c := httpapi.ReadyCheck{Name: "job " + name, OK: err == nil && !b.Overdue(a.now()), Detail: "ran in time"}
		if !c.OK {
			late := "the job " + name + " did not succeed within twice its interval"
			if b.Failure != "" && b.LastFailed != nil && (b.LastSucceeded == nil || b.LastFailed.After(*b.LastSucceeded)) {
				late += "; it last failed: " + b.Failure
			}
			c.Detail = detail(err, late)
		}
		checks = append(checks, c)
	}
	return checks
}

// relay delivers findings to the webhook, when there is one.
func (a *app) relay(s *service, meter metric.MeterProvider) (*findings.Relay, error) {
	if s.cfg.WebhookURL.Empty() {
		return nil, nil
	}
	key, err := webhook.ParseKey(s.cfg.WebhookSecret)
	if err != nil {
		return nil, err
	}
	return findings.NewRelay(findings.Config{Outbox: findings.NewOutbox(s.findings, s.cfg.BaseURL, s.policy.App.Key),
		Send: webhook.NewSender(s.cfg.WebhookURL.Reveal(), key, a.now).Send, Now: a.now, Log: s.log, Meter: meter,
		Lease: func(ctx context.Context) (leader.Lease, bool, error) {
			return store.TryLease(ctx, s.db, "webhook")
		}})
}
