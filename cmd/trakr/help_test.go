package main

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// everyCommand lists the commands, groups included; cobra's own are not ours.
func everyCommand() []*cobra.Command {
	var out []*cobra.Command
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if sub.Name() != "help" && sub.Name() != "completion" {
				out = append(out, sub)
				walk(sub)
			}
		}
	}
	walk((&cli{out: io.Discard, err: io.Discard, now: time.Now}).root())
	return out
}

func TestEveryCommandHasHelpAndExamples(t *testing.T) {
	all := everyCommand()
	for _, c := range all {
		words := strings.Fields(c.CommandPath())[1:]
		code, out, errs := run(t, nil, append(words, "--help")...)
		if code != exitClean || !strings.Contains(out, "Usage:") || !strings.Contains(out, "Examples:") {
			t.Errorf("%s --help: exit %d: %s%s", c.CommandPath(), code, out, errs)
		}
		if !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s: the example is not one of it: %q", c.CommandPath(), c.Example)
		}
	}
	if len(all) < 40 {
		t.Errorf("only %d commands were seen", len(all))
	}
}

// What help shows as an example is taken by the command line as it stands.
func TestEveryExampleParses(t *testing.T) {
	for _, c := range everyCommand() {
		for _, line := range strings.Split(c.Example, "\n") {
			_, command, ok := strings.Cut(" "+line, " trakr ")
			if _, inner, sub := strings.Cut(line, "$(trakr "); sub {
				command, ok = inner, true
			}
			if !ok {
				continue
			}
			for _, end := range []string{" | ", " > ", " && ", "  #", ")"} {
				command, _, _ = strings.Cut(command, end)
			}
			if why := unparsed(strings.Fields(command)); why != "" {
				t.Errorf("%s: %q: %s", c.CommandPath(), command, why)
			}
		}
	}
}

// unparsed says why the words are no command line; "" when they are one.
func unparsed(words []string) string {
	root := (&cli{out: io.Discard, err: io.Discard, now: time.Now}).root()
	c, rest, err := root.Find(words)
	if err != nil {
		return err.Error()
	}
	if len(rest) == 1 && rest[0] == "--help" {
		return ""
	}
	if c == root {
		return "there is no such command"
	}
	if c.HasSubCommands() && !c.LocalNonPersistentFlags().HasFlags() { // simulate is a command itself
		return c.CommandPath() + " needs a sub-command"
	}
	if err := c.ParseFlags(rest); err != nil {
		return err.Error()
	}
	if err := c.ValidateArgs(c.Flags().Args()); err != nil {
		return err.Error()
	}
	return ""
}

// introduced finds a command line that a message gives as a way out: after a colon or in
// back quotes. What follows it in prose is cut off by asWords.
var introduced = regexp.MustCompile("(?:: |`|:)trakr ([^`\n]*)")

// argument is a word of a message that stands for a value.
var argument = regexp.MustCompile(`^([A-Z][A-Z0-9_]*|[0-9a-f]{8}-[0-9a-f-]{27}|-)$`)

// asWords takes the command line off the beginning of a text: words of commands, flags,
// and what stands for their values.
func asWords(text string) []string {
	var out []string
	at := (&cli{out: io.Discard, err: io.Discard, now: time.Now}).root()
	for _, w := range strings.Fields(text) {
		bare := strings.TrimRight(w, ".,;:)”")
		next := at
		for _, sub := range at.Commands() {
			if sub.Name() == bare {
				next = sub
			}
		}
		kind := false // of a sweep, a report
		for _, v := range at.ValidArgs {
			kind = kind || v == bare
		}
		switch {
		case next != at, kind, argument.MatchString(bare), strings.HasPrefix(bare, "-"):
			out, at = append(out, bare), next
		default:
			return out
		}
		if w != bare {
			return out
		}
	}
	return out
}

// texts are the strings of a source file, with VALUE where something is put into them.
func texts(f *ast.File) (out []string) {
	var folded func(e ast.Expr) (string, bool)
	folded = func(e ast.Expr) (string, bool) {
		switch x := e.(type) {
		case *ast.BasicLit:
			if x.Kind == token.STRING {
				s, err := strconv.Unquote(x.Value)
				return s, err == nil
			}
		case *ast.ParenExpr:
			return folded(x.X)
		case *ast.BinaryExpr:
			a, okA := folded(x.X)
			b, okB := folded(x.Y)
			if x.Op == token.ADD && (okA || okB) {
				if !okA {
					a = "VALUE"
				}
				if !okB {
					b = "VALUE"
				}
				return a + b, true
			}
		}
		return "", false
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if e, ok := n.(ast.Expr); ok {
			if s, ok := folded(e); ok {
				out = append(out, regexp.MustCompile(`%[a-z]`).ReplaceAllString(s, "VALUE"))
				return false
			}
		}
		return true
	})
	return out
}

// A way out that the product prints exists: each command line in a message of any package
// is one that the program takes.
func TestEveryCommandLineThatIsPrintedAsAWayOutParses(t *testing.T) {
	seen := map[string]bool{}
	for _, dir := range []string{".", "../../internal", "../../policy", "../../reports"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil || !bytes.Contains(b, []byte("trakr ")) {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, b, 0)
			if err != nil {
				return err
			}
			for _, text := range texts(f) {
				for _, m := range introduced.FindAllStringSubmatch(text, -1) {
					words := asWords(m[1])
					seen[strings.Join(words, " ")] = true
					if why := unparsed(words); why != "" {
						t.Errorf("%s prints %q: %s", path, "trakr "+m[1], why)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, known := range []string{"outbox list", "sweep run retention --dry-run=false --reason-ref TICKET", "migrate", "audit verify", "restore bind-ledger --reason-ref TICKET", "outbox retry VALUE"} {
		if !seen[known] {
			t.Errorf("%q is printed, and was not seen here: %d were", known, len(seen))
		}
	}
}
