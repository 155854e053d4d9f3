package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"trakr/internal/egress"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
)

// Store is the outbox of one database.
type Store struct {
	db   *store.DB
	log  *audit.Log
	keys *keyring.Keyring
}

// New returns the outbox of db.
func New(db *store.DB, log *audit.Log, keys *keyring.Keyring) (*Store, error) {
	if db == nil || log == nil || keys == nil {
		return nil, errors.New("an outbox needs a database, an audit log and keys")
	}
	return &Store{db, log, keys}, nil
}

// Due lists deliveries whose attempt is due, longest waiting first: of each tenant the
// first that is open, and of one on its way out nothing but its notice.
func (s *Store) Due(ctx context.Context, now time.Time, limit int) ([]Delivery, error) {
	var rows []row
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT `+columns+` FROM trakr.outbox AS o WHERE o.state = 'waiting' AND o.next_attempt_at <= ?
		AND (o.kind = 'erased' OR EXISTS (SELECT FROM trakr.tenants AS t WHERE t.tenant_id = o.tenant_id AND t.state = 'live'))
		AND NOT EXISTS (SELECT FROM trakr.outbox AS b WHERE b.tenant_id = o.tenant_id AND b.seq < o.seq AND b.state = 'waiting')
		ORDER BY o.next_attempt_at, o.enqueued_at, o.delivery_id LIMIT ?`, now.UTC(), limit).Scan(ctx, &rows))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("listing what the end service is to be told: %w", err)
	}
	return deliveries(rows)
}

// Unreached notes that the end service cannot be reached: what is due stays due, and
// its days begin to count. Nothing was opened and nothing left.
func (s *Store) Unreached(ctx context.Context, now time.Time, outcome string) error {
	_, err := pg.Bun(s.db).NewRaw(`UPDATE trakr.outbox SET first_tried_at = coalesce(first_tried_at, ?0), last_outcome = ?1
		WHERE state = 'waiting' AND next_attempt_at <= ?0 AND (first_tried_at IS NULL OR last_outcome IS DISTINCT FROM ?1)`, now.UTC(), outcome).Exec(ctx)
	if err != nil {
		return fmt.Errorf("noting that the end service cannot be reached: %w", pg.Map(err))
	}
	return nil
}

// ErrGone means that a delivery is not to be sent any more: it was closed, or its
// tenant is on its way out, or another process is at it.
var ErrGone = errors.New("this delivery is not to be sent now")

// Open takes a delivery for an attempt and returns what is to be sent. The audit has
// the disclosure, and to whom, before the payload is opened; both are committed when
// Open returns. Until the time given nobody else takes it: a crash after this point
// sends it again, with the same id and the same bytes.
func (s *Store) Open(ctx context.Context, a lifecycle.Access, d Delivery, g *egress.Guard, recipient string, until time.Time) (egress.Body, error) {
	now := s.log.Now().UTC()
	e := d.event(ctx, now, a, audit.DeliverySend, audit.Success, recipient)
	var payload struct{ Sealed []byte }
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		res, err := tx.NewRaw(`UPDATE trakr.outbox SET attempts = attempts + 1, first_tried_at = coalesce(first_tried_at, ?0), last_tried_at = ?0, next_attempt_at = ?1
			WHERE delivery_id = ?2 AND state = 'waiting' AND attempts = ?3`, now, until.UTC(), d.ID.String(), d.Attempts).Exec(ctx)
		if err := one(res, err); err != nil {
			return err
		}
		return tx.NewRaw(`SELECT sealed FROM door.disclose(?)`, e.Record()).Scan(ctx, &payload)
	})
	if errors.Is(err, ErrGone) || pg.Overtaken(err) {
		return egress.Body{}, ErrGone
	}
	if err != nil {
		return egress.Body{}, fmt.Errorf("taking a delivery: %w", audit.Unavailable(err))
	}
	if d.Kind == egress.Erased {
		return g.Encode(egress.Event{ID: d.ID.String(), Kind: d.Kind, Time: d.EnqueuedAt, Sequence: d.Seq, Data: g.Data(d.Kind, d.Tenant, nil)}, nil)
	}
	b, err := s.keys.OpenPayload(d.Tenant, d.ID, payload.Sealed)
	if err != nil {
		return egress.Body{}, err
	}
	return g.Review(b)
}

// one makes a write that touched no row ErrGone.
func one(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(ErrGone, err)
	}
	return nil
}

// Resealed is what one batch did.
type Resealed struct {
	Last     uuid.UUID // where the next batch begins; zero when there was none left
	Payloads int       // sealed anew
	Busy     int       // left alone, because somebody is at them
	Unopened int       // open with no key; they stay as they are
}

// resealAtOnce is how many deliveries one batch looks at.
const resealAtOnce = 200

// Reseal takes the next deliveries after one whose payloads are not sealed with the key
// that the keyring seals with, which is the active one, and seals them with it: each in
// a transaction of its own, with its event. Payloads pass through memory only.
func (s *Store) Reseal(ctx context.Context, a lifecycle.Access, after uuid.UUID) (Resealed, error) {
	if err := a.CheckReason(); err != nil {
		return Resealed{}, err
	}
	var from *string
	if after != uuid.Nil {
		text := after.String()
		from = &text
	}
	var rows []struct{ ID uuid.UUID }
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT id FROM door.resealable_payloads(?::uuid, ?) AS r (id)`, from, resealAtOnce).Scan(ctx, &rows))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return Resealed{}, fmt.Errorf("looking for what is to be sealed anew: %w", err)
	}
	var out Resealed
	for _, r := range rows {
		out.Last = r.ID
		switch err := s.reseal(ctx, a, r.ID); {
		case errors.Is(err, ErrGone):
			out.Busy++
		case errors.Is(err, keyring.ErrCannotOpen):
			out.Unopened++
		case err != nil:
			return out, fmt.Errorf("sealing a payload anew: %w", err)
		default:
			out.Payloads++
		}
	}
	return out, nil
}

// reseal seals one payload anew. It is ErrGone when somebody is at the delivery, or it
// is over.
func (s *Store) reseal(ctx context.Context, a lifecycle.Access, id uuid.UUID) error {
	now := s.log.Now().UTC()
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		d, err := get(ctx, tx, id.String(), ` AND o.closed_at IS NULL FOR UPDATE SKIP LOCKED`)
		if errors.Is(err, lifecycle.NotFound) {
			return ErrGone
		}
		if err != nil {
			return err
		}
		e := d.event(ctx, now, a, audit.TenantReencrypt, audit.Success, "")
		e.CorrelationID = s.keys.Sealing().Rotation()
		var payload struct{ Sealed []byte }
		if err := tx.NewRaw(`SELECT sealed FROM door.reseal_payload(?)`, e.Record()).Scan(ctx, &payload); err != nil {
			return audit.Unavailable(err)
		}
		b, err := s.keys.OpenPayload(d.Tenant, d.ID, payload.Sealed)
		if err != nil {
			return err
		}
		sealed, err := s.keys.SealPayload(d.Tenant, d.ID, b)
		if err != nil {
			return err
		}
		// A crash anywhere before the commit leaves the payload as it was.
		if _, err := tx.NewRaw(`DELETE FROM trakr.outbox_payloads WHERE delivery_id = ?`, id.String()).Exec(ctx); err != nil {
			return err
		}
		_, err = tx.NewRaw(`INSERT INTO trakr.outbox_payloads (delivery_id, tenant_id, sealed) VALUES (?, ?, ?)`, id.String(), d.Tenant.String(), sealed).Exec(ctx)
		return err
	})
	if pg.Overtaken(err) {
		return ErrGone
	}
	return err
}

// Acknowledge enters that the end service took a delivery, and forgets its payload. An
// event says all that the end service is to know, so that dead ones before it are
// needless from now on. One that was closed while it was under way stays closed.
func (s *Store) Acknowledge(ctx context.Context, a lifecycle.Access, d Delivery, recipient string) error {
	now := s.log.Now().UTC()
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		if err := audit.Append(ctx, tx, d.event(ctx, now, a, audit.DeliveryAcknowledge, audit.Success, recipient)); err != nil {
			return err
		}
		if _, err := tx.NewRaw(`UPDATE trakr.outbox SET state = 'acknowledged', next_attempt_at = NULL, last_outcome = NULL, closed_at = ?0
			WHERE delivery_id = ?1 AND state IN ('waiting', 'dead')`, now, d.ID.String()).Exec(ctx); err != nil {
			return err
		}
		if _, err := tx.NewRaw(`UPDATE trakr.outbox SET state = 'superseded', closed_at = ? WHERE tenant_id = ? AND seq < ? AND state = 'dead'`,
			now, d.Tenant.String(), d.Seq).Exec(ctx); err != nil {
			return err
		}
		_, err := tx.NewRaw(`DELETE FROM trakr.outbox_payloads AS p WHERE p.tenant_id = ? AND p.delivery_id IN (SELECT o.delivery_id FROM trakr.outbox AS o
			WHERE o.tenant_id = p.tenant_id AND o.closed_at IS NOT NULL)`, d.Tenant.String()).Exec(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("entering an acknowledgement: %w", err)
	}
	return nil
}

// Postpone enters why an attempt failed and when the next one is.
func (s *Store) Postpone(ctx context.Context, d Delivery, next time.Time, outcome string) error {
	_, err := pg.Bun(s.db).NewRaw(`UPDATE trakr.outbox SET first_tried_at = coalesce(first_tried_at, ?), next_attempt_at = ?, last_outcome = ?
		WHERE delivery_id = ? AND state = 'waiting'`, s.log.Now().UTC(), next.UTC(), outcome, d.ID.String()).Exec(ctx)
	if err != nil {
		return fmt.Errorf("postponing a delivery: %w", pg.Map(err))
	}
	return nil
}

// GiveUp ends the attempts: the delivery is dead until a person has it tried again, or
// a later one is taken. The audit has it.
func (s *Store) GiveUp(ctx context.Context, a lifecycle.Access, d Delivery, recipient, outcome string) error {
	now := s.log.Now().UTC()
	e := d.event(ctx, now, a, audit.DeliveryGiveUp, audit.Failure, recipient)
	e.StatusDetail += ": " + outcome
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		err := one(tx.NewRaw(`UPDATE trakr.outbox SET state = 'dead', next_attempt_at = NULL, dead_at = ?, last_outcome = ? WHERE delivery_id = ? AND state = 'waiting'`,
			now, outcome, d.ID.String()).Exec(ctx))
		if err != nil {
			return err
		}
		return audit.Append(ctx, tx, e)
	})
	if err != nil && !errors.Is(err, ErrGone) {
		return fmt.Errorf("giving a delivery up: %w", err)
	}
	return nil
}

// Tried lists waiting deliveries that have been tried in vain since before that time.
func (s *Store) Tried(ctx context.Context, before time.Time, limit int) ([]Delivery, error) {
	var rows []row
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT `+columns+` FROM trakr.outbox AS o WHERE o.state = 'waiting' AND o.first_tried_at < ? ORDER BY o.first_tried_at LIMIT ?`,
		before.UTC(), limit).Scan(ctx, &rows))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("listing deliveries that are not taken: %w", err)
	}
	return deliveries(rows)
}

// Retry has a dead or waiting delivery tried anew, at once, by a person's word.
func (s *Store) Retry(ctx context.Context, a lifecycle.Access, id string) (Delivery, error) {
	if err := a.CheckReason(); err != nil {
		return Delivery{}, err
	}
	now := s.log.Now().UTC()
	var d Delivery
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) (err error) {
		if d, err = get(ctx, tx, id, ` FOR UPDATE`); err != nil {
			return err
		}
		if d.ClosedAt != nil {
			return lifecycle.Fail(lifecycle.RequestConflict, "This delivery is "+string(d.State)+": there is nothing left to send.")
		}
		if err := audit.Append(ctx, tx, d.event(ctx, now, a, audit.DeliveryRetry, audit.Success, "")); err != nil {
			return err
		}
		if _, err := tx.NewRaw(`UPDATE trakr.outbox SET state = 'waiting', first_tried_at = NULL, dead_at = NULL, next_attempt_at = ? WHERE delivery_id = ?`, now, id).Exec(ctx); err != nil {
			return err
		}
		d, err = get(ctx, tx, id, ``)
		return err
	})
	if err != nil {
		return Delivery{}, fmt.Errorf("having a delivery tried again: %w", err)
	}
	return d, nil
}

// Get returns one delivery, or not-found.
func (s *Store) Get(ctx context.Context, id string) (Delivery, error) {
	return get(ctx, pg.Bun(s.db), id, ``)
}

func get(ctx context.Context, db bun.IDB, id, how string) (Delivery, error) {
	missing := lifecycle.Fail(lifecycle.NotFound, "There is no delivery with this id; trakr outbox list shows them.")
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		return Delivery{}, missing
	}
	var r row
	err := pg.Map(db.NewRaw(`SELECT `+columns+` FROM trakr.outbox AS o WHERE o.delivery_id = ?`+how, id).Scan(ctx, &r))
	if errors.Is(err, pg.ErrNoRows) {
		return Delivery{}, missing
	}
	if err != nil {
		return Delivery{}, fmt.Errorf("reading a delivery: %w", err)
	}
	return r.delivery()
}

// List lists deliveries, those that are not over first, newest first.
func (s *Store) List(ctx context.Context, openOnly bool, limit int) ([]Delivery, error) {
	var rows []row
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT `+columns+` FROM trakr.outbox AS o WHERE NOT ? OR o.closed_at IS NULL
		ORDER BY o.closed_at IS NOT NULL, o.enqueued_at DESC, o.delivery_id LIMIT ?`, openOnly, min(max(limit, 1), 1000)).Scan(ctx, &rows))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("listing deliveries: %w", err)
	}
	return deliveries(rows)
}

// Counts is what is not over.
type Counts struct {
	Waiting     int64
	Dead        int64 // deliveries about tenants that are here
	DeadNotices int64 // notices of an erasure
	Oldest      *time.Time
}

// Counts counts it.
func (s *Store) Counts(ctx context.Context) (Counts, error) {
	var c Counts
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT count(*) FILTER (WHERE state = 'waiting') AS waiting, count(*) FILTER (WHERE state = 'dead' AND kind <> 'erased') AS dead,
		count(*) FILTER (WHERE state = 'dead' AND kind = 'erased') AS dead_notices, min(enqueued_at) FILTER (WHERE state = 'waiting') AS oldest
		FROM trakr.outbox WHERE closed_at IS NULL`).Scan(ctx, &c))
	if err != nil {
		return Counts{}, fmt.Errorf("counting deliveries: %w", err)
	}
	return c, nil
}
