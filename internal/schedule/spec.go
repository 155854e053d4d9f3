package schedule

import (
	"time"

	"github.com/robfig/cron/v3"

	"trakr/internal/schedule/cronspec"
)

// Interval returns the longest time between two consecutive times of a schedule after now.
func Interval(spec string, now time.Time) (time.Duration, error) {
	s, err := cronspec.Parse(spec)
	if err != nil {
		return 0, err
	}
	return cronspec.Longest(s, now), nil
}

// previous returns the newest time of a schedule not after now.
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
