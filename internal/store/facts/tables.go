package facts

import (
	"context"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/drift"
	"trakr/internal/store/internal/pg"
	"trakr/policy"
	"trakr/reports"
)

// Inventory is what the database contains.
type Inventory struct {
	Tables   []reports.TableFacts
	Began    *time.Time // when this log, and so the tables beside it, began; nil when that is not known
	Live     int64
	Erased   int64
	Erasures reports.ErasureFacts
	Server   Server
}

// Server is what the database server reports about itself.
type Server struct {
	Version       string // e.g. "15.18"
	UnixSocket    bool
	Address       string // host address of the connection, "" on a unix socket
	TLS           bool
	DataChecksums bool
}

const (
	selectTables = `SELECT n.nspname AS schema, c.relname AS name, ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
			WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS columns
		FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'm', 'f') AND NOT c.relispartition
			AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_%' ORDER BY 1, 2`

	// The log was named in the migration that made the tables of its hashes; the name
	// survives dump and restore.
	selectBegan = `SELECT min(created_at) AS at FROM trakr.log_identity`

	selectTenants = `SELECT count(*) FILTER (WHERE erased_at IS NULL OR erased_at > ?0) AS live,
		count(*) FILTER (WHERE erased_at <= ?0) AS erased FROM trakr.tenants WHERE installed_at <= ?0`

	// The arguments are the deadline in seconds, the moment, and the period of LateLately in
	// seconds.
	selectErasures = `SELECT count(*) FILTER (WHERE gone) AS total, count(*) FILTER (WHERE NOT gone) AS open,
			min(erased_at) FILTER (WHERE gone) AS oldest, max(erased_at) FILTER (WHERE gone) AS newest,
			count(*) FILTER (WHERE late) AS late,
			count(*) FILTER (WHERE late AND NOT (gone AND requested_at < ?1::timestamptz - make_interval(secs => ?2))
				AND NOT EXISTS (SELECT FROM trakr.legal_holds AS h WHERE h.tenant_id = x.tenant_id
					AND h.placed_at < coalesce(x.erased_at, ?1) AND least(h.until, h.released_at) > x.requested_at)) AS lately,
			coalesce((extract(epoch FROM max(erased_at - requested_at) FILTER (WHERE gone)) * 1000000)::bigint, 0) AS microseconds
		FROM (SELECT *, (CASE WHEN gone THEN erased_at ELSE ?1 END) - requested_at > make_interval(secs => ?0) AS late
			FROM (SELECT tenant_id, requested_at, erased_at, coalesce(erased_at <= ?1, false) AS gone
				FROM trakr.erasures WHERE begun_at <= ?1) AS e) AS x`

	selectServer = `SELECT split_part(current_setting('server_version'), ' ', 1) AS version,
		coalesce(host(inet_server_addr()), '') AS address, inet_server_addr() IS NULL AS socket,
		coalesce((SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS tls,
		current_setting('data_checksums') = 'on' AS checksums`
)

// Collect reads everything in one snapshot, as of a moment. An erasure is late after the
// deadline.
func (s *Store) Collect(ctx context.Context, d drift.Declarations, asOf time.Time, deadline time.Duration) (Inventory, error) {
	var inv Inventory
	err := pg.InSnapshot(ctx, s.db, func(ctx context.Context, tx bun.Tx) (err error) {
		if inv.Tables, err = tables(ctx, tx, d, asOf); err != nil {
			return err
		}
		var began struct{ At *time.Time }
		if err := tx.NewRaw(selectBegan).Scan(ctx, &began); err != nil {
			return err
		}
		var tenants struct{ Live, Erased int64 }
		if err := tx.NewRaw(selectTenants, asOf).Scan(ctx, &tenants); err != nil {
			return err
		}
		inv.Began, inv.Live, inv.Erased = pg.UTC(began.At), tenants.Live, tenants.Erased
		if inv.Erasures, err = erasures(ctx, tx, asOf, deadline); err != nil {
			return err
		}
		inv.Server, err = server(ctx, tx)
		return err
	})
	if err != nil {
		return Inventory{}, fmt.Errorf("reading what the database contains: %w", err)
	}
	return inv, nil
}

// tables measures every table of the live catalog.
func tables(ctx context.Context, tx bun.Tx, declared drift.Declarations, asOf time.Time) ([]reports.TableFacts, error) {
	var found []struct {
		Schema, Name string
		Columns      []string `bun:",array"`
	}
	if err := tx.NewRaw(selectTables).Scan(ctx, &found); err != nil {
		return nil, err
	}
	var out []reports.TableFacts
	for _, x := range found {
		t := reports.TableFacts{Name: policy.TableName(x.Schema, x.Name)}
		d := declared.Table(t.Name)
		t.Declared, t.Undeclared = d.Declared, d.Undeclared(x.Columns)
		m := measurement{schema: x.Schema, table: x.Name, asOf: asOf}
		rows, uncounted, err := m.by(ctx, tx, d.TimeColumn)
		if err != nil {
			return nil, err
		}
		t.Rows, t.Undated, t.Oldest, t.Newest, t.Uncounted = rows.Rows, rows.Undated, pg.UTC(rows.Oldest), pg.UTC(rows.Newest), uncounted
		t.Due, t.Unaged = t.Oldest, t.Undated
		if d.AgeColumn != d.TimeColumn && t.Uncounted == "" {
			if rows, t.Uncounted, err = m.by(ctx, tx, d.AgeColumn); err != nil {
				return nil, err
			}
			t.Due, t.Unaged = pg.UTC(rows.Oldest), 0 // without a time no period has begun
		}
		out = append(out, t)
	}
	return out, nil
}

// measurement counts the rows of one table as of a moment.
type measurement struct {
	schema, table string
	asOf          time.Time
}

// measured is what door.measure returns.
type measured struct {
	Rows, Undated  int64
	Oldest, Newest *time.Time
}

// by counts the rows by a column of times, "" for none. A table that cannot be counted
// does not hide the others: uncounted is then the reason.
func (m measurement) by(ctx context.Context, tx bun.Tx, column string) (out measured, uncounted string, err error) {
	err = pg.Map(tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error { // a savepoint
		const measure = `SELECT rows, undated, oldest, newest FROM door.measure(?, ?, ?, ?)`
		return tx.NewRaw(measure, m.schema, m.table, column, m.asOf).Scan(ctx, &out)
	}))
	switch {
	case err == nil:
		return out, "", nil
	case ctx.Err() != nil || pg.State(err) == "":
		return measured{}, "", fmt.Errorf("counting %s: %w", policy.TableName(m.schema, m.table), err)
	}
	return measured{}, "SQLSTATE " + pg.State(err), nil
}

// erasures adds up the tombstones.
func erasures(ctx context.Context, tx bun.Tx, asOf time.Time, deadline time.Duration) (reports.ErasureFacts, error) {
	var row struct {
		Total, Open, Late, Lately, Microseconds int64
		Oldest, Newest                          *time.Time
	}
	err := tx.NewRaw(selectErasures, deadline.Seconds(), asOf, reports.Lately.Seconds()).Scan(ctx, &row)
	return reports.ErasureFacts{
		Total: row.Total, Oldest: pg.UTC(row.Oldest), Newest: pg.UTC(row.Newest), Late: row.Late, LateLately: row.Lately, Open: row.Open,
		LongestLag: time.Duration(row.Microseconds) * time.Microsecond,
	}, err
}

func server(ctx context.Context, tx bun.Tx) (Server, error) {
	var row struct {
		Version, Address string
		Socket, TLS      bool
		Checksums        bool
	}
	err := tx.NewRaw(selectServer).Scan(ctx, &row)
	return Server{Version: row.Version, UnixSocket: row.Socket, Address: row.Address, TLS: row.TLS, DataChecksums: row.Checksums}, err
}
