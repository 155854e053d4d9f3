// Package rotation replaces the key that encrypts tenant values while the service runs:
// it adds a key to the keyring, makes it the active one, re-encrypts every value, and
// destroys the old key.
//
// It promises that at every moment the stored keyring and that of every running service
// can decrypt each value; that it can be killed anywhere and finishes when it is run
// again; and that the old key is destroyed only after the database counted that nothing
// is encrypted with it, neither a value nor a message that waits for the end service.
// The key is then removed from the keyring. Copies of the old keyring, and backups of the
// database from before, remain. Digest and signing keys are not changed.
package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store/instances"
	"trakr/internal/store/outbox"
	"trakr/internal/store/tenants"
)

// Config is what a rotation works with.
type Config struct {
	Door      *tenants.Door
	Instances *instances.Store
	Outbox    *outbox.Store
	Keys      *keyring.Keyring // the door's and the outbox's
	Source    keyring.Source   // where the keyring is stored
	// Out takes the keyring without the old key where it is not changed in place; nil
	// where it is.
	Out func(stored []byte) error
	// Wait is how long running services may take to load a new key.
	Wait time.Duration
	// Report is called with a line for each step; Progress with how many more values and
	// messages are re-encrypted, of how many there were.
	Report   func(line string)
	Progress func(more, total int64)
	// After is called when a step is durable, for tests that kill the process there.
	After func(step string)
}

// The steps' names. Batches are "batch 1" and so on.
const (
	Stage     = "stage"     // the keyring has the new key, which encrypts nothing yet
	Activate  = "activate"  // the new key encrypts, the old one only decrypts
	Batch     = "batch"     // some tenants or messages are re-encrypted
	Reencrypt = "reencrypt" // all are
	Unlist    = "unlist"    // the keyring lacks the old key
	Destroy   = "destroy"   // and that is recorded
)

// Rotation is one run.
type Rotation struct{ c Config }

// New returns a rotation.
func New(c Config) (*Rotation, error) {
	if c.Door == nil || c.Instances == nil || c.Outbox == nil || c.Keys == nil || c.Report == nil || c.Progress == nil {
		return nil, errors.New("a rotation needs a door, the instances, an outbox, their keyring, and functions that report")
	}
	if c.After == nil {
		c.After = func(string) {}
	}
	return &Rotation{c}, nil
}

// Plan is what a run would do.
type Plan struct {
	Underway bool            `json:"underway"`          // an earlier run activated a key and did not finish
	Active   keyring.KeyID   `json:"active_key"`        // encrypts now
	New      keyring.KeyID   `json:"new_key,omitempty"` // would encrypt; 0: is yet to be made
	Retired  []keyring.KeyID `json:"retired_keys"`      // would be destroyed
	Values   int64           `json:"values"`            // would be re-encrypted, waiting messages included
	Services int             `json:"services"`          // run
	Behind   int             `json:"services_without_new_key"`
}

// Plan reads the keyring and the database and changes nothing.
func (r *Rotation) Plan(ctx context.Context) (Plan, error) {
	p := Plan{Retired: []keyring.KeyID{}}
	keys, err := r.c.Door.FieldKeys(ctx)
	if err != nil {
		return p, err
	}
	var total int64
	for _, k := range keys {
		total += k.Values
		switch k.State {
		case tenants.KeyActive:
			p.Active = k.ID
			total -= k.Values
		case tenants.KeyRetired:
			p.Underway = true
			p.Retired = append(p.Retired, k.ID)
		case tenants.KeyStaged:
			p.New = k.ID // the one added last
		}
	}
	p.Values = total
	if !p.Underway {
		p.Retired = append(p.Retired, p.Active)
		for _, k := range keys {
			if k.State == tenants.KeyActive {
				p.Values += k.Values
			}
		}
	} else {
		p.New = p.Active
	}
	running, err := r.c.Instances.List(ctx)
	if err != nil {
		return p, err
	}
	p.Services = len(running)
	for _, h := range running {
		if !h.HasKey(p.New) {
			p.Behind++
		}
	}
	return p, nil
}

// Done is what a run did.
type Done struct {
	Resumed  bool            `json:"resumed"` // it finished what an earlier run began
	Active   keyring.KeyID   `json:"active_key"`
	Old      []keyring.KeyID `json:"old_keys"`
	Tenants  int             `json:"tenants"` // re-encrypted by this run
	Values   int             `json:"values"`
	Messages int             `json:"messages"` // to the end service, re-encrypted by this run
	// With a value that no key decrypts.
	Undecryptable         int  `json:"unopened_tenants"`
	UndecryptableMessages int  `json:"unopened_messages"`
	Contact               int  `json:"tenants_with_contact_data"` // stored by a version that did not check that
	Destroyed             bool `json:"destroyed"`                 // the old keys were removed, and that is recorded
	Written               bool `json:"handed_out"`                // the keyring without the old keys was written elsewhere
}

// ErrUndecryptable means that no key of the keyring decrypts some values. They are not
// changed, and no key is removed.
var ErrUndecryptable = errors.New("no key of the keyring decrypts some values; they were not changed, and the old key is kept. " +
	"Look for a change made around the service with: trakr audit verify")

// ErrContact means that values look like contact data, which this version would not have
// stored. They are not changed, and no key is removed.
var ErrContact = errors.New("values look like an e-mail address or a telephone number, which must not be kept; " +
	"they were not changed, and the old key is kept. " +
	"The audit names the tenants (trakr audit list --action tenant.reencrypt --outcome failure): " +
	"erase each by a deletion request, or have the app installed again there, and run this again")

// Run rotates, or finishes what an earlier run began. Whenever it fails, every value can
// be decrypted and the next run continues.
func (r *Rotation) Run(ctx context.Context, a lifecycle.Access) (Done, error) {
	p, err := r.Plan(ctx)
	if err != nil {
		return Done{}, err
	}
	done := Done{Resumed: p.Underway, Active: p.New, Old: p.Retired}
	if p.Underway {
		r.c.Report(fmt.Sprintf("finishing the rotation to key %s", p.New))
	} else if err := r.replaceKey(ctx, a, &done); err != nil {
		return done, err
	}
	// A crash here leaves values under two keys, both of which the keyring has; the next
	// run re-encrypts the rest.
	if err := r.reencrypt(ctx, a, p.Values, &done); err != nil {
		return done, err
	}
	r.c.After(Reencrypt)
	return done, r.destroy(ctx, a, &done)
}

// ErrElsewhere means that the keyring is not changed in place, and what that needs is
// missing.
var ErrElsewhere = errors.New("a keyring that is not changed in place is rotated in steps: " +
	"trakr keys add --out FILE; give FILE's keyring to every service and to this command; " +
	"trakr keys rotate --out FILE2; give FILE2's to them; trakr keys rotate")

func elsewhere(err error) error {
	if errors.Is(err, keyring.ErrNotInPlace) {
		return fmt.Errorf("%w; %w", err, ErrElsewhere)
	}
	return err
}

// replaceKey adds a new key to the keyring and makes it the active one.
func (r *Rotation) replaceKey(ctx context.Context, a lifecycle.Access, done *Done) error {
	switch err := r.c.Source.InPlace(); {
	case r.c.Out != nil && done.Active == 0:
		return ErrElsewhere
	case r.c.Out == nil && err != nil:
		return elsewhere(err)
	}
	if done.Active == 0 {
		if err := r.c.Source.Edit(keyring.AddFieldKey(&done.Active)); err != nil {
			return err
		}
		r.c.Report(fmt.Sprintf("key %s is in the keyring", done.Active))
	}
	if _, err := r.c.Keys.Reload(); err != nil {
		return err
	}
	// A crash here leaves a keyring with one key more, which the next run uses.
	r.c.After(Stage)
	if err := r.awaitInstances(ctx, done.Active); err != nil {
		return err
	}
	err := r.c.Door.ActivateKey(ctx, a, done.Active)
	if errors.Is(err, tenants.ErrInstanceLacksKey) { // one that has just started
		if err = r.awaitInstances(ctx, done.Active); err == nil {
			err = r.c.Door.ActivateKey(ctx, a, done.Active)
		}
	}
	if err != nil {
		return err
	}
	r.c.Report(fmt.Sprintf("values are encrypted with key %s from now on", done.Active))
	r.c.After(Activate)
	return nil
}

// awaitInstances waits until every running service has the new key.
func (r *Rotation) awaitInstances(ctx context.Context, id keyring.KeyID) error {
	for begin, reported := time.Now(), false; ; {
		running, err := r.c.Instances.List(ctx)
		if err != nil {
			return err
		}
		behind := 0
		for _, h := range running {
			if !h.HasKey(id) {
				behind++
			}
		}
		if behind == 0 {
			return nil
		}
		if time.Since(begin) >= r.c.Wait {
			return fmt.Errorf("%d of %d running services do not have the new key %s, so values are still encrypted with the old one "+
				"and nothing is lost. Give them this keyring (TRAKR_KEYS; one that is given as text or as a copy needs a restart) "+
				"and run this again", behind, len(running), id)
		}
		if !reported {
			reported = true
			r.c.Report(fmt.Sprintf("waiting for %d of %d running services to load key %s", behind, len(running), id))
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// patience is how long a rotation continues when every tenant that is left is being
// changed by other transactions.
const patience = time.Minute

// reencrypt re-encrypts everything that is not encrypted with the active key: values,
// then waiting messages.
func (r *Rotation) reencrypt(ctx context.Context, a lifecycle.Access, total int64, done *Done) error {
	undecryptable, contact := map[lifecycle.TenantID]bool{}, map[lifecycle.TenantID]bool{}
	err := r.untilNoneBusy(ctx, total, func() pass {
		var after lifecycle.TenantID
		return func(ctx context.Context) (batch, error) {
			b, err := r.c.Door.Reencrypt(ctx, a, after)
			after = b.Last
			for _, id := range b.Undecryptable {
				undecryptable[id] = true
			}
			for _, id := range b.Contact {
				contact[id] = true
			}
			done.Contact = len(contact)
			done.Tenants, done.Values, done.Undecryptable = done.Tenants+b.Tenants, done.Values+b.Values, len(undecryptable)
			return batch{done: after == lifecycle.TenantID{}, changed: b.Values, busy: b.Busy}, err
		}
	})
	if err != nil {
		return err
	}
	err = r.untilNoneBusy(ctx, total, func() pass {
		var after uuid.UUID
		done.UndecryptableMessages = 0
		return func(ctx context.Context) (batch, error) {
			b, err := r.c.Outbox.Reencrypt(ctx, a, after)
			after = b.Last
			done.Messages, done.UndecryptableMessages = done.Messages+b.Payloads, done.UndecryptableMessages+b.Unopened
			return batch{done: after == uuid.Nil, changed: b.Payloads, busy: b.Busy}, err
		}
	})
	if err == nil && done.Undecryptable+done.UndecryptableMessages > 0 {
		err = fmt.Errorf("%d tenants and %d messages: %w", done.Undecryptable, done.UndecryptableMessages, ErrUndecryptable)
	}
	if done.Contact > 0 {
		err = errors.Join(err, fmt.Errorf("%d tenants: %w", done.Contact, ErrContact))
	}
	return err
}

// pass does the next batch of one walk through all values or all messages.
type pass func(context.Context) (batch, error)

// batch is what it did.
type batch struct {
	done    bool // there was nothing left
	changed int  // re-encrypted
	busy    int  // skipped, because another transaction is changing it
}

// untilNoneBusy makes passes until one skips nothing.
func (r *Rotation) untilNoneBusy(ctx context.Context, total int64, begin func() pass) error {
	for last, n := time.Now(), 0; ; {
		busy, next := 0, begin()
		for {
			b, err := next(ctx)
			if err != nil {
				return err
			}
			if b.done {
				break
			}
			busy += b.busy
			if b.changed > 0 {
				last = time.Now()
				n++
				r.c.After(fmt.Sprintf("%s %d", Batch, n))
			}
			r.c.Progress(int64(b.changed), total)
		}
		if busy == 0 {
			return nil
		}
		if time.Since(last) > patience {
			return fmt.Errorf("%d tenants or messages are being changed all the time; every value can be decrypted, "+
				"and the old key is kept. Run this again", busy)
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// destroy removes every key but the active one from the keyring, once the database
// counted that nothing is encrypted with them, and records that.
func (r *Rotation) destroy(ctx context.Context, a lifecycle.Access, done *Done) error {
	keys, err := r.c.Door.FieldKeys(ctx)
	if err != nil {
		return err
	}
	inKeyring := false
	for _, k := range keys {
		if k.ID == done.Active {
			continue
		}
		if k.Values > 0 {
			return fmt.Errorf("%d values need key %s, so it is kept. Nothing is lost: run this again: %w",
				k.Values, k.ID, tenants.ErrKeyInUse)
		}
		inKeyring = inKeyring || k.InKeyring
	}
	if inKeyring && r.c.Out != nil {
		b, err := r.c.Source.Changed(keyring.KeepFieldKey(done.Active))
		if err != nil {
			return err
		}
		done.Written = true
		return r.c.Out(b) // the stored keyring still has the old key, so its removal is not recorded yet
	}
	if inKeyring {
		if err := r.c.Source.InPlace(); err != nil {
			return fmt.Errorf("every value is encrypted with key %s, and the old key is still in the keyring: %w",
				done.Active, elsewhere(err))
		}
		if err := r.c.Source.Edit(keyring.KeepFieldKey(done.Active)); err != nil {
			return err
		}
		if _, err := r.c.Keys.Reload(); err != nil {
			return err
		}
	}
	// A crash here leaves a retired key recorded that no keyring has; the next run records
	// that it is destroyed.
	r.c.After(Unlist)
	for _, id := range done.Old {
		if slices.Contains(r.c.Keys.FieldKeys(), id) {
			return fmt.Errorf("the key %s is still in the keyring", id)
		}
		if err := r.c.Door.DestroyKey(ctx, a, id); err != nil {
			return err
		}
	}
	r.c.After(Destroy)
	done.Destroyed = true
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
