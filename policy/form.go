package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// maxSize bounds a file, in bytes.
const maxSize = 1 << 20

// document is a YAML file with its faults. Parts of the right form can be validated
// although other parts are not, so that all faults are returned at once.
type document struct {
	root   ast.Node // nil when the file cannot be read
	lines  lineIndex
	blank  map[string]func() // removes the value at a path from root
	faults []Fault
	faulty map[string]bool // paths that have a fault of form
	lost   map[string]bool // paths whose value is missing or cannot be used
}

// schemaOf returns a function that compiles a schema once.
func schemaOf(text func() []byte) func() (*jsonschema.Schema, error) {
	return sync.OnceValues(func() (*jsonschema.Schema, error) {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text()))
		if err != nil {
			return nil, fmt.Errorf("reading a schema: %w", err)
		}
		c := jsonschema.NewCompiler()
		if err := c.AddResource("schema.json", doc); err != nil {
			return nil, fmt.Errorf("reading a schema: %w", err)
		}
		schema, err := c.Compile("schema.json")
		if err != nil {
			return nil, fmt.Errorf("compiling a schema: %w", err)
		}
		return schema, nil
	})
}

var policySchema = schemaOf(func() []byte { return schemaJSON })

// read parses a file and checks it against its schema. Its error is never about the file:
// the errors of the file are among the faults.
func read(of string, data []byte, schema func() (*jsonschema.Schema, error)) (*document, error) {
	d := &document{lines: lineIndex{"$": 1}, blank: map[string]func(){}, faulty: map[string]bool{}, lost: map[string]bool{}}
	if len(data) > maxSize {
		d.add(Fault{Line: 1, Path: "$", Text: "the file is larger than 1 MiB"})
		return d, nil
	}
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey()) // index reports them all
	if err != nil {
		d.add(syntaxFault(err))
		return d, nil
	}
	d.takeOne(of, file)
	if d.root == nil {
		return d, nil
	}
	var tree any
	if err := yaml.NodeToValue(d.root, &tree, yaml.AllowDuplicateMapKey()); err != nil {
		d.add(syntaxFault(err))
		d.root = nil
		return d, nil
	}
	s, err := schema()
	if err != nil {
		return nil, err
	}
	return d, d.checkForm(tree, s)
}

// takeOne takes the file's one document. A second document is a fault and is not read; so
// are aliases: a promise must be readable in place.
func (d *document) takeOne(of string, file *ast.File) {
	docs := slices.DeleteFunc(slices.Clone(file.Docs), func(x *ast.DocumentNode) bool { return x.Body == nil && x.Start == nil })
	if len(docs) == 0 || docs[0].Body == nil {
		d.add(Fault{Line: 1, Path: "$", Text: "a " + of + " is one YAML document"})
		return
	}
	for _, x := range docs[1:] {
		line := lineOf(x.Body)
		if x.Start != nil && x.Start.Position != nil {
			line = x.Start.Position.Line
		}
		d.add(Fault{Line: line, Path: "$", Text: "a " + of + " is one YAML document, and another one begins here"})
	}
	root, aliased := docs[0].Body, false
	for _, kind := range []ast.NodeType{ast.AnchorType, ast.AliasType, ast.MergeKeyType} {
		for _, n := range ast.Filter(kind, root) {
			aliased = true
			d.add(Fault{Line: lineOf(n), Path: n.GetPath(), Text: "anchors, aliases and merges are not allowed in a " + of})
		}
	}
	if aliased {
		return
	}
	d.root = root
	d.index("$", root, func(n ast.Node) { d.root = n })
	d.lines["$"] = 1
}

// index records the line of each value, and reports keys that are given twice.
func (d *document) index(path string, n ast.Node, put func(ast.Node)) {
	switch n := n.(type) {
	case *ast.TagNode:
		d.index(path, n.Value, put)
	case *ast.MappingValueNode:
		d.members(path, []*ast.MappingValueNode{n})
	case *ast.MappingNode:
		d.members(path, n.Values)
	case *ast.SequenceNode:
		for i, v := range n.Values {
			d.index(path+"["+strconv.Itoa(i)+"]", v, func(v ast.Node) { n.Values[i] = v })
		}
	}
	d.lines[path] = lineOf(n)
	d.blank[path] = func() { put(ast.Null(n.GetToken())) }
}

func (d *document) members(path string, list []*ast.MappingValueNode) {
	seen := map[string]bool{}
	for _, m := range list {
		key := m.Key.String()
		if s, ok := m.Key.(*ast.StringNode); ok {
			key = s.Value
		}
		at := path + "." + key
		if seen[key] {
			d.add(Fault{Line: lineOf(m.Key), Path: at, Text: fmt.Sprintf("the key %q is given twice", key)})
		}
		seen[key] = true
		d.index(at, m.Value, func(v ast.Node) { m.Value = v })
		d.lines[at] = lineOf(m.Key)
	}
}

// lineOf returns the line a node begins on: for a mapping, that of its first key.
func lineOf(n ast.Node) int {
	switch m := n.(type) {
	case nil:
		return 1
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return lineOf(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return lineOf(m.Key)
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 1
}

// lineIndex maps a path like "$.fields[0].name" to its line.
type lineIndex map[string]int

// at returns the line of path or of the nearest path above it.
func (l lineIndex) at(path string) int {
	for ; path != ""; path = above(path) {
		if n, ok := l[path]; ok {
			return n
		}
	}
	return l["$"]
}

// above returns the path of what contains a value; "" for the root.
func above(path string) string { return path[:max(strings.LastIndexAny(path, ".["), 0)] }

func (d *document) add(f Fault) { d.faults = append(d.faults, f) }

// sorted returns the faults in the order of the file.
func (d *document) sorted() []Fault {
	slices.SortStableFunc(d.faults, func(a, b Fault) int { return a.Line - b.Line })
	return d.faults
}

// fault adds a fault at a path, unless the value has a fault of form or could not be read.
func (d *document) fault(path, format string, args ...any) {
	if !d.faulty[path] && d.has(path) {
		d.add(Fault{Line: d.lines.at(path), Path: path, Text: fmt.Sprintf(format, args...)})
	}
}

// has reports whether the value at a path could be read, or was permissibly left out.
func (d *document) has(path string) bool {
	for ; path != ""; path = above(path) {
		if d.lost[path] {
			return false
		}
	}
	return true
}

// whole reports whether every entry of a list could be read with the member that names it.
// Only then is it known what the list does not contain.
func (d *document) whole(list, name string) bool {
	for at := range d.lost {
		if index, ok := strings.CutPrefix(at, list+"["); ok {
			if _, rest, _ := strings.Cut(index, "]"); rest == "" || rest == "."+name {
				return false
			}
		}
	}
	return d.has(list)
}

// decode fills v with the parts of the right form, and reports whether it could.
func (d *document) decode(v any) bool {
	if d.root == nil {
		return false
	}
	for at := range d.lost {
		if blank, ok := d.blank[at]; ok {
			blank()
		}
	}
	if err := yaml.NodeToValue(d.root, v, yaml.AllowDuplicateMapKey()); err != nil {
		d.add(syntaxFault(err))
		return false
	}
	return true
}

// syntaxFault returns an error of the YAML library as a fault with its line.
func syntaxFault(err error) Fault {
	f := Fault{Line: 1, Path: "$", Text: strings.SplitN(err.Error(), "\n", 2)[0]}
	var e yaml.Error
	if errors.As(err, &e) {
		f.Text = e.GetMessage()
		if t := e.GetToken(); t != nil && t.Position != nil {
			f.Line = t.Position.Line
		}
	}
	return f
}

// checkForm checks the file against a schema.
func (d *document) checkForm(tree any, schema *jsonschema.Schema) error {
	b, err := json.Marshal(tree) // converts to the numbers and maps that the schema library knows
	if err != nil {
		d.add(Fault{Line: 1, Path: "$", Text: "the file contains a value that JSON cannot represent"})
		d.root = nil
		return nil
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("checking a file's form: %w", err)
	}
	var invalid *jsonschema.ValidationError
	if errors.As(schema.Validate(value), &invalid) {
		d.collect(invalid)
	}
	return nil
}

// collect adds a fault for each value that the schema refuses.
func (d *document) collect(e *jsonschema.ValidationError) {
	for _, c := range e.Causes {
		d.collect(c)
	}
	if len(e.Causes) > 0 {
		return
	}
	path := "$"
	for _, step := range e.InstanceLocation {
		if _, ok := d.lines[path+"["+step+"]"]; ok {
			path += "[" + step + "]"
		} else {
			path += "." + step
		}
	}
	report := func(path string, k jsonschema.ErrorKind) {
		d.add(Fault{Line: d.lines.at(path), Path: path, Text: k.LocalizedString(message.NewPrinter(language.English))})
	}
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties: // each on its own line
		for _, key := range k.Properties {
			report(path+"."+key, &kind.AdditionalProperties{Properties: []string{key}})
		}
	case *kind.Required:
		for _, key := range k.Missing {
			d.lost[path+"."+key] = true
		}
		report(path, k)
	default:
		_, other := k.(*kind.Type)
		if other || strings.HasSuffix(e.SchemaURL, "/$defs/period") { // it cannot be decoded
			d.lost[path] = true
		}
		d.faulty[path] = true
		report(path, k)
	}
}
