package check_test

import (
	"testing"

	"trakr/internal/check"
)

func TestWorst(t *testing.T) {
	of := func(states ...check.State) (out []check.Result) {
		for _, s := range states {
			out = append(out, check.Result{State: s})
		}
		return out
	}
	for _, c := range []struct {
		reason string
		in     []check.Result
		want   check.State
	}{
		{"nothing checked is not a pass", nil, check.Unknown},
		{"all pass", of(check.Pass, check.Pass), check.Pass},
		{"a warning is worse than a pass", of(check.Pass, check.Warn), check.Warn},
		{"what could not be checked is worse than a warning", of(check.Unknown, check.Warn), check.Unknown},
		{"a failure is the worst", of(check.Unknown, check.Fail, check.Pass), check.Fail},
	} {
		if got := check.Worst(c.in...); got != c.want {
			t.Errorf("%s: got %s, want %s", c.reason, got, c.want)
		}
	}
}
