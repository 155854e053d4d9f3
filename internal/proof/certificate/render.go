package certificate

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"strings"
	"time"
)

// Format is a form of a certificate.
type Format string

// The formats.
const (
	JSON Format = "json"
	HTML Format = "html"
	PDF  Format = "pdf"
)

// Formats lists the formats.
func Formats() []Format { return []Format{JSON, HTML, PDF} }

// ParseFormat reads a format's name.
func ParseFormat(s string) (Format, error) {
	for _, f := range Formats() {
		if string(f) == s {
			return f, nil
		}
	}
	return "", fmt.Errorf("a certificate's format is one of json, html, pdf")
}

// ContentType is the media type of a format.
func (f Format) ContentType() string {
	switch f {
	case HTML:
		return "text/html; charset=utf-8"
	case PDF:
		return "application/pdf"
	}
	return "application/json"
}

// Render writes a certificate in a format. The same certificate gives the same bytes.
func (c Certificate) Render(f Format) ([]byte, error) {
	switch f {
	case JSON:
		return c.JSON()
	case HTML:
		return c.html()
	case PDF:
		return c.pdf()
	}
	return nil, fmt.Errorf("a certificate's format is one of json, html, pdf")
}

//go:embed templates/certificate.html
var templates embed.FS

var pageTemplate = template.Must(template.New("certificate.html").Funcs(template.FuncMap{
	"cell": func(row []string, i int) string { return row[i] },
	"isTime": func(s string) bool {
		_, err := time.Parse(timeForm, s)
		return err == nil
	},
	"class": func(s State) string { return strings.ReplaceAll(string(s), "_", "-") },
}).ParseFS(templates, "templates/certificate.html"))

// html writes the page. The JSON is inserted as it is: it has no <, > or & in it.
func (c Certificate) html() ([]byte, error) {
	j, err := c.JSON()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, struct {
		page
		State State
		JSON  template.JS
	}{c.page(), c.State, template.JS(j)}); err != nil { //nolint:gosec // G203: encoding/json has escaped what could end the element
		return nil, fmt.Errorf("rendering a certificate: %w", err)
	}
	return b.Bytes(), nil
}
