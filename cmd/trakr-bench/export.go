package main

import (
	"context"
	"errors"
	"io"

	"trakr/internal/store/audit"
)

const copied = "server-side COPY"

func exported(f audit.Format) string { return "export as " + string(f) }

// export compares the export in each format, with its proofs, to COPY of the same
// rows' columns to the client. Both sides discard what they get.
func (b *bench) export(ctx context.Context) error {
	b.say.begin("export")
	d, catchUp, err := b.sequenced(ctx)
	if err != nil {
		return err
	}
	defer d.close()
	sides := []side{{copied, copyOut(d)}}
	for _, f := range audit.Formats() {
		sides = append(sides, side{exported(f), exportAs(d, audit.Selection{Format: f, CatchUp: catchUp})})
	}
	r, err := b.alternate(ctx, sides...)
	if err != nil {
		return err
	}
	for i, s := range sides[1:] {
		b.report.compare(subject{"export", 0, "events"}, series{s.name, r[i+1]}, series{copied, r[0]})
	}
	return nil
}

// sequenced opens a database with a log of many events, and returns what gives
// later ones their positions.
func (b *bench) sequenced(ctx context.Context) (*database, func(context.Context) error, error) {
	d, err := b.fresh(ctx)
	if err != nil {
		return nil, nil, err
	}
	s, err := d.log.NewSequencer()
	catchUp := func(ctx context.Context) error {
		for {
			if n, err := s.Pass(ctx); err != nil || n == 0 {
				return err
			}
		}
	}
	if err == nil {
		err = b.backlog(ctx, d, b.plan.Events)
	}
	if err == nil {
		err = catchUp(ctx)
	}
	if err != nil {
		d.close()
		return nil, nil, err
	}
	return d, catchUp, nil
}

func exportAs(d *database, s audit.Selection) round {
	return func(ctx context.Context) (figure, error) {
		return rate(func() (int64, error) {
			x, err := d.log.Export(ctx, reviewer, s, io.Discard)
			if err == nil && !x.Sound() {
				err = errors.New("the export says that the log was changed")
			}
			return x.Events, err
		})
	}
}

// copyOut sends the columns that the export publishes, in no order, as text.
func copyOut(d *database) round {
	return func(ctx context.Context) (figure, error) {
		return rate(func() (int64, error) {
			conn, err := d.plain.Acquire(ctx)
			if err != nil {
				return 0, err
			}
			defer conn.Release()
			tag, err := conn.Conn().PgConn().CopyTo(ctx, io.Discard, `COPY (SELECT event_id, occurred_at, recorded_at, tenant_id,
				actor_type, actor_id, action, outcome, status_detail, reason_code, reason_ref, field_names, dropped_names,
				subject_digest, recipient, request_id, trace_id, correlation_id, schema_version FROM trakr.audit_events) TO STDOUT`)
			return tag.RowsAffected(), err
		})
	}
}
