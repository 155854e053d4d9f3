package heartbeats_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/heartbeats"
	"trakr/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

func TestAJobIsOverdueAfterTwiceItsIntervalAndItsJitter(t *testing.T) {
	now := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	b := heartbeats.Beat{Job: "j", ExpectedSince: now, Interval: time.Hour, Jitter: 30 * time.Second}
	limit := 2*time.Hour + 30*time.Second
	for _, begin := range []string{"first expected", "last success"} {
		if begin == "last success" {
			at := now.Add(5 * time.Hour)
			b.LastSucceeded, now = &at, at
		}
		for by, want := range map[time.Duration]bool{0: false, limit - time.Minute: false, limit + time.Minute: true, time.Minute - limit: false, -limit - time.Minute: true} {
			if b.Overdue(now.Add(by)) != want {
				t.Errorf("%s: overdue %v after %s", begin, !want, by)
			}
		}
	}
	if !heartbeats.Find(nil, "never scheduled").Overdue(now) {
		t.Error("a job that nobody scheduled is in time")
	}
}

// A success from before the job was scheduled does not make it late, and a schedule that
// begins only after the moment does not make a success late: the one rule of jobs and sweeps.
func TestTheTimeCountsFromTheLaterOfScheduleAndSuccess(t *testing.T) {
	scheduled := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		succeeded, at time.Duration // after it was scheduled
		overdue       bool
	}{
		"succeeded before it was scheduled":                {-5 * time.Hour, time.Hour, false},
		"succeeded before, and not since":                  {-5 * time.Hour, 3 * time.Hour, true},
		"of a moment before it was scheduled":              {-5 * time.Hour, -4 * time.Hour, false},
		"of a moment before it was scheduled, and late":    {-5 * time.Hour, -2 * time.Hour, true},
		"succeeded since":                                  {5 * time.Hour, 6 * time.Hour, false},
		"succeeded since, and late":                        {5 * time.Hour, 8 * time.Hour, true},
		"of a moment long before its success: clock moved": {5 * time.Hour, time.Hour, true},
	} {
		at := scheduled.Add(c.succeeded)
		b := heartbeats.Beat{ExpectedSince: scheduled, Interval: time.Hour, LastSucceeded: &at}
		if b.Overdue(scheduled.Add(c.at)) != c.overdue {
			t.Errorf("%s: overdue %v", name, !c.overdue)
		}
	}
}

func TestAJobsHistoryIsKept(t *testing.T) {
	e := storetest.New(t)
	s := heartbeats.New(e.DB)
	first := e.Clock.Now()
	steps := []func() error{
		func() error { return s.Expect(t.Context(), "j", time.Hour, 30*time.Second, first) },
		func() error { return s.Started(t.Context(), "j", first.Add(1*time.Minute)) },
		func() error { return s.Failed(t.Context(), "j", first.Add(2*time.Minute), "timeout") },
		func() error { return s.Succeeded(t.Context(), "j", first.Add(3*time.Minute)) },
		func() error { return s.Expect(t.Context(), "j", 2*time.Hour, 20*time.Second, first.Add(time.Hour)) }, // the next start, with another schedule
	}
	for _, step := range steps {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.List(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	b := all[0]
	if !b.ExpectedSince.Equal(first) || b.Interval != 2*time.Hour || b.Jitter != 20*time.Second || !b.LastStarted.Equal(first.Add(time.Minute)) ||
		!b.LastFailed.Equal(first.Add(2*time.Minute)) || b.Failure != "timeout" || !b.LastSucceeded.Equal(first.Add(3*time.Minute)) {
		t.Errorf("%+v", b)
	}
	if err := s.Succeeded(t.Context(), "unknown", first); err == nil {
		t.Error("a heartbeat of a job that nobody scheduled went nowhere without a word")
	}
	e.DB.Close()
	if _, err := s.List(t.Context()); !errors.Is(err, lifecycle.StoreUnavailable) {
		t.Errorf("a database that does not answer: %v", err)
	}
}
