// Package findings stores what the sweeps found: each run, one result for every table
// checked, zero included, and the findings, which stay open until a later run no longer
// sees them. It also stores each step of a finding's life until the webhook's receiver
// has it, and up to where the audit log was verified.
//
// It counts nothing itself: package census counts in the live catalog, and package
// retention deletes what is past its period.
package findings

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
)

// Result is the conclusion of a run.
type Result string

// Results of a run. A blind run could not check something, so it concludes nothing.
const (
	Clean  Result = "clean"
	Found  Result = "findings"
	Blind  Result = "blind"
	Failed Result = "failed"
)

// Disposition is how one table was treated.
type Disposition string

// Dispositions of a table.
const (
	Checked  Disposition = "checked"
	Retained Disposition = "retained" // the policy keeps such rows, with a ground; counted, not a finding
	// NotSearched means that nothing was searched for, because nothing could be found:
	// Ground has the reason.
	NotSearched Disposition = "not_searched"
	Unjudged    Disposition = "unjudged" // could not be checked; Ground has the reason
)

// Check is the result for one column of one table, or for a table as a whole.
type Check struct {
	Store           string      `json:"store"`
	Table           string      `json:"table"`
	Column          string      `json:"column"` // "" for a table that no policy declares
	Disposition     Disposition `json:"disposition"`
	Ground          string      `json:"ground,omitempty"`
	Rows            int64       `json:"count"`
	PredicateDigest string      `json:"predicate_digest"` // hex SHA-256 of the SQL; "" when nothing could be counted
	CheckedAt       time.Time   `json:"checked_at"`
	// Duration is how long the check took, stored to the microsecond; 0 when it was not
	// measured.
	Duration   time.Duration `json:"duration_ns"`
	Severity   Severity      `json:"severity,omitempty"` // set by the pass: of the finding, when it is one; "" means high
	Undeclared bool          `json:"-"`                  // set by the pass only: no policy declares the table or column
}

// Found reports whether the check is a finding: rows that should not exist, or a table or
// column that should not, even when it is empty.
func (c Check) Found() bool {
	return c.Undeclared || (c.Disposition == Checked && c.Rows > 0)
}

// Blind reports whether nothing is known about what was to be checked.
func (c Check) Blind() bool { return c.Disposition == Unjudged && !c.Found() }

// Digest returns the hex SHA-256 of the SQL that counted, as in Check.PredicateDigest.
func Digest(predicate string) string {
	sum := sha256.Sum256([]byte(predicate))
	return hex.EncodeToString(sum[:])
}

// checkRow is a check as it is stored.
type checkRow struct {
	bun.BaseModel `bun:"table:trakr.sweep_results"`

	RunID           string
	Store           string
	TableName       string
	ColumnName      string
	Disposition     Disposition
	Ground          string `bun:",nullzero"`
	PredicateDigest string
	Rows            int64
	CheckedAt       time.Time
	DurationUS      int64 `bun:"duration_us"`
}

func (c Check) row(runID string) checkRow {
	return checkRow{
		RunID: runID, Store: c.Store, TableName: c.Table, ColumnName: c.Column, Disposition: c.Disposition, Ground: c.Ground,
		PredicateDigest: c.PredicateDigest, Rows: c.Rows, CheckedAt: c.CheckedAt, DurationUS: c.Duration.Microseconds(),
	}
}

func (r checkRow) check() Check {
	return Check{
		Store: r.Store, Table: r.TableName, Column: r.ColumnName, Disposition: r.Disposition, Ground: r.Ground, Rows: r.Rows,
		PredicateDigest: r.PredicateDigest, CheckedAt: r.CheckedAt, Duration: time.Duration(r.DurationUS) * time.Microsecond,
	}
}

// Run is one pass.
type Run struct {
	bun.BaseModel `bun:"table:trakr.sweep_runs,alias:r" json:"-"`

	ID         string     `json:"run_id" bun:"run_id,pk"`
	Kind       string     `json:"kind" bun:"kind"`
	Trigger    string     `json:"trigger" bun:"trigger"` // schedule, command or api
	DryRun     bool       `json:"dry_run" bun:"dry_run"` // it changed nothing, its findings' state included
	StartedAt  time.Time  `json:"started_at" bun:"started_at"`
	FinishedAt *time.Time `json:"finished_at,omitempty" bun:"finished_at"`
	SnapshotAt *time.Time `json:"snapshot_at,omitempty" bun:"snapshot_at"`
	Result     Result     `json:"result,omitempty" bun:"result,nullzero"` // "" while it runs, or when it was cut off
	Checks     []Check    `json:"checks" bun:"-"`
	Findings   []Finding  `json:"findings" bun:"-"`
}

// Store stores runs and findings in one database.
type Store struct{ db *store.DB }

// New returns the store of db.
func New(db *store.DB) *Store { return &Store{db} }

// Begin records that a run started: a run that is cut off leaves this trace.
func (s *Store) Begin(ctx context.Context, kind, trigger string, dry bool, now time.Time) (Run, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Run{}, fmt.Errorf("starting a sweep: %w", err)
	}
	r := Run{ID: id.String(), Kind: kind, Trigger: trigger, DryRun: dry, StartedAt: now.UTC()}
	if _, err := pg.Bun(s.db).NewInsert().Model(&r).Returning("NULL").Exec(ctx); err != nil {
		return Run{}, fmt.Errorf("starting a sweep: %w", pg.Map(err))
	}
	return r, nil
}

// Finish stores the run's results, opens and resolves findings, and appends the audit
// event, all in one transaction. The run's Findings are then those that are open. A dry
// run leaves every finding as it is.
func (s *Store) Finish(ctx context.Context, a lifecycle.Access, r *Run, now time.Time) error {
	a.CorrelationID = r.ID
	e := audit.New(ctx, now, a, audit.SweepRun, audit.Success)
	e.StatusDetail = r.Kind + " " + string(r.Result)
	if r.DryRun {
		e.StatusDetail += " dry"
	}
	if r.Result == Failed {
		e.Outcome = audit.Failure
	}
	now = now.UTC()
	r.FinishedAt = &now
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewUpdate().Model(r).Column("finished_at", "snapshot_at", "result").WherePK().Exec(ctx)
		if err != nil {
			return err
		}
		for _, c := range r.Checks {
			row := c.row(r.ID)
			if _, err := tx.NewInsert().Model(&row).Returning("NULL").Exec(ctx); err != nil {
				return err
			}
		}
		if !r.DryRun {
			if err := (pass{tx, r, now}).follow(ctx); err != nil {
				return err
			}
		}
		r.Findings = []Finding{}
		err = selectFindings(tx, &r.Findings).Where("f.kind = ?", r.Kind).Where("f.resolved_at IS NULL").
			Order("f.store", "f.table_name", "f.column_name").Limit(1000).Scan(ctx)
		if err != nil {
			return err
		}
		return audit.Append(ctx, tx, e)
	})
	if err != nil {
		return fmt.Errorf("storing a sweep's results: %w", err)
	}
	return nil
}

// Runs lists the newest runs of a kind, "" for all, with their checks.
func (s *Store) Runs(ctx context.Context, kind string, limit int) ([]Run, error) {
	runs := []Run{}
	err := pg.InSnapshot(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		q := tx.NewSelect().Model(&runs).Order("started_at DESC", "run_id DESC").Limit(int64(min(max(limit, 1), 200)))
		if kind != "" {
			q = q.Where("kind = ?", kind)
		}
		if err := q.Scan(ctx); err != nil {
			return err
		}
		for i := range runs {
			runs[i].Checks, runs[i].Findings = []Check{}, []Finding{}
			var rows []checkRow
			err := tx.NewSelect().Model(&rows).Where("run_id = ?", runs[i].ID).Order("store", "table_name", "column_name").Scan(ctx)
			if err != nil {
				return err
			}
			for _, r := range rows {
				runs[i].Checks = append(runs[i].Checks, r.check())
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading sweeps: %w", err)
	}
	return runs, nil
}

// LastFinished returns the newest run of a kind that finished by a moment, failed or not,
// or nil. A run that was cut off never finished, and a dry run does not count.
func (s *Store) LastFinished(ctx context.Context, kind string, by time.Time) (*Run, error) {
	var r Run
	return r.orNil(s.selectPass(&r, kind).Where("finished_at <= ?", by).Order("finished_at DESC", "run_id DESC").Scan(ctx))
}

// LastSuccess is LastFinished without runs that failed.
func (s *Store) LastSuccess(ctx context.Context, kind string, by time.Time) (*Run, error) {
	var r Run
	return r.orNil(s.selectPass(&r, kind).Where("finished_at <= ?", by).Where("result <> ?", Failed).
		Order("finished_at DESC", "run_id DESC").Scan(ctx))
}

// SuccessSince returns a run of a kind, not a dry one, that started at a moment or later
// and did not fail, by whichever replica's clock, or nil.
func (s *Store) SuccessSince(ctx context.Context, kind string, since time.Time) (*Run, error) {
	var r Run
	return r.orNil(s.selectPass(&r, kind).Where("started_at >= ?", since).Where("result <> ?", Failed).
		Order("started_at DESC", "run_id DESC").Scan(ctx))
}

// selectPass begins a query for one run of a kind that was no dry run.
func (s *Store) selectPass(r *Run, kind string) *bun.SelectQuery {
	return pg.Bun(s.db).NewSelect().Model(r).Where("NOT dry_run").Where("kind = ?", kind).Limit(1)
}

// orNil returns the run after a query for one, whose error is err, or nil for none.
func (r *Run) orNil(err error) (*Run, error) {
	err = pg.Map(err)
	if errors.Is(err, pg.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the last sweep: %w", err)
	}
	return r, nil
}
