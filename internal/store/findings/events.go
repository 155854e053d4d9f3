package findings

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"trakr/internal/store/internal/pg"
)

// Transition is a step of a finding's life.
type Transition string

// Transitions of a finding.
const (
	Opened       Transition = "opened"
	Acknowledged Transition = "acknowledged"
	Resolved     Transition = "resolved"
)

// Event is one step of a finding's life.
type Event struct {
	bun.BaseModel `bun:"table:trakr.finding_events,alias:e" json:"-"`

	ID          string     `json:"event_id" bun:"event_id"`
	FindingID   string     `json:"-" bun:"finding_id"`
	Transition  Transition `json:"transition" bun:"transition"`
	OccurredAt  time.Time  `json:"occurred_at" bun:"occurred_at"`
	Severity    Severity   `json:"severity" bun:"severity"`
	Rows        int64      `json:"count" bun:"rows"`
	RunID       string     `json:"run_id,omitempty" bun:"run_id,nullzero"`     // the sweep that opened or resolved it
	ActorID     string     `json:"actor_id,omitempty" bun:"actor_id,nullzero"` // who acknowledged it
	ReasonCode  string     `json:"reason_code,omitempty" bun:"reason_code,nullzero"`
	ReasonRef   string     `json:"reason_ref,omitempty" bun:"reason_ref,nullzero"`
	DeliveredAt *time.Time `json:"delivered_at,omitempty" bun:"delivered_at"` // when the webhook's receiver accepted it
}

// record stores a step, due for delivery at once, in the transaction that takes it.
func record(ctx context.Context, tx bun.Tx, e Event) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	e.ID = id.String()
	_, err = tx.NewInsert().Model(&e).Value("next_attempt_at", "?", e.OccurredAt).Returning("NULL").Exec(ctx)
	return err
}

// Undelivered is a step that the webhook's receiver has not accepted.
type Undelivered struct {
	Event
	Attempts int    `bun:"attempts"`
	Kind     string `bun:"kind"`
	Store    string `bun:"store"`
	Table    string `bun:"table_name"`
	Column   string `bun:"column_name"`
	Blind    bool   `bun:"blind"`
}

const selectUndelivered = `SELECT e.event_id, e.finding_id, e.transition, e.occurred_at, e.severity, e.rows, e.run_id, e.actor_id,
		e.reason_code, e.reason_ref, e.delivered_at, e.attempts, f.kind, f.store, f.table_name, f.column_name, f.blind
	FROM trakr.finding_events AS e JOIN trakr.findings AS f ON f.finding_id = e.finding_id
	WHERE e.next_attempt_at <= ? ORDER BY e.next_attempt_at, e.event_id LIMIT ?`

// Undelivered lists the steps whose next attempt is due, longest waiting first. The caller
// has the lease: no other process may deliver meanwhile.
func (s *Store) Undelivered(ctx context.Context, now time.Time, limit int) ([]Undelivered, error) {
	var out []Undelivered
	if err := pg.Bun(s.db).NewRaw(selectUndelivered, now, limit).Scan(ctx, &out); err != nil {
		return nil, fmt.Errorf("reading undelivered findings: %w", pg.Map(err))
	}
	return out, nil
}

// Delivered records that the receiver accepted a step.
func (s *Store) Delivered(ctx context.Context, eventID string, now time.Time) error {
	return exactlyOne(s.attempt(eventID).Set("delivered_at = ?", now.UTC()).Set("next_attempt_at = NULL").Exec(ctx))
}

// Postpone records that an attempt failed and when the next is due.
func (s *Store) Postpone(ctx context.Context, eventID string, next time.Time) error {
	return exactlyOne(s.attempt(eventID).Set("next_attempt_at = ?", next.UTC()).Exec(ctx))
}

// attempt begins an update that counts an attempt to deliver a step.
func (s *Store) attempt(eventID string) *bun.UpdateQuery {
	return pg.Bun(s.db).NewUpdate().Model((*Event)(nil)).Set("attempts = attempts + 1").Where("event_id = ?", eventID)
}

// exactlyOne refuses an update of a step that does not exist.
func exactlyOne(res sql.Result, err error) error {
	if err != nil {
		return fmt.Errorf("recording a delivery: %w", pg.Map(err))
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, errors.New("recording a delivery: there is no such step"))
	}
	return nil
}

// GiveUp ends the attempts to deliver the steps from before a moment, and returns how many
// they are. They stay stored, undelivered.
func (s *Store) GiveUp(ctx context.Context, before time.Time) (int64, error) {
	res, err := pg.Bun(s.db).NewUpdate().Model((*Event)(nil)).Set("next_attempt_at = NULL").
		Where("next_attempt_at IS NOT NULL").Where("occurred_at < ?", before).Exec(ctx)
	if err != nil {
		return 0, fmt.Errorf("giving up deliveries: %w", pg.Map(err))
	}
	return res.RowsAffected()
}
