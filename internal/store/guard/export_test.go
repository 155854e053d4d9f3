package guard

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// In checks the catalog as a transaction sees it that has changed it.
func In(ctx context.Context, tx pgx.Tx) ([]Control, error) {
	found, err := read(ctx, tx)
	return compare(found), err
}

// Bodies returns the digest of each function in the catalog.
func Bodies(ctx context.Context, tx pgx.Tx) []string {
	found, err := read(ctx, tx)
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, f := range found["functions"] {
		if name, body, ok := strings.Cut(f, " has body "); ok {
			out = append(out, name+` … "`+body+`"`)
		}
	}
	return out
}

// Constraints returns the table of constraints.go as the catalog has it.
func Constraints(ctx context.Context, tx pgx.Tx) []string {
	found, err := read(ctx, tx)
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	last := ""
	for _, f := range found["constraints"] {
		table, what, _ := strings.Cut(strings.TrimPrefix(f, "trakr."), " has ")
		if table != last {
			if last != "" {
				out = append(out, "}},")
			}
			out, last = append(out, `{"`+table+`", []string{`), table
		}
		out = append(out, `	"`+what+`",`)
	}
	return append(out, "}},")
}
