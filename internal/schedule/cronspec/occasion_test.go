package cronspec_test

import (
	"testing"
	"time"

	"trakr/internal/schedule/cronspec"
)

const day = 24 * time.Hour

func TestOnlyFiveFieldExpressionsThatComeAreTaken(t *testing.T) {
	for spec, why := range map[string]string{
		"17 * * *": "four fields", "0 17 * * * *": "six fields", "61 * * * *": "minute 61", "@every 1h": "no fixed times",
		"@hourly": "a descriptor", "TZ=Europe/Berlin 0 3 * * *": "another zone", "0 0 31 2 *": "31 February", "": "empty", "17 * * * mo": "half a name",
		", * * * *": "no minute at all",
	} {
		if _, err := cronspec.Parse(spec); err == nil {
			t.Errorf("%q was taken (%s)", spec, why)
		}
	}
}

func TestTheLongestRestIsFoundWhereverItLies(t *testing.T) {
	for spec, want := range map[string]time.Duration{
		"17 * * * *": time.Hour, "0 3 * * *": day, "*/5 * * * *": 5 * time.Minute, "*/45 * * * *": 45 * time.Minute, "0 0 1 * *": 31 * day,
		"0 3 * * 1-5": 3 * day, "0 8,9 * * *": 23 * time.Hour,
		"* 9 * * *":     23*time.Hour + time.Minute, // 60 occasions close together, and then none
		"* * 1-30 * *":  day + time.Minute,          // thousands, until a 31st
		"0 0 1 3 *":     366 * day,                  // a leap year's
		"0 0 29 2 *":    (4*365 + 1) * day,          // far beyond the two years
		"* * * 6 *":     (366-30)*day + time.Minute, // from June to June of a leap year
		"30 1 * * 0,3":  4 * day,                    // Wednesday to Sunday
		"0 0 1-7 * 1":   7 * day,                    // either: the first week, or a Monday
		"5,50 22 * * *": 23*time.Hour + 15*time.Minute,
	} {
		s, err := cronspec.Parse(spec)
		if err != nil {
			t.Fatal(err)
		}
		for _, from := range []time.Time{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 11, 24, 9, 20, 0, 0, time.UTC), time.Date(2027, 2, 28, 23, 59, 0, 0, time.UTC)} {
			if got := cronspec.Longest(s, from); got != want {
				t.Errorf("%q from %v: %v, want %v", spec, from, got, want)
			}
		}
	}
}
