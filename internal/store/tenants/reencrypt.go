package tenants

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"trakr/internal/contactdata"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
)

// Reencrypted is what one batch did.
type Reencrypted struct {
	Last    lifecycle.TenantID // where the next batch begins; zero when there was none left
	Tenants int                // re-encrypted
	Values  int
	Busy    int // left for a later batch, because another transaction is changing them
	// Undecryptable are tenants with a value that no key decrypts. They are not changed.
	Undecryptable []lifecycle.TenantID
	// Contact are tenants with a value that looks like contact data, stored by a version
	// that did not check that. They are not changed either.
	Contact []lifecycle.TenantID
}

func (r *Reencrypted) add(one Reencrypted) {
	r.Tenants, r.Values, r.Busy = r.Tenants+one.Tenants, r.Values+one.Values, r.Busy+one.Busy
}

// errContact means that a value looks like an e-mail address or a telephone number.
var errContact = errors.New("a stored value looks like contact data")

// refusedValue reports whether an error is about one tenant's values, and with which
// status detail the audit records it.
func refusedValue(err error) (detail string, refused bool) {
	switch {
	case errors.Is(err, keyring.ErrCannotDecrypt):
		return "cannot_open", true
	case errors.Is(err, errContact):
		return "contact_data", true
	}
	return "", false
}

const (
	// reencryptBatch bounds one batch: its locks make callbacks of these tenants wait.
	reencryptBatch   = 200
	reencryptTimeout = 30 * time.Second // of one batch
)

// Reencrypt takes the next tenants after one whose values are not encrypted with the
// active key and re-encrypts them, in one transaction with an event for each. Tenants
// that another transaction is changing are left for later. Values pass through memory
// only.
func (d *Door) Reencrypt(ctx context.Context, a lifecycle.Access, after lifecycle.TenantID) (Reencrypted, error) {
	if err := a.CheckReason(); err != nil {
		return Reencrypted{}, err
	}
	active, err := useActive(ctx, pg.Bun(d.db), d.keys)
	if err != nil {
		return Reencrypted{}, err
	}
	all, err := d.underOtherKeys(ctx, after)
	if err != nil || len(all) == 0 {
		return Reencrypted{}, err
	}
	out, err := d.reencryptBatch(ctx, a, active, all)
	if _, refused := refusedValue(err); refused {
		out, err = d.reencryptEach(ctx, a, active, all)
	}
	if err == nil {
		out.Last = all[len(all)-1]
	}
	return out, err
}

// reencryptEach takes tenants one by one after a batch of them was refused: the one whose
// values cannot be re-encrypted is recorded and must not stop the others.
func (d *Door) reencryptEach(ctx context.Context, a lifecycle.Access, active keyring.KeyID, all []lifecycle.TenantID) (Reencrypted, error) {
	var out Reencrypted
	for _, id := range all {
		one, err := d.reencryptBatch(ctx, a, active, []lifecycle.TenantID{id})
		if detail, refused := refusedValue(err); refused {
			if errors.Is(err, errContact) {
				out.Contact = append(out.Contact, id)
			} else {
				out.Undecryptable = append(out.Undecryptable, id)
			}
			e := audit.New(ctx, d.log.Now(), a, audit.TenantReencrypt, audit.Failure)
			e.TenantID, e.CorrelationID, e.StatusDetail = id, active.Rotation(), detail
			one, err = Reencrypted{}, d.log.Record(ctx, e)
		}
		if err != nil {
			return out, err
		}
		out.add(one)
	}
	return out, nil
}

// underOtherKeys lists the next tenants after one with a value that the active key did
// not encrypt; the zero id is before all.
func (d *Door) underOtherKeys(ctx context.Context, after lifecycle.TenantID) ([]lifecycle.TenantID, error) {
	var from *string
	if !after.IsZero() {
		s := after.String()
		from = &s
	}
	rows, err := pg.Pool(d.db).Query(ctx, `SELECT id::text FROM door.resealable($1::uuid, $2) AS r (id)`, from, reencryptBatch)
	if err != nil {
		return nil, fmt.Errorf("listing the tenants to re-encrypt: %w", pg.Map(err))
	}
	return tenantIDs(rows)
}

func tenantIDs(rows pgx.Rows) ([]lifecycle.TenantID, error) {
	out, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (lifecycle.TenantID, error) {
		var s string
		if err := r.Scan(&s); err != nil {
			return lifecycle.TenantID{}, err
		}
		return lifecycle.ParseTenantID(s)
	})
	return out, pg.Map(err)
}

// lockTenants locks the registry's rows, as everything does that changes a tenant's
// state: an erasure under way is skipped, and one that begins waits for this batch.
const lockTenants = `SELECT tenant_id::text FROM trakr.tenants WHERE tenant_id = ANY ($1::uuid[])
	ORDER BY tenant_id FOR NO KEY UPDATE SKIP LOCKED`

func (d *Door) reencryptBatch(ctx context.Context, a lifecycle.Access, active keyring.KeyID, all []lifecycle.TenantID,
) (Reencrypted, error) {
	var out Reencrypted
	ctx, cancel := context.WithTimeout(ctx, reencryptTimeout)
	defer cancel()
	err := pgx.BeginFunc(ctx, pg.Pool(d.db), func(tx pgx.Tx) error {
		out = Reencrypted{}
		rows, err := tx.Query(ctx, lockTenants, texts(all))
		if err != nil {
			return err
		}
		locked, err := tenantIDs(rows)
		if err != nil {
			return err
		}
		out.Busy = len(all) - len(locked)
		if len(locked) == 0 {
			return nil
		}
		now := d.log.Now()
		records := make([][]byte, len(locked))
		for i, id := range locked {
			e := audit.New(ctx, now, a, audit.TenantReencrypt, audit.Success)
			e.TenantID, e.FieldNames, e.CorrelationID = id, lifecycle.Fields(), active.Rotation()
			records[i] = e.Record()
		}
		// A crash anywhere before the commit leaves the values as they were.
		return d.reencrypt(ctx, tx, locked, records, &out)
	})
	if err != nil {
		return Reencrypted{}, fmt.Errorf("re-encrypting: %w", pg.Map(err))
	}
	return out, nil
}

// recordAndFetch records one event per element and returns the values of its tenant.
const recordAndFetch = `SELECT ord, ` + valueColumns + ` FROM door.reseal($1)`

// reencrypt records the events, decrypts, encrypts and writes back.
func (d *Door) reencrypt(ctx context.Context, tx pgx.Tx, tenants []lifecycle.TenantID, records [][]byte, out *Reencrypted) error {
	rows, err := tx.Query(ctx, recordAndFetch, records)
	if err != nil {
		return audit.Unavailable(err)
	}
	var ids []lifecycle.TenantID
	var columns [MaxFields][][]byte
	var ord int
	var stored encrypted
	into := []any{&ord}
	for i := range stored {
		into = append(into, &stored[i])
	}
	_, err = pgx.ForEachRow(rows, into, func() error {
		if ord < 1 || ord > len(tenants) {
			return errors.New("door.reseal returned a row that was not requested")
		}
		next, values, err := d.withActiveKey(tenants[ord-1], stored)
		if err != nil {
			return err
		}
		ids = append(ids, tenants[ord-1])
		out.Values += values
		for i := range columns {
			columns[i] = append(columns[i], next[i])
		}
		return nil
	})
	if err != nil {
		if _, refused := refusedValue(err); refused {
			return err
		}
		return audit.Unavailable(err)
	}
	args := []any{texts(ids)}
	for _, c := range columns {
		args = append(args, c)
	}
	tag, err := tx.Exec(ctx, writeBack, args...)
	if err != nil {
		return err
	}
	if out.Tenants = int(tag.RowsAffected()); out.Tenants != len(ids) {
		return fmt.Errorf("%d tenants were written instead of %d", out.Tenants, len(ids))
	}
	return nil
}

// withActiveKey returns a tenant's values encrypted with the active key, and how many
// there are.
func (d *Door) withActiveKey(id lifecycle.TenantID, stored encrypted) (out encrypted, values int, err error) {
	for i, f := range lifecycle.Fields() {
		if stored[i] == nil {
			continue
		}
		v, err := d.keys.Decrypt(id, f, stored[i])
		if err != nil {
			return out, 0, err
		}
		if !f.Spec().Credential && contactdata.Contact(v.Reveal()) {
			return out, 0, errContact
		}
		if out[i], err = d.keys.Encrypt(id, f, v); err != nil {
			return out, 0, err
		}
		values++
	}
	return out, values, nil
}

func texts(ids []lifecycle.TenantID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.String()
	}
	return out
}
