package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// SameVolume reports whether a ledger at path is, or would be, on the volume of the
// database's directory. It would then be lost or restored together with the database.
func SameVolume(path, dataDir string) (bool, error) {
	a, err := device(path)
	if err != nil {
		return false, err
	}
	b, err := device(dataDir)
	return a == b, err
}

// device returns the device of path, or of its nearest existing parent directory.
func device(path string) (uint64, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return 0, fmt.Errorf("looking for a volume: %w", err)
	}
	for {
		st, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) && path != filepath.Dir(path) {
			path = filepath.Dir(path)
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("looking for a volume: %w", err)
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		if !ok {
			return 0, errors.New("looking for a volume: the system does not report the device")
		}
		return uint64(sys.Dev), nil //nolint:unconvert // its width differs between architectures
	}
}
