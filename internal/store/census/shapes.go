package census

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/drift"
	"trakr/internal/lifecycle"
	"trakr/internal/store/findings"
	"trakr/internal/store/internal/pg"
	"trakr/policy"
)

// Bounds of the search for shapes: one statement, and one part of the audit.
const (
	shapeTimeout  = "60s"
	eventsAtOnce  = 20000
	auditTable    = "trakr.audit_events"
	shapeEmail    = "an e-mail address"
	shapePhone    = "a telephone number"
	sealedGround  = "sealed; judged before it was stored"
	shapesAllSeen = "no value is shaped like " + shapeEmail + " or " + shapePhone
)

// sealed reports whether a column holds what the service sealed: no policy can say so
// of another. What is found there in clear all the same is a finding.
func sealed(table string, c column) bool {
	switch {
	case c.Kind != "opaque":
		return false
	case table == "trakr.tenant_fields":
		return lifecycle.Field(c.Name).Valid()
	}
	return table == "trakr.outbox_payloads" && c.Name == "sealed"
}

// shaped is what the database counted in one column.
type shaped struct {
	Column    string `bun:"column_name"`
	Predicate string
	Emails    int64
	Phones    int64
	Scanned   int64
	Epoch     *int32
	Xid       *string
	ID        *int64 `bun:"id"`
}

// Searched is what a search for shapes found.
type Searched struct {
	Checks     []findings.Check
	Keys       []PayloadKey // every name of a payload's member that any event bears and that was not kept
	SnapshotAt time.Time
}

// PayloadKey is the name of a payload's member that was seen and not kept.
type PayloadKey struct {
	Name        string
	FirstSeenAt time.Time `bun:"first_seen_at"`
}

// search is one run of Shapes.
type search struct {
	store    *Store
	declared drift.Declarations
	now, at  time.Time
	keep     bool
	keys     map[string]time.Time // first seen
}

// Shapes searches every column that can hold text, in every table of the live
// catalog, for values shaped like an e-mail address or a telephone number, and
// names every table and column that no policy declares. The audit is searched from
// where the last pass ended, in parts; ctx's end is where it stops, and the next
// pass goes on. What the service sealed is not searched, and not said to be; a large
// object is found whatever is in it. Nothing of a value comes back. keep is false in a dry run: the
// place where the search ended is not noted then.
func (s *Store) Shapes(ctx context.Context, declared drift.Declarations, now time.Time, keep bool) (Searched, error) {
	var clock struct{ Now time.Time }
	if err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT clock_timestamp() AS now`).Scan(ctx, &clock)); err != nil {
		return Searched{}, fmt.Errorf("searching for shapes: %w", err)
	}
	x := search{store: s, declared: declared, now: now, at: clock.Now.UTC(), keep: keep, keys: map[string]time.Time{}}
	out := Searched{SnapshotAt: x.at}
	columns, err := s.catalog(ctx)
	if err != nil {
		return out, err
	}
	for len(columns) > 0 {
		n := slices.IndexFunc(columns, func(c column) bool { return c.Schema != columns[0].Schema || c.Table != columns[0].Table })
		if n < 0 {
			n = len(columns)
		}
		found, err := x.table(ctx, columns[:n])
		if err != nil {
			return out, fmt.Errorf("searching for shapes: %w", err)
		}
		out.Checks = append(out.Checks, found...)
		columns = columns[n:]
	}
	objects, err := s.largeObjects(ctx)
	if err != nil {
		return out, err
	}
	out.Checks = append(out.Checks, objects)
	out.Keys, err = x.known(ctx)
	return out, err
}

// largeObjects counts what lies beside all tables. Nothing of ours makes one, no role
// but a superuser's may search them, and whoever may log in may make them.
func (s *Store) largeObjects(ctx context.Context) (findings.Check, error) {
	const count = `SELECT count(*) AS n, clock_timestamp() AS now FROM pg_catalog.pg_largeobject_metadata`
	var row struct {
		N   int64
		Now time.Time
	}
	begin := time.Now()
	if err := pg.Map(pg.Bun(s.db).NewRaw(count).Scan(ctx, &row)); err != nil {
		return findings.Check{}, fmt.Errorf("counting large objects: %w", err)
	}
	c := findings.Check{Store: "database", Table: "pg_catalog.pg_largeobject_metadata", Disposition: findings.Checked, Rows: row.N, PredicateDigest: findings.Digest(count),
		CheckedAt: row.Now.UTC(), Duration: time.Since(begin), Ground: "there is no large object"}
	if row.N > 0 {
		c.Ground = "large objects are no table's, and nobody can say what is in them: look who owns them, then lo_unlink them"
	}
	return c, nil
}

// known adds the names that earlier passes saw.
func (x *search) known(ctx context.Context) ([]PayloadKey, error) {
	var out []PayloadKey
	err := pg.Map(pg.Bun(x.store.db).NewRaw(`SELECT name, first_seen_at FROM trakr.payload_keys_seen ORDER BY name`).Scan(ctx, &out))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("reading the names of payload members: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(x.keys)) {
		if !slices.ContainsFunc(out, func(k PayloadKey) bool { return k.Name == name }) {
			out = append(out, PayloadKey{name, x.keys[name]})
		}
	}
	return out, nil
}

// Catalog lists the columns of every table of the live database, by policy.TableName.
func (s *Store) Catalog(ctx context.Context) (map[string][]string, error) {
	columns, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, c := range columns {
		table := policy.TableName(c.Schema, c.Table)
		out[table] = append(out[table], c.Name)
	}
	return out, nil
}

// catalog lists every column of the live database.
func (s *Store) catalog(ctx context.Context) ([]column, error) {
	var out []column
	err := pg.Map(pg.Bun(s.db).NewRaw(catalogQuery).Scan(ctx, &out))
	if err == nil && len(out) == 0 {
		err = pg.ErrNoRows
	}
	if err != nil {
		return nil, fmt.Errorf("reading the catalog: %w", err)
	}
	return out, nil
}

// table judges one table.
func (x *search) table(ctx context.Context, columns []column) ([]findings.Check, error) {
	first, at := columns[0], x.at
	table := policy.TableName(first.Schema, first.Table)
	d := x.declared.Table(table)
	var checks []findings.Check
	if !d.Declared {
		checks = append(checks, findings.Check{Store: d.Store, Table: table, Disposition: findings.Unjudged, Undeclared: true, Ground: drift.UndeclaredTable, CheckedAt: at})
	}
	begin := time.Now()
	found, unjudged, err := x.count(ctx, first, table)
	took := time.Since(begin) // all columns are searched at once
	if err != nil {
		return nil, err
	}
	for _, c := range columns {
		check := findings.Check{Store: d.Store, Table: table, Column: c.Name, Disposition: findings.Checked, CheckedAt: at, Duration: took}
		check.Undeclared = d.Declared && !d.Has(c.Name)
		searched := c.Kind == "text" || c.Kind == "opaque"
		i := slices.IndexFunc(found, func(x shaped) bool { return x.Column == c.Name })
		switch {
		case !searched && !check.Undeclared:
			continue
		case !searched: // only its being there is to be said
		case sealed(table, c) && (i < 0 || found[i].Emails+found[i].Phones == 0):
			check.Disposition, check.Ground = findings.NotSearched, sealedGround
		case !c.Readable:
			check.Disposition, check.Ground = findings.Unjudged, "the role that counts may not read the table: GRANT SELECT on it TO trakr_sweep"
		case c.Filtered:
			check.Disposition, check.Ground = findings.Unjudged, "row-level security hides rows from the role that counts, trakr_sweep"
		case unjudged != "" && (i < 0 || found[i].Emails+found[i].Phones == 0):
			check.Disposition, check.Ground = findings.Unjudged, unjudged
		case i < 0:
			check.Disposition, check.Ground = findings.Unjudged, "the database did not search this column"
		default:
			found[i].into(&check)
		}
		if check.Undeclared {
			check.Ground = drift.UndeclaredColumn + after("; ", check.Ground)
			if check.Rows == 0 {
				check.Disposition = findings.Unjudged
			}
		}
		checks = append(checks, check)
	}
	return checks, nil
}

func after(joint, s string) string {
	if s == "" {
		return ""
	}
	return joint + s
}

// into stores what was counted in a column in its check.
func (x shaped) into(c *findings.Check) {
	c.PredicateDigest, c.Rows = findings.Digest(x.Predicate), max(x.Emails, x.Phones)
	c.Ground = fmt.Sprintf("%s in %d rows", shapesAllSeen, x.Scanned)
	if c.Rows > 0 {
		c.Ground = fmt.Sprintf("of %d rows, values shaped like %s in %d, like %s in %d", x.Scanned, shapeEmail, x.Emails, shapePhone, x.Phones)
	}
}

// count searches one table; unjudged says why that did not come to its end.
func (x *search) count(ctx context.Context, c column, table string) (found []shaped, unjudged string, err error) {
	if !c.Readable || c.Filtered {
		return nil, "", nil
	}
	if table == auditTable {
		return x.countAudit(ctx)
	}
	err = x.store.bounded(ctx, func(ctx context.Context, tx bun.Tx) error {
		return tx.NewRaw(`SELECT column_name, predicate, emails, phones, scanned, epoch, xid::text AS xid, id
			FROM door.count_shaped(?, ?, NULL, NULL, NULL, NULL)`, c.Schema, c.Table).Scan(ctx, &found)
	})
	why, err := halted(ctx, err)
	return found, why, err
}

// bounded runs a search in a transaction whose statements may take a minute.
func (s *Store) bounded(ctx context.Context, do func(ctx context.Context, tx bun.Tx) error) error {
	return pg.InSnapshot(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewRaw(`SELECT set_config('statement_timeout', ?, true)`, shapeTimeout).Exec(ctx); err != nil {
			return err
		}
		err := do(ctx, tx)
		if errors.Is(pg.Map(err), pg.ErrNoRows) {
			return nil
		}
		return err
	})
}

// halted says why a search was refused, when it was the database that refused it.
func halted(ctx context.Context, err error) (why string, fatal error) {
	switch state := pg.State(err); {
	case err == nil:
		return "", nil
	case ctx.Err() != nil || state == "":
		return "", err
	case state == "57014":
		return "the search took longer than " + shapeTimeout, nil
	default:
		return "the search failed: SQLSTATE " + state, nil
	}
}

// scan is how far the audit was searched, for one column.
type scan struct {
	Column                  string `bun:"column_name"`
	Scanned, Emails, Phones int64
	Epoch                   int32
	Xid                     string
	ID                      int64 `bun:"id"`
}

// countAudit goes on with the audit where the last pass ended: the counts are those
// of all passes. When something was found it begins anew, so that what expired is
// not accused for ever. A crash leaves the last part that was noted.
func (x *search) countAudit(ctx context.Context) (found []shaped, unjudged string, err error) {
	var kept []scan
	if err := pg.Map(pg.Bun(x.store.db).NewRaw(`SELECT column_name, scanned, emails, phones, epoch, xid::text AS xid, id FROM trakr.shape_scans ORDER BY column_name`).Scan(ctx, &kept)); err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, "", err
	}
	sums, from := map[string]scan{}, scan{Xid: "0"}
	for _, k := range kept {
		sums[k.Column] = k
		from.Epoch, from.Xid, from.ID = k.Epoch, k.Xid, k.ID
	}
	if slices.ContainsFunc(kept, func(k scan) bool { return k.Emails+k.Phones > 0 }) {
		sums, from = map[string]scan{}, scan{Xid: "0"}
	}
	for {
		var part []shaped
		var keys []PayloadKey
		err := x.store.bounded(ctx, func(ctx context.Context, tx bun.Tx) (err error) {
			part, keys, err = countPart(ctx, tx, from)
			return err
		})
		if unjudged, err = halted(ctx, err); err != nil {
			return nil, "", err
		}
		if unjudged == "" && len(part) == 0 {
			unjudged = "the database did not search the audit"
		}
		if unjudged != "" {
			return found, unjudged, nil
		}
		found = found[:0]
		if p := part[0]; p.Epoch != nil && p.Xid != nil && p.ID != nil {
			from.Epoch, from.Xid, from.ID = *p.Epoch, *p.Xid, *p.ID
		}
		for _, p := range part {
			sum := sums[p.Column]
			sum = scan{p.Column, sum.Scanned + p.Scanned, sum.Emails + p.Emails, sum.Phones + p.Phones, from.Epoch, from.Xid, from.ID}
			sums[p.Column] = sum
			p.Scanned, p.Emails, p.Phones = sum.Scanned, sum.Emails, sum.Phones
			found = append(found, p)
		}
		for _, k := range keys {
			if at, seen := x.keys[k.Name]; !seen || k.FirstSeenAt.Before(at) {
				x.keys[k.Name] = k.FirstSeenAt
			}
		}
		if x.keep && part[0].Scanned > 0 {
			if err := x.note(ctx, sums, keys); err != nil {
				return nil, "", err
			}
		}
		if part[0].Scanned < eventsAtOnce {
			return found, "", nil
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < 2*time.Minute {
			return found, fmt.Sprintf("%d events were searched in the time of this pass; the next one goes on", part[0].Scanned), nil
		}
	}
}

// countPart searches the next events, and lists the names of what was not kept of
// payloads in the very same ones.
func countPart(ctx context.Context, tx bun.Tx, from scan) (part []shaped, keys []PayloadKey, err error) {
	err = tx.NewRaw(`SELECT column_name, predicate, emails, phones, scanned, epoch, xid::text AS xid, id
		FROM door.count_shaped('trakr', 'audit_events', ?, ?::text::xid8, ?, ?)`, from.Epoch, from.Xid, from.ID, eventsAtOnce).Scan(ctx, &part)
	if err != nil || len(part) == 0 || part[0].ID == nil {
		return part, nil, err
	}
	to := part[0]
	err = tx.NewRaw(`SELECT d AS name, min(e.recorded_at) AS first_seen_at FROM trakr.audit_events AS e, unnest(e.dropped_names) AS d
		WHERE (e.epoch, e.xid, e.id) > (?, ?::text::xid8, ?) AND (e.epoch, e.xid, e.id) <= (?, ?::text::xid8, ?) GROUP BY d ORDER BY d`,
		from.Epoch, from.Xid, from.ID, *to.Epoch, *to.Xid, *to.ID).Scan(ctx, &keys)
	if errors.Is(pg.Map(err), pg.ErrNoRows) {
		err = nil
	}
	return part, keys, err
}

// note keeps how far the search came, and the names seen, together.
func (x *search) note(ctx context.Context, sums map[string]scan, keys []PayloadKey) error {
	return pg.InTx(ctx, x.store.db, func(ctx context.Context, tx bun.Tx) error {
		for _, k := range sums {
			_, err := tx.NewRaw(`INSERT INTO trakr.shape_scans (column_name, scanned, emails, phones, epoch, xid, id, scanned_at) VALUES (?, ?, ?, ?, ?, ?::text::xid8, ?, ?)
				ON CONFLICT (column_name) DO UPDATE SET scanned = excluded.scanned, emails = excluded.emails, phones = excluded.phones,
					epoch = excluded.epoch, xid = excluded.xid, id = excluded.id, scanned_at = excluded.scanned_at`,
				k.Column, k.Scanned, k.Emails, k.Phones, k.Epoch, k.Xid, k.ID, x.now.UTC()).Exec(ctx)
			if err != nil {
				return err
			}
		}
		for _, k := range keys {
			if _, err := tx.NewRaw(`INSERT INTO trakr.payload_keys_seen (name, first_seen_at) VALUES (?, ?) ON CONFLICT DO NOTHING`, k.Name, k.FirstSeenAt).Exec(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}
