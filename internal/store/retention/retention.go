// Package retention deletes the rows that are past the policy's period, in bounded
// batches, and counts those that are past it and still stored. The database decides what
// may be deleted: its functions know the tables, the floors of the periods, and what else
// needs a row. Each deletion is recorded in the audit in its transaction.
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

// Bounds of a deletion: rows in one statement, statements of each table in one
// transaction, transactions in one pass.
const (
	rowsPerStatement   = 1000
	statementsPerTable = 10
	maxRounds          = 1000
)

// first are the tables whose rows others wait for.
var first = []string{"trakr.findings", "trakr.erasures"}

// dependent are the tables whose rows are deleted only with those of another table, by the
// database's function.
var dependent = []string{"trakr.sweep_results", "trakr.finding_events", "trakr.erasure_counts", "trakr.deletion_request_events"}

// Table is what is past its period in one table.
type Table struct {
	Name      string
	Predicate string // the SQL that counted; "" when nothing could be counted
	Removed   int64  // by this pass
	Due       int64  // past its period and still stored
	Kept      int64  // all other rows
	At        time.Time
	Took      time.Duration
	Fault     string // why the table could not be checked; "" when it was
}

// Store deletes and counts in one database.
type Store struct{ db *store.DB }

// New returns the store of db.
func New(db *store.DB) *Store { return &Store{db} }

// Class is a class of the policy whose period is over for rows from before Cutoff.
type Class struct {
	Name   string
	Tables []string
	Cutoff time.Time
}

// Retire deletes, in batches, the rows of a class that are older than its cutoff and that
// nothing else needs, and counts what is left. Each transaction records what it deleted, so
// no row is deleted without its event. A table that fails does not hide the others: it is
// returned with its fault. The database enforces the floors.
func (s *Store) Retire(ctx context.Context, a lifecycle.Access, c Class, now time.Time) ([]Table, error) {
	p := newPass(s, c)
	for n, more := 0, true; more && n < maxRounds; n++ {
		var err error
		if more, err = p.round(ctx, a, now); err != nil {
			return nil, fmt.Errorf("deleting what is past its period of the class %s: %w", c.Name, err)
		}
	}
	return p.count(ctx)
}

// Count counts what Retire would delete and what it would leave.
func (s *Store) Count(ctx context.Context, c Class) ([]Table, error) { return newPass(s, c).count(ctx) }

// pass is one pass over a class.
type pass struct {
	store *Store
	class Class
	order []string          // the tables with a rule of their own, in the order of deletion
	found map[string]*Table // every table of the class, by name
}

func newPass(s *Store, c Class) *pass {
	p := &pass{store: s, class: c, found: map[string]*Table{}}
	var rest []string
	for _, t := range c.Tables {
		p.found[t] = &Table{Name: t}
		switch {
		case slices.Contains(dependent, t):
		case slices.Contains(first, t):
			p.order = append(p.order, t)
		default:
			rest = append(rest, t)
		}
	}
	p.order = append(p.order, rest...)
	return p
}

// fault keeps the first reason why a table could not be checked.
func (t *Table) fault(err error) {
	switch {
	case err == nil || t.Fault != "":
	case pg.State(err) == "22023":
		t.Fault = "the database has no rule for this table, or the moment is younger than its floor"
	default:
		t.Fault = "SQLSTATE " + pg.State(err)
	}
}

// round deletes some batches of each table, with the event, in one transaction; more
// reports that others may be left. A crash before its commit deletes nothing, one after it
// leaves the rest to the next pass.
func (p *pass) round(ctx context.Context, a lifecycle.Access, now time.Time) (more bool, err error) {
	removed := map[string]int64{}
	err = pg.InTx(ctx, p.store.db, func(ctx context.Context, tx bun.Tx) error {
		clear(removed)
		more = false
		for _, t := range p.order {
			if p.found[t].Fault != "" {
				continue
			}
			begin := time.Now()
			left, err := p.retire(ctx, tx, t, removed)
			p.found[t].Took += time.Since(begin)
			if err != nil && (ctx.Err() != nil || pg.State(err) == "") {
				return err
			}
			p.found[t].fault(err)
			more = more || left
		}
		if len(removed) == 0 {
			return nil
		}
		e := audit.New(ctx, now, a, audit.RetireRows, audit.Success)
		e.StatusDetail = p.class.Name + " before " + p.class.Cutoff.UTC().Format(time.DateOnly) + ": " + counts(removed)
		return audit.Append(ctx, tx, e)
	})
	if err != nil {
		return false, err
	}
	for t, n := range removed {
		if p.found[t] != nil {
			p.found[t].Removed += n
		}
	}
	return more, nil
}

// retire deletes some batches of one table, under a savepoint of its own, and adds them to
// removed.
func (p *pass) retire(ctx context.Context, tx bun.Tx, table string, removed map[string]int64) (more bool, err error) {
	batch := map[string]int64{}
	err = pg.Map(tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		for range statementsPerTable {
			var rows []struct {
				Table string `bun:"table_name"`
				Rows  int64
			}
			const retire = `SELECT table_name, rows FROM door.retire(?, ?, ?)`
			if err := tx.NewRaw(retire, table, p.class.Cutoff, rowsPerStatement).Scan(ctx, &rows); err != nil {
				return err
			}
			if more = len(rows) > 0; !more {
				return nil
			}
			for _, r := range rows {
				batch[r.Table] += r.Rows
			}
		}
		return nil
	}))
	if err != nil {
		return false, err
	}
	for t, n := range batch {
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

// count counts what is left in every table, and returns the tables in the class's order.
func (p *pass) count(ctx context.Context) ([]Table, error) {
	for _, t := range p.order {
		begin := time.Now()
		err := p.countTable(ctx, t)
		if err != nil && (ctx.Err() != nil || pg.State(err) == "") {
			return nil, fmt.Errorf("counting what is past its period in %s: %w", t, err)
		}
		p.found[t].Took += time.Since(begin)
		p.found[t].fault(err)
	}
	out := make([]Table, 0, len(p.class.Tables))
	for _, t := range p.class.Tables {
		if p.found[t].Predicate == "" && p.found[t].Fault == "" {
			p.found[t].Fault = "the table that its rows depend on could not be counted"
		}
		out = append(out, *p.found[t])
	}
	return out, nil
}

const selectRetirable = `SELECT table_name, predicate, due, total, transaction_timestamp() AS at FROM door.retirable(?, ?)`

// countTable counts one table and those that are deleted with it.
func (p *pass) countTable(ctx context.Context, table string) error {
	var rows []struct {
		Table      string `bun:"table_name"`
		Predicate  string
		Due, Total int64
		At         time.Time
	}
	if err := pg.Map(pg.Bun(p.store.db).NewRaw(selectRetirable, table, p.class.Cutoff).Scan(ctx, &rows)); err != nil {
		return err
	}
	for _, r := range rows {
		t := p.found[r.Table]
		if t == nil { // declared under another class, and checked there
			continue
		}
		if t.Predicate != "" {
			t.Predicate += "; "
		}
		t.Predicate += r.Predicate
		t.Due += r.Due
		t.Kept, t.At = r.Total-t.Due, r.At.UTC()
	}
	return nil
}

// Column is a column of times of one table.
type Column struct{ Schema, Table, Name string }

const selectOverdue = `SELECT rows, undated, transaction_timestamp() AS at FROM door.measure(?, ?, ?, ?)`

// Overdue counts the rows of a table that are older than a moment, by a column of times; a
// row without a time has no age yet.
func (s *Store) Overdue(ctx context.Context, c Column, before time.Time) (Table, error) {
	out := Table{Name: policy.TableName(c.Schema, c.Table)}
	begin := time.Now()
	var row struct {
		Rows, Undated int64
		At            time.Time
	}
	err := pg.Map(pg.Bun(s.db).NewRaw(selectOverdue, c.Schema, c.Table, c.Name, before).Scan(ctx, &row))
	if err != nil && pg.State(err) == "" {
		return out, fmt.Errorf("counting what is past its period: %w", err)
	}
	if err != nil {
		out.Fault = "SQLSTATE " + pg.State(err)
		return out, nil
	}
	out.Predicate, out.Due = "door.measure "+out.Name+" "+c.Name, row.Rows-row.Undated
	out.At, out.Took = row.At.UTC(), time.Since(begin)
	return out, nil
}
