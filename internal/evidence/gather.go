package evidence

import (
	"context"
	"time"

	"trakr/internal/drift"
	"trakr/internal/lifecycle"
	"trakr/internal/schedule"
	"trakr/internal/store/facts"
	"trakr/internal/sweep"
	"trakr/policy"
	"trakr/reports"
)

// presentFor is how long ago a report's moment may be for the present state to count as
// its state.
const presentFor = 5 * time.Minute

// Facts gathers everything as of a moment (zero: now).
func (r *Reporter) Facts(ctx context.Context, asOf time.Time) (reports.Facts, error) {
	clock, err := r.Inventory.Clock(ctx)
	if err != nil {
		return reports.Facts{}, err
	}
	if asOf.IsZero() {
		asOf = clock
	}
	asOf = asOf.UTC().Truncate(time.Microsecond) // the database's precision
	if asOf.After(clock) {
		return reports.Facts{}, lifecycle.Fail(lifecycle.RequestInvalid, "A report cannot be about the future.",
			lifecycle.At("/as_of", "is in the future"))
	}
	f := reports.Facts{AsOf: asOf, Past: clock.Sub(asOf) > presentFor, Scopes: r.Scopes}
	server, err := r.addInventory(ctx, &f)
	if err != nil {
		return reports.Facts{}, err
	}
	f.Observations, f.Controls, f.Guards = r.observations(server), r.controls(server), r.guards(ctx)
	f.Jobs = r.jobs(ctx, clock)
	for _, add := range []func(context.Context, *reports.Facts) error{
		r.addSweeps, r.addFindings, r.addRequests, r.addDisclosures, r.addErasureState, r.addInstances,
	} {
		if err := add(ctx, &f); err != nil {
			return reports.Facts{}, err
		}
	}
	return f, nil
}

// addInventory adds the tables, tenants and erasures, which come from one snapshot, and
// returns what the database's server reports of itself.
func (r *Reporter) addInventory(ctx context.Context, f *reports.Facts) (facts.Server, error) {
	inv, err := r.Inventory.Collect(ctx, drift.Declared(r.Policy), f.AsOf, r.Policy.DeletionDeadline.Duration())
	if err != nil {
		return facts.Server{}, err
	}
	f.Tables, f.Began, f.LiveTenants, f.ErasedTenants, f.Erasures = inv.Tables, inv.Began, inv.Live, inv.Erased, inv.Erasures
	return inv.Server, nil
}

// addSweeps adds the newest pass of each kind, and the counts of the orphan sweep's.
func (r *Reporter) addSweeps(ctx context.Context, f *reports.Facts) error {
	for _, rule := range r.Policy.Sweeps {
		s, err := r.newestPass(ctx, rule, f.AsOf)
		if err != nil {
			return err
		}
		f.Sweeps = append(f.Sweeps, s)
		if s.Kind != sweep.Orphans || s.RunID == "" {
			continue
		}
		if f.OrphanChecks, err = r.Inventory.Columns(ctx, s.RunID); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reporter) newestPass(ctx context.Context, rule policy.Sweep, asOf time.Time) (reports.SweepFacts, error) {
	interval, err := schedule.Interval(rule.Schedule, asOf)
	if err != nil {
		return reports.SweepFacts{}, err
	}
	h, err := r.Sweeps.Health(ctx, rule.Kind, interval, asOf)
	if err != nil {
		return reports.SweepFacts{}, err
	}
	s := reports.SweepFacts{Kind: rule.Kind, Interval: interval, Overdue: h.Overdue}
	if h.Last != nil {
		at := h.Last.FinishedAt.UTC()
		s.Succeeded = &at
	}
	if h.Newest == nil {
		return s, nil
	}
	at := h.Newest.FinishedAt.UTC()
	s.RunID, s.FinishedAt, s.Result = h.Newest.ID, &at, string(h.Newest.Result)
	return s, r.Inventory.AddSums(ctx, &s)
}

func (r *Reporter) addFindings(ctx context.Context, f *reports.Facts) error {
	open, err := r.Inventory.OpenFindings(ctx, f.AsOf)
	for i, x := range open {
		open[i].Topic = topic(x)
	}
	f.OpenFindings = open
	return err
}

// topic returns what a finding is about, from the place that its sweep recorded.
func topic(x reports.FindingFacts) reports.Topic {
	switch {
	case x.Kind == sweep.Minimisation && sweep.OfPayloads(x.Column):
		return reports.TopicPayloads
	case x.Kind == sweep.Erasures && x.Table == sweep.OutboxTable:
		return reports.TopicDeliveries
	}
	return ""
}

// addRequests adds the customers' deletion requests and the legal holds.
func (r *Reporter) addRequests(ctx context.Context, f *reports.Facts) error {
	list, more, err := r.Inventory.Requests(ctx, f.AsOf)
	if err != nil {
		return err
	}
	for i := range list {
		x := &list[i]
		x.Open = lifecycle.RequestState(x.State).Open()
		x.Overdue = x.Open && f.AsOf.After(x.Due)
		answered := !x.Open && x.State != string(lifecycle.RequestCancelled) && x.State != string(lifecycle.RequestDuplicate)
		x.Late = x.Overdue || (answered && x.MovedAt.After(x.Due) && f.AsOf.Sub(x.MovedAt) < reports.Lately)
	}
	f.Requests, f.RequestsLeftOut = list, more
	f.Holds, err = r.Inventory.Holds(ctx, f.AsOf)
	return err
}

// addDisclosures adds what the log records as sent, and the unacknowledged notices.
func (r *Reporter) addDisclosures(ctx context.Context, f *reports.Facts) (err error) {
	if f.Disclosures, err = r.Inventory.Disclosures(ctx, f.AsOf.Add(-reports.Lately), f.AsOf); err != nil {
		return err
	}
	f.Notices, err = r.Inventory.Notices(ctx, f.AsOf, r.Policy.DeletionDeadline.Duration())
	return err
}

// addErasureState adds the tenants that should be checked or erased, and the stored values
// of fields that are switched off.
func (r *Reporter) addErasureState(ctx context.Context, f *reports.Facts) error {
	var err error
	if f.UncheckedTenants, err = r.Inventory.Unchecked(ctx); err != nil {
		return err
	}
	if f.Suspected, err = r.Inventory.Suspected(ctx, f.AsOf, r.Policy.Liveness.Longest()); err != nil {
		return err
	}
	if r.SwitchedOff == nil {
		return nil
	}
	stored, err := r.SwitchedOff(ctx)
	if err != nil {
		return err
	}
	f.SwitchedOff = []reports.SwitchedOffFacts{}
	for _, rule := range r.Policy.Fields {
		if rows, ok := stored[rule.Name]; ok {
			f.SwitchedOff = append(f.SwitchedOff, reports.SwitchedOffFacts{Field: rule.Name, Rows: rows})
		}
	}
	return nil
}
