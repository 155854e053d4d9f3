package sweep_test

import (
	"slices"
	"testing"

	"trakr/internal/sweep"
	"trakr/policy"
)

// The policy is pure and has a list of its own, with the longest interval of each kind.
func TestThePolicyHasTheKindsOfSweepThatThereAre(t *testing.T) {
	if got := policy.SweepKinds(); !slices.Equal(got, sweep.Kinds()) {
		t.Errorf("the policy validates %v, and the sweeps are %v", got, sweep.Kinds())
	}
	for i, p := range sweep.Passes(sweep.Parts{}) {
		k := sweep.Kinds()[i]
		if p.Kind() != k {
			t.Errorf("the entry %s makes a pass of the kind %s", k, p.Kind())
		}
		if about := sweep.About(k); about == "" || len(about) > 85 {
			t.Errorf("%s: %q has %d characters", k, about, len(about))
		}
	}
}
