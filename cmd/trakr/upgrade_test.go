package main

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"trakr/internal/platform/devpg"
	"trakr/internal/store"
	"trakr/migrations"
)

// A service of an older version runs on its private PostgreSQL. A command of this version
// beside it changes none of its tables and says what to do; trakr migrate does it, too.
func TestACommandLeavesTheTablesOfARunningServiceAsTheyAre(t *testing.T) {
	m := newMachine(t)
	older, err := devpg.Start(t.Context(), m.server())
	must(t, err)
	defer func() { _ = older.Stop(t.Context()) }()
	names, err := fs.Glob(migrations.FS, "*.sql")
	must(t, err)
	before := fstest.MapFS{}
	for _, name := range names[:len(names)-1] {
		b, err := fs.ReadFile(migrations.FS, name)
		must(t, err)
		before[name] = &fstest.MapFile{Data: b}
	}
	_, err = store.MigrateFrom(t.Context(), older.URL(), before)
	must(t, err)

	if s := m.trakr(exitCannotTell, "sweep", "list"); !strings.Contains(s, "lacks 1 migration(s): the service that runs on it is older") {
		t.Error(s)
	}
	if s := m.trakr(exitClean, "migrate"); !strings.Contains(s, filepath.Base(names[len(names)-1])) {
		t.Errorf("the command before had applied it: %s", s)
	}
	m.trakr(exitClean, "sweep", "list")
}
