// Package pg holds the database handles of the store: a pgx pool for the door's
// hot path and bun for everything else, both on the same database. It maps every
// database error to a kind of the domain and drops its text, because PostgreSQL
// quotes values in messages. Only packages under internal/store can import it.
package pg

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"go.opentelemetry.io/otel/trace"

	"trakr/internal/lifecycle"
)

// DB is one open database. Its handles are unexported, and only Pool and Bun
// of this package reach them, so SQL stays under internal/store.
type DB struct {
	pool *pgxpool.Pool
	bun  *bun.DB
}

// Options tune Open.
type Options struct {
	MaxConns int32                // of each of the two pools; 0 means 12
	Tracer   trace.TracerProvider // nil means no spans
	Role     string               // every connection acts as this role; "" means as its login
}

// ServiceRole is what the running service acts as (deploy/roles.sql).
const ServiceRole = "trakr_service"

const connectTimeout = 5 * time.Second

// Open connects to the PostgreSQL at url and checks that it answers. The error
// names host and database, never the password.
func Open(ctx context.Context, url string, o Options) (*DB, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		// The parser's own error repeats the URL and removes the password by best
		// effort only; do not rely on that.
		return nil, errors.New("the database URL cannot be read: " +
			"it has the form postgres://user:password@host:5432/database?sslmode=verify-full")
	}
	if err := protected(cfg.ConnConfig); err != nil {
		return nil, err
	}
	if o.MaxConns == 0 {
		o.MaxConns = 12
	}
	cfg.MaxConns = o.MaxConns
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	cfg.ConnConfig.RuntimeParams["application_name"] = "trakr"
	cfg.ConnConfig.RuntimeParams["timezone"] = "UTC"
	// A forgotten transaction would block the sequencer (pg_snapshot_xmin).
	cfg.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "30s"
	if o.Role != "" {
		cfg.ConnConfig.RuntimeParams["role"] = o.Role
	}
	if o.Role == ServiceRole {
		// A session that locks the audit makes reads and callbacks wait; they must be
		// refused in time instead of piling up.
		cfg.ConnConfig.RuntimeParams["lock_timeout"] = "5s"
		cfg.AfterConnect = ensureEpoch
	}
	if o.Tracer != nil {
		cfg.ConnConfig.Tracer = newTracer(o.Tracer)
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("connecting to the database: %w", connectFault(err, o.Role))
	}
	// bun writes arguments into the statement itself, so prepared statements
	// would only churn.
	simple := cfg.ConnConfig.Copy()
	simple.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	var after []stdlib.OptionOpenDB
	if cfg.AfterConnect != nil {
		after = append(after, stdlib.OptionAfterConnect(cfg.AfterConnect))
	}
	sqldb := stdlib.OpenDB(*simple, after...)
	sqldb.SetMaxOpenConns(int(o.MaxConns))
	sqldb.SetMaxIdleConns(int(o.MaxConns))
	return &DB{pool: pool, bun: bun.NewDB(sqldb, pgdialect.New())}, nil
}

// ensureEpoch makes a connection's events sort after all before them, in a
// restored database too.
func ensureEpoch(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, `SELECT door.ensure_epoch()`)
	return err
}

// connectFault adds the way out where the database refuses the role.
func connectFault(err error, role string) error {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		switch refused.Code {
		case "22023": // the role does not exist
			return fmt.Errorf("the role %s does not exist there; run: trakr migrate", role)
		case "42501", "42883", "3F000": // may not act as it, or the door's functions are missing
			return fmt.Errorf("this login may not act as %s, or the tables are of another version (SQLSTATE %s); "+
				"run: trakr migrate, and see deploy/roles.sql", role, refused.Code)
		}
	}
	return err
}

// Close closes both pools.
func (d *DB) Close() {
	d.pool.Close()
	_ = d.bun.Close()
}

// Ping asks the database for an answer; failure is store-unavailable.
func (d *DB) Ping(ctx context.Context) error { return Map(d.pool.Ping(ctx)) }

// Pool returns the handle for the hot path.
func Pool(d *DB) *pgxpool.Pool { return d.pool }

// Bun returns the handle for everything else.
func Bun(d *DB) *bun.DB { return d.bun }

// txTimeout bounds one transaction of InTx: a longer one would delay the sequencer and
// every session that waits for its locks.
const txTimeout = 30 * time.Second

// InTx runs fn in one read-committed transaction. The work is done only when
// InTx returns nil: a failed COMMIT is an error too, audit-unavailable, because the
// event was not recorded.
func InTx(ctx context.Context, d *DB, fn func(ctx context.Context, tx bun.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, txTimeout)
	defer cancel()
	committing := false
	err := Map(d.bun.RunInTx(ctx, &sql.TxOptions{}, func(ctx context.Context, tx bun.Tx) error {
		err := fn(ctx, tx)
		committing = err == nil
		return err
	}))
	var refused *Refused
	if committing && errors.As(err, &refused) {
		return lifecycle.Fail(lifecycle.AuditUnavailable,
			"The act and its audit event could not be committed; nothing was changed. Try again later.",
			lifecycle.After(5*time.Second), lifecycle.Cause(err))
	}
	return err
}

// InSnapshot runs fn in one repeatable-read, read-only transaction, so that all
// its queries see the same moment.
func InSnapshot(ctx context.Context, d *DB, fn func(ctx context.Context, tx bun.Tx) error) error {
	return Map(d.bun.RunInTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}, fn))
}

// UTC is a time that may be NULL, in UTC.
func UTC(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}
