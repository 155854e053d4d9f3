package reports

import (
	"strings"

	"trakr/policy"
)

// canaryTable is where the orphan sweep's own orphan lies.
const canaryTable = "trakr.sweep_canaries"

// Attestation builds the Orphan Sweep Attestation: that the newest pass found no row
// of a tenant that is no longer registered, that it could see, and that it is watched.
func Attestation(p *policy.Policy, f Facts, version string) Document {
	d := newDocument("attestation", "Orphan Sweep Attestation", p, f, version)
	d.conclude(nothingRemains(f), canarySeen(f), sweepsRun(f), heartbeats(f))
	d.Sections = []Section{orphanChecks(f), sweepSection(f), jobSection(f), findingSection(f), holdSection(f)}
	d.Notes = []string{
		"A pass of the sweep counts, in one snapshot, in every table of the live catalog that has a column for a tenant, declared or not, the rows of tenants that are no longer registered. “Retained” rows are kept by policy, on the ground that stands beside them.",
		"The canary is a row of a tenant that never was, planted every ten minutes. A pass that does not see it is blind, and nothing is attested.",
		"“Predicate” is the SHA-256 of the SQL that counted. Jobs were asked of the running system when this report was made, also when it speaks about an earlier moment.",
		"A tenant under a legal hold keeps its values as long as the hold is in force: its erasure waits, and its rows are no orphans.",
		noValueNote,
	}
	return d
}

func canarySeen(f Facts) Statement {
	s := Statement{Text: "The newest pass proved that it sees: it counted its canary", State: CannotTell, Why: "blind: the newest pass did not look for it."}
	for _, c := range f.OrphanChecks {
		switch {
		case c.Table != canaryTable:
		case c.Disposition == "retained" && c.Rows > 0:
			s.State, s.Why = Holds, plural(c.Rows, "row", "rows")+" of "+canaryTable+", by the same SQL as any other."
		case c.Ground != "":
			s.Why = "blind: " + c.Ground + "."
		default:
			s.Why = "blind: it was not there."
		}
	}
	if len(f.OrphanChecks) == 0 {
		s.Why = "no pass has left its counts."
	}
	return s
}

// heartbeats: a scheduler that stands still makes every newest pass look fresh for a
// while; its own beats tell.
func heartbeats(f Facts) Statement {
	s := Statement{Text: "The scheduler is alive: each job succeeded within twice its interval", State: CannotTell, Why: "no running service has scheduled a job."}
	var jobs int64
	var late []string
	for _, c := range f.Controls {
		if job, ok := strings.CutPrefix(c.ID, JobControl); ok {
			if jobs++; c.State != "pass" {
				late = append(late, job)
			}
		}
	}
	switch {
	case late != nil:
		s.Why = "overdue: " + strings.Join(late, ", ") + "."
	case jobs > 0:
		s.State, s.Why = Holds, plural(jobs, "job", "jobs")+"."
	}
	return s
}

func orphanChecks(f Facts) Section {
	s := Section{ID: "newest_pass", Title: "Newest pass, table by table", Columns: []Column{{Key: "table", Title: "Table"}, {Key: "column", Title: "Column"}, {Key: "rows", Title: "Rows", Numeric: true},
		{Key: "disposition", Title: "Judgement"}, {Key: "ground", Title: "Ground"}, {Key: "last_verified_at", Title: "Counted"}, {Key: "predicate_digest", Title: "Predicate"}}}
	for _, x := range f.Sweeps {
		if x.Kind == "orphans" && x.RunID != "" {
			s.Intro = "Of the run " + x.RunID + ", which ended as " + x.Result + "."
		}
	}
	for _, c := range f.OrphanChecks {
		judged := c.Disposition
		if judged == "checked" && c.Rows == 0 {
			judged = "nothing remains"
		} else if judged == "checked" {
			judged = "REMAINS"
		}
		s.Rows = append(s.Rows, []string{c.Table, orDash(c.Column), count(c.Rows), judged, orDash(c.Ground), stamp(&c.CheckedAt), orDash(c.Predicate)})
	}
	return s
}

func jobSection(f Facts) Section {
	s := Section{ID: "jobs", Title: "Scheduled jobs", Columns: []Column{{Key: "job", Title: "Job"}, {Key: "state", Title: "State"}, {Key: "detail", Title: "Detail"}}}
	for _, c := range f.Controls {
		if job, ok := strings.CutPrefix(c.ID, JobControl); ok {
			s.Rows = append(s.Rows, []string{job, c.State, orDash(c.Detail)})
		}
	}
	return s
}
