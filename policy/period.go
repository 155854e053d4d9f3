package policy

import (
	"errors"
	"regexp"
	"strconv"
	"time"
)

// Period is a length of time in ISO 8601 form: "P30D", "PT1H", "PT10M", or "P0D" for at
// once. Months and years are refused: they have no fixed length.
type Period struct {
	text string
	d    time.Duration
}

var periodForm = regexp.MustCompile(`^P(?:(\d{1,5})D)?(?:T(?:(\d{1,4})H)?(?:(\d{1,4})M)?(?:(\d{1,5})S)?)?$`)

// ParsePeriod parses the ISO 8601 form.
func ParsePeriod(s string) (Period, error) {
	m := periodForm.FindStringSubmatch(s)
	if m == nil || s == "P" || s[len(s)-1] == 'T' {
		return Period{}, errors.New("a period is in ISO 8601 form with days, hours, minutes or seconds: P30D, PT1H, PT10M")
	}
	var d time.Duration
	for i, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute, time.Second} {
		if m[i+1] != "" {
			n, err := strconv.Atoi(m[i+1])
			if err != nil {
				return Period{}, errors.New("a number of the period is out of range")
			}
			d += time.Duration(n) * unit
		}
	}
	return Period{s, d}, nil
}

// Duration returns the length; a day is 24 hours.
func (p Period) Duration() time.Duration { return p.d }

// String returns the ISO 8601 form as written in the file.
func (p Period) String() string { return p.text }

// Human returns the period for a reader: "30 days", "1 hour", "at once". A period that was
// left out lasts as long as the service.
func (p Period) Human() string {
	if p.text == "" {
		return "as long as the service"
	}
	if p.d == 0 {
		return "at once"
	}
	for _, u := range []struct {
		d    time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if p.d%u.d == 0 {
			n := int64(p.d / u.d)
			if n == 1 {
				return "1 " + u.name
			}
			return strconv.FormatInt(n, 10) + " " + u.name + "s"
		}
	}
	return p.text
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Period) UnmarshalText(b []byte) error {
	v, err := ParsePeriod(string(b))
	if err != nil {
		return err
	}
	*p = v
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (p Period) MarshalText() ([]byte, error) { return []byte(p.text), nil }
