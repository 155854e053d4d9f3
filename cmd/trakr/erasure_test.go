package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"trakr/internal/erasure"
	"trakr/internal/view"
)

// killAfter ends this process, as a power failure would, as soon as the step of an erasure
// or a rotation that the environment names is durable; see TestMain.
func killAfter(step string) {
	if step == os.Getenv("TRAKR_TEST_KILL_AFTER") {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// erasures lists what the command shows, newest first.
func (m *machine) erasures() []view.Erasure {
	m.t.Helper()
	var list struct{ Erasures []view.Erasure }
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
	m := usedMachine(t)
	for i, step := range erasure.Steps() {
		t.Run(step, func(t *testing.T) {
			m.t = t
			env := m.env
			m.env = append(m.env, "TRAKR_TEST_KILL_AFTER="+step)
			victim, log := m.serve()
			died := make(chan error, 1)
			go func() { died <- victim.Wait() }()
			// The caller may lose its answer; what counts is what is left behind.
			cmd := exec.Command(os.Args[0], "simulate", "--installs", "1", "--uninstalls", "1", "--drops", "0", "--reads", "0", "--tokens", "0", "--repeats", "0", "--replays", "0",
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
