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

// Resealed is what one batch did.
type Resealed struct {
	Last    lifecycle.TenantID // where the next batch begins; zero when there was none left
	Tenants int                // sealed anew
	Values  int
	Busy    int // left alone, because somebody is changing them
	// Unopened are tenants with a value that opens with no key. They stay as they are.
	Unopened []lifecycle.TenantID
	// Contact are tenants with a value that looks like contact data: one that a version
	// stored which did not judge that. They stay as they are, too.
	Contact []lifecycle.TenantID
}

// errContact means that a value looks like an e-mail address or a telephone number.
var errContact = errors.New("a stored value looks like contact data")

// notResealed are the errors about one tenant's values, and what the audit says of them.
func notResealed(err error) (detail string, of bool) {
	switch {
	case errors.Is(err, keyring.ErrCannotDecrypt):
		return "cannot_open", true
	case errors.Is(err, errContact):
		return "contact_data", true
	}
	return "", false
}

// resealAtOnce bounds one batch: its locks make callbacks of these tenants wait.
const resealAtOnce = 200

// Reseal takes the next tenants after one whose values are not sealed with the active
// key, and seals them with it, in one transaction with an event for each. Tenants that
// somebody else is changing are left for later. Values pass through memory only.
func (d *Door) Reseal(ctx context.Context, a lifecycle.Access, after lifecycle.TenantID) (Resealed, error) {
	if err := a.CheckReason(); err != nil {
		return Resealed{}, err
	}
	active, err := useActive(ctx, pg.Bun(d.db), d.keys)
	if err != nil {
		return Resealed{}, err
	}
	var from *string
	if after != (lifecycle.TenantID{}) {
		s := after.String()
		from = &s
	}
	all, err := d.resealable(ctx, from)
	if err != nil || len(all) == 0 {
		return Resealed{}, err
	}
	out, err := d.resealBatch(ctx, a, active, all)
	if _, of := notResealed(err); of {
		// One of them stays as it is: that must not stop the others.
		out = Resealed{}
		for _, id := range all {
			one, err := d.resealBatch(ctx, a, active, []lifecycle.TenantID{id})
			if detail, of := notResealed(err); of {
				if errors.Is(err, errContact) {
					out.Contact = append(out.Contact, id)
				} else {
					out.Unopened = append(out.Unopened, id)
				}
				one, err = Resealed{}, d.leftAsItIs(ctx, a, active, id, detail)
			}
			if err != nil {
				return out, err
			}
			out.Tenants, out.Values, out.Busy = out.Tenants+one.Tenants, out.Values+one.Values, out.Busy+one.Busy
		}
		err = nil
	}
	out.Last = all[len(all)-1]
	return out, err
}

func (d *Door) resealable(ctx context.Context, after *string) ([]lifecycle.TenantID, error) {
	rows, err := pg.Pool(d.db).Query(ctx, `SELECT id::text FROM door.resealable($1::uuid, $2) AS r (id)`, after, resealAtOnce)
	if err != nil {
		return nil, fmt.Errorf("looking for what is to be sealed anew: %w", pg.Map(err))
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

// leftAsItIs records that a tenant's values were not sealed anew, and why.
func (d *Door) leftAsItIs(ctx context.Context, a lifecycle.Access, active keyring.KeyID, id lifecycle.TenantID, why string) error {
	e := audit.New(ctx, d.log.Now(), a, audit.TenantReencrypt, audit.Failure)
	e.TenantID, e.CorrelationID, e.StatusDetail = id, active.Rotation(), why
	return d.log.Record(ctx, e)
}

func (d *Door) resealBatch(ctx context.Context, a lifecycle.Access, active keyring.KeyID, all []lifecycle.TenantID) (Resealed, error) {
	var out Resealed
	ctx, cancel := context.WithTimeout(ctx, resealTimeout)
	defer cancel()
	err := pgx.BeginFunc(ctx, pg.Pool(d.db), func(tx pgx.Tx) error {
		out = Resealed{}
		// The registry's row is what everyone locks who changes a tenant's fate: an
		// erasure that is under way wins, and one that comes waits for this batch.
		rows, err := tx.Query(ctx, `SELECT tenant_id::text FROM trakr.tenants WHERE tenant_id = ANY ($1::uuid[]) ORDER BY tenant_id FOR NO KEY UPDATE SKIP LOCKED`, texts(all))
		if err != nil {
			return err
		}
		mine, err := tenantIDs(rows)
		if err != nil {
			return err
		}
		out.Busy = len(all) - len(mine)
		if len(mine) == 0 {
			return nil
		}
		now := d.log.Now()
		records := make([][]byte, len(mine))
		for i, id := range mine {
			e := audit.New(ctx, now, a, audit.TenantReencrypt, audit.Success)
			e.TenantID, e.FieldNames, e.CorrelationID = id, lifecycle.Fields(), active.Rotation()
			records[i] = e.Record()
		}
		// A crash anywhere before the commit leaves the values as they were.
		return d.reseal(ctx, tx, mine, records, &out)
	})
	if err != nil {
		return Resealed{}, fmt.Errorf("sealing anew: %w", pg.Map(err))
	}
	return out, nil
}

// resealTimeout bounds one batch.
const resealTimeout = 30 * time.Second

// reseal records, opens, seals and writes back.
func (d *Door) reseal(ctx context.Context, tx pgx.Tx, mine []lifecycle.TenantID, records [][]byte, out *Resealed) error {
	rows, err := tx.Query(ctx, `SELECT ord, client_key, shared_secret, principal_uuid, username, avatar_url FROM door.reseal($1)`, records)
	if err != nil {
		return audit.Unavailable(err)
	}
	var ids []lifecycle.TenantID
	var sealed [MaxFields][][]byte
	var ord int
	var got [MaxFields][]byte
	_, err = pgx.ForEachRow(rows, []any{&ord, &got[0], &got[1], &got[2], &got[3], &got[4]}, func() error {
		if ord < 1 || ord > len(mine) {
			return errors.New("the door returned a row that nobody asked for")
		}
		id := mine[ord-1]
		ids = append(ids, id)
		for i, f := range columns {
			var b []byte
			if got[i] != nil {
				v, err := d.keys.Decrypt(id, f, got[i])
				if err != nil {
					return err
				}
				if f != lifecycle.SharedSecret && contactdata.Contact(v.Reveal()) {
					return errContact
				}
				if b, err = d.keys.Encrypt(id, f, v); err != nil {
					return err
				}
				out.Values++
			}
			sealed[i] = append(sealed[i], b)
		}
		return nil
	})
	if err != nil {
		if _, of := notResealed(err); of {
			return err
		}
		return audit.Unavailable(err)
	}
	tag, err := tx.Exec(ctx, `UPDATE trakr.tenant_fields AS f SET client_key = v.client_key, shared_secret = v.shared_secret,
			principal_uuid = v.principal_uuid, username = v.username, avatar_url = v.avatar_url
		FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[], $6::bytea[]) AS v (tenant_id, client_key, shared_secret, principal_uuid, username, avatar_url)
		WHERE f.tenant_id = v.tenant_id`, texts(ids), sealed[0], sealed[1], sealed[2], sealed[3], sealed[4])
	if err != nil {
		return err
	}
	if out.Tenants = int(tag.RowsAffected()); out.Tenants != len(ids) {
		return fmt.Errorf("%d tenants were written instead of %d", out.Tenants, len(ids))
	}
	return nil
}

func texts(ids []lifecycle.TenantID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.String()
	}
	return out
}
