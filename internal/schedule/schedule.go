// Package schedule runs named jobs at the times of a cron expression, in UTC. A random
// delay keeps jobs from starting together. At start, a job that is overdue runs once. The
// scheduler limits the duration of each run, stores its heartbeat, and waits for the
// current runs when it is stopped. It triggers through robfig/cron, and knows no job.
package schedule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/robfig/cron/v3"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"trakr/internal/lifecycle"
	"trakr/internal/schedule/cronspec"
	"trakr/internal/store/heartbeats"
)

// Job is a named piece of work.
type Job struct {
	Name    string
	Spec    string        // five-field cron, UTC
	Timeout time.Duration // of one run; 0 means DefaultTimeout
	// Lead lets one replica at a time run the job, and skips a run that another replica
	// has completed since it was due. A job that takes its own lock does not need it.
	Lead bool
	// Run does the work that was due at that time. It must end when ctx does. It returns
	// nil when the work is done, even if another replica did it, and ErrSkipped while
	// another replica is doing it.
	Run func(ctx context.Context, due time.Time) error
}

// DefaultTimeout limits a run of a job whose Timeout is zero.
const DefaultTimeout = 10 * time.Minute

// ErrSkipped means that this replica did not do the work, and that it is unknown whether
// another replica completes it. The run counts neither as a success nor as a failure.
var ErrSkipped = errors.New("the job was left to another replica")

// Heartbeats stores when each job ran, for all replicas.
type Heartbeats interface {
	Expect(ctx context.Context, job string, interval, jitter time.Duration, now time.Time) error
	Started(ctx context.Context, job string, now time.Time) error
	Succeeded(ctx context.Context, job string, now time.Time) error
	Failed(ctx context.Context, job string, now time.Time, why string) error
	List(ctx context.Context) ([]heartbeats.Beat, error)
}

// Config is what a scheduler works with.
type Config struct {
	Log        *slog.Logger
	Now        func() time.Time
	Heartbeats Heartbeats
	// Lease takes the leader lock of that name on the primary, if it is free.
	Lease func(ctx context.Context, name string) (release func(), ok bool, err error)
	Meter metric.MeterProvider
	// Grace is how long a run may continue after Stop; 0 means DefaultGrace.
	Grace time.Duration
	// Delay returns how much later than due a run starts, from 0 up to the bound; nil means
	// a random delay.
	Delay func(bound time.Duration) time.Duration
}

// DefaultGrace is how long a run may continue after Stop.
const DefaultGrace = 10 * time.Second

// Scheduler runs jobs until it is stopped.
type Scheduler struct {
	c     Config
	cron  *cron.Cron
	jobs  []*job
	runs  metric.Int64Counter
	base  context.Context // of all runs
	end   context.CancelFunc
	halt  chan struct{} // closed by Stop: no run begins after that
	begun sync.WaitGroup
	once  sync.Once
}

// job is a Job with its parsed times.
type job struct {
	Job
	when     cron.Schedule
	interval time.Duration
	jitter   time.Duration
	busy     sync.Mutex // locked during a run, so that two runs never overlap
}

// New checks every job's expression and returns a scheduler that does nothing
// until Start.
func New(c Config, jobs ...Job) (*Scheduler, error) {
	if c.Grace == 0 {
		c.Grace = DefaultGrace
	}
	if c.Delay == nil {
		c.Delay = func(bound time.Duration) time.Duration { return rand.N(bound + 1) }
	}
	s := &Scheduler{c: c, halt: make(chan struct{}), cron: cron.New(cron.WithLocation(time.UTC), cron.WithLogger(cron.DiscardLogger))}
	for _, j := range jobs {
		when, err := cronspec.Parse(j.Spec)
		if err != nil {
			return nil, fmt.Errorf("scheduling %s: %w", j.Name, err)
		}
		if j.Timeout == 0 {
			j.Timeout = DefaultTimeout
		}
		interval := cronspec.Longest(when, c.Now())
		x := &job{Job: j, when: when, interval: interval, jitter: Jitter(interval)}
		s.jobs = append(s.jobs, x)
		s.cron.Schedule(when, cron.FuncJob(func() { s.trigger(x) }))
	}
	return s, s.measure()
}

// Jobs lists what is scheduled.
func (s *Scheduler) Jobs() []Job {
	out := make([]Job, len(s.jobs))
	for i, j := range s.jobs {
		out[i] = j.Job
	}
	return out
}

// Jitter is how much later than due a job of that interval starts at most.
func Jitter(interval time.Duration) time.Duration {
	return min(30*time.Second, interval/20).Truncate(time.Second)
}

// Start begins to trigger jobs, and runs each job once for the time at which it was last
// due; a job that succeeded since then is skipped. Runs continue after ctx ends, until Stop.
func (s *Scheduler) Start(ctx context.Context) error {
	for _, j := range s.jobs {
		if err := s.c.Heartbeats.Expect(ctx, j.Name, j.interval, j.jitter, s.c.Now()); err != nil {
			return fmt.Errorf("scheduling %s: %w", j.Name, err)
		}
	}
	s.base, s.end = context.WithCancel(context.WithoutCancel(ctx))
	for _, j := range s.jobs {
		s.begun.Go(func() { s.run(j, previous(j.when, s.c.Now().UTC())) })
	}
	s.cron.Start()
	return nil
}

// Stop starts no more runs, waits for the current ones during the grace period, then
// cancels their context, and returns when all have ended.
func (s *Scheduler) Stop() {
	if s.end == nil {
		return
	}
	s.once.Do(func() {
		close(s.halt)
		triggered := s.cron.Stop()
		ended := make(chan struct{})
		go func() {
			s.begun.Wait()
			<-triggered.Done()
			close(ended)
		}()
		grace := time.NewTimer(s.c.Grace)
		defer grace.Stop()
		select {
		case <-ended:
		case <-grace.C:
			s.c.Log.Warn("scheduled jobs are still running; they are canceled")
		}
		s.end()
		<-ended
	})
}

// trigger is called when a job is due: it waits the job's jitter, and runs it.
func (s *Scheduler) trigger(j *job) {
	due := s.dueTime(j.when)
	wait := time.NewTimer(s.c.Delay(j.jitter))
	defer wait.Stop()
	select {
	case <-s.halt:
	case <-wait.C:
		s.run(j, due)
	}
}

// dueTime returns the time at which the current trigger was due: the newest time of the
// schedule not after now, searched within the last minute (cron fires late, never early).
func (s *Scheduler) dueTime(when cron.Schedule) time.Time {
	now := s.c.Now().UTC()
	if due := when.Next(now.Add(-time.Minute)); !due.After(now) {
		return due
	}
	return now
}

// run does one run and stores its result.
func (s *Scheduler) run(j *job, due time.Time) {
	if !j.busy.TryLock() {
		s.count(j, "skipped")
		return
	}
	defer j.busy.Unlock()
	ctx, cancel := context.WithTimeout(s.base, j.Timeout)
	defer cancel()
	err := s.attempt(ctx, j, due)
	if errors.Is(err, ErrSkipped) {
		s.count(j, "skipped")
		return
	}
	why := failure(ctx, err)
	// The run's context may have ended; its result is stored nevertheless.
	keep, done := context.WithTimeout(context.WithoutCancel(s.base), 5*time.Second)
	defer done()
	var noted error
	if err == nil {
		s.count(j, "success")
		noted = s.c.Heartbeats.Succeeded(keep, j.Name, s.c.Now())
	} else {
		s.count(j, "failure")
		s.c.Log.ErrorContext(ctx, "scheduled job failed", "job", j.Name, "reason", why, "error", err)
		noted = s.c.Heartbeats.Failed(keep, j.Name, s.c.Now(), why)
	}
	s.noted(j, noted)
}

// attempt takes the lead where the job asks for it, and does the work.
func (s *Scheduler) attempt(ctx context.Context, j *job, due time.Time) error {
	if j.Lead {
		release, ok, err := s.c.Lease(ctx, "job/"+j.Name)
		if err != nil {
			return fmt.Errorf("taking the lead: %w", err)
		}
		if !ok {
			return ErrSkipped
		}
		defer release()
		beats, err := s.c.Heartbeats.List(ctx)
		if err != nil {
			return err
		}
		if at := heartbeats.Find(beats, j.Name).LastSucceeded; at != nil && !at.Before(due) && !at.After(s.c.Now()) {
			return ErrSkipped // another replica did it
		}
	}
	// A crash after this leaves a start without an end, which shows as no success.
	s.noted(j, s.c.Heartbeats.Started(ctx, j.Name, s.c.Now()))
	return call(ctx, j, due)
}

// noted logs that a heartbeat could not be stored, which does not stop the work.
func (s *Scheduler) noted(j *job, err error) {
	if err != nil {
		s.c.Log.Error("a job's heartbeat could not be stored", "job", j.Name, "error", err)
	}
}

var errCrashed = errors.New("the job crashed")

// call turns a job's panic into a failure, so that the service continues. The panic's text
// could contain any value and is dropped.
func call(ctx context.Context, j *job, due time.Time) (err error) {
	defer func() {
		if recover() != nil {
			err = errCrashed
		}
	}()
	return j.Run(ctx, due)
}

// failure returns why a run failed, as one of a closed set of reasons.
func failure(ctx context.Context, err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, errCrashed):
		return "crashed"
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return "timeout"
	case ctx.Err() != nil:
		return "stopped"
	}
	return string(lifecycle.AsFault(err).Kind)
}

// measure registers what operators watch.
func (s *Scheduler) measure() error {
	m := s.c.Meter.Meter("trakr/internal/schedule")
	var err error
	s.runs, err = m.Int64Counter("trakr.job.runs",
		metric.WithDescription("Runs of scheduled jobs, by how they ended."), metric.WithUnit("{run}"))
	if err != nil {
		return fmt.Errorf("making the jobs' metrics: %w", err)
	}
	_, err = m.Float64ObservableGauge("trakr.job.last_success", metric.WithUnit("s"),
		metric.WithDescription("Time since a scheduled job last succeeded, or since it was first expected when it never did."),
		metric.WithFloat64Callback(s.observe))
	if err != nil {
		return fmt.Errorf("making the jobs' metrics: %w", err)
	}
	return nil
}

func (s *Scheduler) observe(ctx context.Context, o metric.Float64Observer) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	beats, err := s.c.Heartbeats.List(ctx)
	if err != nil {
		return err
	}
	for _, j := range s.jobs {
		b := heartbeats.Find(beats, j.Name)
		from := b.ExpectedSince
		if b.LastSucceeded != nil {
			from = *b.LastSucceeded
		}
		if !from.IsZero() {
			o.Observe(s.c.Now().Sub(from).Seconds(), metric.WithAttributes(attribute.String("trakr.job", j.Name)))
		}
	}
	return nil
}

func (s *Scheduler) count(j *job, outcome string) {
	s.runs.Add(context.Background(), 1, metric.WithAttributes(
		attribute.String("trakr.job", j.Name), attribute.String("trakr.outcome", outcome)))
}
