package devpg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// pidFileName is where a server notes its process id, and what it keeps in
// shared memory, for the next one.
const pidFileName = "postmaster.pid"

// stopLeftover ends a server that a killed service left on our cluster, so that
// Start begins with its own process, settings and binaries rather than taking
// over one whose end it could not notice.
//
// The id in the file may long belong to another program. That one is never
// signalled, but PostgreSQL would refuse to start beside it, see disown.
func stopLeftover(ctx context.Context, p *place, log *slog.Logger) error {
	pid, err := readPid(p.cluster())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	// Held before it is looked at: where the system allows (pidfd), what is
	// signalled is then the process that was looked at, not a later one of its id.
	proc, err := os.FindProcess(pid)
	if err != nil || !alive(proc) {
		return nil // a crash; the server itself cleans up and recovers
	}
	defer func() { _ = proc.Release() }()
	switch ours, err := p.runs(ctx, pid); {
	case err != nil:
		return fmt.Errorf("process %d may be a server left on %s: %w", pid, p.cluster(), err)
	case !ours:
		return p.disown(pid)
	}
	log.Warn("stopping the PostgreSQL that an earlier service left running", "pid", pid, "directory", p.cluster())
	for _, stage := range []struct {
		signal  syscall.Signal
		timeout time.Duration
	}{{syscall.SIGINT, fastTimeout}, {syscall.SIGQUIT, immediateTimeout}, {syscall.SIGKILL, killTimeout}} {
		if err := proc.Signal(stage.signal); errors.Is(err, os.ErrProcessDone) {
			return nil
		} else if err != nil {
			return fmt.Errorf("stopping the PostgreSQL left running as process %d: %w", pid, err)
		}
		if gone, err := p.awaitEnd(ctx, pid, proc, stage.timeout); gone || err != nil {
			return err
		}
	}
	return fmt.Errorf("the PostgreSQL left running as process %d does not end, not even killed", pid)
}

// awaitEnd waits until the process has ended or, dead but not yet reaped by its
// parent, no longer runs our cluster.
func (p *place) awaitEnd(ctx context.Context, pid int, proc *os.Process, timeout time.Duration) (gone bool, err error) {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if !alive(proc) || !stillRuns(pid, p.cluster()) {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-deadline.C:
			return false, nil
		case <-tick.C:
		}
	}
}

// disown makes a stale pid file name our own process. The server takes its
// parent's id there for stale, while it believes in any other living process and
// refuses to start. Removing the file instead would also remove the note of the
// shared memory by which it notices survivors of the old server's children.
func (p *place) disown(pid int) error {
	path := filepath.Join(p.cluster(), pidFileName)
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading a stale pid file: %w", err)
	}
	_, rest, _ := strings.Cut(string(text), "\n")
	// Under root the directory belongs to another user: no link is followed.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("clearing a stale pid file: %w", err)
	}
	_, err = f.WriteString(strconv.Itoa(os.Getpid()) + "\n" + rest)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("clearing a stale pid file that names process %d: %w", pid, err)
	}
	return nil
}

// readPid returns the process id in a cluster's pid file.
func readPid(cluster string) (int, error) {
	path := filepath.Join(cluster, pidFileName)
	line, err := readLine(path)
	if err != nil {
		return 0, fmt.Errorf("looking for a server left running: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("%s names no process: when no PostgreSQL works in %s, remove it", path, cluster)
	}
	return pid, nil
}

// alive reports whether the process exists, be it another user's.
func alive(proc *os.Process) bool {
	err := proc.Signal(syscall.Signal(0))
	return err == nil || errors.Is(err, syscall.EPERM)
}
