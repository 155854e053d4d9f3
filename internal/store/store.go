// Package store opens the one PostgreSQL database, migrates it, and takes locks
// on it. Its sub-packages are the aggregates; together they are the only place
// that knows SQL. The tenant's values have one door of their own: store/tenants.
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
	"github.com/uptrace/bun"

	"trakr/deploy"
	"trakr/internal/store/internal/pg"
	"trakr/migrations"
)

// DB is one open database. It has no exported way to run SQL.
type DB = pg.DB

// Options tune Open.
type Options = pg.Options

// Roles a connection can act as (deploy/roles.sql).
const (
	ServiceRole = pg.ServiceRole
	OwnerRole   = "trakr_owner"
)

// Lease is a leader lock; see TryLease.
type Lease = pg.Lease

// Open connects to the PostgreSQL at url.
func Open(ctx context.Context, url string, o Options) (*DB, error) { return pg.Open(ctx, url, o) }

// Hosts lists the hosts that a connection to url leads to, as it resolves; "" is a unix
// socket of this machine.
func Hosts(url string) ([]string, error) { return pg.Hosts(url) }

// TryLease takes the named leader lock on the primary when no other process has
// it. It does not wait.
func TryLease(ctx context.Context, db *DB, name string) (*Lease, bool, error) {
	return pg.TryLease(ctx, db, name)
}

// versionTable is where goose records the files that it applied. The baseline's first
// file marks it with a comment that begins with baselineMark.
const (
	versionTable = "trakr.schema_migrations"
	baselineMark = "baseline "
)

// ErrBeforeBaseline means that a version before the baseline made the database. Its
// numbers name other files, so nothing can be concluded from them.
var ErrBeforeBaseline = errors.New("this database was made by a version of trakr before the baseline of its migrations, " +
	"which this version cannot use; nothing of that kind was ever deployed. " +
	"Way out: start with a new, empty database (TRAKR_DATABASE_URL) and a new data directory " +
	"(TRAKR_DATA_DIR, and TRAKR_LEDGER where it is set), because the keys, the checkpoint and the ledger belong to the old database. " +
	"A newer database looks the same when its dump was restored without its comments: restore it with them")

// Migration is one numbered file and when it was applied; zero time means pending.
type Migration struct {
	Version   int64     `json:"version"`
	Name      string    `json:"name"`
	AppliedAt time.Time `json:"applied_at,omitzero"`
}

// Migrate applies what is pending in the database at url, under a lock that
// other processes wait for, and returns what it applied. Each file is one
// transaction. The login makes the roles first when it may (an administrator);
// then everything happens as the owner, whose member it must be.
func Migrate(ctx context.Context, url string) ([]Migration, error) {
	return MigrateFrom(ctx, url, migrations.FS)
}

// MigrateFrom is Migrate with other files: for tests that add a table as a
// later release would.
func MigrateFrom(ctx context.Context, url string, files fs.FS) ([]Migration, error) {
	if err := ensureRoles(ctx, url); err != nil {
		return nil, err
	}
	db, err := Open(ctx, url, Options{MaxConns: 2, Role: OwnerRole})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	if _, err = hasVersions(ctx, db); err != nil {
		return nil, err
	}
	p, err := provider(db, files)
	if err != nil {
		return nil, err
	}
	results, err := p.Up(ctx)
	var applied []Migration
	for _, r := range results {
		applied = append(applied, Migration{Version: r.Source.Version, Name: r.Source.Path, AppliedAt: time.Now().UTC()})
	}
	var partial *goose.PartialError
	if errors.As(err, &partial) {
		return applied, fmt.Errorf("migrating: %s failed and was rolled back: %w", partial.Failed.Source.Path, pg.Map(partial.Err))
	}
	if err != nil {
		return applied, fmt.Errorf("migrating: %w", pg.Map(err))
	}
	return applied, nil
}

// rolesOfLogin returns whether the login may create roles, and whether ours exist.
const rolesOfLogin = `SELECT (SELECT rolsuper OR rolcreaterole FROM pg_catalog.pg_roles WHERE rolname = current_user) AS may_create,
	(SELECT count(*) = 6 FROM pg_catalog.pg_roles
	WHERE rolname IN ('trakr_owner', 'trakr_door', 'trakr_sweep', 'trakr_service', 'trakr_reader', 'trakr_backup')) AS ready`

// ensureRoles runs roles.sql when the login may; else the roles must exist already.
func ensureRoles(ctx context.Context, url string) error {
	db, err := Open(ctx, url, Options{MaxConns: 1})
	if err != nil {
		return err
	}
	defer db.Close()
	var login struct{ MayCreate, Ready bool }
	if err = pg.Bun(db).NewRaw(rolesOfLogin).Scan(ctx, &login); err != nil {
		return fmt.Errorf("reading the database's roles: %w", pg.Map(err))
	}
	if !login.MayCreate {
		if !login.Ready {
			return errors.New("the database lacks Trakr's roles, and this login may not create them; " +
				"let an administrator run deploy/roles.sql there once")
		}
		return nil
	}
	err = pg.InTx(ctx, db, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewRaw(deploy.Roles).Exec(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("creating the database's roles (deploy/roles.sql): %w", err)
	}
	return nil
}

// Migrated reports whether any file was ever applied to a database.
func Migrated(ctx context.Context, url string) (bool, error) {
	db, err := Open(ctx, url, Options{MaxConns: 1})
	if err != nil {
		return false, err
	}
	defer db.Close()
	return hasVersions(ctx, db)
}

// Migrations lists every file with when it was applied.
func Migrations(ctx context.Context, db *DB) ([]Migration, error) {
	exists, err := hasVersions(ctx, db)
	if err != nil {
		return nil, err
	}
	p, err := provider(db, migrations.FS)
	if err != nil {
		return nil, err
	}
	var all []Migration
	if !exists { // asking goose would create the table
		for _, s := range p.ListSources() {
			all = append(all, Migration{Version: s.Version, Name: s.Path})
		}
		return all, nil
	}
	status, err := p.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the schema's version: %w", pg.Map(err))
	}
	for _, s := range status {
		all = append(all, Migration{Version: s.Source.Version, Name: s.Source.Path, AppliedAt: s.AppliedAt.UTC()})
	}
	return all, nil
}

// Pending lists the files that Migrate would apply.
func Pending(ctx context.Context, db *DB) ([]Migration, error) {
	all, err := Migrations(ctx, db)
	var pending []Migration
	for _, m := range all {
		if m.AppliedAt.IsZero() {
			pending = append(pending, m)
		}
	}
	return pending, err
}

// hasVersions reports whether any file was ever applied to the database. It fails with
// ErrBeforeBaseline where one was that is not of the baseline or later.
func hasVersions(ctx context.Context, db *DB) (bool, error) {
	var table struct{ Exists, Marked bool }
	err := pg.Bun(db).NewRaw(`SELECT o.oid IS NOT NULL AS exists,
			coalesce(starts_with(obj_description(o.oid, 'pg_class'), ?), false) AS marked
		FROM (SELECT to_regclass(?) AS oid) AS o`, baselineMark, versionTable).Scan(ctx, &table)
	if err != nil || !table.Exists || table.Marked {
		return table.Exists, pg.Map(err)
	}
	// goose creates the table, with version 0, before it applies the file that marks it.
	var older bool
	err = pg.Bun(db).NewRaw(`SELECT EXISTS (SELECT FROM trakr.schema_migrations WHERE version_id > 0)`).Scan(ctx, &older)
	if err == nil && older {
		return true, ErrBeforeBaseline
	}
	return true, pg.Map(err)
}

func provider(db *DB, files fs.FS) (*goose.Provider, error) {
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 60))
	if err != nil {
		return nil, fmt.Errorf("preparing the migration lock: %w", err)
	}
	versions, err := database.NewStore(goose.DialectPostgres, versionTable)
	if err != nil {
		return nil, fmt.Errorf("preparing the table of versions: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectCustom, pg.Bun(db).DB, files, goose.WithStore(versions),
		goose.WithSessionLocker(locker), goose.WithSlog(slog.New(slog.DiscardHandler)), goose.WithDisableGlobalRegistry(true),
		// Two branches may merge in another order than that of their files' numbers.
		goose.WithAllowOutofOrder(true))
	if err != nil {
		return nil, fmt.Errorf("reading the migrations: %w", err)
	}
	return p, nil
}
