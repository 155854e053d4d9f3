package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"trakr/internal/store/storetest"
)

// TestMain lets the test binary be the program itself, so that it can be killed.
func TestMain(m *testing.M) {
	if os.Getenv("TRAKR_TEST_BE_TRAKR") != "" {
		mainWith(killAfter)
		return
	}
	os.Exit(storetest.Main(m))
}

// machine is one installation: a data directory and free ports.
type machine struct {
	t    *testing.T
	dir  string
	env  []string
	api  string
	pub  string
	priv string
	keys string // file of the keyring; "" for the one in the data directory
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	// In TMPDIR, which make test puts in memory; t.TempDir is on the disk.
	dir, err := os.MkdirTemp("", "trakr-machine-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil { // the database's user must get through
		t.Fatal(err)
	}
	m := &machine{t: t, dir: dir, api: freePort(t), pub: freePort(t), priv: freePort(t)}
	m.env = append(os.Environ(), "TRAKR_TEST_BE_TRAKR=1", "TRAKR_DATA_DIR="+filepath.Join(m.dir, "data"), "TRAKR_LISTEN="+m.pub,
		"TRAKR_ADMIN_LISTEN="+m.priv, "TRAKR_BITBUCKET_API_URL=http://"+m.api)
	return m
}

// usedMachine is a machine whose private PostgreSQL was started before, so that a
// start need not make it.
func usedMachine(t *testing.T) *machine {
	t.Helper()
	m := newMachine(t)
	if err := os.Mkdir(filepath.Join(m.dir, "data"), 0o711); err != nil {
		t.Fatal(err)
	}
	storetest.CopyCluster(t, filepath.Join(m.dir, "data/postgres"))
	return m
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// trakr runs one command to its end.
func (m *machine) trakr(want int, args ...string) string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, os.Args[0], args...)
	c.Env, c.Dir = m.env, m.dir
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	if c.ProcessState.ExitCode() != want {
		m.t.Fatalf("trakr %s: exit %d, want %d\n%s%s", strings.Join(args, " "), c.ProcessState.ExitCode(), want, out.String(), errs.String())
	}
	return out.String() + errs.String()
}

// console is what a process printed, readable while it runs.
type console struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.Write(b)
}

// String returns what was printed so far.
func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.String()
}

// serve starts the service and waits until it is ready.
func (m *machine) serve() (*exec.Cmd, *console) {
	m.t.Helper()
	c := exec.Command(os.Args[0], "serve", "--dev")
	c.Env, c.Dir = m.env, m.dir
	out := &console{}
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = c.Process.Signal(os.Interrupt)
		_, _ = c.Process.Wait()
	})
	for range 600 {
		if resp, err := http.Get("http://" + m.priv + "/readyz"); err == nil {
			b, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return c, out
			}
			_ = b
		}
		time.Sleep(100 * time.Millisecond)
	}
	m.t.Fatalf("the service did not become ready:\n%s", out.String())
	return nil, nil
}

// postmaster returns the process id of the private PostgreSQL.
func (m *machine) postmaster() int {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.dir, "data/postgres/cluster/postmaster.pid"))
	if err != nil {
		m.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.SplitN(string(b), "\n", 2)[0])
	if err != nil {
		m.t.Fatal(err)
	}
	return pid
}

func gone(pid int) bool {
	for range 100 {
		if syscall.Kill(pid, 0) != nil {
			return true
		}
		time.Sleep(100 * time.Millisecond)
	}
	return false
}

func TestAnOperatorsDay(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	service, out := m.serve()
	for _, want := range []string{m.pub, m.priv, "For development only", "Next, in a second shell", "mode 0600"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the notice lacks %q:\n%s", want, out.String())
		}
	}
	if st, err := os.Stat(filepath.Join(m.dir, "data/keys.json")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("keys: %v %v", st, err)
	}
	at := []string{"--target", "http://" + m.pub, "--admin", "http://" + m.priv, "--api", m.api}
	sim := m.trakr(exitClean, append([]string{"simulate", "--installs", "6", "--uninstalls", "3", "--reads", "8", "--repeats", "4", "--replays", "4", "--forgeries", "18", "--json"}, at...)...)
	var sum struct {
		Live, Uninstalled int
		Steps             []struct {
			Name                    string
			Sent, Accepted, Refused int
		}
	}
	if err := json.Unmarshal([]byte(sim[strings.Index(sim, "{"):]), &sum); err != nil || sum.Live != 3 || sum.Uninstalled != 3 || len(sum.Steps) != 9 {
		t.Errorf("%v: %s", err, sim)
	}
	if s := m.trakr(exitClean, "sweep", "run", "orphans"); !strings.Contains(s, "clean") || !strings.Contains(s, "trakr.tenant_fields") {
		t.Error(s)
	}
	for kind, says := range map[string]string{"retention": "within the period", "integrity": "control: triggers", "minimisation": "not searched: encrypted; checked before it was stored"} {
		if s := m.trakr(exitClean, "sweep", "run", kind); !strings.Contains(s, kind+" sweep") ||
			!strings.Contains(strings.Join(strings.Fields(s), " "), says) { // the table may have wrapped it
			t.Errorf("%s:\n%s", kind, s)
		}
	}
	m.trakr(exitClean, "doctor")
	m.trakr(exitClean, "report", "location", "--format", "html", "--out", "l.html")
	m.trakr(exitClean, "report", "retention", "--format", "csv", "--out", "r.csv")
	m.trakr(exitClean, "audit", "export", "--format", "ndjson", "--out", "a.ndjson")
	b, err := os.ReadFile(filepath.Join(m.dir, "a.ndjson"))
	erased := 0
	for line := range bytes.Lines(b) {
		if bytes.Contains(line, []byte(`"action":"tenant.erase"`)) && bytes.Contains(line, []byte(`"outcome":"success"`)) {
			erased++
		}
	}
	if err != nil || erased != 3 {
		t.Errorf("the export holds %d erasures, want 3 (%v)", erased, err)
	}
	if s := m.trakr(exitFinding, "tenant", "lookup", "--client-key", "connection:1", "--reason-ref", "OPS-1"); !strings.Contains(s, "No tenant") {
		t.Error(s)
	}
	m.trakr(exitUsage, "tenant", "lookup", "--client-key", "connection:1")
	m.trakr(exitUsage, "audit", "export", "--outcome", "fine")
	m.trakr(exitUsage, "audit", "list", "--action", "tenant.raed")
	token := m.trakr(exitClean, "token", "create", "--role", "reviewer", "--label", "test", "--json")
	var made struct{ Token, ID, Role string }
	if err := json.Unmarshal([]byte(token), &made); err != nil || made.Role != "reviewer" {
		t.Errorf("%v: token create", err)
	}
	if s := m.trakr(exitClean, "token", "list"); !strings.Contains(s, made.ID) || strings.Contains(s, made.Token) {
		t.Error(s)
	}
	m.trakr(exitClean, "token", "revoke", made.ID)

	// A kill -9 takes nothing that was committed, and leaves no second database.
	before := m.postmaster()
	if err := service.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = service.Process.Wait()
	service, _ = m.serve()
	if pid := m.postmaster(); pid != before && !gone(before) {
		t.Errorf("the killed service's PostgreSQL (%d) runs beside the new one (%d)", before, pid)
	}
	if s := m.trakr(exitClean, "audit", "list", "--action", "tenant.erase", "--outcome", "success"); strings.Count(s, "uninstall") != 3 {
		t.Errorf("after a kill -9:\n%s", s)
	}
	// Ctrl-C leaves no process.
	pid := m.postmaster()
	if err := service.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if state, err := service.Process.Wait(); err != nil || state.ExitCode() != 0 {
		t.Errorf("Ctrl-C ended with %v %v", state, err)
	}
	if !gone(pid) {
		t.Errorf("PostgreSQL %d is left behind", pid)
	}
	// Without a running service a command starts the database for its own time.
	if s := m.trakr(exitClean, "sweep", "list"); !strings.Contains(s, "orphans") {
		t.Error(s)
	}
	if err := os.Rename(filepath.Join(m.dir, "data/keys.json"), filepath.Join(m.dir, "data/keys.away")); err != nil {
		t.Fatal(err)
	}
	if s := m.trakr(exitCannotTell, "sweep", "list"); !strings.Contains(s, "restore that file") {
		t.Errorf("without its keys:\n%s", s)
	}
	m.trakr(exitClean, "keys", "create", "--out", filepath.Join(m.dir, "data/keys.json"))
	if s := m.trakr(exitCannotTell, "sweep", "list"); !strings.Contains(s, "another keyring") {
		t.Errorf("with other keys:\n%s", s)
	}
}

func TestWrongUsageSaysTheWayOut(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"nonsense", "trakr --help"}, {"sweep", "sub-command"}, {"sweep run", "accepts 1 arg"}, {"report", "attestation   html, json, csv"}, {"serve --nonsense", "trakr serve --help"},
		{"policy check --policy /nowhere/p.yaml", "no such file"}, {"audit export --since yesterday", ""}, {"keys create", "--out"},
		{"report marketplace --compare live.json --out sheet.json", "--compare prints differences"}, {"report location --compare live.json", "--compare is for the report marketplace"},
	} {
		var out, errs bytes.Buffer
		a := &cli{in: strings.NewReader(""), out: &out, err: &errs, now: time.Now, environ: []string{"TRAKR_DATABASE_URL=postgres://u:p@127.0.0.1:1/x"}}
		code := a.run(t.Context(), strings.Fields(c.args))
		if (c.want != "" && code != exitUsage) || code == exitClean || !strings.Contains(errs.String(), c.want) {
			t.Errorf("trakr %s: exit %d, %q; want %d and %q", c.args, code, errs.String(), exitUsage, c.want)
		}
	}
}

func TestSettingsAreCheckedTogether(t *testing.T) {
	var out, errs bytes.Buffer
	a := &cli{out: &out, err: &errs, now: time.Now, environ: []string{"TRAKR_LISTEN=x", "TRAKR_TYPO=1"}}
	if code := a.run(t.Context(), []string{"serve"}); code != exitUsage || !strings.Contains(errs.String(), "2 fault(s)") {
		t.Errorf("exit %d: %s", code, errs.String())
	}
}
