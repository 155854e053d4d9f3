package census

import (
	"context"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/drift"
	"trakr/internal/store/findings"
	"trakr/internal/store/internal/pg"
	"trakr/policy"
)

// column is one column of the live catalog. The database's own functions list and
// count them, as a role that sees every row and returns no value.
type column struct {
	Schema   string `bun:"schema_name"`
	Table    string `bun:"table_name"`
	Name     string `bun:"column_name"`
	Carries  string // "tenant", "value" (a guarded value or another name of the installation) or ""
	Kind     string // uuid, text, opaque, number or none: see door.tenant_columns
	Readable bool   // the counting role may read the table
	Filtered bool   // row-level security hides rows from it
}

const catalogQuery = `SELECT schema_name, table_name, column_name, carries, kind, readable, filtered FROM door.tenant_columns()`

// Orphans counts, in one snapshot, the rows of every table that carry a tenant
// which is not live:
//
//   - in a declared table, of the columns that carry a tenant;
//   - in a table or column that no policy declares, of every column that could,
//     whatever its name. Its existence is a finding by itself, because the policy does
//     not declare what it contains.
//
// A column that cannot be counted does not hide the others. The count must include the
// sweep's own orphan, the canary; otherwise the canary's table is Unjudged, whatever else
// was found.
func (s *Store) Orphans(ctx context.Context, declared drift.Declarations) (checks []findings.Check, snapshotAt time.Time, err error) {
	err = pg.InSnapshot(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		var clock struct{ Now time.Time }
		if err := tx.NewRaw(`SELECT transaction_timestamp() AS now`).Scan(ctx, &clock); err != nil {
			return err
		}
		snapshotAt = clock.Now.UTC()
		var columns []column
		if err := tx.NewRaw(catalogQuery).Scan(ctx, &columns); err != nil {
			return err
		}
		last := ""
		for _, c := range columns {
			table := policy.TableName(c.Schema, c.Table)
			d := declared.Table(table)
			if !d.Declared && table != last {
				begin := time.Now()
				check := c.undeclaredTable(ctx, tx, snapshotAt)
				check.Duration = time.Since(begin)
				checks = append(checks, check)
			}
			last = table
			begin := time.Now()
			if check, ok := c.count(ctx, tx, d, snapshotAt); ok {
				check.Duration = time.Since(begin)
				checks = append(checks, check)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		if len(columns) > 0 {
			checks = checkCanary(ctx, tx, checks, snapshotAt)
		}
		return nil
	})
	if err != nil {
		return nil, snapshotAt, fmt.Errorf("counting orphans: %w", err)
	}
	if len(checks) == 0 {
		return nil, snapshotAt, fmt.Errorf("counting orphans: the catalog shows no table with a tenant, not even the registry")
	}
	return checks, snapshotAt, nil
}

// undeclaredTable returns the finding that the column's table exists.
func (c column) undeclaredTable(ctx context.Context, tx bun.Tx, at time.Time) findings.Check {
	check := findings.Check{
		Store: "database", Table: policy.TableName(c.Schema, c.Table), Disposition: findings.Unjudged, Undeclared: true,
		Ground: drift.UndeclaredTable, CheckedAt: at,
	}
	var row struct{ Rows int64 }
	err := tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		return tx.NewRaw(`SELECT rows FROM door.measure(?, ?, '', ?)`, c.Schema, c.Table, at).Scan(ctx, &row)
	})
	if err != nil {
		check.Ground += "; its rows cannot be counted: SQLSTATE " + pg.State(pg.Map(err))
		return check
	}
	check.PredicateDigest, check.Rows = findings.Digest("every row"), row.Rows
	return check
}

const selectOrphans = `SELECT predicate, rows, coalesce(filled, 0) AS filled FROM door.count_orphans(?, ?, ?)`

// count counts the orphans of one column. The check is Unjudged, with the reason as its
// ground, when they cannot be counted; the boolean is false when the column needs no check.
func (c column) count(ctx context.Context, tx bun.Tx, d drift.Table, at time.Time) (findings.Check, bool) {
	check := findings.Check{
		Store: d.Store, Table: policy.TableName(c.Schema, c.Table), Column: c.Name,
		Disposition: findings.Checked, CheckedAt: at,
	}
	listed := d.Has(c.Name)
	check.Undeclared = d.Declared && !listed
	switch {
	case listed && (c.Carries != "tenant" || c.Kind == "none"):
		return check, false
	case !d.Declared && (c.Kind == "none" || c.Kind == "number") && (c.Carries == "" || c.Kind == "none"):
		return check, false // cannot hold a tenant's id; its table is a finding already
	}
	if listed && d.Ground != "" {
		check.Disposition, check.Ground = findings.Retained, d.Ground
	}
	unjudged := func(why string) { check.Disposition, check.Ground = findings.Unjudged, why }
	switch {
	case !c.Readable:
		unjudged("the role that counts may not read the table: GRANT SELECT on it TO trakr_sweep")
		return check, true
	case c.Filtered:
		unjudged("row-level security hides rows from the role that counts, trakr_sweep")
		return check, true
	}
	var row struct {
		Predicate    string
		Rows, Filled int64
	}
	// A savepoint, so that one table's error does not end the snapshot.
	err := tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		return tx.NewRaw(selectOrphans, c.Schema, c.Table, c.Name).Scan(ctx, &row)
	})
	if err != nil {
		unjudged("the count failed: SQLSTATE " + pg.State(pg.Map(err)))
		return check, true
	}
	check.PredicateDigest, check.Rows = findings.Digest(row.Predicate), row.Rows
	comparable := c.Kind == "uuid" || c.Kind == "text"
	switch {
	case row.Rows > 0: // an orphan was found, whatever the column's type
	case check.Undeclared:
		unjudged(drift.UndeclaredColumn)
		check.Rows = row.Filled
	case row.Filled > 0 && c.Carries == "value" && !listed:
		unjudged("named like a value of a tenant, which cannot be compared with a tenant id")
		check.Rows = row.Filled
	case row.Filled > 0 && !comparable:
		unjudged("the column's type cannot be compared with a tenant id")
		check.Rows = row.Filled
	}
	return check, true
}
