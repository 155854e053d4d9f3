package reports

import (
	"strings"

	"trakr/internal/check"
	"trakr/policy"
)

// Location builds the Data Location Statement: where each store is by declaration, what
// the running system could observe, and what is stored there.
func Location(p *policy.Policy, f Facts, version string) Document {
	d := newDocument(p, f, version,
		tablesDeclared(p, f), observedAgrees(p, f), onePlace(p), nothingRemains(f), nothingElseFound(f), controlsPass(f))
	d.Kind, d.Title = "location", "Data Location Statement"
	d.Sections = []Section{stores(p), fields(p), observations(p, f), tables(p, f), controls(f), subProcessors(p), personalData(p)}
	d.Notes = []string{
		"“Declared” comes from the policy file whose SHA-256 is below. “Observed” and “Controls” show the running system when " +
			"this report was made, " +
			"even when the report is about an earlier moment.",
		"City and region of a store are declared by the vendor and its contract with the provider. Only of the database a region " +
			"is observed: " +
			"where the provider gives its host a name that contains the region. Software cannot prove where a disk is, and this " +
			"report does not claim to.",
		countNote, noValueNote,
	}
	return d
}

// Notes that several reports share.
const (
	countNote = "“Count is of” explains a number at the moment this report is about. “All by then”: every row recorded by then; " +
		"rows of this table are not deleted. “Those left”: rows recorded by then that still existed when the report was made; " +
		"rows of this table are " +
		"deleted at the end of their period, so their original number is not known. “When made”: rows of this table do not record " +
		"their own time, so " +
		"they were counted when the report was made, even for an earlier moment."
	noValueNote = "This report contains no value of a tenant, and none was read to make it."
)

func tablesDeclared(p *policy.Policy, f Facts) check.Result {
	r := check.Result{
		ID: "location.tables-declared", Title: "Every table and column in the database is declared in the policy",
		State: check.Pass, Evidence: count(int64(len(f.Tables))) + " tables found, all declared.",
	}
	found := map[string]bool{}
	var undeclared, missing []string
	for _, t := range f.Tables {
		found[t.Name] = true
		if !t.Declared {
			undeclared = append(undeclared, t.Name)
		}
		for _, c := range t.Undeclared {
			undeclared = append(undeclared, t.Name+"."+c)
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
		r.State, r.Evidence = check.Unknown, "no table could be seen."
	case undeclared != nil:
		r.State, r.Evidence = check.Fail, "not declared: "+strings.Join(undeclared, ", ")+"."
	case missing != nil:
		r.State, r.Evidence = check.Unknown, "declared and not found: "+strings.Join(missing, ", ")+"."
	}
	return r
}

// nothingRemains checks the newest pass of the orphan sweep. One that is overdue, failed
// or never ran proves nothing, and neither does an older pass before it.
func nothingRemains(f Facts) check.Result {
	r := check.Result{
		ID: "orphans.nothing-remains", Title: "No row of a tenant that is no longer registered remains", State: check.Unknown,
		Evidence: "the sweep that checks this is not scheduled.",
	}
	for _, x := range f.Sweeps {
		if x.Kind != "orphans" {
			continue
		}
		switch {
		case x.RunID == "":
			r.Evidence = "the sweep never ended."
		case x.Rows > 0:
			r.State, r.Evidence = check.Fail, count(x.Rows)+" rows found by sweep "+x.RunID+" at "+stamp(x.FinishedAt)+"."
		case x.Result == "failed":
			r.Evidence = "the newest sweep (" + x.RunID + ") failed at " + stamp(x.FinishedAt) +
				"; the last one that did not fail ended at " + stamp(x.Succeeded) + "."
		case x.Unchecked > 0:
			r.Evidence = "the newest sweep (" + x.RunID + ") could not check " +
				plural(x.Unchecked, "table or column", "tables or columns") + undeclaredOrphans(f) + "."
		case x.Result != "clean":
			r.Evidence = "the newest sweep (" + x.RunID + ") ended as " + x.Result + "."
		case x.Overdue:
			r.Evidence = "the sweep is overdue: it last ended at " + stamp(x.FinishedAt) + " and runs every " + x.Interval.String() + "."
		default:
			r.State = check.Pass
			r.Evidence = "sweep " + x.RunID + " at " + stamp(x.FinishedAt) + " checked " +
				"" + plural(x.Tables, "column", "columns") + " and found 0 rows."
		}
	}
	if n := found(f, FindingFacts.aboutRows); r.State == check.Pass && n > 0 {
		r.State, r.Evidence = check.Fail, plural(n, "finding is", "findings are")+" open."
	}
	return r
}

// aboutRows reports whether a finding is about rows that should be deleted.
func (x FindingFacts) aboutRows() bool {
	return x.Kind == "orphans" || (x.Kind == "erasures" && x.Topic != TopicDeliveries)
}

// place returns the table or column that a finding is about.
func (x FindingFacts) place() string {
	if x.Column == "" {
		return x.Table
	}
	return x.Table + "." + x.Column
}

// found counts the open findings that match.
func found(f Facts, matches func(FindingFacts) bool) (n int64) {
	for _, x := range f.OpenFindings {
		if matches(x) {
			n++
		}
	}
	return n
}

// nothingElseFound covers the sweeps that look for something other than rows.
func nothingElseFound(f Facts) check.Result {
	r := check.Result{
		ID: "findings.other", Title: "No sweep has an open finding of another kind", State: check.Pass, Evidence: "none is open.",
	}
	if n := found(f, func(x FindingFacts) bool { return !x.aboutRows() }); n > 0 {
		r.State, r.Evidence = check.Fail, plural(n, "finding is", "findings are")+" open; the retention report lists them."
	}
	return r
}

// undeclaredOrphans names the undeclared places among the open findings.
func undeclaredOrphans(f Facts) string {
	var names []string
	for _, x := range f.OpenFindings {
		if x.Ground != "" && x.Kind == "orphans" {
			names = append(names, x.place())
		}
	}
	if names == nil {
		return ""
	}
	return "; not declared: " + strings.Join(names, ", ")
}

// guardTitle precedes the title of a guard where it is shown among other controls.
const guardTitle = "In the database: "

// allControls returns the controls of the service, of the database's catalog and of the
// scheduled jobs.
func (f Facts) allControls() []check.Result {
	out := append([]check.Result{}, f.Controls...)
	for _, g := range f.Guards {
		g.Title = guardTitle + g.Title
		out = append(out, g)
	}
	for _, j := range f.Jobs {
		out = append(out, j.Result)
	}
	return out
}

func controlsPass(f Facts) check.Result {
	all := f.allControls()
	r := check.Result{
		ID: "controls.pass", Title: "The controls that this report rests on are in force", State: check.Pass,
		Evidence: count(int64(len(all))) + " checked.",
	}
	if len(all) == 0 {
		r.State, r.Evidence = check.Unknown, "none could be checked."
	}
	for _, c := range all {
		if c.State == check.Fail {
			r.State, r.Evidence = check.Fail, c.Title+": fails ("+c.Detail()+")."
			return r
		}
		if c.State != check.Pass {
			r.State, r.Evidence = check.Unknown, c.Title+": unknown."
		}
	}
	return r
}

func stores(p *policy.Policy) Section {
	s := Section{ID: "stores", Title: "Stores", Intro: "Declared by the vendor.", Columns: []Column{
		{Key: "store", Title: "Store"}, {Key: "purpose", Title: "Purpose"}, {Key: "provider", Title: "Provider"},
		{Key: "storage_city", Title: "City"}, {Key: "storage_region", Title: "Region"}, {Key: "storage_country", Title: "Country"},
		{Key: "holds_tenant_values", Title: "Tenant " +
			"values"}, {Key: "security_measures", Title: "Encryption"}, {Key: "retention_period", Title: "Kept"},
	}}
	for _, x := range p.Stores {
		s.Rows = append(s.Rows, []string{
			x.Name, x.Purpose, x.Provider + ", " +
				"" + x.Product, x.City, x.Region, x.Country, yesNo(x.HoldsFields), x.Encryption, storeKept(p, x),
		})
	}
	return s
}

// storeKept returns how long the contents of a store are kept.
func storeKept(p *policy.Policy, s policy.Store) string {
	switch {
	case len(s.Tables) > 0:
		return "by table, see Tables"
	case s.Kind == policy.StoreReplica:
		return "as in the database"
	}
	return kept(p, s.Retention)
}

func fields(p *policy.Policy) Section {
	s := Section{
		ID: "fields", Title: "What is kept of a tenant",
		Intro: "These fields and no others; each is encrypted before it is stored. A field that is switched off is not stored at all.",
		Columns: []Column{
			{Key: "field", Title: "Field"}, {Key: "data_categories", Title: "Category"}, {Key: "data_use", Title: "Used for"},
			{Key: "store", Title: "Store"}, {Key: "readers", Title: "Who may look"}, {Key: "retention_period", Title: "Kept"},
		},
	}
	for _, x := range p.Fields {
		readers := make([]string, len(x.Readers))
		for i, r := range x.Readers {
			readers[i] = string(r)
		}
		who := strings.Join(readers, ", ")
		if x.Credential {
			who = "no one (credential)"
		}
		if x.Off {
			s.Rows = append(s.Rows, []string{string(x.Name), x.Category, "–", "none", "no one", "not kept: switched off"})
			continue
		}
		s.Rows = append(s.Rows, []string{string(x.Name), x.Category, x.Purpose, x.Store, orDash(who), kept(p, x.Retention)})
	}
	return s
}

// kept returns how long a class is kept and from when.
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
	s := Section{ID: "observed", Title: "Observed", Intro: "What the running system could see by itself.", Columns: []Column{
		{Key: "store", Title: "Store"}, {Key: "what", Title: "What"}, {Key: "value", Title: "Observed"},
		{Key: "how", Title: "How it is known"}, {Key: "agrees", Title: "Agrees"},
	}}
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
	s := Section{
		ID: "tables", Title: "What the database contains", Intro: "Every table found in the database, counted in one snapshot.",
		Columns: []Column{
			{Key: "table", Title: "Table"}, {Key: "holds", Title: "Contains"}, {Key: "rows", Title: "Rows", Numeric: true},
			{Key: "count_is_of", Title: "Count is " +
				"of"}, {Key: "oldest", Title: "Oldest"}, {Key: "newest", Title: "Newest"}, {Key: "declared", Title: "Declared"},
		},
	}
	for _, t := range f.Tables {
		decl, _, _ := p.Table(t.Name)
		declared := "yes"
		switch {
		case !t.Declared:
			declared = "NO"
		case t.Undeclared != nil:
			declared = "NO: " + strings.Join(t.Undeclared, ", ")
		}
		s.Rows = append(s.Rows, []string{
			t.Name, orDash(decl.Holds), rowsOf(t), countIsOf(p, t), stamp(t.Oldest), stamp(t.Newest), declared,
		})
	}
	return s
}

func rowsOf(t TableFacts) string {
	if t.Uncounted != "" {
		return "not counted (" + t.Uncounted + ")"
	}
	return count(t.Rows)
}

// countIsOf returns what a table's count means at the report's moment: see countNote.
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
	s := Section{ID: "controls", Title: "Controls", Columns: []Column{
		{Key: "control", Title: "Control"}, {Key: "state", Title: "State"}, {Key: "detail", Title: "Detail"},
	}}
	for _, c := range f.allControls() {
		s.Rows = append(s.Rows, []string{c.Title, string(c.State), orDash(c.Detail())})
	}
	return s
}

func subProcessors(p *policy.Policy) Section {
	s := Section{ID: "sub-processors", Title: "Sub-processors", Intro: "Declared by the vendor.", Columns: []Column{
		{Key: "name", Title: "Company"}, {Key: "country", Title: "Country"}, {Key: "purpose", Title: "Purpose"},
		{Key: "since", Title: "Since"},
	}}
	for _, x := range p.SubProcessors {
		s.Rows = append(s.Rows, []string{x.Name, x.Country, x.Purpose, x.Since})
	}
	return s
}

// personalData shows Atlassian's duty to report the accounts whose personal data an app
// stores.
func personalData(p *policy.Policy) Section {
	applies, text := p.PersonalDataDuty()
	return Section{
		ID: "personal-data-reporting", Title: "Personal data reporting",
		Intro:   "Atlassian asks apps that store personal data of its users to report their accounts.",
		Columns: []Column{{Key: "applies", Title: "Applies"}, {Key: "why", Title: "Why, and how it is met"}},
		Rows:    [][]string{{yesNo(applies), text}},
	}
}
