package sweep

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"trakr/internal/drift"
	"trakr/internal/lifecycle"
	"trakr/internal/store/findings"
	"trakr/internal/store/retention"
	"trakr/policy"
)

// RetentionPass deletes rows past their period in the classes that the policy assigns to
// this sweep, and counts overdue rows in the classes of others: another job, an operator.
// The period of a field that the policy switches off is over, so its values are deleted too.
type RetentionPass struct {
	rows   *retention.Store
	policy *policy.Policy
	values Values
}

// Values is the door, as far as it deletes values of fields that are switched off.
type Values interface {
	// CountSwitchedOff counts the values that are stored of each field that is off.
	CountSwitchedOff(ctx context.Context) (map[lifecycle.Field]int64, error)
	// RemoveSwitchedOff deletes them, and returns of how many tenants. Values under a legal
	// hold stay.
	RemoveSwitchedOff(ctx context.Context, a lifecycle.Access) (tenants int64, err error)
}

// NewRetention returns the pass.
func NewRetention(s *retention.Store, p *policy.Policy, values Values) *RetentionPass {
	return &RetentionPass{s, p, values}
}

// Kind implements Pass.
func (*RetentionPass) Kind() string { return Retention }

// Destructive implements Pass: it removes rows.
func (*RetentionPass) Destructive() bool { return true }

// The results of each table, by their column.
const (
	removedRows = "removed" // deleted by this pass; in a dry run, those that it would delete
	overdueRows = "overdue" // past their period and still stored
	keptRows    = "kept"    // all others
)

// expireCommand deletes the audit's content, which the service's role cannot.
const expireCommand = "trakr audit expire"

// Look implements Pass. A registry row is deleted after its tombstone, so its class comes
// last: one pass then deletes both.
func (p *RetentionPass) Look(ctx context.Context, o Order) (Found, error) {
	checks, err := p.switchedOff(ctx, o)
	if err != nil {
		return Found{}, err
	}
	out := Found{SnapshotAt: o.Now, Checks: checks}
	rules := slices.Clone(p.policy.Retention)
	slices.SortStableFunc(rules, func(a, b policy.Retention) int { return strings.Compare(last(a.Class), last(b.Class)) })
	for _, r := range rules {
		cutoff := o.Now.Add(-r.Period.Duration())
		var checks []findings.Check
		var err error
		switch r.ExecutedBy {
		case policy.ByRetention:
			checks, err = p.execute(ctx, o, r, cutoff)
		case policy.ByReplayGuard, policy.ByCanary, policy.ByOperator, policy.ByNone:
			checks, err = p.watch(ctx, r, cutoff)
		}
		if err != nil {
			return out, err
		}
		out.Checks = append(out.Checks, checks...)
	}
	return out, nil
}

// valuesTable stores the values.
const valuesTable = "trakr.tenant_fields"

// switchedOff deletes, or in a dry run counts, the values of fields that are off. Values
// that stay are under a legal hold, or are deleted by the erasure of their tenant.
func (p *RetentionPass) switchedOff(ctx context.Context, o Order) ([]findings.Check, error) {
	before, err := p.values.CountSwitchedOff(ctx)
	if err != nil || len(before) == 0 {
		return nil, err
	}
	after := before
	if !o.DryRun {
		if _, err := p.values.RemoveSwitchedOff(ctx, o.Access); err != nil {
			return nil, err
		}
		if after, err = p.values.CountSwitchedOff(ctx); err != nil {
			return nil, err
		}
	}
	var checks []findings.Check
	for _, f := range slices.Sorted(maps.Keys(before)) {
		values := retention.Table{Name: valuesTable, At: o.Now}
		removed, kept := p.check(values, removedRows+": "+string(f)), p.check(values, keptRows+": "+string(f))
		removed.Disposition, kept.Disposition = findings.Retained, findings.Retained
		if o.DryRun {
			removed.Rows, removed.Ground = before[f], "would be removed, but for legal holds: the policy switches the field off"
			checks = append(checks, removed)
			continue
		}
		removed.Rows, removed.Ground = max(before[f]-after[f], 0), "removed: the policy switches the field off"
		kept.Rows, kept.Ground = after[f], "the field is off; its values are under a legal hold, "+
			"or are deleted by the erasure of their tenant"
		checks = append(checks, removed, kept)
	}
	return checks, nil
}

// last sorts the class of the registry after all others.
func last(class string) string {
	if class == "registry" {
		return "1"
	}
	return "0"
}

// tables returns the tables of a class.
func (p *RetentionPass) tables(class string) (out []policy.Table) {
	for _, s := range p.policy.Stores {
		for _, t := range s.Tables {
			if t.Class == class {
				out = append(out, t)
			}
		}
	}
	return out
}

// execute deletes, or in a dry run counts, the rows past the period of a class.
func (p *RetentionPass) execute(ctx context.Context, o Order, r policy.Retention, cutoff time.Time) ([]findings.Check, error) {
	var names []string
	for _, t := range p.tables(r.Class) {
		names = append(names, t.Name)
	}
	class := retention.Class{Name: r.Class, Tables: names, Cutoff: cutoff}
	var found []retention.Table
	var err error
	if o.DryRun {
		found, err = p.rows.Count(ctx, class)
	} else {
		found, err = p.rows.Retire(ctx, o.Access, class, o.Now)
	}
	if err != nil {
		return nil, err
	}
	var checks []findings.Check
	for _, x := range found {
		removed := p.check(x, removedRows)
		if x.Fault != "" {
			removed.Disposition, removed.Ground = findings.Unjudged, "rows past their period could not be removed: "+x.Fault
			checks = append(checks, removed)
			if x.Removed == 0 {
				continue
			}
		}
		overdue, kept := p.check(x, overdueRows), p.check(x, keptRows)
		before := "before " + cutoff.UTC().Format(time.DateOnly) + " (" + r.Class + ", " + r.Period.Human() + " from " + r.Starts + ")"
		removed.Disposition, removed.Rows = findings.Retained, x.Removed
		removed.Ground = "removed: " + before
		removed.Duration, overdue.Severity = x.Took, findings.Medium
		overdue.Rows, overdue.Ground = x.Due, "past the period and still stored: "+before
		if o.DryRun {
			removed.Rows, removed.Ground = x.Due, "would be removed: "+before
			overdue.Rows = 0
		}
		kept.Disposition, kept.Rows, kept.Ground = findings.Retained, x.Kept, "within the period, or needed by a row that is; "+r.Ground
		if x.Fault != "" {
			checks = append(checks, overdue, kept)
			continue
		}
		checks = append(checks, removed, overdue, kept)
	}
	return checks, nil
}

// watch counts the rows that another process or a person should have deleted by now.
func (p *RetentionPass) watch(ctx context.Context, r policy.Retention, cutoff time.Time) ([]findings.Check, error) {
	way := "still stored; the running service removes them: is trakr serve running?"
	switch r.ExecutedBy {
	case policy.ByNone:
		way = "still stored; nothing in this version removes them"
	case policy.ByOperator:
		// The command removes whole months.
		cutoff = time.Date(cutoff.UTC().Year(), cutoff.UTC().Month(), 1, 0, 0, 0, 0, time.UTC)
		way = "still stored; run: " + expireCommand
	}
	var checks []findings.Check
	for _, t := range p.tables(r.Class) {
		schema, name, _ := strings.Cut(t.Name, ".")
		if t.AgeColumn() == "" {
			c := p.check(retention.Table{Name: t.Name}, overdueRows)
			c.Disposition, c.Ground = findings.Unjudged, "its rows have no time column"
			checks = append(checks, c)
			continue
		}
		x, err := p.rows.Overdue(ctx, retention.Column{Schema: schema, Table: name, Name: t.AgeColumn()}, cutoff)
		if err != nil {
			return nil, err
		}
		c := p.check(x, overdueRows)
		c.Duration, c.Severity = x.Took, findings.Medium
		c.Rows, c.Ground = x.Due, fmt.Sprintf("past the period of %s (%s) and %s", r.Period.Human(), r.Class, way)
		if x.Fault != "" {
			c.Disposition, c.Ground = findings.Unjudged, "rows past their period could not be counted: "+x.Fault
		}
		checks = append(checks, c)
	}
	if len(checks) == 0 { // a store outside the database, such as backups
		c := checked(r.Class, overdueRows, cutoff)
		c.Store, c.Disposition = r.Class, findings.Retained
		c.Ground = "ends by " + r.Period.Human() + " through a setting at the provider, which this software does not see"
		checks = append(checks, c)
	}
	return checks, nil
}

// check returns a result of a table for the caller to complete.
func (p *RetentionPass) check(x retention.Table, column string) findings.Check {
	c := checked(x.Name, column, x.At)
	c.Store = drift.Declared(p.policy).Table(x.Name).Store
	if x.Predicate != "" {
		c.PredicateDigest = findings.Digest(x.Predicate)
	}
	return c
}
