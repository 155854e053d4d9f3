// Package ledger keeps the erasure ledger: one line for each erasure, and for the
// placing and the release of each legal hold. The ledger is stored outside the database and
// its backups, so that after a restore the service knows which tenants to erase again and
// which data the law obliges it to keep.
//
// The ledger only grows. Each line contains the hash of the line before it, so opening the
// ledger finds a line that was edited, swapped or removed from the middle; the head, stored
// beside the ledger, reveals lines removed from the end. A line contains keyed digests,
// never a tenant's id or value. The package uses no database and takes no decision about
// erasures.
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
	Trigger       string // one of lifecycle.Triggers
	Hold          *Hold  // nil for an erasure; then the three above are empty
}

// Hold is a legal hold that was placed or released at the entry's time. An expiry has no
// line, because both lines contain the end of the hold.
type Hold struct {
	ID     string // UUID
	Step   Step
	Ground string // lower-case letters and underscores
	Until  time.Time
}

// Step is the event in a hold's life that a line records.
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
	// Append adds an entry; the ledger sets its Seq, Prev and Hash. The entry is durable
	// when the error is nil. After an error it may or may not be stored, and the caller
	// appends it again. An erasure, or a step of a hold, that exists already is returned
	// unchanged.
	Append(ctx context.Context, e Entry) (Head, error)
	// Lacks returns those of the entries that the ledger does not contain.
	Lacks(ctx context.Context, all []Entry) ([]Entry, error)
	// Entries visits every entry, oldest first, until visit fails.
	Entries(ctx context.Context, visit func(Entry) error) error
	// Contains reports whether the line of that number has that hash.
	Contains(ctx context.Context, seq int64, hash string) (bool, error)
	Close() error
}

// ErrMissing means that there is no ledger at the configured place.
var ErrMissing = errors.New("there is no erasure ledger")

// ErrUnavailable means that the ledger could not be read or written: its content is
// unknown, and the call acknowledged no entry.
var ErrUnavailable = errors.New("the erasure ledger is unavailable")

// ErrCut means that the ledger ends before the newest entry it is known to have had.
type ErrCut struct{ Have, Want int64 }

// Error implements error.
func (e ErrCut) Error() string {
	return fmt.Sprintf("the erasure ledger was shortened: it ends at entry %d and had entry %d; "+
		"restore the whole ledger from its newest copy", e.Have, e.Want)
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
	return where + " is not as it was written: " + e.Why + "; restore the ledger from its newest copy"
}
