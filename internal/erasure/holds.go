package erasure

import (
	"context"
	"errors"
	"time"

	"trakr/internal/erasure/ledger"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store/holds"
)

// Outside records legal holds in an erasure ledger: their ids, the keyed digest of
// their tenant, ground, beginning and end. The ticket and the person who placed the hold
// are in the database alone, because they could name a person.
type Outside struct {
	Ledger ledger.Ledger
	Keys   *keyring.Keyring
}

// Note implements holds.Outside.
func (o Outside) Note(ctx context.Context, h holds.Hold) error {
	steps, err := o.lines(h)
	if err != nil {
		return err
	}
	_, err = o.Ledger.Append(ctx, steps[len(steps)-1])
	return err
}

// lines returns the entries of a hold: its placing, and its release if it is released.
func (o Outside) lines(h holds.Hold) ([]ledger.Entry, error) {
	digest, err := o.Keys.Digest(keyring.Tenant, lifecycle.NewSecret(h.TenantID))
	if err != nil {
		return nil, err
	}
	entry := func(step ledger.Step, at time.Time) ledger.Entry {
		return ledger.Entry{TenantDigest: digest.String(), At: at,
			Hold: &ledger.Hold{ID: h.ID, Step: step, Ground: string(h.Ground), Until: h.Until}}
	}
	out := []ledger.Entry{entry(ledger.Placed, h.PlacedAt)}
	if h.ReleasedAt != nil {
		out = append(out, entry(ledger.Released, *h.ReleasedAt))
	}
	return out, nil
}

// noteHolds appends to the ledger the steps that it lacks of the database's unexpired
// holds: holds placed before the ledger recorded holds, and releases that were committed
// while the ledger was unavailable.
func (e *Eraser) noteHolds(ctx context.Context) error {
	all, err := e.c.Holds.Unexpired(ctx, e.c.Now())
	if err != nil || len(all) == 0 {
		return err
	}
	var lines []ledger.Entry
	for _, h := range all {
		steps, err := Outside{e.c.Ledger, e.c.Keys}.lines(h)
		if err != nil {
			return err
		}
		lines = append(lines, steps...)
	}
	if lines, err = e.c.Ledger.Lacks(ctx, lines); err != nil {
		return err
	}
	for _, x := range lines {
		if _, err := e.c.Ledger.Append(ctx, x); err != nil {
			return err
		}
	}
	return nil
}

// restoreHolds repeats the releases and the placings of holds that a restored database
// lacks, before any tenant is erased. A tenant that is not stored needs no hold.
func (e *Eraser) restoreHolds(ctx context.Context, a lifecycle.Access, f forgotten, r *Replayed) error {
	for id, line := range f.released {
		if err := e.c.Holds.RestoreRelease(ctx, a, id, line); err != nil {
			return err
		}
		r.Released++
	}
	if len(f.held) == 0 {
		return nil
	}
	return e.c.Erasures.Holdable(ctx, func(id lifecycle.TenantID) error {
		digests, err := e.c.Keys.Digests(keyring.Tenant, lifecycle.NewSecret(id.String()))
		if err != nil {
			return err
		}
		for _, d := range digests {
			for _, x := range f.held[d.String()] {
				h := holds.Hold{
					ID: x.Hold.ID, TenantID: id.String(), Ground: holds.Ground(x.Hold.Ground),
					PlacedAt: x.At, Until: x.Hold.Until,
				}
				missing, err := e.c.Holds.Restore(ctx, a, h, x.Seq)
				if err != nil {
					return err
				}
				if missing {
					r.Held++
				}
			}
		}
		return nil
	})
}

// forgotten is what the ledger contains and this database lacks, because it was restored
// from an older backup.
type forgotten struct {
	erased   map[string]ledger.Entry   // erasures, by the keyed digest of their tenant
	held     map[string][]ledger.Entry // holds in force, by the keyed digest of their tenant
	released map[string]int64          // the line of the release, by holds that only this database has in force
}

// holdSteps collects the steps of holds in the ledger's order.
type holdSteps struct{ placed, released map[string]ledger.Entry }

func (s holdSteps) take(x ledger.Entry) error {
	switch x.Hold.Step {
	case ledger.Placed:
		s.placed[x.Hold.ID] = x
	case ledger.Released:
		delete(s.placed, x.Hold.ID)
		s.released[x.Hold.ID] = x
	default:
		return errors.New("the erasure ledger has a step of a legal hold that this version does not know; " +
			"use the version that wrote it, or a later one")
	}
	return nil
}

// compare adds to f the steps that the database lacks.
func (s holdSteps) compare(ctx context.Context, e *Eraser, f *forgotten) error {
	var ids []string
	for id := range s.placed {
		ids = append(ids, id)
	}
	for id := range s.released {
		ids = append(ids, id)
	}
	known, err := e.c.Holds.Known(ctx, ids)
	if err != nil {
		return err
	}
	now := e.c.Now()
	for id, x := range s.placed {
		if _, ok := known[id]; !ok && now.Before(x.Hold.Until) {
			f.held[x.TenantDigest] = append(f.held[x.TenantDigest], x)
		}
	}
	for id, x := range s.released {
		if h, ok := known[id]; ok && h.Active(now) {
			f.released[id] = x.Seq
		}
	}
	return nil
}
