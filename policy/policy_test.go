package policy_test

import (
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trakr/internal/lifecycle"
	"trakr/policy"
)

func TestBuiltInPolicyMakesTheStatementTrue(t *testing.T) {
	p, err := policy.Default()
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Fields) != len(lifecycle.Fields()) || len(p.Hash()) != 64 {
		t.Errorf("%d fields, hash %q", len(p.Fields), p.Hash())
	}
	for _, f := range lifecycle.FieldSpecs() {
		if rule, _ := p.Field(f.Name); rule.Source != f.Source || rule.Category != f.Category {
			t.Errorf("%s: %s of category %s, want %s of %s", f.Name, rule.Source, rule.Category, f.Source, f.Category)
		}
	}
	for _, s := range p.Stores {
		if s.HoldsFields && (s.City != "New York" || s.Country != "US" || s.Provider != "DigitalOcean") {
			t.Errorf("tenant values in %s lie in %s, %s at %s", s.Name, s.City, s.Country, s.Provider)
		}
	}
	secret, _ := p.Field(lifecycle.SharedSecret)
	if !secret.Credential || len(secret.Readers) > 0 {
		t.Error("the shared secret can be read")
	}
}

// Tables, and one of an operator's own that nobody explains.
const (
	tables    = "    tables:\n"
	marketing = "      - name: trakr.marketing\n        holds: \"x\"\n        columns: [contact_email, mobile, holder]\n        class: installation\n"
)

// position is where an entry stands in a list that grows with each version.
var position = regexp.MustCompile(`(tables|retention)\[\d+\]`)

// Each case breaks one rule of the built-in file by a replacement. The line that is
// blamed is that of the member, or of what it is missing from.
func TestEachFaultIsNamedWithItsLine(t *testing.T) {
	whole := string(policy.DefaultYAML())
	for name, c := range map[string]struct{ old, replacement, path, want string }{
		"a typo in a key":           {"homepage:", "hompage:", "$.app.hompage", "additional properties 'hompage' not allowed"},
		"an e-mail field":           {"category: user.account.username", "category: user.contact.email", "$.fields[3].category", "user.contact must not be kept"},
		"a field too few":           {"name: avatar_url", "name: username", "$.fields", "avatar_url is kept by the service and not declared"},
		"a field too many":          {"name: avatar_url", "name: phone", "$.fields[4].name", "keeps no field of this name"},
		"a readable secret":         {"    credential: true\n", "    credential: true\n    readers: [service]\n", "$.fields[1].readers", "never released"},
		"an ordinary secret":        {"    credential: true\n", "", "$.fields[1].credential", "shared_secret is a credential"},
		"a reader of no token":      {"readers: [service, support]", "readers: [scheduler]", "$.fields[0].readers", "not a role of an API token"},
		"values that outlive":       {"        class: tenant-fields\n        has_tenant: true\n", "        class: tenant-fields\n        has_tenant: true\n        retained: {ground: g, what: w}\n", "$.stores[0].tables[n].retained", "deleted with their tenant"},
		"values without tenant":     {"        class: replay-guard\n        has_tenant: true\n", "        class: replay-guard\n", "$.stores[0].tables[n]", "deleted with their tenant"},
		"no columns":                {"        columns: [log_id, created_at]\n", "", "$.stores[0].tables[n]", "missing property 'columns'"},
		"a time that is no column":  {"columns: [log_id, created_at]", "columns: [log_id]", "$.stores[0].tables[n].time_column", "not among the table's columns"},
		"a tenant not owned up to":  {"columns: [log_id, created_at]", "columns: [log_id, created_at, old_tenant]", "$.stores[0].tables[n].has_tenant", "has_tenant is false"},
		"an unknown class":          {"class: evidence\n      - name: trakr.findings", "class: evidnce\n      - name: trakr.findings", "$.stores[0].tables[n].class", `no retention class "evidnce"`},
		"an unknown sub-processor":  {"sub_processor: DigitalOcean, LLC", "sub_processor: Another", "$.stores[0].sub_processor", "no sub-processor"},
		"a short audit":             {"class: audit\n    period: P3650D", "class: audit\n    period: P364D", "$.retention[n].period", "at least 365 days"},
		"a short tombstone":         {"class: tombstones\n    period: P3650D", "class: tombstones\n    period: P364D", "$.retention[n].period", "at least 365 days"},
		"backups that outlast":      {"class: backups\n    period: P7D", "class: backups\n    period: P3650D", "$.retention[n].period", "at least 3680 days"},
		"evidence for a day":        {"class: evidence\n    period: P3650D", "class: evidence\n    period: P1D", "$.retention[n].period", "at least 365 days"},
		"requests for a day":        {"class: requests\n    period: P3650D", "class: requests\n    period: P1D", "$.retention[n].period", "at least 365 days"},
		"tokens for a day":          {"period: P400D", "period: P1D", "$.retention[n].period", "at least 30 days"},
		"a period nobody executes":  {"    executed_by: retention\n  - class: tombstones", "    executed_by: operator\n  - class: tombstones", "$.retention[n].executed_by", "executed by retention"},
		"a sweep that cannot":       {"    executed_by: canary", "    executed_by: retention", "$.retention[n].executed_by", "cannot remove"},
		"no period":                 {"    period: P400D\n", "", "$.retention[n].period", "has a period"},
		"an end nobody sees":        {"executed_by: service_end", "executed_by: operator", "$.retention[n].period", "has a period"},
		"a canary that is a row":    {"        retained:\n          ground: \"The canary: an orphan of our own that proves that the sweep can see. Its tenant id is reserved and belongs to no tenant.\"\n          what: \"one reserved id and a time\"\n", "", "$.stores[0].tables[n]", "must not be findings"},
		"a ledger without a ground": {"    retention: ledger\n    retained:\n      ground: \"Accountability (GDPR Art. 5(2)) and security of processing (Art. 32): a backup must not bring an erased tenant back, however late it is restored.\"\n      what: \"keyed digests of our tenant id and of the client key, trigger and time of the erasure; of a legal hold its random id, ground and times\"\n", "", "$.stores[3]", "give the ground"},
		"a ledger kept for ever":    {"    retention: ledger\n    retained:", "    retained:", "$.stores[3].retention", "needs a retention class"},
		"a class nobody declared":   {"    retention: ledger\n    retained:", "    retention: ledgers\n    retained:", "$.stores[3].retention", "no retention class"},
		"an age that is no column":  {"age_column: erased_at", "age_column: gone_at", "$.stores[0].tables[n].age_column", "not among the table's columns"},
		"a month":                   {"period: P7D", "period: P1M", "$.retention[n].period", "does not match"},
		"no deadline":               {"deletion_deadline: PT1H", "deletion_deadline: P0D", "$.deletion_deadline", "longer than zero"},
		"two months for a request":  {"due: P30D", "due: P60D", "$.deletion_requests.due", "within 30 days"},
		"a day over the law's":      {"due: P30D", "due: P31D", "$.deletion_requests.due", "within 30 days"},
		"a cooling-off too long":    {"cooling_off: PT1H", "cooling_off: P30D", "$.deletion_requests.cooling_off", "before the request is due"},
		"a check nobody knows":      {"identity_check: ticket", "identity_check: none", "$.deletion_requests.identity_check", "one of"},
		"a hold without end":        {"longest: P366D", "longest: P367D", "$.legal_holds.longest", "366 days"},
		"a schedule of four fields": {`"17 * * * *"`, `"17 * * *"`, "$.sweeps[0].schedule", "does not match"},
		"too few suspicions":        {"suspicions: 4", "suspicions: 2", "$.liveness.suspicions", "3 suspicions or more"},
		"too few days":              {"days: 4", "days: 2", "$.liveness.days", "3 days or more"},
		"suspicions close together": {"apart: PT20H", "apart: PT11H59M", "$.liveness.apart", "12 hours apart"},
		"erasing all in one pass":   {"max_erasures: 10", "max_erasures: 51", "$.liveness.max_erasures", "50 tenants or fewer"},
		"an unknown member":         {"per_second: 5", "per_second: 5\n  extra: 1", "$.liveness.extra", "additional properties"},
		"a pass too long":           {"batch: 1000", "batch: 6001", "$.sweeps[2].timeout", "cannot end in this time"},
		"no floor at all":           {"suspicions: 4", "suspicions: 0", "$.liveness.suspicions", "minimum"},
		"a scope nobody declared":   {"scope: webhook", "scope: repository", "$.app.proof.scope", "not among the app's scopes"},
		"a needed field off":        {"source: principal.uuid", "source: principal.uuid\n    off: true", "$.fields[2].off", "cannot work without"},
		"a secret sent away":        {"    credential: true\n", "    credential: true\n    egress: [bitbucket]\n", "$.fields[1].egress[0]", "never sent to"},
		"a person sent away":        {"source: principal.username", "source: principal.username\n    egress: [end-service]", "$.fields[3].egress[0]", "never sent to"},
		"sent to nobody known":      {"egress: [bitbucket]", "egress: [bitbucket, telemetry]", "$.fields[2].egress[1]", "never sent to"},
		"sent where no host is":     {"hosts: [api.trakr.example.com]", "hosts: []", "$.fields[0].egress[1]", "has no host"},
		"sent where none is named":  {"to: end-service", "to: keys", "$.fields[0].egress[1]", "no destination"},
		"a destination twice":       {"to: keys", "to: ledger", "$.egress[6].to", "declared twice"},
		"an unknown destination":    {"to: keys", "to: elsewhere", "$.egress[6].to", "must be one of"},
		"details for an operator":   {"    hosts: []\n", "    hosts: []\n    details: [app_key]\n", "$.egress[2]", "end-service only"},
		"no way to Bitbucket":       {"hosts: [api.bitbucket.org, bitbucket.org]", "hosts: []", "$.egress", "must be declared"},
		"a host with a path":        {"hosts: [api.trakr.example.com]", "hosts: [api.trakr.example.com/x]", "$.egress[1].hosts[0]", "does not match"},
		"a role too few":            {"- name: reviewer", "- name: operator", "$.roles", "reviewer acts"},
		"a role nobody has":         {"- name: reviewer", "- name: auditor", "$.roles[2].name", "not a role"},
		"no word of telemetry":      {"kind: telemetry", "kind: log", "$.stores", "no store of the kind telemetry"},
		"no word of replicas":       {"kind: replica", "kind: database", "$.stores", "no store of the kind replica"},
		"an unknown kind of store":  {"kind: export", "kind: cupboard", "$.stores[6].kind", "must be one of"},
		"values in the log":         {"    holds_fields: false\n    retention: logs\n    notes: [\"Log", "    holds_fields: true\n    retention: logs\n    notes: [\"Log", "$.stores[4].holds_fields", "no tenant value in a store of the kind log"},
		"a log for ever":            {"    retention: logs\n    notes: [\"Log", "    notes: [\"Log", "$.stores[4]", "needs a retention class"},
		"a log of no class":         {"    retention: logs\n    notes: [\"Log", "    retention: log\n    notes: [\"Log", "$.stores[4].retention", `no retention class "log"`},
		"a host of a backup":        {"    retention: backups\n", "    retention: backups\n    hosts: [x.example.com]\n", "$.stores[2]", "for a database only"},
		"values that stay a month":  {"class: tenant-fields\n    period: P0D", "class: tenant-fields\n    period: P30D", "$.retention[n].period", "at once"},
		"a guard for a minute":      {"period: PT2H", "period: PT1M", "$.retention[n].period", "at least 2 hours"},
		"backups for an hour":       {"class: backups\n    period: P7D", "class: backups\n    period: PT1H", "$.retention[n].period", "at least 1 days"},
		"logs for an hour":          {"class: logs\n    period: P30D", "class: logs\n    period: PT1H", "$.retention[n].period", "at least 1 days"},
		"a class of no use":         {"class: canaries\n    period", "class: canary-birds\n    period", "$.retention[n].class", "no retention class of this name"},
		"the same source twice":     {"source: principal.username", "source: principal.uuid", "$.fields[3].source", "what principal_uuid is read from"},
		"a source below another":    {"source: principal.username", "source: clientKey.name", "$.fields[3].source", "what client_key is read from"},
		"a source that is dropped":  {"source: principal.username", "source: principal.nickname", "$.fields[3].source", "principal.nickname is not kept"},
		"a source below what is":    {"source: principal.username", "source: actor.username", "$.fields[3].source", "actor is not kept"},
		"a source of e-mails":       {"source: principal.username", "source: principal.eMail", "$.fields[3].source", "e-mail addresses and telephone numbers"},
		"a source of no payload":    {"source: principal.username", "source: principal..username", "$.fields[3].source", "a path in the payload"},
		"the callback's own key":    {"source: principal.username", "source: eventType", "$.fields[3].source", "identifies the callback itself"},
		"a job twice":               {"name: replay guard", "name: canary", "$.jobs[1].name", "declared twice"},
		"a job without a time":      {"  - name: replay guard\n    schedule: \"*/5 * * * *\"\n", "  - name: replay guard\n", "$.jobs[1]", "missing property 'schedule'"},
		"a key twice":               {"version: 1", "version: 1\nversion: 1", "$.version", "given twice"},
		"an alias":                  {"contexts: [account]", "contexts: &c [account]", "", "anchors"},
		"a country by name":         {"country: US", "country: USA", "$.stores[0].country", "does not match"},
		"a minute that is none":     {`"17 * * * *"`, `"99 * * * *"`, "$.sweeps[0].schedule", "not a five-field cron"},
		"a time zone's schedule":    {`"17 * * * *"`, `"17 * * * mo"`, "$.sweeps[0].schedule", "not a five-field cron"},
		"a day that no month has":   {`"17 * * * *"`, `"0 0 30 2 *"`, "$.sweeps[0].schedule", "never occurs"},
		"a day of leap years":       {`"17 * * * *"`, `"0 0 29 2 *"`, "$.sweeps[0].schedule", "does not run for 1461 days"},
		"a job that never comes":    {`"41 3 * * *"`, `"41 3 31 4 *"`, "$.jobs[3].schedule", "never occurs"},
		"a sweep of every year":     {`"47 4 * * *"`, `"47 4 1 1 *"`, "$.sweeps[5].schedule", "sweep minimisation runs every 7 days or more often"},
		"a sweep of ten days":       {`"47 4 * * *"`, `"47 4 1,11,21 * *"`, "$.sweeps[5].schedule", "can be 11 days apart"},
		"erasures twice a day":      {"kind: erasures\n    schedule: \"*/5 * * * *\"", "kind: erasures\n    schedule: \"0 */12 * * *\"", "$.sweeps[1].schedule", "erasures runs every 1 hours"},
		"orphans of working days":   {`"17 * * * *"`, `"17 * * * 1-5"`, "$.sweeps[0].schedule", "orphans runs every 1 days"},
		"integrity every two days":  {`"37 * * * *"`, `"37 3 */2 * *"`, "$.sweeps[4].schedule", "integrity runs every 1 days"},
		"retention every week":      {`"23 2 * * *"`, `"23 2 * * 0"`, "$.sweeps[3].schedule", "retention runs every 2 days"},
		"liveness every week":       {`"29 * * * *"`, `"29 2 * * 0"`, "$.sweeps[2].schedule", "liveness runs every 1 days"},
		"drift every week":          {`"7 * * * *"`, `"7 2 * * 0"`, "$.sweeps[6].schedule", "drift runs every 1 days"},
		"a sweep left out":          {"  - kind: drift\n    schedule: \"7 * * * *\"\n    timeout: PT5M\n", "", "$.sweeps", "drift has no schedule"},
		"a sweep there is not":      {"kind: drift", "kind: dust", "$.sweeps[6].kind", `no sweep "dust"`},
		"a country of nobody":       {"country: US", "country: XX", "$.stores[0].country", "not a country code"},
		"a country by another code": {"name: DigitalOcean, LLC\n    country: US", "name: DigitalOcean, LLC\n    country: UK", "$.sub_processors[0].country", "not a country code"},
		"a country that was":        {"from whom the data comes\"\n    country: US", "from whom the data comes\"\n    country: SU", "$.egress[0].country", "not a country code"},
		"a sub-processor to come":   {`since: "2024-01-01"`, `since: "2026-11-25"`, "$.sub_processors[0].since", "decided on 2026-11-24"},
		"a sub-processor of 2924":   {`since: "2024-01-01"`, `since: "2924-01-01"`, "$.sub_processors[0].since", "not a date of this century"},
		"a sub-processor of 1924":   {`since: "2024-01-01"`, `since: "1924-01-01"`, "$.sub_processors[0].since", "not a date of this century"},
		"a day that never was":      {`since: "2024-01-01"`, `since: "2024-02-30"`, "$.sub_processors[0].since", "not a date"},
		"answers of 2924":           {`decided: "2026-11-24"`, `decided: "2924-11-24"`, "$.marketplace.decided", "not a date of this century"},
		"hosts of everybody":        {`["*.db.ondigitalocean.com"]`, `["a.example.com", "*.com"]`, "$.stores[0].hosts[1]", "at least two labels"},
		"a host of empty labels":    {`["*.db.ondigitalocean.com"]`, `["a..com"]`, "$.stores[0].hosts[0]", "does not match"},
		"a database reached no way": {"    connection: network\n", "", "$.stores[0].connection", "how the service reaches"},
		"a live value audited":      {"    retention: tenant-fields\n    egress: [bitbucket, end-service]", "    retention: audit\n    egress: [bitbucket, end-service]", "$.fields[0].retention", "deleted with its tenant, and audit is executed by operator"},
		"avatars of e-mail hashes":  {"    drop_hosts: [gravatar.com, wp.com]\n", "", "$.fields[4].drop_hosts", "gravatar.com are hashes"},
		"half of the hashes":        {"drop_hosts: [gravatar.com, wp.com]", "drop_hosts: [gravatar.com]", "$.fields[4].drop_hosts", "wp.com are hashes"},
		"contact data allowed":      {"[user.contact, user.name]", "[user.name]", "$.forbidden_categories", "user.contact is always forbidden"},
		"names of people allowed":   {"[user.contact, user.name]", "[user.contact]", "$.forbidden_categories", "user.name is always forbidden"},
		"liveness that outlives":    {"        class: liveness\n        has_tenant: true\n", "        class: liveness\n        has_tenant: true\n        retained: {ground: x, what: y}\n", "$.stores[0].tables[n].retained", "only tables whose rows are a record without customer data"},
		"a backup that keeps":       {"    retention: backups\n", "    retention: backups\n    retained: {ground: x, what: y}\n", "$.stores[2].retained", "only a ledger"},
		"live rows kept as audit":   {"        class: liveness\n", "        class: audit\n", "$.stores[0].tables[n].class", "audit is executed by operator"},
		"records that go at once":   {"        class: evidence\n      - name: trakr.findings", "        class: liveness\n      - name: trakr.findings", "$.stores[0].tables[n].class", "and these are not"},
		"an age told otherwise":     {"        age_column: resolved_at\n", "", "$.stores[0].tables[n].age_column", `is in "resolved_at"`},
		"a time told otherwise":     {"        time_column: opened_at\n", "        time_column: acknowledged_at\n", "$.stores[0].tables[n].time_column", `is in "opened_at"`},
		"a column nobody explains":  {"columns: [log_id, created_at]", "columns: [log_id, created_at, mood]", "$.stores[0].tables[n].columns[2]", "does not know the column mood"},
		"a column of ours left out": {"columns: [delivery_id, tenant_id, sealed]", "columns: [delivery_id, tenant_id]", "$.stores[0].tables[n].columns", "has the column sealed in this version"},
		"a carry that nobody says":  {"where Bitbucket made it a part of the client key", "sometimes", "$.egress[1]", "word for word"},
		"a column of e-mails":       {"columns: [log_id, created_at]", "columns: [log_id, created_at, e_mail]\n        categories: {e_mail: system}", "$.stores[0].tables[n].columns[2]", "e_mail suggests"},
		"a column of telephones":    {"columns: [log_id, created_at]", "columns: [log_id, created_at, telephone1]\n        categories: {telephone1: system}", "$.stores[0].tables[n].columns[2]", "telephone1 suggests"},
		"a column of mobiles":       {"columns: [log_id, created_at]", "columns: [log_id, created_at, mobile2]\n        categories: {mobile2: system}", "$.stores[0].tables[n].columns[2]", "mobile2 suggests"},
		"a forbidden column":        {"columns: [log_id, created_at]", "columns: [log_id, created_at, reach]\n        categories: {reach: user.contact.email}", "$.stores[0].tables[n].categories.reach", "user.contact must not be kept"},
		"a column of what is all":   {"columns: [log_id, created_at]", "columns: [log_id, created_at, reach]\n        categories: {reach: user}", "$.stores[0].tables[n].categories.reach", "does not match"},
		"a column said of none":     {"columns: [log_id, created_at]", "columns: [log_id, created_at]\n        categories: {mood: system}", "$.stores[0].tables[n].categories.mood", "not among the table's columns"},
		"a column said otherwise":   {"columns: [log_id, created_at]", "columns: [log_id, created_at]\n        categories: {log_id: system}", "$.stores[0].tables[n].categories.log_id", "is known"},
		"a person beside a log":     {"columns: [log_id, created_at]", "columns: [log_id, created_at, who]\n        categories: {who: user.unique_id}", "$.stores[0].tables[n].categories", "deleted with its tenant"},
		"a person who outlives":     {"columns: [canary_id, tenant_id, planted_at]", "columns: [canary_id, tenant_id, planted_at, who]\n        categories: {who: user.unique_id}", "$.stores[0].tables[n].categories", "deleted with its tenant"},
		"a table nobody explains":   {tables, tables + marketing, "$.stores[0].tables[n].columns[2]", "does not know the column holder"},
		"a table of telephones":     {tables, tables + marketing, "$.stores[0].tables[n].columns[1]", "mobile suggests"},
		"a table of e-mails":        {tables, tables + "      - name: trakr.mailing_emails\n        holds: \"x\"\n        columns: [id]\n        categories: {id: system}\n        class: installation\n", "$.stores[0].tables[n].name", "mailing_emails suggests"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(whole, c.old) {
				t.Fatalf("the built-in policy has no %q", c.old)
			}
			broken := strings.Replace(whole, c.old, c.replacement, 1)
			_, err := policy.Load("f.yaml", []byte(broken))
			var e *policy.Error
			if !errors.As(err, &e) {
				t.Fatalf("taken: %v", err)
			}
			for _, f := range e.Faults {
				if strings.Contains(f.Text, c.want) && (c.path == "" || position.ReplaceAllString(f.Path, "$1[n]") == c.path) {
					if !blamed(broken, f) {
						t.Errorf("line %d is not to blame: %v", f.Line, err)
					}
					return
				}
			}
			t.Errorf("want %s: %s, got:\n%v", c.path, c.want, err)
		})
	}
}

// blamed reports whether a fault stands at the line of its member, or, when that is
// not there, at the first line of the entry it is missing from.
func blamed(text string, f policy.Fault) bool {
	lines := strings.Split(text, "\n")
	if f.Line < 1 || f.Line > len(lines) {
		return false
	}
	member, _, _ := strings.Cut(f.Path[strings.LastIndex(f.Path, ".")+1:], "[")
	line := lines[f.Line-1]
	at := strings.Index(line, "- ")
	if strings.Contains(line, member) || at < 0 {
		return strings.Contains(line, member)
	}
	for _, below := range lines[f.Line:] {
		trimmed := strings.TrimLeft(below, " ")
		if len(below)-len(trimmed) <= at || strings.HasPrefix(trimmed, member+":") {
			return !strings.HasPrefix(trimmed, member+":") || strings.HasSuffix(f.Path, "]")
		}
	}
	return true
}

func TestAllFaultsComeAtOnceInTheOrderOfTheFile(t *testing.T) {
	whole := string(policy.DefaultYAML())
	for name, c := range map[string]struct {
		oldnew []string
		want   []string // paths
	}{
		"judgements": {[]string{"name: avatar_url", "name: phone", "deletion_deadline: PT1H", "deletion_deadline: P0D", "scope: webhook", "scope: none"},
			[]string{"$.app.proof.scope", "$.fields", "$.fields[4].name", "$.deletion_deadline"}},
		"form and judgements": {[]string{"version: 1", "version: 2", "homepage:", "homepage: https://x.example.com\n  homapage:", "deletion_deadline: PT1H", "deletion_deadline: PT0H", "to: keys", "to: ledger"},
			[]string{"$.version", "$.app.homapage", "$.egress[6].to", "$.deletion_deadline"}},
		"what cannot be read gives no other fault": {[]string{"due: P30D", "due: P1M", "class: backups\n    period: P7D", "class: backups\n    period: 7", "  - name: reviewer\n", "  - title: reviewer\n", "  - to: keys\n", "  - too: keys\n", "per_second: 5", "per_second: none",
			"country: US", "country: USA", "columns: [log_id, created_at]", "columns: log_id"},
			[]string{"$.stores[0].country", "$.stores[0].tables[n].columns", "$.egress[6]", "$.egress[6].too", "$.retention[n].period", "$.deletion_requests.due", "$.liveness.per_second", "$.roles[2]", "$.roles[2].title"}},
		"a whole section": {[]string{"roles:\n", "rolls:\n", "vendor:\n", "vendor: Trakr\nvendors:\n"},
			[]string{"$", "$.vendor", "$.vendors", "$.rolls"}},
		"sections that others refer to": {[]string{"\nretention:\n", "\nretentions:\n", "\nsub_processors:\n", "\nsub_processor:\n", "\nstores:\n", "\nstore:\n", "\negress:\n", "\negresses:\n"},
			[]string{"$", "$.store", "$.sub_processor", "$.egresses", "$.retentions"}},
		"two documents": {[]string{"deletion_deadline: PT1H", "deletion_deadline: P0D", "not_audited:\n", "not_audited: []\n---\n"},
			[]string{"$.deletion_deadline", "$"}},
		"two keys": {[]string{"name: Trakr\n  description", "name: Trakr\n  name: Trakr\n  description", "days: 4", "days: 1"},
			[]string{"$.app.name", "$.liveness.days"}},
	} {
		broken := whole
		for i := 0; i < len(c.oldnew); i += 2 {
			if !strings.Contains(broken, c.oldnew[i]) {
				t.Fatalf("%s: the built-in policy has no %q", name, c.oldnew[i])
			}
			broken = strings.Replace(broken, c.oldnew[i], c.oldnew[i+1], 1)
		}
		_, err := policy.Load("f.yaml", []byte(broken))
		var e *policy.Error
		if !errors.As(err, &e) {
			t.Fatalf("%s: taken: %v", name, err)
		}
		var got []string
		for i, f := range e.Faults {
			got = append(got, position.ReplaceAllString(f.Path, "$1[n]"))
			if f.Line == 0 || (i > 0 && f.Line < e.Faults[i-1].Line) {
				t.Errorf("%s: out of order", name)
			}
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s\n%v", name, d, err)
		}
	}
}

func TestASecondDocumentIsFoundWhereItBegins(t *testing.T) {
	for text, line := range map[string]int{"---\n# none\n": 1, "": 1, "a: 1\n---\nb: 2\n": 2, "a: 1\n...\n---\nb: 2\n": 3, "# c\n---\na: 1\n---\n": 4} {
		_, err := policy.Load("f.yaml", []byte(text))
		var e *policy.Error
		if !errors.As(err, &e) || !slices.ContainsFunc(e.Faults, func(f policy.Fault) bool { return f.Line == line && strings.Contains(f.Text, "one YAML document") }) {
			t.Errorf("%q: want line %d: %v", text, line, err)
		}
	}
}

func TestEveryPropertyOfTheSchemaIsDescribed(t *testing.T) {
	var root any
	if err := json.Unmarshal(policy.Schema(), &root); err != nil {
		t.Fatal(err)
	}
	seen := 0
	var walk func(path string, v any)
	walk = func(path string, v any) {
		m, ok := v.(map[string]any)
		if !ok {
			return
		}
		if props, ok := m["properties"].(map[string]any); ok {
			if m["additionalProperties"] != false {
				t.Errorf("%s takes unknown keys", path)
			}
			for name, p := range props {
				seen++
				if d, _ := p.(map[string]any)["description"].(string); d == "" {
					t.Errorf("%s.%s has no description", path, name)
				}
			}
		}
		for k, c := range m {
			walk(path+"."+k, c)
		}
	}
	walk("", root)
	if seen < 50 {
		t.Errorf("only %d properties seen", seen)
	}
}

func TestPeriods(t *testing.T) {
	for s, want := range map[string]time.Duration{"P0D": 0, "P30D": 720 * time.Hour, "PT1H": time.Hour, "P1DT2H3M4S": 26*time.Hour + 3*time.Minute + 4*time.Second} {
		if p, err := policy.ParsePeriod(s); err != nil || p.Duration() != want || p.String() != s {
			t.Errorf("%s: %v, %v", s, p.Duration(), err)
		}
	}
	for _, s := range []string{"", "P", "PT", "P1M", "P1Y", "30D", "P-1D", "P1.5D", "P1W"} {
		if _, err := policy.ParsePeriod(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
	for s, want := range map[string]string{"P0D": "at once", "P1D": "1 day", "PT1H": "1 hour", "P30D": "30 days", "PT90M": "90 minutes"} {
		if p, _ := policy.ParsePeriod(s); p.Human() != want {
			t.Errorf("%s: %q, want %q", s, p.Human(), want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(policy.DefaultYAML())
	f.Add([]byte("version: 1\n"))
	f.Add([]byte(strings.NewReplacer("period: P7D", "period: P1M", "homepage:", "homapage:", "suspicions: 4", "suspicions: many", "sweeps:\n", "sweeps: {}\nsleeps:\n").Replace(string(policy.DefaultYAML()))))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := policy.Load("f", b); (p == nil) == (err == nil) {
			t.Error("neither a policy nor a fault")
		}
	})
}
