package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ExpiryDetail is the status detail of an expiry's event: it binds the row of
// audit_expiries to a record that is itself in the log.
func ExpiryDetail(upTo int64) string { return fmt.Sprintf("content below position %d", upTo) }

// expiry is one row of audit_expiries with its event, where that is still there.
type expiry struct {
	upTo                    int64
	olderThan, expired      time.Time
	eventID                 string
	action, outcome, detail *string
	occurred                *time.Time
	position                *int64
}

// expiries finds up to which position content may be missing. An expiry counts only
// with its event: audit.expire, successful, naming this very position, at or after
// it, and leaving the last year. The event of an older one may have expired itself.
func (v *verifying) expiries(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `SELECT x.up_to, x.older_than, x.expired_at, x.event_id::text,
			e.action, e.outcome, e.status_detail, e.occurred_at, l.first_index + array_position(l.ids, e.id) - 1
		FROM trakr.audit_expiries AS x LEFT JOIN trakr.audit_events AS e ON e.event_id = x.event_id
		LEFT JOIN LATERAL (`+leavesOf+`) AS l ON true ORDER BY x.up_to DESC`)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (x expiry, err error) {
		return x, r.Scan(&x.upTo, &x.olderThan, &x.expired, &x.eventID, &x.action, &x.outcome, &x.detail, &x.occurred, &x.position)
	})
	if err != nil {
		return err
	}
	var later *expiry // the newest that counts
	for i := range all {
		x := &all[i]
		switch {
		case x.upTo > v.total:
			v.wrongExpiry(x, "it is beyond the log's end")
		case x.action == nil && later != nil && later.olderThan.After(x.expired):
			// Its event was in a month that the later one removed.
		case x.action == nil:
			v.wrongExpiry(x, "its event is not in the log")
		case *x.action != string(AuditExpire) || *x.outcome != string(Success) || x.detail == nil || *x.detail != ExpiryDetail(x.upTo):
			v.wrongExpiry(x, "its event is not that of this expiry")
		case x.position != nil && *x.position < x.upTo:
			v.wrongExpiry(x, "its event is before it")
		case x.olderThan.After(x.occurred.Add(time.Second - MinimumKept)):
			v.wrongExpiry(x, "it removed content of the last 365 days")
		case later == nil:
			later = x
		}
	}
	if later != nil {
		v.expired = later.upTo
	}
	v.out.ExpiredUpTo = v.expired
	return nil
}

func (v *verifying) wrongExpiry(x *expiry, why string) {
	v.faults.add(Fault{Kind: WrongExpiry, Position: x.upTo, EventID: x.eventID,
		Detail: fmt.Sprintf("the expiry up to position %d does not count: %s", x.upTo, why)})
}
