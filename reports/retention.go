package reports

import (
	"strings"
	"time"

	"trakr/policy"
)

// Retention builds the Retention Schedule and Execution Report: how long each
// class is kept, who makes that true, and what the database shows of it.
func Retention(p *policy.Policy, f Facts, version string) Document {
	d := newDocument("retention", "Retention Schedule and Execution Report", p, f, version)
	d.conclude(withinPeriods(p, f), erasedInTime(p, f), nothingRemains(f), sweepsRun(f))
	d.Sections = []Section{scheduleSection(p, f), execution(p, f), erasures(p, f), holdSection(f), sweepSection(f), findingSection(f), retained(p)}
	d.Notes = []string{
		"“Executed by” says what makes a period true: uninstall (the callback itself deletes), replay_guard (the running service removes what has expired every five minutes), canary (the running service replaces the row every ten minutes), retention (the sweep of that name, when it last ended without failing; what falls due between two of its passes is not late), operator (a command an operator runs, such as trakr audit expire, or a setting at the provider that this software does not verify), service_end (rows stay as long as the service: without them it cannot run, or its log not be proven).",
		"Deletion means that rows are gone from the live database. Backups end by the provider's rotation, as declared; the media they lie on are not attested to.",
		"A callback that never reached the service left no trace here: a missed uninstall is not in the number of erasures.",
		countNote, noValueNote,
	}
	return d
}

func classOf(p *policy.Policy, table string) (policy.Retention, bool) {
	t, _, ok := p.Table(table)
	if !ok {
		return policy.Retention{}, false
	}
	for _, r := range p.Retention {
		if r.Class == t.Class {
			return r, true
		}
	}
	return policy.Retention{}, false
}

// What age says of a table.
const (
	ageUndeclared = "not declared"
	ageUncounted  = "not counted"
	ageUnknown    = "age not known"
	ageExceeded   = "EXCEEDED"
)

// age judges one table: rows older than their period. A class of period zero
// counts from an event, not from the row, and is judged by the sweep instead. Rows
// that do not tell their age are at most as old as the log they lie beside.
func age(p *policy.Policy, f Facts, t TableFacts) string {
	r, ok := classOf(p, t.Name)
	switch {
	case !ok:
		return ageUndeclared
	case t.Uncounted != "":
		return ageUncounted
	case r.ExecutedBy == policy.ByServiceEnd:
		return "kept as long as the service"
	case r.Period.Duration() == 0:
		return "judged by the sweep"
	case t.Rows == 0:
		return "empty"
	case t.Due != nil && f.AsOf.Sub(*t.Due) > r.Period.Duration()+grace(f, r):
		return ageExceeded
	case t.Due != nil && f.AsOf.Sub(*t.Due) > r.Period.Duration():
		return "due at the next pass"
	case t.Unaged == 0 && (t.Due != nil || aged(p, t)):
		return "within"
	case f.Began != nil && f.AsOf.Sub(*f.Began) <= r.Period.Duration():
		return "within: not older than the log, begun " + stamp(f.Began)
	}
	return ageUnknown
}

// grace is how long a row may stay past its period: until the sweep that removes it
// has had its turn.
func grace(f Facts, r policy.Retention) time.Duration {
	for _, x := range f.Sweeps {
		if r.ExecutedBy == policy.ByRetention && x.Kind == policy.ByRetention {
			return 2 * x.Interval
		}
	}
	return 0
}

// aged reports whether rows without an age are those whose period has not begun.
func aged(p *policy.Policy, t TableFacts) bool {
	d, _, ok := p.Table(t.Name)
	return ok && d.AgeCol != ""
}

// withinPeriods fails on what is known to be too old before it says what is not known.
func withinPeriods(p *policy.Policy, f Facts) Statement {
	s := Statement{Text: "No table holds rows beyond their period", State: Holds, Why: "see Execution below."}
	for _, t := range f.Tables {
		switch a := age(p, f, t); {
		case a == ageExceeded:
			r, _ := classOf(p, t.Name)
			s.State, s.Why = Fails, t.Name+" holds a row of "+stamp(t.Due)+"; its period is "+r.Period.Human()+"."
			return s
		case a == ageUndeclared:
			s.State, s.Why = Fails, t.Name+" has no declared period."
			return s
		case (a == ageUncounted || a == ageUnknown) && s.State == Holds:
			s.State, s.Why = CannotTell, "of "+t.Name+": "+a+"."
		}
	}
	if len(f.Tables) == 0 {
		s.State, s.Why = CannotTell, "no table could be seen."
	}
	return s
}

// erasedInTime speaks of what the database knows: uninstalls that reached it.
func erasedInTime(p *policy.Policy, f Facts) Statement {
	limit := p.DeletionDeadline.Human()
	s := Statement{Text: "Every accepted uninstall was carried out within " + limit, State: Holds,
		Why: plural(f.Erasures.Total, "erasure", "erasures") + ", the longest took " + duration(f.Erasures.LongestLag) + "."}
	if f.Erasures.Total == 0 {
		s.Why = "no uninstall was accepted yet."
	}
	if f.Erasures.Late > 0 {
		s.State, s.Why = Fails, plural(f.Erasures.Late, "erasure", "erasures")+" took longer, or is not done."
	}
	if f.Erasures.Total != f.ErasedTenants {
		s.State, s.Why = Fails, plural(f.ErasedTenants, "tenant is", "tenants are")+" marked erased and "+plural(f.Erasures.Total, "tombstone exists", "tombstones exist")+"."
	}
	return s
}

func sweepsRun(f Facts) Statement {
	s := Statement{Text: "The checks of this report ran in time", State: Holds, Why: count(int64(len(f.Sweeps))) + " scheduled."}
	if len(f.Sweeps) == 0 {
		s.State, s.Why = CannotTell, "none is scheduled."
	}
	for _, x := range f.Sweeps {
		switch {
		case x.Result == "failed":
			s.State, s.Why = CannotTell, "the newest pass of "+x.Kind+" failed at "+stamp(x.FinishedAt)+"."
		case x.Overdue || x.RunID == "":
			s.State, s.Why = CannotTell, "the sweep "+x.Kind+" is overdue."
		}
	}
	for _, c := range f.Controls {
		if job, ok := strings.CutPrefix(c.ID, JobControl); ok && c.State != "pass" && s.State == Holds {
			s.State, s.Why = CannotTell, "the scheduled job "+job+" is overdue."
		}
	}
	return s
}

func duration(d time.Duration) string { return d.Round(time.Millisecond).String() }

func scheduleSection(p *policy.Policy, f Facts) Section {
	s := Section{ID: "schedule", Title: "Schedule", Intro: "Declared in the policy.", Columns: []Column{{Key: "class", Title: "Class"}, {Key: "retention_period", Title: "Period"},
		{Key: "iso_8601", Title: "ISO 8601"}, {Key: "starts", Title: "Counted from"}, {Key: "ground", Title: "Ground"}, {Key: "executed_by", Title: "Executed by"}}}
	for _, r := range p.Retention {
		s.Rows = append(s.Rows, []string{r.Class, r.Period.Human(), orDash(r.Period.String()), r.Starts, r.Ground, executedBy(f, r)})
	}
	return s
}

// executedBy names who makes a period true and, where that is a sweep, when it last did.
func executedBy(f Facts, r policy.Retention) string {
	if r.ExecutedBy != policy.ByRetention {
		return r.ExecutedBy
	}
	for _, x := range f.Sweeps {
		switch {
		case x.Kind != policy.ByRetention:
		case x.Succeeded == nil:
			return r.ExecutedBy + ": the sweep, which never ended"
		default:
			return r.ExecutedBy + ": the sweep, last at " + stamp(x.Succeeded)
		}
	}
	return r.ExecutedBy + ": the sweep, which is not scheduled"
}

func execution(p *policy.Policy, f Facts) Section {
	s := Section{ID: "execution", Title: "Execution", Intro: "Every table found, counted in one snapshot, against its period.", Columns: []Column{{Key: "table", Title: "Table"}, {Key: "class", Title: "Class"},
		{Key: "rows", Title: "Rows", Numeric: true}, {Key: "count_is_of", Title: "Count is of"}, {Key: "oldest", Title: "Oldest"}, {Key: "newest", Title: "Newest"}, {Key: "period", Title: "Against its period"}}}
	for _, t := range f.Tables {
		r, _ := classOf(p, t.Name)
		s.Rows = append(s.Rows, []string{t.Name, orDash(r.Class), rowsOf(t), countIsOf(p, t), stamp(t.Oldest), stamp(t.Newest), age(p, f, t)})
	}
	return s
}

func erasures(p *policy.Policy, f Facts) Section {
	e := f.Erasures
	clear := "–"
	if e.Newest != nil {
		t := e.Newest.Add(p.BackupWindow().Duration())
		clear = stamp(&t)
	}
	return Section{ID: "erasures", Title: "Erasures", Intro: "From the uninstall or request until gone from the live database, and until gone from every backup.", Columns: []Column{{Key: "measure", Title: "Measure"}, {Key: "value", Title: "Value"}},
		Rows: [][]string{{"live tenants", count(f.LiveTenants)}, {"erased tenants", count(f.ErasedTenants)}, {"erasures done", count(e.Total)}, {"erasures begun and not done", count(e.Open)},
			{"first erasure", stamp(e.Oldest)}, {"last erasure: gone from live stores", stamp(e.Newest)}, {"last erasure: gone from backups", clear},
			{"backups kept for", p.BackupWindow().Human()}, {"longest time to erase", duration(e.LongestLag)}, {"deadline", p.DeletionDeadline.Human()}, {"later than the deadline", count(e.Late)}}}
}

func sweepSection(f Facts) Section {
	s := Section{ID: "sweeps", Title: "Newest sweeps", Intro: "The newest pass of each kind that ended, and whether one that did not fail ended in time.", Columns: []Column{{Key: "kind", Title: "Kind"}, {Key: "evidence_ref", Title: "Run"}, {Key: "last_verified_at", Title: "Finished"},
		{Key: "result", Title: "Result"}, {Key: "columns_checked", Title: "Columns checked", Numeric: true}, {Key: "not_judged", Title: "Not judged", Numeric: true}, {Key: "rows_found", Title: "Rows found", Numeric: true}, {Key: "in_time", Title: "In time"}}}
	for _, x := range f.Sweeps {
		s.Rows = append(s.Rows, []string{x.Kind, orDash(x.RunID), stamp(x.FinishedAt), orDash(x.Result), count(x.Tables), count(x.Unjudged), count(x.Rows), yesNo(!x.Overdue)})
	}
	return s
}

func findingSection(f Facts) Section {
	s := Section{ID: "findings", Title: "Open findings", Columns: []Column{{Key: "finding", Title: "Finding"}, {Key: "kind", Title: "Sweep"}, {Key: "table", Title: "Table"},
		{Key: "column", Title: "Column"}, {Key: "what", Title: "What is wrong"}, {Key: "rows", Title: "Rows", Numeric: true}, {Key: "opened_at", Title: "Since"}, {Key: "acknowledged", Title: "Acknowledged"}}}
	for _, x := range f.OpenFindings {
		column, what, rows := x.Column, x.Ground, "not counted"
		if column == "" {
			column = "the whole table"
		}
		if what == "" {
			what = "rows of tenants no longer registered"
		}
		if x.Count != nil {
			rows = count(*x.Count)
		}
		s.Rows = append(s.Rows, []string{x.ID, x.Kind, x.Table, column, what, rows, stamp(&x.OpenedAt), yesNo(x.Known)})
	}
	return s
}

func retained(p *policy.Policy) Section {
	s := Section{ID: "retained", Title: "What outlives an erasure", Intro: "Declared, with its ground. None of it is a tenant value.", Columns: []Column{{Key: "table", Title: "Table or store"}, {Key: "what", Title: "What stays"}, {Key: "ground", Title: "Ground"}, {Key: "retention_period", Title: "Kept"}}}
	for _, k := range p.Outlives() {
		s.Rows = append(s.Rows, []string{k.Where, k.What, k.Ground, kept(p, k.Class)})
	}
	return s
}
