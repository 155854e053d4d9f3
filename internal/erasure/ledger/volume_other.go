//go:build !linux

package ledger

import "errors"

// SameVolume fails: this system offers no way to compare volumes.
func SameVolume(_, _ string) (bool, error) {
	return false, errors.New("whether the ledger is on the database's volume cannot be determined on this system")
}
