package sweeps

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/store/internal/pg"
)

// tenantColumn is a column of the live catalog that carries a tenant: by its
// name, or because it refers to the registry. The database's own functions list
// and count them, as a role that sees every row and returns no value.
type tenantColumn struct {
	Schema   string `bun:"schema_name"`
	Name     string `bun:"table_name"`
	Column   string `bun:"column_name"`
	Kind     string // uuid, text, or other
	Readable bool   // the counting role may read the table
	Filtered bool   // row-level security hides rows from it
}

// Declared says what the policy knows of a table: the store it lies in and,
// when its rows outlive their tenant, the ground. ok is false for a table that
// no policy declares; it is checked all the same.
type Declared func(table string) (store, ground string, ok bool)

// Orphans counts, in one snapshot, the rows of every table that carry a tenant
// which is not live. A table that cannot be judged does not hide the rest.
func (s *Store) Orphans(ctx context.Context, declared Declared) (checks []Check, snapshotAt time.Time, err error) {
	err = pg.InSnapshot(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		var clock struct{ Now time.Time }
		if err := tx.NewRaw(`SELECT transaction_timestamp() AS now`).Scan(ctx, &clock); err != nil {
			return err
		}
		snapshotAt = clock.Now.UTC()
		var columns []tenantColumn
		if err := tx.NewRaw(`SELECT schema_name, table_name, column_name, kind, readable, filtered FROM door.tenant_columns()`).Scan(ctx, &columns); err != nil {
			return err
		}
		for _, c := range columns {
			check := Check{Store: "database", Table: c.Schema + "." + c.Name, Column: c.Column, Disposition: Checked, CheckedAt: snapshotAt}
			if st, ground, ok := declared(check.Table); ok {
				check.Store = st
				if ground != "" {
					check.Disposition, check.Ground = Retained, ground
				}
			}
			c.judge(ctx, tx, &check)
			checks = append(checks, check)
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, snapshotAt, fmt.Errorf("counting orphans: %w", err)
	}
	if len(checks) == 0 {
		return nil, snapshotAt, fmt.Errorf("counting orphans: the catalog shows no table with a tenant, not even the registry")
	}
	return checks, snapshotAt, nil
}

// judge counts one column, or says why it cannot.
func (c tenantColumn) judge(ctx context.Context, tx bun.Tx, check *Check) {
	unjudged := func(why string) { check.Disposition, check.Ground = Unjudged, why }
	switch {
	case !c.Readable:
		unjudged("the role that counts may not read the table: GRANT SELECT on it TO trakr_sweep")
		return
	case c.Filtered:
		unjudged("row-level security hides rows from the role that counts, trakr_sweep")
		return
	}
	var row struct {
		Predicate string
		Rows      int64
	}
	// A savepoint, so that one table's error does not end the snapshot.
	err := tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		return tx.NewRaw(`SELECT predicate, rows FROM door.count_orphans(?, ?, ?)`, c.Schema, c.Name, c.Column).Scan(ctx, &row)
	})
	sum := sha256.Sum256([]byte(row.Predicate))
	check.PredicateDigest, check.Rows = hex.EncodeToString(sum[:]), row.Rows
	switch {
	case err != nil:
		unjudged("the count failed: SQLSTATE " + pg.State(pg.Map(err)))
	case c.Kind == "other" && row.Rows > 0:
		unjudged("the column's type cannot be compared with a tenant id")
	}
}
