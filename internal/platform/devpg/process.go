package devpg

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// How long each stage of stopping may take. They are not configurable: the sum
// stays below the 30 seconds container runtimes grant before they kill.
const (
	fastTimeout      = 20 * time.Second // SIGINT: cut sessions, checkpoint, end
	immediateTimeout = 5 * time.Second  // SIGQUIT: end without a checkpoint
	killTimeout      = 3 * time.Second  // SIGKILL: cannot be refused, only be slow
)

// process is a child and the goroutine that waits for it.
type process struct {
	cmd      *exec.Cmd
	done     chan struct{} // closed once the child is reaped; err and asked may be read then
	err      error         // how it ended
	asked    bool          // it ended after stop was called
	stopping atomic.Bool
}

// spawn starts cmd as the given account, in a process group of its own, so that
// the terminal's Ctrl-C reaches only us and we stop the child in our own order.
//
// On Linux the kernel also sends the child SIGINT, PostgreSQL's fast shutdown,
// when we die without a chance to do so (kill -9, a panic, a second Ctrl-C).
// That signal is tied to the thread that forked, not to the process, and Go
// retires threads at will (go.dev/issue/27505): so one goroutine forks, waits,
// and stays locked to its thread for as long as the child lives. Elsewhere, and
// should it fail, the next Start finds the server (leftover.go).
func spawn(cmd *exec.Cmd, who account) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: who.credential()}
	endWithParent(cmd.SysProcAttr)
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		p.asked = p.stopping.Load()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s as %s: %w", cmd.Path, who.name, err)
	}
	return p, nil
}

// run starts cmd and waits for its end; when ctx ends first, the child and its
// own children are killed.
func run(ctx context.Context, cmd *exec.Cmd, who account) error {
	cmd.WaitDelay = killTimeout // a grandchild may hold the output open
	p, err := spawn(cmd, who)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
		return context.Cause(ctx)
	}
}

// stop ends the server in stages and returns once it is reaped.
func (p *process) stop(ctx context.Context) error {
	p.stopping.Store(true)
	stages := []struct {
		signal  syscall.Signal
		timeout time.Duration
		cut     <-chan struct{} // ends the stage early
	}{
		{syscall.SIGINT, fastTimeout, ctx.Done()},
		{syscall.SIGQUIT, immediateTimeout, nil},
		{syscall.SIGKILL, killTimeout, nil},
	}
	for _, stage := range stages {
		// os.Process refuses once the child is reaped, so no later owner of the
		// process id is ever hit.
		_ = p.cmd.Process.Signal(stage.signal)
		timer := time.NewTimer(stage.timeout)
		select {
		case <-p.done:
			timer.Stop()
			return nil
		case <-stage.cut:
		case <-timer.C:
		}
		timer.Stop()
	}
	return fmt.Errorf("process %d did not end, not even killed", p.cmd.Process.Pid)
}

// unexpected returns why the server ended without a request to end.
func (p *process) unexpected() error {
	select {
	case <-p.done:
	default:
		return nil
	}
	switch {
	case p.asked:
		return nil
	case p.err == nil:
		return errors.New("the private PostgreSQL ended: somebody else stopped it")
	}
	return fmt.Errorf("the private PostgreSQL ended: %w", p.err)
}
