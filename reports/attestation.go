package reports

import (
	"strings"

	"trakr/internal/check"
	"trakr/policy"
)

// canaryTable contains the orphan sweep's canary, a planted orphan.
const canaryTable = "trakr.sweep_canaries"

// Attestation builds the Orphan Sweep Attestation: that the newest pass found no row of a
// tenant that is no longer registered, that it could see, and that it is monitored.
func Attestation(p *policy.Policy, f Facts, version string) Document {
	d := newDocument(p, f, version, nothingRemains(f), canarySeen(f), sweepsRun(f), jobsRun(f))
	d.Kind, d.Title = "attestation", "Orphan Sweep Attestation"
	d.Sections = []Section{orphanChecks(f), sweepSection(f), jobSection(f), findingSection(f), holdSection(f)}
	d.Notes = []string{
		"A pass of the sweep counts, in one snapshot, the rows of tenants that are no longer registered, in every table of the " +
			"live catalog " +
			"that has a column for a tenant, declared or not. “Retained” rows are kept because of the ground beside them, which " +
			"the policy declares.",
		"The canary is a row of a tenant that never existed, planted every ten minutes. A pass that does not find it is blind, " +
			"and nothing is attested.",
		"“Predicate” is the SHA-256 of the SQL that counted. The states of the jobs are those when this report was made, " +
			"even when the report is about an earlier moment.",
		"The values of a tenant under a legal hold are kept as long as the hold is in force: its erasure waits, and its rows are " +
			"not orphans.",
		noValueNote,
	}
	return d
}

func canarySeen(f Facts) check.Result {
	r := check.Result{
		ID: "orphans.canary", Title: "The newest pass proved that it can see: it found its canary", State: check.Unknown,
		Evidence: "blind: the newest pass did not look for it.",
	}
	for _, c := range f.OrphanChecks {
		switch {
		case c.Table != canaryTable:
		case c.Disposition == "retained" && c.Rows > 0:
			r.State, r.Evidence = check.Pass, plural(c.Rows, "row", "rows")+" of "+canaryTable+", found by the same SQL as any other row."
		case c.Ground != "":
			r.Evidence = "blind: " + c.Ground + "."
		default:
			r.Evidence = "blind: it was not there."
		}
	}
	if len(f.OrphanChecks) == 0 {
		r.Evidence = "no pass has recorded its counts."
	}
	return r
}

// jobsRun checks the scheduler's own heartbeats: when it stops, every newest pass still
// looks recent for a while.
func jobsRun(f Facts) check.Result {
	r := check.Result{
		ID: "jobs.in-time", Title: "The scheduler runs: each job succeeded within twice its interval", State: check.Unknown,
		Evidence: "no running service has scheduled a job.",
	}
	var late []string
	for _, j := range f.Jobs {
		if j.State != check.Pass {
			late = append(late, j.Name)
		}
	}
	switch {
	case late != nil:
		r.Evidence = "overdue: " + strings.Join(late, ", ") + "."
	case len(f.Jobs) > 0:
		r.State, r.Evidence = check.Pass, plural(int64(len(f.Jobs)), "job", "jobs")+"."
	}
	return r
}

func orphanChecks(f Facts) Section {
	s := Section{ID: "newest_pass", Title: "Newest pass, table by table", Columns: []Column{
		{Key: "table", Title: "Table"}, {Key: "column", Title: "Column"}, {Key: "rows", Title: "Rows", Numeric: true},
		{Key: "disposition", Title: "Result"}, {Key: "ground", Title: "Ground"}, {Key: "last_verified_at", Title: "Counted"},
		{Key: "predicate_digest", Title: "Predicate"},
	}}
	for _, x := range f.Sweeps {
		if x.Kind == "orphans" && x.RunID != "" {
			s.Intro = "Of the run " + x.RunID + ", which ended as " + x.Result + "."
		}
	}
	for _, c := range f.OrphanChecks {
		result := c.Disposition
		if result == "checked" && c.Rows == 0 {
			result = "nothing remains"
		} else if result == "checked" {
			result = "REMAINS"
		}
		s.Rows = append(s.Rows, []string{
			c.Table, orDash(c.Column), count(c.Rows), result, orDash(c.Ground), stamp(&c.CheckedAt), orDash(c.Predicate),
		})
	}
	return s
}

func jobSection(f Facts) Section {
	s := Section{ID: "jobs", Title: "Scheduled jobs", Columns: []Column{
		{Key: "job", Title: "Job"}, {Key: "state", Title: "State"}, {Key: "detail", Title: "Detail"},
	}}
	for _, j := range f.Jobs {
		s.Rows = append(s.Rows, []string{j.Name, string(j.State), orDash(j.Detail())})
	}
	return s
}
