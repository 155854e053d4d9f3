package devpg

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A first start makes everything, a stop leaves no process, a second start has
// the data of the first.
func TestFirstAndSecondStart(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	c := Config{BinDir: binDir, DataDir: newDir(t), Database: `odd "name"`, Settings: map[string]string{"work_mem": "5MB"},
		Logger: slog.New(slog.NewTextHandler(&log, nil))}
	s := mustStart(t, c)
	db := mustConnect(t, s)
	mustExec(t, db, `CREATE TABLE kept (word text)`)
	mustExec(t, db, `INSERT INTO kept VALUES ('still here')`)

	for setting, want := range map[string]string{
		"listen_addresses": "", "fsync": "on", "synchronous_commit": "on", "data_checksums": "on", "TimeZone": "UTC",
		"server_encoding": "UTF8", "work_mem": "5MB", "max_connections": "60",
	} {
		if got := mustQuery(t, db, `SELECT current_setting($1)`, setting); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
	if got := mustQuery(t, db, `SELECT datcollate FROM pg_database WHERE datname = current_database()`); got != "C" {
		t.Errorf("the collation is %q, want C", got)
	}
	if got := mustQuery(t, db, `SELECT string_agg(DISTINCT auth_method, ',') FROM pg_hba_file_rules`); got != "scram-sha-256" {
		t.Errorf("the server lets in by %q", got)
	}
	for path, want := range map[string]os.FileMode{
		filepath.Join(c.DataDir, passwordName): 0o600, filepath.Join(c.DataDir, logName): 0o600,
		s.SocketDir(): 0o700, s.DataDirectory(): 0o700, filepath.Join(s.SocketDir(), ".s.PGSQL.5432"): 0o700,
	} {
		if got := mode(t, path); got != want {
			t.Errorf("%s has mode %04o, want %04o", path, got, want)
		}
	}
	password := strings.TrimSpace(string(mustRead(t, filepath.Join(c.DataDir, passwordName))))
	if len(password) != 64 || !strings.Contains(s.URL(), password) {
		t.Error("the password is not 256 bits in hexadecimal")
	}
	for _, shown := range []string{fmt.Sprintf("%v %+v %#v %s", s, s, s, s), log.String(), strings.Join(processesOf(t, s.DataDirectory()), "\n")} {
		if strings.Contains(shown, password) {
			t.Errorf("the password is shown: %s", shown)
		}
	}
	if !strings.Contains(log.String(), "initialising a private PostgreSQL") || !strings.Contains(log.String(), `ready" version=`+s.Version()) {
		t.Errorf("the log does not tell the start: %s", log.String())
	}
	// The terminal's Ctrl-C goes to a whole process group; the server is not in ours.
	if pid := serverPid(t, s.DataDirectory()); pid != mustGroup(t, pid) {
		t.Errorf("the server is in process group %d", mustGroup(t, pid))
	}
	leftovers(t, c.DataDir, ".initdb-password", unfinishedCluster, unfinishedPassword)

	mustStop(t, s)
	mustBeGone(t, s.DataDirectory())
	if err := s.Err(); err != nil {
		t.Errorf("an orderly stop is reported as %v", err)
	}
	mustStop(t, s) // a second one does nothing
	if log := mustRead(t, filepath.Join(c.DataDir, logName)); !bytes.Contains(log, []byte("database system is shut down")) {
		t.Errorf("the server was not shut down in order:\n%s", log)
	}

	s = mustStart(t, c)
	if got := mustQuery(t, mustConnect(t, s), `SELECT word FROM kept`); got != "still here" {
		t.Errorf("after the second start: %q", got)
	}
}

// The server listens on its unix socket and nowhere else.
func TestNoTCP(t *testing.T) {
	t.Parallel()
	s := mustStart(t, Config{BinDir: binDir, DataDir: newDir(t)})
	if got := mustQuery(t, mustConnect(t, s), `SELECT coalesce(inet_server_addr()::text, 'unix')`); got != "unix" {
		t.Errorf("connected over %s", got)
	}
	if ports := tcpSockets(t, serverPid(t, s.DataDirectory())); len(ports) != 0 {
		t.Errorf("the server holds TCP sockets: %v", ports)
	}
}

func TestTwoStartsCollide(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	mustStart(t, Config{BinDir: binDir, DataDir: dir})
	_, err := Start(testContext(t), Config{BinDir: binDir, DataDir: dir})
	if !errors.Is(err, ErrInUse) {
		t.Fatalf("got %v, want ErrInUse", err)
	}
	mustContain(t, err, fmt.Sprintf("process %d", os.Getpid()), dir, "TRAKR_DATA_DIR")
}

// A command beside the service uses its server, and leaves it running.
func TestAttach(t *testing.T) {
	t.Parallel()
	c := Config{BinDir: binDir, DataDir: newDir(t)}
	attach := func() (*Server, error) { return Attach(testContext(t), c) }
	if _, err := attach(); !errors.Is(err, ErrNotRunning) {
		t.Fatalf("without a data directory: %v, want ErrNotRunning", err)
	}
	if _, err := os.Stat(c.DataDir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("Attach made a data directory")
	}
	s := mustStart(t, c)
	beside, err := attach()
	must(t, err)
	if beside.DataDirectory() != s.DataDirectory() || beside.URL() != s.URL() || beside.Version() != s.Version() {
		t.Errorf("attached to %v, want %v", beside, s)
	}
	if beside.Done() != nil || beside.Err() != nil {
		t.Error("an attached server claims to know of its end")
	}
	mustStop(t, beside)
	mustQuery(t, mustConnect(t, s), `SELECT 'alive'`)

	mustStop(t, s)
	if _, err := attach(); !errors.Is(err, ErrNotRunning) {
		t.Fatalf("after the stop: %v, want ErrNotRunning", err)
	}
}

// A server that dies under the service is reported; the next start recovers.
func TestServerDies(t *testing.T) {
	t.Parallel()
	c := Config{BinDir: binDir, DataDir: newDir(t)}
	s := mustStart(t, c)
	mustExec(t, mustConnect(t, s), `CREATE TABLE kept AS SELECT 'committed' AS word`)
	if err := s.Err(); err != nil {
		t.Fatalf("a running server has ended: %v", err)
	}
	must(t, syscall.Kill(serverPid(t, s.DataDirectory()), syscall.SIGKILL))
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("nobody noticed the server's end")
	}
	mustContain(t, s.Err(), "killed", "it said last")
	mustStop(t, s)
	if s.Err() == nil {
		t.Error("Stop made the cause forgotten")
	}
	// A backend of the killed server can be alive for a moment, and PostgreSQL starts no
	// other one beside it; the service tries again, too.
	var err error
	for range 50 {
		if s, err = Start(testContext(t), c); err == nil || !strings.Contains(err.Error(), "pre-existing shared memory block") {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	must(t, err)
	t.Cleanup(func() { mustStop(t, s) })
	if got := mustQuery(t, mustConnect(t, s), `SELECT word FROM kept`); got != "committed" {
		t.Errorf("after the crash: %q", got)
	}
}

func TestTemporaryLeavesNothing(t *testing.T) {
	t.Parallel()
	s, err := Temporary(testContext(t), Config{BinDir: binDir})
	must(t, err)
	mustQuery(t, mustConnect(t, s), `SELECT 'alive'`)
	dir := filepath.Dir(s.DataDirectory())
	mustStop(t, s)
	mustBeGone(t, dir)
	for _, path := range []string{dir, s.SocketDir()} {
		if exists(path) {
			t.Errorf("%s is left", path)
		}
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return data
}

// leftovers fails for each of the names, or hidden file, that is in dir.
func leftovers(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, entry := range entries {
		for _, name := range append(names, ".") {
			if strings.HasPrefix(entry.Name(), name) {
				t.Errorf("%s is left in %s", entry.Name(), dir)
			}
		}
	}
}

func mustGroup(t *testing.T, pid int) int {
	t.Helper()
	group, err := syscall.Getpgid(pid)
	must(t, err)
	return group
}

// A server whose postmaster was killed comes back on the same socket with what
// was committed; a caller that asks too early, or after the stop, is told.
func TestRestartAfterTheServerDied(t *testing.T) {
	t.Parallel()
	c := Config{BinDir: binDir, DataDir: newDir(t)}
	s := mustStart(t, c)
	db := mustConnect(t, s)
	mustExec(t, db, `CREATE TABLE kept (word text)`)
	mustExec(t, db, `INSERT INTO kept VALUES ('still here')`)
	if err := s.Restart(t.Context()); err == nil {
		t.Error("a running server was started a second time")
	}
	if err := syscall.Kill(s.proc.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	url := s.URL()
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.URL() != url || s.Err() != nil {
		t.Errorf("another address, or it still counts as dead: %v", s.Err())
	}
	if got := mustQuery(t, mustConnect(t, s), `SELECT word FROM kept`); got != "still here" {
		t.Errorf("after the restart: %q", got)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err == nil {
		t.Error("a stopped server was started again")
	}
}

// Commands that are started together each let the role log in.
func TestManyLetARoleLogInAtOnce(t *testing.T) {
	t.Parallel()
	s := mustStart(t, Config{BinDir: binDir, DataDir: newDir(t), Database: "trakr"})
	mustExec(t, mustConnect(t, s), `CREATE ROLE guest`)
	failed := make(chan error, 8)
	for range cap(failed) {
		go func() {
			for range 20 {
				if _, err := s.LoginURL(t.Context(), "guest"); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}
