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

	entered chan struct{} // contains one element after Notify until the relay receives it
}

// New returns the outbox of db.
func New(db *store.DB, log *audit.Log, keys *keyring.Keyring) (*Store, error) {
	if db == nil || log == nil || keys == nil {
		return nil, errors.New("an outbox needs a database, an audit log and keys")
	}
	return &Store{db: db, log: log, keys: keys, entered: make(chan struct{}, 1)}, nil
}

// Notify wakes this process's sender after a commit that entered a delivery. Without it
// the sender, here or in another process, finds the delivery at its next poll.
func (s *Store) Notify() {
	select {
	case s.entered <- struct{}{}:
	default: // the sender will look anyway
	}
}

// Entered is ready to receive after Notify. One sender may receive from it.
func (s *Store) Entered() <-chan struct{} { return s.entered }

const (
	// MaxAge is how long a delivery is tried, and how long one may wait at all before
	// that is a finding.
	MaxAge = 5 * 24 * time.Hour
	// Claim is how long a delivery belongs to the process that took it: longer than one
	// attempt can last, so that two never send it at the same time.
	Claim = time.Minute
)

// open are the states of a delivery that is not over.
var open = []State{Waiting, Dead}

// overtaken is true of a delivery (o) that came too late: bytes of a later one of its
// tenant may have left, and the later one contains all that the end service needs. It is
// never sent; it is closed when the later one is acknowledged.
const overtaken = `EXISTS (SELECT FROM trakr.outbox AS l WHERE l.tenant_id = o.tenant_id AND l.seq > o.seq AND l.attempts > 0)`

// inOrder is true of a delivery (o) whose turn it is: it is not overtaken, none before it
// is still to be sent, and none before it was closed after the time that is the argument,
// now less Claim, while it was perhaps under way: that one could still arrive.
const inOrder = `NOT ` + overtaken + ` AND NOT EXISTS (SELECT FROM trakr.outbox AS b WHERE b.tenant_id = o.tenant_id AND b.seq < o.seq
	AND ((b.state = 'waiting' AND NOT EXISTS (SELECT FROM trakr.outbox AS l
			WHERE l.tenant_id = b.tenant_id AND l.seq > b.seq AND l.attempts > 0))
		OR (b.state = 'superseded' AND b.last_tried_at > ?::timestamptz)))`

// sendable is true of a delivery (o) that may be sent at all: of a tenant whose erasure
// has begun nothing is sent but the notice.
const sendable = `o.kind = 'erased' OR EXISTS (SELECT FROM trakr.tenants AS t WHERE t.tenant_id = o.tenant_id AND t.state = 'live')`

// lock keeps other transactions from deciding about a tenant's deliveries until this one
// ends. Every transaction that decides about more than one delivery takes it, and takes it
// first, so that no two wait for each other.
func lock(ctx context.Context, tx bun.Tx, tenant lifecycle.TenantID) error {
	_, err := tx.NewSelect().Model((*row)(nil)).ColumnExpr("1").Where("tenant_id = ?", tenant.String()).Where("closed_at IS NULL").
		Order("seq").For("UPDATE").Exec(ctx)
	return err
}

// Due lists deliveries whose attempt is due, longest waiting first: of each tenant the one
// whose turn it is, and of a tenant whose erasure has begun only its notice.
func (s *Store) Due(ctx context.Context, now time.Time, limit int) ([]Delivery, error) {
	var rows []row
	err := pg.Bun(s.db).NewSelect().Model(&rows).Where("o.state = ?", Waiting).Where("o.next_attempt_at <= ?", now.UTC()).
		Where(sendable).Where(inOrder, now.UTC().Add(-Claim)).
		Order("o.next_attempt_at", "o.enqueued_at", "o.delivery_id").Limit(int64(limit)).Scan(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing deliveries that are due: %w", pg.Map(err))
	}
	return deliveries(rows)
}

// updateUnreached skips the deliveries that a process is sending at this moment.
const updateUnreached = `UPDATE trakr.outbox SET first_tried_at = coalesce(first_tried_at, ?0), last_outcome = ?1
	WHERE delivery_id IN (SELECT delivery_id FROM trakr.outbox WHERE state = 'waiting' AND next_attempt_at <= ?0
		AND (first_tried_at IS NULL OR last_outcome IS DISTINCT FROM ?1) FOR UPDATE SKIP LOCKED)`

// Unreached records that the end service cannot be reached: what is due stays due, and its
// days begin to count. Nothing was decrypted and nothing left. A delivery that another
// process is sending is left alone.
func (s *Store) Unreached(ctx context.Context, now time.Time, outcome string) error {
	if _, err := pg.Bun(s.db).NewRaw(updateUnreached, now.UTC(), outcome).Exec(ctx); err != nil {
		return fmt.Errorf("recording that the end service cannot be reached: %w", pg.Map(err))
	}
	return nil
}

// ErrGone means that a delivery is not to be sent now: it was closed, or its tenant's
// erasure has begun, or another process is sending it or a later one.
var ErrGone = errors.New("this delivery is not to be sent now")

// Open takes a delivery for an attempt and returns what is to be sent. The audit has the
// disclosure, and its recipient, before the payload is decrypted; both are committed when
// Open returns. For the time of Claim no other process takes it: after a crash at this
// point it is sent again then, with the same id and the same bytes. Whether it is its turn
// is checked here once more, under the lock: since it was listed, a person may have retried
// an earlier one, or another replica may have taken a later one. What the guard refuses is
// dead when Open returns egress.ErrRefused, and nothing of it left; after a crash before
// that it is refused at the next attempt.
func (s *Store) Open(ctx context.Context, a lifecycle.Access, d Delivery, g *egress.Guard, recipient string) (egress.Body, error) {
	now := s.log.Now().UTC()
	e := d.event(ctx, act{now, a, audit.DeliverySend, audit.Success, recipient})
	var payload struct{ Sealed []byte }
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		if err := lock(ctx, tx, d.Tenant); err != nil {
			return err
		}
		err := one(tx.NewUpdate().Model((*row)(nil)).
			Set("attempts = attempts + 1").Set("first_tried_at = coalesce(first_tried_at, ?)", now).
			Set("last_tried_at = ?", now).Set("next_attempt_at = ?", now.Add(Claim)).
			Where("delivery_id = ?", d.ID.String()).Where("state = ?", Waiting).Where("attempts = ?", d.Attempts).
			Where(inOrder, now.Add(-Claim)).Exec(ctx))
		if err != nil {
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
	var body egress.Body
	if d.Kind == egress.Erased {
		body, err = g.Encode(d.message(g, nil), nil)
	} else {
		plain, e := s.keys.DecryptPayload(d.Tenant, d.ID, payload.Sealed)
		if e != nil {
			return egress.Body{}, e
		}
		body, err = g.Review(plain)
	}
	if err != nil {
		// Only this very attempt ends: a delivery that was closed meanwhile stays closed.
		e := s.giveUp(ctx, d.refusal(ctx, now, a, recipient, err), func(tx bun.Tx) *bun.UpdateQuery {
			return dead(tx, d, now, Refused).Where("attempts = ?", d.Attempts+1)
		})
		if e != nil {
			return egress.Body{}, e
		}
	}
	return body, err
}

// one returns ErrGone for a write that touched no row.
func one(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(ErrGone, err)
	}
	return nil
}

// supersede begins an update that closes deliveries as needless.
func supersede(tx bun.Tx, now time.Time) *bun.UpdateQuery {
	return tx.NewUpdate().Model((*row)(nil)).Set("state = ?", Superseded).Set("next_attempt_at = NULL").Set("closed_at = ?", now)
}

// Acknowledge records that the end service acknowledged a delivery, and deletes its
// payload. An event contains all that the end service needs, so that every open delivery
// before it is needless from now on, and would be wrong after it. One that was closed while
// it was under way stays closed.
func (s *Store) Acknowledge(ctx context.Context, a lifecycle.Access, d Delivery, recipient string) error {
	now := s.log.Now().UTC()
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		if err := lock(ctx, tx, d.Tenant); err != nil {
			return err
		}
		if err := audit.Append(ctx, tx, d.event(ctx, act{now, a, audit.DeliveryAcknowledge, audit.Success, recipient})); err != nil {
			return err
		}
		_, err := tx.NewUpdate().Model((*row)(nil)).
			Set("state = ?", Acknowledged).Set("next_attempt_at = NULL").Set("last_outcome = NULL").Set("closed_at = ?", now).
			Where("delivery_id = ?", d.ID.String()).Where("state IN (?)", bun.List(open)).Exec(ctx)
		if err != nil {
			return err
		}
		_, err = supersede(tx, now).Where("tenant_id = ?", d.Tenant.String()).Where("seq < ?", d.Seq).Where("closed_at IS NULL").Exec(ctx)
		if err != nil {
			return err
		}
		return deletePayloads(ctx, tx, d.Tenant)
	})
	if err != nil {
		return fmt.Errorf("recording an acknowledgement: %w", err)
	}
	return nil
}

// deletePayloads deletes the payloads of a tenant's deliveries that are over.
func deletePayloads(ctx context.Context, tx bun.Tx, tenant lifecycle.TenantID) error {
	over := tx.NewSelect().Model((*row)(nil)).Column("o.delivery_id").
		Where("o.tenant_id = p.tenant_id").Where("o.closed_at IS NOT NULL")
	_, err := tx.NewDelete().Model((*payloadRow)(nil)).
		Where("p.tenant_id = ?", tenant.String()).Where("p.delivery_id IN (?)", over).Exec(ctx)
	return err
}

// Postpone records why an attempt failed and when the next one is.
func (s *Store) Postpone(ctx context.Context, d Delivery, next time.Time, outcome string) error {
	_, err := pg.Bun(s.db).NewUpdate().Model((*row)(nil)).Set("first_tried_at = coalesce(first_tried_at, ?)", s.log.Now().UTC()).
		Set("next_attempt_at = ?", next.UTC()).Set("last_outcome = ?", outcome).
		Where("delivery_id = ?", d.ID.String()).Where("state = ?", Waiting).Exec(ctx)
	if err != nil {
		return fmt.Errorf("postponing a delivery: %w", pg.Map(err))
	}
	return nil
}

// GiveUp ends the attempts: the delivery is dead until a person has it tried again, or a
// later one is acknowledged. The audit records it. A delivery that a person has just had
// tried again is not given up.
func (s *Store) GiveUp(ctx context.Context, a lifecycle.Access, d Delivery, recipient, outcome string) error {
	now := s.log.Now().UTC()
	e := d.event(ctx, act{now, a, audit.DeliveryGiveUp, audit.Failure, recipient})
	e.StatusDetail += ": " + outcome
	return s.giveUp(ctx, e, func(tx bun.Tx) *bun.UpdateQuery {
		return dead(tx, d, now, outcome).Where("first_tried_at = ?", d.FirstTriedAt)
	})
}

// dead begins an update that makes a waiting delivery dead.
func dead(tx bun.Tx, d Delivery, now time.Time, outcome string) *bun.UpdateQuery {
	return tx.NewUpdate().Model((*row)(nil)).Set("state = ?", Dead).Set("next_attempt_at = NULL").Set("dead_at = ?", now).
		Set("last_outcome = ?", outcome).Where("delivery_id = ?", d.ID.String()).Where("state = ?", Waiting)
}

// giveUp runs an update that makes one delivery dead, with its event. When the update
// touches no row, the delivery has changed meanwhile and nothing is recorded.
func (s *Store) giveUp(ctx context.Context, e audit.Event, update func(bun.Tx) *bun.UpdateQuery) error {
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		if err := one(update(tx).Exec(ctx)); err != nil {
			return err
		}
		return audit.Append(ctx, tx, e)
	})
	if err != nil && !errors.Is(err, ErrGone) {
		return fmt.Errorf("giving a delivery up: %w", err)
	}
	return nil
}

// Tried lists waiting deliveries that have been tried in vain for MaxAge, and that no
// process is sending.
func (s *Store) Tried(ctx context.Context, now time.Time, limit int) ([]Delivery, error) {
	var rows []row
	err := pg.Bun(s.db).NewSelect().Model(&rows).Where("o.state = ?", Waiting).Where("o.first_tried_at < ?", now.UTC().Add(-MaxAge)).
		Where("o.last_tried_at IS NULL OR o.last_tried_at <= ?", now.UTC().Add(-Claim)).
		Order("o.first_tried_at").Limit(int64(limit)).Scan(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing deliveries that are not acknowledged: %w", pg.Map(err))
	}
	return deliveries(rows)
}

// Get returns one delivery, or not-found.
func (s *Store) Get(ctx context.Context, id string) (Delivery, error) {
	return get(ctx, pg.Bun(s.db), id)
}

func get(ctx context.Context, db bun.IDB, id string) (Delivery, error) {
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		return Delivery{}, errUnknown()
	}
	var r row
	return r.scanned(db.NewSelect().Model(&r).Where("o.delivery_id = ?", id).Scan(ctx))
}

// scanned returns the delivery after a query for one, whose error is err.
func (r *row) scanned(err error) (Delivery, error) {
	err = pg.Map(err)
	if errors.Is(err, pg.ErrNoRows) {
		return Delivery{}, errUnknown()
	}
	if err != nil {
		return Delivery{}, fmt.Errorf("reading a delivery: %w", err)
	}
	return r.delivery()
}

func errUnknown() error {
	return lifecycle.Fail(lifecycle.NotFound, "There is no delivery with this id; trakr outbox list shows them.")
}

// List lists deliveries, those that are not over first, newest first.
func (s *Store) List(ctx context.Context, openOnly bool, limit int) ([]Delivery, error) {
	var rows []row
	q := pg.Bun(s.db).NewSelect().Model(&rows)
	if openOnly {
		q = q.Where("o.closed_at IS NULL")
	}
	err := q.OrderExpr("o.closed_at IS NOT NULL, o.enqueued_at DESC, o.delivery_id").
		Limit(int64(min(max(limit, 1), 1000))).Scan(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing deliveries: %w", pg.Map(err))
	}
	return deliveries(rows)
}

// Counts counts the deliveries that are not over.
type Counts struct {
	Waiting        int64
	Dead           int64 // announcements of tenants
	DeadNotices    int64 // notices of an erasure
	Overdue        int64 // waiting, and entered longer ago than MaxAge, whether or not a relay runs
	OverdueNotices int64 // of these
}

// Findings returns how many of them a person must look at.
func (c Counts) Findings() int64 { return c.Dead + c.DeadNotices + c.Overdue }

const selectCounts = `SELECT count(*) FILTER (WHERE state = 'waiting') AS waiting,
		count(*) FILTER (WHERE state = 'dead' AND kind <> 'erased') AS dead,
		count(*) FILTER (WHERE state = 'dead' AND kind = 'erased') AS dead_notices,
		count(*) FILTER (WHERE state = 'waiting' AND enqueued_at <= ?0) AS overdue,
		count(*) FILTER (WHERE state = 'waiting' AND enqueued_at <= ?0 AND kind = 'erased') AS overdue_notices
	FROM trakr.outbox WHERE closed_at IS NULL`

// Counts counts the deliveries that are not over.
func (s *Store) Counts(ctx context.Context) (Counts, error) {
	var c Counts
	if err := pg.Bun(s.db).NewRaw(selectCounts, s.log.Now().UTC().Add(-MaxAge)).Scan(ctx, &c); err != nil {
		return Counts{}, fmt.Errorf("counting deliveries: %w", pg.Map(err))
	}
	return c, nil
}
