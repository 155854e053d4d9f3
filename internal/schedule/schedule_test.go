package schedule_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"trakr/internal/schedule"
)

func TestOnlyFiveFieldExpressionsThatComeAreTaken(t *testing.T) {
	now := time.Date(2026, 11, 24, 10, 20, 0, 0, time.UTC)
	for spec, want := range map[string]time.Duration{
		"17 * * * *": time.Hour, "0 3 * * *": 24 * time.Hour, "*/5 * * * *": 5 * time.Minute, "0 0 1 * *": 31 * 24 * time.Hour,
	} {
		got, err := schedule.Interval(spec, now)
		if err != nil || got != want {
			t.Errorf("%q: interval %v, %v; want %v", spec, got, err, want)
		}
	}
	for spec, why := range map[string]string{
		"17 * * *": "four fields", "0 17 * * * *": "six fields", "61 * * * *": "minute 61", "@every 1h": "no fixed times",
		"@hourly": "a descriptor", "TZ=Europe/Berlin 0 3 * * *": "another zone", "0 0 31 2 *": "31 February", "": "empty", "17 * * * mo": "half a name",
	} {
		if _, err := schedule.Interval(spec, now); err == nil {
			t.Errorf("%q was taken (%s)", spec, why)
		}
	}
	if next, err := schedule.Next("17 * * * *", now); err != nil || !next.Equal(time.Date(2026, 11, 24, 11, 17, 0, 0, time.UTC)) {
		t.Errorf("next: %v, %v", next, err)
	}
}

func TestJobCatchesUpAtStartThenRunsOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().UTC()
		var mu sync.Mutex
		var all []time.Time
		passes := func() []time.Time { mu.Lock(); defer mu.Unlock(); return slices.Clone(all) }
		s, err := schedule.New(slog.New(slog.DiscardHandler), time.Now, schedule.Job{Name: "j", Spec: "17 * * * *",
			Run: func(_ context.Context, d time.Time) error {
				mu.Lock()
				defer mu.Unlock()
				all = append(all, d)
				return nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		s.Start(t.Context())
		synctest.Wait()
		if due := passes(); len(due) != 1 || !due[0].Equal(start.Add(-time.Hour)) {
			t.Fatalf("catch-up: %v, want one pass due an hour before the start", due)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		s.Stop()
		due := passes()
		if len(due) != 3 {
			t.Fatalf("two hours gave %d passes besides the catch-up, want 2", len(due)-1)
		}
		for _, d := range due[1:] {
			if d.Minute() != 17 || d.Second() != 0 {
				t.Errorf("a pass was told it was due at %v, want minute 17 exactly: replicas must agree on it", d)
			}
		}
		time.Sleep(2 * time.Hour)
		if len(passes()) != 3 {
			t.Error("a stopped scheduler still runs jobs")
		}
	})
}

func TestSlowJobIsNotDoubledAndAPanicIsReportedWithoutItsText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var runs atomic.Int32
		s, err := schedule.New(slog.New(slog.NewTextHandler(&log, nil)), time.Now,
			schedule.Job{Name: "slow", Spec: "* * * * *", Run: func(ctx context.Context, due time.Time) error {
				if time.Since(due) >= time.Minute { // the catch-up
					return nil
				}
				runs.Add(1)
				<-ctx.Done()
				return ctx.Err()
			}},
			schedule.Job{Name: "broken", Spec: "* * * * *", Run: func(_ context.Context, due time.Time) error {
				if time.Since(due) >= time.Minute {
					return nil
				}
				missing := []string{"marker-value"}[1:]
				return errors.New(missing[0])
			}})
		if err != nil {
			t.Fatal(err)
		}
		s.Start(t.Context())
		time.Sleep(10*time.Minute + time.Second)
		s.Stop()
		if n := runs.Load(); n != 1 {
			t.Errorf("a job that was still running was started %d times", n)
		}
		if !strings.Contains(log.String(), "crashed") || strings.Contains(log.String(), "marker") {
			t.Errorf("log of a panic: %s", log.String())
		}
	})
}
