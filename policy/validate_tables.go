package policy

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
)

// canaries contains the orphan sweep's canary, a planted orphan.
const canaries = "trakr.sweep_canaries"

// records are the tables that may keep rows of an erased tenant: what they keep is a
// record without customer data, and the code erases the rest of a row. The canary's
// tenant never existed.
var records = []string{
	"trakr.tenants", "trakr.erasures", "trakr.audit_events", "trakr.legal_holds", "trakr.deletion_requests", "trakr.outbox", canaries,
}

// values are the tables of a tenant's own data.
var values = []string{"trakr.tenant_fields", "trakr.replay_guard"}

// builtInTables returns the tables of the built-in policy by name.
var builtInTables = sync.OnceValue(func() map[string]Table {
	var p Policy
	if err := yaml.Unmarshal(defaultYAML, &p); err != nil {
		return nil // Load refuses the built-in policy itself
	}
	out := map[string]Table{}
	for _, s := range p.Stores {
		for _, t := range s.Tables {
			out[t.Name] = t
		}
	}
	return out
})

// table checks what a row contains, how its age is known, and when it is deleted.
func (v *validator) table(at string, t Table) {
	v.class(at+".class", t.Class)
	v.ageColumns(at, t)
	v.contents(at, t)
	by := classes[t.Class].by
	switch {
	case t.Name == canaries && t.Retained == nil:
		v.fault(at, "the rows of %s must not be findings: give the ground under retained", t.Name)
	case slices.Contains(values, t.Name) && !t.HasTenant:
		v.fault(at, "the rows of %s are deleted with their tenant: has_tenant: true", t.Name)
	case t.Retained != nil && !t.HasTenant:
		v.fault(at+".retained", "only a table with a tenant can keep rows of an erased one")
	case t.Retained != nil && !slices.Contains(records, t.Name):
		v.fault(at+".retained", "rows of %s are deleted with their tenant: only tables whose rows are a record without customer data "+
			"may keep them, and those are %s", t.Name, And(records))
	case t.HasTenant && t.Retained == nil && by != "" && by != ByUninstall && by != ByReplayGuard:
		v.fault(at+".class", "rows that are deleted with their tenant need a class that is executed by %s, and %s is executed by %s",
			ByUninstall, t.Class, by)
	case (!t.HasTenant || t.Retained != nil) && by == ByUninstall:
		v.fault(at+".class", "%s is for rows that are deleted with their tenant, and these are not", t.Class)
	}
}

// contents checks that every column that the built-in policy does not know declares what
// it contains. A customer's data is allowed if the sweep can see it and it is deleted with
// its tenant.
func (v *validator) contents(at string, t Table) {
	if !v.has(at + ".columns") {
		return
	}
	builtIn, known := builtInTables()[t.Name]
	if !known {
		v.contactName(at+".name", t.Name[strings.LastIndex(t.Name, ".")+1:])
	}
	for _, c := range builtIn.Columns {
		if !slices.Contains(t.Columns, c) {
			v.fault(at+".columns", "the table %s has the column %s in this version: declare it", t.Name, c)
		}
	}
	for i, c := range t.Columns {
		if slices.Contains(builtIn.Columns, c) {
			continue
		}
		column := entry(at+".columns", i)
		v.contactName(column, c)
		if _, declared := t.Categories[c]; !declared && v.has(at+".categories") {
			v.fault(column, "the built-in policy does not know the column %s: declare its category under categories, "+
				"or system for no customer data", c)
		}
		v.category(at+".categories."+c, t.Categories[c])
	}
	customer := false
	for _, c := range slices.Sorted(maps.Keys(t.Categories)) {
		customer = customer || personal(t.Categories[c])
		switch {
		case !slices.Contains(t.Columns, c):
			v.fault(at+".categories."+c, "%s is not among the table's columns", c)
		case slices.Contains(builtIn.Columns, c):
			v.fault(at+".categories."+c, "the category of %s is known: declare only columns that the built-in policy does not know", c)
		}
	}
	if customer && (!t.HasTenant || t.Retained != nil) {
		v.fault(at+".categories", "a customer's data is deleted with its tenant: "+
			"the table needs a column tenant_id, has_tenant: true, and no retained")
	}
}

// personal reports whether a category is of a customer's data.
func personal(category string) bool { return strings.HasPrefix(category, "user.") }

// Parts of a name that suggest an e-mail address or a telephone number: anywhere in the
// name, or as a word of it.
var (
	contactParts = []string{"email", "phone", "msisdn", "whatsapp"}
	contactWords = []string{"mail", "mails", "mailbox", "mobile", "mobiles", "tel", "cell", "fax", "sms"}
)

// contactName checks that a name does not suggest data that is never kept.
func (v *validator) contactName(at, name string) {
	suggests := slices.ContainsFunc(contactParts, func(part string) bool { return strings.Contains(name, part) })
	for _, word := range strings.Split(name, "_") {
		suggests = suggests || slices.Contains(contactWords, strings.TrimRight(word, "0123456789"))
	}
	if suggests {
		v.fault(at, "%s suggests an e-mail address or a telephone number, and neither is kept", name)
	}
}

// ageColumns checks that the columns for a row's age exist, that a built-in table keeps
// its own, and that has_tenant agrees with the columns.
func (v *validator) ageColumns(at string, t Table) {
	if !v.has(at + ".columns") {
		return
	}
	if t.TimeCol != "" && !slices.Contains(t.Columns, t.TimeCol) {
		v.fault(at+".time_column", "%s is not among the table's columns", t.TimeCol)
	}
	if t.AgeCol != "" && !slices.Contains(t.Columns, t.AgeCol) {
		v.fault(at+".age_column", "%s is not among the table's columns", t.AgeCol)
	}
	if builtIn, known := builtInTables()[t.Name]; known && t.TimeCol != builtIn.TimeCol {
		v.fault(at+".time_column", "the time of a row of %s is in %q", t.Name, builtIn.TimeCol)
	} else if known && t.AgeCol != builtIn.AgeCol {
		v.fault(at+".age_column", "the age of a row of %s is in %q", t.Name, builtIn.AgeCol)
	}
	if tenant := slices.ContainsFunc(t.Columns, CarriesTenant); tenant != t.HasTenant {
		v.fault(at+".has_tenant", "has_tenant is %t, and by the list of columns it is %t", t.HasTenant, tenant)
	}
}
