package sweep

import (
	"context"

	"trakr/internal/drift"
	"trakr/internal/erasure"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/census"
	"trakr/internal/store/findings"
	"trakr/internal/store/liveness"
	"trakr/internal/store/outbox"
	"trakr/internal/store/retention"
	"trakr/policy"
)

// Kinds of sweep, as the policy, the API, the commands and stored runs name them.
const (
	Orphans      = "orphans"
	Erasures     = "erasures"
	Liveness     = "liveness"
	Retention    = "retention"
	Integrity    = "integrity"
	Minimisation = "minimisation"
	Drift        = "drift"
)

// kinds is the one list of sweeps. The runner, the command line and the API derive theirs
// from it; the policy, which is pure, has the longest interval of each, in this order, and
// a test compares the two. To add a sweep, see "Add a sweep" in internal/README.md.
var kinds = []struct {
	name  string
	about string
	pass  func(Parts) Pass
}{
	{Orphans, "count rows of tenants that are not registered; blind without a fresh canary",
		func(p Parts) Pass { return NewOrphans(p.Census, p.Policy) }},
	{Erasures, "finish and certify erasures that have begun; count overdue deliveries",
		func(p Parts) Pass { return NewErasures(p.Eraser, p.Policy, p.Outbox) }},
	{Liveness, "ask Bitbucket about each tenant, and erase those whose uninstall never arrived",
		func(p Parts) Pass {
			return NewLiveness(p.Liveness, p.Policy, p.Door, p.Bitbucket, probeEraser{p.Eraser})
		}},
	{Retention, "delete rows past their period, and values of fields that the policy switches off",
		func(p Parts) Pass { return NewRetention(p.Retention, p.Policy, p.Door) }},
	{Integrity, "verify the audit log, all of it once a week, and the database's guards",
		func(p Parts) Pass { return NewIntegrity(p.DB, p.Log, p.Findings, p.Outside) }},
	{Minimisation, "search unencrypted columns for contact data, undeclared columns, unknown payload keys",
		func(p Parts) Pass { return NewMinimisation(p.Census, p.Policy) }},
	{Drift, "compare tables, columns, scopes, hosts and jobs with the policy",
		func(p Parts) Pass { return NewDrift(p.Policy, p.Running) }},
}

// Kinds lists the kinds of sweep.
func Kinds() []string {
	var out []string
	for _, k := range kinds {
		out = append(out, k.name)
	}
	return out
}

// About returns what a kind does, as an imperative clause of at most 85 characters; "" for
// an unknown kind.
func About(kind string) string {
	for _, k := range kinds {
		if k.name == kind {
			return k.about
		}
	}
	return ""
}

// Parts are what the passes work with. All are required.
type Parts struct {
	DB        *store.DB
	Policy    *policy.Policy
	Log       *audit.Log
	Findings  *findings.Store
	Census    *census.Store
	Retention *retention.Store
	Outbox    *outbox.Store
	Liveness  *liveness.Store
	Eraser    *erasure.Eraser
	Bitbucket Bitbucket
	Door      interface {
		Installations
		Values
	}
	Outside Kept                                           // the checkpoints that are kept outside the database
	Running func(ctx context.Context) (drift.Facts, error) // what runs, for the comparison with the policy
}

// Passes returns one pass of each kind.
func Passes(p Parts) []Pass {
	var out []Pass
	for _, k := range kinds {
		out = append(out, k.pass(p))
	}
	return out
}
