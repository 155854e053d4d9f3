// Package inventory looks at what the database really holds, for the reports:
// every table, declared or not, with counts and ages, the tombstones, and the
// state of sweeps, all in one snapshot and as of one moment.
package facts

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"trakr/internal/drift"
	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
	"trakr/policy"
)

// Table is one table as it is.
type Table struct {
	Name       string // as policy.TableName gives it
	Declared   bool
	Undeclared []string // columns that the policy does not declare, of a declared table
	Uncounted  string   // why the rows could not be counted; "" when they were
	Rows       int64    // as of the moment asked for, when the table has a time column
	Undated    int64    // of these, the rows whose age is not known
	Oldest     *time.Time
	Newest     *time.Time
	Due        *time.Time // the oldest by the column its period counts from; nil when there is none
	Unaged     int64      // rows that have no such time
}

// Inventory is what was found.
type Inventory struct {
	Tables  []Table
	Began   *time.Time // when this log, and so the tables beside it, began; nil when that cannot be told
	Live    int64
	Erased  int64
	Erasure Erasures
	Server  Server
}

// Erasures sums up the tombstones.
type Erasures struct {
	Total   int64
	Oldest  *time.Time
	Newest  *time.Time
	Longest time.Duration // from the request to gone from live stores
	Late    int64         // took longer than the deadline, or are not done and older than it
	Open    int64         // begun, and not gone from live stores yet
	// LateLately are those of Late that were requested lately or are not done, without
	// the ones a legal hold keeps.
	LateLately int64
}

// Server is what the database says about itself.
type Server struct {
	Version       string // e.g. "15.18"
	UnixSocket    bool
	Address       string // host address of the connection, "" on a unix socket
	TLS           bool
	DataChecksums bool
}

// Store looks at one database.
type Store struct{ db *store.DB }

// New returns the store of db.
func New(db *store.DB) *Store { return &Store{db} }

// Clock is the database's time to the microsecond, which is as fine as it records
// times: everything that is committed now lies before it, and what is recorded from
// now on after it.
func (s *Store) Clock(ctx context.Context) (time.Time, error) {
	var row struct{ Now time.Time }
	err := pg.Bun(s.db).NewRaw(`SELECT clock_timestamp() AS now`).Scan(ctx, &row)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the database's clock: %w", pg.Map(err))
	}
	return row.Now.UTC(), nil
}

// Collect looks at everything as of the moment asked for.
func (s *Store) Collect(ctx context.Context, declared drift.Declarations, asOf time.Time, deadline, lately time.Duration) (Inventory, error) {
	var inv Inventory
	err := pg.InSnapshot(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		var found []struct {
			Schema, Name string
			Columns      []string `bun:",array"`
		}
		err := tx.NewRaw(`SELECT n.nspname AS schema, c.relname AS name, ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
				WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS columns
			FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
			WHERE c.relkind IN ('r', 'p', 'm', 'f') AND NOT c.relispartition
				AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_%' ORDER BY 1, 2`).Scan(ctx, &found)
		if err != nil {
			return err
		}
		for _, x := range found {
			t := Table{Name: policy.TableName(x.Schema, x.Name)}
			d := declared.Table(t.Name)
			t.Declared, t.Undeclared = d.Declared, d.Undeclared(x.Columns)
			if err := count(ctx, tx, x.Schema, x.Name, d.TimeColumn, asOf, &t); err != nil {
				return err
			}
			t.Due, t.Unaged = t.Oldest, t.Undated
			if d.AgeColumn != d.TimeColumn && t.Uncounted == "" {
				aged := Table{Name: t.Name}
				if err := count(ctx, tx, x.Schema, x.Name, d.AgeColumn, asOf, &aged); err != nil {
					return err
				}
				t.Due, t.Unaged, t.Uncounted = aged.Oldest, 0, aged.Uncounted // without it no period has begun
			}
			inv.Tables = append(inv.Tables, t)
		}
		if inv.Began, err = began(ctx, tx); err != nil {
			return err
		}
		if err := tenantsAsOf(ctx, tx, &inv, asOf); err != nil {
			return err
		}
		if err := erasuresAsOf(ctx, tx, &inv.Erasure, asOf, deadline, lately); err != nil {
			return err
		}
		return server(ctx, tx, &inv.Server)
	})
	if err != nil {
		return Inventory{}, fmt.Errorf("looking at what the database holds: %w", err)
	}
	return inv, nil
}

// count measures one table. One that cannot be counted does not hide the others.
func count(ctx context.Context, tx bun.Tx, schema, name, timeColumn string, asOf time.Time, t *Table) error {
	var row struct {
		Rows, Undated  int64
		Oldest, Newest *time.Time
	}
	err := pg.Map(tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error { // a savepoint
		return tx.NewRaw(`SELECT rows, undated, oldest, newest FROM door.measure(?, ?, ?, ?)`, schema, name, timeColumn, asOf).Scan(ctx, &row)
	}))
	if err != nil {
		if ctx.Err() != nil || pg.State(err) == "" {
			return fmt.Errorf("counting %s: %w", t.Name, err)
		}
		t.Uncounted = "SQLSTATE " + pg.State(err)
		return nil
	}
	t.Rows, t.Undated, t.Oldest, t.Newest = row.Rows, row.Undated, pg.UTC(row.Oldest), pg.UTC(row.Newest)
	return nil
}

// began is when the log was named, which happened in the migration that made the
// tables of its hashes; it survives dump and restore.
func began(ctx context.Context, tx bun.Tx) (*time.Time, error) {
	var row struct{ At *time.Time }
	err := tx.NewRaw(`SELECT min(created_at) AS at FROM trakr.log_identity`).Scan(ctx, &row)
	return pg.UTC(row.At), err
}

func tenantsAsOf(ctx context.Context, tx bun.Tx, inv *Inventory, asOf time.Time) error {
	var row struct{ Live, Erased int64 }
	err := tx.NewRaw(`SELECT count(*) FILTER (WHERE erased_at IS NULL OR erased_at > ?) AS live,
		count(*) FILTER (WHERE erased_at <= ?) AS erased FROM trakr.tenants WHERE installed_at <= ?`, asOf, asOf, asOf).Scan(ctx, &row)
	inv.Live, inv.Erased = row.Live, row.Erased
	return err
}

func erasuresAsOf(ctx context.Context, tx bun.Tx, e *Erasures, asOf time.Time, deadline, lately time.Duration) error {
	var row struct {
		Total, Open, Late, Lately, Microseconds int64
		Oldest, Newest                          *time.Time
	}
	err := tx.NewRaw(`SELECT count(*) FILTER (WHERE gone) AS total, count(*) FILTER (WHERE NOT gone) AS open,
		min(erased_at) FILTER (WHERE gone) AS oldest, max(erased_at) FILTER (WHERE gone) AS newest,
		count(*) FILTER (WHERE late) AS late,
		count(*) FILTER (WHERE late AND NOT (gone AND requested_at < ?1::timestamptz - make_interval(secs => ?2)) AND NOT EXISTS (SELECT FROM trakr.legal_holds AS h WHERE h.tenant_id = x.tenant_id
			AND h.placed_at < coalesce(x.erased_at, ?1) AND least(h.until, h.released_at) > x.requested_at)) AS lately,
		coalesce((extract(epoch FROM max(erased_at - requested_at) FILTER (WHERE gone)) * 1000000)::bigint, 0) AS microseconds
		FROM (SELECT *, (CASE WHEN gone THEN erased_at ELSE ?1 END) - requested_at > make_interval(secs => ?0) AS late
			FROM (SELECT *, coalesce(erased_at <= ?1, false) AS gone FROM trakr.erasures WHERE begun_at <= ?1) AS e) AS x`, deadline.Seconds(), asOf, lately.Seconds()).Scan(ctx, &row)
	e.Total, e.Open, e.Late, e.Longest = row.Total, row.Open, row.Late, time.Duration(row.Microseconds)*time.Microsecond
	e.LateLately = row.Lately
	e.Oldest, e.Newest = pg.UTC(row.Oldest), pg.UTC(row.Newest)
	return err
}

func server(ctx context.Context, tx bun.Tx, s *Server) error {
	var row struct {
		Version, Address string
		Socket, TLS      bool
		Checksums        bool
	}
	err := tx.NewRaw(`SELECT split_part(current_setting('server_version'), ' ', 1) AS version,
		coalesce(host(inet_server_addr()), '') AS address, inet_server_addr() IS NULL AS socket,
		coalesce((SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS tls,
		current_setting('data_checksums') = 'on' AS checksums`).Scan(ctx, &row)
	*s = Server{Version: row.Version, UnixSocket: row.Socket, Address: row.Address, TLS: row.TLS, DataChecksums: row.Checksums}
	return err
}

// Disclosure is how often one field was disclosed to one recipient.
type Disclosure struct {
	Delivery         bool // in an event about the tenant; else in a request to Bitbucket
	Recipient, Field string
	Events           int64
}

// Disclosures adds up what the log has as handed to another party, in a time.
func (s *Store) Disclosures(ctx context.Context, from, to time.Time) ([]Disclosure, error) {
	var out []Disclosure
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT e.action = ? AS delivery, e.recipient, n.field, count(*) AS events FROM trakr.audit_events AS e, unnest(e.field_names) AS n (field)
		WHERE e.recipient IS NOT NULL AND e.outcome = 'success' AND e.action <> ? AND e.recorded_at > ? AND e.recorded_at <= ? GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 LIMIT 1000`,
		string(audit.DeliverySend), string(audit.DeliveryAcknowledge), from, to).Scan(ctx, &out))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("adding up disclosures: %w", err)
	}
	return out, nil
}

// Notices counts, as of a moment, the notices of erasures that a recipient who knew of
// the tenant had not acknowledged, and how many of them waited longer than a time.
func (s *Store) Notices(ctx context.Context, asOf time.Time, longer time.Duration) (open, late int64, err error) {
	var row struct{ Open, Late int64 }
	err = pg.Bun(s.db).NewRaw(`SELECT count(*) AS open, count(*) FILTER (WHERE o.enqueued_at < ?) AS late FROM trakr.outbox AS o
		WHERE o.kind = 'erased' AND o.told AND o.enqueued_at <= ? AND (o.closed_at IS NULL OR o.closed_at > ?)`, asOf.Add(-longer), asOf, asOf).Scan(ctx, &row)
	if err != nil {
		return 0, 0, fmt.Errorf("counting notices of erasures: %w", pg.Map(err))
	}
	return row.Open, row.Late, nil
}

// selectUnjudged counts from the first migration of this database: every version that can
// run on this schema checks a value before it stores it. A rotation of the field key that
// began since then and is finished has checked all values. The table of versions has the
// local time of a session like this one, and a process that stores may cut its clock to
// the second.
const selectUnjudged = `SELECT count(*) FILTER (WHERE t.updated_at < j.since - interval '1 second') AS unjudged
	FROM trakr.tenants AS t, (SELECT min(v.tstamp) AT TIME ZONE current_setting('TimeZone') AS since
		FROM trakr.schema_migrations AS v WHERE v.is_applied) AS j
	WHERE t.state = 'live' AND (EXISTS (SELECT FROM trakr.field_keys AS k WHERE k.state = 'retired')
		OR NOT EXISTS (SELECT FROM trakr.field_keys AS k WHERE k.state = 'active' AND k.active_at > j.since)
		OR NOT EXISTS (SELECT FROM trakr.field_keys AS k WHERE k.state = 'destroyed' AND k.destroyed_at > j.since))`

// Unjudged counts the tenants whose values are older than this database's schema: they
// were brought here from elsewhere, and it is not known that they were checked for contact
// data.
func (s *Store) Unjudged(ctx context.Context) (int64, error) {
	var row struct{ Unjudged int64 }
	if err := pg.Bun(s.db).NewRaw(selectUnjudged).Scan(ctx, &row); err != nil {
		return 0, fmt.Errorf("counting values that were not checked: %w", pg.Map(err))
	}
	return row.Unjudged, nil
}

// Suspected counts the installations that Bitbucket does not know any more, and how many
// of them it has not known for longer than a time. What a legal hold keeps is left out.
// Only what is so now is on record: of an earlier moment it counts those that still are.
func (s *Store) Suspected(ctx context.Context, asOf time.Time, longer time.Duration) (all, late int64, err error) {
	var row struct{ Suspected, Late int64 }
	err = pg.Bun(s.db).NewRaw(`SELECT count(*) AS suspected, count(*) FILTER (WHERE l.first_suspected_at < ?) AS late
		FROM trakr.tenant_liveness AS l JOIN trakr.tenants AS t ON t.tenant_id = l.tenant_id
		WHERE t.state = 'live' AND l.first_suspected_at <= ? AND NOT EXISTS (SELECT FROM trakr.legal_holds AS h
			WHERE h.tenant_id = l.tenant_id AND h.placed_at <= ? AND h.until > ? AND (h.released_at IS NULL OR h.released_at > ?))`,
		asOf.Add(-longer), asOf, asOf, asOf, asOf).Scan(ctx, &row)
	if err != nil {
		return 0, 0, fmt.Errorf("counting installations that Bitbucket does not know any more: %w", pg.Map(err))
	}
	return row.Suspected, row.Late, nil
}

// Finding is an open finding as of a moment.
type Finding struct {
	ID       string    `bun:"finding_id"`
	Kind     string    `bun:"kind"`
	Table    string    `bun:"table_name"`
	Column   string    `bun:"column_name"` // "" for a table that no policy declares
	Ground   string    `bun:"ground"`      // "" for rows of tenants that are not live
	Rows     *int64    `bun:"rows"`        // nil when that pass could not count them
	OpenedAt time.Time `bun:"opened_at"`
	Known    bool      `bun:"known"` // it was acknowledged by then
}

// lastRuns are the newest passes that had finished by a moment and did not fail:
// the findings' own counts are overwritten by later ones, theirs are not.
const lastRuns = `(SELECT DISTINCT ON (kind) kind, run_id FROM trakr.sweep_runs WHERE finished_at <= ? AND result <> 'failed' AND NOT dry_run
	ORDER BY kind, finished_at DESC, run_id DESC)`

// OpenFindings lists the findings that were open at that moment, as the newest
// pass before it saw them. What a pass could not see is not among them: its checks say so.
func (s *Store) OpenFindings(ctx context.Context, asOf time.Time) ([]Finding, error) {
	var out []Finding
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT f.finding_id, f.kind, f.table_name, f.column_name, coalesce(x.ground, '') AS ground,
			CASE WHEN x.predicate_digest <> '' THEN x.rows END AS rows, f.opened_at,
			coalesce(f.acknowledged_at <= ?, false) AS known
		FROM trakr.findings AS f LEFT JOIN `+lastRuns+` AS l ON l.kind = f.kind
		LEFT JOIN trakr.sweep_results AS x ON x.run_id = l.run_id AND x.store = f.store AND x.table_name = f.table_name AND x.column_name = f.column_name
		WHERE NOT f.blind AND f.opened_at <= ? AND (f.resolved_at IS NULL OR f.resolved_at > ?) ORDER BY f.opened_at, f.finding_id LIMIT 1000`, asOf, asOf, asOf, asOf).Scan(ctx, &out))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("reading findings: %w", err)
	}
	return out, nil
}

// Summary is the sums of one finished sweep.
type Summary struct {
	Checked  int64 // columns judged or retained
	Unjudged int64 // columns and tables about which nothing can be said
	Rows     int64 // rows of tenants that are not live, where none may be
}

// SweepSummary adds up the results of a run.
func (s *Store) SweepSummary(ctx context.Context, runID string) (Summary, error) {
	var row struct{ Checked, Unjudged, Rows int64 }
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT count(*) FILTER (WHERE disposition IN ('checked', 'retained')) AS checked, count(*) FILTER (WHERE disposition = 'unjudged') AS unjudged,
		coalesce(sum(rows) FILTER (WHERE disposition = 'checked'), 0)::bigint AS rows
		FROM trakr.sweep_results WHERE run_id = ?`, runID).Scan(ctx, &row))
	if err != nil {
		return Summary{}, fmt.Errorf("adding up a sweep: %w", err)
	}
	return Summary(row), nil
}

// Issued is one report that was handed out.
type Issued struct {
	Kind, Format, PolicyHash, Digest string
	AsOf                             time.Time
}

// Issue records that a report was handed out, with its digest, and the audit
// event in the same transaction. A report that cannot be recorded is not issued.
// The row bears the database's time, as the report's own moment does: with a
// clock of ours that runs behind, a report would count itself at its next issue.
func (s *Store) Issue(ctx context.Context, a lifecycle.Access, now time.Time, r Issued) error {
	if err := a.CheckReason(); err != nil {
		return err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("issuing a report: %w", err)
	}
	a.CorrelationID = id.String()
	e := audit.New(ctx, now, a, audit.ReportIssue, audit.Success)
	e.StatusDetail = r.Kind + " " + r.Format
	err = pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewRaw(`INSERT INTO trakr.reports_issued (report_id, kind, format, as_of, policy_hash, digest, issued_to, issued_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, clock_timestamp())`, id.String(), r.Kind, r.Format, r.AsOf, r.PolicyHash, r.Digest, a.Caller.ID).Exec(ctx)
		if err != nil {
			return err
		}
		return audit.Append(ctx, tx, e)
	})
	if err != nil {
		return fmt.Errorf("issuing a report: %w", err)
	}
	return nil
}
