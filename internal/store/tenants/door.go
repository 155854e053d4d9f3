// Package tenants is THE DOOR: the only way to the guarded values of a tenant.
//
// Every method takes an Access (who, why) and commits its audit event in the
// same transaction as the act; a value is released only after that commit is
// confirmed. When the event cannot be written the act does not happen. A refused
// attempt is recorded in a transaction of its own. Values lie sealed in the
// database and pass through memory as lifecycle.Secret.
//
// It decides nothing about signatures or HTTP; its callers verify first.
package tenants

import (
	"context"
	"errors"
	"fmt"
	"time"

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
// could succeed. Close it in the end.
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
	return &Door{db: c.DB, keys: c.Keys, policy: c.Policy, log: c.Log, endService: c.EndService, eraseFrom: tables, reads: newBatcher(c.DB)}, nil
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

// Tenant is the registry's entry: no customer data.
type Tenant struct {
	ID          lifecycle.TenantID    `json:"tenant_id"`
	State       lifecycle.TenantState `json:"state"`
	Ingress     lifecycle.Ingress     `json:"ingress"`
	InstalledAt time.Time             `json:"installed_at"`
	UpdatedAt   time.Time             `json:"updated_at"`
	ErasedAt    *time.Time            `json:"erased_at,omitempty"`
	Version     Version               `json:"-"`
}

// Version changes whenever the registry's entry does, and so whenever the tenant's
// secret does.
type Version int64

// Subject is what a tenant is looked up by: exactly one member is set.
type Subject struct {
	ClientKey     lifecycle.Secret
	WorkspaceUUID lifecycle.Secret // lower case, without braces
}

func (d *Door) digests(s Subject) (column string, all []keyring.Digest, err error) {
	if s.ClientKey.Empty() == s.WorkspaceUUID.Empty() {
		return "", nil, lifecycle.Fail(lifecycle.RequestInvalid, "A look-up names exactly one of client_key and workspace_uuid.")
	}
	if !s.ClientKey.Empty() {
		all, err = d.keys.Digests(keyring.Subject, s.ClientKey)
		return "subject_digest", all, err
	}
	all, err = d.keys.Digests(keyring.Principal, s.WorkspaceUUID)
	return "principal_digest", all, err
}

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
	Detail  string             // closed-set word, e.g. "signature"
}

// Deny records a refused attempt. It takes no key names of the payload: they
// are the words of a sender who proved nothing, and the record is for ever.
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
