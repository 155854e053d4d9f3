package erasure

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"trakr/internal/keyring"
	"trakr/internal/ledger"
	"trakr/internal/lifecycle"
	"trakr/internal/store/erasures"
)

// Replayed is what a comparison of ledger and database led to.
type Replayed struct {
	LedgerID string
	Entries  int64 // erasures in the ledger
	Compared int64 // of these, entries held against the database's live tenants
	Erased   int64 // tenants a restored backup had brought back
	Delayed  int64 // of these, those whose values could not be deleted yet
}

// Refused is a ledger that does not fit the database. Nothing may be served: a tenant
// that was erased could answer.
type Refused struct{ Why string }

// Error implements error.
func (r *Refused) Error() string { return r.Why }

// Open ties the database to its ledger. create makes a ledger where neither side
// knows of one; a database that knows its ledger takes no other one.
func Open(ctx context.Context, s *erasures.Store, open func() (ledger.Ledger, error), create func() (ledger.Ledger, error)) (ledger.Ledger, error) {
	bound, err := s.Bound(ctx)
	if err != nil {
		return nil, err
	}
	l, err := open()
	if errors.Is(err, ledger.ErrMissing) && bound == "" {
		if l, err = create(); errors.Is(err, fs.ErrExist) { // another process was first
			l, err = open()
		}
	}
	if errors.Is(err, ledger.ErrMissing) {
		return nil, &Refused{fmt.Sprintf("the erasure ledger is missing: %v. This database was used with the ledger %s, which alone tells which tenants of a restored backup were erased since; "+
			"put the file back (TRAKR_LEDGER says where it is looked for)", err, bound)}
	}
	if err != nil {
		return nil, fmt.Errorf("opening the erasure ledger: %w", err)
	}
	head, err := l.Head(ctx)
	if err == nil && bound == "" {
		bound, err = s.Bind(ctx, head.LedgerID)
	}
	if err == nil && bound != head.LedgerID {
		err = &Refused{fmt.Sprintf("the erasure ledger %s is another one: this database was used with the ledger %s, and %s was found. Point TRAKR_LEDGER at the right one", l.Name(), bound, head.LedgerID)}
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Compare holds what the database knows of the ledger against it: every line the
// database marked must be there, unchanged.
func (e *Eraser) Compare(ctx context.Context) error {
	head, err := e.c.Ledger.Head(ctx)
	if err != nil {
		return err
	}
	known, err := e.c.Erasures.LastNoted(ctx)
	if err != nil || known.Seq == 0 {
		return err
	}
	if known.Seq > head.Seq {
		return &Refused{fmt.Sprintf("the erasure ledger %s was cut: it ends at line %d, and the database knows line %d. Put the whole file back; without it a tenant of a restored backup could answer again", e.c.Ledger.Name(), head.Seq, known.Seq)}
	}
	ok, err := e.c.Ledger.Contains(ctx, known.Seq, fmt.Sprintf("%x", known.Hash))
	if err == nil && !ok {
		err = &Refused{fmt.Sprintf("line %d of the erasure ledger %s is not the one that the database knows: the file was changed, or belongs to another time of this database. Put the right file back", known.Seq, e.c.Ledger.Name())}
	}
	return err
}

// Replay holds the ledger against the database and erases again, with the trigger
// restore_replay, every tenant in it that is live: a restored backup brought it back.
// It also goes on with erasures that a crash cut off. Without all it looks only at
// the lines after the last one that the database knows, since a backup is older
// than those. It must have ended before anything is served.
func (e *Eraser) Replay(ctx context.Context, a lifecycle.Access, all bool) (Replayed, error) {
	if err := e.Compare(ctx); err != nil {
		return Replayed{}, err
	}
	head, err := e.c.Ledger.Head(ctx)
	if err != nil {
		return Replayed{}, err
	}
	r := Replayed{LedgerID: head.LedgerID, Entries: head.Seq}
	known, err := e.c.Erasures.LastNoted(ctx)
	if err != nil {
		return r, err
	}
	if all {
		known.Seq = 0
	}
	erased := map[string]ledger.Entry{}
	if head.Seq > known.Seq {
		err = e.c.Ledger.Entries(ctx, func(x ledger.Entry) error {
			if x.Seq > known.Seq {
				r.Compared++
				erased[x.TenantDigest] = x
			}
			return nil
		})
		if err != nil {
			return r, err
		}
	}
	if len(erased) > 0 {
		if err := e.c.Erasures.Live(ctx, func(id lifecycle.TenantID) error { return e.again(ctx, a, id, erased, &r) }); err != nil {
			return r, err
		}
	}
	if err := e.resume(ctx, a); err != nil {
		return r, err
	}
	if all || r.Erased > 0 {
		return r, e.c.Erasures.Replayed(ctx, a, r.Compared, r.Erased)
	}
	return r, nil
}

// again erases one live tenant if the ledger has it.
func (e *Eraser) again(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, erased map[string]ledger.Entry, r *Replayed) error {
	digests, err := e.c.Keys.Digests(keyring.Tenant, lifecycle.NewSecret(id.String()))
	if err != nil {
		return err
	}
	for _, d := range digests {
		x, ok := erased[d.String()]
		if !ok {
			continue
		}
		out, err := e.Erase(ctx, a, id, Order{Trigger: lifecycle.TriggerRestoreReplay, RequestedAt: x.At})
		if err != nil {
			return err
		}
		r.Erased++
		if out.Delay != nil {
			r.Delayed++
			if !errors.Is(out.Delay, lifecycle.OnHold) {
				return out.Delay
			}
		}
		return nil
	}
	return nil
}

// resume deletes what a crash kept from being deleted. What a hold keeps stays.
func (e *Eraser) resume(ctx context.Context, a lifecycle.Access) error {
	return e.EachUnfinished(ctx, func(x erasures.Erasure) error {
		if !x.DeletedAt.IsZero() {
			return nil
		}
		_, err := e.goOn(ctx, a, x.ID, Delete, "")
		if errors.Is(err, lifecycle.OnHold) {
			return nil
		}
		return err
	})
}

// EachUnfinished calls yield with every erasure that has no certificate yet, oldest
// first.
func (e *Eraser) EachUnfinished(ctx context.Context, yield func(erasures.Erasure) error) error {
	const page = 500
	for last := (erasures.Erasure{}); ; {
		found, err := e.c.Erasures.Unfinished(ctx, last, page)
		if err != nil {
			return err
		}
		for _, x := range found {
			if err := yield(x); err != nil {
				return err
			}
			last = x
		}
		if len(found) < page {
			return nil
		}
	}
}
