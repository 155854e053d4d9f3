package devpg

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// A service is killed without a chance to stop its server. On Linux that ends by
// itself; where it does not, the next start stops it. The data are kept.
func TestKilledService(t *testing.T) {
	t.Parallel()
	for name, env := range map[string][]string{
		"the server ends with the service": nil,
		"the server survives and is found": {survivorVar + "=1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := Config{BinDir: binDir, DataDir: newDir(t)}
			service := mustService(t, c.DataDir, env...)
			beside, err := Attach(testContext(t), c)
			must(t, err)
			mustExec(t, mustConnect(t, beside), `CREATE TABLE kept AS SELECT 'committed' AS word`)
			cluster := beside.DataDirectory()
			old := serverPid(t, cluster)

			must(t, service.Process.Kill())
			_ = service.Wait()
			if env == nil && runtime.GOOS == "linux" {
				mustBeGone(t, cluster)
			} else if len(processesOf(t, cluster)) == 0 {
				t.Fatal("the server did not survive; the test shows nothing")
			}

			s := mustStart(t, c)
			if pid := serverPid(t, cluster); pid == old {
				t.Errorf("process %d was taken over, not replaced", pid)
			}
			if got := mustQuery(t, mustConnect(t, s), `SELECT word FROM kept`); got != "committed" {
				t.Errorf("after the kill: %q", got)
			}
			mustStop(t, s)
			mustBeGone(t, cluster)
		})
	}
}

// The stale pid file of a crash names a process id that now belongs to another
// program, of the same user and in the very directory of the cluster. It is left
// alone, and does not keep the server from starting.
func TestStalePidOfAnotherProgram(t *testing.T) {
	t.Parallel()
	c := Config{BinDir: binDir, DataDir: newDir(t)}
	s := mustStart(t, c)
	cluster := s.DataDirectory()
	stale := mustRead(t, filepath.Join(cluster, pidFileName))
	mustStop(t, s)

	who, ok := ownerOf(cluster)
	if !ok {
		t.Fatal("no cluster")
	}
	other := exec.Command("sleep", "300")
	other.Dir = cluster
	other.SysProcAttr = &syscall.SysProcAttr{Credential: who.credential()}
	must(t, other.Start())
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	pidFile := filepath.Join(cluster, pidFileName)
	must(t, os.WriteFile(pidFile, fmt.Appendf(nil, "%d\n%s", other.Process.Pid, secondLineOn(stale)), 0o600))
	must(t, who.chown(pidFile))

	mustStart(t, c)
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Fatalf("the other program is gone: %v", err)
	}
}

func secondLineOn(text []byte) []byte {
	for i, b := range text {
		if b == '\n' {
			return text[i+1:]
		}
	}
	return nil
}

func TestUnreadablePidFile(t *testing.T) {
	t.Parallel()
	c := Config{BinDir: binDir, DataDir: newDir(t)}
	s := mustStart(t, c)
	mustStop(t, s)
	for _, text := range []string{"", "garbage\n", "-1\n", "1\n", "0\n"} {
		must(t, os.WriteFile(filepath.Join(s.DataDirectory(), pidFileName), []byte(text), 0o600))
		_, err := Start(testContext(t), c)
		mustContain(t, err, pidFileName, "remove it")
	}
}
