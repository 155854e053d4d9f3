package erasure

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"trakr/internal/erasure/ledger"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store/erasures"
)

// Replayed is the result of a replay of the ledger.
type Replayed struct {
	LedgerID string
	Entries  int64 // in the ledger: erasures, and steps of legal holds
	Compared int64 // of these, entries compared with the database
	Held     int64 // legal holds that a restored backup lacked, placed again
	Released int64 // legal holds that it had in force again, released again
	Erased   int64 // tenants that it had live again
	Delayed  int64 // of these, those whose values could not be deleted yet: the sweep continues
}

// Extent selects the lines of the ledger that a replay compares with the database.
type Extent int

const (
	// NewLines are the lines after the one up to which this very database was replayed.
	// A restored database has forgotten that line, and then they are older ones too.
	NewLines Extent = iota
	// AllLines is the whole ledger.
	AllLines
)

// Refused is the error of a ledger that does not fit the database. The service must not
// start then: a tenant that was erased could be served.
type Refused struct{ Why string }

// Error implements error.
func (r *Refused) Error() string { return r.Why }

// Open opens the ledger and binds the database to it. A database that is bound to a ledger
// accepts no other. One that is not bound must be new, and so must be its ledger, which
// create makes if it is missing. Otherwise the database or the ledger is of another time or
// place, and only a person can confirm that they belong together: adopt is that person's
// access, or nil.
func Open(
	ctx context.Context, s *erasures.Store, open, create func() (ledger.Ledger, error), adopt *lifecycle.Access,
) (ledger.Ledger, error) {
	bound, err1 := s.Bound(ctx)
	used, err2 := s.Used(ctx)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if adopt != nil {
		if err := adopt.Check(); err != nil {
			return nil, err
		}
	}
	l, err := open()
	if errors.Is(err, ledger.ErrMissing) && bound == "" {
		if used && adopt == nil {
			return nil, &Refused{"the erasure ledger is missing, and this database, which has had tenants, knows none: " +
				"it was restored from a backup made before it had one, or a version without a ledger made it. " +
				"Restore the ledger to the place that TRAKR_LEDGER names; " +
				"if there never was one, confirm that: trakr restore bind-ledger --reason-ref TICKET"}
		}
		if l, err = create(); errors.Is(err, fs.ErrExist) { // another process was first
			l, err = open()
		}
	}
	if errors.Is(err, ledger.ErrMissing) {
		return nil, &Refused{fmt.Sprintf("the erasure ledger is missing: %v. This database was used with the ledger %s, "+
			"which alone records which tenants of a restored backup were erased since; "+
			"restore it to the place that TRAKR_LEDGER names", err, bound)}
	}
	if err != nil {
		return nil, fmt.Errorf("opening the erasure ledger: %w", err)
	}
	head, err := l.Head(ctx)
	if err == nil && bound == "" && head.Seq > 0 { // another process may just have made it and appended lines
		bound, err = s.Bound(ctx)
	}
	switch {
	case err != nil || bound != "":
	case adopt != nil:
		bound, err = s.Adopt(ctx, *adopt, head.LedgerID)
	case head.Seq > 0 || used:
		err = &Refused{fmt.Sprintf("the erasure ledger %s has %d lines, and this database knows no ledger: "+
			"one of the two is new, or the database was restored from a backup made before it had one. "+
			"Set TRAKR_LEDGER to a place that only this installation uses; "+
			"if the ledger is this installation's, confirm that: trakr restore bind-ledger --reason-ref TICKET", l.Name(), head.Seq)}
	default:
		bound, err = s.Bind(ctx, head.LedgerID)
	}
	if err == nil && bound != head.LedgerID {
		err = &Refused{fmt.Sprintf("the erasure ledger %s is another one: this database was used with the ledger %s, and %s was found. "+
			"Set TRAKR_LEDGER to the right one", l.Name(), bound, head.LedgerID)}
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Compare checks that the ledger contains, unchanged, the last line that the database noted
// and the last line up to which it was replayed.
func (e *Eraser) Compare(ctx context.Context) error {
	head, err := e.c.Ledger.Head(ctx)
	if err != nil {
		return err
	}
	noted, err := e.c.Erasures.LastNoted(ctx)
	if err != nil {
		return err
	}
	replayed, err := e.c.Erasures.LastReplayed(ctx)
	if err != nil {
		return err
	}
	for _, known := range []erasures.Line{noted, replayed} {
		if known.Seq == 0 {
			continue
		}
		if known.Seq > head.Seq {
			return &Refused{fmt.Sprintf("the erasure ledger %s was cut: it ends at line %d, and the database knows line %d. "+
				"Restore the whole ledger; without it an erased tenant of a restored backup could be served",
				e.c.Ledger.Name(), head.Seq, known.Seq)}
		}
		ok, err := e.c.Ledger.Contains(ctx, known.Seq, fmt.Sprintf("%x", known.Hash))
		if err != nil {
			return err
		}
		if !ok {
			return &Refused{fmt.Sprintf("line %d of the erasure ledger %s is not the one that the database knows: "+
				"the ledger was changed, or belongs to another time of this database. Restore the right ledger",
				known.Seq, e.c.Ledger.Name())}
		}
	}
	return nil
}

// lost reads the entries of the ledger that the database does not know, because it was
// restored from a backup.
func (e *Eraser) lost(ctx context.Context, extent Extent, r *Replayed) (forgotten, error) {
	f := forgotten{map[string]ledger.Entry{}, map[string][]ledger.Entry{}, map[string]int64{}}
	from, err := e.c.Erasures.LastReplayed(ctx)
	if err != nil {
		return f, err
	}
	if extent == AllLines {
		from.Seq = 0
	}
	if r.Entries <= from.Seq {
		return f, nil
	}
	held := holdSteps{map[string]ledger.Entry{}, map[string]ledger.Entry{}}
	var page []ledger.Entry
	comparePage := func() error {
		ids := make([]string, len(page))
		for i, x := range page {
			ids[i] = x.ErasureID
		}
		known, err := e.c.Erasures.Known(ctx, ids)
		if err != nil {
			return err
		}
		for _, x := range page {
			if r.Compared++; !known[x.ErasureID] {
				f.erased[x.TenantDigest] = x
			}
		}
		page = page[:0]
		return nil
	}
	err = e.c.Ledger.Entries(ctx, func(x ledger.Entry) error {
		if x.Seq <= from.Seq || x.Seq > r.Entries {
			return nil
		}
		if x.Hold != nil {
			r.Compared++
			return held.take(x)
		}
		if page = append(page, x); len(page) < 1000 {
			return nil
		}
		return comparePage()
	})
	if err == nil {
		err = comparePage()
	}
	if err == nil {
		err = held.compare(ctx, e, &f)
	}
	return f, err
}

// Resurrected counts the live tenants that the ledger records as erased, and the legal
// holds on stored tenants that only the ledger knows. Unless both are zero a backup was
// restored, and no tenant may be served before a replay.
func (e *Eraser) Resurrected(ctx context.Context) (tenants, held int64, err error) {
	if err := e.Compare(ctx); err != nil {
		return 0, 0, err
	}
	head, err := e.c.Ledger.Head(ctx)
	if err != nil {
		return 0, 0, err
	}
	f, err := e.lost(ctx, NewLines, &Replayed{Entries: head.Seq})
	if err != nil || len(f.erased)+len(f.held) == 0 {
		return 0, 0, err
	}
	err = e.c.Erasures.Live(ctx, func(id lifecycle.TenantID) error {
		x, err := e.entry(id, f.erased)
		if x != nil {
			tenants++
		}
		return err
	})
	if err != nil || len(f.held) == 0 {
		return tenants, 0, err
	}
	return tenants, held, e.c.Erasures.Holdable(ctx, func(id lifecycle.TenantID) error {
		digests, err := e.c.Keys.Digests(keyring.Tenant, lifecycle.NewSecret(id.String()))
		for _, d := range digests {
			held += int64(len(f.held[d.String()]))
		}
		return err
	})
}

// Replay compares the ledger with the database, and repeats what a restored backup lacks.
// Legal holds come first: those neither released nor expired are placed again, so that the
// next step does not erase data that the law keeps. Then every live tenant that the ledger
// records as erased is erased again, with the trigger restore_replay. Replay must end before
// any tenant is served. A crash before the end leaves the mark of the last replay unchanged,
// and the next replay compares the same lines again.
func (e *Eraser) Replay(ctx context.Context, a lifecycle.Access, extent Extent) (Replayed, error) {
	if err := e.Compare(ctx); err != nil {
		return Replayed{}, err
	}
	head, err := e.c.Ledger.Head(ctx)
	if err != nil {
		return Replayed{}, err
	}
	r := Replayed{LedgerID: head.LedgerID, Entries: head.Seq}
	f, err := e.lost(ctx, extent, &r)
	if err != nil {
		return r, err
	}
	if err := e.restoreHolds(ctx, a, f, &r); err != nil {
		return r, err
	}
	if len(f.erased) > 0 {
		err := e.c.Erasures.Live(ctx, func(id lifecycle.TenantID) error { return e.eraseAgain(ctx, a, id, f.erased, &r) })
		if err != nil {
			return r, err
		}
	}
	if err := e.noteHolds(ctx); err != nil {
		return r, err
	}
	if extent == AllLines || r.Erased+r.Held+r.Released > 0 {
		if err := e.c.Erasures.Replayed(ctx, a, r.Compared, r.Erased); err != nil {
			return r, err
		}
	}
	if r.Compared == 0 || head.Seq == 0 {
		return r, nil
	}
	hash, err := hash32(head.Hash)
	if err != nil {
		return r, err
	}
	return r, e.c.Erasures.ReplayedTo(ctx, erasures.Line{Seq: head.Seq, Hash: hash[:]})
}

// entry returns the ledger's erasure of a tenant, or nil.
func (e *Eraser) entry(id lifecycle.TenantID, found map[string]ledger.Entry) (*ledger.Entry, error) {
	digests, err := e.c.Keys.Digests(keyring.Tenant, lifecycle.NewSecret(id.String()))
	if err != nil {
		return nil, err
	}
	for _, d := range digests {
		if x, ok := found[d.String()]; ok {
			return &x, nil
		}
	}
	return nil, nil
}

// eraseAgain erases one live tenant if the ledger records its erasure. Once that has begun
// the tenant is not served, even if its values cannot be deleted yet.
func (e *Eraser) eraseAgain(
	ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, found map[string]ledger.Entry, r *Replayed,
) error {
	x, err := e.entry(id, found)
	if x == nil || err != nil {
		return err
	}
	out, err := e.Erase(ctx, a, id, Order{Trigger: lifecycle.TriggerRestoreReplay, RequestedAt: x.At})
	if err != nil {
		return err
	}
	r.Erased++
	if out.Delay != nil {
		r.Delayed++
	}
	return nil
}

// EachUnfinished calls yield with every erasure that has no certificate yet: first those
// whose values are not deleted, then the others, each group oldest first.
func (e *Eraser) EachUnfinished(ctx context.Context, yield func(erasures.Erasure) error) error {
	const page = 500
	for _, deleted := range []bool{false, true} {
		for last := (erasures.Erasure{}); ; {
			found, err := e.c.Erasures.Unfinished(ctx, deleted, last, page)
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
				break
			}
		}
	}
	return nil
}
