package reports

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"trakr/internal/check"
)

// Format is a file format of a report.
type Format string

// Formats of reports.
const (
	HTML     Format = "html"
	JSON     Format = "json"
	CSV      Format = "csv"
	Markdown Format = "md" // only of the statement
)

// Formats returns every format.
func Formats() []Format { return []Format{HTML, JSON, CSV, Markdown} }

// FormatsOf returns the formats of one kind of report.
func FormatsOf(kind string) []Format {
	for _, k := range kinds {
		if k.name == kind {
			return slices.Clone(k.formats)
		}
	}
	return nil
}

// ParseFormat returns the format with this name.
func ParseFormat(s string) (Format, error) {
	for _, f := range Formats() {
		if string(f) == s {
			return f, nil
		}
	}
	return "", fmt.Errorf("unknown format %q: use html, json, csv or md", s)
}

// ContentType returns the media type of a format.
func (f Format) ContentType() string {
	switch f {
	case JSON:
		return "application/json"
	case CSV:
		return "text/csv; charset=utf-8"
	case Markdown:
		return "text/markdown; charset=utf-8"
	}
	return "text/html; charset=utf-8"
}

// Render implements Report.
func (d Document) Render(f Format) ([]byte, error) {
	switch f {
	case JSON:
		return indented(d.jsonForm())
	case CSV:
		return renderCSV(d)
	case HTML:
		return renderHTML(d)
	}
	return nil, fmt.Errorf("the report is available as html, json or csv")
}

// renderCSV writes one flat table: section, item (row), property, value.
func renderCSV(d Document) ([]byte, error) {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	w.UseCRLF = true // RFC 4180
	row := func(cells ...string) {
		for i, c := range cells {
			cells[i] = harmless(c)
		}
		_ = w.Write(cells) // w.Error below returns the error
	}
	row("section", "item", "property", "value")
	for _, m := range [][2]string{
		{"kind", d.Kind}, {"title", d.Title}, {"as_of", d.AsOf}, {"issuer", d.Issuer}, {"contact", d.Contact}, {"app", d.App},
		{"tool_version", d.ToolVersion}, {"policy_hash", d.PolicyHash}, {"verdict", documentWords[d.Verdict]},
		{"reasons", strings.Join(d.Reasons, " ")},
	} {
		row("report", "", m[0], m[1])
	}
	for i, s := range d.Statements {
		n := fmt.Sprint(i + 1)
		row("statements", n, "text", s.Title)
		row("statements", n, "state", documentWords[s.State])
		row("statements", n, "why", s.Evidence)
	}
	for _, s := range d.Sections {
		for i, r := range s.Rows {
			for j, c := range s.Columns {
				row(s.ID, fmt.Sprint(i+1), c.Key, r[j])
			}
		}
	}
	w.Flush()
	if err := w.Error(); err != nil {
		return nil, fmt.Errorf("encoding the report: %w", err)
	}
	return b.Bytes(), nil
}

// harmless returns a cell that a spreadsheet does not take for a formula.
func harmless(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

//go:embed templates/report.html templates/statement.html
var templates embed.FS

var documentPage = template.Must(template.New("report.html").Funcs(template.FuncMap{
	"words": func(s check.State) string { return documentWords[s] },
	"class": func(s check.State) string { return strings.ReplaceAll(documentWords[s], " ", "-") },
	"cell":  func(row []string, i int) string { return row[i] },
	"loud":  loud,
	"isTime": func(s string) bool {
		_, err := time.Parse(time.RFC3339, s)
		return err == nil
	},
}).ParseFS(templates, "templates/report.html"))

// loud reports whether a cell shows that something is wrong.
func loud(s string) bool {
	switch s {
	case "NO", ageExceeded, ageUnknown, ageUndeclared, contradicts, "failed", "blind", "fail", "findings", "OVERDUE", "REMAINS", "unjudged":
		return true
	}
	return strings.HasPrefix(s, "NO: ") || strings.HasPrefix(s, ageUncounted)
}

func renderHTML(d Document) ([]byte, error) {
	j, err := d.Render(JSON)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(j)
	var b bytes.Buffer
	if err := documentPage.Execute(&b, struct {
		Document
		Digest string
	}{d, hex.EncodeToString(sum[:])}); err != nil {
		return nil, fmt.Errorf("rendering the report: %w", err)
	}
	return b.Bytes(), nil
}
