package devpg

import (
	"bufio"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

// The test binary also plays the service that gets killed: with this variable
// set it starts the server of that directory and waits for its end.
const (
	serviceVar  = "TRAKR_DEVPG_TEST_SERVICE"
	survivorVar = "TRAKR_DEVPG_TEST_SURVIVOR" // its server is not to end with it
)

// binDir is where the PostgreSQL of the tests is, as for the service.
var binDir = os.Getenv("TRAKR_POSTGRES_BIN")

func TestMain(m *testing.M) {
	if dir := os.Getenv(serviceVar); dir != "" {
		os.Exit(playService(dir))
	}
	goleak.VerifyTestMain(m)
}

func playService(dir string) int {
	if os.Getenv(survivorVar) != "" {
		letServerSurvive()
	}
	s, err := Start(context.Background(), Config{BinDir: binDir, DataDir: dir, Settings: hasty})
	if err != nil {
		slog.Error("service", "error", err)
		return 1
	}
	os.Stdout.WriteString("ready\n")
	<-s.Done()
	return 0
}

// mustService runs the test binary as a service on dir and returns its process
// once its server answers.
func mustService(t *testing.T, dir string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), serviceVar+"="+dir), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		t.Fatalf("the service did not start: %q, %v", line, err)
	}
	return cmd
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newDir is a data directory the server's user can reach, also when root runs the
// tests; t.TempDir's is closed to it.
func newDir(t *testing.T) string {
	t.Helper()
	base, err := os.MkdirTemp("", "devpg-")
	must(t, err)
	must(t, os.Chmod(base, 0o755))
	base, err = filepath.EvalSymlinks(base)
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(base)) })
	return filepath.Join(base, "data")
}

// testContext bounds a test; unlike t.Context it lives on in the clean-ups.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func mustStart(t *testing.T, c Config) *Server {
	t.Helper()
	if c.Settings == nil {
		c.Settings = hasty
	}
	ctx := testContext(t)
	s, err := Start(ctx, c)
	if err != nil {
		t.Fatalf("%v\nThe tests need PostgreSQL %d or newer: %s.", err, minMajor, installHint)
	}
	t.Cleanup(func() { must(t, s.Stop(ctx)) })
	return s
}

func mustStop(t *testing.T, s *Server) {
	t.Helper()
	must(t, s.Stop(testContext(t)))
}

func mustConnect(t *testing.T, s *Server) *pgx.Conn {
	t.Helper()
	ctx := testContext(t)
	db, err := pgx.Connect(ctx, s.URL())
	must(t, err)
	t.Cleanup(func() { _ = db.Close(ctx) })
	return db
}

func mustExec(t *testing.T, db *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(testContext(t), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func mustQuery(t *testing.T, db *pgx.Conn, sql string, args ...any) (text string) {
	t.Helper()
	if err := db.QueryRow(testContext(t), sql, args...).Scan(&text); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// serverPid is the process of the server that runs on a cluster.
func serverPid(t *testing.T, cluster string) int {
	t.Helper()
	pid, err := readPid(cluster)
	must(t, err)
	return pid
}

// mustBeGone fails when a process of the cluster is left after a while, be it
// the server or one of its children.
func mustBeGone(t *testing.T, cluster string) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if left = processesOf(t, cluster); len(left) == 0 {
			return
		}
	}
	t.Fatalf("processes of %s are left: %v", cluster, left)
}

// processesOf lists the processes whose arguments name the cluster; a child of
// the server changes its title, but its parent does not go before it.
func processesOf(t *testing.T, cluster string) (found []string) {
	t.Helper()
	out, err := exec.Command("ps", "-A", "-o", "pid=,stat=,args=").Output()
	must(t, err)
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if strings.Contains(line, cluster) && !strings.HasPrefix(fields[1], "Z") && fields[0] != strconv.Itoa(os.Getpid()) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	return info.Mode().Perm()
}

func mustContain(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q:\n%v", part, err)
		}
	}
}
