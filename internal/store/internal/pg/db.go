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
}

const connectTimeout = 5 * time.Second

// Open connects to the PostgreSQL at url and checks that it answers. The error
// names host and database, never the password.
func Open(ctx context.Context, url string, o Options) (*DB, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		// The parser's own error repeats the URL with its password removed by
		// best effort only; do not rely on that.
		return nil, fmt.Errorf("the database URL cannot be read: it has the form postgres://user:password@host:5432/database?sslmode=verify-full")
	}
	if o.MaxConns == 0 {
		o.MaxConns = 12
	}
	cfg.MaxConns = o.MaxConns
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	cfg.ConnConfig.RuntimeParams["application_name"] = "trakr"
	cfg.ConnConfig.RuntimeParams["timezone"] = "UTC"
	if o.Tracer != nil {
		cfg.ConnConfig.Tracer = newTracer(o.Tracer)
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("connecting to the database: %w", err)
	}
	// bun writes arguments into the statement itself, so prepared statements
	// would only churn.
	simple := cfg.ConnConfig.Copy()
	simple.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	sqldb := stdlib.OpenDB(*simple)
	sqldb.SetMaxOpenConns(int(o.MaxConns))
	sqldb.SetMaxIdleConns(int(o.MaxConns))
	return &DB{pool: pool, bun: bun.NewDB(sqldb, pgdialect.New())}, nil
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

// InTx runs fn in one read-committed transaction. The work is done only when
// InTx returns nil: a failed COMMIT is an error too, audit-unavailable, since
// what was to be recorded is not.
func InTx(ctx context.Context, d *DB, fn func(ctx context.Context, tx bun.Tx) error) error {
	committing := false
	err := Map(d.bun.RunInTx(ctx, &sql.TxOptions{}, func(ctx context.Context, tx bun.Tx) error {
		err := fn(ctx, tx)
		committing = err == nil
		return err
	}))
	var refused *Refused
	if committing && errors.As(err, &refused) {
		return lifecycle.Fail(lifecycle.AuditUnavailable, "The act and its audit event could not be committed; nothing was changed. Try again later.",
			lifecycle.After(5*time.Second), lifecycle.Cause(err))
	}
	return err
}

// InSnapshot runs fn in one repeatable-read, read-only transaction, so that all
// its queries see the same moment.
func InSnapshot(ctx context.Context, d *DB, fn func(ctx context.Context, tx bun.Tx) error) error {
	return Map(d.bun.RunInTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}, fn))
}
