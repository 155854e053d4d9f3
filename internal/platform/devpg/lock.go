package devpg

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// lock takes dir for this process until it ends, however it ends: the kernel
// drops the lock, so there is no stale one to clear. The file stays, because
// removing it would let two processes lock two files of the same name.
func (p *place) lock(dir string) error {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("locking the data directory: %w (is it writable for this user?)", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer func() { _ = f.Close() }()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("locking the data directory %s: %w", dir, err)
		}
		return fmt.Errorf("%w: %s belongs to %s; stop that service, or set TRAKR_DATA_DIR to another directory", ErrInUse, dir, holder(f))
	}
	p.locks = append(p.locks, f)
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("writing the lock file: %w", err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return fmt.Errorf("writing the lock file: %w", err)
	}
	return nil
}

// holder names the process that wrote its id into the lock file.
func holder(f *os.File) string {
	text := make([]byte, 32)
	n, _ := f.ReadAt(text, 0)
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n]))); err == nil {
		return "process " + strconv.Itoa(pid)
	}
	return "another process" // locked, its id not yet written
}

func (p *place) unlock() {
	for _, f := range p.locks {
		// Closing is not enough: a child that another goroutine is just forking
		// shares the open file until it runs its program, and the lock with it.
		_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
		_ = f.Close()
	}
	p.locks = nil
}
