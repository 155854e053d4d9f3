// Package ledger keeps the erasure ledger: one line for each erasure, and for the
// placing and the release of each legal hold, outside the database and its backups, so
// that a backup that comes back cannot bring erased tenants back with it, nor forget
// what the law obliges us to keep.
//
// It only grows. Each line holds the hash of the one before it, so a line that is
// edited, swapped or taken out of the middle is found at open and named; what is cut
// from the end is found by a head kept beside it. A line holds keyed digests, never a
// tenant's id or value. It knows no database and decides nothing about erasures.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Entry is one erasure, or one step of a legal hold.
type Entry struct {
	Seq           int64  // from 1, without gaps; the header has 0
	Prev, Hash    string // hex SHA-256 of the line before and of this one, without their newlines
	TenantDigest  string // keyed digest, hex
	At            time.Time
	ErasureID     string // UUID
	SubjectDigest string // keyed digest, hex
	Trigger       string // a word of lifecycle.Triggers
	Hold          *Hold  // nil for an erasure; then the three above are empty
}

// Hold is a legal hold that was placed or released at the entry's time. Its expiry has
// no line of its own: both lines contain the end.
type Hold struct {
	ID     string // UUID
	Step   Step
	Ground string // a word
	Until  time.Time
}

// Step is what became of a hold.
type Step string

// The steps.
const (
	Placed   Step = "placed"
	Released Step = "released"
)

// Head is the newest line of a ledger, or the line of one entry.
type Head struct {
	LedgerID string
	Seq      int64
	Hash     string // hex SHA-256 of the line with that number
}

// Ledger is an open ledger. Each call sees what other processes appended meanwhile.
// It is safe for concurrent use.
type Ledger interface {
	Name() string
	Head(ctx context.Context) (Head, error)
	// Append adds an entry (its Seq, Prev and Hash are given by the ledger). It is
	// durable when the error is nil, and may or may not be there otherwise: append it
	// again. An erasure, or a step of a hold, that exists already is returned
	// unchanged.
	Append(ctx context.Context, e Entry) (Head, error)
	// Lacks returns those of the entries that are not there.
	Lacks(ctx context.Context, all []Entry) ([]Entry, error)
	// Entries visits every entry, oldest first, until visit fails.
	Entries(ctx context.Context, visit func(Entry) error) error
	// Contains reports whether the line of that number has that hash.
	Contains(ctx context.Context, seq int64, hash string) (bool, error)
	Close() error
}

// ErrMissing means that there is no ledger there.
var ErrMissing = errors.New("there is no erasure ledger")

// ErrUnavailable means that the ledger could not be read or written: nothing is known
// about what it holds, and nothing was acknowledged.
var ErrUnavailable = errors.New("the erasure ledger is unavailable")

// ErrCut means that the ledger ends before the newest entry it is known to have had.
type ErrCut struct{ Have, Want int64 }

// Error implements error.
func (e ErrCut) Error() string {
	return fmt.Sprintf("the erasure ledger was shortened: it ends at entry %d and had entry %d; put the whole ledger back, from the newest copy of it", e.Have, e.Want)
}

// ErrBroken means that a line is not what was written. The header is line 1, entry n
// is line n+1; 0 is the head beside the ledger.
type ErrBroken struct {
	Line int64
	Why  string
}

// Error implements error.
func (e ErrBroken) Error() string {
	where := "the erasure ledger's head file"
	if e.Line > 0 {
		where = fmt.Sprintf("line %d of the erasure ledger", e.Line)
	}
	return where + " is not as it was written: " + e.Why + "; put the ledger back, from the newest copy of it"
}
