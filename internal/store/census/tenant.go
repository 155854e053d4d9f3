package census

import (
	"context"
	"fmt"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"trakr/internal/drift"
	"trakr/internal/lifecycle"
	"trakr/internal/store/findings"
	"trakr/internal/store/internal/pg"
	"trakr/policy"
)

// Tenant counts, in one snapshot, the rows of one tenant: in every column of the live
// catalog that carries a tenant, and in every one that no policy declares and that can
// contain an id, whatever its name. A check is Retained with its ground where the policy
// lets rows outlive their tenant, Unjudged where the rows cannot be counted, else Checked:
// such rows are deleted with the tenant.
func (s *Store) Tenant(
	ctx context.Context, id lifecycle.TenantID, declared drift.Declarations,
) (checks []findings.Check, snapshotAt time.Time, err error) {
	err = pg.InSnapshot(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		known, err := listed(ctx, tx, declared)
		if err != nil {
			return err
		}
		var rows []struct {
			SchemaName, TableName, ColumnName, Predicate string
			Rows                                         *int64
			Now                                          time.Time
		}
		err = tx.NewRaw(selectTenantCounts, id.String(), pgdialect.Array(known)).Scan(ctx, &rows)
		if err != nil {
			return err
		}
		for _, r := range rows {
			snapshotAt = r.Now.UTC()
			table := policy.TableName(r.SchemaName, r.TableName)
			d := declared.Table(table)
			check := findings.Check{
				Store: d.Store, Table: table, Column: r.ColumnName, Disposition: findings.Checked, CheckedAt: snapshotAt,
			}
			check.Undeclared = !d.Has(r.ColumnName)
			if !check.Undeclared && d.Ground != "" {
				check.Disposition, check.Ground = findings.Retained, d.Ground
			}
			if r.Rows == nil {
				check.Disposition, check.Ground = findings.Unjudged, "the role that counts cannot count its rows"
			} else {
				check.PredicateDigest, check.Rows = findings.Digest(r.Predicate), *r.Rows
			}
			checks = append(checks, check)
		}
		return nil
	})
	if err == nil && len(checks) == 0 {
		err = fmt.Errorf("the catalog shows no table with a tenant, not even the registry")
	}
	if err != nil {
		return nil, snapshotAt, fmt.Errorf("counting a tenant's rows: %w", err)
	}
	return checks, snapshotAt, nil
}

const (
	selectTenantCounts = `SELECT schema_name, table_name, column_name, predicate, rows, transaction_timestamp() AS now
		FROM door.count_tenant(?, ?)`
	selectQuotedColumns = `SELECT schema_name, table_name, column_name,
			format('%I.%I.%I', schema_name, table_name, column_name) AS quoted
		FROM door.tenant_columns()`
)

// listed returns the columns of the live catalog that are declared, quoted as count_tenant
// compares them.
func listed(ctx context.Context, tx bun.Tx, declared drift.Declarations) ([]string, error) {
	var columns []struct{ SchemaName, TableName, ColumnName, Quoted string }
	if err := tx.NewRaw(selectQuotedColumns).Scan(ctx, &columns); err != nil {
		return nil, err
	}
	out := []string{}
	for _, c := range columns {
		if declared.Table(policy.TableName(c.SchemaName, c.TableName)).Has(c.ColumnName) {
			out = append(out, c.Quoted)
		}
	}
	return out, nil
}
