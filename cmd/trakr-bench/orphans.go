package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"trakr/internal/drift"
	"trakr/internal/store/census"
)

const (
	sweptTable      = "orphan sweep, check of the table"
	sweptDeclared   = "orphan sweep, whole pass"
	sweptUndeclared = "orphan sweep, whole pass, table not declared"
	antiJoin        = "raw anti-join"

	whileSweeping    = "audited read, orphan sweep on"
	whileNotSweeping = "audited read, orphan sweep off"
)

// staleRows is how many rows of the child table have no live tenant.
const staleRows = 400

// The child table is one that a later release could add: rows of a tenant, without
// a foreign key and without an index on the tenant, so that either side reads all
// of it.
const (
	childTable  = "bench.children"
	childColumn = "tenant_id"

	makeChildren = `CREATE SCHEMA bench; CREATE TABLE bench.children (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id uuid NOT NULL, made_at timestamptz NOT NULL DEFAULT now())`
)

// Tenants are numbered, and a number's hash is the id: children find theirs without
// a list. Numbers are from $1 on, $2 of them.
const (
	insertTenants = `
INSERT INTO trakr.tenants (tenant_id, ingress, state, subject_digest, installed_at, updated_at)
SELECT md5(i::text)::uuid, 'connect', 'live', '\x00000001'::bytea || sha256(i::text::bytea), now(), now()
FROM generate_series($1::bigint, $1::bigint + $2::bigint - 1) AS i`

	// Every $4th row is of a tenant that never was; the others' are of $3 tenants in no order.
	insertChildren = `
INSERT INTO bench.children (tenant_id)
SELECT CASE WHEN i % $4::bigint = 0 THEN gen_random_uuid() ELSE md5(floor(random() * $3::bigint)::bigint::text)::uuid END
FROM generate_series($1::bigint, $1::bigint + $2::bigint - 1) AS i`

	selectOrphans = `SELECT count(*) FROM bench.children AS x
WHERE NOT EXISTS (SELECT FROM trakr.tenants AS t WHERE t.state = 'live' AND t.tenant_id = x.tenant_id)`
)

// orphans compares the sweep for rows of erased tenants, over a big registry
// and a big child table, with the query that one would write for that table, and
// measures what reads lose while passes follow each other without a pause. A pass
// is what Store.Orphans does: all tables, in one snapshot, as the service's role.
func (b *bench) orphans(ctx context.Context) error {
	b.say.begin("orphan sweep")
	d, err := b.fresh(ctx)
	if err != nil {
		return err
	}
	defer d.close()
	if err := b.children(ctx, d); err != nil {
		return err
	}
	s := census.New(d.db)
	if err := s.PlantCanary(ctx); err != nil {
		return err
	}
	var checks []figure // of the table alone, within each pass; the first warms up
	declared := func(ctx context.Context) (figure, error) {
		whole, table, err := b.sweepOnce(ctx, s, b.declared())
		checks = append(checks, table)
		return whole, err
	}
	undeclared := func(ctx context.Context) (figure, error) {
		whole, _, err := b.sweepOnce(ctx, s, drift.Declared(b.policy))
		return whole, err
	}
	r, err := b.alternate(ctx, side{antiJoin, b.antiJoin(d)}, side{sweptDeclared, declared}, side{sweptUndeclared, undeclared})
	if err != nil {
		return err
	}
	b.report.compare(subject{"orphans", 0, "rows"}, series{sweptTable, checks[1:]}, series{antiJoin, r[0]})
	b.report.compare(subject{"orphans", 0, "rows"}, series{sweptDeclared, r[1]}, series{antiJoin, r[0]})
	b.report.compare(subject{"orphans", 0, "rows"}, series{sweptUndeclared, r[2]}, series{antiJoin, r[0]})
	return b.besideSweeps(ctx, d, s)
}

// children makes the registry and the child table as large as planned, and leaves
// them as autovacuum, which is off here, would have.
func (b *bench) children(ctx context.Context, d *database) error {
	if _, err := d.plain.Exec(ctx, makeChildren); err != nil {
		return fmt.Errorf("making the child table: %w", err)
	}
	insert := func(what, sql string, rows int64, args ...any) error {
		var done atomic.Int64
		var starts []int64
		for at := int64(0); at < rows; at += batchRows {
			starts = append(starts, at)
		}
		return inPairs(ctx, starts, func(ctx context.Context, at int64) error {
			n := min(batchRows, rows-at)
			if _, err := d.plain.Exec(ctx, sql, append([]any{at, n}, args...)...); err != nil {
				return fmt.Errorf("generating %s: %w", what, err)
			}
			b.say.step("%d %s generated", done.Add(n), what)
			return nil
		})
	}
	if err := insert("tenants", insertTenants, b.plan.Registry); err != nil {
		return err
	}
	if err := insert("child rows", insertChildren, b.plan.Children, b.plan.Registry, b.plan.Children/staleRows); err != nil {
		return err
	}
	b.say.step("vacuuming")
	for _, table := range []string{"trakr.tenants", childTable} {
		if _, err := d.plain.Exec(ctx, "VACUUM (ANALYZE) "+table); err != nil {
			return fmt.Errorf("vacuuming: %w", err)
		}
	}
	return b.checkpoint(ctx)
}

// declared is the policy of a release that declares the child table.
func (b *bench) declared() drift.Declarations {
	out := drift.Declared(b.policy)
	out[childTable] = drift.Table{Declared: true, Store: "database", Columns: []string{"id", childColumn, "made_at"}}
	return out
}

// antiJoin counts the stale rows as a superuser, by one statement.
func (b *bench) antiJoin(d *database) round {
	return func(ctx context.Context) (figure, error) {
		return rate(func() (int64, error) {
			var stale int64
			if err := d.plain.QueryRow(ctx, selectOrphans).Scan(&stale); err != nil {
				return 0, fmt.Errorf("counting by hand: %w", err)
			}
			return b.plan.Children, exactly(stale)
		})
	}
}

// sweepOnce makes one pass over the whole database, and returns the rate of the pass and
// of its check of the child table's column, in rows of that table a second.
func (b *bench) sweepOnce(ctx context.Context, s *census.Store, declared drift.Declarations) (whole, table figure, err error) {
	whole, err = rate(func() (int64, error) {
		checks, _, err := s.Orphans(ctx, declared)
		if err != nil {
			return 0, err
		}
		for _, c := range checks {
			if c.Table == childTable && c.Column == childColumn {
				table.Rate = float64(b.plan.Children) / c.Duration.Seconds()
				return b.plan.Children, exactly(c.Rows)
			}
		}
		return 0, errors.New("the sweep did not look at the child table")
	})
	return whole, table, err
}

// exactly fails when a count is not of the rows that were made stale: a quick wrong
// answer is no figure.
func exactly(stale int64) error {
	if stale != staleRows {
		return fmt.Errorf("%d rows were counted as stale, not %d", stale, staleRows)
	}
	return nil
}

// besideSweeps compares reads while passes follow each other with reads while there
// is none. Either begins with a second of reads that does not count.
func (b *bench) besideSweeps(ctx context.Context, d *database, s *census.Store) error {
	b.say.begin("orphan sweep, slowdown of reads")
	reads := func(ctx context.Context) (figure, error) {
		if _, err := load(ctx, gateCallers, time.Second, b.auditedRead(d)); err != nil {
			return figure{}, err
		}
		return load(ctx, gateCallers, 2*b.plan.Length, b.auditedRead(d))
	}
	on := func(ctx context.Context) (f figure, err error) {
		var failed error
		stop := inBackground(ctx, func(until context.Context) {
			// The last pass ends by itself after the round, so that nothing of it is
			// left for the next one.
			for until.Err() == nil && failed == nil {
				_, _, failed = b.sweepOnce(ctx, s, b.declared())
			}
		})
		f, err = reads(ctx)
		stop()
		return f, first([]error{err, failed})
	}
	r, err := b.alternate(ctx, side{"on", on}, side{"off", reads})
	if err != nil {
		return err
	}
	b.report.compare(subject{"orphans", gateCallers, "reads"}, series{whileSweeping, r[0]}, series{whileNotSweeping, r[1]})
	return nil
}
