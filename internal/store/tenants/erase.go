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
	"trakr/internal/store/internal/pg"
	"trakr/policy"
)

const fieldsTable = "trakr.tenant_fields"

// erasable lists the tables that lose a tenant's rows at its erasure: every
// declared table with a tenant column that the policy does not retain. A policy
// under which values or queued work would stay is refused here, in code.
func erasable(p *policy.Policy) ([]string, error) {
	var tables []string
	values := false
	for _, s := range p.Stores {
		for _, t := range s.Tables {
			if !t.HasTenant {
				continue
			}
			if t.Retained == nil {
				tables = append(tables, t.Name)
			}
			values = values || (t.Name == fieldsTable && t.Retained == nil)
		}
	}
	if !values {
		return nil, fmt.Errorf("the policy must declare %s with a tenant column and without a ground to retain it", fieldsTable)
	}
	return tables, nil
}

// reachable checks that every table is there, has the column and lets this login
// delete: otherwise the first uninstall would find out, and Bitbucket sends it once.
func reachable(ctx context.Context, db *store.DB, tables []string) error {
	for _, table := range tables {
		schema, name, _ := strings.Cut(table, ".")
		var row struct{ Exists, Tenant, Deletable bool }
		err := pg.Bun(db).NewRaw(`SELECT count(*) > 0 AS exists, coalesce(bool_or(a.attname IS NOT NULL), false) AS tenant,
				coalesce(bool_or(has_table_privilege(c.oid, 'DELETE') AND has_column_privilege(c.oid, a.attnum, 'SELECT')), false) AS deletable
			FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
			LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
			WHERE c.relkind IN ('r', 'p') AND n.nspname = ? AND c.relname = ?`, schema, name).Scan(ctx, &row)
		switch {
		case err != nil:
			return fmt.Errorf("looking for the tables that lose a tenant's rows: %w", pg.Map(err))
		case !row.Exists:
			return fmt.Errorf("the policy declares %s, from which an uninstall must delete, and the database has no such table", table)
		case !row.Tenant:
			return fmt.Errorf("the policy says that %s has a tenant column, and it has no tenant_id", table)
		case !row.Deletable:
			return fmt.Errorf("the service may not delete a tenant's rows from %s; a migration must grant it DELETE, and SELECT on tenant_id", table)
		}
	}
	return nil
}

// Erasure is why a tenant goes.
type Erasure struct {
	Trigger     lifecycle.Trigger
	RequestedAt time.Time
	Delivery    Delivery
}

// Erase removes everything of a tenant but its tombstone, in one transaction:
// values, replay entries, and its rows in every other table the policy does not
// retain; the registry's row loses its digests. What Bitbucket sent before the
// newest accepted callback (a late uninstall of an earlier install) changes
// nothing. The event's correlation id is the erasure's id.
func (d *Door) Erase(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, x Erasure) (Result, error) {
	if err := a.Check(); err != nil {
		e := audit.New(ctx, d.log.Now(), a, audit.TenantErase, audit.Denied)
		e.TenantID = id
		return "", d.deny(ctx, e, err)
	}
	erasure, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("erasing: %w", err)
	}
	now := d.log.Now().UTC()
	e := audit.New(ctx, now, a, audit.TenantErase, audit.Success)
	e.TenantID, e.FieldNames, e.DroppedNames = id, lifecycle.Fields(), x.Delivery.Dropped
	e.CorrelationID, e.StatusDetail = erasure.String(), string(x.Trigger)
	return d.once(ctx, id, x.Delivery, e, func(ctx context.Context, tx bun.Tx, t tenantRow) error {
		// The tombstone comes first: from here on the client key is known as
		// erased in the same moment as its values are gone.
		// It keeps what orders and recognises later deliveries, in a form that
		// names nobody: the date, and hashes of tokens that could still be presented.
		var token []byte
		iat := now
		if x.Delivery.signed() {
			token, iat = x.Delivery.TokenHash[:], x.Delivery.IssuedAt
		}
		_, err := tx.NewRaw(`INSERT INTO trakr.erasures (erasure_id, tenant_id, ingress, trigger, subject_digest, token_hash, token_iat, spent_tokens, requested_at, erased_at)
			SELECT ?0, ?1, ?2, ?3, ?4, ?5, ?6, coalesce(array_agg(token_hash), '{}'), ?7, ?8 FROM trakr.replay_guard WHERE tenant_id = ?1 AND expires_at >= ?8`,
			erasure.String(), id.String(), t.Ingress, string(x.Trigger), t.SubjectDigest, token, iat, x.RequestedAt, now).Exec(ctx)
		if err != nil {
			return err
		}
		for _, table := range d.eraseFrom {
			schema, name, _ := strings.Cut(table, ".")
			res, err := tx.NewRaw(`DELETE FROM ?.? WHERE tenant_id = ?`, bun.Ident(schema), bun.Ident(name), id.String()).Exec(ctx)
			if err != nil {
				return fmt.Errorf("erasing from %s: %w", table, pg.Map(err))
			}
			n, err := res.RowsAffected()
			if err == nil && table == fieldsTable && n != 1 {
				err = errors.New("a live tenant had no values to erase")
			}
			if err != nil {
				return fmt.Errorf("erasing from %s: %w", table, err)
			}
		}
		return exactlyOne(tx.NewRaw(`UPDATE trakr.tenants SET state = 'erased', subject_digest = NULL, principal_digest = NULL,
			last_token_iat = NULL, erased_at = ?, updated_at = ? WHERE tenant_id = ?`, now, now, id.String()).Exec(ctx))
	})
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
