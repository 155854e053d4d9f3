// Package schedule starts named jobs at the times a cron expression gives, in
// UTC, and catches up at start what was missed while nothing ran. It parses and
// triggers (robfig/cron); what a job does, its lock and its results are the job's
// own. It knows no job.
package schedule

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/robfig/cron/v3"
)

// Job is a named piece of work.
type Job struct {
	Name string
	Spec string // five-field cron, UTC
	// Run does the work that was due at that time. It must end when ctx does.
	Run func(ctx context.Context, due time.Time) error
}

// Five fields and nothing else: "@every" has no fixed times that replicas could
// agree on, and a TZ prefix would contradict UTC.
var parser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

func parse(spec string) (cron.Schedule, error) {
	if strings.Contains(spec, "=") { // the parser would take a TZ= prefix
		return nil, fmt.Errorf("the schedule %q names a time zone; schedules are in UTC", spec)
	}
	s, err := parser.Parse(spec)
	if err != nil {
		return nil, fmt.Errorf("the schedule %q is not a five-field cron expression: %w", spec, err)
	}
	if s.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return nil, fmt.Errorf("the schedule %q never comes (a day that no month has?)", spec)
	}
	return s, nil
}

// Interval returns the time between the next two occasions after now.
func Interval(spec string, now time.Time) (time.Duration, error) {
	s, err := parse(spec)
	if err != nil {
		return 0, err
	}
	first := s.Next(now.UTC())
	return s.Next(first).Sub(first), nil
}

// Next returns the next occasion after now.
func Next(spec string, now time.Time) (time.Time, error) {
	s, err := parse(spec)
	if err != nil {
		return time.Time{}, err
	}
	return s.Next(now.UTC()), nil
}

// Scheduler runs jobs until it is stopped.
type Scheduler struct {
	cron   *cron.Cron
	log    *slog.Logger
	now    func() time.Time
	jobs   []Job
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New checks every job's expression and returns a scheduler that does nothing
// until Start.
func New(log *slog.Logger, now func() time.Time, jobs ...Job) (*Scheduler, error) {
	s := &Scheduler{log: log, now: now, jobs: jobs, cron: cron.New(cron.WithLocation(time.UTC), cron.WithLogger(cron.DiscardLogger))}
	for _, j := range jobs {
		when, err := parse(j.Spec)
		if err != nil {
			return nil, fmt.Errorf("scheduling %s: %w", j.Name, err)
		}
		// A pass that is still running when the next is due is not doubled;
		// one that panics does not take the service with it.
		chain := cron.NewChain(cron.Recover(panicLogger{log, j.Name}), cron.SkipIfStillRunning(cron.DiscardLogger))
		s.cron.Schedule(when, chain.Then(cron.FuncJob(func() { s.run(j, s.occasion(when)) })))
	}
	return s, nil
}

// occasion is the time the running trigger was due: the newest occasion not
// after now, looked for within the last minute (cron fires late, never early).
func (s *Scheduler) occasion(when cron.Schedule) time.Time {
	now := s.now().UTC()
	if due := when.Next(now.Add(-time.Minute)); !due.After(now) {
		return due
	}
	return now
}

// Start begins to trigger. It also runs each job once, at once, as due one
// interval ago: a job that knows it ran since then has missed nothing and skips.
func (s *Scheduler) Start(ctx context.Context) {
	s.ctx, s.cancel = context.WithCancel(ctx)
	for _, j := range s.jobs {
		s.wg.Go(func() {
			interval, err := Interval(j.Spec, s.now())
			if err != nil { // checked in New
				return
			}
			s.run(j, s.now().Add(-interval))
		})
	}
	s.cron.Start()
}

// Stop triggers no more, ends what runs through its context and waits for it.
func (s *Scheduler) Stop() {
	if s.cancel == nil {
		return
	}
	stopped := s.cron.Stop()
	s.cancel()
	<-stopped.Done()
	s.wg.Wait()
}

func (s *Scheduler) run(j Job, due time.Time) {
	if err := j.Run(s.ctx, due); err != nil && s.ctx.Err() == nil {
		s.log.ErrorContext(s.ctx, "scheduled job failed", "job", j.Name, "error", err)
	}
}

// panicLogger reports a panicking job.
type panicLogger struct {
	log *slog.Logger
	job string
}

func (p panicLogger) Info(string, ...any) {}

// Error receives the panic; its text could quote anything, so only the job is named.
func (p panicLogger) Error(error, string, ...any) {
	p.log.Error("scheduled job crashed", "job", p.job)
}
