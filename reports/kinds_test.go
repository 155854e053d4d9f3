package reports_test

import (
	"os"
	"strings"
	"testing"

	"trakr/reports"
)

func TestTheReviewersPageHasEachKindWithItsFormats(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range reports.Kinds() {
		var formats []string
		for _, f := range reports.FormatsOf(kind) {
			formats = append(formats, string(f))
		}
		var rows, complete int
		for line := range strings.Lines(string(page)) {
			cell, ok := strings.CutSuffix(strings.TrimSpace(line), " |")
			if !ok || !strings.Contains(cell, "| `trakr report "+kind+"` |") {
				continue
			}
			rows++
			listed := strings.Split(cell[strings.LastIndex(cell, "| ")+2:], ", ")
			if sameSet(listed, formats) {
				complete++
			}
		}
		if rows != 1 || complete != 1 {
			t.Errorf("README.md has %d rows for the report %s, of which %d list the formats %v", rows, kind, complete, formats)
		}
	}
}

func sameSet(a, b []string) bool {
	for _, x := range a {
		if !strings.Contains(" "+strings.Join(b, " ")+" ", " "+x+" ") {
			return false
		}
	}
	return len(a) == len(b)
}
