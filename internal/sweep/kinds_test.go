package sweep_test

import (
	"os"
	"slices"
	"strings"
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

// The operator's pages have one row for each kind.
func TestTheOperatorsPagesHaveEachKindOfSweep(t *testing.T) {
	for _, page := range []string{"../../deploy/README.md", "../../deploy/runbooks/finding-open.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range sweep.Kinds() {
			if n := strings.Count(string(text), "\n| `"+k+"` |"); n != 1 {
				t.Errorf("%s has %d rows for the sweep %s, want one", page, n, k)
			}
		}
	}
}
