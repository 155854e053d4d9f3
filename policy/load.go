package policy

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

//go:embed trakr.yaml
var defaultYAML []byte

//go:embed schema.json
var schemaJSON []byte

// maxSize bounds a policy file, in bytes.
const maxSize = 1 << 20

// DefaultYAML returns the built-in policy's text.
func DefaultYAML() []byte { return bytes.Clone(defaultYAML) }

// Schema returns the JSON Schema of the file, for editors.
func Schema() []byte { return bytes.Clone(schemaJSON) }

// Default returns the built-in policy.
func Default() (*Policy, error) { return Load("the built-in policy", defaultYAML) }

// LoadFile loads a policy from a file; "" is the built-in one.
func LoadFile(path string) (*Policy, error) {
	if path == "" {
		return Default()
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the policy: %w", err)
	}
	return Load(path, b)
}

// Fault is one thing wrong with a policy file.
type Fault struct {
	Line int    `json:"line"` // from 1; 0 when no line is to blame
	Path string `json:"path"` // e.g. "$.fields[0].name"
	Text string `json:"text"`
}

// Error is everything wrong with a file.
type Error struct {
	Of     string // what the file is: "policy" or "statement"
	File   string
	Faults []Fault
}

// Error implements error: one line per fault, as editors read them.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d fault(s) in the %s", len(e.Faults), e.Of)
	for _, f := range e.Faults {
		fmt.Fprintf(&b, "\n%s:%d: %s: %s", e.File, f.Line, f.Path, f.Text)
	}
	return b.String()
}

// Load reads and judges a policy. It returns every fault at once, as an *Error,
// and never a policy that is only partly sound. The name stands in the faults.
func Load(name string, data []byte) (*Policy, error) {
	fail := func(fs ...Fault) (*Policy, error) {
		slices.SortStableFunc(fs, func(a, b Fault) int { return a.Line - b.Line })
		return nil, &Error{Of: "policy", File: name, Faults: fs}
	}
	if len(data) > maxSize {
		return fail(Fault{Path: "$", Text: "the file is larger than 1 MiB"})
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return fail(syntaxFault(err))
	}
	if len(file.Docs) != 1 || file.Docs[0].Body == nil {
		return fail(Fault{Path: "$", Text: "a policy is one YAML document"})
	}
	root := file.Docs[0].Body
	if f := aliases(root); f != nil {
		return fail(f...)
	}
	var tree any
	if err := yaml.UnmarshalWithOptions(data, &tree, yaml.Strict()); err != nil {
		return fail(syntaxFault(err))
	}
	lines := indexLines(root)
	if faults, err := schemaFaults(tree, lines); err != nil || len(faults) > 0 {
		if err != nil {
			return nil, err
		}
		return fail(faults...)
	}
	p := &Policy{}
	if err := yaml.UnmarshalWithOptions(data, p, yaml.Strict()); err != nil {
		return fail(syntaxFault(err))
	}
	sum := sha256.Sum256(data)
	p.hash, p.source = hex.EncodeToString(sum[:]), bytes.Clone(data)
	if faults := judge(p, lines); len(faults) > 0 {
		return fail(faults...)
	}
	return p, nil
}

// Source returns the exact bytes the policy was loaded from.
func (p *Policy) Source() []byte { return bytes.Clone(p.source) }

// JSON returns the policy as JSON, keys in the order of the file.
func (p *Policy) JSON() ([]byte, error) {
	b, err := yaml.YAMLToJSON(p.source)
	if err != nil {
		return nil, fmt.Errorf("encoding the policy: %w", err)
	}
	return b, nil
}

// syntaxFault places what the YAML library says.
func syntaxFault(err error) Fault {
	f := Fault{Path: "$", Text: strings.SplitN(err.Error(), "\n", 2)[0]}
	var e yaml.Error
	if errors.As(err, &e) {
		f.Text = e.GetMessage()
		if t := e.GetToken(); t != nil && t.Position != nil {
			f.Line = t.Position.Line
		}
	}
	return f
}

// aliases refuses anchors, aliases and merges: what a promise says must be
// readable where it stands.
func aliases(root ast.Node) []Fault {
	var out []Fault
	for _, kind := range []ast.NodeType{ast.AnchorType, ast.AliasType, ast.MergeKeyType} {
		for _, n := range ast.Filter(kind, root) {
			out = append(out, Fault{Line: n.GetToken().Position.Line, Path: n.GetPath(), Text: "anchors, aliases and merges are not used in a policy"})
		}
	}
	return out
}

// lineIndex maps a path like "$.fields[0].name" to its line.
type lineIndex map[string]int

// at returns the line of path or of the nearest thing above it.
func (l lineIndex) at(path string) int {
	for path != "" {
		if n, ok := l[path]; ok {
			return n
		}
		i := strings.LastIndexAny(path, ".[")
		if i <= 0 {
			return l["$"]
		}
		path = path[:i]
	}
	return 0
}

func indexLines(root ast.Node) lineIndex {
	l := lineIndex{"$": 1}
	ast.Walk(visitor(func(n ast.Node) {
		if t := n.GetToken(); t != nil && t.Position != nil {
			if _, ok := l[n.GetPath()]; !ok {
				l[n.GetPath()] = t.Position.Line
			}
		}
	}), root)
	return l
}

type visitor func(ast.Node)

// Visit implements ast.Visitor.
func (v visitor) Visit(n ast.Node) ast.Visitor { v(n); return v }

// compiled is the schema, compiled once.
var compiled = sync.OnceValues(func() (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schemaJSON))
	if err != nil {
		return nil, fmt.Errorf("reading the policy's schema: %w", err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("policy.json", doc); err != nil {
		return nil, fmt.Errorf("reading the policy's schema: %w", err)
	}
	schema, err := c.Compile("policy.json")
	if err != nil {
		return nil, fmt.Errorf("compiling the policy's schema: %w", err)
	}
	return schema, nil
})

// schemaFaults checks the form.
func schemaFaults(tree any, lines lineIndex) ([]Fault, error) {
	schema, err := compiled()
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(tree) // gives the numbers and maps the validator knows
	if err != nil {
		return []Fault{{Line: 1, Path: "$", Text: "the file holds what JSON cannot"}}, nil
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("checking the policy: %w", err)
	}
	var invalid *jsonschema.ValidationError
	if !errors.As(schema.Validate(value), &invalid) {
		return nil, nil
	}
	var out []Fault
	collect(invalid, lines, &out)
	return out, nil
}

func collect(e *jsonschema.ValidationError, lines lineIndex, out *[]Fault) {
	for _, c := range e.Causes {
		collect(c, lines, out)
	}
	if len(e.Causes) > 0 {
		return
	}
	path := "$"
	for _, step := range e.InstanceLocation {
		if _, err := strconv.Atoi(step); err == nil {
			path += "[" + step + "]"
		} else {
			path += "." + step
		}
	}
	text := e.ErrorKind.LocalizedString(message.NewPrinter(language.English))
	*out = append(*out, Fault{Line: lines.at(path), Path: path, Text: text})
}
