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

	entered chan struct{} // holds one element after Notify until the sender receives it
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
	// Claim is how long a delivery belongs to whoever opened it: longer than one attempt
	// can last, so that two never send it at the same time.
	Claim = time.Minute
)

// overtaken is true of a delivery (o) that came too late: of a later one of its tenant
// bytes may have left, and that one says all that the end service is to know. It is
// never sent; it is closed when the later one is taken.
const overtaken = `EXISTS (SELECT FROM trakr.outbox AS l WHERE l.tenant_id = o.tenant_id AND l.seq > o.seq AND l.attempts > 0)`

// inOrder is true of a delivery (o) whose turn it is: it is not overtaken, none before it
// is still to be sent, and none before it was closed since the time that is its argument,
// now less Claim, while it was perhaps under way: that one could still arrive.
const inOrder = `NOT ` + overtaken + ` AND NOT EXISTS (SELECT FROM trakr.outbox AS b WHERE b.tenant_id = o.tenant_id AND b.seq < o.seq
	AND ((b.state = 'waiting' AND NOT EXISTS (SELECT FROM trakr.outbox AS l WHERE l.tenant_id = b.tenant_id AND l.seq > b.seq AND l.attempts > 0))
		OR (b.state = 'superseded' AND b.last_tried_at > ?::timestamptz)))`

// lock keeps everybody else from deciding about a tenant's deliveries until the
// transaction ends. All who decide about more than one take it, and first, so that none
// waits for another in a circle.
func lock(ctx context.Context, tx bun.Tx, tenant string) error {
	_, err := tx.NewRaw(`SELECT FROM trakr.outbox WHERE tenant_id = ? AND closed_at IS NULL ORDER BY seq FOR UPDATE`, tenant).Exec(ctx)
	return err
}

// Due lists deliveries whose attempt is due, longest waiting first: of each tenant the
// one whose turn it is, and of one on its way out nothing but its notice.
func (s *Store) Due(ctx context.Context, now time.Time, limit int) ([]Delivery, error) {
	var rows []row
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT `+columns+` FROM trakr.outbox AS o WHERE o.state = 'waiting' AND o.next_attempt_at <= ?
		AND (o.kind = 'erased' OR EXISTS (SELECT FROM trakr.tenants AS t WHERE t.tenant_id = o.tenant_id AND t.state = 'live'))
		AND `+inOrder+` ORDER BY o.next_attempt_at, o.enqueued_at, o.delivery_id LIMIT ?`, now.UTC(), now.UTC().Add(-Claim), limit).Scan(ctx, &rows))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("listing what the end service is to be told: %w", err)
	}
	return deliveries(rows)
}

// Unreached notes that the end service cannot be reached: what is due stays due, and
// its days begin to count. Nothing was opened and nothing left. What somebody is at is
// being tried at this moment, and is left alone.
func (s *Store) Unreached(ctx context.Context, now time.Time, outcome string) error {
	_, err := pg.Bun(s.db).NewRaw(`UPDATE trakr.outbox SET first_tried_at = coalesce(first_tried_at, ?0), last_outcome = ?1
		WHERE delivery_id IN (SELECT delivery_id FROM trakr.outbox WHERE state = 'waiting' AND next_attempt_at <= ?0
			AND (first_tried_at IS NULL OR last_outcome IS DISTINCT FROM ?1) FOR UPDATE SKIP LOCKED)`, now.UTC(), outcome).Exec(ctx)
	if err != nil {
		return fmt.Errorf("noting that the end service cannot be reached: %w", pg.Map(err))
	}
	return nil
}

// ErrGone means that a delivery is not to be sent now: it was closed, or its tenant is on
// its way out, or another process is at it or at a later one.
var ErrGone = errors.New("this delivery is not to be sent now")

// Open takes a delivery for an attempt and returns what is to be sent. The audit has
// the disclosure, and to whom, before the payload is opened; both are committed when
// Open returns. For the time of Claim nobody else takes it: a crash after this point
// sends it again then, with the same id and the same bytes. That it is its turn is judged
// here once more, under the lock: since it was listed, an earlier one may have been
// retried by a person, or a later one taken by another replica. What the guard refuses is
// dead when Open returns egress.ErrRefused, and nothing of it left; a crash before that has
// it refused again at the next attempt.
func (s *Store) Open(ctx context.Context, a lifecycle.Access, d Delivery, g *egress.Guard, recipient string) (egress.Body, error) {
	now := s.log.Now().UTC()
	e := d.event(ctx, now, a, audit.DeliverySend, audit.Success, recipient)
	var payload struct{ Sealed []byte }
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		if err := lock(ctx, tx, d.Tenant.String()); err != nil {
			return err
		}
		res, err := tx.NewRaw(`UPDATE trakr.outbox AS o SET attempts = attempts + 1, first_tried_at = coalesce(first_tried_at, ?), last_tried_at = ?, next_attempt_at = ?
			WHERE delivery_id = ? AND state = 'waiting' AND attempts = ? AND `+inOrder, now, now, now.Add(Claim), d.ID.String(), d.Attempts, now.Add(-Claim)).Exec(ctx)
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
	var body egress.Body
	if d.Kind == egress.Erased {
		body, err = g.Encode(egress.Event{ID: d.ID.String(), Kind: d.Kind, Time: d.EnqueuedAt, Sequence: d.Seq, Data: g.Data(d.Kind, d.Tenant, nil)}, nil)
	} else {
		b, e := s.keys.DecryptPayload(d.Tenant, d.ID, payload.Sealed)
		if e != nil {
			return egress.Body{}, e
		}
		body, err = g.Review(b)
	}
	if err != nil {
		// Of this very attempt: one that was closed meanwhile stays closed.
		if e := s.bury(ctx, d.refusal(ctx, now, a, recipient, err), d, now, Refused, `attempts = ?`, d.Attempts+1); e != nil {
			return egress.Body{}, e
		}
	}
	return body, err
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
		case errors.Is(err, keyring.ErrCannotDecrypt):
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
		e.CorrelationID = s.keys.Active().Rotation()
		var payload struct{ Sealed []byte }
		if err := tx.NewRaw(`SELECT sealed FROM door.reseal_payload(?)`, e.Record()).Scan(ctx, &payload); err != nil {
			return audit.Unavailable(err)
		}
		b, err := s.keys.DecryptPayload(d.Tenant, d.ID, payload.Sealed)
		if err != nil {
			return err
		}
		sealed, err := s.keys.EncryptPayload(d.Tenant, d.ID, b)
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
// event says all that the end service is to know, so that every open one before it is
// needless from now on, and would be wrong after it. One that was closed while it was
// under way stays closed.
func (s *Store) Acknowledge(ctx context.Context, a lifecycle.Access, d Delivery, recipient string) error {
	now := s.log.Now().UTC()
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		if err := lock(ctx, tx, d.Tenant.String()); err != nil {
			return err
		}
		if err := audit.Append(ctx, tx, d.event(ctx, now, a, audit.DeliveryAcknowledge, audit.Success, recipient)); err != nil {
			return err
		}
		if _, err := tx.NewRaw(`UPDATE trakr.outbox SET state = 'acknowledged', next_attempt_at = NULL, last_outcome = NULL, closed_at = ?0
			WHERE delivery_id = ?1 AND state IN ('waiting', 'dead')`, now, d.ID.String()).Exec(ctx); err != nil {
			return err
		}
		if _, err := tx.NewRaw(`UPDATE trakr.outbox SET state = 'superseded', next_attempt_at = NULL, closed_at = ? WHERE tenant_id = ? AND seq < ? AND closed_at IS NULL`,
			now, d.Tenant.String(), d.Seq).Exec(ctx); err != nil {
			return err
		}
		return forget(ctx, tx, d.Tenant)
	})
	if err != nil {
		return fmt.Errorf("entering an acknowledgement: %w", err)
	}
	return nil
}

// forget deletes the payloads of a tenant's deliveries that are over.
func forget(ctx context.Context, tx bun.Tx, tenant lifecycle.TenantID) error {
	_, err := tx.NewRaw(`DELETE FROM trakr.outbox_payloads AS p WHERE p.tenant_id = ? AND p.delivery_id IN (SELECT o.delivery_id FROM trakr.outbox AS o
		WHERE o.tenant_id = p.tenant_id AND o.closed_at IS NOT NULL)`, tenant.String()).Exec(ctx)
	return err
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
// a later one is taken. The audit has it. One that a person has just had tried again is
// not given up.
func (s *Store) GiveUp(ctx context.Context, a lifecycle.Access, d Delivery, recipient, outcome string) error {
	now := s.log.Now().UTC()
	e := d.event(ctx, now, a, audit.DeliveryGiveUp, audit.Failure, recipient)
	e.StatusDetail += ": " + outcome
	return s.bury(ctx, e, d, now, outcome, `first_tried_at = ?`, d.FirstTriedAt)
}

// bury makes a waiting delivery dead, with the event that says so, when it is still as
// the condition has it.
func (s *Store) bury(ctx context.Context, e audit.Event, d Delivery, now time.Time, outcome, still string, as any) error {
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		err := one(tx.NewRaw(`UPDATE trakr.outbox SET state = 'dead', next_attempt_at = NULL, dead_at = ?, last_outcome = ? WHERE delivery_id = ? AND state = 'waiting' AND `+still,
			now, outcome, d.ID.String(), as).Exec(ctx))
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

// Tried lists waiting deliveries that have been tried in vain for MaxAge, and that nobody
// is at.
func (s *Store) Tried(ctx context.Context, now time.Time, limit int) ([]Delivery, error) {
	var rows []row
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT `+columns+` FROM trakr.outbox AS o WHERE o.state = 'waiting' AND o.first_tried_at < ?
		AND (o.last_tried_at IS NULL OR o.last_tried_at <= ?) ORDER BY o.first_tried_at LIMIT ?`, now.UTC().Add(-MaxAge), now.UTC().Add(-Claim), limit).Scan(ctx, &rows))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("listing deliveries that are not taken: %w", err)
	}
	return deliveries(rows)
}

// Retry has a dead or waiting delivery tried anew by a person's word: at once, or when
// whoever is at it has had its time. One that a later one of its tenant overtook is
// refused: it would come after what the end service may have taken. So is one that the
// guard refused when it was entered: there is nothing to be sent.
func (s *Store) Retry(ctx context.Context, a lifecycle.Access, id string) (Delivery, error) {
	if err := a.CheckReason(); err != nil {
		return Delivery{}, err
	}
	now := s.log.Now().UTC()
	var d Delivery
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) (err error) {
		if d, err = open(ctx, tx, id); err != nil {
			return err
		}
		if err := retriable(ctx, tx, d); err != nil {
			return err
		}
		next := now
		if d.State == Waiting && d.LastTriedAt != nil && d.LastTriedAt.Add(Claim).After(now) {
			next = d.LastTriedAt.Add(Claim) // somebody may be at it
		}
		if err := audit.Append(ctx, tx, d.event(ctx, now, a, audit.DeliveryRetry, audit.Success, "")); err != nil {
			return err
		}
		if _, err := tx.NewRaw(`UPDATE trakr.outbox SET state = 'waiting', first_tried_at = NULL, dead_at = NULL, next_attempt_at = ? WHERE delivery_id = ?`, next, id).Exec(ctx); err != nil {
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

// RetryDead has every dead delivery tried anew that can be, each with its event, and
// returns them. What it leaves is closed when a later delivery of its tenant is taken, or
// when a person drops it.
func (s *Store) RetryDead(ctx context.Context, a lifecycle.Access) ([]Delivery, error) {
	done := []Delivery{}
	for after := (Delivery{}); ; {
		var rows []row
		err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT `+columns+` FROM trakr.outbox AS o WHERE o.state = 'dead' AND (o.tenant_id, o.seq) > (?::uuid, ?::bigint) AND NOT `+overtaken+`
			ORDER BY o.tenant_id, o.seq LIMIT 200`, after.Tenant.String(), after.Seq).Scan(ctx, &rows))
		if err != nil && !errors.Is(err, pg.ErrNoRows) {
			return done, fmt.Errorf("listing dead deliveries: %w", err)
		}
		some, err := deliveries(rows)
		if err != nil || len(some) == 0 {
			return done, err
		}
		for _, d := range some {
			after = d
			again, err := s.Retry(ctx, a, d.ID.String())
			switch {
			case errors.Is(err, lifecycle.RequestConflict): // there is nothing to send, or since it was listed it was closed or overtaken
			case err != nil:
				return done, err
			default:
				done = append(done, again)
			}
		}
	}
}

// Dropped is the last outcome of a delivery that a person dropped.
const Dropped = "dropped by a person"

// Drop closes a delivery about an install or a change that is not taken, dead or
// overdue, and forgets its payload: the end service will not be told. Had it been sent,
// the open ones before it can never be, and are closed with it, each with its event. The
// audit says who did it and for which ticket. The notice of an erasure is never dropped: that somebody
// still holds what was erased here stays a finding until that is over.
func (s *Store) Drop(ctx context.Context, a lifecycle.Access, id string) (Delivery, error) {
	if err := a.Check(); err != nil {
		return Delivery{}, err
	}
	now := s.log.Now().UTC()
	var d Delivery
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) (err error) {
		if d, err = open(ctx, tx, id); err != nil {
			return err
		}
		switch {
		case d.Kind == egress.Erased:
			return lifecycle.Fail(lifecycle.RequestConflict, "This is the notice of an erasure: as long as it is not acknowledged, the end service may still hold what was erased here, so it is never dropped. Have it tried again until the end service itself acknowledges it: trakr outbox retry "+id)
		case !d.Overdue(now):
			return lifecycle.Fail(lifecycle.RequestConflict, "This delivery is still tried. Only what was not taken for five days can be dropped.")
		}
		var rows []row
		err = pg.Map(tx.NewRaw(`SELECT `+columns+` FROM trakr.outbox AS o WHERE o.tenant_id = ? AND o.closed_at IS NULL AND (o.seq = ? OR o.seq < ? AND ?) ORDER BY o.seq`,
			d.Tenant.String(), d.Seq, d.Seq, d.Attempts > 0).Scan(ctx, &rows))
		if err != nil {
			return err
		}
		all, err := deliveries(rows)
		if err != nil {
			return err
		}
		for _, d := range all {
			e := d.event(ctx, now, a, audit.DeliveryClose, audit.Success, "")
			e.StatusDetail += ": dropped"
			if err := audit.Append(ctx, tx, e); err != nil {
				return err
			}
			if _, err := tx.NewRaw(`UPDATE trakr.outbox SET state = 'superseded', next_attempt_at = NULL, last_outcome = ?, closed_at = ? WHERE delivery_id = ?`, Dropped, now, d.ID.String()).Exec(ctx); err != nil {
				return err
			}
		}
		if err := forget(ctx, tx, d.Tenant); err != nil {
			return err
		}
		d, err = get(ctx, tx, id, ``)
		return err
	})
	if err != nil {
		return Delivery{}, fmt.Errorf("dropping a delivery: %w", err)
	}
	return d, nil
}

// open reads a delivery that is not over, and has the lock on its tenant's.
func open(ctx context.Context, tx bun.Tx, id string) (Delivery, error) {
	d, err := get(ctx, tx, id, ``)
	if err != nil {
		return Delivery{}, err
	}
	if err := lock(ctx, tx, d.Tenant.String()); err != nil {
		return Delivery{}, err
	}
	if d, err = get(ctx, tx, id, ``); err == nil && d.ClosedAt != nil {
		err = lifecycle.Fail(lifecycle.RequestConflict, "This delivery is "+string(d.State)+": there is nothing left to send.")
	}
	return d, err
}

// retriable refuses what trying again cannot help, and says what does.
func retriable(ctx context.Context, tx bun.Tx, d Delivery) error {
	var kept struct{ Payload bool }
	if err := pg.Map(tx.NewRaw(`SELECT EXISTS (SELECT FROM trakr.outbox_payloads WHERE delivery_id = ?) AS payload`, d.ID.String()).Scan(ctx, &kept)); err != nil {
		return err
	}
	drop := "trakr outbox drop " + d.ID.String() + " --reason-ref TICKET"
	if d.Kind != egress.Erased && !kept.Payload {
		return lifecycle.Fail(lifecycle.RequestConflict, "The guard refused this delivery when it was entered, so nothing of it was kept and there is nothing to send; its event in the audit says why. "+
			"Drop it: "+drop+". To have the end service told, change the policy if it should release more, and have the installation tell us of its next change.")
	}
	var later struct {
		DeliveryID string
		State      State
	}
	err := pg.Map(tx.NewRaw(`SELECT l.delivery_id, l.state FROM trakr.outbox AS l WHERE l.tenant_id = ? AND l.seq > ? AND l.attempts > 0 ORDER BY l.seq DESC LIMIT 1`,
		d.Tenant.String(), d.Seq).Scan(ctx, &later))
	switch {
	case errors.Is(err, pg.ErrNoRows):
		return nil
	case err != nil:
		return err
	case later.State == Waiting || later.State == Dead:
		return lifecycle.Fail(lifecycle.RequestConflict, "A later delivery of this tenant was sent already and says all that this one does; this one is closed when that one is taken. Have that one tried again: trakr outbox retry "+later.DeliveryID)
	}
	return lifecycle.Fail(lifecycle.RequestConflict, "A later delivery of this tenant was sent and is over ("+string(later.State)+"), so this one is needless and is never sent. Drop it: "+drop)
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
	Waiting        int64
	Dead           int64 // deliveries about tenants that are here
	DeadNotices    int64 // notices of an erasure
	Overdue        int64 // of those that wait: entered longer ago than MaxAge, whether or not anybody sends
	OverdueNotices int64 // of these
}

// Findings is how much of it a person must look at.
func (c Counts) Findings() int64 { return c.Dead + c.DeadNotices + c.Overdue }

// Counts counts it.
func (s *Store) Counts(ctx context.Context) (Counts, error) {
	var c Counts
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT count(*) FILTER (WHERE state = 'waiting') AS waiting, count(*) FILTER (WHERE state = 'dead' AND kind <> 'erased') AS dead,
		count(*) FILTER (WHERE state = 'dead' AND kind = 'erased') AS dead_notices, count(*) FILTER (WHERE state = 'waiting' AND enqueued_at <= ?0) AS overdue,
		count(*) FILTER (WHERE state = 'waiting' AND enqueued_at <= ?0 AND kind = 'erased') AS overdue_notices
		FROM trakr.outbox WHERE closed_at IS NULL`, s.log.Now().UTC().Add(-MaxAge)).Scan(ctx, &c))
	if err != nil {
		return Counts{}, fmt.Errorf("counting deliveries: %w", err)
	}
	return c, nil
}
