package ingress

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"trakr/internal/connect"
	"trakr/internal/erasure"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/tenants"
)

// delivery is one callback while it is handled.
type delivery struct {
	Claim
	form     opened
	action   audit.Action
	received time.Time
	request  string
	limited  bool // its source has failed too often
}

func (d *delivery) clientKey() lifecycle.Secret { return d.Values[lifecycle.ClientKey] }

func (d *delivery) subject() tenants.Subject { return tenants.Subject{ClientKey: d.clientKey()} }

// unproven is the access of a sender whose signature and possession of the secret
// are not proven yet.
func (d *delivery) unproven() lifecycle.Access { return d.access(lifecycle.ActorAnonymous) }

// proven is the access of a sender that was proven to be the platform.
func (d *delivery) proven() lifecycle.Access { return d.access(lifecycle.ActorBitbucket) }

func (d *delivery) access(sender lifecycle.ActorType) lifecycle.Access {
	return lifecycle.Access{
		Caller:    lifecycle.Caller{Type: sender, ID: string(d.form.ingress), Role: lifecycle.RoleIngress},
		Reason:    lifecycle.Reason{Code: lifecycle.ServiceOperation},
		RequestID: d.request,
	}
}

// stored is what is passed to the door for a proven callback. The names of dropped
// keys are recorded only here: before the proof they are an unknown sender's text.
func (d *delivery) stored() tenants.Delivery {
	v := tenants.Delivery{Ingress: d.form.ingress, ReceivedAt: d.received, Dropped: d.Dropped}
	if d.Token != nil {
		v.TokenHash, v.IssuedAt, v.Remember = d.Token.Hash, d.Token.IssuedAt, d.Token.ExpiresAt.Add(connect.Leeway)
	}
	return v
}

// install acts on an install. For a live tenant, a token signed with its stored
// secret is mandatory. For any other, the platform is asked to prove the offered
// secret, and a new tenant is created.
//
// A sender who can make the platform's API fail, or who measures how long a call
// to it takes, can distinguish the two branches: a live tenant is refused with 401
// at once, an unknown one only after the platform was asked, and with 503 when it
// does not answer. Both are required (401 is mandatory for a live tenant; an outage
// of the platform refuses nothing), and asking the platform about every forgery
// would let unknown senders use up our calls.
func (g *Gate) install(ctx context.Context, d *delivery) (tenants.Result, error) {
	t, err := g.lookup(ctx, d)
	if err != nil {
		return "", err
	}
	if t != nil {
		return g.update(ctx, d, t)
	}
	if d.limited {
		return "", g.deny(ctx, d, lifecycle.TenantID{}, "proof-not-asked")
	}
	if err := d.form.Prove(ctx, d.Values); errors.Is(err, lifecycle.SignatureInvalid) {
		return "", g.deny(ctx, d, lifecycle.TenantID{}, "proof-refused")
	} else if err != nil {
		return "", err // nothing was stored; the platform may try again
	}
	_, result, err := g.door.Install(ctx, d.proven(), d.Values, d.stored())
	if err == nil && result == tenants.Stale {
		// Sent before the erasure. The secret that signed it is deleted, so its token
		// proves nothing, and the answer is that of every token that does not.
		return "", d.notProven(string(result))
	}
	return result, err
}

// update acts on a further install of a live tenant.
func (g *Gate) update(ctx context.Context, d *delivery, t *tenants.Tenant) (tenants.Result, error) {
	d.action = audit.TenantUpdate
	secret, err := g.verify(ctx, d, t)
	if err != nil {
		return "", err
	}
	v := d.stored()
	v.Version = t.Version
	if secret != d.Values[lifecycle.SharedSecret] {
		v.Slack = connect.Leeway
	}
	return g.door.Update(ctx, d.proven(), t.ID, d.Values, v)
}

// uninstall acts on an uninstall. An unknown tenant gets the answer of a bad
// signature, after the same work.
func (g *Gate) uninstall(ctx context.Context, d *delivery) (tenants.Result, error) {
	t, err := g.lookup(ctx, d)
	if err != nil {
		return "", err
	}
	if _, err := g.verify(ctx, d, t); err != nil {
		return "", err
	}
	v := d.stored()
	v.Version = t.Version
	order := erasure.Order{Trigger: lifecycle.TriggerUninstall, RequestedAt: d.received, Delivery: v}
	out, err := g.eraser.Erase(ctx, d.proven(), t.ID, order)
	switch {
	case err != nil:
		return "", err
	case out.Already: // by a concurrent uninstall, just now
		return tenants.Replayed, nil
	}
	// A begun erasure is a success for the platform: it sends an uninstall once, and
	// the tombstone ensures that the erasure is finished.
	return out.Result, nil
}

// lookup returns the live tenant of the client key, or nil when none is live. A
// database that does not answer is an error, never nil.
func (g *Gate) lookup(ctx context.Context, d *delivery) (*tenants.Tenant, error) {
	look := g.door.Lookup
	if d.limited {
		look = g.door.Find
	}
	t, err := look(ctx, d.unproven(), d.subject())
	switch {
	case errors.Is(err, lifecycle.TenantUnknown):
		return nil, nil
	case err != nil:
		return nil, err
	case t.State != lifecycle.Live:
		return nil, nil
	}
	return &t, nil
}

// verify checks the signature with the tenant's stored secret and returns the
// secret. Without a tenant it fails as a wrong signature does.
func (g *Gate) verify(ctx context.Context, d *delivery, t *tenants.Tenant) (lifecycle.Secret, error) {
	var id lifecycle.TenantID
	reason := "unknown-tenant"
	if t != nil {
		id, reason = t.ID, "signature"
	}
	if d.Token == nil {
		return lifecycle.Secret{}, g.deny(ctx, d, id, "no-token")
	}
	secret, err := g.secret(ctx, d, id)
	if errors.Is(err, lifecycle.TenantErased) || errors.Is(err, lifecycle.TenantUnknown) {
		return lifecycle.Secret{}, d.notProven("unknown-tenant") // erased since the look-up; already recorded
	}
	if err != nil {
		return lifecycle.Secret{}, err
	}
	if err := d.Token.Verify(secret); err != nil || t == nil {
		return lifecycle.Secret{}, g.deny(ctx, d, id, reason)
	}
	return secret, nil
}

// secret reads a tenant's secret, which is audited, at once or in the next round.
// For the zero tenant it does the same work and returns a random secret.
func (g *Gate) secret(ctx context.Context, d *delivery, id lifecycle.TenantID) (lifecycle.Secret, error) {
	read := func(ctx context.Context) (lifecycle.Secret, error) { return g.door.Secret(ctx, d.unproven(), id) }
	if !d.limited {
		if id.IsZero() {
			return g.door.NoSecret(ctx, d.unproven(), d.subject())
		}
		return read(ctx)
	}
	if id.IsZero() {
		read = func(context.Context) (lifecycle.Secret, error) { return lifecycle.NewSecret(rand.Text()), nil }
	}
	return g.rounds.secret(ctx, id, read)
}
