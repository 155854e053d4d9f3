package devpg

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
)

// hasty trades what a temporary cluster has no use for, surviving a power
// failure, for speed. Commits stay synchronous, as the service demands.
var hasty = map[string]string{"fsync": "off", "full_page_writes": "off"}

// Temporary starts a server for tests: its data are in a new temporary directory,
// are not flushed to disk, and are removed by Stop. Of c, DataDir must be empty.
func Temporary(ctx context.Context, c Config) (*Server, error) {
	if c.DataDir != "" {
		return nil, errors.New("starting a temporary PostgreSQL: it chooses its own data directory")
	}
	dir, err := os.MkdirTemp("", "trakr-pg-")
	if err != nil {
		return nil, fmt.Errorf("creating a directory for a temporary PostgreSQL: %w", err)
	}
	c.DataDir = dir
	remove := func() {
		if home, err := recordedHome(dir); err == nil && home != dir {
			_ = os.RemoveAll(home)
		}
		_ = os.RemoveAll(dir)
	}
	if os.Geteuid() == 0 {
		if err := os.Chmod(dir, 0o711); err != nil { // as makeDataDir does
			remove()
			return nil, fmt.Errorf("opening a directory to the server's user: %w", err)
		}
	}
	settings := maps.Clone(hasty)
	maps.Copy(settings, c.Settings)
	c.Settings = settings
	s, err := Start(ctx, c)
	if err != nil {
		remove()
		return nil, err
	}
	s.cleanup = append([]func(){remove}, s.cleanup...) // runs last
	return s, nil
}
