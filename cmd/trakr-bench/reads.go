package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
)

// The sides that several measures share.
const (
	auditedRead = "audited read"
	plainInsert = "plain INSERT"
	plainSelect = "un-audited SELECT"
)

// gateCallers is the number of callers the gates speak of.
const gateCallers = 32

// reads compares reading two fields of a random tenant through the door, which
// records, commits, and decrypts, with inserting one row and with selecting the
// two columns, each a statement and transaction of its own.
func (b *bench) reads(ctx context.Context) error {
	d, err := b.fresh(ctx)
	if err != nil {
		return err
	}
	defer d.close()
	if _, err := d.plain.Exec(ctx, plainTable); err != nil {
		return fmt.Errorf("making the plain table: %w", err)
	}
	for _, callers := range []int{1, 8, gateCallers, 256} {
		b.say.begin(fmt.Sprintf("reads, %d callers", callers))
		r, err := b.alternate(ctx,
			side{auditedRead, b.under(callers, b.auditedRead(d))},
			side{plainInsert, b.under(callers, b.plainInsert(d))},
			side{plainSelect, b.under(callers, b.plainSelect(d))})
		if err != nil {
			return err
		}
		b.report.compare(subject{"reads", callers, "reads"}, series{auditedRead, r[0]}, series{plainInsert, r[1]})
		b.report.compare(subject{"reads", callers, "reads"}, series{auditedRead, r[0]}, series{plainSelect, r[2]})
	}
	return nil
}

func (b *bench) tenant(r *rand.Rand) lifecycle.TenantID { return b.tenants[r.IntN(len(b.tenants))] }

func (b *bench) auditedRead(d *database) act {
	return func(ctx context.Context, _ int, r *rand.Rand) error {
		_, err := d.door.Read(ctx, who, b.tenant(r), read...)
		return err
	}
}

// plainTable is what one would write without our promises: a row per event and a
// key. It has none of the audit's further indexes, triggers and constraints.
const plainTable = `CREATE SCHEMA bench; CREATE TABLE bench.events (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, recorded_at timestamptz NOT NULL DEFAULT now(), event_id uuid NOT NULL,
	tenant_id uuid NOT NULL, actor_id text NOT NULL, action text NOT NULL, reason_code text NOT NULL, record bytea NOT NULL)`

// plainInsert writes a row as wide as the audit's, the record included.
func (b *bench) plainInsert(d *database) act {
	e := audit.New(context.Background(), time.Now(), who, audit.TenantRead, audit.Success)
	e.FieldNames, e.TenantID = read, b.tenants[0]
	record := e.Record()
	return func(ctx context.Context, _ int, r *rand.Rand) error {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		_, err = d.plain.Exec(ctx, `INSERT INTO bench.events (event_id, tenant_id, actor_id, action, reason_code, record)
			VALUES ($1, $2, $3, $4, $5, $6)`,
			id, b.tenant(r).String(), e.ActorID, string(e.Action), string(e.ReasonCode), record)
		return err
	}
}

// plainSelect fetches the two encrypted columns and does not even decrypt them.
func (b *bench) plainSelect(d *database) act {
	return func(ctx context.Context, _ int, r *rand.Rand) error {
		_, err := d.encrypted(ctx, b.tenant(r))
		return err
	}
}

// encrypted selects the two columns by key, without a record of it. It connects as a
// superuser, to whom the guard on the table does not apply.
func (d *database) encrypted(ctx context.Context, id lifecycle.TenantID) (out [2][]byte, err error) {
	err = d.plain.QueryRow(ctx, `SELECT username, avatar_url FROM trakr.tenant_fields WHERE tenant_id = $1`, id.String()).
		Scan(&out[0], &out[1])
	return out, err
}
