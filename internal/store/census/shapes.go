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

// Bounds of the search for shapes.
const (
	shapeTimeout = "60s" // of one statement
	eventsAtOnce = 20000 // events of the audit in one statement
)

// Texts of a check's ground.
const (
	shapeEmail      = "an e-mail address"
	shapePhone      = "a telephone number"
	encryptedGround = "encrypted; checked before it was stored"
	noShapeGround   = "no value is shaped like " + shapeEmail + " or " + shapePhone
)

const auditTable = "trakr.audit_events"

// encrypted reports whether the service encrypts the values of a column; a policy cannot
// declare that of a column. A clear value that is found there is a finding.
func encrypted(table string, c column) bool {
	switch {
	case c.Kind != "opaque":
		return false
	case table == "trakr.tenant_fields":
		return lifecycle.Field(c.Name).Valid()
	}
	return table == "trakr.outbox_payloads" && c.Name == "sealed"
}

// shapeCount is what the database counted in one column. Epoch, Xid and ID are the last
// event that was searched; nil for other tables than the audit.
type shapeCount struct {
	Column    string `bun:"column_name"`
	Predicate string
	Emails    int64
	Phones    int64
	Scanned   int64
	Epoch     *int32
	Xid       *string
	ID        *int64 `bun:"id"`
}

// ShapeSearch is a search for shapes.
type ShapeSearch struct {
	Declared drift.Declarations
	Now      time.Time
	// DryRun leaves the stored position in the audit unchanged.
	DryRun bool
}

// Searched is what a search for shapes found.
type Searched struct {
	Checks     []findings.Check
	Keys       []PayloadKey // of all events
	SnapshotAt time.Time
}

// PayloadKey is the name of a payload's member that an event lists as received and not
// kept.
type PayloadKey struct {
	Name        string
	FirstSeenAt time.Time `bun:"first_seen_at"`
}

// search is one run of Shapes.
type search struct {
	ShapeSearch
	store *Store
	at    time.Time            // of the database's clock
	keys  map[string]time.Time // when each payload key was first seen
}

// Shapes searches every column that can contain text, in every table of the live
// catalog, for values shaped like an e-mail address or a telephone number, and returns
// every table and column that no policy declares. No part of a value is returned.
//
// The audit is searched in parts, from where the last pass ended until shortly before
// ctx's deadline; the next pass continues there. Columns that the service encrypts are not
// searched and are reported as NotSearched. Every large object is a finding, whatever it
// contains.
func (s *Store) Shapes(ctx context.Context, o ShapeSearch) (Searched, error) {
	var clock struct{ Now time.Time }
	if err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT clock_timestamp() AS now`).Scan(ctx, &clock)); err != nil {
		return Searched{}, fmt.Errorf("searching for shapes: %w", err)
	}
	x := search{ShapeSearch: o, store: s, at: clock.Now.UTC(), keys: map[string]time.Time{}}
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
	out.Keys, err = x.payloadKeys(ctx)
	return out, err
}

// largeObjects counts PostgreSQL's large objects, which belong to no table. The service
// makes none, only a superuser may search them all, and every role that may log in may make
// them.
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
	c := findings.Check{
		Store: "database", Table: "pg_catalog.pg_largeobject_metadata", Disposition: findings.Checked,
		Rows: row.N, PredicateDigest: findings.Digest(count), CheckedAt: row.Now.UTC(), Duration: time.Since(begin),
		Ground: "there is no large object",
	}
	if row.N > 0 {
		c.Ground = "large objects belong to no table, and their content is unknown: find out who owns them, then lo_unlink them"
	}
	return c, nil
}

// payloadKeys returns the names that this pass and earlier ones saw.
func (x *search) payloadKeys(ctx context.Context) ([]PayloadKey, error) {
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

// table searches one table.
func (x *search) table(ctx context.Context, columns []column) ([]findings.Check, error) {
	first, at := columns[0], x.at
	table := policy.TableName(first.Schema, first.Table)
	d := x.Declared.Table(table)
	var checks []findings.Check
	if !d.Declared {
		checks = append(checks, findings.Check{
			Store: d.Store, Table: table, Disposition: findings.Unjudged, Undeclared: true,
			Ground: drift.UndeclaredTable, CheckedAt: at,
		})
	}
	begin := time.Now()
	found, why, err := x.count(ctx, first, table)
	took := time.Since(begin) // all columns are searched at once
	if err != nil {
		return nil, err
	}
	for _, c := range columns {
		check := findings.Check{
			Store: d.Store, Table: table, Column: c.Name, Disposition: findings.Checked, CheckedAt: at, Duration: took,
		}
		check.Undeclared = d.Declared && !d.Has(c.Name)
		unjudged := func(why string) { check.Disposition, check.Ground = findings.Unjudged, why }
		searched := c.Kind == "text" || c.Kind == "opaque"
		i := slices.IndexFunc(found, func(x shapeCount) bool { return x.Column == c.Name })
		switch {
		case !searched && !check.Undeclared:
			continue
		case !searched: // its existence is the finding
		case encrypted(table, c) && (i < 0 || found[i].Emails+found[i].Phones == 0):
			check.Disposition, check.Ground = findings.NotSearched, encryptedGround
		case !c.Readable:
			unjudged("the role that counts may not read the table: GRANT SELECT on it TO trakr_sweep")
		case c.Filtered:
			unjudged("row-level security hides rows from the role that counts, trakr_sweep")
		case why != "" && (i < 0 || found[i].Emails+found[i].Phones == 0):
			unjudged(why)
		case i < 0:
			unjudged("the database did not search this column")
		default:
			found[i].record(&check)
		}
		if check.Undeclared {
			if check.Ground != "" {
				check.Ground = "; " + check.Ground
			}
			check.Ground = drift.UndeclaredColumn + check.Ground
			if check.Rows == 0 {
				check.Disposition = findings.Unjudged
			}
		}
		checks = append(checks, check)
	}
	return checks, nil
}

// record stores a column's counts in its check.
func (x shapeCount) record(c *findings.Check) {
	c.PredicateDigest, c.Rows = findings.Digest(x.Predicate), max(x.Emails, x.Phones)
	c.Ground = fmt.Sprintf("%s in %d rows", noShapeGround, x.Scanned)
	if c.Rows > 0 {
		c.Ground = fmt.Sprintf("of %d rows, values shaped like %s in %d, like %s in %d",
			x.Scanned, shapeEmail, x.Emails, shapePhone, x.Phones)
	}
}

// count searches one table; why is the reason when the search is not complete.
func (x *search) count(ctx context.Context, c column, table string) (found []shapeCount, why string, err error) {
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
	why, err = refusal(ctx, err)
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

// refusal splits the error of a search: why is the reason when the database ended the
// search of this table, fatal is every other error.
func refusal(ctx context.Context, err error) (why string, fatal error) {
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

// auditScan is the sum of all passes over the audit, for one column, and the last event
// they searched.
type auditScan struct {
	Column                  string `bun:"column_name"`
	Scanned, Emails, Phones int64
	Epoch                   int32
	Xid                     string
	ID                      int64 `bun:"id"`
}

const selectScans = `SELECT column_name, scanned, emails, phones, epoch, xid::text AS xid, id
	FROM trakr.shape_scans ORDER BY column_name`

// lastScans returns the sums of the earlier passes by column, and the last event they
// searched. Both are empty when an earlier pass found something: the search then begins
// with the oldest event, because the event that was found may have expired since.
func (x *search) lastScans(ctx context.Context) (sums map[string]auditScan, from auditScan, err error) {
	var stored []auditScan
	err = pg.Map(pg.Bun(x.store.db).NewRaw(selectScans).Scan(ctx, &stored))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, from, err
	}
	sums, from = map[string]auditScan{}, auditScan{Xid: "0"}
	if slices.ContainsFunc(stored, func(k auditScan) bool { return k.Emails+k.Phones > 0 }) {
		return sums, from, nil
	}
	for _, k := range stored {
		sums[k.Column] = k
		from.Epoch, from.Xid, from.ID = k.Epoch, k.Xid, k.ID
	}
	return sums, from, nil
}

// countAudit continues the search of the audit after the last event of the earlier passes
// (lastScans), and returns the counts of all passes. A crash keeps the last part that was
// stored.
func (x *search) countAudit(ctx context.Context) (found []shapeCount, why string, err error) {
	sums, from, err := x.lastScans(ctx)
	if err != nil {
		return nil, "", err
	}
	for {
		var part []shapeCount
		var keys []PayloadKey
		err := x.store.bounded(ctx, func(ctx context.Context, tx bun.Tx) (err error) {
			part, keys, err = countPart(ctx, tx, from)
			return err
		})
		if why, err = refusal(ctx, err); err != nil {
			return nil, "", err
		}
		if why == "" && len(part) == 0 {
			why = "the database did not search the audit"
		}
		if why != "" {
			return found, why, nil
		}
		found = found[:0]
		if p := part[0]; p.Epoch != nil && p.Xid != nil && p.ID != nil {
			from.Epoch, from.Xid, from.ID = *p.Epoch, *p.Xid, *p.ID
		}
		for _, p := range part {
			sum := sums[p.Column]
			sum = auditScan{
				Column: p.Column, Scanned: sum.Scanned + p.Scanned,
				Emails: sum.Emails + p.Emails, Phones: sum.Phones + p.Phones,
				Epoch: from.Epoch, Xid: from.Xid, ID: from.ID,
			}
			sums[p.Column] = sum
			p.Scanned, p.Emails, p.Phones = sum.Scanned, sum.Emails, sum.Phones
			found = append(found, p)
		}
		for _, k := range keys {
			if at, seen := x.keys[k.Name]; !seen || k.FirstSeenAt.Before(at) {
				x.keys[k.Name] = k.FirstSeenAt
			}
		}
		if !x.DryRun && part[0].Scanned > 0 {
			if err := x.save(ctx, sums, keys); err != nil {
				return nil, "", err
			}
		}
		if part[0].Scanned < eventsAtOnce {
			return found, "", nil
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < 2*time.Minute {
			return found, fmt.Sprintf("%d events were searched in the time of this pass; the next pass continues", part[0].Scanned), nil
		}
	}
}

// countPart searches the next events, and lists the payload keys of the same events.
func countPart(ctx context.Context, tx bun.Tx, from auditScan) (part []shapeCount, keys []PayloadKey, err error) {
	err = tx.NewRaw(`SELECT column_name, predicate, emails, phones, scanned, epoch, xid::text AS xid, id
		FROM door.count_shaped('trakr', 'audit_events', ?, ?::text::xid8, ?, ?)`,
		from.Epoch, from.Xid, from.ID, eventsAtOnce).Scan(ctx, &part)
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

const (
	upsertScan = `INSERT INTO trakr.shape_scans (column_name, scanned, emails, phones, epoch, xid, id, scanned_at)
		VALUES (?, ?, ?, ?, ?, ?::text::xid8, ?, ?)
		ON CONFLICT (column_name) DO UPDATE SET scanned = excluded.scanned, emails = excluded.emails, phones = excluded.phones,
			epoch = excluded.epoch, xid = excluded.xid, id = excluded.id, scanned_at = excluded.scanned_at`
	insertPayloadKey = `INSERT INTO trakr.payload_keys_seen (name, first_seen_at) VALUES (?, ?) ON CONFLICT DO NOTHING`
)

// save stores the sums and the payload keys in one transaction.
func (x *search) save(ctx context.Context, sums map[string]auditScan, keys []PayloadKey) error {
	return pg.InTx(ctx, x.store.db, func(ctx context.Context, tx bun.Tx) error {
		for _, k := range sums {
			_, err := tx.NewRaw(upsertScan,
				k.Column, k.Scanned, k.Emails, k.Phones, k.Epoch, k.Xid, k.ID, x.Now.UTC()).Exec(ctx)
			if err != nil {
				return err
			}
		}
		for _, k := range keys {
			if _, err := tx.NewRaw(insertPayloadKey, k.Name, k.FirstSeenAt).Exec(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}
