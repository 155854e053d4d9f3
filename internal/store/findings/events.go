package findings

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"trakr/internal/store/internal/pg"
)

// Transition is a step of a finding's life.
type Transition string

// The transitions.
const (
	Opened       Transition = "opened"
	Acknowledged Transition = "acknowledged"
	Resolved     Transition = "resolved"
)

// Event is one step of a finding's life as it was taken.
type Event struct {
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
	DeliveredAt *time.Time `json:"delivered_at,omitempty" bun:"delivered_at"` // when the webhook's receiver took it
}

const eventColumns = `e.event_id, e.finding_id, e.transition, e.occurred_at, e.severity, e.rows, e.run_id, e.actor_id, e.reason_code, e.reason_ref, e.delivered_at`

// move keeps a step, in the transaction that takes it.
func move(ctx context.Context, tx bun.Tx, e Event) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	_, err = tx.NewRaw(`INSERT INTO trakr.finding_events (event_id, finding_id, transition, occurred_at, severity, rows, run_id, actor_id, reason_code, reason_ref, next_attempt_at)
		VALUES (?, ?, ?, ?, ?, ?, NULLIF(?, '')::uuid, NULLIF(?, ''), NULLIF(?, ''), NULLIF(?, ''), ?)`,
		id.String(), e.FindingID, string(e.Transition), e.OccurredAt, string(e.Severity), e.Rows, e.RunID, e.ActorID, e.ReasonCode, e.ReasonRef, e.OccurredAt).Exec(ctx)
	return err
}

// Undelivered is a step that the webhook's receiver has not taken.
type Undelivered struct {
	Event
	Attempts int    `bun:"attempts"`
	Kind     string `bun:"kind"`
	Store    string `bun:"store"`
	Table    string `bun:"table_name"`
	Column   string `bun:"column_name"`
	Blind    bool   `bun:"blind"`
}

// Undelivered lists the steps whose next attempt is due, those first that waited
// longest. Nobody else may deliver meanwhile: the caller has the lease.
func (s *Store) Undelivered(ctx context.Context, now time.Time, limit int) ([]Undelivered, error) {
	var out []Undelivered
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT `+eventColumns+`, e.attempts, f.kind, f.store, f.table_name, f.column_name, f.blind
		FROM trakr.finding_events AS e JOIN trakr.findings AS f ON f.finding_id = e.finding_id
		WHERE e.next_attempt_at <= ? ORDER BY e.next_attempt_at, e.event_id LIMIT ?`, now, limit).Scan(ctx, &out))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("reading undelivered findings: %w", err)
	}
	return out, nil
}

// Delivered notes that the receiver took a step.
func (s *Store) Delivered(ctx context.Context, eventID string, now time.Time) error {
	return s.delivery(ctx, `delivered_at = ?, next_attempt_at = NULL, attempts = attempts + 1`, now, eventID)
}

// Postpone notes that an attempt failed and when the next is due.
func (s *Store) Postpone(ctx context.Context, eventID string, next time.Time) error {
	return s.delivery(ctx, `next_attempt_at = ?, attempts = attempts + 1`, next, eventID)
}

func (s *Store) delivery(ctx context.Context, set string, at time.Time, eventID string) error {
	res, err := pg.Bun(s.db).NewRaw(`UPDATE trakr.finding_events SET `+set+` WHERE event_id = ?`, at.UTC(), eventID).Exec(ctx)
	if err != nil {
		return fmt.Errorf("noting a delivery: %w", pg.Map(err))
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, errors.New("noting a delivery: there is no such step"))
	}
	return nil
}

// GiveUp ends the attempts to deliver what is older, and says how many steps that
// are. They stay, undelivered.
func (s *Store) GiveUp(ctx context.Context, before time.Time) (int64, error) {
	res, err := pg.Bun(s.db).NewRaw(`UPDATE trakr.finding_events SET next_attempt_at = NULL WHERE next_attempt_at IS NOT NULL AND occurred_at < ?`, before).Exec(ctx)
	if err != nil {
		return 0, fmt.Errorf("giving up deliveries: %w", pg.Map(err))
	}
	return res.RowsAffected()
}
