package devpg

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// marker stands for a tenant's value.
const marker = "MARKER-5f1d7c"

// Every way PostgreSQL knows to write a value into its log is provoked; none
// gets there.
func TestNoValueInServerLog(t *testing.T) {
	t.Parallel()
	c := Config{BinDir: binDir, DataDir: newDir(t)}
	s := mustStart(t, c)
	db := mustConnect(t, s)
	mustExec(t, db, `CREATE TABLE guarded (value text UNIQUE, amount int CHECK (amount > 0))`)
	mustExec(t, db, `INSERT INTO guarded VALUES ($1, 1)`, marker)
	mustExec(t, db, `CREATE FUNCTION fail(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not %', $1 USING DETAIL = $1, HINT = $1; END $$`)
	mustExec(t, db, `CREATE FUNCTION warn(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'beware %', $1; RETURN 1; END $$`)

	for name, provoke := range map[string]struct {
		sql  string
		args []any
	}{
		"a literal in a wrong statement":   {sql: `SELEC '` + marker + `'`},
		"a literal in the primary message": {sql: `SELECT '` + marker + `'::int`},
		"a parameter in the message":       {`SELECT $1::text::int`, []any{marker}},
		"the row of a unique violation":    {`INSERT INTO guarded VALUES ($1, 2)`, []any{marker}},
		"the row of a check violation":     {`INSERT INTO guarded VALUES ($1, -1)`, []any{marker + "2"}},
		"an unknown name":                  {sql: `SELECT "` + marker + `"`},
		"a function's exception":           {`SELECT fail($1)`, []any{marker}},
		"a statement that is cut":          {sql: `SET statement_timeout = 20; SELECT pg_sleep(5), '` + marker + `'`},
	} {
		if _, err := db.Exec(testContext(t), provoke.sql, provoke.args...); err == nil {
			t.Errorf("%s: no error; the test provokes nothing", name)
		}
	}
	mustExec(t, db, `SET statement_timeout = 0`)
	mustExec(t, db, `SELECT warn($1)`, marker)
	crashBackend(t, s)
	mustStop(t, s)

	log := mustRead(t, filepath.Join(c.DataDir, logName))
	if bytes.Contains(log, []byte(marker)) {
		t.Errorf("a value is in the server's log:\n%s", log)
	}
	if !bytes.Contains(log, []byte("was terminated by signal")) {
		t.Errorf("the log does not tell of the crash; it tells too little:\n%s", log)
	}
}

// crashBackend kills a session in the middle of a statement with a value in it;
// by default PostgreSQL logs which statement that was.
func crashBackend(t *testing.T, s *Server) {
	t.Helper()
	victim, err := pgx.Connect(testContext(t), s.URL())
	must(t, err)
	pid, err := strconv.Atoi(mustQuery(t, victim, `SELECT pg_backend_pid()::text`))
	must(t, err)
	ended := make(chan error, 1)
	ctx := testContext(t)
	go func() { _, err := victim.Exec(ctx, `SELECT pg_sleep(60), '`+marker+`'`); ended <- err }()
	watch := mustConnect(t, s)
	for mustQuery(t, watch, `SELECT count(*)::text FROM pg_stat_activity WHERE pid = $1 AND query LIKE '%pg_sleep%'`, pid) == "0" {
		time.Sleep(10 * time.Millisecond)
	}
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	if err := <-ended; err == nil {
		t.Error("the session survived; the test provokes nothing")
	}
	// The server restarts its sessions; a stop in the middle of that is no story of ours.
	if _, err := s.conn.waitReady(ctx, s.Done()); err != nil {
		t.Error(err)
	}
}

func TestLogIsRotatedAtStart(t *testing.T) {
	t.Parallel()
	p := &place{dir: t.TempDir()}
	path := p.file(logName)
	for _, step := range []struct {
		size    int64
		rotated bool
	}{{maxLogSize, false}, {maxLogSize + 1, true}} {
		must(t, os.WriteFile(path, nil, 0o600))
		must(t, os.Truncate(path, step.size))
		log, err := p.openLog()
		must(t, err)
		must(t, log.Close())
		if got := exists(path + ".1"); got != step.rotated {
			t.Errorf("at %d bytes: rotated is %v, want %v", step.size, got, step.rotated)
		}
	}
}

// A server that does not start says why, in its own last words.
func TestFailedStartShowsTheLog(t *testing.T) {
	t.Parallel()
	c := Config{BinDir: binDir, DataDir: newDir(t), Settings: map[string]string{"fsync": "off", "no_such_setting": "1"}}
	_, err := Start(testContext(t), c)
	mustContain(t, err, "ended before it was ready", "no_such_setting")
	if left := processesOf(t, c.DataDir); len(left) != 0 {
		t.Errorf("left running: %v", left)
	}
	c.Settings = hasty
	mustStart(t, c) // the failed one holds no lock
}

func TestFixedSettingsAreRefused(t *testing.T) {
	t.Parallel()
	faults := checkSettings(map[string]string{"LOG_Statement": "all", "listen_addresses": "*", "hba_file": "/x", "a b": "1", "work_mem": "1MB", "fsync": "off"})
	var text []string
	for _, fault := range faults {
		text = append(text, fault.Error())
	}
	got := strings.Join(text, "\n")
	want := "setting LOG_Statement is fixed for a private PostgreSQL\n" + `"a b" is not the name of a PostgreSQL setting` +
		"\nsetting hba_file is fixed for a private PostgreSQL\nsetting listen_addresses is fixed for a private PostgreSQL"
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestLastLines(t *testing.T) {
	t.Parallel()
	var long strings.Builder
	for i := range 40 {
		fmt.Fprintf(&long, "line %d\n", i)
	}
	for input, want := range map[string]string{
		"":            "",
		"\n \n":       "",
		"one\n":       "; it said last:\n\tone",
		long.String(): "; it said last:\n\tline 28\n",
	} {
		if got := lastLines([]byte(input)); !strings.HasPrefix(got, want) || (want == "") != (got == "") {
			t.Errorf("lastLines(%.20q) = %q, want %q", input, got, want)
		}
	}
}
