package facts

import (
	"context"
	"fmt"
	"time"

	"trakr/internal/store/internal/pg"
	"trakr/reports"
)

// selectOpenFindings joins each finding with the newest pass that had ended by the moment
// and did not fail: later passes overwrite a finding's own counts, but not their results.
const selectOpenFindings = `SELECT f.finding_id AS id, f.kind, f.table_name AS "table", f.column_name AS "column",
		coalesce(x.ground, '') AS ground,
		CASE WHEN x.predicate_digest <> '' THEN x.rows END AS count, f.opened_at, coalesce(f.acknowledged_at <= ?0, false) AS acknowledged
	FROM trakr.findings AS f
	LEFT JOIN (SELECT DISTINCT ON (kind) kind, run_id FROM trakr.sweep_runs
		WHERE finished_at <= ?0 AND result <> 'failed' AND NOT dry_run ORDER BY kind, finished_at DESC, run_id DESC) AS l ON l.kind = f.kind
	LEFT JOIN trakr.sweep_results AS x ON x.run_id = l.run_id AND x.store = f.store AND x.table_name = f.table_name
		AND x.column_name = f.column_name
	WHERE NOT f.blind AND f.opened_at <= ?0 AND (f.resolved_at IS NULL OR f.resolved_at > ?0)
	ORDER BY f.opened_at, f.finding_id LIMIT 1000`

// OpenFindings lists the findings that were open at a moment, as the newest pass before it
// counted them; their topics are not set. What a pass could not check is not among them:
// its results contain it.
func (s *Store) OpenFindings(ctx context.Context, asOf time.Time) ([]reports.FindingFacts, error) {
	var out []reports.FindingFacts
	if err := pg.Bun(s.db).NewRaw(selectOpenFindings, asOf).Scan(ctx, &out); err != nil {
		return nil, fmt.Errorf("reading findings: %w", pg.Map(err))
	}
	for i := range out {
		out[i].OpenedAt = out[i].OpenedAt.UTC()
	}
	return out, nil
}

const selectSums = `SELECT count(*) FILTER (WHERE disposition IN ('checked', 'retained')) AS checked,
		count(*) FILTER (WHERE disposition = 'unjudged') AS unchecked,
		coalesce(sum(rows) FILTER (WHERE disposition = 'checked'), 0)::bigint AS rows
	FROM trakr.sweep_results WHERE run_id = ?`

// AddSums sets the sums of the pass that f.RunID names: Tables, Unchecked and Rows.
func (s *Store) AddSums(ctx context.Context, f *reports.SweepFacts) error {
	var row struct{ Checked, Unchecked, Rows int64 }
	if err := pg.Bun(s.db).NewRaw(selectSums, f.RunID).Scan(ctx, &row); err != nil {
		return fmt.Errorf("adding up a sweep: %w", pg.Map(err))
	}
	f.Tables, f.Unchecked, f.Rows = row.Checked, row.Unchecked, row.Rows
	return nil
}

const selectColumns = `SELECT table_name AS "table", column_name AS "column", disposition, coalesce(ground, '') AS ground, rows,
		predicate_digest AS predicate, checked_at
	FROM trakr.sweep_results WHERE run_id = ? ORDER BY table_name, column_name LIMIT 10000`

// Columns lists what a run counted, column by column.
func (s *Store) Columns(ctx context.Context, runID string) ([]reports.ColumnFacts, error) {
	var out []reports.ColumnFacts
	if err := pg.Bun(s.db).NewRaw(selectColumns, runID).Scan(ctx, &out); err != nil {
		return nil, fmt.Errorf("reading what a sweep counted: %w", pg.Map(err))
	}
	for i := range out {
		out[i].CheckedAt = out[i].CheckedAt.UTC()
	}
	return out, nil
}
