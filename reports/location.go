package reports

import (
	"strings"

	"trakr/policy"
)

// Location builds the Data Location Statement: where each store lies by
// declaration, what the running system could observe, and what lies there.
func Location(p *policy.Policy, f Facts, version string) Document {
	d := newDocument("location", "Data Location Statement", p, f, version)
	d.conclude(declaredTables(p, f), observedAgrees(p, f), noUndeclaredPlace(p), nothingRemains(f), nothingElseFound(f), controlsPass(f))
	d.Sections = []Section{stores(p), fields(p), observations(p, f), tables(p, f), controls(f), subProcessors(p), personalData(p)}
	d.Notes = []string{
		"“Declared” comes from the policy file whose SHA-256 stands below. “Observed” and “Controls” were asked of the running system when this report was made, also when it speaks about an earlier moment.",
		"City and region of a store are declared by the vendor and its contract with the provider, and only of the database a region is observed: where the provider gives its host a name with the region in it. Software cannot prove where a disk stands, and this report does not claim to.",
		countNote, noValueNote,
	}
	return d
}

// Notes that both reports carry.
const (
	countNote   = "“Count is of” tells what a number means for the moment this report speaks about. “All by then”: every row recorded by then; rows of this table are not deleted. “Those left”: rows recorded by then that were still there when the report was made; rows of this table are deleted when their time has come, so how many there once were cannot be told. “When made”: rows of this table do not tell when they were recorded, so they were counted when the report was made, also for an earlier moment."
	noValueNote = "No tenant value stands in this report, and none was read to make it."
)

func declaredTables(p *policy.Policy, f Facts) Statement {
	s := Statement{Text: "Every table and column in the database is declared in the policy", State: Holds, Why: count(int64(len(f.Tables))) + " tables found, all declared."}
	found := map[string]bool{}
	var extra, missing []string
	for _, t := range f.Tables {
		found[t.Name] = true
		if !t.Declared {
			extra = append(extra, t.Name)
		}
		for _, c := range t.Undeclared {
			extra = append(extra, t.Name+"."+c)
		}
	}
	for _, st := range p.Stores {
		for _, t := range st.Tables {
			if !found[t.Name] {
				missing = append(missing, t.Name)
			}
		}
	}
	switch {
	case len(f.Tables) == 0:
		s.State, s.Why = CannotTell, "no table could be seen."
	case extra != nil:
		s.State, s.Why = Fails, "not declared: "+strings.Join(extra, ", ")+"."
	case missing != nil:
		s.State, s.Why = CannotTell, "declared and not found: "+strings.Join(missing, ", ")+"."
	}
	return s
}

func noUndeclaredPlace(p *policy.Policy) Statement {
	places := map[string]bool{}
	var list []string
	for _, s := range p.Stores {
		place := s.City + ", " + s.Country + " (" + s.Provider + ")"
		if s.HoldsFields && !places[place] {
			places[place] = true
			list = append(list, place)
		}
	}
	s := Statement{Text: "Tenant values are declared to lie in one place only", State: Holds, Why: strings.Join(list, "; ") + "."}
	if len(list) != 1 {
		s.State = Fails
	}
	return s
}

// nothingRemains judges the newest orphan sweep. One that is overdue, failed or
// never ran proves nothing, and neither does an older one before it.
func nothingRemains(f Facts) Statement {
	s := Statement{Text: "No row of a tenant that is no longer registered remains", State: CannotTell, Why: "the sweep that checks this is not scheduled."}
	for _, x := range f.Sweeps {
		if x.Kind != "orphans" {
			continue
		}
		switch {
		case x.RunID == "":
			s.Why = "the sweep never finished."
		case x.Rows > 0:
			s.State, s.Why = Fails, count(x.Rows)+" rows found by sweep "+x.RunID+" at "+stamp(x.FinishedAt)+"."
		case x.Result == "failed":
			s.Why = "the newest sweep (" + x.RunID + ") failed at " + stamp(x.FinishedAt) + "; the last one that did not finished at " + stamp(x.Succeeded) + "."
		case x.Unjudged > 0:
			s.Why = "the newest sweep (" + x.RunID + ") could not judge " + plural(x.Unjudged, "table or column", "tables or columns") + undeclared(f) + "."
		case x.Result != "clean":
			s.Why = "the newest sweep (" + x.RunID + ") ended as " + x.Result + "."
		case x.Overdue:
			s.Why = "the sweep is overdue: it last finished at " + stamp(x.FinishedAt) + " and runs every " + x.Interval.String() + "."
		default:
			s.State, s.Why = Holds, "sweep "+x.RunID+" at "+stamp(x.FinishedAt)+" checked "+plural(x.Tables, "column", "columns")+" and found 0 rows."
		}
	}
	if n := found(f, FindingFacts.aboutRows); s.State == Holds && n > 0 {
		s.State, s.Why = Fails, plural(n, "finding is", "findings are")+" open."
	}
	return s
}

// aboutRows reports whether a finding is of rows that should be gone.
func (x FindingFacts) aboutRows() bool {
	return x.Kind == "orphans" || (x.Kind == "erasures" && x.Topic != OfDeliveries)
}

// found counts the open findings of some kind.
func found(f Facts, of func(FindingFacts) bool) (n int64) {
	for _, x := range f.OpenFindings {
		if of(x) {
			n++
		}
	}
	return n
}

// nothingElseFound speaks of the checks that look for something else than rows.
func nothingElseFound(f Facts) Statement {
	s := Statement{Text: "No check of the service has an open finding of another kind", State: Holds, Why: "none is open."}
	if n := found(f, func(x FindingFacts) bool { return !x.aboutRows() }); n > 0 {
		s.State, s.Why = Fails, plural(n, "finding is", "findings are")+" open; the retention report lists them."
	}
	return s
}

// undeclared names what the open findings say is not declared.
func undeclared(f Facts) string {
	var names []string
	for _, x := range f.OpenFindings {
		if x.Ground != "" && x.Kind == "orphans" {
			names = append(names, place(x))
		}
	}
	if names == nil {
		return ""
	}
	return "; not declared: " + strings.Join(names, ", ")
}

func place(x FindingFacts) string {
	if x.Column == "" {
		return x.Table
	}
	return x.Table + "." + x.Column
}

func controlsPass(f Facts) Statement {
	s := Statement{Text: "The controls this rests on are in force", State: Holds, Why: count(int64(len(f.Controls))) + " checked."}
	if len(f.Controls) == 0 {
		s.State, s.Why = CannotTell, "none could be checked."
	}
	for _, c := range f.Controls {
		if c.State == "fail" {
			s.State, s.Why = Fails, c.Title+": fails ("+c.Detail+")."
			return s
		}
		if c.State != "pass" {
			s.State, s.Why = CannotTell, c.Title+": unknown."
		}
	}
	return s
}

func stores(p *policy.Policy) Section {
	s := Section{ID: "stores", Title: "Stores", Intro: "Declared by the vendor.", Columns: []Column{{Key: "store", Title: "Store"}, {Key: "purpose", Title: "Purpose"},
		{Key: "provider", Title: "Provider"}, {Key: "storage_city", Title: "City"}, {Key: "storage_region", Title: "Region"}, {Key: "storage_country", Title: "Country"},
		{Key: "holds_tenant_values", Title: "Tenant values"}, {Key: "security_measures", Title: "Encryption"}, {Key: "retention_period", Title: "Kept"}}}
	for _, x := range p.Stores {
		s.Rows = append(s.Rows, []string{x.Name, x.Purpose, x.Provider + ", " + x.Product, x.City, x.Region, x.Country, yesNo(x.HoldsFields), x.Encryption, lasts(p, x)})
	}
	return s
}

// lasts says how long what is in a store is kept.
func lasts(p *policy.Policy, s policy.Store) string {
	switch {
	case len(s.Tables) > 0:
		return "by table, see Tables"
	case s.Kind == policy.StoreReplica:
		return "as in the database"
	}
	return kept(p, s.Retention)
}

func fields(p *policy.Policy) Section {
	s := Section{ID: "fields", Title: "What is kept of a tenant", Intro: "These fields and no others; each is encrypted before it is stored. One that is switched off is not stored at all.", Columns: []Column{{Key: "field", Title: "Field"},
		{Key: "data_categories", Title: "Category"}, {Key: "data_use", Title: "Used for"}, {Key: "store", Title: "Store"}, {Key: "readers", Title: "May be read by"}, {Key: "retention_period", Title: "Kept"}}}
	for _, x := range p.Fields {
		readers := make([]string, len(x.Readers))
		for i, r := range x.Readers {
			readers[i] = string(r)
		}
		who := strings.Join(readers, ", ")
		if x.Credential {
			who = "nobody (credential)"
		}
		if x.Off {
			s.Rows = append(s.Rows, []string{string(x.Name), x.Category, "–", "none", "nobody", "not kept: switched off"})
			continue
		}
		s.Rows = append(s.Rows, []string{string(x.Name), x.Category, x.Purpose, x.Store, orDash(who), kept(p, x.Retention)})
	}
	return s
}

// kept says how long a class is kept and from when.
func kept(p *policy.Policy, class string) string {
	for _, r := range p.Retention {
		if r.Class == class {
			if r.ExecutedBy == policy.ByServiceEnd {
				return r.Period.Human()
			}
			if r.Period.Duration() == 0 {
				return "until " + r.Starts
			}
			return r.Period.Human() + " from " + r.Starts
		}
	}
	return "–"
}

const contradicts = "CONTRADICTS the declaration"

func observations(p *policy.Policy, f Facts) Section {
	s := Section{ID: "observed", Title: "Observed", Intro: "What the running system could see by itself.", Columns: []Column{{Key: "store", Title: "Store"}, {Key: "what", Title: "What"},
		{Key: "value", Title: "Observed"}, {Key: "how", Title: "How it is known"}, {Key: "agrees", Title: "Agrees"}}}
	for _, o := range f.Observations {
		agrees := "does not contradict"
		if o.Conflict {
			agrees = contradicts
		}
		s.Rows = append(s.Rows, []string{o.Store, o.What, o.Value, o.How, agrees})
	}
	s.Rows = append(s.Rows, placeRows(p, f)...)
	return s
}

func tables(p *policy.Policy, f Facts) Section {
	s := Section{ID: "tables", Title: "What the database holds", Intro: "Every table found in the database, counted in one snapshot.", Columns: []Column{{Key: "table", Title: "Table"},
		{Key: "holds", Title: "Holds"}, {Key: "rows", Title: "Rows", Numeric: true}, {Key: "count_is_of", Title: "Count is of"}, {Key: "oldest", Title: "Oldest"}, {Key: "newest", Title: "Newest"}, {Key: "declared", Title: "Declared"}}}
	for _, t := range f.Tables {
		decl, _, _ := p.Table(t.Name)
		declared := "yes"
		switch {
		case !t.Declared:
			declared = "NO"
		case t.Undeclared != nil:
			declared = "NO: " + strings.Join(t.Undeclared, ", ")
		}
		s.Rows = append(s.Rows, []string{t.Name, orDash(decl.Holds), rowsOf(t), countIsOf(p, t), stamp(t.Oldest), stamp(t.Newest), declared})
	}
	return s
}

func rowsOf(t TableFacts) string {
	if t.Uncounted != "" {
		return "not counted (" + t.Uncounted + ")"
	}
	return count(t.Rows)
}

// countIsOf says what a table's count means at the report's moment: see countNote.
func countIsOf(p *policy.Policy, t TableFacts) string {
	decl, _, ok := p.Table(t.Name)
	r, known := classOf(p, t.Name)
	switch {
	case t.Uncounted != "":
		return "–"
	case !ok || decl.TimeCol == "":
		return "when made"
	case known && r.ExecutedBy == policy.ByServiceEnd:
		return "all by then"
	}
	return "those left"
}

func controls(f Facts) Section {
	s := Section{ID: "controls", Title: "Controls", Columns: []Column{{Key: "control", Title: "Control"}, {Key: "state", Title: "State"}, {Key: "detail", Title: "Detail"}}}
	for _, c := range f.Controls {
		s.Rows = append(s.Rows, []string{c.Title, c.State, orDash(c.Detail)})
	}
	return s
}

func subProcessors(p *policy.Policy) Section {
	s := Section{ID: "sub-processors", Title: "Sub-processors", Intro: "Declared by the vendor.", Columns: []Column{{Key: "name", Title: "Company"}, {Key: "country", Title: "Country"}, {Key: "purpose", Title: "Purpose"}, {Key: "since", Title: "Since"}}}
	for _, x := range p.SubProcessors {
		s.Rows = append(s.Rows, []string{x.Name, x.Country, x.Purpose, x.Since})
	}
	return s
}

// personalData states Atlassian's duty to report accounts whose personal data an app
// stores.
func personalData(p *policy.Policy) Section {
	applies, text := p.PersonalDataDuty()
	return Section{ID: "personal-data-reporting", Title: "Personal data reporting", Intro: "Atlassian asks apps that store personal data of its users to report their accounts.",
		Columns: []Column{{Key: "applies", Title: "Applies"}, {Key: "why", Title: "Why, and how it is met"}}, Rows: [][]string{{yesNo(applies), text}}}
}
