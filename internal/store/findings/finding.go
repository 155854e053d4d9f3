package findings

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
)

// Severity says how much a finding matters. Code decides it, by kind and check.
type Severity string

// The severities.
const (
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical" // a promise to a customer is broken
)

// Finding is rows, or a table or column, that should not be there, open until a
// run no longer sees them; or, when it is blind, something that no run could judge,
// open until one can. Acknowledging one says that a person knows; it stays
// open. One that comes back after it was resolved is a new one.
type Finding struct {
	ID             string     `json:"finding_id" bun:"finding_id"`
	Kind           string     `json:"kind" bun:"kind"`
	Severity       Severity   `json:"severity" bun:"severity"`
	Store          string     `json:"store" bun:"store"`
	Table          string     `json:"table" bun:"table_name"`
	Column         string     `json:"column" bun:"column_name"`               // "" for a table that no policy declares
	Ground         string     `json:"ground,omitempty" bun:"ground,nullzero"` // "" for rows of tenants that are not live
	Rows           int64      `json:"count" bun:"rows"`
	Blind          bool       `json:"blind" bun:"blind"` // it could not be judged: Ground says why
	OpenedAt       time.Time  `json:"opened_at" bun:"opened_at"`
	LastSeenAt     time.Time  `json:"last_seen_at" bun:"last_seen_at"`
	AcknowledgedAt *time.Time `json:"acknowledged_at,omitempty" bun:"acknowledged_at"`
	AcknowledgedBy string     `json:"acknowledged_by,omitempty" bun:"acknowledged_by,nullzero"` // opaque caller id
	ReasonCode     string     `json:"reason_code,omitempty" bun:"reason_code,nullzero"`         // why it was acknowledged
	ReasonRef      string     `json:"reason_ref,omitempty" bun:"reason_ref,nullzero"`
	ResolvedAt     *time.Time `json:"resolved_at,omitempty" bun:"resolved_at"`
}

// State is "open", "acknowledged" or "resolved".
func (f Finding) State() string {
	switch {
	case f.ResolvedAt != nil:
		return "resolved"
	case f.AcknowledgedAt != nil:
		return "acknowledged"
	}
	return "open"
}

// The ground of a finding is that of the newest pass that looked at it.
const (
	findingColumns = `f.finding_id, f.kind, f.severity, f.store, f.table_name, f.column_name, x.ground, f.rows, f.blind, f.opened_at, f.last_seen_at,
		f.acknowledged_at, f.acknowledged_by, f.reason_code, f.reason_ref, f.resolved_at`
	lastResult = `LEFT JOIN trakr.sweep_results AS x ON x.store = f.store AND x.table_name = f.table_name AND x.column_name = f.column_name
		AND x.run_id = (SELECT r.run_id FROM trakr.sweep_runs AS r WHERE r.kind = f.kind AND r.result <> 'failed' AND NOT r.dry_run
			AND (f.resolved_at IS NULL OR r.finished_at < f.resolved_at) ORDER BY r.started_at DESC, r.run_id DESC LIMIT 1)`
)

// follow opens, refreshes and resolves findings as a run's checks say.
func follow(ctx context.Context, tx bun.Tx, r Run, now time.Time) error {
	for _, c := range r.Checks {
		if err := note(ctx, tx, r, c, now); err != nil {
			return err
		}
	}
	if r.Result == Failed {
		return nil
	}
	// A pass that saw the whole: what has no result in it is gone, or declared.
	return resolve(ctx, tx, r, now, `last_seen_at < ? AND NOT EXISTS (SELECT FROM trakr.sweep_results AS x WHERE x.run_id = ? AND x.store = f.store
		AND x.table_name = f.table_name AND x.column_name = f.column_name)`, now, r.ID)
}

// note opens, refreshes or resolves the finding of one check. What could not be
// judged this time is a finding of its own, but leaves an open one as it was: that
// says more.
func note(ctx context.Context, tx bun.Tx, r Run, c Check, now time.Time) error {
	const subject = `f.store = ? AND f.table_name = ? AND f.column_name = ?`
	blind, refresh := c.Blind(), `severity = excluded.severity, rows = excluded.rows, last_seen_at = excluded.last_seen_at`
	switch {
	case blind:
		refresh += ` WHERE findings.blind`
	case c.Found(): // what was not seen before is told anew
		if err := resolve(ctx, tx, r, now, `f.blind AND `+subject, c.Store, c.Table, c.Column); err != nil {
			return err
		}
	default:
		return resolve(ctx, tx, r, now, subject, c.Store, c.Table, c.Column)
	}
	if c.Severity == "" {
		c.Severity = High
	}
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	var row struct{ FindingID string }
	err = pg.Map(tx.NewRaw(`INSERT INTO trakr.findings (finding_id, kind, severity, store, table_name, column_name, rows, blind, opened_at, last_seen_at, opened_by_run)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (kind, store, table_name, column_name) WHERE resolved_at IS NULL
		DO UPDATE SET `+refresh+`
		RETURNING finding_id`,
		id.String(), r.Kind, string(c.Severity), c.Store, c.Table, c.Column, c.Rows, blind, now, now, r.ID).Scan(ctx, &row))
	if blind && errors.Is(err, pg.ErrNoRows) { // one that says more is open
		return nil
	}
	if err != nil || row.FindingID != id.String() { // it was open before
		return err
	}
	return move(ctx, tx, Event{FindingID: row.FindingID, Transition: Opened, OccurredAt: now, Severity: c.Severity, Rows: c.Rows, RunID: r.ID})
}

// resolve ends the run's kind's open findings that the condition on f selects.
func resolve(ctx context.Context, tx bun.Tx, r Run, now time.Time, which string, args ...any) error {
	var gone []struct {
		FindingID string
		Severity  Severity
		Rows      int64
	}
	err := pg.Map(tx.NewRaw(`UPDATE trakr.findings AS f SET resolved_at = ? WHERE kind = ? AND resolved_at IS NULL AND `+which+`
		RETURNING finding_id, severity, rows`, append([]any{now, r.Kind}, args...)...).Scan(ctx, &gone))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return err
	}
	for _, f := range gone {
		if err := move(ctx, tx, Event{FindingID: f.FindingID, Transition: Resolved, OccurredAt: now, Severity: f.Severity, Rows: f.Rows, RunID: r.ID}); err != nil {
			return err
		}
	}
	return nil
}

// Acknowledge notes that a person knows of an open finding, for a reason and a
// ticket. The act is audited in the same transaction.
func (s *Store) Acknowledge(ctx context.Context, a lifecycle.Access, id string, now time.Time) (Finding, error) {
	if err := a.Check(); err != nil {
		return Finding{}, err
	}
	if a.Reason.Ref == "" {
		return Finding{}, lifecycle.Fail(lifecycle.ReasonRequired, "A finding is acknowledged for a ticket; name it.", lifecycle.At("/reason/ref", "required"))
	}
	now = now.UTC()
	a.CorrelationID = id
	e := audit.New(ctx, now, a, audit.FindingMove, audit.Success)
	e.StatusDetail = string(Acknowledged)
	var f Finding
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		if err := open(ctx, tx, id); err != nil {
			return err
		}
		_, err := tx.NewRaw(`UPDATE trakr.findings SET acknowledged_at = ?, acknowledged_by = ?, reason_code = ?, reason_ref = ? WHERE finding_id = ?`,
			now, a.Caller.ID, string(a.Reason.Code), a.Reason.Ref, id).Exec(ctx)
		if err != nil {
			return err
		}
		if f, err = finding(ctx, tx, id); err != nil {
			return err
		}
		if err := move(ctx, tx, Event{FindingID: id, Transition: Acknowledged, OccurredAt: now, Severity: f.Severity, Rows: f.Rows,
			ActorID: a.Caller.ID, ReasonCode: string(a.Reason.Code), ReasonRef: a.Reason.Ref}); err != nil {
			return err
		}
		return audit.Append(ctx, tx, e)
	})
	if err != nil {
		return Finding{}, fmt.Errorf("acknowledging a finding: %w", err)
	}
	return f, nil
}

// open locks a finding that can be acknowledged, or says why it cannot.
func open(ctx context.Context, tx bun.Tx, id string) error {
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		return errNoFinding()
	}
	var row struct{ Acknowledged, Resolved bool }
	err := pg.Map(tx.NewRaw(`SELECT acknowledged_at IS NOT NULL AS acknowledged, resolved_at IS NOT NULL AS resolved FROM trakr.findings
		WHERE finding_id = ? FOR UPDATE`, id).Scan(ctx, &row))
	switch {
	case errors.Is(err, pg.ErrNoRows):
		return errNoFinding()
	case err != nil:
		return err
	case row.Resolved:
		return lifecycle.Fail(lifecycle.RequestConflict, "This finding is resolved: a sweep no longer saw it. There is nothing to acknowledge.")
	case row.Acknowledged:
		return lifecycle.Fail(lifecycle.RequestConflict, "This finding was acknowledged before; it shows by whom and for which ticket.")
	}
	return nil
}

func errNoFinding() error {
	return lifecycle.Fail(lifecycle.NotFound, "There is no finding with this id; trakr finding list and GET /v1/findings show them.")
}

// Finding returns one finding and its life, oldest step first.
func (s *Store) Finding(ctx context.Context, id string) (Finding, []Event, error) {
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		return Finding{}, nil, errNoFinding()
	}
	var f Finding
	life := []Event{}
	err := pg.InSnapshot(ctx, s.db, func(ctx context.Context, tx bun.Tx) (err error) {
		if f, err = finding(ctx, tx, id); err != nil {
			return err
		}
		err = pg.Map(tx.NewRaw(`SELECT `+eventColumns+` FROM trakr.finding_events AS e WHERE e.finding_id = ? ORDER BY e.occurred_at, e.event_id LIMIT 100`, id).Scan(ctx, &life))
		if errors.Is(err, pg.ErrNoRows) { // opened before lives were kept
			err = nil
		}
		return err
	})
	if errors.Is(err, pg.ErrNoRows) {
		return Finding{}, nil, errNoFinding()
	}
	if err != nil {
		return Finding{}, nil, fmt.Errorf("reading a finding: %w", err)
	}
	return f, life, nil
}

func finding(ctx context.Context, tx bun.Tx, id string) (f Finding, err error) {
	err = pg.Map(tx.NewRaw(`SELECT `+findingColumns+` FROM trakr.findings AS f `+lastResult+` WHERE f.finding_id = ?`, id).Scan(ctx, &f))
	return f, err
}

// Findings lists findings, open ones first, newest first.
func (s *Store) Findings(ctx context.Context, openOnly bool, limit int) ([]Finding, error) {
	out := []Finding{}
	err := pg.Bun(s.db).NewRaw(`SELECT `+findingColumns+` FROM trakr.findings AS f `+lastResult+` WHERE NOT ? OR f.resolved_at IS NULL
		ORDER BY f.resolved_at IS NOT NULL, f.opened_at DESC, f.finding_id LIMIT ?`, openOnly, min(max(limit, 1), 1000)).Scan(ctx, &out)
	if err = pg.Map(err); err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("reading findings: %w", err)
	}
	return out, nil
}

// Open counts the open findings of one kind and severity, acknowledged ones included.
type Open struct {
	Kind     string   `bun:"kind"`
	Severity Severity `bun:"severity"`
	Count    int64    `bun:"count"`
}

// OpenCounts counts the open findings.
func (s *Store) OpenCounts(ctx context.Context) ([]Open, error) {
	var out []Open
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT kind, severity, count(*) AS count FROM trakr.findings WHERE resolved_at IS NULL
		GROUP BY kind, severity ORDER BY kind, severity`).Scan(ctx, &out))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("counting findings: %w", err)
	}
	return out, nil
}
