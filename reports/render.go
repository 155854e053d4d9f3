package reports

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"html/template"
	"strings"
	"time"
)

// Format is a form of a report.
type Format string

// The formats.
const (
	HTML Format = "html"
	JSON Format = "json"
	CSV  Format = "csv"

	Markdown Format = "md" // of the statement only
)

// Formats lists the formats.
func Formats() []Format { return []Format{HTML, JSON, CSV, Markdown} }

// FormatsOf lists the formats of one kind of report.
func FormatsOf(kind string) []Format {
	switch kind {
	case "statement":
		return []Format{HTML, Markdown, JSON}
	case "marketplace":
		return []Format{JSON}
	}
	return []Format{HTML, JSON, CSV}
}

// ParseFormat reads a format's name.
func ParseFormat(s string) (Format, error) {
	for _, f := range Formats() {
		if string(f) == s {
			return f, nil
		}
	}
	return "", fmt.Errorf("the format is one of html, json, csv, md")
}

// ContentType is the media type of a format.
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
		return indented(d)
	case CSV:
		return renderCSV(d)
	case HTML:
		return renderHTML(d)
	}
	return nil, fmt.Errorf("the format is one of html, json, csv")
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
		_ = w.Write(cells) // Error below tells
	}
	row("section", "item", "property", "value")
	for _, m := range [][2]string{{"kind", d.Kind}, {"title", d.Title}, {"as_of", d.AsOf}, {"issuer", d.Issuer}, {"contact", d.Contact}, {"app", d.App},
		{"tool_version", d.ToolVersion}, {"policy_hash", d.PolicyHash}, {"verdict", string(d.Verdict)}, {"reasons", strings.Join(d.Reasons, " ")}} {
		row("report", "", m[0], m[1])
	}
	for i, s := range d.Statements {
		n := fmt.Sprint(i + 1)
		row("statements", n, "text", s.Text)
		row("statements", n, "state", string(s.State))
		row("statements", n, "why", s.Why)
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

// harmless keeps a spreadsheet from taking a cell for a formula.
func harmless(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

//go:embed templates/report.html templates/statement.html
var templates embed.FS

var page = template.Must(template.New("report.html").Funcs(template.FuncMap{
	"class": func(s State) string { return strings.ReplaceAll(string(s), " ", "-") },
	"cell":  func(row []string, i int) string { return row[i] },
	"loud":  loud,
	"isTime": func(s string) bool {
		_, err := time.Parse(time.RFC3339, s)
		return err == nil
	},
}).ParseFS(templates, "templates/report.html"))

// loud reports whether a cell tells of something wrong.
func loud(s string) bool {
	return s == "NO" || strings.HasPrefix(s, "NO: ") || strings.HasPrefix(s, ageUncounted) || s == ageExceeded || s == ageUnknown || s == "failed" || s == "blind" || s == "fail" || s == "findings" || strings.HasPrefix(s, "CONTRADICTS") || s == ageUndeclared || s == "OVERDUE" || s == "REMAINS" || s == "unjudged"
}

func renderHTML(d Document) ([]byte, error) {
	j, err := indented(d)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(j)
	var b bytes.Buffer
	if err := page.Execute(&b, struct {
		Document
		Digest string
	}{d, hex.EncodeToString(sum[:])}); err != nil {
		return nil, fmt.Errorf("rendering the report: %w", err)
	}
	return b.Bytes(), nil
}
