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
// name, or because it refers to the registry.
type tenantColumn struct {
	Schema, Name, Column string
	Type                 string // uuid, text, or other
	Readable             bool   // this role may read the table
	Filtered             bool   // row-level security hides rows from this role
}

// Every ordinary, partitioned (as a whole) and foreign table and materialised
// view, in every schema but the system's own. A view stores nothing.
const catalogQuery = `
SELECT n.nspname AS schema, c.relname AS name, a.attname AS "column",
	CASE WHEN coalesce(NULLIF(t.typbasetype, 0), t.oid) = 'uuid'::regtype THEN 'uuid'
		WHEN coalesce(NULLIF(t.typbasetype, 0), t.oid) IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype) THEN 'text'
		ELSE 'other' END AS type,
	has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS readable,
	row_security_active(c.oid) AS filtered
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'm', 'f') AND NOT c.relispartition
	AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname NOT LIKE 'pg\_temp\_%' AND n.nspname NOT LIKE 'pg\_toast\_temp\_%'
	AND (lower(a.attname) IN ('tenant_id', 'tenant', 'tenantid', 'tenant_uuid') OR lower(a.attname) LIKE '%\_tenant\_id'
		OR EXISTS (SELECT FROM pg_catalog.pg_constraint AS k WHERE k.contype = 'f' AND k.conrelid = c.oid
			AND k.confrelid = 'trakr.tenants'::regclass AND a.attnum = ANY (k.conkey)))
ORDER BY 1, 2, 3`

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
		if err := tx.NewRaw(catalogQuery).Scan(ctx, &columns); err != nil {
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
	predicate := c.predicate()
	sum := sha256.Sum256([]byte(predicate))
	check.PredicateDigest = hex.EncodeToString(sum[:])
	unjudged := func(why string) { check.Disposition, check.Ground = Unjudged, why }
	switch {
	case !c.Readable:
		unjudged("this role may not read the table")
		return
	case c.Filtered:
		unjudged("row-level security hides rows from this role")
		return
	}
	var row struct{ Rows int64 }
	// A savepoint, so that one table's error does not end the snapshot.
	err := tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		return tx.NewRaw(predicate).Scan(ctx, &row)
	})
	switch {
	case err != nil:
		unjudged("the count failed: SQLSTATE " + pg.State(pg.Map(err)))
	case c.Type == "other" && row.Rows > 0:
		check.Rows = row.Rows
		unjudged("the column's type cannot be compared with a tenant id")
	default:
		check.Rows = row.Rows
	}
}

// predicate is the SQL that counts; for a type that cannot be compared it counts
// the rows that would have to be.
func (c tenantColumn) predicate() string {
	table, column := quote(c.Schema)+"."+quote(c.Name), "x."+quote(c.Column)
	switch c.Type {
	case "uuid":
		return `SELECT count(*) AS rows FROM ` + table + ` AS x WHERE ` + column + ` IS NOT NULL AND NOT EXISTS (
	SELECT FROM trakr.tenants AS live WHERE live.state = 'live' AND live.tenant_id = ` + column + `)`
	case "text":
		return `SELECT count(*) AS rows FROM ` + table + ` AS x WHERE ` + column + ` IS NOT NULL AND NOT EXISTS (
	SELECT FROM trakr.tenants AS live WHERE live.state = 'live' AND live.tenant_id::text = lower(btrim(` + column + `::text, ' {}')))`
	}
	return `SELECT count(*) AS rows FROM ` + table + ` AS x WHERE ` + column + ` IS NOT NULL`
}

// quote writes an SQL identifier.
func quote(s string) string {
	b := []byte{'"'}
	for i := range len(s) {
		if s[i] == '"' {
			b = append(b, '"')
		}
		b = append(b, s[i])
	}
	return string(append(b, '"'))
}
