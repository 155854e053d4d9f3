package store_test

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/guard"
	"trakr/internal/store/storetest"
	"trakr/migrations"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

func TestAConnectionThatCouldBeReadOnTheWayIsRefused(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	// The address is reserved for documentation (RFC 5737): nothing answers there,
	// and nothing is sent when the rule holds.
	for _, url := range []string{
		"postgres://u:p@192.0.2.1/t", "postgres://u:p@192.0.2.1/t?sslmode=disable", "postgres://u:p@192.0.2.1/t?sslmode=prefer",
		"postgres:///t?host=192.0.2.1&sslmode=disable", "postgres://localhost/t?host=192.0.2.1&sslmode=disable", "postgres://u@127.0.0.1/t?host=/run/x,192.0.2.1&sslmode=disable",
	} {
		if _, err := store.Open(ctx, url, store.Options{}); err == nil || !strings.Contains(err.Error(), "in clear") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestALockedAuditRefusesInTimeInsteadOfHanging(t *testing.T) {
	e := storetest.New(t)
	id := e.Install(storetest.Values("x"), "x")
	release, err := e.Hold(`LOCK TABLE trakr.audit_events IN ACCESS EXCLUSIVE MODE`)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for name, act := range map[string]func() error{
		"read": func() error { _, err := e.Door.Read(ctx, storetest.Service(), id, lifecycle.Username); return err },
		"denial": func() error {
			return e.Log.Record(ctx, audit.New(ctx, e.Clock.Now(), storetest.Service(), audit.TenantRead, audit.Denied))
		},
	} {
		if err := act(); !errors.Is(err, lifecycle.StoreUnavailable) && !errors.Is(err, lifecycle.AuditUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		if ctx.Err() != nil {
			t.Fatalf("%s: not refused within the time budget", name)
		}
	}
	release()
	if _, err := e.Door.Read(t.Context(), storetest.Service(), id, lifecycle.Username); err != nil {
		t.Errorf("after the lock is gone: %v", err)
	}
}

func TestMigratingAgainChangesNothingAndALesserLoginIsToldTheWay(t *testing.T) {
	e := storetest.New(t)
	applied, err := store.Migrate(t.Context(), e.URL)
	if err != nil || len(applied) != 0 {
		t.Errorf("%v, %v", applied, err)
	}
	if _, err := store.Migrate(t.Context(), storetest.ServiceURL(t, e.URL)); err == nil || !strings.Contains(err.Error(), "roles.sql") {
		t.Errorf("the service's own login migrated: %v", err)
	}
}

// Two branches' migrations met in another order than their numbers: a database that has
// the later one takes the earlier one too, and ends as any other.
func TestADatabaseOfAnUnmergedVersionIsBroughtUp(t *testing.T) {
	e := storetest.New(t)
	e.Exec(`CREATE DATABASE unmerged`)
	t.Cleanup(func() { e.Exec(`DROP DATABASE unmerged WITH (FORCE)`) })
	at := storetest.Must(t)(url.Parse(e.URL)).(*url.URL)
	at.Path = "/unmerged"
	had := fstest.MapFS{}
	for _, name := range storetest.Must(t)(fs.Glob(migrations.FS, "*.sql")).([]string) {
		if name < "00021" && !strings.HasPrefix(name, "00019") {
			had[name] = &fstest.MapFile{Data: storetest.Must(t)(fs.ReadFile(migrations.FS, name)).([]byte)}
		}
	}
	if _, err := store.MigrateFrom(t.Context(), at.String(), had); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Migrate(t.Context(), at.String()); err != nil {
		t.Fatal(err)
	}
	db := storetest.Must(t)(store.Open(t.Context(), at.String(), store.Options{MaxConns: 2, Role: store.ServiceRole})).(*store.DB)
	defer db.Close()
	if left, err := store.Pending(t.Context(), db); err != nil || len(left) != 0 {
		t.Errorf("pending: %v, %v", left, err)
	}
	controls, err := guard.Check(t.Context(), db)
	if err = errors.Join(err, guard.Refusal(controls)); err != nil {
		t.Error(err)
	}
}
