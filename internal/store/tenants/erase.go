package tenants

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/holds"
	"trakr/internal/store/internal/pg"
	"trakr/internal/store/outbox"
	"trakr/policy"
)

// erasableTable is a table that loses a tenant's rows, and the store it is in.
type erasableTable struct{ store, name string }

// erasable lists the tables that lose a tenant's rows at its erasure: every
// declared table with a tenant column that the policy does not retain. A policy
// under which values or queued work would stay is refused here, in code.
func erasable(p *policy.Policy) ([]erasableTable, error) {
	var tables []erasableTable
	values := false
	for _, s := range p.Stores {
		for _, t := range s.Tables {
			if !t.HasTenant {
				continue
			}
			if t.Retained == nil {
				tables = append(tables, erasableTable{s.Name, t.Name})
			}
			values = values || (t.Name == valuesTable && t.Retained == nil)
		}
	}
	if !values {
		return nil, fmt.Errorf("the policy must declare %s with a tenant column and without a ground to retain it", valuesTable)
	}
	return tables, nil
}

// erasableNow reports whether a table exists, has the tenant's column, and lets this login
// delete by it.
const erasableNow = `SELECT count(*) > 0 AS exists, coalesce(bool_or(a.attname IS NOT NULL), false) AS tenant,
		coalesce(bool_or(has_table_privilege(c.oid, 'DELETE') AND has_column_privilege(c.oid, a.attnum, 'SELECT')), false) AS deletable
	FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
	LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
	WHERE c.relkind IN ('r', 'p') AND n.nspname = ? AND c.relname = ?`

// reachable checks that every table exists, has the column and lets this login
// delete: otherwise the first uninstall would find out, and Bitbucket sends it once.
func reachable(ctx context.Context, db *store.DB, tables []erasableTable) error {
	for _, t := range tables {
		table := t.name
		schema, name, _ := strings.Cut(table, ".")
		var row struct{ Exists, Tenant, Deletable bool }
		err := pg.Bun(db).NewRaw(erasableNow, schema, name).Scan(ctx, &row)
		switch {
		case err != nil:
			return fmt.Errorf("looking for the tables that lose a tenant's rows: %w", pg.Map(err))
		case !row.Exists:
			return fmt.Errorf("the policy declares %s, from which an uninstall must delete, and the database has no such table", table)
		case !row.Tenant:
			return fmt.Errorf("the policy declares a tenant column of %s, and it has no tenant_id", table)
		case !row.Deletable:
			return fmt.Errorf("the service may not delete a tenant's rows from %s; "+
				"a migration must grant it DELETE, and SELECT on tenant_id", table)
		}
	}
	return nil
}

// Erasure is why a tenant is erased.
type Erasure struct {
	Trigger     lifecycle.Trigger
	RequestedAt time.Time
	RequestID   string // the deletion request it fulfils; "" for none
	Delivery    Delivery
}

// insertTombstone copies the tokens of the replay guard that can still be presented.
const insertTombstone = `INSERT INTO trakr.erasures (erasure_id, tenant_id, ingress, trigger, subject_digest, token_hash, token_iat,
		spent_tokens, request_id, requested_at, begun_at, principal_digest)
	SELECT ?0, ?1, ?2, ?3, ?4, ?5, ?6, coalesce(array_agg(token_hash), '{}'), NULLIF(?7, '')::uuid, ?8, ?9, ?10
	FROM trakr.replay_guard WHERE tenant_id = ?1 AND expires_at >= ?9`

// BeginErasure inserts a tenant's tombstone and ends its live state in the registry:
// from its commit on nothing of the tenant is released, and its erasure will be
// finished whatever happens. It returns the erasure's id, which is the
// correlation id of every event of it. What Bitbucket sent before the newest
// accepted callback (a late uninstall of an earlier install) changes nothing; the
// id is then the zero one.
func (d *Door) BeginErasure(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, x Erasure) (uuid.UUID, Result, error) {
	if err := a.Check(); err != nil {
		e := audit.New(ctx, d.log.Now(), a, audit.ErasureBegin, audit.Denied)
		e.TenantID = id
		return uuid.UUID{}, "", d.deny(ctx, e, err)
	}
	erasure, err := uuid.NewV7()
	if err != nil {
		return uuid.UUID{}, "", fmt.Errorf("erasing: %w", err)
	}
	now := d.log.Now().UTC()
	e := audit.New(ctx, now, a, audit.ErasureBegin, audit.Success)
	e.TenantID, e.DroppedNames = id, x.Delivery.Dropped
	e.CorrelationID, e.StatusDetail = erasure.String(), string(x.Trigger)
	result, err := d.once(ctx, x.Delivery, e, func(ctx context.Context, tx bun.Tx, t tenantRow) error {
		// The tombstone keeps what orders and recognises later deliveries, in a form
		// that identifies no one: the date, and hashes of tokens that could still be presented.
		var token []byte
		iat := now
		if x.Delivery.signed() {
			token, iat = x.Delivery.TokenHash[:], x.Delivery.IssuedAt
		}
		_, err := tx.NewRaw(insertTombstone, erasure.String(), id.String(), t.Ingress, string(x.Trigger), t.SubjectDigest, token, iat,
			x.RequestID, x.RequestedAt, now, t.PrincipalDigest).Exec(ctx)
		if err != nil {
			return err
		}
		return exactlyOne(tx.NewUpdate().Model((*tenantRow)(nil)).Set("state = ?", string(lifecycle.Erasing)).
			Set("subject_digest = NULL").Set("principal_digest = NULL").Set("last_token_iat = NULL").Set("updated_at = ?", now).
			Where("tenant_id = ?", id.String()).Exec(ctx))
	})
	if err != nil || result != Applied {
		return uuid.UUID{}, result, err
	}
	return erasure, result, nil
}

// Delete removes everything of a tenant whose erasure has begun and is recorded in the
// ledger, in one transaction: its values, and its rows in every other table that the
// policy does not retain. A second call does nothing and succeeds. A legal hold is
// on-hold.
func (d *Door) Delete(ctx context.Context, a lifecycle.Access, erasure uuid.UUID) error {
	if err := a.Check(); err != nil {
		return err
	}
	now := d.log.Now().UTC()
	e := audit.New(ctx, now, a, audit.TenantErase, audit.Success)
	e.FieldNames, e.CorrelationID = lifecycle.Fields(), erasure.String()
	err := pg.InTx(ctx, d.db, func(ctx context.Context, tx bun.Tx) error {
		row, err := lockErasure(ctx, tx, erasure)
		switch {
		case err != nil:
			return err
		case row.ErasedAt != nil:
			return nil
		case row.NotedAt == nil:
			return errors.New("an erasure deletes only after it is recorded in the ledger")
		}
		if e.TenantID, err = lifecycle.ParseTenantID(row.TenantID); err != nil {
			return err
		}
		hold, held, err := holds.Active(ctx, tx, e.TenantID, now)
		if err != nil {
			return err
		}
		if held {
			return hold.Refusal()
		}
		// Replicas' clocks differ; the order of the steps does not.
		now = later(now, row.BegunAt.UTC())
		e.StatusDetail, e.OccurredAt = row.Trigger, now.Truncate(time.Microsecond)
		// The event comes before the act, which the guard on the values' table lets
		// happen only after it.
		if err := audit.Append(ctx, tx, e); err != nil {
			return err
		}
		if err := exactlyOne(tx.NewUpdate().Model((*erasureRow)(nil)).Set("erased_at = ?", now).Set("principal_digest = NULL").
			Where("erasure_id = ?", erasure.String()).Exec(ctx)); err != nil {
			return err
		}
		// Before the payloads are deleted, with every other row of the tenant: what waits
		// to be sent is closed, and the notice replaces it.
		notice := outbox.ErasureNotice{Tenant: e.TenantID, Erasure: erasure, At: now, Announced: d.endService != nil}
		if err := outbox.NotifyErasure(ctx, tx, a, notice); err != nil {
			return fmt.Errorf("entering the notice: %w", err)
		}
		for _, table := range d.eraseFrom {
			if err := deleteFrom(ctx, tx, table, row.TenantID, erasure); err != nil {
				return fmt.Errorf("erasing from %s: %w", table.name, err)
			}
		}
		return exactlyOne(tx.NewUpdate().Model((*tenantRow)(nil)).Set("state = ?", string(lifecycle.Erased)).
			Set("erased_at = ?", now).Set("updated_at = ?", now).Where("tenant_id = ?", row.TenantID).Exec(ctx))
	})
	if err != nil {
		return fmt.Errorf("%s: %w", e.Action, err)
	}
	d.notify()
	return nil
}

// erasureRow is what Delete needs of a row of trakr.erasures.
type erasureRow struct {
	bun.BaseModel `bun:"table:trakr.erasures,alias:e"`

	ErasureID string     `bun:"erasure_id,pk"`
	TenantID  string     `bun:"tenant_id"`
	Trigger   string     `bun:"trigger"`
	BegunAt   time.Time  `bun:"begun_at"`
	NotedAt   *time.Time `bun:"noted_at"`  // when the ledger had it
	ErasedAt  *time.Time `bun:"erased_at"` // when the rows were deleted
}

// lockErasure locks the tenant's row of the registry, as everything does that changes a
// tenant's state: a hold that is placed at the same time either comes before this or is
// refused after it. The erasure is read in a statement of its own, since the locking one
// would show it as it was before the wait.
func lockErasure(ctx context.Context, tx bun.Tx, erasure uuid.UUID) (row erasureRow, err error) {
	tenant := tx.NewSelect().Model((*erasureRow)(nil)).Column("tenant_id").Where("erasure_id = ?", erasure.String())
	_, err = tx.NewSelect().Model((*tenantRow)(nil)).Column("tenant_id").Where("tenant_id = (?)", tenant).For("UPDATE").Exec(ctx)
	if err != nil {
		return row, err
	}
	err = pg.Map(tx.NewSelect().Model(&row).Where("erasure_id = ?", erasure.String()).Scan(ctx))
	if errors.Is(err, pg.ErrNoRows) {
		return row, lifecycle.Fail(lifecycle.NotFound, "There is no erasure with this id.")
	}
	return row, err
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// countRow is one row of trakr.erasure_counts: what one step did to one table.
type countRow struct {
	bun.BaseModel `bun:"table:trakr.erasure_counts"`

	ErasureID       string `bun:"erasure_id"`
	Step            string `bun:"step"`
	Store           string `bun:"store"`
	TableName       string `bun:"table_name"`
	ColumnName      string `bun:"column_name"`
	Retained        bool   `bun:"retained"`
	RowsBefore      int64  `bun:"rows_before"`
	Rows            int64  `bun:"rows"`
	PredicateDigest string `bun:"predicate_digest"`
}

// deleteFrom deletes a tenant's rows of one table and records how many there were.
func deleteFrom(ctx context.Context, tx bun.Tx, table erasableTable, tenant string, erasure uuid.UUID) error {
	schema, name, _ := strings.Cut(table.name, ".")
	var row struct{ Before int64 }
	err := pg.Map(tx.NewRaw(`SELECT count(tenant_id) AS before FROM ?.? WHERE tenant_id = ?`,
		bun.Ident(schema), bun.Ident(name), tenant).Scan(ctx, &row))
	if err != nil {
		return err
	}
	res, err := tx.NewRaw(`DELETE FROM ?.? WHERE tenant_id = ?`, bun.Ident(schema), bun.Ident(name), tenant).Exec(ctx)
	if err != nil {
		return pg.Map(err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	_, err = tx.NewInsert().Model(&countRow{ErasureID: erasure.String(), Step: "delete", Store: table.store, TableName: table.name,
		ColumnName: "tenant_id", RowsBefore: row.Before, Rows: n}).Exec(ctx)
	return err
}

// exactlyOne makes a write that touched no row an error.
func exactlyOne(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n != 1 {
		err = fmt.Errorf("a write touched %d rows instead of one", n)
	}
	return err
}
