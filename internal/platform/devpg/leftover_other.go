//go:build !linux

package devpg

import (
	"context"
	"errors"
	"time"
)

// runs reports whether a server works on our cluster. Without /proc only the
// server knows: one that answers on our socket, accepts our password and names our
// directory has written its id into that directory's pid file. One that answers
// "not now" is starting or stopping, and is asked again.
func (p *place) runs(ctx context.Context, _ int) (bool, error) {
	c, err := findRunning(Config{DataDir: p.dir, Database: DefaultDatabase})
	if errors.Is(err, ErrNotRunning) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, leftoverTimeout)
	defer cancel()
	_, err = c.waitReady(ctx, nil)
	if errors.Is(err, ErrNotRunning) {
		return false, nil
	}
	return err == nil, err
}

const leftoverTimeout = 30 * time.Second

// stillRuns cannot find out more than that the process exists.
func stillRuns(int, string) bool { return true }
