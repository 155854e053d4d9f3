package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"trakr/internal/sweep"
	"trakr/policy"
)

// run executes one command line in this process.
func run(t *testing.T, environ []string, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	a := &cli{in: strings.NewReader(""), out: &o, err: &e, now: time.Now, environ: environ}
	code = a.run(t.Context(), args)
	return code, o.String(), e.String()
}

// written writes the built-in policy with some replacements to a file.
func written(t *testing.T, oldnew ...string) string {
	t.Helper()
	s := string(policy.DefaultYAML())
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(s, oldnew[i]) {
			t.Fatalf("the built-in policy has no %q", oldnew[i])
		}
		s = strings.Replace(s, oldnew[i], oldnew[i+1], 1)
	}
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestNoServiceStartsWithABrokenPolicy(t *testing.T) {
	for name, c := range map[string][3]string{
		"an e-mail field":         {"category: user.account.username", "category: user.contact.email", `\$\.fields\[3\]\.category: .*user\.contact must not be kept`},
		"a needed field off":      {"source: principal.uuid", "source: principal.uuid\n    off: true", `cannot work without principal_uuid`},
		"a short audit":           {"class: audit\n    period: P3650D", "class: audit\n    period: P1D", `audit is kept for at least 365 days`},
		"a secret sent away":      {"    credential: true\n", "    credential: true\n    egress: [end-service]\n", `shared_secret is never sent to end-service`},
		"a scope nobody declared": {"scope: webhook", "scope: repository", `not among the app's scopes`},
		"an unknown key":          {"homepage:", "home:", `additional properties 'home' not allowed`},
		"no YAML":                 {"version: 1", "version: [1", ``},
	} {
		t.Run(name, func(t *testing.T) {
			file := written(t, c[0], c[1])
			for _, args := range [][]string{{"policy", "check", "--policy", file}, {"serve"}} {
				dir := t.TempDir()
				env := []string{"TRAKR_POLICY=" + file, "TRAKR_DATA_DIR=" + dir, "TRAKR_LISTEN=" + freePort(t), "TRAKR_ADMIN_LISTEN=" + freePort(t)}
				code, _, errs := run(t, env, args...)
				if code != exitUsage || !regexp.MustCompile(`policy\.yaml:[1-9]\d*: .*`+c[2]).MatchString(errs) {
					t.Errorf("trakr %s: exit %d\n%s", strings.Join(args, " "), code, errs)
				}
				if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
					t.Errorf("trakr %s began something: %v %v", strings.Join(args, " "), left, err)
				}
			}
		})
	}
}

func TestFaultsOfAPolicyForPrograms(t *testing.T) {
	code, out, _ := run(t, nil, "policy", "check", "--json", "--policy", written(t, "country: US", "country: USA", "period: P7D", "period: P1M"))
	var got struct{ Faults []policy.Fault }
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != exitUsage || len(got.Faults) != 2 || got.Faults[0].Line == 0 || got.Faults[0].Path == "" {
		t.Errorf("exit %d, %v: %s", code, err, out)
	}
}

func TestTheStatementIsCheckedWithThePolicy(t *testing.T) {
	shipped, err := os.ReadFile("../../policy/statement.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := func(text string) string {
		f := filepath.Join(t.TempDir(), "statement.yaml")
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "TRAKR_STATEMENT=" + f
	}
	moon := file("version: 1\ntitle: T\nsentences:\n  - id: moon\n    text: \"We keep nothing on the Moon.\"\n    checks: [requests]\n")
	empty := file("version: 1\ntitle: T\nsentences:\n  - id: moon\n    text: \"…\"\n    checks: []\n")
	broken := written(t, "deletion_deadline: PT1H", "deletion_deadline: PT0H")
	for _, c := range []struct {
		name, statement string
		args            []string
		code            int
		want, not       []string
	}{
		{"one of one's own", moon, nil, exitClean, []string{"sound", "warning: the statement of TRAKR_STATEMENT is your own"}, nil},
		{"for programs", moon, []string{"--json"}, exitClean, []string{`"origin": "own"`}, nil},
		{"the shipped one in a file", file(string(shipped)), nil, exitClean, []string{"sound"}, []string{"warning"}},
		{"an empty promise", empty, nil, exitUsage, []string{"statement.yaml:5: ", "statement.yaml:6: "}, []string{"sound"}},
		{"both broken", empty, []string{"--policy", broken}, exitUsage, []string{"$.deletion_deadline: ", "statement.yaml:5: ", "statement.yaml:6: "}, nil},
		{"both broken, for programs", empty, []string{"--json", "--policy", broken}, exitUsage, []string{`"path": "$.deletion_deadline"`, `"path": "$.sentences[0].text"`}, nil},
		{"none there", "TRAKR_STATEMENT=/nowhere/s.yaml", nil, exitUsage, []string{"no such file"}, nil},
	} {
		code, out, errs := run(t, []string{c.statement}, append([]string{"policy", "check"}, c.args...)...)
		for _, want := range c.want {
			if !strings.Contains(out+errs, want) {
				t.Errorf("%s lacks %q:\n%s%s", c.name, want, out, errs)
			}
		}
		for _, not := range c.not {
			if strings.Contains(out+errs, not) {
				t.Errorf("%s says %q:\n%s%s", c.name, not, out, errs)
			}
		}
		if code != c.code {
			t.Errorf("%s: exit %d, want %d\n%s", c.name, code, c.code, errs)
		}
	}
}

// A kind of sweep that the policy does not bound, or that nothing runs, fails here.
func TestThePolicyKnowsEachSweepThatThereIs(t *testing.T) {
	if got, want := policy.SweepKinds(), sweep.Kinds(); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("the policy bounds %v, and there are %v", got, want)
	}
}

func TestADiffOfTwoPolicies(t *testing.T) {
	same, commented := written(t), written(t, "version: 1", "# A comment.\nversion: 1")
	changed := written(t, "source: principal.username", "source: principal.username\n    off: true", "period: P7D", "period: P14D", "- name: webhook", "- name: webhook\n      why: \"Another one.\"\n    - name: repository")
	for _, c := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"nothing", []string{builtIn, same}, exitClean, []string{"byte by byte"}},
		{"a comment", []string{same, commented}, exitClean, []string{"the promises are the same", "and so the hash"}},
		{"promises", []string{builtIn, changed}, exitFinding, []string{"  repository: added (why", "fields\n  username: switched off: no longer kept", "retention\n  backups: period longer: from 7 days to 14 days"}},
		{"for programs", []string{"--json", commented, changed}, exitFinding, []string{`"same_promises": false`, `"section": "fields"`, `"subject": "username"`}},
		{"a broken one", []string{same, written(t, "version: 1", "version: 2")}, exitUsage, []string{"policy.yaml:"}},
		{"none there", []string{same, "/nowhere/p.yaml"}, exitUsage, []string{"no such file"}},
		{"one alone", []string{same}, exitUsage, []string{"trakr policy diff --help"}},
	} {
		code, out, errs := run(t, nil, append([]string{"policy", "diff"}, c.args...)...)
		for _, want := range c.want {
			if !strings.Contains(out+errs, want) {
				t.Errorf("%s lacks %q:\n%s%s", c.name, want, out, errs)
			}
		}
		if code != c.code {
			t.Errorf("%s: exit %d, want %d", c.name, code, c.code)
		}
	}
}
