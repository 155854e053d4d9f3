package reports

import (
	"strings"

	"trakr/policy"
)

// Location builds the Data Location Statement: where each store lies by
// declaration, what the running system could observe, and what lies there.
func Location(p *policy.Policy, f Facts, version string) Document {
	d := newDocument("location", "Data Location Statement", p, f, version)
	d.conclude(declaredTables(f), observedAgrees(f), noUndeclaredPlace(p), nothingRemains(f), controlsPass(f))
	d.Sections = []Section{stores(p), fields(p), observations(f), tables(p, f), controls(f), subProcessors(p)}
	d.Notes = []string{
		"“Declared” comes from the policy file whose SHA-256 stands below. “Observed” was asked of the running database at the time of this report.",
		"City and region of a store are declared by the vendor and its contract with the provider. Software cannot prove where a disk stands, and this report does not claim to.",
		"Counts, oldest and newest are of rows recorded up to the time of this report. No tenant value stands in this report, and none was read to make it.",
	}
	return d
}

func declaredTables(f Facts) Statement {
	s := Statement{Text: "Every table in the database is declared in the policy", State: Holds, Why: count(int64(len(f.Tables))) + " tables found, all declared."}
	var extra []string
	for _, t := range f.Tables {
		if !t.Declared {
			extra = append(extra, t.Name)
		}
	}
	if extra != nil {
		s.State, s.Why = Fails, "not declared: "+strings.Join(extra, ", ")+"."
	}
	if len(f.Tables) == 0 {
		s.State, s.Why = CannotTell, "no table could be seen."
	}
	return s
}

func observedAgrees(f Facts) Statement {
	s := Statement{Text: "Nothing observed contradicts the declared locations", State: Holds, Why: "see Observed below; an observation can contradict a declaration but not prove it."}
	if len(f.Observations) == 0 {
		s.State, s.Why = CannotTell, "nothing could be observed."
	}
	for _, o := range f.Observations {
		if o.Conflict {
			s.State, s.Why = Fails, "the store “"+o.Store+"” is declared elsewhere; its "+o.What+" is: "+o.Value+"."
		}
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

// nothingRemains judges the last orphan sweep. One that is overdue, failed or
// never ran proves nothing.
func nothingRemains(f Facts) Statement {
	s := Statement{Text: "No row of a tenant that is no longer registered remains", State: CannotTell, Why: "the sweep that checks this is not scheduled."}
	for _, x := range f.Sweeps {
		if x.Kind != "orphans" {
			continue
		}
		switch {
		case x.RunID == "":
			s.Why = "the sweep never finished."
		case x.Result == "findings" || x.Rows > 0:
			s.State, s.Why = Fails, count(x.Rows)+" rows found by sweep "+x.RunID+" at "+stamp(x.FinishedAt)+"."
		case x.Result != "clean":
			s.Why = "the last sweep (" + x.RunID + ") ended as " + x.Result + "."
		case x.Overdue:
			s.Why = "the last sweep is overdue: it finished at " + stamp(x.FinishedAt) + " and runs every " + x.Interval.String() + "."
		default:
			s.State, s.Why = Holds, "sweep "+x.RunID+" at "+stamp(x.FinishedAt)+" checked "+count(x.Tables)+" columns and found 0 rows."
		}
	}
	if s.State == Holds && len(f.OpenFindings) > 0 {
		s.State, s.Why = Fails, count(int64(len(f.OpenFindings)))+" findings are open."
	}
	return s
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
		{Key: "holds_tenant_values", Title: "Tenant values"}, {Key: "security_measures", Title: "Encryption"}}}
	for _, x := range p.Stores {
		s.Rows = append(s.Rows, []string{x.Name, x.Purpose, x.Provider + ", " + x.Product, x.City, x.Region, x.Country, yesNo(x.HoldsFields), x.Encryption})
	}
	return s
}

func fields(p *policy.Policy) Section {
	s := Section{ID: "fields", Title: "What is kept of a tenant", Intro: "These fields and no others; each is encrypted before it is stored.", Columns: []Column{{Key: "field", Title: "Field"},
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
		s.Rows = append(s.Rows, []string{string(x.Name), x.Category, x.Purpose, x.Store, orDash(who), kept(p, x.Retention)})
	}
	return s
}

// kept says how long a class is kept and from when.
func kept(p *policy.Policy, class string) string {
	for _, r := range p.Retention {
		if r.Class == class {
			if r.Period.Duration() == 0 {
				return "until " + r.Starts
			}
			return r.Period.Human() + " from " + r.Starts
		}
	}
	return "–"
}

func observations(f Facts) Section {
	s := Section{ID: "observed", Title: "Observed", Intro: "What the running system could see by itself.", Columns: []Column{{Key: "store", Title: "Store"}, {Key: "what", Title: "What"},
		{Key: "value", Title: "Observed"}, {Key: "how", Title: "How it is known"}, {Key: "agrees", Title: "Agrees"}}}
	for _, o := range f.Observations {
		agrees := "does not contradict"
		if o.Conflict {
			agrees = "CONTRADICTS the declaration"
		}
		s.Rows = append(s.Rows, []string{o.Store, o.What, o.Value, o.How, agrees})
	}
	return s
}

func tables(p *policy.Policy, f Facts) Section {
	s := Section{ID: "tables", Title: "What the database holds", Intro: "Every table found in the database, counted in one snapshot.", Columns: []Column{{Key: "table", Title: "Table"},
		{Key: "holds", Title: "Holds"}, {Key: "rows", Title: "Rows", Numeric: true}, {Key: "oldest", Title: "Oldest"}, {Key: "newest", Title: "Newest"}, {Key: "declared", Title: "Declared"}}}
	for _, t := range f.Tables {
		decl, _, _ := p.Table(t.Name)
		declared := "yes"
		if !t.Declared {
			declared = "NO"
		}
		s.Rows = append(s.Rows, []string{t.Name, orDash(decl.Holds), count(t.Rows), stamp(t.Oldest), stamp(t.Newest), declared})
	}
	return s
}

func controls(f Facts) Section {
	s := Section{ID: "controls", Title: "Controls", Columns: []Column{{Key: "control", Title: "Control"}, {Key: "state", Title: "State"}, {Key: "detail", Title: "Detail"}}}
	for _, c := range f.Controls {
		s.Rows = append(s.Rows, []string{c.Title, c.State, c.Detail})
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
