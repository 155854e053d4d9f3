package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"trakr/internal/connect"
	"trakr/internal/erasure"
	"trakr/internal/lifecycle"
)

// This binary is the service as well: where the environment names a step, it is killed
// as soon as that step of an erasure is durable.
func init() {
	if at := os.Getenv("TRAKR_TEST_KILL_AFTER"); at != "" {
		afterStep = func(step string) {
			if step == at {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
	}
}

// erasures lists what the command shows, newest first.
func (m *machine) erasures() []erasureJSON {
	m.t.Helper()
	var list struct{ Erasures []erasureJSON }
	m.jsonOf(&list, "erasure", "list", "--json")
	return list.Erasures
}

func (m *machine) stop(c *exec.Cmd) {
	m.t.Helper()
	if err := c.Process.Signal(os.Interrupt); err != nil {
		m.t.Fatal(err)
	}
	_ = c.Wait()
}

func (m *machine) ledgerLines() []string {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.dir, "data/ledger.ndjson"))
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.SplitAfter(strings.TrimSuffix(string(b), "\n"), "\n")
}

// The process is killed as soon as a step is durable. After the next start and one
// sweep the tenant is gone, the ledger has the erasure once, and there is one
// certificate, which verifies.
func TestKilledBetweenAnyTwoStepsAnErasureIsFinished(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for i, step := range erasure.Steps() {
		t.Run(step, func(t *testing.T) {
			m.t = t
			env := m.env
			m.env = append(m.env, "TRAKR_TEST_KILL_AFTER="+step)
			victim, log := m.serve()
			died := make(chan error, 1)
			go func() { died <- victim.Wait() }()
			// The caller may lose its answer; what counts is what is left behind.
			cmd := exec.Command(os.Args[0], "simulate", "--installs", "1", "--uninstalls", "1", "--drops", "0", "--reads", "0", "--repeats", "0", "--replays", "0",
				"--forgeries", "0", "--target", "http://"+m.pub, "--admin", "http://"+m.priv, "--api", m.api)
			cmd.Env, cmd.Dir = env, m.dir
			_ = cmd.Run()
			select {
			case <-died:
			case <-time.After(time.Minute):
				t.Fatalf("the process was not killed:\n%s", tail(log.String()))
			}
			m.env = env
			c, _ := m.serve()
			m.trakr(exitClean, "sweep", "run", "erasures")
			all := m.erasures()
			if len(all) != i+1 || all[0].State != "certified" || all[0].Trigger != "uninstall" {
				t.Fatalf("%d erasures, the newest %+v", len(all), all[0])
			}
			if lines := m.ledgerLines(); len(lines) != i+2 || !strings.Contains(lines[i+1], all[0].ErasureID) {
				t.Errorf("the ledger has %d lines, want %d with the newest erasure last", len(lines), i+2)
			}
			var events struct {
				Events []struct{ Action, Outcome string }
			}
			m.jsonOf(&events, "audit", "list", "--tenant", all[0].TenantID, "--limit", "100", "--json")
			seen := map[string]int{}
			for _, e := range events.Events {
				seen[e.Action+" "+e.Outcome]++
			}
			for _, action := range []string{"erasure.begin", "tenant.erase", "erasure.verify", "erasure.issue"} {
				if seen[action+" success"] != 1 {
					t.Errorf("%s stands in the log %d times: %v", action, seen[action+" success"], seen)
				}
			}
			key := strings.TrimSpace(m.trakr(exitClean, "audit", "checkpoint", "--key"))
			forms := []string{"json"}
			if step == erasure.Certify {
				forms = []string{"json", "html", "pdf"}
			}
			for _, f := range forms {
				m.trakr(exitClean, "erasure", "certificate", all[0].ErasureID, "--format", f, "--out", "certificate."+f)
				m.trakr(exitClean, "verify", "certificate."+f, "--key", key)
			}
			if s := m.trakr(exitClean, "tenant", "show", all[0].TenantID); !strings.Contains(s, "erased") {
				t.Errorf("the registry says %s", s)
			}
			m.stop(c)
		})
	}
}

// A backup from before an erasure is restored: the tenant never answers, because it
// is erased again before anything is served. Without the whole ledger nothing starts.
func TestARestoredBackupIsErasedAgainBeforeAnythingIsServed(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.env = append(m.env, "TRAKR_DEV_SKIP_PROOF=true")
	c, _ := m.serve()
	w := customer{m: m, key: "restored-marker", secret: lifecycle.NewSecret("a secret of the test's own, long enough"), uuid: uuid.NewString()}
	w.install()
	var live struct {
		Events []struct {
			TenantID string `json:"tenant_id"`
		}
	}
	m.jsonOf(&live, "audit", "list", "--action", "tenant.install", "--outcome", "success", "--json")
	victim := live.Events[0].TenantID
	var made struct{ Token string }
	m.jsonOf(&made, "token", "create", "--role", "service", "--label", "restore", "--json")
	p := &tour{machine: m, refused: map[int]int{}, token: made.Token}
	if p.read(t.Context(), http.DefaultClient, victim); len(p.released) != 1 {
		t.Fatal("the tenant does not answer before anything happened")
	}
	m.stop(c)
	cluster, backup := filepath.Join(m.dir, "data/postgres/cluster"), filepath.Join(m.dir, "backup")
	clone(t, cluster, backup)

	c, _ = m.serve()
	w.uninstall()
	m.stop(c)
	lines := m.ledgerLines()
	if len(lines) != 2 {
		t.Fatalf("the ledger has %d lines", len(lines))
	}
	if err := os.RemoveAll(cluster); err != nil {
		t.Fatal(err)
	}
	clone(t, backup, cluster)

	path := filepath.Join(m.dir, "data/ledger.ndjson")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name        string
		spoil, mend func() error
		want        string
	}{
		{"removed", func() error { return os.Rename(path, path+".away") }, func() error { return os.Rename(path+".away", path) }, "missing"},
		{"cut", func() error { return os.WriteFile(path, []byte(lines[0]), 0o600) },
			func() error { return os.WriteFile(path, []byte(strings.Join(lines, "")+"\n"), 0o600) }, "shortened"},
	} {
		must(c.spoil())
		for _, command := range [][]string{{"serve", "--dev"}, {"restore", "replay"}, {"tenant", "show", victim}} {
			if s := m.trakr(exitCannotTell, command...); !strings.Contains(s, c.want) || !strings.Contains(s, "ledger") {
				t.Errorf("%s, trakr %s: %s", c.name, command[0], s)
			}
		}
		must(c.mend())
	}

	if s := m.trakr(exitClean, "restore", "replay", "--accept-cut-log", "--reason-ref", "OPS-12"); !strings.Contains(s, "1 tenants had come back") || !strings.Contains(s, "set aside") && !strings.Contains(s, "is kept as") {
		t.Errorf("the replay says: %s", s)
	}
	c, _ = m.serve()
	if p.read(t.Context(), http.DefaultClient, victim); len(p.released) != 1 || p.refused[http.StatusGone] != 1 {
		t.Errorf("after the restore the tenant answered: %+v", p.refused)
	}
	m.trakr(exitClean, "sweep", "run", "erasures")
	again := m.erasures()
	if len(again) != 1 || again[0].TenantID != victim || again[0].Trigger != "restore_replay" || again[0].State != "certified" {
		t.Errorf("%+v", again)
	}
	if s := m.trakr(exitClean, "restore", "replay"); !strings.Contains(s, "0 tenants had come back") {
		t.Errorf("a second replay: %s", s)
	}
	m.stop(c)
}

// customer is a workspace whose secret the test knows.
type customer struct {
	m         *machine
	key, uuid string
	secret    lifecycle.Secret
}

func (w customer) payload(event string) string {
	return `{"eventType":"` + event + `","key":"trakr","clientKey":"` + w.key + `","sharedSecret":"` + w.secret.Reveal() + `","baseUrl":"https://bitbucket.org","productType":"bitbucket",
		"principal":{"uuid":"{` + w.uuid + `}","username":"marker","type":"team","links":{"avatar":{"href":"https://bitbucket.org/a.png"}}}}`
}

func (w customer) send(path, event, token string) {
	w.m.t.Helper()
	req, err := http.NewRequestWithContext(w.m.t.Context(), http.MethodPost, "http://"+w.m.pub+path, strings.NewReader(w.payload(event)))
	if err != nil {
		w.m.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "JWT "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.m.t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		w.m.t.Fatalf("%s: %d %s", path, resp.StatusCode, b)
	}
}

func (w customer) install() { w.send("/connect/installed", "installed", "") }

func (w customer) uninstall() {
	base := "http://" + w.m.pub
	key := lifecycle.NewSecret(w.key)
	token, err := connect.Mint(connect.Claims{Issuer: key, Audience: key, IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
		QSH: connect.QSH(http.MethodPost, base+"/connect/uninstalled", base)}, w.secret)
	if err != nil {
		w.m.t.Fatal(err)
	}
	w.send("/connect/uninstalled", "uninstalled", token.Reveal())
}

// clone copies a stopped cluster with its owners and modes.
func clone(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copying: %v: %s", err, bytes.TrimSpace(out))
	}
}
