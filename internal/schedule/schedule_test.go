package schedule_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"trakr/internal/lifecycle"
	"trakr/internal/schedule"
	"trakr/internal/store/heartbeats"
)

// memory keeps heartbeats and leases as the database does, for any number of replicas.
type memory struct {
	mu    sync.Mutex
	beats map[string]heartbeats.Beat
	held  map[string]bool
	err   error
}

func newMemory() *memory {
	return &memory{beats: map[string]heartbeats.Beat{}, held: map[string]bool{}}
}

func (m *memory) change(job string, f func(*heartbeats.Beat)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.beats[job]
	b.Job = job
	f(&b)
	m.beats[job] = b
	return m.err
}

func (m *memory) Expect(_ context.Context, job string, interval, jitter time.Duration, now time.Time) error {
	return m.change(job, func(b *heartbeats.Beat) {
		b.Interval, b.Jitter = interval, jitter
		if b.ExpectedSince.IsZero() {
			b.ExpectedSince = now
		}
	})
}

func (m *memory) Started(_ context.Context, job string, now time.Time) error {
	return m.change(job, func(b *heartbeats.Beat) { b.LastStarted = &now })
}

func (m *memory) Succeeded(_ context.Context, job string, now time.Time) error {
	return m.change(job, func(b *heartbeats.Beat) { b.LastSucceeded = &now })
}

func (m *memory) Failed(_ context.Context, job string, now time.Time, why string) error {
	return m.change(job, func(b *heartbeats.Beat) { b.LastFailed, b.Failure = &now, why })
}

func (m *memory) List(context.Context) ([]heartbeats.Beat, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []heartbeats.Beat
	for _, b := range m.beats {
		out = append(out, b)
	}
	return out, m.err
}

func (m *memory) of(job string) heartbeats.Beat {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.beats[job]
}

func (m *memory) lease(_ context.Context, name string) (func(), bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held[name] {
		return nil, false, nil
	}
	m.held[name] = true
	return func() { m.mu.Lock(); defer m.mu.Unlock(); delete(m.held, name) }, true, nil
}

// config is a scheduler's without delay.
func config(m *memory, log io.Writer) schedule.Config {
	return schedule.Config{Log: slog.New(slog.NewTextHandler(log, nil)), Now: time.Now, Heartbeats: m, Lease: m.lease, Meter: noop.NewMeterProvider(),
		Delay: func(time.Duration) time.Duration { return 0 }}
}

func start(t *testing.T, c schedule.Config, jobs ...schedule.Job) *schedule.Scheduler {
	t.Helper()
	s, err := schedule.New(c, jobs...)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// record collects what a job was told to do.
type record struct {
	mu  sync.Mutex
	due []time.Time
	at  []time.Time
}

func (r *record) add(_ context.Context, due time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.due, r.at = append(r.due, due), append(r.at, time.Now())
	return nil
}

func (r *record) all() (due, at []time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.due), slices.Clone(r.at)
}

func TestAJobThatNeverComesIsNotScheduled(t *testing.T) {
	now := time.Date(2026, 11, 24, 10, 20, 0, 0, time.UTC)
	if got, err := schedule.Interval("0 3 * * 1-5", now); err != nil || got != 72*time.Hour {
		t.Errorf("interval %v, %v", got, err)
	}
	for _, spec := range []string{"0 0 31 2 *", "@hourly"} {
		if _, err := schedule.Interval(spec, now); err == nil {
			t.Errorf("%q has an interval", spec)
		}
		if _, err := schedule.New(config(newMemory(), io.Discard), schedule.Job{Name: "j", Spec: spec}); err == nil {
			t.Errorf("a job at %q was scheduled", spec)
		}
	}
}

func TestJobCatchesUpAtStartThenRunsOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now().UTC()
		var r record
		s := start(t, config(newMemory(), io.Discard), schedule.Job{Name: "j", Spec: "17 * * * *", Run: r.add})
		synctest.Wait()
		if due, _ := r.all(); len(due) != 1 || !due[0].Equal(begin.Add(-43*time.Minute)) {
			t.Fatalf("catch-up: %v, want one pass that was due at the last minute 17 before the start", due)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		s.Stop()
		due, _ := r.all()
		if len(due) != 3 {
			t.Fatalf("two hours gave %d passes besides the catch-up, want 2", len(due)-1)
		}
		for _, d := range due[1:] {
			if d.Minute() != 17 || d.Second() != 0 {
				t.Errorf("a pass was told it was due at %v, want minute 17 exactly: replicas must agree on it", d)
			}
		}
		time.Sleep(2 * time.Hour)
		if due, _ := r.all(); len(due) != 3 {
			t.Error("a stopped scheduler still runs jobs")
		}
	})
}

// After a weekend, or years, what is caught up is the last occasion.
func TestWhatIsCaughtUpIsTheLastOccasion(t *testing.T) {
	for spec, want := range map[string]time.Time{
		"0 3 * * 1-5": time.Date(2026, 11, 20, 3, 0, 0, 0, time.UTC), // it is Sunday; this was Friday
		"* * * * *":   time.Date(2026, 11, 22, 10, 20, 0, 0, time.UTC),
		"20 10 * * *": time.Date(2026, 11, 22, 10, 20, 0, 0, time.UTC),
		"0 0 29 2 *":  time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC),
	} {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Until(time.Date(2026, 11, 22, 10, 20, 30, 0, time.UTC)))
			var r record
			s := start(t, config(newMemory(), io.Discard), schedule.Job{Name: "j", Spec: spec, Run: r.add})
			synctest.Wait()
			s.Stop()
			if due, _ := r.all(); len(due) != 1 || !due[0].Equal(want) {
				t.Errorf("%s: %v, want %v", spec, due, want)
			}
		})
	}
}

func TestARunStartsALittleLateAndStaysTheOneThatWasDue(t *testing.T) {
	for interval, want := range map[time.Duration]time.Duration{time.Minute: 3 * time.Second, 5 * time.Minute: 15 * time.Second, 10 * time.Minute: 30 * time.Second, 24 * time.Hour: 30 * time.Second} {
		if got := schedule.Jitter(interval); got != want {
			t.Errorf("every %s: at most %s late, want %s", interval, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(30 * time.Second) // cron fires at whole minutes, also of the start itself
		m := newMemory()
		c := config(m, io.Discard)
		var bounds []time.Duration
		c.Delay = func(bound time.Duration) time.Duration { bounds = append(bounds, bound); return bound }
		var r record
		s := start(t, c, schedule.Job{Name: "j", Spec: "*/5 * * * *", Run: r.add})
		time.Sleep(5*time.Minute + 10*time.Second)
		synctest.Wait()
		s.Stop()
		due, at := r.all()
		if len(due) != 2 || due[1].Second() != 0 || at[1].Sub(due[1]) != 15*time.Second || at[0].Second() != 30 {
			t.Errorf("due %v, begun %v", due, at)
		}
		if len(bounds) != 1 || bounds[0] != 15*time.Second || m.of("j").Jitter != 15*time.Second {
			t.Errorf("bounds %v, %+v", bounds, m.of("j"))
		}
	})
	// Drawn at random, it stays within the bound.
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(30 * time.Second)
		c := config(newMemory(), io.Discard)
		c.Delay = nil
		var r record
		s := start(t, c, schedule.Job{Name: "j", Spec: "* * * * *", Run: r.add})
		time.Sleep(3 * time.Hour)
		s.Stop()
		due, at := r.all()
		late := map[time.Duration]bool{}
		for i := range due[1:] {
			d := at[i+1].Sub(due[i+1])
			if late[d] = true; d < 0 || d > 3*time.Second {
				t.Fatalf("%s late", d)
			}
		}
		if len(due) < 175 || len(late) < 10 {
			t.Errorf("%d runs, %d different delays", len(due), len(late))
		}
	})
}

func TestSlowJobIsNotDoubledAndAPanicIsAFailureWithoutItsText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var runs atomic.Int32
		m := newMemory()
		s := start(t, config(m, &log),
			schedule.Job{Name: "slow", Spec: "* * * * *", Timeout: time.Hour, Run: func(ctx context.Context, _ time.Time) error {
				runs.Add(1)
				<-ctx.Done()
				return ctx.Err()
			}},
			schedule.Job{Name: "broken", Spec: "* * * * *", Run: func(context.Context, time.Time) error {
				missing := []string{"marker-value"}[1:]
				return errors.New(missing[0])
			}})
		time.Sleep(10*time.Minute + time.Second)
		s.Stop()
		if n := runs.Load(); n != 1 {
			t.Errorf("a job that was still running was started %d times", n)
		}
		if !strings.Contains(log.String(), "crashed") || strings.Contains(log.String(), "marker") {
			t.Errorf("log of a panic: %s", log.String())
		}
		if b := m.of("broken"); b.LastFailed == nil || b.Failure != "crashed" || b.LastSucceeded != nil || b.LastStarted == nil {
			t.Errorf("heartbeat of a panic: %+v", b)
		}
		if b := m.of("slow"); b.Failure != "stopped" {
			t.Errorf("heartbeat of what was stopped: %+v", b)
		}
	})
}

func TestARunEndsAtItsTimeoutAndTheNextOneComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var runs atomic.Int32
		m := newMemory()
		s := start(t, config(m, io.Discard), schedule.Job{Name: "j", Spec: "17 * * * *", Timeout: 10 * time.Minute, Run: func(ctx context.Context, _ time.Time) error {
			if runs.Add(1) == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}})
		time.Sleep(10*time.Minute + time.Second)
		if b := m.of("j"); b.Failure != "timeout" || !b.LastFailed.Equal(begin.Add(10*time.Minute)) || b.LastSucceeded != nil {
			t.Errorf("%+v", b)
		}
		time.Sleep(10 * time.Minute)
		s.Stop()
		if b := m.of("j"); b.LastSucceeded == nil || runs.Load() != 2 {
			t.Errorf("%d runs, %+v", runs.Load(), b)
		}
	})
}

func TestAFailureIsNamedByItsKindAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		s := start(t, config(m, io.Discard),
			schedule.Job{Name: "down", Spec: "17 * * * *", Run: func(context.Context, time.Time) error {
				return lifecycle.Fail(lifecycle.StoreUnavailable, "marker")
			}},
			schedule.Job{Name: "odd", Spec: "17 * * * *", Run: func(context.Context, time.Time) error { return errors.New("marker") }},
			schedule.Job{Name: "elsewhere", Spec: "17 * * * *", Run: func(context.Context, time.Time) error { return schedule.ErrSkipped }})
		synctest.Wait()
		s.Stop()
		if m.of("down").Failure != "store-unavailable" || m.of("odd").Failure != "internal" {
			t.Errorf("%+v, %+v", m.of("down"), m.of("odd"))
		}
		if b := m.of("elsewhere"); b.LastSucceeded != nil || b.LastFailed != nil {
			t.Errorf("what another replica is at counts here: %+v", b)
		}
	})
}

// Two replicas, one lock: what was due is done once, whoever does it.
func TestReplicasLeadInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		var r record
		work := schedule.Job{Name: "j", Spec: "17 * * * *", Lead: true, Run: func(ctx context.Context, due time.Time) error {
			time.Sleep(5 * time.Second)
			return r.add(ctx, due)
		}}
		early, late := config(m, io.Discard), config(m, io.Discard)
		var delay atomic.Int64 // of the other replica: while the first is at it, then after it
		delay.Store(int64(time.Second))
		late.Delay = func(time.Duration) time.Duration { return time.Duration(delay.Load()) }
		a, b := start(t, early, work), start(t, late, work)
		time.Sleep(3*time.Hour - time.Minute)
		delay.Store(int64(20 * time.Second))
		time.Sleep(3 * time.Hour)
		a.Stop()
		b.Stop()
		due, _ := r.all()
		if len(due) != 7 { // the catch-up, and six hours
			t.Errorf("done %d times: %v", len(due), due)
		}
		seen := map[time.Time]bool{}
		for _, d := range due {
			if seen[d] {
				t.Errorf("%v was done twice", d)
			}
			seen[d] = true
		}
	})
}

func TestAStartAfterTheWorkWasDoneCatchesUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(20 * time.Minute)
		m := newMemory()
		var r record
		work := schedule.Job{Name: "j", Spec: "17 * * * *", Lead: true, Run: r.add}
		for range 3 {
			s := start(t, config(m, io.Discard), work)
			time.Sleep(time.Minute)
			s.Stop()
		}
		if due, _ := r.all(); len(due) != 1 {
			t.Errorf("three starts within one hour did it %d times", len(due))
		}
	})
}

// Stopping lets what runs end by itself, for a while.
func TestADrainIsClean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		c := config(m, io.Discard)
		c.Delay = func(bound time.Duration) time.Duration { return bound }
		ctx, signal := context.WithCancel(t.Context())
		defer signal()
		var begun atomic.Int32
		quick := schedule.Job{Name: "quick", Spec: "17 * * * *", Run: func(ctx context.Context, _ time.Time) error {
			begun.Add(1)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(8 * time.Second):
				return nil
			}
		}}
		stubborn := schedule.Job{Name: "stubborn", Spec: "17 * * * *", Run: func(ctx context.Context, _ time.Time) error { <-ctx.Done(); return ctx.Err() }}
		s, err := schedule.New(c, quick, stubborn)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		signal() // the service is told to stop: that alone ends no run
		begin := time.Now()
		s.Stop()
		if took := time.Since(begin); took != schedule.DefaultGrace {
			t.Errorf("stopping took %s, want %s", took, schedule.DefaultGrace)
		}
		if b := m.of("quick"); b.LastSucceeded == nil {
			t.Errorf("a run that ends by itself was cut off: %+v", b)
		}
		if b := m.of("stubborn"); b.Failure != "stopped" {
			t.Errorf("a run that does not end: %+v", b)
		}
		s.Stop() // a second time is nothing
	})
	synctest.Test(t, func(t *testing.T) { // stopped between its time and its delay, a job does not begin
		c := config(newMemory(), io.Discard)
		c.Delay = func(bound time.Duration) time.Duration { return bound }
		var r record
		s := start(t, c, schedule.Job{Name: "j", Spec: "17 * * * *", Run: r.add})
		time.Sleep(17*time.Minute + 10*time.Second)
		begin := time.Now()
		s.Stop()
		if due, _ := r.all(); len(due) != 1 || time.Since(begin) != 0 {
			t.Errorf("%v, stopped after %s", due, time.Since(begin))
		}
	})
}

func TestWithoutHeartbeatsNothingStartsButRunsGoOn(t *testing.T) {
	m := newMemory()
	m.err = errors.New("no database")
	s, err := schedule.New(config(m, io.Discard), schedule.Job{Name: "j", Spec: "17 * * * *", Run: func(context.Context, time.Time) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err == nil {
		t.Error("a job started that nobody would miss")
	}
	s.Stop()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		var log bytes.Buffer
		var r record
		s := start(t, config(m, &log), schedule.Job{Name: "j", Spec: "17 * * * *", Run: r.add})
		synctest.Wait()
		m.mu.Lock()
		m.err = errors.New("no database")
		m.mu.Unlock()
		time.Sleep(time.Hour)
		s.Stop()
		if due, _ := r.all(); len(due) != 2 || !strings.Contains(log.String(), "heartbeat could not be stored") {
			t.Errorf("%v: %s", due, log.String())
		}
	})
}

func TestWhatOperatorsWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader := sdkmetric.NewManualReader()
		c := config(newMemory(), io.Discard)
		c.Meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
		fail := errors.New("no")
		s := start(t, c, schedule.Job{Name: "j", Spec: "17 * * * *", Run: func(_ context.Context, due time.Time) error {
			if due.Hour() == 0 {
				return fail
			}
			return nil
		}})
		time.Sleep(time.Hour) // from midnight: the catch-up succeeds, 0:17 fails
		s.Stop()
		var got metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &got); err != nil {
			t.Fatal(err)
		}
		runs, age := map[string]int64{}, 0.0
		for _, m := range got.ScopeMetrics[0].Metrics {
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					outcome, _ := p.Attributes.Value("trakr.outcome")
					runs[outcome.AsString()] = p.Value
				}
			case metricdata.Gauge[float64]:
				age = d.DataPoints[0].Value
			}
		}
		if runs["success"] != 1 || runs["failure"] != 1 || age != time.Hour.Seconds() {
			t.Errorf("runs %v, last success %v s ago", runs, age)
		}
	})
}
