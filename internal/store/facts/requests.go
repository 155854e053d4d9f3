package facts

import (
	"context"
	"fmt"
	"time"

	"trakr/internal/store/internal/pg"
	"trakr/reports"
)

// maxRequests is how many requests one report lists.
const maxRequests = 10000

// selectRequests takes open requests first, so that the limit leaves out closed ones.
const selectRequests = `SELECT id, ticket, tenant_id, state, moved_at, submitted, received, due, deleted_at, backups_clear, certificate_id
	FROM (SELECT r.request_id AS id, r.ticket, coalesce(r.tenant_id::text, '') AS tenant_id, e.to_state AS state, e.moved_at,
		r.submitted_time AS submitted, r.received_time AS received, r.expected_completion_time AS due,
		CASE WHEN r.deleted_live_at <= ?0 THEN r.deleted_live_at END AS deleted_at,
		CASE WHEN r.deleted_live_at <= ?0 THEN r.backups_clear_after END AS backups_clear,
		CASE WHEN e.to_state IN ('completed', 'completed_nothing_held') THEN r.certificate_id::text ELSE '' END AS certificate_id
	FROM trakr.deletion_requests AS r CROSS JOIN LATERAL (SELECT v.to_state, v.moved_at FROM trakr.deletion_request_events AS v
		WHERE v.request_id = r.request_id AND v.moved_at <= ?0 ORDER BY v.seq DESC LIMIT 1) AS e
	ORDER BY e.to_state IN ('completed', 'completed_nothing_held', 'denied', 'cancelled', 'duplicate'), r.received_time DESC, r.request_id
	LIMIT ?1) AS x ORDER BY received DESC, id`

// Requests lists the deletion requests received by a moment, newest first, in the state
// that they had then; Open, Overdue and Late are not set. more reports that there are
// others.
func (s *Store) Requests(ctx context.Context, asOf time.Time) (out []reports.RequestFacts, more bool, err error) {
	if err := pg.Bun(s.db).NewRaw(selectRequests, asOf, maxRequests+1).Scan(ctx, &out); err != nil {
		return nil, false, fmt.Errorf("reading deletion requests: %w", pg.Map(err))
	}
	if more = len(out) > maxRequests; more {
		out = out[:maxRequests]
	}
	for i := range out {
		r := &out[i]
		r.MovedAt, r.Submitted, r.Received, r.Due = r.MovedAt.UTC(), r.Submitted.UTC(), r.Received.UTC(), r.Due.UTC()
		r.DeletedAt, r.BackupsClear = pg.UTC(r.DeletedAt), pg.UTC(r.BackupsClear)
	}
	return out, more, nil
}

const selectHolds = `SELECT hold_id AS id, tenant_id, ground, reason_ref AS ticket, placed_at, until FROM trakr.legal_holds
	WHERE placed_at <= ?0 AND until > ?0 AND (released_at IS NULL OR released_at > ?0) ORDER BY placed_at DESC, hold_id LIMIT 10000`

// Holds lists the legal holds that were in force at a moment, newest first.
func (s *Store) Holds(ctx context.Context, asOf time.Time) ([]reports.HoldFacts, error) {
	var out []reports.HoldFacts
	if err := pg.Bun(s.db).NewRaw(selectHolds, asOf).Scan(ctx, &out); err != nil {
		return nil, fmt.Errorf("reading legal holds: %w", pg.Map(err))
	}
	for i := range out {
		out[i].PlacedAt, out[i].Until = out[i].PlacedAt.UTC(), out[i].Until.UTC()
	}
	return out, nil
}
