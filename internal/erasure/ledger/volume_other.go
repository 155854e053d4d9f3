//go:build !linux

package ledger

import "errors"

// SameVolume cannot tell on this system.
func SameVolume(_, _ string) (bool, error) {
	return false, errors.New("whether the ledger lies on the database's volume cannot be told on this system")
}
