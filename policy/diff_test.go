package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"trakr/policy"
)

func load(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Load("f.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestADiffTellsEachPromiseThatChangedInWords(t *testing.T) {
	whole := string(policy.DefaultYAML())
	for name, c := range map[string]struct {
		old, replacement string
		want             []policy.Change
	}{
		"nothing":             {"", "", nil},
		"a comment":           {"version: 1", "version: 1 # as ever", nil},
		"the order of a list": {"[api.bitbucket.org, bitbucket.org]", "[bitbucket.org, api.bitbucket.org]", nil},
		"said, but as before": {"source: principal.username", "source: principal.username\n    off: false", nil},
		"another spelling":    {"period: P7D", "period: PT168H", nil},
		"a field off":         {"source: principal.username", "source: principal.username\n    off: true", []policy.Change{{"fields", "username", "switched off: no longer kept"}}},
		"a reader more":       {"source: principal.username", "source: principal.username\n    drop_hosts: [example.com]", []policy.Change{{"fields", "username", "drop_hosts example.com added"}}},
		"a longer period":     {"period: P7D", "period: P14D", []policy.Change{{"retention", "backups", "period longer: from 7 days to 14 days"}}},
		"a shorter period":    {"deletion_deadline: PT1H", "deletion_deadline: PT30M", []policy.Change{{"deletion_deadline", "", "shorter: from 1 hour to 30 minutes"}}},
		"a store moved": {"    region: nyc3\n    country: US\n    sub_processor: DigitalOcean, LLC\n    encryption: \"Tenant values: AES", "    region: ams3\n    country: NL\n    sub_processor: DigitalOcean, LLC\n    encryption: \"Tenant values: AES",
			[]policy.Change{{"stores", "database", "moved: country from US to NL"}, {"stores", "database", "moved: region from nyc3 to ams3"}}},
		"a column":    {"columns: [log_id, created_at]", "columns: [log_id, created_at, mood]\n        categories: {mood: system}", []policy.Change{{"stores", "database, trakr.log_identity", "categories mood is now “system”"}, {"stores", "database, trakr.log_identity", "columns mood added"}}},
		"a host":      {"hosts: [api.trakr.example.com]", "hosts: [api.trakr.example.com, x.example.com]", []policy.Change{{"egress", "end-service", "hosts x.example.com added"}}},
		"a scope":     {"    - name: webhook\n", "    - name: repository\n      why: \"To look.\"\n    - name: webhook\n", []policy.Change{{"app", "repository", "added (why: To look.)"}}},
		"a schedule":  {`"17 * * * *"`, `"18 * * * *"`, []policy.Change{{"sweeps", "orphans", "schedule from “17 * * * *” to “18 * * * *”"}}},
		"a job less":  {"  - name: audit partitions\n    schedule: \"41 3 * * *\"\n    does: \"Creates the partitions for the audit's next months.\"\n", "", []policy.Change{{"jobs", "audit partitions", "removed"}}},
		"one exempt":  {"  - what: \"Requests with no valid API token.\"", "  - what: \"Requests without one.\"", []policy.Change{{"not_audited", "Requests with no valid API token.", "removed"}, {"not_audited", "Requests without one.", "added (why: They touch no tenant. They are counted in metrics and logged without the token.)"}}},
		"no deadline": {"    required: true\n", "", []policy.Change{{"egress", "end-service", "required no longer declared; it was “yes”"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(whole, c.old) {
				t.Fatalf("the built-in policy has no %q", c.old)
			}
			got, err := policy.Diff(load(t, whole), load(t, strings.Replace(whole, c.old, c.replacement, 1)))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestThePersonalDataDutyEndsWithTheLastFieldOfAPerson(t *testing.T) {
	off := func(fields ...string) *policy.Policy {
		s := string(policy.DefaultYAML())
		for _, f := range fields {
			s = strings.Replace(s, "source: "+f+"\n", "source: "+f+"\n    off: true\n", 1)
		}
		return load(t, s)
	}
	if applies, text := off().PersonalDataDuty(); !applies || !strings.Contains(text, "username and avatar_url can name") || !strings.Contains(text, off().PersonalData.MetBy) {
		t.Errorf("all on: %v %s", applies, text)
	}
	if applies, text := off("principal.username").PersonalDataDuty(); !applies || strings.Contains(text, "username") {
		t.Errorf("username off: %v %s", applies, text)
	}
	if applies, text := off("principal.username", "principal.links.avatar.href").PersonalDataDuty(); applies || !strings.HasPrefix(text, "Not applicable: the policy switches username and avatar_url off") {
		t.Errorf("both off: %v %s", applies, text)
	}
}
