package tenants

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/google/uuid"

	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
	"trakr/policy"
)

// Reading is what one read released, and the event that records it. A field the
// tenant does not have is recorded as read and absent from Values.
type Reading struct {
	EventID uuid.UUID
	Values  lifecycle.Values
}

// Read releases the named fields of one tenant, exactly those and none besides,
// to a caller whose role and reason the policy allows for each.
//
// Errors: reason-required, field-not-allowed, request-invalid (no field, or one
// twice), tenant-unknown, tenant-erased, audit-unavailable, store-unavailable.
// Every refusal is recorded.
func (d *Door) Read(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, fields ...lifecycle.Field) (Reading, error) {
	if err := d.mayRead(a, fields); err != nil {
		e := audit.New(ctx, d.log.Now(), a, audit.TenantRead, audit.Denied)
		e.TenantID, e.FieldNames = id, known(fields)
		return Reading{}, d.deny(ctx, e, err)
	}
	return d.release(ctx, a, readRequest{tenant: id, fields: fields})
}

// Secret releases the shared secret to the code that verifies callbacks and to no
// other caller: no policy can open it to an API. It is an audited read.
func (d *Door) Secret(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID) (lifecycle.Secret, error) {
	err := a.Check()
	if a.Caller.Role != lifecycle.RoleIngress {
		err = lifecycle.Fail(lifecycle.FieldNotAllowed, "The shared secret is never released.")
	}
	if err != nil {
		e := audit.New(ctx, d.log.Now(), a, audit.TenantRead, audit.Denied)
		e.TenantID, e.FieldNames = id, []lifecycle.Field{lifecycle.SharedSecret}
		return lifecycle.Secret{}, d.deny(ctx, e, err)
	}
	r, err := d.release(ctx, a, readRequest{tenant: id, fields: []lifecycle.Field{lifecycle.SharedSecret}})
	return r.Values[lifecycle.SharedSecret], err
}

// Installation is the identity with which the liveness sweep asks Bitbucket whether the
// app is still installed.
type Installation struct{ ClientKey, Secret, WorkspaceUUID lifecycle.Secret }

// Installation releases it to the liveness sweep and to no other caller: no policy can
// open it to an API, a person or another part of the service. It is an audited read.
func (d *Door) Installation(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID) (Installation, error) {
	fields := []lifecycle.Field{lifecycle.ClientKey, lifecycle.SharedSecret, lifecycle.PrincipalUUID}
	err := a.Check()
	if a.Caller.Role != lifecycle.RoleScheduler || a.Caller.Type != lifecycle.ActorScheduler || a.Reason.Code != lifecycle.SystemSweep {
		err = lifecycle.Fail(lifecycle.FieldNotAllowed, "What an installation is proven with is never released.")
	}
	if err != nil {
		e := audit.New(ctx, d.log.Now(), a, audit.TenantRead, audit.Denied)
		e.TenantID, e.FieldNames = id, fields
		return Installation{}, d.deny(ctx, e, err)
	}
	r, err := d.release(ctx, a, readRequest{tenant: id, fields: fields})
	return Installation{ClientKey: r.Values[lifecycle.ClientKey], Secret: r.Values[lifecycle.SharedSecret],
		WorkspaceUUID: r.Values[lifecycle.PrincipalUUID]}, err
}

// Signing is what a request to Bitbucket is signed with, and the event that records its
// use.
type Signing struct {
	ClientKey, Secret lifecycle.Secret
	EventID           uuid.UUID
}

// signsToken is the detail of a read whose values sign a token: the caller sees neither.
const signsToken = "signs a token"

// Signing releases it to the code that makes tokens for Bitbucket, which returns the
// token and never the secret. Only a service may ask, for a reason that the policy has
// for the client key, which the token names to the recipient. The read is recorded, with
// the recipient's host and as one that signs a token, before it returns.
//
// Errors: those of Read.
func (d *Door) Signing(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, recipient string) (Signing, error) {
	fields := []lifecycle.Field{lifecycle.ClientKey, lifecycle.SharedSecret}
	err := a.Check()
	rule, declared := d.policy.Field(lifecycle.ClientKey)
	if err == nil && (a.Caller.Role != lifecycle.RoleService || !declared || rule.Off || !allows(rule, a)) {
		err = lifecycle.Fail(lifecycle.FieldNotAllowed,
			"The policy does not release the client key, which a token names, to this role for this reason; nothing was signed.",
			lifecycle.At("/reason/code", "not a reason for which the policy releases client_key"))
	}
	if err != nil {
		e := audit.New(ctx, d.log.Now(), a, audit.TenantRead, audit.Denied)
		e.TenantID, e.FieldNames = id, fields
		return Signing{}, d.deny(ctx, e, err)
	}
	r, err := d.release(ctx, a, readRequest{tenant: id, fields: fields, use: signsToken, recipient: recipient})
	return Signing{ClientKey: r.Values[lifecycle.ClientKey], Secret: r.Values[lifecycle.SharedSecret], EventID: r.EventID}, err
}

// NoSecret replaces Secret when no live tenant has the subject: it commits an equal
// event, in one statement of the same kind, and returns a random secret. So neither the
// answer nor its time reveals which tenants exist.
func (d *Door) NoSecret(ctx context.Context, a lifecycle.Access, s Subject) (lifecycle.Secret, error) {
	_, digests, err := d.digests(s)
	if err != nil {
		return lifecycle.Secret{}, err
	}
	e := audit.New(ctx, d.log.Now(), a, audit.TenantRead, audit.Denied)
	e.FieldNames, e.SubjectDigest = []lifecycle.Field{lifecycle.SharedSecret}, digests[0].String()
	e.StatusDetail = string(lifecycle.TenantUnknown)
	_, err = pg.Pool(d.db).Exec(ctx, `SELECT door.append($1)`, [][]byte{e.Record()})
	return lifecycle.NewSecret(rand.Text()), audit.Unavailable(err)
}

// mayRead checks caller, reason and fields against the policy, before anything is read.
func (d *Door) mayRead(a lifecycle.Access, fields []lifecycle.Field) error {
	if err := a.Check(); err != nil {
		return err
	}
	if len(fields) == 0 || len(fields) > MaxFields {
		return lifecycle.Fail(lifecycle.RequestInvalid, fmt.Sprintf("A read names 1 to %d fields.", MaxFields),
			lifecycle.At("/fields", fmt.Sprintf("1 to %d field names", MaxFields)))
	}
	var at []lifecycle.Option
	for i, f := range fields {
		pointer := "/fields/" + strconv.Itoa(i)
		rule, declared := d.policy.Field(f)
		switch {
		case !f.Valid() || !declared:
			at = append(at, lifecycle.At(pointer, "not a declared field"))
		case slices.Contains(fields[:i], f):
			at = append(at, lifecycle.At(pointer, "named twice"))
		case rule.Off:
			at = append(at, lifecycle.At(pointer, "switched off in the policy: it is not kept"))
		case rule.Credential:
			at = append(at, lifecycle.At(pointer, "a credential, never released"))
		case !allows(rule, a):
			at = append(at, lifecycle.At(pointer, "not released to this role for this reason"))
		}
	}
	if at != nil {
		return lifecycle.Fail(lifecycle.FieldNotAllowed, "The policy does not release every field asked for; nothing was released.", at...)
	}
	return nil
}

func allows(r policy.FieldRule, a lifecycle.Access) bool {
	return slices.Contains(r.Readers, a.Caller.Role) && slices.Contains(r.Reasons, a.Reason.Code)
}

// known keeps the names of guarded fields: other text of a caller is not recorded.
func known(fields []lifecycle.Field) []lifecycle.Field {
	var out []lifecycle.Field
	for _, f := range fields {
		if f.Valid() && !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

// readRequest is one read that the policy has allowed.
type readRequest struct {
	tenant lifecycle.TenantID
	fields []lifecycle.Field
	// Both are recorded, and "" where the values are only returned to the caller.
	use       string // what the values are used for: signsToken
	recipient string // the host to which the result is sent
}

// release records the read and returns the values. While keys are rotated a value can
// be encrypted with a key that came after this service's keyring was read, or with one
// that was removed from it since the row was read: then both are read once more, which
// is another read in the audit.
func (d *Door) release(ctx context.Context, a lifecycle.Access, r readRequest) (Reading, error) {
	out, err := d.releaseOnce(ctx, a, r)
	if !errors.As(err, new(*keyring.MissingKey)) {
		return out, err
	}
	if err := d.reloadKeys(ctx); err != nil {
		return Reading{}, fmt.Errorf("reading a tenant: %w", err)
	}
	out, err = d.releaseOnce(ctx, a, r)
	if errors.As(err, new(*keyring.MissingKey)) {
		err = outdated(err)
	}
	return out, err
}

// releaseOnce is where a read is recorded: the batcher commits the event together with
// fetching the values, and they are decrypted only after that commit.
func (d *Door) releaseOnce(ctx context.Context, a lifecycle.Access, r readRequest) (Reading, error) {
	e := audit.New(ctx, d.log.Now(), a, audit.TenantRead, audit.Success)
	e.TenantID, e.FieldNames, e.StatusDetail, e.Recipient = r.tenant, r.fields, r.use, r.recipient
	got := d.reads.read(ctx, e.Record())
	err := got.released()
	if errors.Is(err, lifecycle.TenantErased) || errors.Is(err, lifecycle.TenantUnknown) {
		return Reading{}, d.deny(ctx, e, err)
	}
	if err != nil {
		return Reading{}, err
	}
	values, err := d.decrypt(r.tenant, got.stored, r.fields)
	if err != nil {
		return Reading{}, fmt.Errorf("reading a tenant: %w", err)
	}
	return Reading{EventID: e.EventID, Values: values}, nil
}
