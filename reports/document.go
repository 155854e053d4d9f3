package reports

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"trakr/policy"
)

// State is what a report says of a statement.
type State string

// The states. CannotTell is not a soft yes: nothing is claimed.
const (
	Holds      State = "holds"
	Fails      State = "does not hold"
	CannotTell State = "cannot tell"
)

// Statement is one sentence, whether it holds, and how that is known.
type Statement struct {
	Text  string `json:"text"`
	State State  `json:"state"`
	Why   string `json:"why"`
}

// Column is one column of a section's table.
type Column struct {
	Key     string `json:"key"`
	Title   string `json:"title"`
	Numeric bool   `json:"-"`
}

// Section is one table of a report.
type Section struct {
	ID      string
	Title   string
	Intro   string
	Columns []Column
	Rows    [][]string // one cell per column
}

// MarshalJSON implements json.Marshaler: rows become objects with the columns'
// keys, in the columns' order.
func (s Section) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	head, err := json.Marshal(struct {
		ID    string `json:"id"`
		Title string `json:"title"`
		Intro string `json:"intro,omitempty"`
	}{s.ID, s.Title, s.Intro})
	if err != nil {
		return nil, err
	}
	b.Write(head[:len(head)-1])
	b.WriteString(`,"rows":[`)
	for i, row := range s.Rows {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('{')
		for j, c := range s.Columns {
			if j > 0 {
				b.WriteByte(',')
			}
			v, err := json.Marshal(row[j])
			if err != nil {
				return nil, err
			}
			if _, err := strconv.ParseInt(row[j], 10, 64); c.Numeric && err == nil {
				v = []byte(row[j])
			}
			fmt.Fprintf(&b, "%q:%s", c.Key, v)
		}
		b.WriteByte('}')
	}
	b.WriteString("]}")
	return b.Bytes(), nil
}

// Document is a finished report, ready to be rendered.
type Document struct {
	SchemaVersion int         `json:"schema_version"`
	Kind          string      `json:"kind"`
	Title         string      `json:"title"`
	AsOf          string      `json:"as_of"` // RFC 3339, UTC, to the microsecond: what --as-of takes
	Issuer        string      `json:"issuer"`
	Contact       string      `json:"contact"`
	App           string      `json:"app"`
	ToolVersion   string      `json:"tool_version"`
	PolicyHash    string      `json:"policy_hash"`
	Verdict       State       `json:"verdict"`
	Reasons       []string    `json:"reasons"` // why the verdict is not Holds
	Statements    []Statement `json:"statements"`
	Sections      []Section   `json:"sections"`
	Notes         []string    `json:"notes"`
}

// Report is a finished report of any kind.
type Report interface {
	// Render writes it in a format. The same report gives the same bytes.
	Render(f Format) ([]byte, error)
}

// Kinds lists the reports.
func Kinds() []string {
	return []string{"location", "retention", "requests", "attestation", "statement", "marketplace"}
}

// Build makes the report of a kind.
func Build(kind string, p *policy.Policy, s *policy.SecurityStatement, f Facts, version string) (Report, error) {
	switch kind {
	case "location":
		return Location(p, f, version), nil
	case "retention":
		return Retention(p, f, version), nil
	case "requests":
		return Requests(p, f, version), nil
	case "attestation":
		return Attestation(p, f, version), nil
	case "statement":
		return SecurityStatementOf(p, s, f, version), nil
	case "marketplace":
		return SheetOf(p, f), nil
	}
	return nil, fmt.Errorf("there is no report of this kind; there are: %s", strings.Join(Kinds(), ", "))
}

func newDocument(kind, title string, p *policy.Policy, f Facts, version string) Document {
	return Document{SchemaVersion: 1, Kind: kind, Title: title, AsOf: f.AsOf.UTC().Format(time.RFC3339Nano), Issuer: p.Vendor.Name, Contact: p.Vendor.Contact,
		App: p.App.Name + " (" + p.App.Key + ")", ToolVersion: version, PolicyHash: p.Hash(), Reasons: []string{}}
}

// conclude derives the verdict: the worst of the statements, and why.
func (d *Document) conclude(statements ...Statement) {
	d.Statements, d.Verdict = statements, Holds
	for _, s := range statements {
		if s.State == Holds {
			continue
		}
		d.Reasons = append(d.Reasons, s.Text+" — "+string(s.State)+": "+s.Why)
		if d.Verdict != Fails {
			d.Verdict = s.State
		}
	}
}

// stamp formats a time to the second, or a dash for none. Only a report's own
// moment needs more: to ask for the same report again.
func stamp(t *time.Time) string {
	if t == nil {
		return "–"
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

func count(n int64) string { return strconv.FormatInt(n, 10) }

func plural(n int64, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + more
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}
