package deploy

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"trakr/internal/platform/config"
)

// databaseURL stands for what a platform puts in: DigitalOcean's form.
const databaseURL = "postgresql://trakr:x@db-do-user-1-0.b.db.ondigitalocean.com:25060/trakr?sslmode=require"

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// files lists every file of the folder.
func files(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		// What an operator's own set-up made is not ours to judge.
		if d != nil && d.IsDir() && path == "compose/secrets" {
			return fs.SkipDir
		}
		if err == nil && !d.IsDir() && path != "compose/.env" {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// decode reads YAML; a key given twice is an error.
func decode(t *testing.T, text string) node {
	t.Helper()
	var v map[string]any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("not YAML: %v", err)
	}
	return v
}

// node is a mapping of a YAML file. Its methods return the zero value for what is
// not there or of another kind.
type node map[string]any

func (n node) child(key string) node {
	m, _ := n[key].(map[string]any)
	return m
}

func (n node) text(key string) string {
	s, _ := n[key].(string)
	return s
}

func (n node) list(key string) []any {
	l, _ := n[key].([]any)
	return l
}

func (n node) nodes(key string) []node {
	var out []node
	for _, v := range n.list(key) {
		m, _ := v.(map[string]any)
		out = append(out, m)
	}
	return out
}

func (n node) texts(key string) []string {
	var out []string
	for _, v := range n.list(key) {
		s, _ := v.(string)
		out = append(out, s)
	}
	return out
}

func (n node) number(key string) int {
	switch v := n[key].(type) {
	case uint64:
		return int(v)
	case int64:
		return int(v)
	}
	return 0
}

// onlyKeys reports keys that the format does not have, such as a misspelt one.
func (n node) onlyKeys(t *testing.T, where string, known ...string) {
	t.Helper()
	for _, k := range slices.Sorted(maps.Keys(n)) {
		if !slices.Contains(known, k) && !strings.HasPrefix(k, "x-") {
			t.Errorf("%s: the format has no field %q", where, k)
		}
	}
}

// settings reads lines of the form NAME=value.
func settings(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			out[name] = value
		}
	}
	return out
}

// accepted lets the service's own configuration judge an environment.
func accepted(t *testing.T, where string, env map[string]string) config.Config {
	t.Helper()
	var list []string
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	c, err := config.Load(list, false)
	if err != nil {
		t.Errorf("%s: the service refuses these settings: %v", where, err)
	}
	return c
}

func TestEveryFileSaysWhatItIs(t *testing.T) {
	marker := map[string]string{".go": "", ".sql": "-- ", ".md": "# "}
	for _, path := range files(t) {
		want, known := marker[filepath.Ext(path)]
		if !known {
			want = "#"
		}
		if !strings.HasPrefix(read(t, path), want) {
			t.Errorf("%s does not start with a comment", path)
		}
	}
}

func TestEveryVariableIsKnown(t *testing.T) {
	name := regexp.MustCompile(`\bTRAKR_[A-Z0-9_]*[A-Z0-9]\b`)
	known := config.Variables()
	own := map[string][]string{ // of scripts, not of the service
		"postgres-binaries.sh": {"TRAKR_POSTGRES_SEARCH", "TRAKR_POSTGRES_INSTALL"},
	}
	seen := 0
	for _, path := range files(t) {
		if filepath.Ext(path) == ".go" {
			continue
		}
		for _, v := range name.FindAllString(read(t, path), -1) {
			seen++
			if !slices.Contains(known, v) && !slices.Contains(own[path], v) {
				t.Errorf("%s names %s, which is no setting of the service", path, v)
			}
		}
	}
	if len(known) < 10 || seen < 20 {
		t.Errorf("%d known variables, %d mentions: the check sees too little", len(known), seen)
	}
}

func TestScriptsParse(t *testing.T) {
	for _, path := range files(t) {
		if filepath.Ext(path) != ".sh" {
			continue
		}
		if out, err := exec.CommandContext(t.Context(), "sh", "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", path, err, out)
		}
		if st, err := os.Stat(path); err != nil || st.Mode()&0o111 == 0 {
			t.Errorf("%s is not executable (%v)", path, err)
		}
	}
}
