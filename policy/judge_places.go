package policy

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"

	"trakr/internal/lifecycle"
)

// stores: each kind, unique names; sub-processors and classes exist; the values and
// the replay guard are declared and never outlive their tenant.
func (j *judgement) stores() {
	names, tables, kinds, all := map[string]bool{}, map[string]bool{}, map[string]bool{}, j.whole("$.stores", "kind")
	for i, s := range j.p.Stores {
		at := "$.stores[" + strconv.Itoa(i) + "]"
		if names[s.Name] {
			j.fault(at+".name", "the store %q is declared twice", s.Name)
		}
		names[s.Name], kinds[s.Kind] = true, true
		j.kind(at, s)
		j.country(at+".country", s.Country)
		j.wildcards(at, s.Hosts)
		if !slices.ContainsFunc(j.p.SubProcessors, func(x SubProcessor) bool { return x.Name == s.SubProcessor }) && s.SubProcessor != "" && j.whole("$.sub_processors", "name") {
			j.fault(at+".sub_processor", "there is no sub-processor of this name")
		}
		j.kept(at, s)
		for k, t := range s.Tables {
			at := at + ".tables[" + strconv.Itoa(k) + "]"
			if tables[t.Name] {
				j.fault(at+".name", "the table %s is declared twice", t.Name)
			}
			tables[t.Name] = true
			j.table(at, t)
		}
		all = all && j.whole(at+".tables", "name")
	}
	for _, t := range []string{"trakr.tenants", "trakr.tenant_fields", "trakr.replay_guard", "trakr.erasures", "trakr.audit_events", canaries} {
		if !tables[t] && all {
			j.fault("$.stores", "the table %s is not declared", t)
		}
	}
	for _, k := range StoreKinds() {
		if !kinds[k] && j.whole("$.stores", "kind") {
			j.fault("$.stores", "no store of the kind %s says where such data lies", k)
		}
	}
}

// canaries is where the orphan sweep's own orphan lies.
const canaries = "trakr.sweep_canaries"

// records are the tables that may keep rows of an erased tenant: what they keep is a
// record without customer data, and the code erases the rest of a row. The canary's
// tenant never was.
var records = []string{"trakr.tenants", "trakr.erasures", "trakr.audit_events", "trakr.legal_holds", "trakr.deletion_requests", "trakr.outbox", canaries}

// values are the tables of what is a tenant's own.
var values = []string{"trakr.tenant_fields", "trakr.replay_guard"}

// shipped are the tables of the built-in policy.
var shipped = sync.OnceValue(func() map[string]Table {
	var p Policy
	if err := yaml.Unmarshal(defaultYAML, &p); err != nil {
		return nil // no table is known then, and the built-in policy itself is refused
	}
	out := map[string]Table{}
	for _, s := range p.Stores {
		for _, t := range s.Tables {
			out[t.Name] = t
		}
	}
	return out
})

// table: what a row holds, how its age is told, and when it goes.
func (j *judgement) table(at string, t Table) {
	j.class(at+".class", t.Class)
	j.columns(at, t)
	j.holds(at, t)
	by := classes[t.Class].by
	switch {
	case t.Name == canaries && t.Retained == nil:
		j.fault(at, "the rows of %s are no finding: give the ground under retained", t.Name)
	case slices.Contains(values, t.Name) && !t.HasTenant:
		j.fault(at, "the rows of %s go with their tenant: has_tenant: true", t.Name)
	case t.Retained != nil && !t.HasTenant:
		j.fault(at+".retained", "only a table with a tenant can outlive one")
	case t.Retained != nil && !slices.Contains(records, t.Name):
		j.fault(at+".retained", "rows of %s go with their tenant: only tables whose rows are a record without customer data may keep them, and those are %s", t.Name, And(records))
	case t.HasTenant && t.Retained == nil && by != "" && by != ByUninstall && by != ByReplayGuard:
		j.fault(at+".class", "rows that go with their tenant are of a class that is executed by %s, and %s is executed by %s", ByUninstall, t.Class, by)
	case (!t.HasTenant || t.Retained != nil) && by == ByUninstall:
		j.fault(at+".class", "%s is for rows that go with their tenant, and these do not", t.Class)
	}
}

// holds: of each column that the built-in policy does not know somebody says what it
// holds. What is of a customer is allowed, can be seen by the sweep, and goes with its
// tenant.
func (j *judgement) holds(at string, t Table) {
	if !j.has(at + ".columns") {
		return
	}
	ours, known := shipped()[t.Name]
	if !known {
		j.contact(at+".name", t.Name[strings.LastIndex(t.Name, ".")+1:])
	}
	for _, c := range ours.Columns {
		if !slices.Contains(t.Columns, c) {
			j.fault(at+".columns", "the table %s has the column %s in this version: declare it", t.Name, c)
		}
	}
	for i, c := range t.Columns {
		if slices.Contains(ours.Columns, c) {
			continue
		}
		column := at + ".columns[" + strconv.Itoa(i) + "]"
		j.contact(column, c)
		if _, said := t.Categories[c]; !said && j.has(at+".categories") {
			j.fault(column, "the built-in policy does not know the column %s: say under categories what it holds, or system for nothing of a customer", c)
		}
		j.category(at+".categories."+c, t.Categories[c])
	}
	customer := false
	for _, c := range slices.Sorted(maps.Keys(t.Categories)) {
		customer = customer || personal(t.Categories[c])
		switch {
		case !slices.Contains(t.Columns, c):
			j.fault(at+".categories."+c, "%s is not among the table's columns", c)
		case slices.Contains(ours.Columns, c):
			j.fault(at+".categories."+c, "what %s holds is known: say it of columns that the built-in policy does not know", c)
		}
	}
	if customer && (!t.HasTenant || t.Retained != nil) {
		j.fault(at+".categories", "data of a customer go with their tenant: the table has a column tenant_id, has_tenant: true, and no retained")
	}
}

// personal reports whether a category is of a customer.
func personal(category string) bool { return strings.HasPrefix(category, "user.") }

// Words in a name that speak of an e-mail address or a telephone number: anywhere in
// it, or as a word of their own.
var (
	contactParts = []string{"email", "phone", "msisdn", "whatsapp"}
	contactWords = []string{"mail", "mails", "mailbox", "mobile", "mobiles", "tel", "cell", "fax", "sms"}
)

// contact: no name speaks of what is never kept.
func (j *judgement) contact(at, name string) {
	speaks := slices.ContainsFunc(contactParts, func(part string) bool { return strings.Contains(name, part) })
	for _, word := range strings.Split(name, "_") {
		speaks = speaks || slices.Contains(contactWords, strings.TrimRight(word, "0123456789"))
	}
	if speaks {
		j.fault(at, "%s speaks of an e-mail address or a telephone number, and neither is kept", name)
	}
}

// kind: what only a database has, where values may lie, and what ends by a period.
func (j *judgement) kind(at string, s Store) {
	if s.Kind != StoreDatabase && (len(s.Tables) > 0 || len(s.Hosts) > 0 || s.Connection != "") {
		j.fault(at, "tables, hosts and connection are for a %s only", StoreDatabase)
	}
	switch s.Kind {
	case StoreDatabase:
		if s.Connection == "" {
			j.fault(at+".connection", "how the service reaches a %s is said, so that it can be held against what is observed", StoreDatabase)
		}
	case StoreReplica:
	case StoreBackup:
		if _, ok := j.p.Period(Backups); !ok && j.whole("$.retention", "class") {
			j.fault(at+".kind", "there are backups, and no retention class %q says how long they are kept", Backups)
		}
	default:
		if s.HoldsFields {
			j.fault(at+".holds_fields", "the service puts no tenant value into a store of the kind %s", s.Kind)
		}
	}
	if s.Retention != "" {
		j.class(at+".retention", s.Retention)
	}
	if s.Retention == "" && (s.Kind == StoreBackup || s.Kind == StoreLog || s.Kind == StoreTelemetry) {
		j.fault(at, "a store of the kind %s needs a retention class", s.Kind)
	}
}

// kept: what a store keeps of an erased tenant has a ground and a period, and a ledger
// keeps something.
func (j *judgement) kept(at string, s Store) {
	switch {
	case s.Kind == StoreLedger && s.Retained == nil:
		j.fault(at, "an erasure ledger keeps keyed digests of erased tenants: give the ground under retained")
	case s.Retained != nil && s.Kind != StoreLedger && len(s.Tables) == 0:
		j.fault(at+".retained", "of an erased tenant only a %s and the tables of records keep something", StoreLedger)
	case s.Retained != nil && s.Retention == "":
		j.fault(at+".retention", "what a store keeps of an erased tenant has a class of retention")
	case s.Retained != nil && len(s.Tables) > 0:
		j.fault(at+".retained", "of a store with tables, each table says for itself what it keeps")
	}
}

// columns: what tells a row's age is one of them, in a table that the code knows the one
// it goes by; and a tenant's column is owned up to.
func (j *judgement) columns(at string, t Table) {
	if !j.has(at + ".columns") {
		return
	}
	if t.TimeCol != "" && !slices.Contains(t.Columns, t.TimeCol) {
		j.fault(at+".time_column", "%s is not among the table's columns", t.TimeCol)
	}
	if t.AgeCol != "" && !slices.Contains(t.Columns, t.AgeCol) {
		j.fault(at+".age_column", "%s is not among the table's columns", t.AgeCol)
	}
	if ours, known := shipped()[t.Name]; known && t.TimeCol != ours.TimeCol {
		j.fault(at+".time_column", "the time of a row of %s is told by %q", t.Name, ours.TimeCol)
	} else if known && t.AgeCol != ours.AgeCol {
		j.fault(at+".age_column", "the age of a row of %s is told by %q", t.Name, ours.AgeCol)
	}
	if tenant := slices.ContainsFunc(t.Columns, CarriesTenant); tenant != t.HasTenant {
		j.fault(at+".has_tenant", "has_tenant is %t, and of a column that carries a tenant the list of columns says %t", t.HasTenant, tenant)
	}
}

// wildcards: a host may stand for what lies below a name of somebody's own, never for
// what lies below a top-level domain.
func (j *judgement) wildcards(at string, hosts []string) {
	for i, h := range hosts {
		if below, wild := strings.CutPrefix(h, "*."); wild && !strings.Contains(below, ".") {
			j.fault(at+".hosts["+strconv.Itoa(i)+"]", "%s is everybody's: name at least two labels, such as *.example.com", h)
		}
	}
}

// subProcessors: each lies in a country that there is.
func (j *judgement) subProcessors() {
	for i, s := range j.p.SubProcessors {
		j.country("$.sub_processors["+strconv.Itoa(i)+"].country", s.Country)
	}
}

// country: an officially assigned code of ISO 3166-1 alpha-2.
func (j *judgement) country(at, code string) {
	if len(code) != 2 || !slices.Contains(strings.Fields(countries), code) {
		j.fault(at, "%q is no country's code in ISO 3166-1 alpha-2", code)
	}
}

const countries = `
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG
CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL
GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA
LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP
NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV
SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW
`

// egress: each destination once; details and acknowledgement are the end service's.
func (j *judgement) egress() {
	seen := map[lifecycle.Destination]bool{}
	for i, e := range j.p.Egress {
		at := "$.egress[" + strconv.Itoa(i) + "]"
		if seen[e.To] {
			j.fault(at+".to", "the destination %s is declared twice", e.To)
		}
		seen[e.To] = true
		j.country(at+".country", e.Country)
		if e.To != lifecycle.ToEndService && (len(e.Details) > 0 || e.Required) {
			j.fault(at, "details and required are for %s only", lifecycle.ToEndService)
		}
		if j.p.Releases(lifecycle.ClientKey, e.To) && !j.p.Releases(lifecycle.PrincipalUUID, e.To) && !e.CarriesWorkspace() {
			j.fault(at, "client_key is released to %s, and Bitbucket makes the workspace's uuid a part of it: say so in carries, word for word %q, or release principal_uuid there", e.To, CarriesWorkspace)
		}
	}
	if b, ok := j.p.Destination(lifecycle.ToBitbucket); (!ok || len(b.Hosts) == 0) && j.whole("$.egress", "to") && j.whole("$.egress", "hosts") {
		j.fault("$.egress", "the destination bitbucket and its hosts must be declared: every install asks there")
	}
}
