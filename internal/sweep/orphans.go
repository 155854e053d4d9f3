package sweep

import (
	"context"

	"trakr/internal/drift"
	"trakr/internal/store/census"
	"trakr/internal/store/findings"
	"trakr/policy"
)

// OrphanPass looks, in every table of the live catalog, for rows of tenants that are
// not registered any more. One row of its own, the canary, must be among what it sees.
type OrphanPass struct {
	census *census.Store
	policy *policy.Policy
}

// NewOrphans returns the pass.
func NewOrphans(s *census.Store, p *policy.Policy) *OrphanPass { return &OrphanPass{s, p} }

// Kind implements Pass.
func (*OrphanPass) Kind() string { return Orphans }

// Destructive implements Pass: it only counts.
func (*OrphanPass) Destructive() bool { return false }

// Look implements Pass.
func (p *OrphanPass) Look(ctx context.Context, _ Order) (Found, error) {
	checks, at, err := p.census.Orphans(ctx, drift.Declared(p.policy))
	for i, c := range checks {
		checks[i].Severity = findings.High // a table or column without a declaration
		if c.Disposition == findings.Checked && c.Rows > 0 {
			checks[i].Severity = findings.Critical // a row outlived its tenant
		}
	}
	return Found{Checks: checks, SnapshotAt: at}, err
}
