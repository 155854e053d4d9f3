package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"trakr/internal/store/audit"
)

// insertEvents lets the server write a batch of events of audited reads, in one
// transaction as a batch of readers would. Of each, $3 is the record with four
// texts in it that are replaced by its own, so record and columns agree; the rest
// is the same in all. Event ids are of version 7, as the product's: they grow.
const insertEvents = `
INSERT INTO trakr.audit_events (recorded_at, epoch, event_id, occurred_at, tenant_id, actor_type, actor_id, action, outcome,
	reason_code, field_names, request_id, schema_version, record)
SELECT g.at, (SELECT max(epoch) FROM trakr.log_epochs), g.event_id, g.at, g.tenant, $8, $9, $10, $11, $12, $13, g.request_id::text, $14,
	convert_to(replace(replace(replace(replace($3, $4, g.event_id::text), $5, g.tenant::text), $6, g.request_id::text),
		$7, to_char(g.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')), 'UTF8')
FROM (SELECT r.at, ($15::uuid[])[1 + floor(random() * cardinality($15::uuid[]))::int] AS tenant, gen_random_uuid() AS request_id,
		(lpad(to_hex(floor(extract(epoch FROM r.at) * 1000)::bigint), 12, '0') || '7' || substr(r.noise, 1, 3) || '8' ||
			substr(r.noise, 4, 15))::uuid AS event_id
	FROM (SELECT $1::timestamptz + ($2::timestamptz - $1::timestamptz) * (i::float8 / $16::bigint) AS at, md5(random()::text || i) AS noise
		FROM generate_series(0, $16::bigint - 1) AS i) AS r) AS g`

// batch is a number of events recorded within a span of one month.
type batch struct {
	rows     int64
	from, to time.Time
}

// seed writes batches over two connections and counts into done.
func (b *bench) seed(ctx context.Context, d *database, batches []batch, done *atomic.Int64) error {
	e := audit.New(ctx, time.Now(), who, audit.TenantRead, audit.Success)
	e.TenantID, e.FieldNames, e.RequestID = b.tenants[0], read, uuid.NewString()
	fields := make([]string, len(read))
	for i, f := range read {
		fields[i] = string(f)
	}
	ids := make([]string, len(b.tenants))
	for i, id := range b.tenants {
		ids[i] = id.String()
	}
	insert := func(ctx context.Context, x batch) error {
		_, err := d.plain.Exec(ctx, insertEvents, x.from, x.to, string(e.Record()), e.EventID.String(), e.TenantID.String(), e.RequestID,
			e.OccurredAt.Format(audit.TimeForm), string(e.ActorType), e.ActorID, string(e.Action), string(e.Outcome), string(e.ReasonCode),
			fields, e.SchemaVersion, ids, x.rows)
		if err != nil {
			return fmt.Errorf("generating events: %w", err)
		}
		return nil
	}
	return inPairs(ctx, batches, func(ctx context.Context, x batch) error {
		if err := insert(ctx, x); err != nil {
			return err
		}
		done.Add(x.rows)
		b.say.step("%d events generated", done.Load())
		return nil
	})
}

// inPairs does the work of each item, two at a time, until one fails.
func inPairs[T any](ctx context.Context, items []T, do func(context.Context, T) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var next atomic.Int64
	var errs [2]error
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(items)); i = next.Add(1) - 1 {
				if errs[w] = do(ctx, items[i]); errs[w] != nil {
					cancel()
					return
				}
			}
		})
	}
	wg.Wait()
	return first(errs[:])
}

// batchRows is how many events a generated batch has at most.
const batchRows = 25_000

// backlog generates events of this moment that wait for their positions.
func (b *bench) backlog(ctx context.Context, d *database, events int64) error {
	now := time.Now()
	from := now.Add(-time.Minute)
	if from.UTC().Month() != now.UTC().Month() {
		from = now // the month before has no place in a new database
	}
	var all []batch
	for ; events > 0; events -= batchRows {
		all = append(all, batch{min(events, batchRows), from, now})
	}
	var done atomic.Int64
	if err := b.seed(ctx, d, all, &done); err != nil {
		return err
	}
	return b.checkpoint(ctx)
}

// pastMonths is how many months before the running one an audit spreads over.
const pastMonths = 24

// history generates an audit of that many events: half in the running month, whose
// partition is the one that reads write to, half in the months before.
func (b *bench) history(ctx context.Context, d *database, events int64) error {
	this := time.Now().UTC()
	this = time.Date(this.Year(), this.Month(), 1, 0, 0, 0, 0, time.UTC)
	for m := 1; m <= pastMonths; m++ {
		month := this.AddDate(0, -m, 0).Format(time.RFC3339)
		_, err := d.plain.Exec(ctx, `BEGIN; SET LOCAL ROLE trakr_owner; SELECT trakr.make_partition('`+month+`'); COMMIT`)
		if err != nil {
			return fmt.Errorf("making a month: %w", err)
		}
	}
	rows := min(batchRows, max(events/(4*pastMonths), 1))
	var all []batch
	for n := int64(0); n*rows < events; n++ {
		x := batch{rows: min(rows, events-n*rows), from: this, to: time.Now()}
		if n%2 == 0 {
			x.from = this.AddDate(0, -1-int(n/2)%pastMonths, 0)
			x.to = x.from.AddDate(0, 0, 28)
		}
		all = append(all, x)
	}
	var done atomic.Int64
	return b.seed(ctx, d, all, &done)
}
