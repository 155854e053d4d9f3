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
		return "", err
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
		var token []byte
		if x.Delivery.signed() {
			token = x.Delivery.TokenHash[:]
		}
		_, err := tx.NewRaw(`INSERT INTO trakr.erasures (erasure_id, tenant_id, ingress, trigger, subject_digest, token_hash, requested_at, erased_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, erasure.String(), id.String(), t.Ingress, string(x.Trigger), t.SubjectDigest, token, x.RequestedAt, now).Exec(ctx)
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
