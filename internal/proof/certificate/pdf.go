package certificate

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"

	"codeberg.org/go-pdf/fpdf"
	"golang.org/x/text/encoding/charmap"
)

// Measures of the PDF in millimetres.
const (
	pdfMargin = 16.0
	pdfWidth  = 210 - 2*pdfMargin // A4
	pdfBottom = 297 - 20.0        // where a page's text ends
)

// pdf writes the certificate as a PDF with the JSON attached. Nothing in it is of the
// moment it was made: the dates are the certificate's.
func (c Certificate) pdf() ([]byte, error) {
	j, err := c.JSON()
	if err != nil {
		return nil, err
	}
	f := fpdf.New("P", "mm", "A4", "")
	f.SetCatalogSort(true)
	f.SetCompression(false)
	f.SetCreationDate(c.IssuedAt.UTC())
	f.SetModificationDate(c.IssuedAt.UTC())
	f.SetProducer("trakr", false)
	f.SetTitle(pageTitle, false)
	f.SetLang("en")
	f.SetMargins(pdfMargin, pdfMargin, pdfMargin)
	f.SetAutoPageBreak(false, 0)
	f.SetAttachments([]fpdf.Attachment{{Content: j, Filename: "certificate.json", Description: "The signed certificate"}})
	const pages = "\x02pages" // replaced by their number; no text has it, see writer.text
	f.AliasNbPages(pages)
	w := writer{f: f}
	f.SetFooterFunc(func() {
		f.SetXY(pdfMargin, -13)
		w.font("", 7.5, soft)
		footer := w.text(fmt.Sprintf("%s %s – page %d of ", pageTitle, c.CertificateID, f.PageNo())) + pages
		f.CellFormat(pdfWidth, 4, footer, "", 0, "L", false, 0, "")
	})
	f.AddPage()
	w.page(c.page())
	var b bytes.Buffer
	if err := f.Output(&b); err != nil {
		return nil, fmt.Errorf("rendering a certificate: %w", err)
	}
	return b.Bytes(), nil
}

type colour [3]int

// The colours of the house's pages.
var (
	ink  = colour{0x1b, 0x24, 0x30}
	soft = colour{0x55, 0x60, 0x6e}
	line = colour{0xd5, 0xda, 0xe1}
	pale = colour{0xf5, 0xf7, 0xf9}
)

// writer puts text on pages, from top to bottom.
type writer struct {
	f        *fpdf.Fpdf
	replaced bool // a character was not in the fonts
}

func (w *writer) font(style string, size float64, c colour) {
	w.f.SetFont("Helvetica", style, size)
	w.f.SetTextColor(c[0], c[1], c[2])
}

// text returns s in the encoding of the core fonts (Windows-1252). What they lack
// is shown as a question mark; the attached JSON has it.
func (w *writer) text(s string) string {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		c, ok := charmap.Windows1252.EncodeRune(r)
		switch {
		case r == '\n' || !unicode.IsControl(r) && ok:
		case unicode.IsControl(r):
			c = ' '
		default:
			c, w.replaced = '?', true
		}
		b = append(b, c)
	}
	return string(b)
}

func (w *writer) page(p page) {
	w.font("", 9, soft)
	w.paragraph(p.Issuer, 4.5)
	w.font("B", 19, ink)
	w.paragraph(p.Title, 9)
	w.gap(2)
	for _, x := range p.Facts {
		w.fact(x)
	}
	w.gap(3)
	w.font("B", 12.5, ink)
	w.paragraph(p.Headline, 6)
	w.gap(1)
	w.font("", 9, ink)
	w.paragraph(p.Statement, 4.5)
	for _, s := range p.Sections {
		w.section(s)
	}
	w.heading("How to verify this certificate")
	w.font("", 9, ink)
	for i, step := range p.How {
		w.paragraph(fmt.Sprintf("%d. %s", i+1, step), 4.5)
	}
	w.gap(2)
	w.checkpoint(strings.TrimSuffix(p.Checkpoint, "\n"))
	w.gap(3)
	w.font("", 8, soft)
	w.paragraph(p.Footer, 4)
	if w.replaced {
		w.paragraph("Characters that the fonts of this PDF lack are shown as question marks; the attached certificate.json has them.", 4)
	}
}

// checkpoint writes the signed note in one piece, with room for the page's footer after
// it: it is copied by hand to be compared.
func (w *writer) checkpoint(note string) {
	const title, h, footer = 4.5, 3.8, 11.0
	w.f.SetFont("Courier", "", 7.5)
	w.room(title + h*float64(len(w.lines(note, pdfWidth))) + footer)
	w.font("", 9, ink)
	w.paragraph("The signed checkpoint of the log:", title)
	w.f.SetFont("Courier", "", 7.5)
	w.paragraph(note, h)
}

func (w *writer) gap(h float64) { w.f.SetY(w.f.GetY() + h) }

// room begins a new page when less than h is left of this one. The font stays.
func (w *writer) room(h float64) bool {
	if w.f.GetY()+h <= pdfBottom {
		return false
	}
	w.f.AddPage()
	return true
}

// lines breaks text for a width.
func (w *writer) lines(s string, width float64) []string {
	var out []string
	for _, b := range w.f.SplitLines([]byte(w.text(s)), width) {
		out = append(out, string(b))
	}
	if len(out) == 0 {
		out = []string{""}
	}
	return out
}

func (w *writer) paragraph(s string, h float64) {
	for _, l := range w.lines(s, pdfWidth) {
		w.room(h)
		w.f.SetX(pdfMargin)
		w.f.CellFormat(pdfWidth, h, l, "", 1, "L", false, 0, "")
	}
}

// fact writes a name and its value beside it.
func (w *writer) fact(x fact) {
	const name = 42.0
	w.font("", 9, ink)
	for i, l := range w.lines(x.Value, pdfWidth-name) {
		w.room(4.8)
		w.f.SetX(pdfMargin)
		label := ""
		if i == 0 {
			label = w.text(x.Name)
		}
		w.font("", 9, soft)
		w.f.CellFormat(name, 4.8, label, "", 0, "L", false, 0, "")
		w.font("", 9, ink)
		w.f.CellFormat(pdfWidth-name, 4.8, l, "", 1, "L", false, 0, "")
	}
}

func (w *writer) heading(s string) {
	w.room(30) // a heading is never alone at a page's end
	w.gap(5)
	w.font("B", 11.5, ink)
	w.paragraph(s, 6)
}

func (w *writer) section(s section) {
	w.heading(s.Title)
	if s.Intro != "" {
		w.font("", 9, soft)
		w.paragraph(s.Intro, 4.5)
	}
	if len(s.Rows) == 0 {
		w.font("", 9, soft)
		w.paragraph("None.", 4.5)
		return
	}
	titles := make([]string, len(s.Columns))
	for i, c := range s.Columns {
		titles[i] = c.Title
	}
	header := func() { w.row(s.Columns, titles, "B", nil) }
	header()
	for _, r := range s.Rows {
		w.row(s.Columns, r, "", header)
	}
}

// row writes one row, line by line, so that it may be longer than a page. A row that
// begins or continues on a new page has the header above it.
func (w *writer) row(columns []column, cells []string, style string, header func()) {
	const h = 4.2
	w.font(style, 8, ink)
	split, most := make([][]string, len(cells)), 0
	for i, c := range cells {
		split[i] = w.lines(c, w.width(columns[i]))
		most = max(most, len(split[i]))
	}
	again := func(room float64) {
		if w.room(room) && header != nil {
			header()
		}
		w.font(style, 8, ink)
	}
	again(min(float64(most)*h, 60) + 2)
	w.f.SetFillColor(pale[0], pale[1], pale[2])
	w.gap(1)
	for k := range most {
		again(h)
		x := pdfMargin
		for i, c := range columns {
			l := ""
			if k < len(split[i]) {
				l = split[i][k]
			}
			align := "L"
			if c.Numeric {
				align = "R"
			}
			w.f.SetX(x)
			w.f.CellFormat(w.width(c), h, l, "", 0, align, style == "B", 0, "")
			x += w.width(c)
		}
		w.f.SetXY(pdfMargin, w.f.GetY()+h)
	}
	w.gap(1)
	w.f.SetDrawColor(line[0], line[1], line[2])
	w.f.Line(pdfMargin, w.f.GetY(), pdfMargin+pdfWidth, w.f.GetY())
}

func (w *writer) width(c column) float64 { return pdfWidth * float64(c.Width) / 100 }
