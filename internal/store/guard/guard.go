// Package guard compares the live catalog with what the migrations and
// deploy/roles.sql made: roles, owners, grants, policies, triggers, functions and
// partitions. The promises about the audit and the tenant's values rest on these,
// and a superuser, a restore or a forgotten GRANT can take any of them away.
//
// It promises that a difference in either direction fails the control it belongs
// to and is named. It changes nothing, and it cannot see what a superuser changed and
// restored between two checks: `trakr audit verify` finds that in the log.
package guard

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"trakr/internal/check"
	"trakr/internal/store"
	"trakr/internal/store/internal/pg"
)

// Control is one property of the database that the promises rest on, with its verdict and
// the differences that it counts.
type Control struct {
	ID   string `json:"id"`
	Name string `json:"name"` // what is true when it passes
	// State is check.Unknown when the catalog could not be read: never a pass.
	State check.State `json:"state"`
	// Differences list what is missing and what is too much.
	Differences []string `json:"differences,omitempty"`
	// Remark is what the operator should know of a control that passes.
	Remark string `json:"remark,omitempty"`
	WayOut string `json:"way_out,omitempty"` // set when it does not pass
	// Required: the service does not start without it.
	Required bool `json:"required"`
}

// Result returns the control's verdict.
func (c Control) Result() check.Result {
	return check.Result{ID: "guard." + c.ID, Title: c.Name, State: c.State, Evidence: c.evidence(), WayOut: c.WayOut}
}

// Detail returns the evidence and the way out in one line, for people.
func (c Control) Detail() string {
	if c.State == check.Pass {
		return c.evidence()
	}
	return c.evidence() + ". Way out: " + c.WayOut
}

func (c Control) evidence() string {
	if c.State == check.Pass {
		return c.Remark
	}
	shown := c.Differences
	more := ""
	if len(shown) > maxShown {
		more = fmt.Sprintf("; and %d more", len(shown)-maxShown)
		shown = shown[:maxShown]
	}
	return strings.Join(shown, "; ") + more
}

const maxShown = 4

// catalog is one statement that returns each control with the facts in the catalog.
//
//go:embed catalog.sql
var catalog string

// facts are the sentences that the catalog statement returns, by control.
type facts map[string][]string

// Check reads the live catalog, in one statement, and checks every control.
func Check(ctx context.Context, db *store.DB) ([]Control, error) {
	var found facts
	err := pgx.BeginTxFunc(ctx, pg.Pool(db), pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		found, err = read(ctx, tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the catalog: %w", pg.Map(err))
	}
	return compare(found), nil
}

func read(ctx context.Context, tx pgx.Tx) (facts, error) {
	// Names come qualified and times in UTC whatever the session's own settings.
	if _, err := tx.Exec(ctx, `SELECT set_config('search_path', 'pg_catalog', true), set_config('timezone', 'UTC', true)`); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, catalog)
	if err != nil {
		return nil, err
	}
	found := facts{}
	var control, fact string
	_, err = pgx.ForEachRow(rows, []any{&control, &fact}, func() error {
		found[control] = append(found[control], fact)
		return nil
	})
	return found, err
}

// compare compares what was found with what is expected.
func compare(found facts) []Control {
	out := make([]Control, 0, len(controls))
	for _, c := range controls {
		want := c.expect(found)
		r := Control{ID: c.id, Name: c.name, Required: c.required, State: check.Pass}
		for _, w := range want.must {
			if !slices.Contains(found[c.id], w) {
				r.Differences = append(r.Differences, "missing: "+w)
			}
		}
		for _, f := range found[c.id] {
			if !slices.Contains(want.must, f) && (want.may == nil || !want.may(f)) {
				r.Differences = append(r.Differences, "too much: "+f)
			}
		}
		if c.remark != nil {
			r.Remark = c.remark(found[c.id])
		}
		if len(r.Differences) > 0 {
			r.State, r.WayOut, r.Remark = check.Fail, c.wayOut, ""
		}
		out = append(out, r)
	}
	return out
}

// Unknown lists every control as unknown, for a database that could not be read.
func Unknown(why error) []Control {
	out := make([]Control, 0, len(controls))
	for _, c := range controls {
		out = append(out, Control{ID: c.id, Name: c.name, Required: c.required, State: check.Unknown,
			Differences: []string{why.Error()}, WayOut: "make the database answer, then check again"})
	}
	return out
}

// Refusal returns the reason not to start: the required controls that do not pass, with
// the way out of each. It is nil when all of them pass.
func Refusal(cs []Control) error {
	var lines []string
	for _, c := range cs {
		if c.Required && c.State != check.Pass {
			lines = append(lines, "  "+c.Name+": "+c.Detail())
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return fmt.Errorf("the database's guards are not in place, so nothing is served (all controls: trakr doctor):\n%s",
		strings.Join(lines, "\n"))
}
