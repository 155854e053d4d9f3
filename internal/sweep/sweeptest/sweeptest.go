// Package sweeptest helps tests that need a runner and only some of its kinds.
package sweeptest

import (
	"context"
	"slices"
	"time"

	"trakr/internal/sweep"
	"trakr/policy"
)

// Fill adds, for each kind that the policy schedules and that is not given, a pass
// that looks at nothing.
func Fill(p *policy.Policy, given ...sweep.Pass) []sweep.Pass {
	out := slices.Clone(given)
	for _, s := range p.Sweeps {
		if !slices.ContainsFunc(given, func(x sweep.Pass) bool { return x.Kind() == s.Kind }) {
			out = append(out, idle(s.Kind))
		}
	}
	return out
}

type idle string

func (i idle) Kind() string { return string(i) }

func (idle) Destructive() bool { return false }

func (idle) Look(context.Context, sweep.Order) (sweep.Found, error) {
	return sweep.Found{SnapshotAt: time.Now().UTC()}, nil
}
