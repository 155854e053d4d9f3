package storetest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"trakr/internal/platform/devpg"
	"trakr/internal/store"
)

// instance is the PostgreSQL of a test binary. Its default database is the template
// of the tests' databases.
type instance struct {
	dir     string
	server  *devpg.Server
	service string // connection string of the service's login, to the default database

	mu    sync.Mutex // guards admin
	admin *pgx.Conn  // the superuser's, to the maintenance database
}

var (
	running instance
	start   = sync.OnceValue(running.start)
	counter atomic.Int64
)

// Main runs a package's tests and stops the server they used. Call it from
// TestMain: os.Exit(storetest.Main(m)).
func Main(m *testing.M) int {
	code := m.Run()
	if err := running.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the test server:", err)
		code = 1
	}
	if temporary != "" {
		_ = os.RemoveAll(temporary)
	}
	return code
}

func (i *instance) start() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	from, err := prepared()
	if err != nil {
		return err
	}
	if i.dir, err = openDir(""); err != nil {
		return err
	}
	if err = copyTree(from, i.dir); err != nil {
		return err
	}
	if i.server, err = startIn(ctx, i.dir); err != nil {
		return err
	}
	if i.service, err = i.server.LoginURL(ctx, store.ServiceRole); err != nil {
		return err
	}
	if i.admin, err = pgx.Connect(ctx, i.url("postgres")); err != nil {
		return fmt.Errorf("connecting to the test server: %w", err)
	}
	return nil
}

func (i *instance) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if i.admin != nil {
		_ = i.admin.Close(ctx)
	}
	if i.server != nil {
		if err := i.server.Stop(ctx); err != nil {
			return err
		}
	}
	if i.dir == "" {
		return nil
	}
	return os.RemoveAll(i.dir)
}

// url returns the superuser's connection string of a database.
func (i *instance) url(database string) string {
	return strings.Replace(i.server.URL(), "/"+devpg.DefaultDatabase+"?", "/"+database+"?", 1)
}

// do runs statements that cannot share a transaction.
func (i *instance) do(statements ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, sql := range statements {
		if _, err := i.admin.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// URL returns the superuser's connection string of a fresh, migrated database
// that is dropped when the test ends.
func URL(t testing.TB) string {
	t.Helper()
	if err := start(); err != nil {
		t.Fatalf("the tests need a private PostgreSQL: %v", err)
	}
	evidence(t)
	name := fmt.Sprintf("t%d", counter.Add(1))
	err := running.do(
		// The server does not flush, so copying files is the quicker way.
		"CREATE DATABASE "+name+" STRATEGY FILE_COPY TEMPLATE "+devpg.DefaultDatabase,
		// A template's own grants are not copied; these are those of deploy/roles.sql.
		"REVOKE ALL ON DATABASE "+name+" FROM PUBLIC; GRANT CREATE ON DATABASE "+name+" TO trakr_owner;"+
			"GRANT CONNECT ON DATABASE "+name+" TO trakr_owner, trakr_service, trakr_reader, trakr_backup")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := running.do("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return running.url(name)
}

// ServiceURL is the same database as the running service logs in.
func ServiceURL(t testing.TB, url string) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Replace(running.service, "/"+devpg.DefaultDatabase+"?", "/"+cfg.Database+"?", 1)
}

// DataDirectory is the directory of the server's files, the write-ahead log included.
func DataDirectory() string { return running.server.DataDirectory() }

// superuser keeps one connection of the superuser open over many calls: a new one
// costs more than most statements. A call gets it as a new connection would be.
type superuser struct {
	mu   sync.Mutex
	conn *pgx.Conn
}

// with runs f on the connection, or on another one while that is in use.
func (s *superuser) with(url string, f func(context.Context, *pgx.Conn) error) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if !s.mu.TryLock() {
		other := &superuser{}
		defer other.close()
		return other.with(url, f)
	}
	defer s.mu.Unlock()
	if s.conn != nil { // a test may have ended the session, or set something in it
		if _, err := s.conn.Exec(ctx, "DISCARD ALL"); err != nil {
			_ = s.conn.Close(ctx)
			s.conn = nil
		}
	}
	if s.conn == nil {
		config, err := pgx.ParseConfig(url)
		if err != nil {
			return err
		}
		config.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec // DISCARD ALL drops prepared statements
		if s.conn, err = pgx.ConnectConfig(ctx, config); err != nil {
			return err
		}
	}
	return f(ctx, s.conn)
}

func (s *superuser) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.Close(context.Background())
		s.conn = nil
	}
}
