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

// Result is what a run claims.
type Result string

// The results. Blind: something could not be judged, so nothing is claimed.
const (
	Clean  Result = "clean"
	Found  Result = "findings"
	Blind  Result = "blind"
	Failed Result = "failed"
)

// Disposition says how one table was treated.
type Disposition string

// The dispositions.
const (
	Checked  Disposition = "checked"
	Retained Disposition = "retained" // policy keeps such rows, with a ground; counted, not a finding
	// NotSearched says that nothing was looked for, because nothing could be found
	// there: see Ground.
	NotSearched Disposition = "not_searched"
	Unjudged    Disposition = "unjudged" // could not be judged: see Ground
)

// Check is the result for one column of one table, or for a table as such.
type Check struct {
	Store           string      `json:"store" bun:"store"`
	Table           string      `json:"table" bun:"table_name"`
	Column          string      `json:"column" bun:"column_name"` // "" for a table that no policy declares
	Disposition     Disposition `json:"disposition" bun:"disposition"`
	Ground          string      `json:"ground,omitempty" bun:"ground,nullzero"`
	Rows            int64       `json:"count" bun:"rows"`
	PredicateDigest string      `json:"predicate_digest" bun:"predicate_digest"` // hex SHA-256 of the SQL run; "" when nothing could be counted
	CheckedAt       time.Time   `json:"checked_at" bun:"checked_at"`
	// Duration is how long the check took, as fine as a microsecond once stored; 0
	// when it was not measured.
	Duration   time.Duration `json:"duration_ns" bun:"duration"`
	Severity   Severity      `json:"severity,omitempty" bun:"-"` // set by the pass: of the finding, when it is one; "" means high
	Undeclared bool          `json:"-" bun:"-"`                  // set by the pass only: no policy declares the table or column
}

// Found reports whether the check is a finding: rows that should not be there, or
// a table or column that should not, even when it is empty.
func (c Check) Found() bool {
	return c.Undeclared || (c.Disposition == Checked && c.Rows > 0)
}

// Digest returns the hex SHA-256 of the SQL that counted, as PredicateDigest holds it.
func Digest(predicate string) string {
	sum := sha256.Sum256([]byte(predicate))
	return hex.EncodeToString(sum[:])
}

// Blind reports whether nothing can be said about what was to be checked.
func (c Check) Blind() bool { return c.Disposition == Unjudged && !c.Found() }

// Run is one pass.
type Run struct {
	ID         string     `json:"run_id" bun:"run_id"`
	Kind       string     `json:"kind" bun:"kind"`
	Trigger    string     `json:"trigger" bun:"trigger"` // schedule, command or api
	DryRun     bool       `json:"dry_run" bun:"dry_run"` // it looked and changed nothing, its findings' state included
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
	_, err = pg.Bun(s.db).NewRaw(`INSERT INTO trakr.sweep_runs (run_id, kind, trigger, dry_run, started_at) VALUES (?, ?, ?, ?, ?)`,
		r.ID, kind, trigger, dry, r.StartedAt).Exec(ctx)
	if err != nil {
		return Run{}, fmt.Errorf("starting a sweep: %w", pg.Map(err))
	}
	return r, nil
}

// Finish stores the run's results, opens and resolves findings, and appends the
// audit event, all in one transaction. The run's Findings are then those open. A
// dry run leaves every finding as it is.
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
		_, err := tx.NewRaw(`UPDATE trakr.sweep_runs SET finished_at = ?, snapshot_at = ?, result = ? WHERE run_id = ?`,
			now, r.SnapshotAt, string(r.Result), r.ID).Exec(ctx)
		if err != nil {
			return err
		}
		for _, c := range r.Checks {
			_, err := tx.NewRaw(`INSERT INTO trakr.sweep_results (run_id, store, table_name, column_name, disposition, ground, predicate_digest, rows, checked_at, duration_us)
				VALUES (?, ?, ?, ?, ?, NULLIF(?, ''), ?, ?, ?, ?)`, r.ID, c.Store, c.Table, c.Column, string(c.Disposition), c.Ground, c.PredicateDigest, c.Rows, c.CheckedAt,
				c.Duration.Microseconds()).Exec(ctx)
			if err != nil {
				return err
			}
		}
		if !r.DryRun {
			if err := follow(ctx, tx, *r, now); err != nil {
				return err
			}
		}
		r.Findings = []Finding{}
		if err := tx.NewRaw(`SELECT `+findingColumns+` FROM trakr.findings AS f `+lastResult+`
			WHERE f.kind = ? AND f.resolved_at IS NULL ORDER BY f.store, f.table_name, f.column_name LIMIT 1000`, r.Kind).Scan(ctx, &r.Findings); err != nil && !errors.Is(pg.Map(err), pg.ErrNoRows) {
			return err
		}
		return audit.Append(ctx, tx, e)
	})
	if err != nil {
		return fmt.Errorf("storing a sweep's results: %w", err)
	}
	return nil
}

const runColumns = `run_id, kind, trigger, dry_run, started_at, finished_at, snapshot_at, result`

// Runs lists the newest runs, with their checks.
func (s *Store) Runs(ctx context.Context, kind string, limit int) ([]Run, error) {
	runs := []Run{}
	err := pg.InSnapshot(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		err := tx.NewRaw(`SELECT `+runColumns+` FROM trakr.sweep_runs WHERE ? = '' OR kind = ? ORDER BY started_at DESC, run_id DESC LIMIT ?`,
			kind, kind, min(max(limit, 1), 200)).Scan(ctx, &runs)
		if err != nil && !errors.Is(pg.Map(err), pg.ErrNoRows) {
			return err
		}
		for i := range runs {
			runs[i].Checks, runs[i].Findings = []Check{}, []Finding{}
			if err := tx.NewRaw(`SELECT store, table_name, column_name, disposition, ground, rows, predicate_digest, checked_at, coalesce(duration_us, 0) * 1000 AS duration
				FROM trakr.sweep_results WHERE run_id = ? ORDER BY store, table_name, column_name`, runs[i].ID).Scan(ctx, &runs[i].Checks); err != nil && !errors.Is(pg.Map(err), pg.ErrNoRows) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading sweeps: %w", err)
	}
	return runs, nil
}

// LastFinished returns the newest run of a kind that finished by then, failed or
// not, or nil. One that was cut off never finished, and a dry run is no pass.
func (s *Store) LastFinished(ctx context.Context, kind string, by time.Time) (*Run, error) {
	return s.last(ctx, `WHERE NOT dry_run AND kind = ? AND finished_at <= ? ORDER BY finished_at DESC, run_id DESC LIMIT 1`, kind, by)
}

// LastSuccess is LastFinished without runs that failed.
func (s *Store) LastSuccess(ctx context.Context, kind string, by time.Time) (*Run, error) {
	return s.last(ctx, `WHERE NOT dry_run AND kind = ? AND finished_at <= ? AND result <> 'failed' ORDER BY finished_at DESC, run_id DESC LIMIT 1`, kind, by)
}

// SuccessSince returns a run of a kind, no dry one, that started then or later and
// did not fail, by whichever replica's clock, or nil.
func (s *Store) SuccessSince(ctx context.Context, kind string, since time.Time) (*Run, error) {
	return s.last(ctx, `WHERE NOT dry_run AND kind = ? AND started_at >= ? AND result <> 'failed' ORDER BY started_at DESC, run_id DESC LIMIT 1`, kind, since)
}

func (s *Store) last(ctx context.Context, which string, args ...any) (*Run, error) {
	var r Run
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT `+runColumns+` FROM trakr.sweep_runs `+which, args...).Scan(ctx, &r))
	if errors.Is(err, pg.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the last sweep: %w", err)
	}
	return &r, nil
}
