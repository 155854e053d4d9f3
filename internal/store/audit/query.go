package audit

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/uptrace/bun"

	"trakr/internal/lifecycle"
	"trakr/internal/store/internal/pg"
)

// Filter selects events; a zero member selects all.
type Filter struct {
	Tenant        lifecycle.TenantID
	ActorID       string
	Action        Action
	Outcome       Outcome
	Field         lifecycle.Field
	RequestID     string
	CorrelationID string
	EventID       string    // canonical UUID; the caller has checked its form
	Since         time.Time // recorded at or after
	Until         time.Time // recorded before
}

// MaxPage is the largest number of events Query returns at once.
const MaxPage = 1000

// row is what Query reads of an event: columns, and its place in the log.
type row struct {
	bun.BaseModel `bun:"table:trakr.audit_events,alias:e"`

	ID            int64     `bun:"id"`
	RecordedAt    time.Time `bun:"recorded_at"`
	EventID       uuid.UUID `bun:"event_id"`
	OccurredAt    time.Time `bun:"occurred_at"`
	TenantID      *string   `bun:"tenant_id"`
	ActorType     string    `bun:"actor_type"`
	ActorID       string    `bun:"actor_id"`
	Action        string    `bun:"action"`
	Outcome       string    `bun:"outcome"`
	StatusDetail  string    `bun:"status_detail,nullzero"`
	ReasonCode    string    `bun:"reason_code"`
	ReasonRef     string    `bun:"reason_ref,nullzero"`
	FieldNames    []string  `bun:"field_names,array"`
	DroppedNames  []string  `bun:"dropped_names,array"`
	SubjectDigest string    `bun:"subject_digest,nullzero"`
	Recipient     string    `bun:"recipient,nullzero"`
	RequestID     string    `bun:"request_id,nullzero"`
	TraceID       string    `bun:"trace_id,nullzero"`
	CorrelationID string    `bun:"correlation_id,nullzero"`
	SchemaVersion int       `bun:"schema_version"`
	Epoch         int32     `bun:"epoch"`
	XID           string    `bun:"xid,scanonly"`
}

// selected are row's columns. xid8 is selected as text, since bun has no type for it.
const selected = "?TableColumns, xid::text AS xid"

// Query returns up to limit events, newest first, and the cursor of the next
// page ("" on the last). Reading the log is an act like any other: it is recorded
// first.
func (l *Log) Query(ctx context.Context, a lifecycle.Access, f Filter, cursor string, limit int) ([]Event, string, error) {
	if err := l.reading(ctx, a, "events"); err != nil {
		return nil, "", err
	}
	limit = min(max(limit, 1), MaxPage)
	q := f.apply(pg.Bun(l.db).NewSelect().Model((*row)(nil)).ColumnExpr(selected))
	if cursor != "" {
		before, err := parseCursor(cursor)
		if err != nil {
			return nil, "", err
		}
		q = q.Where("id < ?", before)
	}
	var rows []row
	if err := q.OrderExpr("id DESC").Limit(int64(limit)+1).Scan(ctx, &rows); err != nil {
		return nil, "", pg.Map(err)
	}
	next := ""
	if len(rows) > limit {
		rows = rows[:limit]
		next = formatCursor(rows[limit-1].ID)
	}
	positions, err := l.positions(ctx, rows)
	if err != nil {
		return nil, "", err
	}
	events := make([]Event, len(rows))
	for i, r := range rows {
		events[i] = r.event()
		if p, ok := positions[r.ID]; ok {
			events[i].LogIndex = &p
		}
	}
	return events, next, nil
}

// positions returns the positions of events by id; one that is not sequenced yet has
// none.
func (l *Log) positions(ctx context.Context, rows []row) (map[int64]int64, error) {
	epochs, xids, ids := make([]int32, len(rows)), make([]string, len(rows)), make([]int64, len(rows))
	for i, r := range rows {
		epochs[i], xids[i], ids[i] = r.Epoch, r.XID, r.ID
	}
	found, err := pg.Pool(l.db).Query(ctx, `SELECT e.id, l.first_index + array_position(l.ids, e.id) - 1
		FROM (SELECT u.epoch, u.xid::xid8 AS xid, u.id FROM unnest($1::integer[], $2::text[], $3::bigint[]) AS u (epoch, xid, id)) AS e
		JOIN LATERAL (`+leavesOf+`) AS l ON array_position(l.ids, e.id) IS NOT NULL`, epochs, xids, ids)
	if err != nil {
		return nil, fmt.Errorf("reading positions: %w", pg.Map(err))
	}
	out := make(map[int64]int64, len(rows))
	var id, at int64
	if _, err = pgx.ForEachRow(found, []any{&id, &at}, func() error { out[id] = at; return nil }); err != nil {
		return nil, fmt.Errorf("reading positions: %w", pg.Map(err))
	}
	return out, nil
}

// Each calls yield for every selected event, oldest first, all from one
// snapshot, in pages so that memory stays bounded. It stops at yield's error.
func (l *Log) Each(ctx context.Context, f Filter, yield func(Event) error) error {
	return pg.InSnapshot(ctx, l.db, func(ctx context.Context, tx bun.Tx) error {
		var after int64
		for {
			var rows []row
			err := f.apply(tx.NewSelect().Model((*row)(nil)).ColumnExpr(selected)).
				Where("id > ?", after).OrderExpr("id").Limit(MaxPage).Scan(ctx, &rows)
			if err != nil {
				return err
			}
			for _, r := range rows {
				if err := yield(r.event()); err != nil {
					return err
				}
				after = r.ID
			}
			if len(rows) < MaxPage {
				return nil
			}
		}
	})
}

// Records calls yield with the exact stored bytes of every event in the order of
// the log, whether sequenced yet or not.
func (l *Log) Records(ctx context.Context, yield func(record []byte) error) error {
	rows, err := pg.Pool(l.db).Query(ctx, `SELECT record FROM trakr.audit_events ORDER BY epoch, xid, id`)
	if err != nil {
		return pg.Map(err)
	}
	var record []byte
	_, err = pgx.ForEachRow(rows, []any{&record}, func() error { return yield(record) })
	return pg.Map(err)
}

// condition is one member of a filter: its name in the API, and what it asks of a
// row, with one ? for the value.
type condition struct {
	name, sql string
	value     any
}

// conditions is the one place that knows which column a member asks about.
func (f Filter) conditions() []condition {
	var out []condition
	add := func(set bool, name, sql string, value any) {
		if set {
			out = append(out, condition{name, sql, value})
		}
	}
	add(!f.Tenant.IsZero(), "tenant_id", "tenant_id = ?", f.Tenant.String())
	add(f.ActorID != "", "actor_id", "actor_id = ?", f.ActorID)
	add(f.Action != "", "action", "action = ?", string(f.Action))
	add(f.Outcome != "", "outcome", "outcome = ?", string(f.Outcome))
	add(f.Field != "", "field", "? = ANY (field_names)", string(f.Field))
	add(f.RequestID != "", "request_id", "request_id = ?", f.RequestID)
	add(f.CorrelationID != "", "correlation_id", "correlation_id = ?", f.CorrelationID)
	add(f.EventID != "", "event_id", "event_id = ?::uuid", f.EventID)
	add(!f.Since.IsZero(), "since", "recorded_at >= ?", f.Since)
	add(!f.Until.IsZero(), "until", "recorded_at < ?", f.Until)
	return out
}

func (f Filter) apply(q *bun.SelectQuery) *bun.SelectQuery {
	for _, c := range f.conditions() {
		q = q.Where(c.sql, c.value)
	}
	return q
}

func (r row) event() Event {
	e := Event{
		EventID: r.EventID, OccurredAt: r.OccurredAt.UTC(), ActorType: lifecycle.ActorType(r.ActorType), ActorID: r.ActorID,
		Action: Action(r.Action), Outcome: Outcome(r.Outcome), StatusDetail: r.StatusDetail,
		ReasonCode: lifecycle.ReasonCode(r.ReasonCode), ReasonRef: r.ReasonRef, DroppedNames: r.DroppedNames,
		SubjectDigest: r.SubjectDigest, Recipient: r.Recipient, RequestID: r.RequestID, TraceID: r.TraceID,
		CorrelationID: r.CorrelationID, SchemaVersion: r.SchemaVersion, RecordedAt: r.RecordedAt.UTC(),
	}
	for _, n := range r.FieldNames {
		e.FieldNames = append(e.FieldNames, lifecycle.Field(n))
	}
	if r.TenantID != nil {
		// The column is of type uuid, so it always parses.
		e.TenantID, _ = lifecycle.ParseTenantID(*r.TenantID)
	}
	return e
}

func formatCursor(id int64) string {
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, uint64(id)))
}

func parseCursor(s string) (int64, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != 8 {
		return 0, lifecycle.Fail(lifecycle.RequestInvalid, "The cursor is not one that this service gave out; start without it.",
			lifecycle.At("/cursor", "unknown cursor"))
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}
