package policy

import (
	"regexp"
	"slices"
	"strings"

	"trakr/internal/lifecycle"
)

// Hash returns the lower-case hex SHA-256 of the exact bytes of the file. The service logs
// it at start, and every report contains it.
func (p *Policy) Hash() string { return p.hash }

// Field returns the rule of f.
func (p *Policy) Field(f lifecycle.Field) (FieldRule, bool) {
	for _, r := range p.Fields {
		if r.Name == f {
			return r, true
		}
	}
	return FieldRule{}, false
}

// Keeps reports whether the values of f are stored.
func (p *Policy) Keeps(f lifecycle.Field) bool {
	r, ok := p.Field(f)
	return ok && !r.Off
}

// CustomerColumn is a column with customer data that the built-in policy does not know.
type CustomerColumn struct{ Table, Column, Category string }

// Phrase returns the column's contents for a sentence.
func (c CustomerColumn) Phrase() string {
	return strings.ReplaceAll(c.Column, "_", " ") + " (" + c.Category + ")"
}

// CustomerColumns returns these columns in the order of the file.
func (p *Policy) CustomerColumns() []CustomerColumn {
	var out []CustomerColumn
	for _, s := range p.Stores {
		for _, t := range s.Tables {
			for _, c := range t.Columns {
				if k := t.Categories[c]; personal(k) {
					out = append(out, CustomerColumn{t.Name, c, k})
				}
			}
		}
	}
	return out
}

// PersonalDataDuty returns whether Atlassian's duty to report accounts whose personal data
// an app stores applies, and how it is met, or why it does not apply.
func (p *Policy) PersonalDataDuty() (applies bool, text string) {
	var kept, off []string
	for _, f := range lifecycle.FieldSpecs() {
		switch {
		case f.Personal && p.Keeps(f.Name):
			kept = append(kept, string(f.Name))
		case f.Personal:
			off = append(off, string(f.Name))
		}
	}
	for _, c := range p.CustomerColumns() {
		kept = append(kept, c.Phrase())
	}
	if kept == nil {
		return false, "Not applicable: the policy switches " + And(off) + " off, " +
			"so no field that can name or show a person is stored."
	}
	return true, "Applies while " + And(kept) + " can name or show a person. " + p.PersonalData.MetBy
}

// Destination returns the declaration of a destination.
func (p *Policy) Destination(to lifecycle.Destination) (Egress, bool) {
	for _, e := range p.Egress {
		if e.To == to {
			return e, true
		}
	}
	return Egress{}, false
}

// Releases reports whether the value of f may be sent to a destination.
func (p *Policy) Releases(f lifecycle.Field, to lifecycle.Destination) bool {
	r, ok := p.Field(f)
	return ok && !r.Off && slices.Contains(r.Egress, to)
}

var plainName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// TableName returns the name under which policy, sweeps and reports know a table:
// schema.name, each part in double quotes unless it is plain lower case. Two tables never
// have the same one, whatever their names contain.
func TableName(schema, name string) string {
	quote := func(s string) string {
		if plainName.MatchString(s) {
			return s
		}
		return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
	}
	return quote(schema) + "." + quote(name)
}

// CarriesTenant reports whether a column's name identifies a tenant, as "tenant_id",
// "Tenant ID" and "old-tenant" do.
func CarriesTenant(column string) bool {
	return strings.Contains(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, strings.ToLower(column)), "tenant")
}

// KnownPayloadKey reports whether a member of a payload is expected although it may not be
// kept. The source of a field is always known: the field may be off, or its value of a
// form that is not kept.
func (p *Policy) KnownPayloadKey(path string) bool {
	for _, f := range p.Fields {
		if f.Source == path {
			return true
		}
	}
	for _, k := range p.KnownPayloadKeys {
		if below, ok := strings.CutSuffix(k, "*"); k == path || (ok && strings.HasPrefix(path, below)) {
			return true
		}
	}
	return false
}

// Table returns the declaration of a TableName and the store it is in.
func (p *Policy) Table(name string) (Table, Store, bool) {
	for _, s := range p.Stores {
		for _, t := range s.Tables {
			if t.Name == name {
				return t, s, true
			}
		}
	}
	return Table{}, Store{}, false
}

// Kept is a place where something of an erased tenant is kept.
type Kept struct {
	Where string // a table, or a store
	Class string // of Retention
	Retained
}

// Outlives returns what is kept of a tenant after its erasure, in the file's order. The
// canary's rows are not included: they belong to no tenant.
func (p *Policy) Outlives() []Kept {
	var out []Kept
	for _, s := range p.Stores {
		for _, t := range s.Tables {
			if r, _ := p.Period(t.Class); t.Retained != nil && r.ExecutedBy != ByCanary {
				out = append(out, Kept{t.Name, t.Class, *t.Retained})
			}
		}
		if s.Retained != nil {
			out = append(out, Kept{s.Name, s.Retention, *s.Retained})
		}
	}
	return out
}

// Period returns the period of a class of retention.
func (p *Policy) Period(class string) (Retention, bool) {
	for _, r := range p.Retention {
		if r.Class == class {
			return r, true
		}
	}
	return Retention{}, false
}

// Backups is the class of retention of backups: how long after its deletion a value can
// still be in one.
const Backups = "backups"

// BackupWindow returns the period of Backups; zero when the policy declares none.
func (p *Policy) BackupWindow() Period {
	r, _ := p.Period(Backups)
	return r.Period
}

// Sweep returns the rule of one kind of sweep.
func (p *Policy) Sweep(kind string) (Sweep, bool) {
	for _, s := range p.Sweeps {
		if s.Kind == kind {
			return s, true
		}
	}
	return Sweep{}, false
}

// AgeColumn returns the column that a row's period counts from; "" when it has none.
func (t Table) AgeColumn() string {
	if t.AgeCol != "" {
		return t.AgeCol
	}
	return t.TimeCol
}
