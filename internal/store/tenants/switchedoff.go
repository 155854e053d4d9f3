package tenants

import (
	"context"
	"errors"
	"fmt"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
)

// switchedOffBatch bounds one transaction of RemoveSwitchedOff.
const switchedOffBatch = 200

// SwitchedOff lists the fields that the policy switches off.
func (d *Door) SwitchedOff() []lifecycle.Field {
	var out []lifecycle.Field
	for _, r := range d.policy.Fields {
		if r.Off {
			out = append(out, r.Name)
		}
	}
	return out
}

// CountSwitchedOff counts the stored values of each field that the policy switches off,
// zero included. No value is read.
func (d *Door) CountSwitchedOff(ctx context.Context) (map[lifecycle.Field]int64, error) {
	off := d.SwitchedOff()
	out := make(map[lifecycle.Field]int64, len(off))
	if len(off) == 0 {
		return out, nil
	}
	var rows []struct {
		Field lifecycle.Field
		Rows  int64
	}
	err := pg.Map(pg.Bun(d.db).NewRaw(`SELECT field, rows FROM door.count_held()`).Scan(ctx, &rows))
	if err != nil {
		return nil, fmt.Errorf("counting values of fields that are off: %w", err)
	}
	all := map[lifecycle.Field]int64{}
	for _, r := range rows {
		all[r.Field] = r.Rows
	}
	for _, f := range off {
		n, counted := all[f]
		if !counted {
			return nil, fmt.Errorf("counting values of fields that are off: the database does not count %s", f)
		}
		out[f] = n
	}
	return out, nil
}

// RemoveSwitchedOff removes the values of fields that the policy switches off, of every
// live tenant without a legal hold, in batches; each tenant's event is committed with it.
// It returns how many tenants lost a value. An erasure under way removes its own.
//
// A crash between two batches leaves the rest to the next call.
func (d *Door) RemoveSwitchedOff(ctx context.Context, a lifecycle.Access) (tenants int64, err error) {
	if err := a.Check(); err != nil {
		return 0, err
	}
	off := d.SwitchedOff()
	if len(off) == 0 {
		return 0, nil
	}
	var after *string
	for {
		page, err := d.withValues(ctx, off, after)
		if err != nil || len(page) == 0 {
			return tenants, err
		}
		n, err := d.removeOff(ctx, a, off, page)
		if tenants += n; err != nil {
			return tenants, fmt.Errorf("removing values of fields that are off: %w", err)
		}
		after = &page[len(page)-1]
	}
}

// withValues lists the next tenants that have a value of one of these fields.
func (d *Door) withValues(ctx context.Context, off []lifecycle.Field, after *string) ([]string, error) {
	var out []string
	err := pg.Map(pg.Bun(d.db).NewRaw(`SELECT h::text FROM door.holders(?, ?::uuid, ?) AS h`,
		pgdialect.Array(off), after, switchedOffBatch).Scan(ctx, &out))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("listing tenants with values of fields that are off: %w", err)
	}
	return out, nil
}

// lockWithoutHold locks the registry's rows as an install does, which replaces the values.
const lockWithoutHold = `SELECT t.tenant_id::text FROM trakr.tenants AS t WHERE t.tenant_id IN (?) AND t.state = ?
		AND NOT EXISTS (SELECT FROM trakr.legal_holds AS h WHERE h.tenant_id = t.tenant_id AND h.released_at IS NULL AND h.until > now())
	ORDER BY t.tenant_id FOR UPDATE OF t`

func (d *Door) removeOff(ctx context.Context, a lifecycle.Access, off []lifecycle.Field, tenants []string) (n int64, err error) {
	err = pg.InTx(ctx, d.db, func(ctx context.Context, tx bun.Tx) error {
		var live []string
		err := pg.Map(tx.NewRaw(lockWithoutHold, bun.List(tenants), string(lifecycle.Live)).Scan(ctx, &live))
		if errors.Is(err, pg.ErrNoRows) || (err == nil && len(live) == 0) {
			return nil // all under a legal hold, or being erased
		}
		if err != nil {
			return err
		}
		events := make([]audit.Event, len(live))
		for i, id := range live {
			e := audit.New(ctx, d.log.Now(), a, audit.TenantUpdate, audit.Success)
			if e.TenantID, err = lifecycle.ParseTenantID(id); err != nil {
				return err
			}
			e.FieldNames, e.StatusDetail = off, "removed: switched off"
			events[i] = e
		}
		// The events come before the act, which the guard on the values' table lets
		// happen only after them.
		if err := audit.Append(ctx, tx, events...); err != nil {
			return err
		}
		q := tx.NewUpdate().Table(valuesTable).Where("tenant_id IN (?)", bun.List(live))
		for _, f := range off {
			q = q.Set("? = NULL", bun.Ident(f))
		}
		res, err := q.Exec(ctx)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return n, err
}
