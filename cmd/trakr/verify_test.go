package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A reviewer gets a file and, by another way, the key; the machine it is checked on
// has neither database nor settings.
func TestAReviewerChecksAnExportOffline(t *testing.T) {
	t.Parallel()
	m := usedMachine(t)
	path := func(name string) string { return filepath.Join(m.dir, name) }
	m.trakr(exitClean, "token", "create", "--role", "reviewer", "--label", "a", "--json") // an event, without a running service
	for format, name := range map[string]string{"ndjson": "a.ndjson", "csv": "a.csv", "ocsf": "a.ocsf.gz"} {
		args := []string{"audit", "export", "--format", format, "--out", name}
		if strings.HasSuffix(name, ".gz") {
			args = append(args, "--gzip")
		}
		if s := m.trakr(exitClean, args...); !strings.Contains(s, "trakr verify "+name) || strings.Contains(s, "no position yet") {
			t.Errorf("%s: %s", format, s)
		}
	}
	if s := m.trakr(exitClean, "audit", "export", "--json", "--from", "1", "--limit", "1", "--out", "part.ndjson"); !strings.Contains(s, `"next": 2`) {
		t.Error(s)
	}
	m.trakr(exitClean, "audit", "checkpoint", "--key", "--out", "log.vkey")
	m.trakr(exitUsage, "audit", "export", "--format", "xml")
	m.trakr(exitUsage, "audit", "export", "--from", "100000")

	reviewer := func(want int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		a := &cli{in: strings.NewReader(""), out: &out, err: &out, environ: []string{"TRAKR_NONSENSE=1"}}
		if code := a.run(t.Context(), append([]string{"verify"}, args...)); code != want {
			t.Errorf("trakr verify %s: exit %d, want %d: %s", strings.Join(args, " "), code, want, out.String())
		}
		return out.String()
	}
	key, err := os.ReadFile(path("log.vkey"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.ndjson", "a.csv", "a.ocsf.gz", "part.ndjson"} {
		if s := reviewer(exitClean, path(name), "--key", path("log.vkey")); !strings.Contains(s, "Proven") || !strings.Contains(s, "Not proven: recorded_at") {
			t.Errorf("%s: %s", name, s)
		}
	}
	var report struct {
		Proven bool
		Events int64
	}
	if err := json.Unmarshal([]byte(reviewer(exitClean, path("a.csv"), "--json", "--key", strings.TrimSpace(string(key)))), &report); err != nil || !report.Proven || report.Events == 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if s := reviewer(exitCannotTell, path("a.ndjson")); !strings.Contains(s, "proves nothing by itself") || !strings.Contains(s, "--key") {
		t.Error(s)
	}
	reviewer(exitCannotTell, path("log.vkey"), "--key", path("log.vkey")) // no export
	reviewer(exitUsage, path("nowhere"), "--key", path("log.vkey"))
	reviewer(exitUsage)
	b, err := os.ReadFile(path("a.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("bad.ndjson"), bytes.Replace(b, []byte(`"success"`), []byte(`"failure"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := reviewer(exitFinding, path("bad.ndjson"), "--key", path("log.vkey")); !strings.Contains(s, "FINDING") || !strings.Contains(s, "changed at position 0") {
		t.Error(s)
	}
}
