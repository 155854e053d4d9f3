// Package outbox keeps what the end service is to be told: entered in the transaction
// of the act it is about, and sent by whoever asks for what is due (internal/endservice).
//
// A delivery's row names no customer and stays. Its payload lies apart and sealed, and
// is gone when the delivery is acknowledged, and at once when its tenant is erased: of
// a tenant on its way out nothing waits here, whatever the end service does. The notice
// of an erasure has no payload; all it says is our own random id of the tenant, which
// the end service learnt with the client key.
//
// What the guard refuses is never sent, and does not refuse the act it is about: its
// delivery is dead from the beginning, without a payload.
//
// Within a tenant a delivery waits for the ones before it, and is never sent after a later
// one was: what comes late is closed when the later one is taken. Each attempt is a disclosure
// that is in the audit before the payload is opened; the database's function door.disclose
// sees to it.
package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"trakr/internal/egress"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
)

// State is how far a delivery has come.
type State string

// The states. Dead is a finding: it was tried for days, or the guard refused it, and it
// waits for a person.
const (
	Waiting      State = "waiting"
	Dead         State = "dead"
	Acknowledged State = "acknowledged"
	Superseded   State = "superseded" // needless: the tenant was erased, a later delivery was taken, or a person dropped it
)

// Announce enters, in the transaction of an install or a change, that the end service
// is to be told of a tenant. What the guard refuses is entered as dead, with its event
// and without a payload: nobody is told, a person finds it, and the act goes on.
func Announce(ctx context.Context, tx bun.Tx, g *egress.Guard, keys *keyring.Keyring, a lifecycle.Access, k egress.Kind, tenant lifecycle.TenantID, values lifecycle.Values, now time.Time) error {
	id := uuid.New()
	now = now.UTC().Truncate(time.Microsecond)
	seq, err := next(ctx, tx, tenant)
	if err != nil {
		return err
	}
	body, err := g.Encode(egress.Event{ID: id.String(), Kind: k, Time: now, Sequence: seq, Data: g.Data(k, tenant, values)}, values)
	if err != nil {
		d := Delivery{ID: id, Tenant: tenant, Kind: k}
		if _, err := tx.NewRaw(`INSERT INTO trakr.outbox (delivery_id, tenant_id, seq, kind, state, field_names, told, enqueued_at, last_outcome, dead_at) VALUES (?, ?, ?, ?, 'dead', '{}', false, ?, ?, ?)`,
			id.String(), tenant.String(), seq, string(k), now, Refused, now).Exec(ctx); err != nil {
			return err
		}
		return audit.Append(ctx, tx, d.refusal(ctx, now, a, "", err))
	}
	sealed, err := keys.EncryptPayload(tenant, id, body.Bytes())
	if err != nil {
		return err
	}
	_, err = tx.NewRaw(`INSERT INTO trakr.outbox (delivery_id, tenant_id, seq, kind, state, field_names, told, enqueued_at, next_attempt_at) VALUES (?, ?, ?, ?, 'waiting', ?, false, ?, ?)`,
		id.String(), tenant.String(), seq, string(k), pgdialect.Array(names(body.Fields())), now, now).Exec(ctx)
	if err != nil {
		return err
	}
	_, err = tx.NewRaw(`INSERT INTO trakr.outbox_payloads (delivery_id, tenant_id, sealed) VALUES (?, ?, ?)`, id.String(), tenant.String(), sealed).Exec(ctx)
	return err
}

func names(fields []lifecycle.Field) []string {
	out := make([]string, len(fields))
	for i, f := range fields {
		out[i] = string(f)
	}
	return out
}

// next is the number of a tenant's next delivery. Whoever enters one holds the lock on
// the tenant's row, or has just made it.
func next(ctx context.Context, tx bun.Tx, tenant lifecycle.TenantID) (int64, error) {
	var row struct{ Seq int64 }
	err := tx.NewRaw(`SELECT coalesce(max(seq), 0) + 1 AS seq FROM trakr.outbox WHERE tenant_id = ?`, tenant.String()).Scan(ctx, &row)
	return row.Seq, err
}

// Erased enters, in the transaction that deletes a tenant's values, the notice of its
// erasure, and closes what still waited: that is needless now, and the transaction
// deletes the payloads as it does every other row of the tenant. Where no end service
// is told (tell), a notice is entered only for one that was told something before.
func Erased(ctx context.Context, tx bun.Tx, tell bool, a lifecycle.Access, tenant lifecycle.TenantID, erasure uuid.UUID, now time.Time) error {
	var row struct {
		Told bool
		Open int64
	}
	if err := lock(ctx, tx, tenant.String()); err != nil {
		return err
	}
	err := tx.NewRaw(`SELECT coalesce(bool_or(attempts > 0), false) AS told, count(*) FILTER (WHERE state IN ('waiting', 'dead')) AS open
		FROM trakr.outbox WHERE tenant_id = ?`, tenant.String()).Scan(ctx, &row)
	if err != nil {
		return err
	}
	if row.Open > 0 {
		e := audit.New(ctx, now, a, audit.DeliveryClose, audit.Success)
		e.TenantID, e.CorrelationID, e.StatusDetail = tenant, erasure.String(), fmt.Sprintf("superseded %d", row.Open)
		if err := audit.Append(ctx, tx, e); err != nil {
			return err
		}
		if _, err := tx.NewRaw(`UPDATE trakr.outbox SET state = 'superseded', next_attempt_at = NULL, closed_at = ? WHERE tenant_id = ? AND state IN ('waiting', 'dead')`,
			now, tenant.String()).Exec(ctx); err != nil {
			return err
		}
	}
	if !tell && !row.Told {
		return nil
	}
	seq, err := next(ctx, tx, tenant)
	if err != nil {
		return err
	}
	_, err = tx.NewRaw(`INSERT INTO trakr.outbox (delivery_id, tenant_id, seq, kind, state, field_names, erasure_id, told, enqueued_at, next_attempt_at)
		VALUES (?, ?, ?, 'erased', 'waiting', '{}', ?, ?, ?, ?)`, uuid.NewString(), tenant.String(), seq, erasure.String(), row.Told, now, now).Exec(ctx)
	return err
}

// Refused is the last outcome of a delivery that the guard refused.
var Refused = egress.ErrRefused.Error()

// refusal begins the event of a delivery that is dead because the guard refused it, and
// says why; the guard's words hold no value.
func (d Delivery) refusal(ctx context.Context, now time.Time, a lifecycle.Access, recipient string, why error) audit.Event {
	e := d.event(ctx, now, a, audit.DeliveryGiveUp, audit.Failure, recipient)
	e.StatusDetail += ": " + why.Error()
	return e
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

// Overdue reports whether a delivery is a finding: it is dead, or was entered longer ago
// than MaxAge and is not over, whether or not anybody sends.
func (d Delivery) Overdue(now time.Time) bool {
	return d.ClosedAt == nil && (d.State == Dead || now.Sub(d.EnqueuedAt) >= MaxAge)
}

// row is a delivery as bun reads it.
type row struct {
	DeliveryID, TenantID, Kind, State                          string
	Seq                                                        int64
	FieldNames                                                 []string `bun:",array"`
	ErasureID, LastOutcome                                     *string
	EnqueuedAt                                                 time.Time
	Attempts                                                   int
	FirstTriedAt, LastTriedAt, NextAttemptAt, DeadAt, ClosedAt *time.Time
}

const columns = `o.delivery_id, o.tenant_id, o.seq, o.kind, o.state, o.field_names, o.erasure_id, o.enqueued_at, o.attempts, o.first_tried_at, o.last_tried_at, o.next_attempt_at,
	o.last_outcome, o.dead_at, o.closed_at`

func (r row) delivery() (Delivery, error) {
	id, err1 := uuid.Parse(r.DeliveryID)
	tenant, err2 := lifecycle.ParseTenantID(r.TenantID)
	if err := errors.Join(err1, err2); err != nil {
		return Delivery{}, fmt.Errorf("reading a delivery: %w", err)
	}
	d := Delivery{ID: id, Tenant: tenant, Seq: r.Seq, Kind: egress.Kind(r.Kind), State: State(r.State), Fields: []lifecycle.Field{}, EnqueuedAt: r.EnqueuedAt.UTC(), Attempts: r.Attempts}
	for _, f := range r.FieldNames {
		d.Fields = append(d.Fields, lifecycle.Field(f))
	}
	if r.ErasureID != nil {
		d.ErasureID = *r.ErasureID
	}
	if r.LastOutcome != nil {
		d.LastOutcome = *r.LastOutcome
	}
	d.FirstTriedAt, d.LastTriedAt, d.NextAttemptAt = pg.UTC(r.FirstTriedAt), pg.UTC(r.LastTriedAt), pg.UTC(r.NextAttemptAt)
	d.DeadAt, d.ClosedAt = pg.UTC(r.DeadAt), pg.UTC(r.ClosedAt)
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

// correlation is by which the events of a delivery are found: those of a notice belong
// to its erasure.
func (d Delivery) correlation() string {
	if d.ErasureID != "" {
		return d.ErasureID
	}
	return d.ID.String()
}

// event begins an event about a delivery. Its id stands where a request's would.
func (d Delivery) event(ctx context.Context, now time.Time, a lifecycle.Access, act audit.Action, out audit.Outcome, recipient string) audit.Event {
	a.RequestID, a.CorrelationID = d.ID.String(), d.correlation()
	e := audit.New(ctx, now, a, act, out)
	e.TenantID, e.FieldNames, e.Recipient, e.StatusDetail = d.Tenant, slices.Clone(d.Fields), recipient, string(d.Kind)
	return e
}
