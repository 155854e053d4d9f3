package sweep

import (
	"context"
	"fmt"
	"time"

	"trakr/internal/drift"
	"trakr/internal/store/findings"
	"trakr/policy"
)

// DriftPass looks for tables, columns, scopes, hosts and jobs that the policy does not
// declare, and for values of fields that it switches off. It repeats the comparison of
// start-up while the service runs.
type DriftPass struct {
	policy *policy.Policy
	facts  func(ctx context.Context) (drift.Facts, error)
}

// NewDrift returns the pass; facts gathers what runs.
func NewDrift(p *policy.Policy, facts func(ctx context.Context) (drift.Facts, error)) *DriftPass {
	return &DriftPass{p, facts}
}

// Kind implements Pass.
func (*DriftPass) Kind() string { return Drift }

// Destructive implements Pass: it only looks.
func (*DriftPass) Destructive() bool { return false }

// Look implements Pass.
func (p *DriftPass) Look(ctx context.Context, o Order) (Found, error) {
	f, err := p.facts(ctx)
	if err != nil {
		return Found{}, err
	}
	out := Found{SnapshotAt: o.Now}
	found := drift.Compare(p.policy, f)
	for _, k := range drift.Kinds() {
		out.Checks = append(out.Checks, p.compared(k, f, o.Now))
		for _, d := range found {
			if d.Kind == k {
				out.Checks = append(out.Checks, p.differs(d, o.Now))
			}
		}
	}
	return out, nil
}

// service is the store of results that are not about a table.
const service = "service"

// compared reports how much of a kind was compared, also without any difference.
func (*DriftPass) compared(k drift.Kind, f drift.Facts, now time.Time) findings.Check {
	c := checked(string(k), "", now)
	c.Store = service
	looked, what, n := true, "", 0
	switch k {
	case drift.Catalog:
		looked, n, what = f.Tables != nil, len(f.Tables), "tables, each with its columns, were compared"
	case drift.Scope:
		looked, n, what = f.Scopes != nil, len(f.Scopes), "scopes of the descriptor were compared"
	case drift.Host:
		n, what = len(f.Endpoints)+len(f.Databases), "settings that name a host were compared"
	case drift.Schedule:
		looked, n, what = f.Jobs != nil, len(f.Jobs), "scheduled jobs were compared"
	case drift.Field:
		n, what = len(f.SwitchedOff), "fields that are off were counted"
	}
	if !looked {
		c.Disposition, c.Ground = findings.Unjudged, "it could not be seen"
		return c
	}
	c.Ground = fmt.Sprintf("%d %s", n, what)
	return c
}

// differs returns the finding of one difference.
func (p *DriftPass) differs(d drift.Difference, now time.Time) findings.Check {
	c := checked(string(d.Kind), d.Name(), now)
	c.Store, c.Rows, c.Severity, c.Ground = service, max(d.Rows, 1), findings.Medium, d.What+". Way out: "+d.WayOut
	if d.Kind == drift.Catalog {
		c.Store, c.Table, c.Column = drift.Declared(p.policy).Table(d.Subject).Store, d.Subject, d.Part
	}
	if d.Refuses {
		c.Severity = findings.High
		if d.Kind == drift.Host || d.Kind == drift.Scope {
			c.Severity = findings.Critical
		}
	}
	return c
}
