package policy

import (
	"slices"
	"time"

	"trakr/internal/schedule/cronspec"
)

// sweepGaps are the kinds of sweep that the service has, each with the longest permitted
// time between two passes: evidence counts as recent for twice that.
var sweepGaps = []struct {
	kind string
	gap  time.Duration
}{
	{"orphans", day},
	{"erasures", time.Hour},
	{"liveness", day},
	{"retention", 2 * day},
	{"integrity", day},
	{"minimisation", 7 * day},
	{"drift", day},
}

// SweepKinds returns the kinds of sweep that a policy must schedule.
func SweepKinds() []string {
	out := make([]string, len(sweepGaps))
	for i, s := range sweepGaps {
		out[i] = s.kind
	}
	return out
}

// sweeps checks that each kind is scheduled once, often enough, and with time for a pass.
func (v *validator) sweeps() {
	seen := map[string]bool{}
	for i, s := range v.p.Sweeps {
		at := entry("$.sweeps", i)
		k := slices.Index(SweepKinds(), s.Kind)
		switch {
		case k < 0:
			v.fault(at+".kind", "the service has no sweep %q; the kinds are: %s", s.Kind, And(SweepKinds()))
		case seen[s.Kind]:
			v.fault(at+".kind", "the sweep %q is scheduled twice", s.Kind)
		}
		seen[s.Kind] = true
		if gap := v.schedule(at+".schedule", s.Schedule); k >= 0 && gap > sweepGaps[k].gap {
			v.fault(at+".schedule", "two passes can be %s apart, and the sweep %s runs every %s or more often: "+
				"its result counts as recent for twice that", inWords(gap), s.Kind, inWords(sweepGaps[k].gap))
		}
		if s.Timeout.Duration() < time.Second {
			v.fault(at+".timeout", "a pass needs at least a second")
		}
	}
	for _, k := range SweepKinds() {
		if !seen[k] && v.whole("$.sweeps", "kind") {
			v.fault("$.sweeps", "the sweep %s has no schedule, so it would never run", k)
		}
	}
}

// maxGap is a time between two runs that no schedule may exceed: it is over a year.
const maxGap = 400 * day

// schedule checks that the scheduler accepts a specification and that it runs within a
// year. It returns the longest time between two runs; 0 when the schedule has a fault.
func (v *validator) schedule(at, spec string) time.Duration {
	s, err := cronspec.Parse(spec)
	if err != nil {
		v.fault(at, "%v", err)
		return 0
	}
	// A fixed start, so that the result does not depend on the present time.
	gap := cronspec.Longest(s, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	if gap > maxGap {
		v.fault(at, "the schedule %q does not run for %s", spec, inWords(gap))
		return 0
	}
	return gap
}

// jobs checks that each job is declared once, with a schedule that runs.
func (v *validator) jobs() {
	seen := map[string]bool{}
	for i, x := range v.p.Jobs {
		at := entry("$.jobs", i)
		if seen[x.Name] {
			v.fault(at+".name", "the job %q is declared twice", x.Name)
		}
		seen[x.Name] = true
		v.schedule(at+".schedule", x.Schedule)
	}
}

// liveness checks the floors, and that a pass can end within its timeout.
func (v *validator) liveness() {
	l := v.p.Liveness
	if l.Suspicions < MinSuspicions {
		v.fault("$.liveness.suspicions", "a tenant is erased after %d suspicions or more", MinSuspicions)
	}
	if l.Days < MinDays {
		v.fault("$.liveness.days", "a tenant is suspected for %d days or more before it is erased", MinDays)
	}
	if l.Apart.Duration() < MinApart {
		v.fault("$.liveness.apart", "suspicions count only when they are 12 hours apart, or more")
	}
	if l.MaxErasures > MaxErasures {
		v.fault("$.liveness.max_erasures", "one pass erases %d tenants or fewer", MaxErasures)
	}
	for i, s := range v.p.Sweeps {
		asking := time.Duration(l.Batch) * time.Second / time.Duration(max(l.PerSecond, 1))
		if s.Kind == "liveness" && asking > s.Timeout.Duration() && v.has("$.liveness.per_second") {
			v.fault(entry("$.sweeps", i)+".timeout", "a pass cannot end in this time: %d questions at %d a second", l.Batch, l.PerSecond)
		}
	}
}
