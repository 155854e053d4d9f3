package policy_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"trakr/internal/lifecycle"
	"trakr/policy"
	"trakr/reports"
)

const sentence = "version: 1\ntitle: T\nsentences:\n  - id: ours\n    text: \"We keep only {kept}.\"\n    checks: [fields]\n"

func TestASentenceSaysWhatThePolicySays(t *testing.T) {
	p, err := policy.Default()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"{kept}": "client key, UUID, username and avatar", "{cities}, {countries}, {providers}": "New York, United States, DigitalOcean",
		"{deadline}": "1 hour", "{missed}": "6 days", "{backups}": "Backups that still contain deleted data are deleted 7 days later", "{sent}": "The client key (which contains the workspace's UUID) and details of the app are",
		"{scopes}": "the scopes account and webhook", "{sweeps}": "every hour", "{due}": "30 days", "plain": "plain",
	} {
		if got := p.Fill(text); got != want {
			t.Errorf("%s: %q", text, got)
		}
	}
	less, err := policy.Load("f", []byte(strings.NewReplacer("source: principal.username\n", "source: principal.username\n    off: true\n",
		"source: principal.links.avatar.href\n", "source: principal.links.avatar.href\n    off: true\n",
		"    egress: [bitbucket, end-service]\n", "    egress: [bitbucket]\n", "    details: [app_key, app_name]\n", "").Replace(string(policy.DefaultYAML()))))
	if err != nil {
		t.Fatal(err)
	}
	if got := less.Fill("{kept}; {sent}"); got != "client key and UUID; Nothing is" {
		t.Errorf("with two fields off and nothing sent: %q", got)
	}
	// What is not declared is not said: then the guard lets no such client key out.
	end := slices.IndexFunc(p.Egress, func(e policy.Egress) bool { return e.To == lifecycle.ToEndService })
	p.Egress[end].Carries, p.Egress[end].Details = []string{"our own random tenant id"}, nil
	if got := p.Fill("{sent}"); got != "The client key is" {
		t.Errorf("with no carry declared: %q", got)
	}
}

func TestCadenceOfASchedule(t *testing.T) {
	for in, want := range map[string]string{"17 * * * *": "every hour", "*/5 * * * *": "every 5 minutes", "23 2 * * *": "every day", "23 2 * * 1": "by a schedule", "1,2 * * * *": "by a schedule", "*/5 2 * * *": "by a schedule"} {
		if got := policy.Cadence(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestEachFaultOfAStatementIsNamedWithItsLine(t *testing.T) {
	for name, c := range map[string]struct {
		old, replacement string
		line             int
		want             string
	}{
		"another version":    {"version: 1", "version: 2", 1, "version 1"},
		"no title":           {"title: T", "title: \"\"", 2, "no title"},
		"an unknown key":     {"title: T", "title: T\nby: me", 3, "properties 'by' not allowed"},
		"an id with spaces":  {"id: ours", "id: we keep", 4, "lower-case"},
		"nobody fills it":    {"{kept}", "{forgot}", 5, "unknown placeholder {forgot}"},
		"no words":           {"We keep only {kept}.", "…", 5, "no text"},
		"less than shipped":  {"id: ours", "id: kept", 6, "the built-in sentence kept is bound to catalog"},
		"another type":       {"title: T", "title: [T]", 2, "got array, want string"},
		"no text":            {"We keep only {kept}.", "", 5, "no text"},
		"checked by nothing": {"checks: [fields]", "checks: []", 6, "can never be true"},
		"an unknown check":   {"checks: [fields]", "checks: [feelings]", 6, `no check "feelings"`},
		"a check twice":      {"checks: [fields]", "checks: [fields, fields]", 6, "bound twice"},
		"an id twice":        {"    checks: [fields]\n", "    checks: [fields]\n  - id: ours\n    text: x\n    checks: [fields]\n", 7, "used twice"},
		"an alias":           {"text: ", "text: &a ", 5, "anchors"},
		"a list":             {sentence, "- a\n", 1, "want object"},
		"nothing":            {sentence, "", 1, "one YAML document"},
		"not YAML":           {"title: T", "title: [", 2, ""},
		"no sentence":        {sentence[strings.Index(sentence, "sentences"):], "sentences: []\n", 3, "no sentences"},
	} {
		_, err := policy.ParseStatement("s.yaml", []byte(strings.Replace(sentence, c.old, c.replacement, 1)), []string{"fields"})
		var e *policy.Error
		if !errors.As(err, &e) || e.Of != "statement" {
			t.Errorf("%s: taken: %v", name, err)
			continue
		}
		if f := e.Faults[0]; !strings.Contains(f.Text, c.want) || f.Line != c.line {
			t.Errorf("%s: line %d: %s", name, f.Line, f.Text)
		}
	}
}

// A sentence that a policy fills says nothing of a service that acts by another one.
func TestASentenceThatThePolicyFillsIsBoundToIt(t *testing.T) {
	_, err := policy.ParseStatement("s.yaml", []byte(sentence), []string{"fields", "policy"})
	var e *policy.Error
	if !errors.As(err, &e) || len(e.Faults) != 1 || e.Faults[0].Line != 6 || !strings.Contains(e.Faults[0].Text, "bind the sentence to it") {
		t.Errorf("taken: %v", err)
	}
	if _, err := policy.ParseStatement("s.yaml", []byte(strings.Replace(sentence, "[fields]", "[fields, policy]", 1)), []string{"fields", "policy"}); err != nil {
		t.Error(err)
	}
}

func TestAllFaultsOfAStatementComeAtOnce(t *testing.T) {
	text := strings.NewReplacer("version: 1", "version: 2", "title: T", "title: T\nby: me", "{kept}", "{forgot}", "[fields]", "[feelings]").Replace(sentence)
	_, err := policy.ParseStatement("s.yaml", []byte(text), []string{"fields"})
	var e *policy.Error
	if !errors.As(err, &e) || len(e.Faults) != 4 {
		t.Fatalf("want four faults: %v", err)
	}
	for i, line := range []int{1, 3, 6, 7} {
		if e.Faults[i].Line != line {
			t.Errorf("want line %d: %+v", line, e.Faults[i])
		}
	}
}

func TestAStatementOfOnesOwnSaysThatItIs(t *testing.T) {
	own, err := policy.ParseStatement("s.yaml", []byte(sentence), []string{"fields"})
	if err != nil || own.Origin() != "own" {
		t.Errorf("%v", err)
	}
	shipped, err := policy.LoadStatement("", reports.Checks())
	if err != nil || shipped.Origin() != "shipped" || shipped.Hash() == own.Hash() {
		t.Errorf("%v", err)
	}
}

// A table that the built-in policy does not know changes what is said in public.
func TestWhatATableOfOnesOwnHoldsIsSaid(t *testing.T) {
	const own = "    tables:\n      - name: trakr.notes\n        holds: \"x\"\n        columns: [tenant_id, nick_name, mood]\n" +
		"        categories: {tenant_id: system.operations, nick_name: user.account.username, mood: system}\n        class: tenant-fields\n        has_tenant: true\n"
	p, err := policy.Load("f", []byte(strings.NewReplacer(tables, own, "source: principal.username\n", "source: principal.username\n    off: true\n",
		"source: principal.links.avatar.href\n", "source: principal.links.avatar.href\n    off: true\n").Replace(string(policy.DefaultYAML()))))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Fill("{kept}"), "client key, UUID and nick name (user.account.username)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if applies, text := p.PersonalDataDuty(); !applies || !strings.Contains(text, "nick name") {
		t.Errorf("%v: %s", applies, text)
	}
}
