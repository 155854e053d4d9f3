package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"trakr/internal/drift"
	"trakr/internal/lifecycle"
	"trakr/internal/platform/config"
	"trakr/internal/platform/devpg"
	"trakr/internal/store"
	"trakr/internal/store/census"
	"trakr/internal/store/guard"
	"trakr/policy"
)

// postgresWait is how long a process waits for another one to release the private
// PostgreSQL.
const postgresWait = 15 * time.Second

// server is where the database runs: the operator's own, or the private PostgreSQL.
type server struct {
	cfg     config.Config
	log     *slog.Logger
	private *devpg.Server // nil with a database of the operator's own
}

// openServer finds the configured database, and starts the private PostgreSQL, or
// attaches to the running one, where none is configured.
func openServer(ctx context.Context, cfg config.Config, log *slog.Logger, how postgresStart) (*server, error) {
	s := &server{cfg: cfg, log: log}
	if !cfg.DatabaseURL.Empty() {
		return s, nil
	}
	var err error
	s.private, err = startPrivate(ctx, cfg, log, how)
	return s, err
}

// startPrivate starts the private PostgreSQL, or attaches to the one that runs.
func startPrivate(ctx context.Context, cfg config.Config, log *slog.Logger, how postgresStart) (*devpg.Server, error) {
	c := devpg.Config{DataDir: filepath.Join(cfg.DataDir, "postgres"), BinDir: cfg.PostgresBin, Logger: log}
	// Another command may have started it for its own time, or be starting or stopping
	// it at this moment. None of these is final, so the question is repeated for a while.
	begin, logged := time.Now(), false
	for {
		if how != startOnly {
			found, err := devpg.Attach(ctx, c)
			if how == attachOnly || !errors.Is(err, devpg.ErrNotRunning) {
				return found, err
			}
		}
		started, err := devpg.Start(ctx, c)
		if !errors.Is(err, devpg.ErrInUse) || time.Since(begin) > postgresWait {
			return started, err
		}
		if !logged {
			logged = true
			log.Info("the private PostgreSQL is in use by another process; waiting for it to end")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// serviceURL returns where the service's role connects. The tables of the private
// PostgreSQL are brought to this version first.
func (s *server) serviceURL(ctx context.Context) (string, error) {
	if s.private == nil {
		return s.cfg.DatabaseURL.Reveal(), nil
	}
	if err := s.migratePrivate(ctx); err != nil {
		return "", err
	}
	return s.private.LoginURL(ctx, store.ServiceRole)
}

// migratePrivate brings the tables of the private PostgreSQL to this version. Tables
// that another process, perhaps of an older version, works on are left as they are;
// checkSchema reports later that this process cannot work with them.
func (s *server) migratePrivate(ctx context.Context) error {
	if s.private.Attached() {
		begun, err := store.Migrated(ctx, s.private.URL())
		if err != nil || begun {
			return err
		}
	}
	_, err := store.Migrate(ctx, s.private.URL())
	return err
}

// stop ends the private PostgreSQL, if this process started it.
func (s *server) stop() {
	if s.private == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.private.Stop(ctx); err != nil {
		s.log.Error("the private PostgreSQL did not stop", "error", err)
	}
}

// checkSchema refuses tables of another version.
func (s *server) checkSchema(ctx context.Context, db *store.DB) error {
	pending, err := store.Pending(ctx, db)
	switch {
	case err != nil || len(pending) == 0:
	case s.private != nil && s.private.Attached():
		return fmt.Errorf("the database lacks %d migration(s): the service that runs on it is older than this program; "+
			"start this version of it instead, which applies them", len(pending))
	default:
		return fmt.Errorf("the database lacks %d migration(s); run: trakr migrate", len(pending))
	}
	return err
}

// checkGuards refuses a database whose catalog is not the one the promises rest on.
func checkGuards(ctx context.Context, db *store.DB) error {
	controls, err := guard.Check(ctx, db)
	if err != nil {
		return err
	}
	return guard.Refusal(controls)
}

// checkCatalog refuses a table or column that the policy does not declare: it could
// keep what no erasure knows.
func checkCatalog(ctx context.Context, p *policy.Policy, s *census.Store) error {
	tables, err := s.Catalog(ctx)
	if err != nil {
		return err
	}
	return refuseUndeclared(p, drift.Facts{Tables: tables})
}

// refuseUndeclared refuses to start with what the policy does not declare.
func refuseUndeclared(p *policy.Policy, f drift.Facts) error {
	return drift.Refusal(p, drift.Compare(p, f))
}

// Owner is the database as the owner of its tables sees it, for the commands that change
// tables: migrate and expire. Close it in the end.
type Owner struct {
	URL    string
	server *server
}

// OpenOwner finds the database for the owner of its tables: TRAKR_MIGRATION_DATABASE_URL,
// else TRAKR_DATABASE_URL, else the private PostgreSQL.
func OpenOwner(ctx context.Context, cfg config.Config) (*Owner, error) {
	o := &Owner{server: &server{cfg: cfg, log: slog.New(slog.DiscardHandler)}}
	for _, configured := range []lifecycle.Secret{cfg.MigrationDatabaseURL, cfg.DatabaseURL} {
		if !configured.Empty() {
			o.URL = configured.Reveal()
			return o, nil
		}
	}
	var err error
	if o.server.private, err = startPrivate(ctx, cfg, o.server.log, attachOrStart); err != nil {
		return nil, err
	}
	o.URL = o.server.private.URL()
	return o, nil
}

// CheckSchema refuses tables of another version.
func (o *Owner) CheckSchema(ctx context.Context, db *store.DB) error {
	return o.server.checkSchema(ctx, db)
}

// Close stops the private PostgreSQL, if OpenOwner started it.
func (o *Owner) Close() { o.server.stop() }
