package schedule

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

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

// Interval returns the longest time between two of the occasions that come after
// now: "0 3 * * 1-5" rests from Friday to Monday.
func Interval(spec string, now time.Time) (time.Duration, error) {
	s, err := parse(spec)
	if err != nil {
		return 0, err
	}
	return longest(s, now), nil
}

// ahead is how many occasions longest looks at: more than a month of days.
const ahead = 32

func longest(s cron.Schedule, now time.Time) time.Duration {
	var out time.Duration
	at := s.Next(now.UTC())
	for range ahead {
		next := s.Next(at)
		if next.IsZero() { // none within five years
			break
		}
		out, at = max(out, next.Sub(at)), next
	}
	return out
}

// Next returns the next occasion after now.
func Next(spec string, now time.Time) (time.Time, error) {
	s, err := parse(spec)
	if err != nil {
		return time.Time{}, err
	}
	return s.Next(now.UTC()), nil
}

// previous is the newest occasion not after now.
func previous(s cron.Schedule, now time.Time) time.Time {
	for back := time.Minute; ; back *= 2 {
		at := s.Next(now.Add(-back))
		if at.IsZero() || at.After(now) {
			continue
		}
		for next := s.Next(at); !next.IsZero() && !next.After(now); next = s.Next(at) {
			at = next
		}
		return at
	}
}
