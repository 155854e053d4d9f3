package config_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"trakr/internal/platform/config"
)

var update = flag.Bool("update", false, "write deploy/settings.md again")

const settingsFile = "../../../deploy/settings.md"

// The operator's table is generated from the comments of config.Config, so that code and
// documentation cannot disagree.
func TestTheTableOfSettingsIsTheOneOfTheCode(t *testing.T) {
	want := settings(t)
	if *update {
		if err := os.WriteFile(settingsFile, []byte(want), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(settingsFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("deploy/settings.md is not what config.Config documents: run go test ./internal/platform/config -update, then look at the difference")
	}
	for _, name := range config.Variables() {
		if !strings.Contains(want, "\n| `"+name+"` |") {
			t.Errorf("the table lacks %s", name)
		}
	}
}

// settings renders the table.
func settings(t *testing.T) string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("# Settings\n\nThe service reads them from the environment, checks all of them at the start, and reports all faults together. " +
		"This page is generated\nfrom `internal/platform/config` (`go test ./internal/platform/config -update`).\n\n" +
		"| variable | default | what it is |\n|---|---|---|\n")
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != "Config" {
			return true
		}
		for _, f := range spec.Type.(*ast.StructType).Fields.List {
			text, err := strconv.Unquote(f.Tag.Value)
			if err != nil {
				t.Fatal(err)
			}
			tag := reflect.StructTag(text)
			if tag.Get("env") == "-" {
				continue
			}
			description, value := describe(f.Names[0].Name, f.Doc.Text())
			if d, ok := tag.Lookup("envDefault"); ok {
				value = "`" + d + "`"
			}
			if description == "" || strings.Contains(description, "|") {
				t.Errorf("%s has no description that fits a table", f.Names[0].Name)
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", tag.Get("env"), value, description)
		}
		return false
	})
	b.WriteString("| `OTEL_*` | | as the OpenTelemetry standard defines them; while none is set, no telemetry leaves by network |\n")
	return b.String()
}

var (
	defaultClause = regexp.MustCompile(`\s*Default: (.*)\.$`)
	quoted        = regexp.MustCompile("`[^`]*`|TRAKR_[A-Z_]+|trakr_[a-z]+|[a-z]+://[^ ,;)]*[^ ,;:.)]|/[a-z]+[a-z./-]*[a-z]|[a-z]+\\.(?:json|ndjson)|whsec_…?|X-[A-Za-z-]+")
)

// describe splits a field's comment into the description, without the field's name, and the
// default. It marks names, paths and URLs as code.
func describe(field, comment string) (description, value string) {
	text := strings.Join(strings.Fields(comment), " ")
	value = "none"
	if m := defaultClause.FindStringSubmatch(text); m != nil {
		text, value = strings.TrimSuffix(text, m[0]), m[1]
	}
	for _, verb := range []string{" is ", " are ", " "} {
		if rest, ok := strings.CutPrefix(text, field+verb); ok {
			text = rest
			break
		}
	}
	code := func(s string) string {
		return quoted.ReplaceAllStringFunc(s, func(m string) string { return "`" + strings.Trim(m, "`") + "`" })
	}
	return code(strings.TrimSuffix(text, ".")), code(value)
}
