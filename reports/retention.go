package reports

import (
	"time"

	"trakr/internal/check"
	"trakr/policy"
)

// Retention builds the Retention Schedule and Execution Report: how long each class is
// kept, what carries that out, and what the database shows of it.
func Retention(p *policy.Policy, f Facts, version string) Document {
	d := newDocument(p, f, version, withinPeriods(p, f), erasedInTime(p, f), nothingRemains(f), sweepsRun(f))
	d.Kind, d.Title = "retention", "Retention Schedule and Execution Report"
	d.Sections = []Section{
		scheduleSection(p, f), execution(p, f), erasures(p, f), holdSection(f), sweepSection(f), findingSection(f), retained(p),
	}
	d.Notes = []string{
		"“Executed by” names what carries a period out: uninstall (the callback itself deletes), replay_guard (the running " +
			"service removes what has " +
			"expired every five minutes), canary (the running service replaces the row every ten minutes), retention (the sweep " +
			"of that name, when it " +
			"last ended without failing; what falls due between two of its passes is not late), operator (a command that an " +
			"operator runs, such as " +
			"trakr audit expire, or a setting at the provider that this software does not verify), service_end (rows are kept as " +
			"long as the service: " +
			"without them it cannot run, or its log cannot be proven).",
		"Deletion means that rows are deleted from the live database. Backups end by the provider's rotation, as declared; " +
			"nothing is attested about the media they are on.",
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

// Results of age.
const (
	ageUndeclared = "not declared"
	ageUncounted  = "not counted"
	ageUnknown    = "age not known"
	ageExceeded   = "EXCEEDED"
)

// age compares the rows of one table with their period. A class of period zero counts
// from an event, not from the row, so the sweep checks it instead. Rows without a recorded
// age are at most as old as the log they are stored beside.
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
		return "checked by the sweep"
	case t.Rows == 0:
		return "empty"
	case t.Due != nil && f.AsOf.Sub(*t.Due) > r.Period.Duration()+grace(f, r):
		return ageExceeded
	case t.Due != nil && f.AsOf.Sub(*t.Due) > r.Period.Duration():
		return "due at the next pass"
	case t.Unaged == 0 && (t.Due != nil || hasAge(p, t)):
		return "within"
	case f.Began != nil && f.AsOf.Sub(*f.Began) <= r.Period.Duration():
		return "within: not older than the log, begun " + stamp(f.Began)
	}
	return ageUnknown
}

// grace is how long a row may stay past its period: until the sweep that removes it has
// run.
func grace(f Facts, r policy.Retention) time.Duration {
	for _, x := range f.Sweeps {
		if r.ExecutedBy == policy.ByRetention && x.Kind == policy.ByRetention {
			return 2 * x.Interval
		}
	}
	return 0
}

// hasAge reports whether a table has a column of its own for the age of its rows. Rows
// without a value in it are those whose period has not begun.
func hasAge(p *policy.Policy, t TableFacts) bool {
	d, _, ok := p.Table(t.Name)
	return ok && d.AgeCol != ""
}

// withinPeriods reports what is known to be too old before what is not known.
func withinPeriods(p *policy.Policy, f Facts) check.Result {
	out := check.Result{
		ID: "retention.within-periods", Title: "No table contains rows beyond their period", State: check.Pass, Evidence: "see " +
			"Execution below.",
	}
	for _, t := range f.Tables {
		switch a := age(p, f, t); {
		case a == ageExceeded:
			r, _ := classOf(p, t.Name)
			out.State = check.Fail
			out.Evidence = t.Name + " contains a row of " + stamp(t.Due) + "; its period is " + r.Period.Human() + "."
			return out
		case a == ageUndeclared:
			out.State, out.Evidence = check.Fail, t.Name+" has no declared period."
			return out
		case (a == ageUncounted || a == ageUnknown) && out.State == check.Pass:
			out.State, out.Evidence = check.Unknown, "of "+t.Name+": "+a+"."
		}
	}
	if len(f.Tables) == 0 {
		out.State, out.Evidence = check.Unknown, "no table could be seen."
	}
	return out
}

// erasedInTime covers what the database records: uninstalls that reached it.
func erasedInTime(p *policy.Policy, f Facts) check.Result {
	r := check.Result{
		ID: "erasures.in-time", Title: "Every accepted uninstall was carried out within " + p.DeletionDeadline.Human(), State: check.Pass,
		Evidence: plural(f.Erasures.Total, "erasure", "erasures") + ", the longest took " + duration(f.Erasures.LongestLag) + ".",
	}
	if f.Erasures.Total == 0 {
		r.Evidence = "no uninstall was accepted yet."
	}
	if f.Erasures.Late > 0 {
		r.State, r.Evidence = check.Fail, plural(f.Erasures.Late, "erasure", "erasures")+" took longer, or is not done."
	}
	if f.Erasures.Total != f.ErasedTenants {
		r.State = check.Fail
		r.Evidence = plural(f.ErasedTenants, "tenant is", "tenants are") + " marked erased and " +
			plural(f.Erasures.Total, "tombstone exists", "tombstones exist") + "."
	}
	return r
}

func sweepsRun(f Facts) check.Result {
	r := check.Result{
		ID: "sweeps.in-time", Title: "The sweeps that this report rests on ran in time", State: check.Pass,
		Evidence: count(int64(len(f.Sweeps))) + " scheduled.",
	}
	if len(f.Sweeps) == 0 {
		r.State, r.Evidence = check.Unknown, "none is scheduled."
	}
	for _, x := range f.Sweeps {
		switch {
		case x.Result == "failed":
			r.State, r.Evidence = check.Unknown, "the newest pass of "+x.Kind+" failed at "+stamp(x.FinishedAt)+"."
		case x.Overdue || x.RunID == "":
			r.State, r.Evidence = check.Unknown, "the sweep "+x.Kind+" is overdue."
		}
	}
	for _, j := range f.Jobs {
		if j.State != check.Pass && r.State == check.Pass {
			r.State, r.Evidence = check.Unknown, "the scheduled job "+j.Name+" is overdue."
		}
	}
	return r
}

func duration(d time.Duration) string { return d.Round(time.Millisecond).String() }

func scheduleSection(p *policy.Policy, f Facts) Section {
	s := Section{ID: "schedule", Title: "Schedule", Intro: "Declared in the policy.", Columns: []Column{
		{Key: "class", Title: "Class"}, {Key: "retention_period", Title: "Period"}, {Key: "iso_8601", Title: "ISO 8601"},
		{Key: "starts", Title: "Counted from"}, {Key: "ground", Title: "Ground"}, {Key: "executed_by", Title: "Executed by"},
	}}
	for _, r := range p.Retention {
		s.Rows = append(s.Rows, []string{r.Class, r.Period.Human(), orDash(r.Period.String()), r.Starts, r.Ground, executedBy(f, r)})
	}
	return s
}

// executedBy names what carries a period out and, where that is a sweep, when it last ran.
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
	s := Section{
		ID: "execution", Title: "Execution", Intro: "Every table found, counted in one snapshot, against its period.",
		Columns: []Column{
			{Key: "table", Title: "Table"}, {Key: "class", Title: "Class"}, {Key: "rows", Title: "Rows", Numeric: true},
			{Key: "count_is_of", Title: "Count is of"}, {Key: "oldest", Title: "Oldest"}, {Key: "newest", Title: "Newest"},
			{Key: "period", Title: "Against its period"},
		},
	}
	for _, t := range f.Tables {
		r, _ := classOf(p, t.Name)
		s.Rows = append(s.Rows, []string{
			t.Name, orDash(r.Class), rowsOf(t), countIsOf(p, t), stamp(t.Oldest), stamp(t.Newest), age(p, f, t),
		})
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
	return Section{
		ID: "erasures", Title: "Erasures",
		Intro:   "From the uninstall or request to deletion from the live database, and to deletion from every backup.",
		Columns: measures,
		Rows: [][]string{
			{"live tenants", count(f.LiveTenants)}, {"erased tenants", count(f.ErasedTenants)},
			{"erasures done", count(e.Total)}, {"erasures begun and not done", count(e.Open)},
			{"first erasure", stamp(e.Oldest)}, {"last erasure: deleted from live stores", stamp(e.Newest)},
			{"last erasure: deleted from backups", clear}, {"backups kept for", p.BackupWindow().Human()},
			{"longest time to erase", duration(e.LongestLag)}, {"deadline", p.DeletionDeadline.Human()},
			{"later than the deadline", count(e.Late)},
		},
	}
}

func sweepSection(f Facts) Section {
	s := Section{
		ID: "sweeps", Title: "Newest sweeps",
		Intro: "The newest pass of each kind that ended, and whether one that did not fail ended in time.",
		Columns: []Column{
			{Key: "kind", Title: "Kind"}, {Key: "evidence_ref", Title: "Run"}, {Key: "last_verified_at", Title: "Finished"},
			{Key: "result", Title: "Result"}, {Key: "columns_checked", Title: "Columns checked", Numeric: true},
			{Key: "not_judged", Title: "Could not be checked", Numeric: true}, {Key: "rows_found", Title: "Rows found", Numeric: true},
			{Key: "in_time", Title: "In time"},
		},
	}
	for _, x := range f.Sweeps {
		s.Rows = append(s.Rows, []string{
			x.Kind, orDash(x.RunID), stamp(x.FinishedAt), orDash(x.Result), count(x.Tables), count(x.Unchecked), count(x.Rows),
			yesNo(!x.Overdue),
		})
	}
	return s
}

func findingSection(f Facts) Section {
	s := Section{ID: "findings", Title: "Open findings", Columns: []Column{
		{Key: "finding", Title: "Finding"}, {Key: "kind", Title: "Sweep"}, {Key: "table", Title: "Table"}, {Key: "column", Title: "Column"},
		{Key: "what", Title: "What is wrong"}, {Key: "rows", Title: "Rows", Numeric: true}, {Key: "opened_at", Title: "Since"},
		{Key: "acknowledged", Title: "Acknowledged"},
	}}
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
		s.Rows = append(s.Rows, []string{x.ID, x.Kind, x.Table, column, what, rows, stamp(&x.OpenedAt), yesNo(x.Acknowledged)})
	}
	return s
}

func retained(p *policy.Policy) Section {
	s := Section{
		ID: "retained", Title: "What is kept after an erasure",
		Intro: "Declared, with the ground because of which it is kept. None of it is a value of the tenant.",
		Columns: []Column{
			{Key: "table", Title: "Table or store"}, {Key: "what", Title: "What is kept"}, {Key: "ground", Title: "Kept because of"},
			{Key: "retention_period", Title: "Kept"},
		},
	}
	for _, k := range p.Outlives() {
		s.Rows = append(s.Rows, []string{k.Where, k.What, k.Ground, kept(p, k.Class)})
	}
	return s
}
