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
	inv, err := r.Inventory.Collect(ctx, drift.Declared(r.Policy), f.AsOf, r.Policy.DeletionDeadline.Duration(), reports.Lately)
	if err != nil {
		return facts.Server{}, err
	}
	f.Began, f.LiveTenants, f.ErasedTenants = inv.Began, inv.Live, inv.Erased
	f.Erasures = reports.ErasureFacts{
		Total: inv.Erasure.Total, Oldest: inv.Erasure.Oldest, Newest: inv.Erasure.Newest, LongestLag: inv.Erasure.Longest,
		Late: inv.Erasure.Late, LateLately: inv.Erasure.LateLately, Open: inv.Erasure.Open,
	}
	for _, t := range inv.Tables {
		f.Tables = append(f.Tables, reports.TableFacts{
			Name: t.Name, Declared: t.Declared, Undeclared: t.Undeclared, Uncounted: t.Uncounted, Rows: t.Rows, Undated: t.Undated,
			Oldest: t.Oldest, Newest: t.Newest, Due: t.Due, Unaged: t.Unaged,
		})
	}
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
		checks, err := r.Inventory.Checks(ctx, s.RunID)
		if err != nil {
			return err
		}
		for _, c := range checks {
			f.OrphanChecks = append(f.OrphanChecks, reports.ColumnFacts{
				Table: c.Table, Column: c.Column, Disposition: c.Disposition, Ground: c.Ground, Rows: c.Rows,
				Predicate: c.Predicate, CheckedAt: c.CheckedAt.UTC(),
			})
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
	sums, err := r.Inventory.SweepSummary(ctx, h.Newest.ID)
	if err != nil {
		return s, err
	}
	at := h.Newest.FinishedAt.UTC()
	s.RunID, s.FinishedAt, s.Result = h.Newest.ID, &at, string(h.Newest.Result)
	s.Tables, s.Unchecked, s.Rows = sums.Checked, sums.Unjudged, sums.Rows
	return s, nil
}

func (r *Reporter) addFindings(ctx context.Context, f *reports.Facts) error {
	open, err := r.Inventory.OpenFindings(ctx, f.AsOf)
	for _, x := range open {
		f.OpenFindings = append(f.OpenFindings, reports.FindingFacts{
			ID: x.ID, Topic: topic(x), Kind: x.Kind, Table: x.Table, Column: x.Column, Ground: x.Ground, Count: x.Rows,
			OpenedAt: x.OpenedAt.UTC(), Acknowledged: x.Known,
		})
	}
	return err
}

// topic returns what a finding is about, from the place that its sweep recorded.
func topic(x facts.Finding) reports.Topic {
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
	f.RequestsLeftOut = more
	for _, q := range list {
		x := reports.RequestFacts{
			ID: q.ID, Ticket: q.Ticket, TenantID: q.TenantID, State: q.State, Open: lifecycle.RequestState(q.State).Open(),
			MovedAt: q.MovedAt.UTC(), Submitted: q.Submitted.UTC(), Received: q.Received.UTC(), Due: q.Due.UTC(),
			DeletedAt: q.DeletedAt, BackupsClear: q.BackupsClear, CertificateID: q.CertificateID,
		}
		x.Overdue = x.Open && f.AsOf.After(x.Due)
		answered := !x.Open && x.State != string(lifecycle.RequestCancelled) && x.State != string(lifecycle.RequestDuplicate)
		x.Late = x.Overdue || (answered && x.MovedAt.After(x.Due) && f.AsOf.Sub(x.MovedAt) < reports.Lately)
		f.Requests = append(f.Requests, x)
	}
	held, err := r.Inventory.Holds(ctx, f.AsOf)
	for _, h := range held {
		f.Holds = append(f.Holds, reports.HoldFacts{
			ID: h.ID, TenantID: h.TenantID, Ground: h.Ground, Ticket: h.Ticket, PlacedAt: h.PlacedAt.UTC(), Until: h.Until.UTC(),
		})
	}
	return err
}

// addDisclosures adds what the log records as sent, and the unacknowledged notices.
func (r *Reporter) addDisclosures(ctx context.Context, f *reports.Facts) error {
	sent, err := r.Inventory.Disclosures(ctx, f.AsOf.Add(-reports.Lately), f.AsOf)
	if err != nil {
		return err
	}
	f.Disclosures = []reports.DisclosureFacts{}
	for _, d := range sent {
		to := lifecycle.ToBitbucket
		if d.Delivery {
			to = lifecycle.ToEndService
		}
		f.Disclosures = append(f.Disclosures, reports.DisclosureFacts{To: to, Recipient: d.Recipient, Field: d.Field, Events: d.Events})
	}
	n := &reports.NoticeFacts{}
	if n.Open, n.Late, err = r.Inventory.Notices(ctx, f.AsOf, r.Policy.DeletionDeadline.Duration()); err != nil {
		return err
	}
	f.Notices = n
	return nil
}

// addErasureState adds the tenants that should be checked or erased, and the stored values
// of fields that are switched off.
func (r *Reporter) addErasureState(ctx context.Context, f *reports.Facts) error {
	var err error
	if f.UncheckedTenants, err = r.Inventory.Unjudged(ctx); err != nil {
		return err
	}
	suspected := &reports.SuspectedFacts{}
	if suspected.Total, suspected.Late, err = r.Inventory.Suspected(ctx, f.AsOf, r.Policy.Liveness.Notices()); err != nil {
		return err
	}
	f.Suspected = suspected
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
