// Package internal_test keeps the directions of the design: which package may
// know which library, and who may import whom.
package internal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
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
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "trakr/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := 0
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages++
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
	if packages < 20 {
		t.Errorf("only %d packages seen", packages)
	}
}

// What `make test` runs without the race detector has nothing for it: no goroutine, no
// channel, nothing of sync.
func TestWhatIsTestedWithoutTheRaceDetectorRunsAlone(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^PURE := (.+)$`).FindSubmatch(makefile)
	if line == nil {
		t.Fatal("the Makefile does not say what it tests without the race detector")
	}
	for _, path := range strings.Fields(string(line[1])) {
		files, err := filepath.Glob(filepath.Join("..", strings.TrimPrefix(path, "trakr/"), "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", path, len(files), err)
		}
		for _, name := range files {
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt, *ast.ChanType:
					t.Errorf("%s starts something that runs beside it", name)
				case *ast.ImportSpec:
					if strings.HasPrefix(n.Path.Value, `"sync`) {
						t.Errorf("%s imports %s", name, n.Path.Value)
					}
				}
				return true
			})
		}
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
