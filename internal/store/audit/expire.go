package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/internal/pg"
)

// MinimumKept is the shortest period of the audit that any policy can set: evidence that
// is removed sooner proves nothing.
const MinimumKept = 365 * 24 * time.Hour

// Expiry is what an expiry removed.
type Expiry struct {
	UpTo       int64    `json:"up_to"`      // positions below it have lost their content; 0 when none has
	OlderThan  string   `json:"older_than"` // RFC 3339
	Partitions []string `json:"partitions"` // months dropped now
	EventID    string   `json:"event_id,omitempty"`
}

// Expire removes the content of events recorded before the moment: whole months
// that have ended by then, never a part of one. Their leaf hashes stay, so that
// everything else still verifies. owner must act as the role that owns the tables
// (store.OwnerRole); the service's cannot do this. The removal, its event and the
// position up to which content is missing are one transaction.
//
// Errors: request-invalid when the moment is younger than MinimumKept; request-
// conflict when a month still has events without a position in the log.
func Expire(ctx context.Context, owner *store.DB, a lifecycle.Access, now, before time.Time) (Expiry, error) {
	if err := a.CheckReason(); err != nil {
		return Expiry{}, err
	}
	if before.After(now.Add(-MinimumKept)) {
		return Expiry{}, lifecycle.Fail(lifecycle.RequestInvalid,
			"The audit's content is kept for at least 365 days; an earlier moment is needed.", lifecycle.At("/before", "too young"))
	}
	// The owner's connection has not asked yet, as the service's do: in a restored
	// database the event would get a place among those that are sequenced already.
	if _, err := pg.Pool(owner).Exec(ctx, `SELECT door.ensure_epoch()`); err != nil {
		return Expiry{}, fmt.Errorf("expiring the audit's content: %w", pg.Map(err))
	}
	out := Expiry{OlderThan: before.UTC().Format(time.RFC3339)}
	err := pgx.BeginFunc(ctx, pg.Pool(owner), func(tx pgx.Tx) error {
		// Dropping a month waits for readers of the audit, and writers wait behind it.
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '5s'`); err != nil {
			return err
		}
		months, err := ended(ctx, tx, before)
		if err != nil || len(months) == 0 {
			return err
		}
		for _, m := range months {
			next, err := contentEnd(ctx, tx, m)
			if err != nil {
				return err
			}
			out.UpTo = max(out.UpTo, next)
			out.Partitions = append(out.Partitions, m)
		}
		var already int64
		if err := tx.QueryRow(ctx, `SELECT coalesce(max(up_to), 0) FROM trakr.audit_expiries`).Scan(&already); err != nil {
			return err
		}
		e := New(ctx, now, a, AuditExpire, Success)
		e.StatusDetail = ExpiryDetail(out.UpTo)
		out.EventID = e.EventID.String()
		if _, err := tx.Exec(ctx, `SELECT door.append($1)`, [][]byte{e.Record()}); err != nil {
			return err
		}
		if out.UpTo > already { // a month without a single event moves nothing
			_, err := tx.Exec(ctx, `INSERT INTO trakr.audit_expiries (up_to, older_than, event_id) VALUES ($1, $2, $3)`,
				out.UpTo, before, e.EventID)
			if err != nil {
				return err
			}
		}
		for _, m := range months {
			if _, err := tx.Exec(ctx, `DROP TABLE `+pgx.Identifier{"trakr", m}.Sanitize()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Expiry{}, fmt.Errorf("expiring the audit's content: %w", pg.Map(err))
	}
	return out, nil
}

// ended lists the months that were over by then, oldest first.
func ended(ctx context.Context, tx pgx.Tx, before time.Time) ([]string, error) {
	rows, err := tx.Query(ctx, `SELECT c.relname FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'trakr.audit_events'::regclass AND c.relname ~ '^audit_events_[0-9]{6}$'
			AND date_trunc('month', to_date(right(c.relname, 6), 'YYYYMM')::timestamp AT TIME ZONE 'UTC' + interval '32 days', 'UTC') <= $1
		ORDER BY c.relname`, before)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// contentEnd is the position after the month's last event; every event of it must
// have one.
func contentEnd(ctx context.Context, tx pgx.Tx, month string) (int64, error) {
	var next *int64
	err := tx.QueryRow(ctx, `SELECT l.first_index + array_position(l.ids, e.id)
		FROM (SELECT epoch, xid, id FROM `+pgx.Identifier{"trakr", month}.Sanitize()+` ORDER BY epoch DESC, xid DESC, id DESC LIMIT 1) AS e
		LEFT JOIN LATERAL (`+leavesOf+`) AS l ON true`).Scan(&next)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil // an empty month
	}
	if err == nil && next == nil {
		err = lifecycle.Fail(lifecycle.RequestConflict, "A month that has expired has events without a position in the log yet. "+
			"Let the service run until the sequencer has caught up, then try again.")
	}
	if err != nil {
		return 0, err
	}
	return *next, nil
}
