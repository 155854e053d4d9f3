package outbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
)

// encrypt encrypts a delivery's payload with the active key.
func (s *Store) encrypt(d Delivery, plain []byte) (*payloadRow, error) {
	encrypted, err := s.keys.EncryptPayload(d.Tenant, d.ID, plain)
	if err != nil {
		return nil, err
	}
	return &payloadRow{DeliveryID: d.ID.String(), TenantID: d.Tenant.String(), Sealed: encrypted}, nil
}

// Reencrypted is what one batch did.
type Reencrypted struct {
	Last     uuid.UUID // where the next batch begins; zero when there was none left
	Payloads int       // encrypted with the active key
	Busy     int       // left alone, because another process is sending them
	Unopened int       // that no key decrypts; they stay as they are
}

// batchSize is how many deliveries one batch of Reencrypt looks at.
const batchSize = 200

// Reencrypt takes the next deliveries after one whose payloads are not encrypted with the
// keyring's active key, and encrypts them with it: each in a transaction of its own, with
// its event. Payloads pass through memory only.
func (s *Store) Reencrypt(ctx context.Context, a lifecycle.Access, after uuid.UUID) (Reencrypted, error) {
	if err := a.CheckReason(); err != nil {
		return Reencrypted{}, err
	}
	var from *string
	if after != uuid.Nil {
		text := after.String()
		from = &text
	}
	var rows []struct{ ID uuid.UUID }
	err := pg.Bun(s.db).NewRaw(`SELECT id FROM door.resealable_payloads(?::uuid, ?) AS r (id)`, from, batchSize).Scan(ctx, &rows)
	if err != nil {
		return Reencrypted{}, fmt.Errorf("listing payloads to re-encrypt: %w", pg.Map(err))
	}
	var out Reencrypted
	for _, r := range rows {
		out.Last = r.ID
		switch err := s.reencrypt(ctx, a, r.ID); {
		case errors.Is(err, ErrGone):
			out.Busy++
		case errors.Is(err, keyring.ErrCannotDecrypt):
			out.Unopened++
		case err != nil:
			return out, fmt.Errorf("re-encrypting a payload: %w", err)
		default:
			out.Payloads++
		}
	}
	return out, nil
}

// reencrypt re-encrypts one payload. It returns ErrGone when another process is sending
// the delivery, or it is over.
func (s *Store) reencrypt(ctx context.Context, a lifecycle.Access, id uuid.UUID) error {
	now := s.log.Now().UTC()
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		var r row
		d, err := r.scanned(tx.NewSelect().Model(&r).Where("o.delivery_id = ?", id.String()).Where("o.closed_at IS NULL").
			For("UPDATE SKIP LOCKED").Scan(ctx))
		if errors.Is(err, lifecycle.NotFound) {
			return ErrGone
		}
		if err != nil {
			return err
		}
		e := d.event(ctx, act{now, a, audit.TenantReencrypt, audit.Success, ""})
		e.CorrelationID = s.keys.Active().Rotation()
		var before struct{ Sealed []byte }
		if err := tx.NewRaw(`SELECT sealed FROM door.reseal_payload(?)`, e.Record()).Scan(ctx, &before); err != nil {
			return audit.Unavailable(err)
		}
		plain, err := s.keys.DecryptPayload(d.Tenant, d.ID, before.Sealed)
		if err != nil {
			return err
		}
		payload, err := s.encrypt(d, plain)
		if err != nil {
			return err
		}
		// A crash anywhere before the commit leaves the payload as it was.
		if _, err := tx.NewDelete().Model((*payloadRow)(nil)).Where("delivery_id = ?", id.String()).Exec(ctx); err != nil {
			return err
		}
		_, err = tx.NewInsert().Model(payload).Exec(ctx)
		return err
	})
	if pg.Overtaken(err) {
		return ErrGone
	}
	return err
}
