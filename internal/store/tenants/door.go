// Package tenants is the door: the only way to the guarded values of a tenant.
//
// Every method takes an Access (who, why) and commits its audit event in the
// same transaction as the act; a value is released only after that commit is
// confirmed. When the event cannot be written the act does not happen. A refused
// attempt is recorded in a transaction of its own. Values are encrypted in the
// database and pass through memory as lifecycle.Secret.
//
// A value takes this way, in this order:
//
//  1. A callback names its tenant: Door.Lookup or Door.Find (lookup.go). Door.Secret
//     (read.go) releases the secret that verifies it.
//  2. Door.Install and Door.Update (write.go) encrypt the values (values.go), append the
//     event, write the rows and announce them to the end service in one transaction.
//     The replay guard (replay.go) makes the same delivery act once.
//  3. Door.Read (read.go) checks the policy, then Door.releaseOnce passes the event to the
//     batcher, and batcher.commit (batch.go) records it and fetches the values in one
//     statement. Only after its commit are they decrypted and returned.
//  4. Door.BeginErasure and Door.Delete (erase.go) remove them; package erasure calls both.
//
// Beside that way: Door.Reencrypt (reencrypt.go) replaces the key of stored values,
// fieldkeys.go has the states of the keys, and Door.RemoveSwitchedOff (switchedoff.go)
// removes the fields that the policy switches off.
//
// The package verifies no signature and knows no HTTP; its callers verify first.
package tenants

import (
	"context"
	"errors"
	"fmt"

	"github.com/uptrace/bun"

	"trakr/internal/egress"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/outbox"
	"trakr/policy"
)

// Config is what a Door works with. All but EndService is required.
type Config struct {
	DB     *store.DB
	Keys   *keyring.Keyring
	Policy *policy.Policy
	Log    *audit.Log
	// EndService is where installs, changes and erasures are announced. Without it only
	// the erasure of a tenant that an end service knows from before is announced.
	EndService *EndService
}

// EndService is how the door announces to the end service: each event enters the outbox
// in the transaction of its act, and Outbox is notified after the commit.
type EndService struct {
	Guard  *egress.Guard
	Outbox *outbox.Store
}

// Door is the door of one database. It is safe for concurrent use.
type Door struct {
	db         *store.DB
	keys       *keyring.Keyring
	policy     *policy.Policy
	log        *audit.Log
	endService *EndService // nil: none is configured

	eraseFrom []erasableTable // tables that lose a tenant's rows at its erasure
	reads     *batcher
}

// New returns a door. It refuses to exist without a log, keys or a policy, and
// with a policy under which values would outlive their tenant or no uninstall
// could succeed. Close it at the end.
func New(ctx context.Context, c Config) (*Door, error) {
	if c.DB == nil || c.Keys == nil || c.Policy == nil || c.Log == nil {
		return nil, errors.New("the door needs a database, a keyring, a policy and an audit log")
	}
	if e := c.EndService; e != nil && (e.Guard == nil || e.Outbox == nil) {
		return nil, errors.New("a door that announces to the end service needs a guard and an outbox")
	}
	tables, err := erasable(c.Policy)
	if err != nil {
		return nil, err
	}
	if err := reachable(ctx, c.DB, tables); err != nil {
		return nil, err
	}
	return &Door{db: c.DB, keys: c.Keys, policy: c.Policy, log: c.Log, endService: c.EndService,
		eraseFrom: tables, reads: newBatcher(c.DB)}, nil
}

// announce enters an announcement into the outbox, in the transaction of the act.
func (d *Door) announce(ctx context.Context, tx bun.Tx, a lifecycle.Access, x outbox.Announcement) error {
	if d.endService == nil {
		return nil
	}
	return d.endService.Outbox.Announce(ctx, tx, d.endService.Guard, a, x)
}

// notify wakes the sender after the commit of an act that announced something. A crash
// before it only delays the announcement until the sender's next poll.
func (d *Door) notify() {
	if d.endService != nil {
		d.endService.Outbox.Notify()
	}
}

// Close ends the door's work after the reads under way; later ones are refused.
func (d *Door) Close() { d.reads.close() }

// deny records a refused attempt and returns the refusal, or the reason why it
// could not be recorded: an unrecorded denial is not an answer.
func (d *Door) deny(ctx context.Context, e audit.Event, refusal error) error {
	e.Outcome = audit.Denied
	e.StatusDetail = string(lifecycle.AsFault(refusal).Kind)
	if r := lifecycle.AsFault(refusal).Reason; r != "" {
		e.StatusDetail = r
	}
	if err := d.log.Record(ctx, e); err != nil {
		return err
	}
	return refusal
}

// Denial is an attempt that a caller of the door refused before any act.
type Denial struct {
	Action  audit.Action
	Tenant  lifecycle.TenantID // zero when none is known
	Subject lifecycle.Secret   // the client key it named; recorded as keyed digest
	Detail  string             // one of a closed set, e.g. "signature"
}

// Deny records a refused attempt. It takes no key names of the payload: they come
// from a sender who proved nothing, and the record is permanent.
func (d *Door) Deny(ctx context.Context, a lifecycle.Access, n Denial) error {
	e := audit.New(ctx, d.log.Now(), a, n.Action, audit.Denied)
	e.TenantID, e.StatusDetail = n.Tenant, n.Detail
	if !n.Subject.Empty() {
		sum, err := d.keys.Digest(keyring.Subject, n.Subject)
		if err != nil {
			return fmt.Errorf("recording a denial: %w", err)
		}
		e.SubjectDigest = sum.String()
	}
	return d.log.Record(ctx, e)
}
