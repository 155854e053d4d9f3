// Package drift compares what runs with what the policy declares: the tables and columns
// of the database, the scopes of the descriptor, the hosts of the configuration, the
// scheduled jobs, and the stored values of fields that are off. It is the only place that
// decides whether something is declared.
//
// Start-up and the sweep of that name use the same comparison, so neither can accept what
// the other finds. The package is pure: facts in, differences out.
package drift

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"trakr/internal/check"
	"trakr/internal/egress"
	"trakr/internal/lifecycle"
	"trakr/policy"
)

// Kind is the kind of thing that differs.
type Kind string

// The kinds.
const (
	Catalog  Kind = "catalog"  // a table or column
	Scope    Kind = "scope"    // a scope of the descriptor
	Host     Kind = "host"     // the host of a setting
	Schedule Kind = "schedule" // the schedule of a job
	Field    Kind = "field"    // a field that is off and has stored values
)

// Kinds lists them, in the order in which differences come.
func Kinds() []Kind { return []Kind{Catalog, Scope, Host, Schedule, Field} }

// Facts are what runs. A part that is nil was not observed and is not compared.
type Facts struct {
	Tables      map[string][]string       // columns of every table, by policy.TableName
	Scopes      []string                  // of the served descriptor
	Endpoints   []Endpoint                // of the settings
	Databases   []Database                // the hosts at which the database is reached
	Jobs        []Job                     // the scheduled jobs
	Sweeps      []string                  // the kinds of sweep of this version
	SwitchedOff map[lifecycle.Field]int64 // stored values of each field that is off
}

// Endpoint is an address that a setting names.
type Endpoint struct {
	Setting string // e.g. "TRAKR_WEBHOOK_URL"
	To      lifecycle.Destination
	Address string // the URL, of which only the host is ever reported
}

// Database is a host that a database is reached at, as the setting resolves.
type Database struct {
	Setting string // e.g. "TRAKR_DATABASE_URL"
	Host    string // "" for a unix socket of this machine
}

// Job is one scheduled job.
type Job struct{ Name, Schedule string }

// Difference is one thing that differs from its declaration.
type Difference struct {
	Kind    Kind
	Subject string // e.g. "trakr.tenants", "webhook", "TRAKR_WEBHOOK_URL", "sweep orphans", "username"
	Part    string // of a table: the column; else ""
	What    string // e.g. "the policy does not declare this column"
	WayOut  string
	Rows    int64 // values held; else 0
	// Refuses is whether the service refuses to start. A declared thing that is missing,
	// and values that are yet to be removed, are only findings.
	Refuses bool
}

// Name returns the subject with its part: "trakr.tenants.email".
func (d Difference) Name() string {
	if d.Part != "" {
		return d.Subject + "." + d.Part
	}
	return d.Subject
}

// String returns the difference with the way out.
func (d Difference) String() string {
	return string(d.Kind) + " " + d.Name() + ": " + d.What + ". Way out: " + d.WayOut
}

// Result returns the difference as a failed check, with the id "drift." and the kind.
func (d Difference) Result() check.Result {
	return check.Result{ID: "drift." + string(d.Kind), Title: title, State: check.Fail, Evidence: d.String()}
}

// title is what is true without a difference.
const title = "what runs is what the policy declares"

// Results returns one failed check for each difference, or one that passes without any.
func Results(found []Difference) []check.Result {
	if len(found) == 0 {
		return []check.Result{{ID: "drift.none", Title: title, State: check.Pass}}
	}
	out := make([]check.Result, len(found))
	for i, d := range found {
		out[i] = d.Result()
	}
	return out
}

// Undetermined returns the check of a comparison whose facts could not be read.
func Undetermined(err error) check.Result {
	return check.Result{ID: "drift.none", Title: title, State: check.Unknown, Evidence: err.Error()}
}

// Compare returns every difference, in a fixed order.
func Compare(p *policy.Policy, f Facts) []Difference {
	out := catalog(p, f.Tables)
	out = append(out, scopes(p, f.Scopes)...)
	out = append(out, hosts(p, f)...)
	out = append(out, schedules(p, f.Jobs)...)
	out = append(out, sweeps(p, f.Sweeps)...)
	return append(out, switchedOff(p, f.SwitchedOff)...)
}

// Refusal is the reason not to start, or nil.
func Refusal(p *policy.Policy, found []Difference) error {
	var lines []string
	for _, d := range found {
		if d.Refuses {
			lines = append(lines, "  "+d.String())
		}
	}
	if lines == nil {
		return nil
	}
	return fmt.Errorf("the service is not what its policy says (SHA-256 %s), so nothing is served:\n%s",
		p.Hash(), strings.Join(lines, "\n"))
}

func catalog(p *policy.Policy, tables map[string][]string) []Difference {
	if tables == nil {
		return nil
	}
	const missing = "bring the database to this version (trakr migrate), or drop it from the policy"
	declared := Declared(p)
	var out []Difference
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		t := declared.Table(name)
		if !t.Declared {
			out = append(out, Difference{Kind: Catalog, Subject: name, Refuses: true, What: UndeclaredTable,
				WayOut: "declare it under stores, with every column and what it contains, or drop the table"})
			continue
		}
		for _, c := range t.Undeclared(slices.Sorted(slices.Values(tables[name]))) {
			out = append(out, Difference{Kind: Catalog, Subject: name, Part: c, Refuses: true, What: UndeclaredColumn,
				WayOut: "declare it among the table's columns, or drop the column"})
		}
		for _, c := range t.Columns {
			if !slices.Contains(tables[name], c) {
				out = append(out, Difference{Kind: Catalog, Subject: name, Part: c, WayOut: missing,
					What: "the policy declares this column, and it is not there"})
			}
		}
	}
	for _, s := range p.Stores {
		for _, t := range s.Tables {
			if _, there := tables[t.Name]; !there {
				out = append(out, Difference{Kind: Catalog, Subject: t.Name, WayOut: missing,
					What: "the policy declares this table, and it is not there"})
			}
		}
	}
	return out
}

func scopes(p *policy.Policy, asked []string) []Difference {
	if asked == nil {
		return nil
	}
	var out []Difference
	for _, s := range asked {
		if !slices.ContainsFunc(p.App.Scopes, func(x policy.Scope) bool { return x.Name == s }) {
			out = append(out, Difference{Kind: Scope, Subject: s, Refuses: true,
				What:   "the descriptor asks for this scope, and the policy does not declare it",
				WayOut: "declare it under app.scopes with the call that needs it, or do not ask for it"})
		}
	}
	for _, s := range p.App.Scopes {
		if !slices.Contains(asked, s.Name) {
			out = append(out, Difference{Kind: Scope, Subject: s.Name, Refuses: true,
				What:   "the policy declares this scope, and the descriptor does not ask for it",
				WayOut: "drop it from app.scopes: no more is asked for than is needed"})
		}
	}
	return out
}

// hosts compares the hosts of the settings. A setting with several hosts, or with other
// hosts on other replicas, is one difference.
func hosts(p *policy.Policy, f Facts) []Difference {
	var out []Difference
	differs := func(d Difference) {
		i := slices.IndexFunc(out, func(x Difference) bool { return x.Subject == d.Subject })
		switch {
		case i < 0:
			out = append(out, d)
		case !strings.Contains(out[i].What, d.What):
			out[i].What += "; " + d.What
		}
	}
	for _, e := range f.Endpoints {
		if err := egress.Host(p, e.To, e.Address); err != nil {
			differs(Difference{Kind: Host, Subject: e.Setting, Refuses: true, What: err.Error(),
				WayOut: "declare the host under egress, to: " + string(e.To) + ", with what goes there, or unset " + e.Setting})
		}
	}
	for _, e := range f.Databases {
		if !DeclaredDatabaseHost(p, e.Host) {
			differs(Difference{Kind: Host, Subject: e.Setting, Refuses: true,
				What: "the policy does not declare the host " + policy.HostName(e.Host) + " for any database, so its place is not known",
				WayOut: "declare the store as it is, with its place and its hosts, or correct " + e.Setting +
					" and what completes it (PGHOST, PGSERVICE)"})
		}
	}
	return out
}

// SweepJob begins the name of the job that runs a sweep.
const SweepJob = "sweep "

// schedules compares what is scheduled with the policy's sweeps and jobs.
func schedules(p *policy.Policy, jobs []Job) []Difference {
	if jobs == nil {
		return nil
	}
	declared := map[string]string{}
	for _, s := range p.Sweeps {
		declared[SweepJob+s.Kind] = s.Schedule
	}
	for _, j := range p.Jobs {
		declared[j.Name] = j.Schedule
	}
	var out []Difference
	differs := func(name, what, wayOut string) {
		out = append(out, Difference{Kind: Schedule, Subject: name, Refuses: true, What: what, WayOut: wayOut})
	}
	running := map[string]bool{}
	for _, j := range jobs {
		running[j.Name] = true
		switch at, ok := declared[j.Name]; {
		case !ok:
			differs(j.Name, "it is scheduled, and the policy does not declare it", "declare it under sweeps or jobs with what it does")
		case at != j.Schedule:
			differs(j.Name, fmt.Sprintf("it is scheduled at %q, and the policy declares %q", j.Schedule, at),
				"declare in the policy when it runs")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		if !running[name] {
			differs(name, "the policy promises that it runs, and it is not scheduled",
				"run the version that has it, or drop it from the policy")
		}
	}
	return out
}

// sweeps compares this version's kinds of sweep with those that the policy schedules.
func sweeps(p *policy.Policy, kinds []string) []Difference {
	if kinds == nil {
		return nil
	}
	var out []Difference
	for _, k := range kinds {
		if _, ok := p.Sweep(k); !ok {
			out = append(out, Difference{Kind: Schedule, Subject: SweepJob + k, Refuses: true,
				What:   "the policy gives it no schedule, so it would never run",
				WayOut: "give it a schedule and a timeout under sweeps"})
		}
	}
	for _, s := range p.Sweeps {
		if !slices.Contains(kinds, s.Kind) {
			out = append(out, Difference{Kind: Schedule, Subject: SweepJob + s.Kind, Refuses: true,
				What:   "the policy promises this sweep, and this version has none of the kind",
				WayOut: "run the version that has it, or drop it from the policy"})
		}
	}
	return out
}

func switchedOff(p *policy.Policy, values map[lifecycle.Field]int64) []Difference {
	var out []Difference
	for _, f := range slices.Sorted(maps.Keys(values)) {
		if n := values[f]; n > 0 && !p.Keeps(f) {
			out = append(out, Difference{Kind: Field, Subject: string(f), Rows: n,
				What: "the policy switches it off, and values of it are still stored",
				WayOut: "the retention sweep removes them tonight; at once: " +
					"trakr sweep run retention --dry-run=false --reason-ref TICKET. Under a legal hold they stay until it ends"})
		}
	}
	return out
}
