package main

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// tableWidth is how many columns of a terminal a table takes at most. A single cell that
// is wider, such as a path, is not cut.
const tableWidth = 100

// gap separates two columns, and indents what continues a row.
const gap = "  "

// table prints rows for people. A row that does not fit continues on further lines, and
// so does the header, so that the columns stay aligned; the words of the last column are
// wrapped.
func (a *cli) table(header string, rows func(line func(cells ...any))) error {
	all := [][]string{strings.Split(header, "\t")}
	rows(func(cells ...any) {
		row := make([]string, len(cells))
		for i, c := range cells {
			if t, ok := c.(time.Time); ok {
				c = t.UTC().Format(time.RFC3339)
			}
			row[i] = fmt.Sprint(c)
		}
		all = append(all, row)
	})
	_, err := fmt.Fprint(a.out, layOut(all))
	return err
}

// layOut returns rows as aligned lines of at most tableWidth columns. The rows have
// equally many cells.
func layOut(rows [][]string) string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	folds := fold(widths)
	var b strings.Builder
	for _, row := range rows {
		for _, f := range folds {
			writeLine(&b, row, widths, f)
		}
	}
	return b.String()
}

// span is the cells from first up to, not including, end that are printed on one line.
type span struct{ first, end int }

// fold distributes columns over lines. The last column may be wrapped, so it needs no
// line of its own where two fifths of the width are left for it.
func fold(widths []int) []span {
	var out []span
	line, at := span{}, 0
	for i, w := range widths {
		need := w
		if i == len(widths)-1 {
			need = min(w, tableWidth*2/5)
		}
		if i > line.first && at+len(gap)+need > tableWidth {
			out = append(out, line)
			line, at = span{i, i}, len(gap)
		}
		if i > line.first {
			at += len(gap)
		}
		line.end, at = i+1, at+w
	}
	return append(out, line)
}

// writeLine prints one line of a row.
func writeLine(b *strings.Builder, row []string, widths []int, s span) {
	var line strings.Builder
	if s.first > 0 {
		line.WriteString(gap)
	}
	for i := s.first; i < min(s.end, len(row)); i++ {
		if i > s.first {
			line.WriteString(gap)
		}
		if i == len(widths)-1 {
			at := utf8.RuneCountInString(line.String())
			line.WriteString(strings.Join(wrap(row[i], max(tableWidth-at, tableWidth*2/5)), "\n"+strings.Repeat(" ", at)))
			continue
		}
		line.WriteString(row[i])
		if i < s.end-1 {
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(row[i])))
		}
	}
	b.WriteString(line.String())
	b.WriteByte('\n')
}

// wrap splits a text into lines of at most width columns, at its spaces. A word that is
// wider has a line of its own. A text that fits is not changed.
func wrap(text string, width int) []string {
	if utf8.RuneCountInString(text) <= width {
		return []string{text}
	}
	var out []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			out, line = append(out, line), word
		default:
			line += " " + word
		}
	}
	return append(out, line)
}
