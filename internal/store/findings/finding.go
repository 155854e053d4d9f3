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

// Severity is how much a finding matters. The code decides it, by kind and check.
type Severity string

// Severities of a finding.
const (
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical" // a promise to a customer is broken
)

// Finding is rows, or a table or column, that should not exist, open until a run no longer
// sees them; or, when it is blind, something that no run could check, open until one can.
// Acknowledging one records that a person knows; it stays open. One that comes back after
// it was resolved is a new one.
type Finding struct {
	bun.BaseModel `bun:"table:trakr.findings,alias:f" json:"-"`

	ID             string     `json:"finding_id" bun:"finding_id"`
	Kind           string     `json:"kind" bun:"kind"`
	Severity       Severity   `json:"severity" bun:"severity"`
	Store          string     `json:"store" bun:"store"`
	Table          string     `json:"table" bun:"table_name"`
	Column         string     `json:"column" bun:"column_name"`                        // "" for a table that no policy declares
	Ground         string     `json:"ground,omitempty" bun:"ground,scanonly,nullzero"` // "" for rows of tenants that are not live
	Rows           int64      `json:"count" bun:"rows"`
	Blind          bool       `json:"blind" bun:"blind"` // it could not be checked: Ground has the reason
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

// joinLastResult joins a finding (f) with its result (x) in the newest pass that looked at
// it, whose ground is the finding's.
const joinLastResult = `LEFT JOIN trakr.sweep_results AS x ON x.store = f.store AND x.table_name = f.table_name
	AND x.column_name = f.column_name AND x.run_id = (SELECT r.run_id FROM trakr.sweep_runs AS r
		WHERE r.kind = f.kind AND r.result <> 'failed' AND NOT r.dry_run
		AND (f.resolved_at IS NULL OR r.finished_at < f.resolved_at) ORDER BY r.started_at DESC, r.run_id DESC LIMIT 1)`

// selectFindings begins a query for findings with all their columns. into is a *Finding or
// a *[]Finding.
func selectFindings(db bun.IDB, into any) *bun.SelectQuery {
	return db.NewSelect().Model(into).
		Column("f.finding_id", "f.kind", "f.severity", "f.store", "f.table_name", "f.column_name", "x.ground", "f.rows", "f.blind",
			"f.opened_at", "f.last_seen_at", "f.acknowledged_at", "f.acknowledged_by", "f.reason_code", "f.reason_ref", "f.resolved_at").
		Join(joinLastResult)
}

// pass is a run whose checks open, refresh and resolve findings.
type pass struct {
	tx  bun.Tx
	run *Run
	now time.Time
}

// follow opens, refreshes and resolves findings by the run's checks.
func (p pass) follow(ctx context.Context) error {
	for _, c := range p.run.Checks {
		if err := p.note(ctx, c); err != nil {
			return err
		}
	}
	if p.run.Result == Failed {
		return nil
	}
	// A pass that saw the whole: what has no result in it does not exist any more, or is
	// declared now.
	return p.resolve(ctx, p.open().Where("last_seen_at < ?", p.now).Where(`NOT EXISTS (SELECT FROM trakr.sweep_results AS x
		WHERE x.run_id = ? AND x.store = f.store AND x.table_name = f.table_name AND x.column_name = f.column_name)`, p.run.ID))
}

// note opens, refreshes or resolves the finding of one check. What could not be checked
// this time is a finding of its own, but leaves an open one as it was, because that one has
// more information.
func (p pass) note(ctx context.Context, c Check) error {
	subject := func(q *bun.UpdateQuery) *bun.UpdateQuery {
		return q.Where("f.store = ?", c.Store).Where("f.table_name = ?", c.Table).Where("f.column_name = ?", c.Column)
	}
	switch {
	case c.Blind():
	case c.Found(): // what could not be checked before and is found now is a new finding
		if err := p.resolve(ctx, subject(p.open()).Where("f.blind")); err != nil {
			return err
		}
	default:
		return p.resolve(ctx, subject(p.open()))
	}
	if c.Severity == "" {
		c.Severity = High
	}
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	f := Finding{
		ID: id.String(), Kind: p.run.Kind, Severity: c.Severity, Store: c.Store, Table: c.Table, Column: c.Column, Rows: c.Rows,
		Blind: c.Blind(), OpenedAt: p.now, LastSeenAt: p.now,
	}
	q := p.tx.NewInsert().Model(&f).Value("opened_by_run", "?", p.run.ID).
		On("CONFLICT (kind, store, table_name, column_name) WHERE resolved_at IS NULL DO UPDATE").
		Set("severity = excluded.severity").Set("rows = excluded.rows").Set("last_seen_at = excluded.last_seen_at").
		Returning("finding_id")
	if f.Blind {
		q = q.Where("f.blind")
	}
	var stored struct{ FindingID string }
	err = pg.Map(q.Scan(ctx, &stored))
	if f.Blind && errors.Is(err, pg.ErrNoRows) { // one with more information is open
		return nil
	}
	if err != nil || stored.FindingID != f.ID { // it was open before
		return err
	}
	return record(ctx, p.tx, Event{
		FindingID: f.ID, Transition: Opened, OccurredAt: p.now, Severity: f.Severity, Rows: f.Rows, RunID: p.run.ID,
	})
}

// open begins an update that resolves open findings of the run's kind.
func (p pass) open() *bun.UpdateQuery {
	return p.tx.NewUpdate().Model((*Finding)(nil)).Set("resolved_at = ?", p.now).Where("f.kind = ?", p.run.Kind).
		Where("f.resolved_at IS NULL").Returning("finding_id, severity, rows")
}

// resolve runs an update that open began, and records the findings' last step.
func (p pass) resolve(ctx context.Context, q *bun.UpdateQuery) error {
	var resolved []struct {
		FindingID string
		Severity  Severity
		Rows      int64
	}
	if err := q.Scan(ctx, &resolved); err != nil {
		return err
	}
	for _, f := range resolved {
		err := record(ctx, p.tx, Event{
			FindingID: f.FindingID, Transition: Resolved, OccurredAt: p.now, Severity: f.Severity, Rows: f.Rows, RunID: p.run.ID,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Acknowledge records that a person knows of an open finding, for a reason and a ticket.
// The act is audited in the same transaction.
func (s *Store) Acknowledge(ctx context.Context, a lifecycle.Access, id string, now time.Time) (Finding, error) {
	if err := a.Check(); err != nil {
		return Finding{}, err
	}
	if a.Reason.Ref == "" {
		return Finding{}, lifecycle.Fail(lifecycle.ReasonRequired, "A finding is acknowledged for a ticket; name it.",
			lifecycle.At("/reason/ref", "required"))
	}
	now = now.UTC()
	a.CorrelationID = id
	e := audit.New(ctx, now, a, audit.FindingMove, audit.Success)
	e.StatusDetail = string(Acknowledged)
	var f Finding
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		if err := lockOpen(ctx, tx, id); err != nil {
			return err
		}
		_, err := tx.NewUpdate().Model((*Finding)(nil)).Set("acknowledged_at = ?", now).Set("acknowledged_by = ?", a.Caller.ID).
			Set("reason_code = ?", string(a.Reason.Code)).Set("reason_ref = ?", a.Reason.Ref).Where("finding_id = ?", id).Exec(ctx)
		if err != nil {
			return err
		}
		if err := selectFindings(tx, &f).Where("f.finding_id = ?", id).Scan(ctx); err != nil {
			return err
		}
		err = record(ctx, tx, Event{
			FindingID: id, Transition: Acknowledged, OccurredAt: now, Severity: f.Severity, Rows: f.Rows,
			ActorID: a.Caller.ID, ReasonCode: string(a.Reason.Code), ReasonRef: a.Reason.Ref,
		})
		if err != nil {
			return err
		}
		return audit.Append(ctx, tx, e)
	})
	if err != nil {
		return Finding{}, fmt.Errorf("acknowledging a finding: %w", err)
	}
	return f, nil
}

// lockOpen locks a finding that can be acknowledged, or returns why it cannot.
func lockOpen(ctx context.Context, tx bun.Tx, id string) error {
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		return errNoFinding()
	}
	var f Finding
	err := pg.Map(tx.NewSelect().Model(&f).Column("acknowledged_at", "resolved_at").Where("finding_id = ?", id).For("UPDATE").Scan(ctx))
	switch {
	case errors.Is(err, pg.ErrNoRows):
		return errNoFinding()
	case err != nil:
		return err
	case f.ResolvedAt != nil:
		return lifecycle.Fail(lifecycle.RequestConflict,
			"This finding is resolved: a sweep no longer saw it. There is nothing to acknowledge.")
	case f.AcknowledgedAt != nil:
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
	life := []Event{} // empty for a finding that is older than the recording of lives
	err := pg.InSnapshot(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		if err := selectFindings(tx, &f).Where("f.finding_id = ?", id).Scan(ctx); err != nil {
			return err
		}
		return tx.NewSelect().Model(&life).Where("finding_id = ?", id).Order("occurred_at", "event_id").Limit(100).Scan(ctx)
	})
	if errors.Is(err, pg.ErrNoRows) {
		return Finding{}, nil, errNoFinding()
	}
	if err != nil {
		return Finding{}, nil, fmt.Errorf("reading a finding: %w", err)
	}
	return f, life, nil
}

// Findings lists findings, open ones first, newest first.
func (s *Store) Findings(ctx context.Context, openOnly bool, limit int) ([]Finding, error) {
	out := []Finding{}
	q := selectFindings(pg.Bun(s.db), &out)
	if openOnly {
		q = q.Where("f.resolved_at IS NULL")
	}
	err := q.OrderExpr("f.resolved_at IS NOT NULL, f.opened_at DESC, f.finding_id").Limit(int64(min(max(limit, 1), 1000))).Scan(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading findings: %w", pg.Map(err))
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
	err := pg.Bun(s.db).NewSelect().Model((*Finding)(nil)).Column("kind", "severity").ColumnExpr("count(*) AS count").
		Where("resolved_at IS NULL").Group("kind", "severity").Order("kind", "severity").Scan(ctx, &out)
	if err != nil {
		return nil, fmt.Errorf("counting findings: %w", pg.Map(err))
	}
	return out, nil
}
