package storetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"trakr/deploy"
	"trakr/internal/platform/devpg"
	"trakr/internal/store"
	"trakr/migrations"
)

// ClustersVariable names the environment variable with the directory that keeps
// migrated clusters for the test binaries of one run, or of many. Without it, each
// test binary makes its own.
//
// The binaries copy a cluster; they do not share a running server. The audit is
// sequenced up to the oldest transaction of the whole server (pg_snapshot_xmin), so
// a test that keeps a transaction open would stop the sequencer of every other test,
// and roles belong to all databases of a server.
const ClustersVariable = "TRAKR_TEST_CLUSTERS"

// quick are the settings of a PostgreSQL for tests, which has no power failure to
// survive. Its databases are short-lived, so that autovacuum would only compete with
// the tests for the processor.
var quick = map[string]string{"max_connections": "200", "fsync": "off", "full_page_writes": "off", "autovacuum": "off"}

// prepared returns the data directory of a cluster without a running server, whose default
// database is migrated. Starts on a copy of it skip initdb and the migrations.
var prepared = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	dir, err := prepare(ctx, os.Getenv(ClustersVariable))
	if err != nil {
		return "", fmt.Errorf("preparing a cluster for tests: %w", err)
	}
	return dir, nil
})

// temporary is what prepared made for this test binary alone, for Main to remove.
var temporary string

func prepare(ctx context.Context, clusters string) (string, error) {
	if clusters == "" {
		dir, err := openDir("")
		if err != nil {
			return "", err
		}
		temporary = dir
		return dir, makeCluster(ctx, dir)
	}
	name, err := clusterName(ctx)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(clusters, 0o755); err != nil {
		return "", err
	}
	// One process makes it, the others wait: the lock ends with the process.
	lock, err := os.OpenFile(filepath.Join(clusters, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	final := filepath.Join(clusters, name)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	// Made elsewhere first: the server's user need not reach the directory, and a
	// cluster under its final name is complete.
	made, err := openDir("")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(made) }()
	if err := makeCluster(ctx, made); err != nil {
		return "", err
	}
	unfinished := final + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return "", err
	}
	if err := copyTree(made, unfinished); err != nil {
		return "", err
	}
	return final, os.Rename(unfinished, final)
}

// clusterName differs for each version of PostgreSQL, user, month (whose partitions
// the migrations make) and set of migrations, so that clones of different versions
// can use one directory.
func clusterName(ctx context.Context) (string, error) {
	bin, err := devpg.FindBinaries(os.Getenv("TRAKR_POSTGRES_BIN"))
	if err != nil {
		return "", err
	}
	version, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return "", fmt.Errorf("asking %s for its version: %w", bin, err)
	}
	names, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		return "", err
	}
	slices.Sort(names)
	digest := sha256.New()
	fmt.Fprintf(digest, "%s %s%d %s\n%s", bin, version, os.Geteuid(), time.Now().UTC().Format("2006-01"), deploy.Roles)
	for _, name := range names {
		text, err := fs.ReadFile(migrations.FS, name)
		if err != nil {
			return "", fmt.Errorf("reading a migration: %w", err)
		}
		fmt.Fprintf(digest, "%s %d\n%s", name, len(text), text)
	}
	return hex.EncodeToString(digest.Sum(nil)[:12]), nil
}

// makeCluster makes a migrated cluster in dir and stops its server.
func makeCluster(ctx context.Context, dir string) (err error) {
	server, err := startIn(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop(ctx)) }()
	if _, err := store.Migrate(ctx, server.URL()); err != nil {
		return err
	}
	_, err = server.LoginURL(ctx, store.ServiceRole)
	return err
}

func startIn(ctx context.Context, dir string) (*devpg.Server, error) {
	return devpg.Start(ctx, devpg.Config{
		DataDir: dir, BinDir: os.Getenv("TRAKR_POSTGRES_BIN"), Settings: quick, Logger: slog.New(slog.DiscardHandler),
	})
}

// CopyCluster puts a migrated cluster into dir, which must not exist, for a test
// that starts a server of its own there, as if one had been started and stopped
// before. The server does not flush to disk: a killed process loses nothing by that,
// only a power failure would.
func CopyCluster(t testing.TB, dir string) {
	t.Helper()
	from, err := prepared()
	if err == nil {
		err = copyTree(from, dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "cluster", "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("fsync = off\nfull_page_writes = off\n")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// openDir makes a temporary directory that the server's user can pass, who under
// root is another.
func openDir(parent string) (string, error) {
	dir, err := os.MkdirTemp(parent, "trakr-test-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o711)
}

// copyTree copies a directory with its modes and owners.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			err = os.MkdirAll(target, 0o700)
		case d.Type().IsRegular():
			err = copyFile(path, target)
		default:
			return fmt.Errorf("%s is neither a file nor a directory", path)
		}
		if err != nil {
			return err
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
			if err := os.Lchown(target, int(owner.Uid), int(owner.Gid)); err != nil {
				return err
			}
		}
		return os.Chmod(target, info.Mode().Perm())
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
