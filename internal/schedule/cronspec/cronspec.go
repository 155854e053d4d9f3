// Package cronspec parses cron expressions of five fields, for the scheduler that runs by
// them and for the policy that declares them, so that both derive the same times from the
// same text. It runs no job and has no clock.
package cronspec

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Five fields and nothing else: "@every" has no fixed times that replicas could
// agree on, and a TZ prefix would contradict UTC.
var parser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

// Parse parses an expression. An expression without any time, such as 31 February, is an
// error.
func Parse(spec string) (cron.Schedule, error) {
	if strings.Contains(spec, "=") { // the parser would take a TZ= prefix
		return nil, fmt.Errorf("the schedule %q names a time zone; schedules are in UTC", spec)
	}
	s, err := parser.Parse(spec)
	if err != nil {
		return nil, fmt.Errorf("the schedule %q is not a five-field cron expression: %w", spec, err)
	}
	if s.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return nil, fmt.Errorf("the schedule %q never occurs (a day that no month has?)", spec)
	}
	return s, nil
}

const day = 24 * time.Hour

// Longest returns the longest time between two consecutive times of a schedule, within two
// years after from. For "0 3 * * 1-5" it is three days, from Friday to Monday.
func Longest(s cron.Schedule, from time.Time) time.Duration {
	last := s.Next(from.UTC().Truncate(day).Add(-time.Second))
	if last.IsZero() {
		return 0
	}
	today := last.Truncate(day)
	// Within a day: the times are the same on each day of the schedule.
	var out time.Duration
	for next := s.Next(last); next.Before(today.Add(day)) && !next.IsZero(); next = s.Next(last) {
		out, last = max(out, next.Sub(last)), next
	}
	// From the last time of one such day to the first of the next.
	end, until := last.Sub(today), today.AddDate(2, 0, 0)
	for today.Before(until) {
		next := s.Next(today.Add(day - time.Second))
		if next.IsZero() {
			break
		}
		out = max(out, next.Sub(today.Add(end)))
		today = next.Truncate(day)
	}
	return out
}
