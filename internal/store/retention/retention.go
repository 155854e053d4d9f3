// Package retention deletes the rows that are past the policy's period, in bounded
// batches, and counts those that are past it and still stored. The database decides what
// may be deleted: its functions know the tables, the floors below which no period goes,
// and what else needs a row. Each deletion is recorded in the audit in its transaction.
//
// It is a package of its own because package census deletes nothing.
package retention

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
	"trakr/policy"
)

// Bounds of a removal: rows in one statement, statements of each table in one
// transaction, transactions in one pass.
const (
	retireAtOnce       = 1000
	statementsPerTable = 10
	maxRounds          = 1000
)

// retireFirst are the tables whose rows others wait for.
var retireFirst = []string{"trakr.findings", "trakr.erasures"}

// goesAlong are the tables whose rows go only with those of another (migrations 10 and 14).
var goesAlong = []string{"trakr.sweep_results", "trakr.finding_events", "trakr.erasure_counts", "trakr.deletion_request_events"}

// Table is what is past its period in one table.
type Table struct {
	Name      string
	Predicate string // the SQL that counted; "" when nothing could be
	Removed   int64  // by this pass
	Due       int64  // past its period and still there
	Kept      int64  // all other rows
	At        time.Time
	Took      time.Duration
	Fault     string // why the table could not be judged; "" when it was
}

// Store deletes and counts in one database.
type Store struct{ db *store.DB }

// New returns the store of db.
func New(db *store.DB) *Store { return &Store{db} }

// Retire removes, in batches, the rows of a class's tables that are older than the
// cutoff and that nothing else needs, and counts what is left; dry only counts.
// Each transaction records what it removed, so no row goes without its event. A
// table that fails does not hide the others: it comes back with its fault. The
// floors are the database's.
func (s *Store) Retire(ctx context.Context, a lifecycle.Access, now time.Time, class string, tables []string, cutoff time.Time, dry bool) ([]Table, error) {
	out := map[string]*Table{}
	for _, t := range tables {
		out[t] = &Table{Name: t}
	}
	ruled := order(tables)
	for n, more := 0, !dry; more && n < maxRounds; n++ {
		var err error
		if more, err = s.retireRound(ctx, a, now, class, ruled, cutoff, out); err != nil {
			return nil, fmt.Errorf("removing what is past its period of the class %s: %w", class, err)
		}
	}
	for _, t := range ruled {
		begin := time.Now()
		err := s.retirable(ctx, t, cutoff, out)
		if err != nil && (ctx.Err() != nil || pg.State(err) == "") {
			return nil, fmt.Errorf("counting what is past its period in %s: %w", t, err)
		}
		out[t].Took += time.Since(begin)
		out[t].fault(err)
	}
	list := make([]Table, 0, len(tables))
	for _, t := range tables {
		if out[t].Predicate == "" && out[t].Fault == "" {
			out[t].Fault = "the table whose rows it goes with could not be counted"
		}
		list = append(list, *out[t])
	}
	return list, nil
}

// fault keeps the first reason why a table could not be judged.
func (r *Table) fault(err error) {
	switch {
	case err == nil || r.Fault != "":
	case pg.State(err) == "22023":
		r.Fault = "the database has no rule for this table, or the moment is younger than its floor"
	default:
		r.Fault = "SQLSTATE " + pg.State(err)
	}
}

// order leaves out what goes with others and puts first what others wait for.
func order(tables []string) []string {
	var first, rest []string
	for _, t := range tables {
		switch {
		case slices.Contains(goesAlong, t):
		case slices.Contains(retireFirst, t):
			first = append(first, t)
		default:
			rest = append(rest, t)
		}
	}
	return append(first, rest...)
}

// retireRound removes some batches of each table, with the event, in one
// transaction; more says that others may be left. A crash before its commit removes
// nothing, one after it leaves the rest to the next pass.
func (s *Store) retireRound(ctx context.Context, a lifecycle.Access, now time.Time, class string, tables []string, cutoff time.Time, out map[string]*Table) (more bool, err error) {
	removed := map[string]int64{}
	err = pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		clear(removed)
		more = false
		for _, t := range tables {
			if out[t].Fault != "" {
				continue
			}
			begin := time.Now()
			left, err := retireTable(ctx, tx, t, cutoff, removed)
			out[t].Took += time.Since(begin)
			if err != nil && (ctx.Err() != nil || pg.State(err) == "") {
				return err
			}
			out[t].fault(err)
			more = more || left
		}
		if len(removed) == 0 {
			return nil
		}
		e := audit.New(ctx, now, a, audit.RetireRows, audit.Success)
		e.StatusDetail = class + " before " + cutoff.UTC().Format(time.DateOnly) + ": " + counts(removed)
		return audit.Append(ctx, tx, e)
	})
	if err != nil {
		return false, err
	}
	for t, n := range removed {
		if out[t] != nil {
			out[t].Removed += n
		}
	}
	return more, nil
}

// retireTable removes some batches of one table, under a savepoint of its own.
func retireTable(ctx context.Context, tx bun.Tx, table string, cutoff time.Time, removed map[string]int64) (more bool, err error) {
	mine := map[string]int64{}
	err = pg.Map(tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		for range statementsPerTable {
			var rows []struct {
				Table string `bun:"table_name"`
				Rows  int64
			}
			if err := tx.NewRaw(`SELECT table_name, rows FROM door.retire(?, ?, ?)`, table, cutoff, retireAtOnce).Scan(ctx, &rows); err != nil {
				return err
			}
			if more = len(rows) > 0; !more {
				return nil
			}
			for _, r := range rows {
				mine[r.Table] += r.Rows
			}
		}
		return nil
	}))
	if err != nil {
		return false, err
	}
	for t, n := range mine {
		removed[t] += n
	}
	return more, nil
}

// counts names tables with their numbers, in a fixed order.
func counts(of map[string]int64) string {
	var parts []string
	for _, t := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, fmt.Sprintf("%s %d", t, of[t]))
	}
	return strings.Join(parts, ", ")
}

// retirable counts one table and what goes with its rows.
func (s *Store) retirable(ctx context.Context, table string, cutoff time.Time, out map[string]*Table) error {
	var rows []struct {
		Table      string `bun:"table_name"`
		Predicate  string
		Due, Total int64
		At         time.Time
	}
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT table_name, predicate, due, total, transaction_timestamp() AS at FROM door.retirable(?, ?)`, table, cutoff).Scan(ctx, &rows))
	if err != nil {
		return err
	}
	for _, r := range rows {
		x := out[r.Table]
		if x == nil { // declared under another class: it goes, and is judged there
			continue
		}
		if x.Predicate != "" {
			x.Predicate += "; "
		}
		x.Predicate += r.Predicate
		x.Due += r.Due
		x.Kept, x.At = r.Total-x.Due, r.At.UTC()
	}
	return nil
}

// Overdue counts the rows of a table that are older than a moment, by a column of
// times; a row without one has no age yet.
func (s *Store) Overdue(ctx context.Context, schema, table, column string, before time.Time) (Table, error) {
	out := Table{Name: policy.TableName(schema, table)}
	begin := time.Now()
	var row struct {
		Rows, Undated int64
		At            time.Time
	}
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT rows, undated, transaction_timestamp() AS at FROM door.measure(?, ?, ?, ?)`, schema, table, column, before).Scan(ctx, &row))
	if err != nil && pg.State(err) == "" {
		return out, fmt.Errorf("counting what is past its period: %w", err)
	}
	if err != nil {
		out.Fault = "SQLSTATE " + pg.State(err)
		return out, nil
	}
	out.Predicate, out.Due, out.At, out.Took = "door.measure "+out.Name+" "+column, row.Rows-row.Undated, row.At.UTC(), time.Since(begin)
	return out, nil
}
