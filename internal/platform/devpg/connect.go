package devpg

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"trakr/internal/lifecycle"
)

// This file is the package's only use of a database driver: whether the server
// answers, whether it is ours, whether the database exists. Everything else belongs
// to internal/store.

const (
	superuser   = "trakr"
	maintenance = "postgres" // the database every cluster has

	pollInterval   = 50 * time.Millisecond
	attemptTimeout = 5 * time.Second

	// SQLSTATEs (PostgreSQL manual, appendix A).
	invalidPassword      = "28P01"
	invalidAuthorization = "28000"
	cannotConnectNow     = "57P03" // starting up, shutting down, recovering
)

// errOtherServer means that the server which answered on the socket is not ours.
var errOtherServer = errors.New("the server that answers is not the one of this data directory")

// url renders a connection string. Everything is explicit, so that no PG*
// variable of the environment leads elsewhere; require_auth prevents that an
// impostor on the socket asks for the password in clear.
func (c connection) url(database string) string {
	return c.urlAs(superuser, c.password, database)
}

func (c connection) urlAs(user string, password lifecycle.Secret, database string) string {
	u := url.URL{
		Scheme: "postgres",
		User:   url.UserPassword(user, password.Reveal()),
		Path:   "/" + database,
		RawQuery: url.Values{
			"host":         {c.socketDir},
			"port":         {socketPort},
			"sslmode":      {"disable"},
			"require_auth": {"scram-sha-256"},
		}.Encode(),
	}
	return u.String()
}

// waitReady connects until the server answers, died is closed, or ctx ends, and
// returns the server's version. died may be nil.
func (c connection) waitReady(ctx context.Context, died <-chan struct{}) (string, error) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		version, err := c.identify(ctx)
		if err == nil || final(err, died == nil) {
			return version, err
		}
		select {
		case <-died:
			return "", errors.New("the server ended before it was ready")
		case <-ctx.Done():
			return "", fmt.Errorf("the server did not become ready: %w (last attempt: %w)", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// final reports whether trying again is pointless. A missing or refusing socket
// is a matter of time for a server we started, and an answer for one we look for.
func final(err error, looking bool) bool {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code == invalidPassword || pgErr.Code == invalidAuthorization
	}
	return errors.Is(err, errOtherServer) || looking && errors.Is(err, ErrNotRunning)
}

// identify connects once, makes sure the server is the one of c.cluster, and
// returns its version. Without a listener it fails with ErrNotRunning.
func (c connection) identify(ctx context.Context) (version string, err error) {
	err = c.with(ctx, maintenance, func(ctx context.Context, db *pgx.Conn) error {
		var dir string
		err := db.QueryRow(ctx, `SELECT current_setting('data_directory'), current_setting('server_version')`).Scan(&dir, &version)
		if err != nil {
			return fmt.Errorf("asking the server for its data directory: %w", err)
		}
		if resolved, err := filepath.EvalSymlinks(dir); err == nil {
			dir = resolved
		}
		if dir != c.cluster {
			return fmt.Errorf("%w: it works in %s, not in %s", errOtherServer, dir, c.cluster)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return shortVersion(version), nil
}

// ensureDatabase creates c.database when it is missing.
func (c connection) ensureDatabase(ctx context.Context) error {
	return c.with(ctx, maintenance, func(ctx context.Context, db *pgx.Conn) error {
		var exists bool
		err := db.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_database WHERE datname = $1)`, c.database).Scan(&exists)
		if err != nil {
			return fmt.Errorf("looking for database %s: %w", c.database, err)
		}
		if exists {
			return nil
		}
		if _, err := db.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{c.database}.Sanitize()); err != nil {
			return fmt.Errorf("creating database %s: %w", c.database, err)
		}
		return nil
	})
}

// ensureLogin lets a role log in with its password.
func (c connection) ensureLogin(ctx context.Context, role string, password lifecycle.Secret) error {
	return c.with(ctx, maintenance, func(ctx context.Context, db *pgx.Conn) error {
		// The password is hex, so it can be part of the statement, which takes no
		// parameters; the server logs no statement (serverSettings). One at a time: the
		// server refuses to change a role while another session changes it.
		_, err := db.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('trakr/login', 0)); "+
			"ALTER ROLE "+pgx.Identifier{role}.Sanitize()+" LOGIN PASSWORD '"+password.Reveal()+"'")
		if err != nil {
			return fmt.Errorf("letting the role %s log in: %w", role, err)
		}
		return nil
	})
}

// with runs f on one short-lived connection. Creating a database copies files,
// so only connecting is bounded tighter than ctx.
func (c connection) with(ctx context.Context, database string, f func(context.Context, *pgx.Conn) error) error {
	config, err := pgx.ParseConfig(c.url(database))
	if err != nil {
		// The driver's text repeats the string it could not parse.
		return errors.New("building the connection string for the private PostgreSQL failed")
	}
	config.ConnectTimeout = attemptTimeout
	db, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return connectError(err, c)
	}
	defer func() { _ = db.Close(context.WithoutCancel(ctx)) }()
	return f(ctx, db)
}

func connectError(err error, c connection) error {
	var pgErr *pgconn.PgError
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nothing listens in %s", ErrNotRunning, c.socketDir)
	case errors.As(err, &pgErr) && pgErr.Code == invalidPassword:
		return fmt.Errorf("the password file does not fit the cluster in %s; restore the one it was made with: %w", c.cluster, pgErr)
	case errors.As(err, &pgErr) && pgErr.Code == cannotConnectNow:
		return pgErr // its own text suffices: "the database system is starting up"
	}
	return fmt.Errorf("connecting to the private PostgreSQL: %w", err)
}
