package policy

import (
	"slices"
	"strings"
)

// stores checks each kind of store, that names are unique, that sub-processors and classes
// exist, and that the tables the code relies on are declared.
func (v *validator) stores() {
	names, tables, kinds, all := map[string]bool{}, map[string]bool{}, map[string]bool{}, v.whole("$.stores", "kind")
	for i, s := range v.p.Stores {
		at := entry("$.stores", i)
		if names[s.Name] {
			v.fault(at+".name", "the store %q is declared twice", s.Name)
		}
		names[s.Name], kinds[s.Kind] = true, true
		v.kind(at, s)
		v.country(at+".country", s.Country)
		v.wildcards(at, s.Hosts)
		known := slices.ContainsFunc(v.p.SubProcessors, func(x SubProcessor) bool { return x.Name == s.SubProcessor })
		if !known && s.SubProcessor != "" && v.whole("$.sub_processors", "name") {
			v.fault(at+".sub_processor", "there is no sub-processor of this name")
		}
		v.storeRetained(at, s)
		for k, t := range s.Tables {
			at := entry(at+".tables", k)
			if tables[t.Name] {
				v.fault(at+".name", "the table %s is declared twice", t.Name)
			}
			tables[t.Name] = true
			v.table(at, t)
		}
		all = all && v.whole(at+".tables", "name")
	}
	for _, t := range required {
		if !tables[t] && all {
			v.fault("$.stores", "the table %s is not declared", t)
		}
	}
	for _, k := range StoreKinds() {
		if !kinds[k] && v.whole("$.stores", "kind") {
			v.fault("$.stores", "no store of the kind %s declares where such data is stored", k)
		}
	}
}

// required are the tables that the code relies on.
var required = []string{
	"trakr.tenants", "trakr.tenant_fields", "trakr.replay_guard", "trakr.erasures", "trakr.audit_events", canaries,
}

// kind checks what only a database has, which stores may contain values, and which need a
// period.
func (v *validator) kind(at string, s Store) {
	if s.Kind != StoreDatabase && (len(s.Tables) > 0 || len(s.Hosts) > 0 || s.Connection != "") {
		v.fault(at, "tables, hosts and connection are for a %s only", StoreDatabase)
	}
	switch s.Kind {
	case StoreDatabase:
		if s.Connection == "" {
			v.fault(at+".connection", "declare how the service reaches a %s, so that it can be compared with what is observed",
				StoreDatabase)
		}
	case StoreReplica:
	case StoreBackup:
		if _, ok := v.p.Period(Backups); !ok && v.whole("$.retention", "class") {
			v.fault(at+".kind", "there are backups, and no retention class %q declares how long they are kept", Backups)
		}
	default:
		if s.HoldsFields {
			v.fault(at+".holds_fields", "the service stores no tenant value in a store of the kind %s", s.Kind)
		}
	}
	if s.Retention != "" {
		v.class(at+".retention", s.Retention)
	}
	if s.Retention == "" && (s.Kind == StoreBackup || s.Kind == StoreLog || s.Kind == StoreTelemetry) {
		v.fault(at, "a store of the kind %s needs a retention class", s.Kind)
	}
}

// storeRetained checks that what a store keeps of an erased tenant has a ground and a
// period, and that a ledger declares what it keeps.
func (v *validator) storeRetained(at string, s Store) {
	switch {
	case s.Kind == StoreLedger && s.Retained == nil:
		v.fault(at, "an erasure ledger keeps keyed digests of erased tenants: give the ground under retained")
	case s.Retained != nil && s.Kind != StoreLedger && len(s.Tables) == 0:
		v.fault(at+".retained", "only a %s and the tables of records keep something of an erased tenant", StoreLedger)
	case s.Retained != nil && s.Retention == "":
		v.fault(at+".retention", "what a store keeps of an erased tenant needs a retention class")
	case s.Retained != nil && len(s.Tables) > 0:
		v.fault(at+".retained", "in a store with tables, each table declares what it keeps")
	}
}

// wildcards checks that a wildcard covers the names of one organisation, not of a whole
// top-level domain.
func (v *validator) wildcards(at string, hosts []string) {
	for i, h := range hosts {
		if below, wild := strings.CutPrefix(h, "*."); wild && !strings.Contains(below, ".") {
			v.fault(entry(at+".hosts", i), "%s covers a whole top-level domain: name at least two labels, such as *.example.com", h)
		}
	}
}
