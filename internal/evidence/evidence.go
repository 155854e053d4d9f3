// Package location gathers what can be observed about where data lies and how it
// is kept, and issues the reports that set it against what the policy declares.
// It claims no more than it saw: a declaration is shown as one.
package evidence

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/schedule"
	"trakr/internal/store/facts"
	"trakr/internal/store/guard"
	"trakr/internal/store/heartbeats"
	"trakr/internal/store/instances"
	"trakr/internal/sweep"
	"trakr/policy"
	"trakr/reports"
)

// Reporter builds and issues reports.
type Reporter struct {
	Policy    *policy.Policy
	Statement *policy.SecurityStatement
	Inventory *facts.Store
	Sweeps    *sweep.Runner
	Now       func() time.Time
	Version   string
	SkipProof bool // the development switch is on: a failed control
	// Jobs are what a running service schedules; each is a control, judged by its
	// heartbeat at the time the report is made.
	Jobs       []string
	Heartbeats Heartbeats // may be nil when there are no Jobs
	// Running tells which services run and what they act by; nil when that is not known.
	Running func(ctx context.Context) ([]instances.Instance, error)
	Own     []instances.Destination // whom this process's own settings name
	Scopes  []reports.ScopeFacts    // that the descriptor asks for
	// SwitchedOff counts the values of fields that the policy switches off; nil when it cannot
	// be asked.
	SwitchedOff func(ctx context.Context) (map[lifecycle.Field]int64, error)
}

// recent is how far back a report may speak of what can be seen only while it is made.
const recent = 5 * time.Minute

// Heartbeats tells when each scheduled job last ran.
type Heartbeats interface {
	List(ctx context.Context) ([]heartbeats.Beat, error)
}

// Issue returns one report in one format as of a moment (zero: now), after it has
// recorded that it hands it out. The same moment and state give the same bytes.
func (r *Reporter) Issue(ctx context.Context, a lifecycle.Access, kind, format string, asOf time.Time) ([]byte, reports.Format, error) {
	if err := a.CheckReason(); err != nil {
		return nil, "", err
	}
	f := reports.Format(format)
	if !slices.Contains(reports.Kinds(), kind) {
		return nil, "", lifecycle.Fail(lifecycle.NotFound, "There is no report of this kind; there are: "+strings.Join(reports.Kinds(), ", ")+".")
	}
	if forms := reports.FormatsOf(kind); !slices.Contains(forms, f) {
		return nil, "", lifecycle.Fail(lifecycle.RequestInvalid, fmt.Sprintf("The format of this report is one of %v.", forms), lifecycle.At("/format", "not a format of this report"))
	}
	gathered, err := r.Facts(ctx, asOf)
	if err != nil {
		return nil, "", err
	}
	doc, err := reports.Build(kind, r.Policy, r.Statement, gathered, r.Version)
	if err != nil {
		return nil, "", err
	}
	body, err := doc.Render(f)
	if err != nil {
		return nil, "", fmt.Errorf("rendering the report: %w", err)
	}
	sum := sha256.Sum256(body)
	err = r.Inventory.Issue(ctx, a, r.Now(), facts.Issued{Kind: kind, Format: string(f), AsOf: gathered.AsOf,
		PolicyHash: r.Policy.Hash(), Digest: hex.EncodeToString(sum[:])})
	if err != nil {
		return nil, "", err
	}
	return body, f, nil
}

// Facts gathers everything as of a moment.
func (r *Reporter) Facts(ctx context.Context, asOf time.Time) (reports.Facts, error) {
	clock, err := r.Inventory.Clock(ctx)
	if err != nil {
		return reports.Facts{}, err
	}
	if asOf.IsZero() {
		asOf = clock
	}
	asOf = asOf.UTC().Truncate(time.Microsecond) // as fine as the database records
	if asOf.After(clock) {
		return reports.Facts{}, lifecycle.Fail(lifecycle.RequestInvalid, "A report cannot speak about the future.", lifecycle.At("/as_of", "lies in the future"))
	}
	declared := facts.Declared{}
	for _, s := range r.Policy.Stores {
		for _, t := range s.Tables {
			declared[t.Name] = facts.Declaration{TimeColumn: t.TimeCol, AgeColumn: t.AgeColumn(), Columns: t.Columns}
		}
	}
	inv, err := r.Inventory.Collect(ctx, declared, asOf, r.Policy.DeletionDeadline.Duration(), reports.Lately)
	if err != nil {
		return reports.Facts{}, err
	}
	f := reports.Facts{AsOf: asOf, Past: clock.Sub(asOf) > recent, Began: inv.Began, LiveTenants: inv.Live, ErasedTenants: inv.Erased,
		Erasures: reports.ErasureFacts{Total: inv.Erasure.Total, Oldest: inv.Erasure.Oldest, Newest: inv.Erasure.Newest,
			LongestLag: inv.Erasure.Longest, Late: inv.Erasure.Late, LateLately: inv.Erasure.LateLately, Open: inv.Erasure.Open},
		Scopes:       r.Scopes,
		Observations: r.observe(inv.Server), Controls: append(r.controls(inv.Server), guards(r.Inventory.Controls(ctx))...)}
	f.Controls = append(f.Controls, r.jobs(ctx, clock)...)
	for _, t := range inv.Tables {
		f.Tables = append(f.Tables, reports.TableFacts{Name: t.Name, Declared: t.Declared, Undeclared: t.Undeclared, Uncounted: t.Uncounted, Rows: t.Rows, Undated: t.Undated, Oldest: t.Oldest, Newest: t.Newest, Due: t.Due, Unaged: t.Unaged})
	}
	for _, rule := range r.Policy.Sweeps {
		s, err := r.sweepFacts(ctx, rule, asOf)
		if err != nil {
			return reports.Facts{}, err
		}
		f.Sweeps = append(f.Sweeps, s)
	}
	open, err := r.Inventory.OpenFindings(ctx, asOf)
	if err != nil {
		return reports.Facts{}, err
	}
	for _, x := range open {
		f.OpenFindings = append(f.OpenFindings, reports.FindingFacts{ID: x.ID, Topic: topic(x), Kind: x.Kind, Table: x.Table, Column: x.Column, Ground: x.Ground, Count: x.Rows, OpenedAt: x.OpenedAt.UTC(), Known: x.Known})
	}
	if err := r.running(ctx, &f); err != nil {
		return reports.Facts{}, err
	}
	return f, r.lifecycleFacts(ctx, asOf, &f)
}

// topic is what a finding is about, by what the passes write.
func topic(x facts.Finding) reports.Topic {
	switch {
	case x.Kind == sweep.Minimisation && sweep.OfPayloads(x.Column):
		return reports.OfPayloads
	case x.Kind == sweep.Erasures && x.Table == sweep.OutboxTable:
		return reports.OfDeliveries
	}
	return ""
}

// lifecycleFacts are the requests, the holds, and what the newest pass of the orphan
// sweep counted.
func (r *Reporter) lifecycleFacts(ctx context.Context, asOf time.Time, f *reports.Facts) error {
	for _, s := range f.Sweeps {
		if s.Kind != sweep.Orphans || s.RunID == "" {
			continue
		}
		checks, err := r.Inventory.Checks(ctx, s.RunID)
		if err != nil {
			return err
		}
		for _, c := range checks {
			f.OrphanChecks = append(f.OrphanChecks, reports.CheckFacts{Table: c.Table, Column: c.Column, Disposition: c.Disposition, Ground: c.Ground, Rows: c.Rows, Predicate: c.Predicate, CheckedAt: c.CheckedAt.UTC()})
		}
	}
	list, more, err := r.Inventory.Requests(ctx, asOf)
	if err != nil {
		return err
	}
	f.RequestsLeftOut = more
	for _, q := range list {
		x := reports.RequestFacts{ID: q.ID, Ticket: q.Ticket, TenantID: q.TenantID, State: q.State, Open: lifecycle.RequestState(q.State).Open(), MovedAt: q.MovedAt.UTC(),
			Submitted: q.Submitted.UTC(), Received: q.Received.UTC(), Due: q.Due.UTC(), DeletedAt: q.DeletedAt, BackupsClear: q.BackupsClear, CertificateID: q.CertificateID}
		x.Overdue = x.Open && asOf.After(x.Due)
		answered := x.State != string(lifecycle.RequestCancelled) && x.State != string(lifecycle.RequestDuplicate)
		x.Late = x.Overdue || (!x.Open && answered && x.MovedAt.After(x.Due) && asOf.Sub(x.MovedAt) < reports.Lately)
		f.Requests = append(f.Requests, x)
	}
	sent, err := r.Inventory.Disclosures(ctx, asOf.Add(-reports.Lately), asOf)
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
	if n.Open, n.Late, err = r.Inventory.Notices(ctx, asOf, r.Policy.DeletionDeadline.Duration()); err != nil {
		return err
	}
	f.Notices = n
	if f.Unjudged, err = r.Inventory.Unjudged(ctx); err != nil {
		return err
	}
	unknown := &reports.UnknownFacts{}
	if unknown.Suspected, unknown.Late, err = r.Inventory.Suspected(ctx, asOf, r.Policy.Liveness.Notices()); err != nil {
		return err
	}
	f.Unknown = unknown
	if r.SwitchedOff != nil {
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
	}
	held, err := r.Inventory.Holds(ctx, asOf)
	for _, h := range held {
		f.Holds = append(f.Holds, reports.HoldFacts{ID: h.ID, TenantID: h.TenantID, Ground: h.Ground, Ticket: h.Ticket, PlacedAt: h.PlacedAt.UTC(), Until: h.Until.UTC()})
	}
	return err
}

func (r *Reporter) sweepFacts(ctx context.Context, rule policy.Sweep, asOf time.Time) (reports.SweepFacts, error) {
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
	s.Tables, s.Unjudged, s.Rows = sums.Checked, sums.Unjudged, sums.Rows
	return s, nil
}

// observe tells what the running service can see of each database store.
func (r *Reporter) observe(s facts.Server) []reports.Observation {
	var out []reports.Observation
	for _, st := range r.Policy.Stores {
		if st.Kind != "database" {
			continue
		}
		where, local := "unix socket: on the machine the service runs on", true
		if !s.UnixSocket {
			where, local = "TCP to "+s.Address, isLoopback(s.Address)
			if local {
				where = "TCP on the machine the service runs on"
			}
		}
		conflict := (st.Connection == "network" && local) || (st.Connection == "local" && !local)
		encrypted := "not encrypted (TLS off)"
		if s.TLS {
			encrypted = "encrypted (TLS)"
		} else if s.UnixSocket {
			encrypted = "does not leave the machine"
		}
		out = append(out,
			reports.Observation{Store: st.Name, What: "connection", Value: where, How: "asked of the database (inet_server_addr)", Conflict: conflict},
			reports.Observation{Store: st.Name, What: "connection's protection", Value: encrypted, How: "asked of the database (pg_stat_ssl)"},
			reports.Observation{Store: st.Name, What: "server", Value: "PostgreSQL " + s.Version, How: "asked of the database (server_version)"},
			reports.Observation{Store: st.Name, What: "page checksums", Value: onOff(s.DataChecksums), How: "asked of the database (data_checksums)"})
	}
	return out
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// controls are the self-checks a report shows.
func (r *Reporter) controls(s facts.Server) []reports.Control {
	state := func(ok bool) string {
		if ok {
			return "pass"
		}
		return "fail"
	}
	return []reports.Control{
		{ID: "proof-of-possession", Title: "A first install is accepted only after Bitbucket confirms the offered secret", State: state(!r.SkipProof), Detail: "TRAKR_DEV_SKIP_PROOF must be off"},
		{ID: "connection-protected", Title: "The connection to the database cannot be read on the way", State: state(s.TLS || s.UnixSocket || isLoopback(s.Address)), Detail: "unix socket, this machine, or TLS"},
		{ID: "page-checksums", Title: "The database notices damaged pages", State: state(s.DataChecksums), Detail: "data_checksums"},
	}
}

// jobs are the controls that each scheduled job runs in time. Their details hold no
// time, so that a report about a moment stays the same from one run to the next.
func (r *Reporter) jobs(ctx context.Context, now time.Time) []reports.Control {
	if len(r.Jobs) == 0 {
		return nil
	}
	beats, err := r.Heartbeats.List(ctx)
	out := make([]reports.Control, len(r.Jobs))
	for i, name := range r.Jobs {
		b := heartbeats.Find(beats, name)
		out[i] = reports.Control{ID: reports.JobControl + name, Title: "The scheduled job “" + name + "” runs in time", State: "pass", Detail: "succeeded within twice its interval"}
		switch {
		case err != nil || b.ExpectedSince.IsZero():
			out[i].State, out[i].Detail = "unknown", "no running service has scheduled it"
		case b.Overdue(now):
			out[i].State, out[i].Detail = "fail", "no success within twice its interval"
		}
	}
	return out
}

// GuardControl begins the ids of the controls that the database's own catalog shows.
const GuardControl = "guard: "

// guards are these controls.
func guards(found []guard.Control) []reports.Control {
	out := make([]reports.Control, 0, len(found))
	for _, c := range found {
		out = append(out, reports.Control{ID: GuardControl + c.ID, Title: "In the database: " + c.Name, State: string(c.State), Detail: c.Detail()})
	}
	return out
}

func isLoopback(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.IsLoopback()
}
