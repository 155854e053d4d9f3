package httpapi

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"trakr/internal/connect"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/tenants"
)

// maxPayload is several times the largest callback ever captured (2.4 KB).
const maxPayload = 64 << 10

// Prover asks Bitbucket whether an offered secret is a workspace's. Refused is
// signature-invalid; no answer is proof-unavailable.
type Prover interface {
	ProvePossession(ctx context.Context, workspaceUUID, clientKey, secret lifecycle.Secret) error
}

// callbacks handles what Bitbucket sends.
type callbacks struct {
	door     *tenants.Door
	verifier *connect.Verifier
	decoder  connect.Decoder
	prover   Prover // nil only with the development switch
	limiter  *failureLimiter
	now      func() time.Time
	log      *slog.Logger
	count    metric.Int64Counter
}

// errNotProven is the one answer to every callback that is not proven, so that
// it tells nothing about which tenants are held.
func errNotProven(reason string) error {
	return lifecycle.Fail(lifecycle.SignatureInvalid,
		"The callback is not proven: sign it with the shared secret of the preceding install.", lifecycle.Because(reason))
}

// delivery is one callback on its way through a handler.
type delivery struct {
	action   audit.Action
	token    *connect.Unverified // nil when unsigned
	values   lifecycle.Values
	dropped  []string
	received time.Time
	request  string
}

func (d *delivery) clientKey() lifecycle.Secret { return d.values[lifecycle.ClientKey] }

// access is who acts: the party is anonymous until its signature or its
// possession of the secret is proven.
func (d *delivery) access(proven bool) lifecycle.Access {
	c := lifecycle.Caller{Type: lifecycle.ActorAnonymous, ID: "connect", Role: lifecycle.RoleIngress}
	if proven {
		c.Type = lifecycle.ActorBitbucket
	}
	return lifecycle.Access{Caller: c, Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation}, RequestID: d.request}
}

func (d *delivery) stored(leeway time.Duration) tenants.Delivery {
	v := tenants.Delivery{ReceivedAt: d.received, Dropped: d.dropped}
	if d.token != nil {
		v.TokenHash, v.IssuedAt, v.Remember = d.token.TokenHash(), d.token.IssuedAt, d.token.ExpiresAt.Add(leeway)
	}
	return v
}

// installed handles POST /connect/installed.
//
// Tenant on file: a token signed with the stored secret is mandatory. Not on
// file: proof of possession with the offered secret, and a brand-new tenant.
func (c *callbacks) installed(w http.ResponseWriter, r *http.Request) {
	c.answer(w, r, "installed", func(ctx context.Context) (tenants.Result, error) {
		d, err := c.receive(w, r, audit.TenantInstall, func(body []byte) (connect.Payload, error) { return c.decoder.Installed(body) })
		if err != nil {
			return "", err
		}
		if again, err := c.repeated(ctx, d); again || err != nil {
			return tenants.Replayed, err
		}
		result, err := c.install(ctx, d)
		if errors.Is(err, tenants.ErrOnFile) {
			// Another first install of the same client key was quicker. From
			// here on this one is like any other against a tenant on file.
			result, err = c.install(ctx, d)
		}
		return result, err
	})
}

func (c *callbacks) install(ctx context.Context, d *delivery) (tenants.Result, error) {
	t, err := c.lookup(ctx, d)
	if err != nil {
		return "", err
	}
	if t != nil {
		d.action = audit.TenantUpdate
		if err := c.verify(ctx, d, t.ID); err != nil {
			return "", err
		}
		return c.door.Update(ctx, d.access(true), t.ID, d.values, d.stored(connect.Leeway))
	}
	if c.prover != nil {
		err := c.prover.ProvePossession(ctx, d.values[lifecycle.PrincipalUUID], d.clientKey(), d.values[lifecycle.SharedSecret])
		if errors.Is(err, lifecycle.SignatureInvalid) {
			return "", c.deny(ctx, d, lifecycle.TenantID{}, "proof-refused")
		}
		if err != nil {
			return "", err // nothing was stored; Bitbucket may try again
		}
	}
	_, result, err := c.door.Install(ctx, d.access(true), d.values, d.stored(connect.Leeway))
	return result, err
}

// uninstalled handles POST /connect/uninstalled. A tenant we do not hold gets
// the answer of a bad signature.
func (c *callbacks) uninstalled(w http.ResponseWriter, r *http.Request) {
	c.answer(w, r, "uninstalled", func(ctx context.Context) (tenants.Result, error) {
		d, err := c.receive(w, r, audit.TenantErase, func(body []byte) (connect.Payload, error) { return c.decoder.Uninstalled(body) })
		if err != nil {
			return "", err
		}
		if d.token == nil {
			return "", errNotProven("no-token")
		}
		if again, err := c.repeated(ctx, d); again || err != nil {
			return tenants.Replayed, err
		}
		t, err := c.lookup(ctx, d)
		if err != nil {
			return "", err
		}
		if t == nil {
			// The same work as for a bad signature, so that time tells nothing.
			_ = d.token.Verify(lifecycle.NewSecret(rand.Text()))
			return "", c.deny(ctx, d, lifecycle.TenantID{}, "unknown-tenant")
		}
		if err := c.verify(ctx, d, t.ID); err != nil {
			return "", err
		}
		result, err := c.door.Erase(ctx, d.access(true), t.ID, tenants.Erasure{
			Trigger: lifecycle.TriggerUninstall, RequestedAt: d.received, Delivery: d.stored(connect.Leeway)})
		if errors.Is(err, lifecycle.TenantErased) { // by a concurrent uninstall, just now
			return tenants.Replayed, nil
		}
		return result, err
	})
}

// repeated reports, and records, that this very delivery was acted upon before.
func (c *callbacks) repeated(ctx context.Context, d *delivery) (bool, error) {
	if d.token == nil {
		return false, nil
	}
	id, done, err := c.door.Delivered(ctx, d.token.TokenHash())
	if err != nil || !done {
		return false, err
	}
	return true, c.door.Deny(ctx, d.access(false), tenants.Denial{Action: d.action, Tenant: id, Detail: string(tenants.Replayed)})
}

// receive does everything that needs no database: size, token shape, times and
// qsh, then the payload's allow-list, then that both name the same tenant.
func (c *callbacks) receive(w http.ResponseWriter, r *http.Request, action audit.Action, decode func([]byte) (connect.Payload, error)) (*delivery, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPayload))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, lifecycle.Fail(lifecycle.PayloadTooLarge, "A callback has at most 65536 bytes.")
	}
	if err != nil {
		return nil, lifecycle.Fail(lifecycle.PayloadInvalid, "The payload did not arrive whole.")
	}
	d := &delivery{action: action, received: c.now().UTC(), request: requestID(r.Context())}
	d.token, err = c.verifier.Inspect(r)
	if err != nil && connect.ReasonOf(err) != connect.NoToken {
		return nil, err
	}
	p, err := decode(body)
	if err != nil {
		return nil, err
	}
	d.values, d.dropped = p.Values(), p.Dropped
	if d.token != nil && subtle.ConstantTimeCompare([]byte(d.token.Issuer.Reveal()), []byte(d.clientKey().Reveal())) != 1 {
		return nil, c.deny(r.Context(), d, lifecycle.TenantID{}, "client-key-mismatch")
	}
	return d, nil
}

// lookup returns the live tenant of the client key, or nil when none is live. A
// database that does not answer is an error, never nil.
func (c *callbacks) lookup(ctx context.Context, d *delivery) (*tenants.Tenant, error) {
	t, err := c.door.Lookup(ctx, d.access(false), tenants.Subject{ClientKey: d.clientKey()})
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

// verify checks the signature with the stored secret; reading that is audited.
func (c *callbacks) verify(ctx context.Context, d *delivery, id lifecycle.TenantID) error {
	if d.token == nil {
		return c.deny(ctx, d, id, "no-token")
	}
	secret, err := c.door.Secret(ctx, d.access(false), id)
	if errors.Is(err, lifecycle.TenantErased) || errors.Is(err, lifecycle.TenantUnknown) {
		return errNotProven("unknown-tenant") // erased since the look-up; already recorded
	}
	if err != nil {
		return err
	}
	if err := d.token.Verify(secret); err != nil {
		return c.deny(ctx, d, id, "signature")
	}
	return nil
}

// deny records the refusal and returns it.
func (c *callbacks) deny(ctx context.Context, d *delivery, id lifecycle.TenantID, reason string) error {
	err := c.door.Deny(ctx, d.access(false), tenants.Denial{Action: d.action, Tenant: id, Subject: d.clientKey(), Detail: reason, Dropped: d.dropped})
	if err != nil {
		return err
	}
	return errNotProven(reason)
}

// answer runs a handler under the limit of failures and answers once.
func (c *callbacks) answer(w http.ResponseWriter, r *http.Request, callback string, handle func(context.Context) (tenants.Result, error)) {
	ctx := r.Context()
	err := c.limiter.check(r)
	var result tenants.Result
	if err == nil {
		result, err = handle(ctx)
	}
	outcome, reason := string(result), ""
	if err != nil {
		f := lifecycle.AsFault(err)
		outcome, reason = string(f.Kind), f.Reason
	}
	c.count.Add(ctx, 1, metric.WithAttributes(attribute.String("trakr.callback", callback), attribute.String("trakr.outcome", outcome)))
	level := slog.LevelInfo
	if err != nil {
		level = slog.LevelWarn
	}
	c.log.LogAttrs(ctx, level, "callback", slog.String("callback", callback), slog.String("outcome", outcome),
		slog.String("reason", reason), slog.String("request_id", requestID(ctx)))
	if err != nil {
		switch lifecycle.AsFault(err).Kind {
		case lifecycle.SignatureInvalid, lifecycle.PayloadInvalid, lifecycle.PayloadTooLarge:
			c.limiter.failed(r)
		}
		writeProblem(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
