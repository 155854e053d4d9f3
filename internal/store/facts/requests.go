package facts

import (
	"context"
	"errors"
	"fmt"
	"time"

	"trakr/internal/store/internal/pg"
)

// Check is what one sweep said of one column.
type Check struct {
	Table       string `bun:"table_name"`
	Column      string `bun:"column_name"`
	Disposition string
	Ground      string
	Rows        int64
	Predicate   string    `bun:"predicate_digest"`
	CheckedAt   time.Time `bun:"checked_at"`
}

// Checks lists what a run counted.
func (s *Store) Checks(ctx context.Context, runID string) ([]Check, error) {
	var out []Check
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT table_name, column_name, disposition, coalesce(ground, '') AS ground, rows, predicate_digest, checked_at
		FROM trakr.sweep_results WHERE run_id = ? ORDER BY table_name, column_name LIMIT 10000`, runID).Scan(ctx, &out))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("reading what a sweep counted: %w", err)
	}
	return out, nil
}

// Request is a customer's deletion request as it stood at a moment.
type Request struct {
	ID            string `bun:"request_id"`
	Ticket        string
	TenantID      string `bun:"tenant_id"` // "" when no tenant was known
	State         string
	MovedAt       time.Time
	Submitted     time.Time
	Received      time.Time
	Due           time.Time
	DeletedAt     *time.Time // gone from live stores
	BackupsClear  *time.Time
	CertificateID string `bun:"certificate_id"`
}

// maxRequests is how many requests one report lists.
const maxRequests = 10000

// Requests lists the deletion requests received by a moment, newest first, in the
// state they had then; more says that there are others. Open ones are left out last.
func (s *Store) Requests(ctx context.Context, asOf time.Time) (out []Request, more bool, err error) {
	err = pg.Map(pg.Bun(s.db).NewRaw(`SELECT * FROM (SELECT r.request_id, r.ticket, coalesce(r.tenant_id::text, '') AS tenant_id, e.to_state AS state, e.moved_at,
			r.submitted_time AS submitted, r.received_time AS received, r.expected_completion_time AS due,
			CASE WHEN r.deleted_live_at <= ? THEN r.deleted_live_at END AS deleted_at, CASE WHEN r.deleted_live_at <= ? THEN r.backups_clear_after END AS backups_clear,
			CASE WHEN e.to_state IN ('completed', 'completed_nothing_held') THEN r.certificate_id::text ELSE '' END AS certificate_id
		FROM trakr.deletion_requests AS r CROSS JOIN LATERAL (SELECT v.to_state, v.moved_at FROM trakr.deletion_request_events AS v
			WHERE v.request_id = r.request_id AND v.moved_at <= ? ORDER BY v.seq DESC LIMIT 1) AS e
		ORDER BY e.to_state IN ('completed', 'completed_nothing_held', 'denied', 'cancelled', 'duplicate'), r.received_time DESC, r.request_id LIMIT ?) AS x
		ORDER BY received DESC, request_id`, asOf, asOf, asOf, maxRequests+1).Scan(ctx, &out))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, false, fmt.Errorf("reading deletion requests: %w", err)
	}
	if more = len(out) > maxRequests; more {
		out = out[:maxRequests]
	}
	for i := range out {
		out[i].DeletedAt, out[i].BackupsClear = pg.UTC(out[i].DeletedAt), pg.UTC(out[i].BackupsClear)
	}
	return out, more, nil
}

// Hold is a legal hold in force.
type Hold struct {
	ID       string `bun:"hold_id"`
	TenantID string `bun:"tenant_id"`
	Ground   string
	Ticket   string `bun:"reason_ref"`
	PlacedAt time.Time
	Until    time.Time
}

// Holds lists the legal holds that were in force at a moment, newest first.
func (s *Store) Holds(ctx context.Context, asOf time.Time) ([]Hold, error) {
	var out []Hold
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT hold_id, tenant_id, ground, reason_ref, placed_at, until FROM trakr.legal_holds
		WHERE placed_at <= ? AND until > ? AND (released_at IS NULL OR released_at > ?) ORDER BY placed_at DESC, hold_id LIMIT 10000`, asOf, asOf, asOf).Scan(ctx, &out))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("reading legal holds: %w", err)
	}
	return out, nil
}
