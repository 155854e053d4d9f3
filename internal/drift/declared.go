package drift

import (
	"net"
	"slices"

	"trakr/internal/egress"
	"trakr/internal/lifecycle"
	"trakr/policy"
)

// What a check or a difference reports of a table or column without a declaration.
const (
	UndeclaredTable  = "the policy does not declare this table"
	UndeclaredColumn = "the policy does not declare this column"
)

// Declarations answers which tables and columns of the live catalog the policy declares,
// and how. Start-up, doctor, every sweep, the counts of an erasure and the reports ask it,
// so that they cannot disagree.
type Declarations map[string]Table

// Table is how the policy declares one table.
type Table struct {
	Declared   bool
	Store      string   // the policy's store; "database" without a declaration
	Columns    []string // the declared ones, in the policy's order
	Ground     string   // why rows outlive their tenant; "" when they do not
	TimeColumn string   // dates its rows; "" for none
	AgeColumn  string   // the column that a retention period counts from; "" for none
}

// Declared returns the declarations of a policy.
func Declared(p *policy.Policy) Declarations {
	out := Declarations{}
	for _, s := range p.Stores {
		for _, t := range s.Tables {
			d := Table{Declared: true, Store: s.Name, Columns: t.Columns, TimeColumn: t.TimeCol, AgeColumn: t.AgeColumn()}
			if t.Retained != nil {
				d.Ground = t.Retained.Ground
			}
			out[t.Name] = d
		}
	}
	return out
}

// Table returns the declaration of a table, by policy.TableName.
func (d Declarations) Table(name string) Table {
	if t, ok := d[name]; ok {
		return t
	}
	return Table{Store: "database"}
}

// Has reports whether a column is declared.
func (t Table) Has(column string) bool { return slices.Contains(t.Columns, column) }

// Undeclared returns those of a declared table's columns that have no declaration, in the
// order given. Of an undeclared table it returns none: the table itself is the difference.
func (t Table) Undeclared(columns []string) []string {
	var out []string
	for _, c := range columns {
		if t.Declared && !t.Has(c) {
			out = append(out, c)
		}
	}
	return out
}

// DeclaredHost reports whether the policy declares a host as a destination.
func DeclaredHost(p *policy.Policy, to lifecycle.Destination, host string) bool {
	return egress.Host(p, to, "https://"+net.JoinHostPort(host, "443")) == nil
}

// DeclaredDatabaseHost reports whether the policy declares a host for a database; "" is a
// unix socket of this machine.
func DeclaredDatabaseHost(p *policy.Policy, host string) bool { return p.DatabaseHost(host) }
