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

// Replayed is what a comparison of ledger and database led to.
type Replayed struct {
	LedgerID string
	Entries  int64 // in the ledger: erasures, and steps of legal holds
	Compared int64 // of these, entries held against the database
	Held     int64 // legal holds that a restored backup had forgotten, put back
	Released int64 // legal holds that it had brought back, released again
	Erased   int64 // tenants that it had brought back
	Delayed  int64 // of these, those whose values could not be deleted yet: the sweep continues
}

// Refused is a ledger that does not fit the database. Nothing may be served: a tenant
// that was erased could answer.
type Refused struct{ Why string }

// Error implements error.
func (r *Refused) Error() string { return r.Why }

// Open ties the database to its ledger. create makes a ledger where neither side
// knows of one; a database that knows its ledger takes no other one. One that knows
// none is new, and so must be the ledger: else one of them is of another time or
// place, and only a person can confirm that they belong together (adopt).
func Open(ctx context.Context, s *erasures.Store, open, create func() (ledger.Ledger, error), adopt *lifecycle.Access) (ledger.Ledger, error) {
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
			return nil, &Refused{"the erasure ledger is missing, and this database, which has had tenants, knows none: it was restored from a backup made before it had one, or comes from a version before. " +
				"Put the ledger back (TRAKR_LEDGER says where it is looked for); where there never was one, say so: trakr restore bind-ledger --reason-ref TICKET"}
		}
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
	if err == nil && bound == "" && head.Seq > 0 { // the process that made it just now may have appended lines
		bound, err = s.Bound(ctx)
	}
	switch {
	case err != nil || bound != "":
	case adopt != nil:
		bound, err = s.Adopt(ctx, *adopt, head.LedgerID)
	case head.Seq > 0 || used:
		err = &Refused{fmt.Sprintf("the erasure ledger %s has %d lines, and this database knows no ledger: one of the two is new, or the database was restored from a backup made before it had one. "+
			"Point TRAKR_LEDGER at a place of this installation's own; where the ledger is this one's, say so: trakr restore bind-ledger --reason-ref TICKET", l.Name(), head.Seq)}
	default:
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

// Compare holds what the database knows of the ledger against it: every line that the
// database marked last must be there, unchanged.
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
			return &Refused{fmt.Sprintf("the erasure ledger %s was cut: it ends at line %d, and the database knows line %d. Put the whole file back; without it a tenant of a restored backup could answer again", e.c.Ledger.Name(), head.Seq, known.Seq)}
		}
		ok, err := e.c.Ledger.Contains(ctx, known.Seq, fmt.Sprintf("%x", known.Hash))
		if err != nil {
			return err
		}
		if !ok {
			return &Refused{fmt.Sprintf("line %d of the erasure ledger %s is not the one that the database knows: the file was changed, or belongs to another time of this database. Put the right file back", known.Seq, e.c.Ledger.Name())}
		}
	}
	return nil
}

// lost reads the entries of the ledger that the database does not know: what a
// restored backup forgot. Without all it begins after the line up to which this very
// database was replayed; a restored one has forgotten that too.
func (e *Eraser) lost(ctx context.Context, all bool, r *Replayed) (forgotten, error) {
	f := forgotten{map[string]ledger.Entry{}, map[string][]ledger.Entry{}, map[string]int64{}}
	from, err := e.c.Erasures.LastReplayed(ctx)
	if err != nil {
		return f, err
	}
	if all {
		from.Seq = 0
	}
	if r.Entries <= from.Seq {
		return f, nil
	}
	held := holdSteps{map[string]ledger.Entry{}, map[string]ledger.Entry{}}
	var page []ledger.Entry
	judge := func() error {
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
		return judge()
	})
	if err == nil {
		err = judge()
	}
	if err == nil {
		err = held.compare(ctx, e, &f)
	}
	return f, err
}

// CameBack counts the live tenants that the ledger records as erased, and the legal
// holds on stored tenants that only the ledger knows: a backup was restored,
// and nothing may be served before a replay.
func (e *Eraser) CameBack(ctx context.Context) (tenants, held int64, err error) {
	if err := e.Compare(ctx); err != nil {
		return 0, 0, err
	}
	head, err := e.c.Ledger.Head(ctx)
	if err != nil {
		return 0, 0, err
	}
	f, err := e.lost(ctx, false, &Replayed{Entries: head.Seq})
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

// Replay holds the ledger against the database. What a restored backup forgot comes
// first: legal holds that are neither released nor expired are placed again, so that
// what the law keeps is not erased in the next step. Then every live tenant in it is
// erased again, with the trigger restore_replay. It must have ended before anything is
// served. A crash on the way leaves the mark where it was, and the next one looks at
// the same lines again.
func (e *Eraser) Replay(ctx context.Context, a lifecycle.Access, all bool) (Replayed, error) {
	if err := e.Compare(ctx); err != nil {
		return Replayed{}, err
	}
	head, err := e.c.Ledger.Head(ctx)
	if err != nil {
		return Replayed{}, err
	}
	r := Replayed{LedgerID: head.LedgerID, Entries: head.Seq}
	f, err := e.lost(ctx, all, &r)
	if err != nil {
		return r, err
	}
	if err := e.putBack(ctx, a, f, &r); err != nil {
		return r, err
	}
	if len(f.erased) > 0 {
		if err := e.c.Erasures.Live(ctx, func(id lifecycle.TenantID) error { return e.again(ctx, a, id, f.erased, &r) }); err != nil {
			return r, err
		}
	}
	if err := e.noteHolds(ctx); err != nil {
		return r, err
	}
	if all || r.Erased+r.Held+r.Released > 0 {
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

// entry is the ledger's entry of a tenant, nil for none.
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

// again erases one live tenant if the ledger has it. Once its erasure has begun it
// answers nothing, whatever keeps its values from being deleted yet.
func (e *Eraser) again(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, found map[string]ledger.Entry, r *Replayed) error {
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

// EachUnfinished calls yield with every erasure that has no certificate yet: those
// whose values are still there first, each group oldest first.
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
