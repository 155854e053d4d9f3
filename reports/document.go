package reports

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"trakr/internal/check"
	"trakr/policy"
)

// Report is a finished report of any kind.
type Report interface {
	// Render returns the report in a format. The same report gives the same bytes.
	Render(f Format) ([]byte, error)
}

// Document is a finished report with statements and tables, ready to be rendered.
type Document struct {
	Kind        string
	Title       string
	AsOf        string // RFC 3339, UTC, to the microsecond: what --as-of takes
	Issuer      string
	Contact     string
	App         string
	ToolVersion string
	PolicyHash  string
	Verdict     check.State    // the worst of Statements
	Reasons     []string       // why Verdict is not a pass
	Statements  []check.Result // what the document states; each title is a sentence
	Sections    []Section
	Notes       []string
}

// documentWords are the states of statements as every format of a document writes them.
// They are part of its JSON form. The word for unknown is not a soft yes: nothing is claimed.
var documentWords = map[check.State]string{check.Pass: "holds", check.Fail: "does not hold", check.Unknown: "cannot tell"}

// Section is one table of a report.
type Section struct {
	ID      string
	Title   string
	Intro   string
	Columns []Column
	Rows    [][]string // one cell per column
}

// Column is one column of a section's table.
type Column struct {
	Key     string // in JSON and CSV
	Title   string // in HTML
	Numeric bool
}

// documentFormats are those in which a Document is rendered.
var documentFormats = []Format{HTML, JSON, CSV}

// kinds is the one list of the reports, in the order of Kinds. To add a report, see "Add a
// report" in internal/README.md.
var kinds = []struct {
	name    string
	formats []Format
	build   builder
}{
	{"location", documentFormats, document(Location)},
	{"retention", documentFormats, document(Retention)},
	{"requests", documentFormats, document(Requests)},
	{"attestation", documentFormats, document(Attestation)},
	{"statement", []Format{HTML, Markdown, JSON}, func(p *policy.Policy, s *policy.SecurityStatement, f Facts, version string) Report {
		return SecurityStatementOf(p, s, f, version)
	}},
	{"marketplace", []Format{JSON}, func(p *policy.Policy, _ *policy.SecurityStatement, f Facts, _ string) Report {
		return SheetOf(p, f)
	}},
}

type builder func(p *policy.Policy, s *policy.SecurityStatement, f Facts, version string) Report

func document(build func(*policy.Policy, Facts, string) Document) builder {
	return func(p *policy.Policy, _ *policy.SecurityStatement, f Facts, version string) Report {
		return build(p, f, version)
	}
}

// Kinds returns the kinds of reports.
func Kinds() []string {
	out := make([]string, len(kinds))
	for i, k := range kinds {
		out[i] = k.name
	}
	return out
}

// Build returns the report of a kind.
func Build(kind string, p *policy.Policy, s *policy.SecurityStatement, f Facts, version string) (Report, error) {
	for _, k := range kinds {
		if k.name == kind {
			return k.build(p, s, f, version), nil
		}
	}
	return nil, fmt.Errorf("unknown kind of report %q: the kinds are %s", kind, strings.Join(Kinds(), ", "))
}

// newDocument returns a document without its sections and notes; its verdict is the worst
// of its statements.
func newDocument(p *policy.Policy, f Facts, version string, statements ...check.Result) Document {
	d := Document{
		AsOf: f.AsOf.UTC().Format(time.RFC3339Nano), Issuer: p.Vendor.Name, Contact: p.Vendor.Contact,
		App: p.App.Name + " (" + p.App.Key + ")", ToolVersion: version, PolicyHash: p.Hash(),
		Verdict: check.Worst(statements...), Reasons: []string{}, Statements: statements,
	}
	for _, s := range statements {
		if s.State != check.Pass {
			d.Reasons = append(d.Reasons, s.Title+" — "+documentWords[s.State]+": "+s.Evidence)
		}
	}
	return d
}

// latelyDays is Lately in days.
const latelyDays = int(Lately / (24 * time.Hour))

// stamp formats a time to the second, or a dash for none. Only AsOf needs more, so that
// the same report can be requested again.
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
