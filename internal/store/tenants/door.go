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

// Door is the door of one database. It is safe for concurrent use.
type Door struct {
	db     *store.DB
	keys   *keyring.Keyring
	policy *policy.Policy
	log    *audit.Log

	eraseFrom []erasableTable // tables whose rows of a tenant go with it
	reads     *batcher
	tell      *egress.Guard // nil: there is no end service to be told
	entered   func()        // called after a commit that entered a delivery
}

// Telling has every install, change and erasure entered for the end service, in its
// own transaction; entered is called after each such commit. Call it before anything
// acts. Without it nothing is entered but the notices for an end service that was told
// of the tenant in an earlier life.
func (d *Door) Telling(g *egress.Guard, entered func()) { d.tell, d.entered = g, entered }

// announce enters that the end service is to be told.
func (d *Door) announce(ctx context.Context, tx bun.Tx, a lifecycle.Access, k egress.Kind, id lifecycle.TenantID, values lifecycle.Values, now time.Time) error {
	if d.tell == nil {
		return nil
	}
	return outbox.Announce(ctx, tx, d.tell, d.keys, a, k, id, values, now)
}

// New returns a door. It refuses to exist without a log, keys or a policy, and
// with a policy under which values would outlive their tenant or no uninstall
// could succeed. Close it in the end.
func New(ctx context.Context, db *store.DB, keys *keyring.Keyring, p *policy.Policy, log *audit.Log) (*Door, error) {
	if db == nil || keys == nil || p == nil || log == nil {
		return nil, errors.New("the door needs a database, a keyring, a policy and an audit log")
	}
	tables, err := erasable(p)
	if err != nil {
		return nil, err
	}
	if err := reachable(ctx, db, tables); err != nil {
		return nil, err
	}
	return &Door{db: db, keys: keys, policy: p, log: log, eraseFrom: tables, reads: newBatcher(db), entered: func() {}}, nil
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
