// Package outbox stores the deliveries to the end service. Each is entered in the
// transaction of the act that it reports, and sent by the relay
// (internal/delivery/endservice), which asks for those that are due.
//
// A delivery's row names no customer and is kept. Its payload is stored apart and
// encrypted, and is deleted when the delivery is acknowledged, and at once when its tenant
// is erased: no payload of a tenant whose erasure has begun is ever sent. The notice of an
// erasure has no payload; all it contains is our own random id of the tenant, which the
// end service received with the client key.
//
// What the guard refuses is never sent, and does not refuse the act that it reports: its
// delivery is dead from the beginning, without a payload.
//
// Within a tenant a delivery waits for the earlier ones, and is never sent after a later
// one was: a delivery that comes too late is closed when the later one is acknowledged.
// Each attempt is a disclosure that is in the audit before the payload is decrypted; the
// database's function door.disclose enforces that.
package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"trakr/internal/egress"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
)

// State is how far a delivery has come.
type State string

// The states of a delivery. Dead is a finding: the delivery was tried for days, or the
// guard refused it, and a person must decide.
const (
	Waiting      State = "waiting"
	Dead         State = "dead"
	Acknowledged State = "acknowledged"
	Superseded   State = "superseded" // needless: the tenant was erased, a later delivery was acknowledged, or a person dropped it
)

// Refused is the last outcome of a delivery that the guard refused.
var Refused = egress.ErrRefused.Error()

// Announcement is what an install or a change announces to the end service.
type Announcement struct {
	Kind   egress.Kind
	Tenant lifecycle.TenantID
	Values lifecycle.Values
	At     time.Time
}

// Announce enters an announcement in the transaction of the act. What the guard refuses
// is entered as dead, with its event and without a payload: nothing is sent, it is a
// finding, and the act succeeds.
func (s *Store) Announce(ctx context.Context, tx bun.Tx, g *egress.Guard, a lifecycle.Access, x Announcement) error {
	seq, err := next(ctx, tx, x.Tenant)
	if err != nil {
		return err
	}
	at := x.At.UTC().Truncate(time.Microsecond)
	d := Delivery{ID: uuid.New(), Tenant: x.Tenant, Seq: seq, Kind: x.Kind, State: Waiting, EnqueuedAt: at}
	body, err := g.Encode(d.message(g, x.Values), x.Values)
	if err != nil {
		d.State, d.LastOutcome, d.DeadAt = Dead, Refused, &d.EnqueuedAt
		if err := enqueue(ctx, tx, d, false); err != nil {
			return err
		}
		return audit.Append(ctx, tx, d.refusal(ctx, d.EnqueuedAt, a, "", err))
	}
	payload, err := s.encrypt(d, body.Bytes())
	if err != nil {
		return err
	}
	d.Fields, d.NextAttemptAt = body.Fields(), &d.EnqueuedAt
	if err := enqueue(ctx, tx, d, false); err != nil {
		return err
	}
	_, err = tx.NewInsert().Model(payload).Exec(ctx)
	return err
}

// next returns the number of a tenant's next delivery. The caller has locked the tenant's
// row, or has just inserted it.
func next(ctx context.Context, tx bun.Tx, tenant lifecycle.TenantID) (int64, error) {
	var last struct{ Seq int64 }
	err := tx.NewSelect().Model((*row)(nil)).ColumnExpr("coalesce(max(o.seq), 0) AS seq").
		Where("tenant_id = ?", tenant.String()).Scan(ctx, &last)
	return last.Seq + 1, err
}

// enqueue inserts a delivery. notified reports, for the notice of an erasure, that
// something was sent about the tenant before.
func enqueue(ctx context.Context, tx bun.Tx, d Delivery, notified bool) error {
	r := row{
		DeliveryID: d.ID.String(), TenantID: d.Tenant.String(), Seq: d.Seq, Kind: string(d.Kind), State: d.State, FieldNames: []string{},
		ErasureID: d.ErasureID, Told: notified, EnqueuedAt: d.EnqueuedAt, NextAttemptAt: d.NextAttemptAt, LastOutcome: d.LastOutcome,
		DeadAt: d.DeadAt,
	}
	for _, f := range d.Fields {
		r.FieldNames = append(r.FieldNames, string(f))
	}
	_, err := tx.NewInsert().Model(&r).Returning("NULL").Exec(ctx)
	return err
}

// ErasureNotice is the notice to the end service that a tenant was erased.
type ErasureNotice struct {
	Tenant  lifecycle.TenantID
	Erasure uuid.UUID
	At      time.Time
	// Announced reports that the service announces its tenants to an end service. Without
	// one, a notice is entered only for a tenant of which something was sent before.
	Announced bool
}

const selectSent = `SELECT coalesce(bool_or(attempts > 0), false) AS sent, count(*) FILTER (WHERE state IN ('waiting', 'dead')) AS open
	FROM trakr.outbox WHERE tenant_id = ?`

// NotifyErasure enters the notice of an erasure, in the transaction that deletes the
// tenant's values, and closes what was still open: that is needless now, and the
// transaction deletes the payloads as it does every other row of the tenant.
func NotifyErasure(ctx context.Context, tx bun.Tx, a lifecycle.Access, n ErasureNotice) error {
	if err := lock(ctx, tx, n.Tenant); err != nil {
		return err
	}
	var before struct {
		Sent bool
		Open int64
	}
	if err := tx.NewRaw(selectSent, n.Tenant.String()).Scan(ctx, &before); err != nil {
		return err
	}
	if before.Open > 0 {
		e := audit.New(ctx, n.At, a, audit.DeliveryClose, audit.Success)
		e.TenantID, e.CorrelationID, e.StatusDetail = n.Tenant, n.Erasure.String(), fmt.Sprintf("superseded %d", before.Open)
		if err := audit.Append(ctx, tx, e); err != nil {
			return err
		}
		_, err := supersede(tx, n.At).Where("tenant_id = ?", n.Tenant.String()).Where("state IN (?)", bun.List(open)).Exec(ctx)
		if err != nil {
			return err
		}
	}
	if !n.Announced && !before.Sent {
		return nil
	}
	seq, err := next(ctx, tx, n.Tenant)
	if err != nil {
		return err
	}
	return enqueue(ctx, tx, Delivery{
		ID: uuid.New(), Tenant: n.Tenant, Seq: seq, Kind: egress.Erased, State: Waiting, ErasureID: n.Erasure.String(),
		EnqueuedAt: n.At, NextAttemptAt: &n.At,
	}, before.Sent)
}

// Delivery is one delivery, without its payload.
type Delivery struct {
	ID            uuid.UUID          `json:"delivery_id"`
	Tenant        lifecycle.TenantID `json:"tenant_id"`
	Seq           int64              `json:"seq"` // of the tenant's deliveries, from 1
	Kind          egress.Kind        `json:"kind"`
	State         State              `json:"state"`
	Fields        []lifecycle.Field  `json:"field_names"`          // disclosed by it
	ErasureID     string             `json:"erasure_id,omitempty"` // of which it is the notice
	EnqueuedAt    time.Time          `json:"enqueued_at"`
	Attempts      int                `json:"attempts"` // in which bytes may have left
	FirstTriedAt  *time.Time         `json:"first_tried_at,omitempty"`
	LastTriedAt   *time.Time         `json:"last_tried_at,omitempty"`
	NextAttemptAt *time.Time         `json:"next_attempt_at,omitempty"`
	LastOutcome   string             `json:"last_outcome,omitempty"` // why the last attempt failed
	DeadAt        *time.Time         `json:"dead_at,omitempty"`
	ClosedAt      *time.Time         `json:"closed_at,omitempty"`
}

// Overdue reports whether a delivery is a finding: it is dead, or it is open and was
// entered at least MaxAge ago, whether or not a relay runs.
func (d Delivery) Overdue(now time.Time) bool {
	return d.ClosedAt == nil && (d.State == Dead || now.Sub(d.EnqueuedAt) >= MaxAge)
}

// row is a delivery as bun reads and writes it.
type row struct {
	bun.BaseModel `bun:"table:trakr.outbox,alias:o"`

	DeliveryID    string
	TenantID      string
	Seq           int64
	Kind          string
	State         State
	FieldNames    []string `bun:",array"`
	ErasureID     string   `bun:",nullzero"`
	Told          bool
	EnqueuedAt    time.Time
	Attempts      int
	FirstTriedAt  *time.Time
	LastTriedAt   *time.Time
	NextAttemptAt *time.Time
	LastOutcome   string `bun:",nullzero"`
	DeadAt        *time.Time
	ClosedAt      *time.Time
}

// payloadRow is a delivery's encrypted payload.
type payloadRow struct {
	bun.BaseModel `bun:"table:trakr.outbox_payloads,alias:p"`

	DeliveryID string
	TenantID   string
	Sealed     []byte
}

func (r row) delivery() (Delivery, error) {
	id, err1 := uuid.Parse(r.DeliveryID)
	tenant, err2 := lifecycle.ParseTenantID(r.TenantID)
	if err := errors.Join(err1, err2); err != nil {
		return Delivery{}, fmt.Errorf("reading a delivery: %w", err)
	}
	d := Delivery{
		ID: id, Tenant: tenant, Seq: r.Seq, Kind: egress.Kind(r.Kind), State: r.State, Fields: []lifecycle.Field{}, ErasureID: r.ErasureID,
		EnqueuedAt: r.EnqueuedAt.UTC(), Attempts: r.Attempts, FirstTriedAt: pg.UTC(r.FirstTriedAt), LastTriedAt: pg.UTC(r.LastTriedAt),
		NextAttemptAt: pg.UTC(r.NextAttemptAt), LastOutcome: r.LastOutcome, DeadAt: pg.UTC(r.DeadAt), ClosedAt: pg.UTC(r.ClosedAt),
	}
	for _, f := range r.FieldNames {
		d.Fields = append(d.Fields, lifecycle.Field(f))
	}
	return d, nil
}

func deliveries(rows []row) ([]Delivery, error) {
	out := make([]Delivery, 0, len(rows))
	for _, r := range rows {
		d, err := r.delivery()
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// message returns what the end service receives, with the values that the guard releases.
func (d Delivery) message(g *egress.Guard, values lifecycle.Values) egress.Event {
	return egress.Event{ID: d.ID.String(), Kind: d.Kind, Time: d.EnqueuedAt, Sequence: d.Seq, Data: g.Data(d.Kind, d.Tenant, values)}
}

// correlation is the id by which the events of a delivery are found: those of a notice
// belong to its erasure.
func (d Delivery) correlation() string {
	if d.ErasureID != "" {
		return d.ErasureID
	}
	return d.ID.String()
}

// act is what happened to a delivery.
type act struct {
	at        time.Time
	access    lifecycle.Access
	action    audit.Action
	outcome   audit.Outcome
	recipient string // host that it was sent to; "" for none
}

// event begins the event of an act on a delivery. The delivery's id takes the place of a
// request's.
func (d Delivery) event(ctx context.Context, x act) audit.Event {
	a := x.access
	a.RequestID, a.CorrelationID = d.ID.String(), d.correlation()
	e := audit.New(ctx, x.at, a, x.action, x.outcome)
	e.TenantID, e.FieldNames, e.Recipient, e.StatusDetail = d.Tenant, slices.Clone(d.Fields), x.recipient, string(d.Kind)
	return e
}

// refusal returns the event of a delivery that is dead because the guard refused it, with
// the reason; the guard's errors contain no value.
func (d Delivery) refusal(ctx context.Context, now time.Time, a lifecycle.Access, recipient string, why error) audit.Event {
	e := d.event(ctx, act{now, a, audit.DeliveryGiveUp, audit.Failure, recipient})
	e.StatusDetail += ": " + why.Error()
	return e
}
