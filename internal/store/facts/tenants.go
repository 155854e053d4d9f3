package facts

import (
	"context"
	"fmt"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
	"trakr/reports"
)

const selectDisclosures = `SELECT e.action = ? AS delivery, e.recipient, n.field, count(*) AS events
	FROM trakr.audit_events AS e, unnest(e.field_names) AS n (field)
	WHERE e.recipient IS NOT NULL AND e.outcome = 'success' AND e.action <> ? AND e.recorded_at > ? AND e.recorded_at <= ?
	GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 LIMIT 1000`

// Disclosures adds up what the log records as disclosed in a period. It is never nil.
func (s *Store) Disclosures(ctx context.Context, from, to time.Time) ([]reports.DisclosureFacts, error) {
	var rows []struct {
		Delivery         bool // in an event about the tenant; else in a request to Bitbucket
		Recipient, Field string
		Events           int64
	}
	err := pg.Bun(s.db).NewRaw(selectDisclosures, string(audit.DeliverySend), string(audit.DeliveryAcknowledge), from, to).Scan(ctx, &rows)
	if err != nil {
		return nil, fmt.Errorf("adding up disclosures: %w", pg.Map(err))
	}
	out := []reports.DisclosureFacts{}
	for _, r := range rows {
		d := reports.DisclosureFacts{To: lifecycle.ToBitbucket, Recipient: r.Recipient, Field: r.Field, Events: r.Events}
		if r.Delivery {
			d.To = lifecycle.ToEndService
		}
		out = append(out, d)
	}
	return out, nil
}

const selectNotices = `SELECT count(*) AS open, count(*) FILTER (WHERE o.enqueued_at < ?) AS late FROM trakr.outbox AS o
	WHERE o.kind = 'erased' AND o.told AND o.enqueued_at <= ? AND (o.closed_at IS NULL OR o.closed_at > ?)`

// Notices counts, as of a moment, the notices of erasures that a recipient who knew the
// tenant had not acknowledged. One that waited longer than a time is late.
func (s *Store) Notices(ctx context.Context, asOf time.Time, longest time.Duration) (*reports.NoticeFacts, error) {
	var out reports.NoticeFacts
	if err := pg.Bun(s.db).NewRaw(selectNotices, asOf.Add(-longest), asOf, asOf).Scan(ctx, &out); err != nil {
		return nil, fmt.Errorf("counting notices of erasures: %w", pg.Map(err))
	}
	return &out, nil
}

// selectUnchecked counts from the first migration of this database: every version that can
// run on this schema checks a value before it stores it. A rotation of the field key that
// began since then and is finished has checked all values. The table of versions has the
// local time of a session like this one, and a process that stores may cut its clock to
// the second.
const selectUnchecked = `SELECT count(*) FILTER (WHERE t.updated_at < j.since - interval '1 second') AS tenants
	FROM trakr.tenants AS t, (SELECT min(v.tstamp) AT TIME ZONE current_setting('TimeZone') AS since
		FROM trakr.schema_migrations AS v WHERE v.is_applied) AS j
	WHERE t.state = 'live' AND (EXISTS (SELECT FROM trakr.field_keys AS k WHERE k.state = 'retired')
		OR NOT EXISTS (SELECT FROM trakr.field_keys AS k WHERE k.state = 'active' AND k.active_at > j.since)
		OR NOT EXISTS (SELECT FROM trakr.field_keys AS k WHERE k.state = 'destroyed' AND k.destroyed_at > j.since))`

// Unchecked counts the tenants whose values are older than this database's schema: they
// were brought here from elsewhere, and it is not known that they were checked for contact
// data.
func (s *Store) Unchecked(ctx context.Context) (int64, error) {
	var row struct{ Tenants int64 }
	if err := pg.Bun(s.db).NewRaw(selectUnchecked).Scan(ctx, &row); err != nil {
		return 0, fmt.Errorf("counting values that were not checked: %w", pg.Map(err))
	}
	return row.Tenants, nil
}

const selectSuspected = `SELECT count(*) AS total, count(*) FILTER (WHERE l.first_suspected_at < ?0) AS late
	FROM trakr.tenant_liveness AS l JOIN trakr.tenants AS t ON t.tenant_id = l.tenant_id
	WHERE t.state = 'live' AND l.first_suspected_at <= ?1 AND NOT EXISTS (SELECT FROM trakr.legal_holds AS h
		WHERE h.tenant_id = l.tenant_id AND h.placed_at <= ?1 AND h.until > ?1 AND (h.released_at IS NULL OR h.released_at > ?1))`

// Suspected counts the installations that Bitbucket no longer knows, without those under a
// legal hold. One that Bitbucket has not known for longer than a time is late. Only the
// present state is recorded: of an earlier moment it counts those that still are.
func (s *Store) Suspected(ctx context.Context, asOf time.Time, longest time.Duration) (*reports.SuspectedFacts, error) {
	var out reports.SuspectedFacts
	if err := pg.Bun(s.db).NewRaw(selectSuspected, asOf.Add(-longest), asOf).Scan(ctx, &out); err != nil {
		return nil, fmt.Errorf("counting installations that Bitbucket no longer knows: %w", pg.Map(err))
	}
	return &out, nil
}
