package main

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestTablesFitTheirWidth(t *testing.T) {
	id := "01a20e98-a0d9-7be0-acd3-8cea525129a5"
	long := strings.Repeat("a word ", 40)
	for name, c := range map[string]struct {
		rows [][]string
		want string // "" where only the width counts
	}{
		"narrow": {[][]string{{"KIND", "ROWS"}, {"orphans", "3"}}, "KIND     ROWS\norphans  3\n"},
		"folded": {
			[][]string{{"FINDING", "TENANT", "STATE", "SINCE"}, {id, id, "acknowledged", "2026-11-24T12:00:00Z"}},
			"FINDING                               TENANT                                STATE\n" +
				"  SINCE\n" +
				id + "  " + id + "  acknowledged\n  2026-11-24T12:00:00Z\n",
		},
		"last column wrapped": {[][]string{{"STATE", "DETAIL"}, {"fail", long}}, ""},
		"folded and wrapped":  {[][]string{{"A", "B", "C", "D"}, {id, id, id, long}}, ""},
		"empty cells":         {[][]string{{"A", "B"}, {"", ""}}, "A  B\n   \n"},
	} {
		got := layOut(c.rows)
		if c.want != "" && got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
		for _, line := range strings.Split(got, "\n") {
			if utf8.RuneCountInString(line) > tableWidth {
				t.Errorf("%s: a line of %d columns: %q", name, utf8.RuneCountInString(line), line)
			}
		}
		words := strings.Fields(got)
		for _, row := range c.rows {
			for _, cell := range row {
				for _, w := range strings.Fields(cell) {
					if len(words) > 0 && !strings.Contains(got, w) {
						t.Errorf("%s: %q is lost", name, w)
					}
				}
			}
		}
	}
}
