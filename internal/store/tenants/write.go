package tenants

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/egress"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
	"trakr/internal/store/outbox"
)

// Result is what a delivery did.
type Result string

// The results. Replayed and Stale change nothing.
const (
	Applied  Result = "applied"
	Replayed Result = "replayed" // this very token was acted upon before
	Stale    Result = "stale"    // a newer callback, or the erasure, was acted upon before
)

// ErrOnFile means that the client key belongs to a live tenant: its next install
// needs that tenant's signature.
var ErrOnFile = errors.New("a live tenant has this client key")

// ErrChanged means that the tenant changed since the secret was read that verified
// a callback: the caller must verify it again.
var ErrChanged = errors.New("the tenant changed meanwhile")

// Install creates a tenant for a client key that no live tenant has. The caller
// has proof of possession. The id is new and linked to nothing older, but the
// tombstones under the same client key count: a token acted upon in an earlier
// life is Replayed, a signed install dated before the last erasure is Stale. One
// of the same second is decided by the proof.
func (d *Door) Install(ctx context.Context, a lifecycle.Access, values lifecycle.Values, v Delivery) (lifecycle.TenantID, Result, error) {
	id, result, err := d.install(ctx, a, values, v)
	if keyRetired(err) { // the keys were rotated since this service last looked
		if err = d.reloadKeys(ctx); err == nil {
			id, result, err = d.install(ctx, a, values, v)
		}
	}
	return id, result, err
}

func (d *Door) install(ctx context.Context, a lifecycle.Access, values lifecycle.Values, v Delivery) (lifecycle.TenantID, Result, error) {
	if err := a.Check(); err != nil {
		return lifecycle.TenantID{}, "", d.deny(ctx, audit.New(ctx, d.log.Now(), a, audit.TenantInstall, audit.Denied), err)
	}
	id := lifecycle.NewTenantID()
	digests, err := d.keys.Digests(keyring.Subject, values[lifecycle.ClientKey])
	if err != nil {
		return lifecycle.TenantID{}, "", fmt.Errorf("installing: %w", err)
	}
	principal, err := d.keys.Digest(keyring.Principal, values[lifecycle.PrincipalUUID])
	if err != nil {
		return lifecycle.TenantID{}, "", fmt.Errorf("installing: %w", err)
	}
	stored, err := d.encrypt(id, values)
	if err != nil {
		return lifecycle.TenantID{}, "", err
	}
	fields := newValuesRow(id, stored, v.ReceivedAt)
	e := audit.New(ctx, d.log.Now(), a, audit.TenantInstall, audit.Success)
	e.TenantID, e.FieldNames, e.DroppedNames, e.SubjectDigest = id, stored.names(), v.Dropped, digests[0].String()

	err = pg.InTx(ctx, d.db, func(ctx context.Context, tx bun.Tx) error {
		// Two first installs at once wait for each other here, whichever
		// digest version each would write: the oldest is the same for both.
		oldest := digests[len(digests)-1]
		if _, err := tx.NewRaw(`SELECT pg_advisory_xact_lock(hashtextextended(?, 1))`, oldest.String()).Exec(ctx); err != nil {
			return err
		}
		live, err := find(ctx, tx, subjectDigest, digests)
		if err != nil {
			return err
		}
		if live != nil && live.State == lifecycle.Live {
			return ErrOnFile
		}
		erased, err := lastErasure(ctx, tx, digests)
		if err != nil {
			return err
		}
		row := tenantRow{TenantID: id.String(), Ingress: string(v.Ingress), State: string(lifecycle.Live),
			SubjectDigest: digests[0], PrincipalDigest: principal, InstalledAt: v.ReceivedAt, UpdatedAt: v.ReceivedAt}
		var floor time.Time
		switch {
		case v.signed() && erased != nil && v.IssuedAt.Before(*erased):
			return errStale
		case v.signed():
			floor = v.floor()
			row.LastTokenIAT = &floor
		case erased != nil:
			floor = earlier(*erased, v.ReceivedAt)
			row.LastTokenIAT = &floor
		}
		if _, err := tx.NewInsert().Model(&row).Exec(ctx); err != nil {
			return err
		}
		// The event comes before the values: the guard on their table lets them
		// in only after it.
		if err := audit.Append(ctx, tx, e); err != nil {
			return err
		}
		fresh, err := remember(ctx, tx, id, v)
		if err != nil {
			return err
		}
		if !fresh {
			return errReplayed // rolls the new tenant back
		}
		if _, err = tx.NewInsert().Model(&fields).Exec(ctx); err != nil {
			return err
		}
		return d.announce(ctx, tx, a, outbox.Announcement{Kind: egress.Installed, Tenant: id, Values: values, At: v.ReceivedAt})
	})
	var refused Result
	switch {
	case errors.Is(err, errReplayed):
		refused = Replayed
	case errors.Is(err, errStale):
		refused = Stale
	}
	if refused != "" {
		e.TenantID, e.FieldNames = lifecycle.TenantID{}, nil
		e.Outcome, e.StatusDetail = audit.Denied, string(refused)
		return lifecycle.TenantID{}, refused, d.log.Record(ctx, e)
	}
	if err != nil {
		return lifecycle.TenantID{}, "", fmt.Errorf("installing: %w", err)
	}
	d.notify()
	return id, Applied, nil
}

// What rolls a new tenant back.
var (
	errReplayed = errors.New("replayed")
	errStale    = errors.New("stale")
)

// lastErasure is the newest iat that erased a tenant under this client key.
func lastErasure(ctx context.Context, tx bun.Tx, digests []keyring.Digest) (*time.Time, error) {
	var row struct{ At *time.Time }
	err := tx.NewRaw(`SELECT max(token_iat) AS at FROM trakr.erasures WHERE subject_digest IN (?)`, bun.List(digests)).Scan(ctx, &row)
	return row.At, pg.Map(err)
}

// Update replaces the fields of a live tenant, after an install signed with
// its stored secret. A replayed or older delivery changes nothing.
func (d *Door) Update(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, values lifecycle.Values, v Delivery) (Result, error) {
	result, err := d.update(ctx, a, id, values, v)
	if keyRetired(err) { // as in Install
		if err = d.reloadKeys(ctx); err == nil {
			result, err = d.update(ctx, a, id, values, v)
		}
	}
	return result, err
}

func (d *Door) update(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, values lifecycle.Values, v Delivery) (Result, error) {
	if err := a.Check(); err != nil {
		e := audit.New(ctx, d.log.Now(), a, audit.TenantUpdate, audit.Denied)
		e.TenantID = id
		return "", d.deny(ctx, e, err)
	}
	principal, err := d.keys.Digest(keyring.Principal, values[lifecycle.PrincipalUUID])
	if err != nil {
		return "", fmt.Errorf("updating: %w", err)
	}
	stored, err := d.encrypt(id, values)
	if err != nil {
		return "", err
	}
	fields := newValuesRow(id, stored, v.ReceivedAt)
	e := audit.New(ctx, d.log.Now(), a, audit.TenantUpdate, audit.Success)
	e.TenantID, e.FieldNames, e.DroppedNames = id, stored.names(), v.Dropped
	result, err := d.once(ctx, v, e, func(ctx context.Context, tx bun.Tx, t tenantRow) error {
		floor := v.floor()
		t.PrincipalDigest, t.UpdatedAt, t.LastTokenIAT = principal, v.ReceivedAt, &floor
		changed := []string{"principal_digest", "updated_at", "last_token_iat"}
		if err := exactlyOne(tx.NewUpdate().Model(&t).Column(changed...).WherePK().Exec(ctx)); err != nil {
			return err
		}
		if err := exactlyOne(tx.NewUpdate().Model(&fields).WherePK().Exec(ctx)); err != nil {
			return err
		}
		return d.announce(ctx, tx, a, outbox.Announcement{Kind: egress.Changed, Tenant: id, Values: values, At: v.ReceivedAt})
	})
	if err == nil && result == Applied {
		d.notify()
	}
	return result, err
}

// once runs act on the live tenant of the event unless the delivery was seen before or
// is older than what was last accepted; either way the event is committed with it.
func (d *Door) once(ctx context.Context, v Delivery, e audit.Event, act func(context.Context, bun.Tx, tenantRow) error) (Result, error) {
	result := Applied
	err := pg.InTx(ctx, d.db, func(ctx context.Context, tx bun.Tx) error {
		var t tenantRow
		err := pg.Map(tx.NewSelect().Model(&t).ColumnExpr(registryColumns).
			Where("tenant_id = ?", e.TenantID.String()).For("UPDATE").Scan(ctx))
		if errors.Is(err, pg.ErrNoRows) {
			return errUnknown()
		}
		if err != nil {
			return err
		}
		if t.State != string(lifecycle.Live) {
			return errErased()
		}
		if v.Version != 0 && v.Version != t.Version {
			return ErrChanged
		}
		fresh, err := remember(ctx, tx, e.TenantID, v)
		if err != nil {
			return err
		}
		switch {
		case !fresh:
			result = Replayed
		case v.signed() && t.LastTokenIAT != nil && v.IssuedAt.Before(*t.LastTokenIAT):
			result = Stale
		default:
			// The event comes before the act, which the guard on the values'
			// table lets happen only after it.
			if err := audit.Append(ctx, tx, e); err != nil {
				return err
			}
			return act(ctx, tx, t)
		}
		e.Outcome, e.StatusDetail, e.FieldNames = audit.Denied, string(result), nil
		return audit.Append(ctx, tx, e)
	})
	if err != nil {
		return "", fmt.Errorf("%s: %w", e.Action, err)
	}
	return result, nil
}
