// Package internal_test keeps the directions of the design: which package may
// know which library, who may import whom, and what code looks like.
package internal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// only lists, for each library, the packages that may import it. A prefix with a
// trailing slash allows what lies below.
var only = map[string][]string{
	"github.com/uptrace/bun":         {"trakr/internal/store/"},
	"github.com/jackc/pgx":           {"trakr/internal/store/", "trakr/internal/platform/devpg", "trakr/cmd/trakr-bench"},
	"database/sql":                   {"trakr/internal/store/"},
	"github.com/pressly/goose":       {"trakr/internal/store"},
	"github.com/golang-jwt/jwt":      {"trakr/internal/connect", "trakr/internal/bitbucket"},
	"github.com/robfig/cron":         {"trakr/internal/schedule/"},
	"github.com/tink-crypto/tink-go": {"trakr/internal/keyring"},
	"golang.org/x/mod":               {"trakr/internal/proof/merkle", "trakr/internal/store/audit", "trakr/internal/proof/certificate"},
	"github.com/danielgtaylor/huma":  {"trakr/internal/httpapi", "trakr/cmd/trakr-bench"},
	"github.com/spf13/cobra":         {"trakr/cmd/trakr"},
	"trakr/internal/httpapi":         {"trakr/internal/app", "trakr/cmd/trakr", "trakr/cmd/trakr-bench", "trakr/internal/selfscan"},
	"trakr/internal/store/storetest": {"trakr/internal/erasure/erasuretest"}, // tests only
	"testing":                        {"trakr/internal/store/storetest", "trakr/internal/erasure/erasuretest"},
}

// pure packages take their data as arguments: they open, call and store nothing.
var pure = map[string][]string{
	"trakr/internal/lifecycle":       {"trakr/"},
	"trakr/internal/check":           {"trakr/"},
	"trakr/internal/proof/merkle":    {"trakr/", "os", "net/http", "database/sql", "time"},
	"trakr/internal/proof/auditfile": {"trakr/internal/store", "os", "net/http", "database/sql"},
	"trakr/policy":                   {"trakr/internal/store", "trakr/reports", "net/http", "database/sql"},
	"trakr/reports":                  {"trakr/internal/", "net/http", "os", "database/sql", "time/tzdata"},
	"trakr/internal/connect":         {"trakr/internal/store", "trakr/internal/httpapi", "os"},
}

// words are the packages of words that every package may use; they are pure themselves.
var words = []string{"trakr/internal/lifecycle", "trakr/internal/check"}

func TestImportsFollowTheDesign(t *testing.T) {
	for _, p := range packages(t) {
		for _, imported := range p.Imports {
			for library, allowed := range only {
				if within(imported, library) && !allowedIn(p.ImportPath, allowed) && !within(p.ImportPath, library) {
					t.Errorf("%s imports %s, which only %v may", p.ImportPath, imported, allowed)
				}
			}
			for _, forbidden := range pure[p.ImportPath] {
				if within(imported, forbidden) && !slices.Contains(words, imported) {
					t.Errorf("%s is pure and imports %s", p.ImportPath, imported)
				}
			}
		}
	}
}

// layers are all packages of the module, from the foundations to the commands. A
// package imports only packages of lower layers. Within a layer it imports only what
// is in the same folder: an entry that ends in a slash names a folder's packages.
var layers = [][]string{
	{"internal/lifecycle", "internal/check", "internal/contactdata", "internal/proof/jcs", "internal/proof/merkle",
		"internal/schedule/cronspec", "internal/schedule/leader", "internal/delivery", "migrations", "deploy"},
	{"policy", "internal/keyring", "internal/proof/auditfile", "internal/proof/certificate", "internal/egress/webhook",
		"internal/erasure/ledger", "internal/platform/telemetry", "internal/platform/devpg"},
	{"reports", "internal/connect", "internal/egress"},
	{"internal/bitbucket", "internal/drift", "internal/platform/config", "internal/simulate"},
	{"internal/store/"},
	{"internal/erasure", "internal/rotation", "internal/sequencer", "internal/schedule", "internal/delivery/"},
	{"internal/erasure/erasuretest", "internal/ingress", "internal/sweep"},
	{"internal/sweep/sweeptest", "internal/requests", "internal/evidence"},
	{"internal/view"},
	{"internal/httpapi"},
	{"internal/selfscan"},
	{"internal/app"},
	{"cmd/trakr", "cmd/trakr-bench"},
}

// layerOf returns the number of a package's layer, -1 when it has none, and the folder
// that the layer names it by, if any. The longest entry decides.
func layerOf(path string) (layer int, folder string) {
	layer, longest := -1, 0
	for i, entries := range layers {
		for _, e := range entries {
			if len(e) > longest && allowedIn(path, []string{e}) {
				layer, longest, folder = i, len(e), ""
				if strings.HasSuffix(e, "/") {
					folder = e
				}
			}
		}
	}
	return layer, folder
}

type listed struct {
	ImportPath string
	Imports    []string
}

// packages lists every package of the module but that of these tests.
func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "trakr/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if p.ImportPath != "trakr/internal" {
			all = append(all, p)
		}
	}
	if len(all) < 20 {
		t.Fatalf("only %d packages were listed", len(all))
	}
	return all
}

// The compiler refuses circles; layers keep what is below from knowing what is above.
func TestNoImportRunsUp(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, "trakr/")
		layer, folder := layerOf(path)
		if layer < 0 {
			t.Errorf("%s has no layer: add it to layers", path)
			continue
		}
		for _, imported := range p.Imports {
			other, ours := strings.CutPrefix(imported, "trakr/")
			if !ours {
				continue
			}
			if below, beside := layerOf(other); below > layer || below == layer && (folder == "" || folder != beside) {
				t.Errorf("%s (layer %d) imports %s (layer %d): an import must not run up", path, layer, other, below)
			}
		}
	}
}

// The map has one line for each package: | `path` | what it provides |.
func TestEveryPackageIsOnTheMap(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	mapped := map[string]int{}
	for _, line := range regexp.MustCompile("(?m)^\\| `([a-z/-]+)` \\| .+ \\|$").FindAllSubmatch(text, -1) {
		if path := string(line[1]); strings.Contains(path, "/") || slices.Contains([]string{"policy", "reports", "migrations", "deploy"}, path) {
			mapped[path]++
		}
	}
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, "trakr/")
		if n := mapped[path]; n != 1 {
			t.Errorf("internal/README.md has %d lines for %s, want one", n, path)
		}
		delete(mapped, path)
	}
	for path := range mapped {
		t.Errorf("internal/README.md has a line for %s, which is no package", path)
	}
}

func within(path, prefix string) bool {
	return path == strings.TrimSuffix(prefix, "/") || strings.HasPrefix(path, strings.TrimSuffix(prefix, "/")+"/")
}

func allowedIn(path string, allowed []string) bool {
	for _, a := range allowed {
		if path == strings.TrimSuffix(a, "/") || (strings.HasSuffix(a, "/") && strings.HasPrefix(path, a)) {
			return true
		}
	}
	return false
}
