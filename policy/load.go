package policy

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/goccy/go-yaml"
)

//go:embed trakr.yaml
var defaultYAML []byte

//go:embed schema.json
var schemaJSON []byte

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

// Fault is one error in a policy or statement file.
type Fault struct {
	Line int    `json:"line"` // from 1; 0 for the file as a whole
	Path string `json:"path"` // e.g. "$.fields[0].name"
	Text string `json:"text"`
}

// Error is every fault of a file.
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

// Load reads and validates a policy. It returns every fault at once, as an *Error, and
// never a policy that is only partly valid. The name appears in the error.
func Load(name string, data []byte) (*Policy, error) {
	d, err := read("policy", data, policySchema)
	if err != nil {
		return nil, err
	}
	p := &Policy{}
	if d.decode(p) {
		validate(p, d)
	}
	if d.faults != nil {
		return nil, &Error{Of: "policy", File: name, Faults: d.sorted()}
	}
	sum := sha256.Sum256(data)
	p.hash, p.source = hex.EncodeToString(sum[:]), bytes.Clone(data)
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
