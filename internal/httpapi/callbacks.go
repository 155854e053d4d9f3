package httpapi

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"trakr/internal/connect"
	"trakr/internal/erasure"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/tenants"
)

// maxPayload is several times the largest callback ever captured (2.4 KB).
const maxPayload = 64 << 10

// actTimeout is how long a callback may take once its body is here, whether or
// not its sender still waits: an install runs inside the customer's click.
const actTimeout = 8 * time.Second

// Periods in which the same thing is recorded once.
const (
	summaryPeriod = time.Minute
	replayPeriod  = connect.MaxLifetime + 4*connect.Leeway // longer than a token lives
)

// Prover asks Bitbucket whether an offered secret is a workspace's. Refused is
// signature-invalid; no answer is proof-unavailable.
type Prover interface {
	ProvePossession(ctx context.Context, workspaceUUID, clientKey, secret lifecycle.Secret) error
}

// callbacks handles what Bitbucket sends.
//
// Anyone can send callbacks from anywhere, also from Bitbucket's own addresses or
// through the same proxy; Bitbucket sends an uninstall once. So nothing is refused
// for where it comes from before its token was tried against the stored secret.
// What is bounded is the cost of failures. Within its limit a source's failures are
// recorded one by one: the look-up, the read of the secret, the denial. Beyond it
//
//   - the look-up leaves no event, and the secret of one tenant is read at most
//     once every two seconds, one audited read for all who wait (see rounds);
//   - a token that verifies acts as ever; every other attempt is answered 429,
//     alike for tenants held and not held, and recorded as one summary for each
//     tenant, and one for all that are not held, a minute;
//   - Bitbucket is not asked: a first install has to come again.
//
// A replay is recorded once for each token.
type callbacks struct {
	door     *tenants.Door
	eraser   *erasure.Eraser
	verifier *connect.Verifier
	decoder  connect.Decoder
	prover   Prover // nil only with the development switch
	limiter  *failureLimiter
	rounds   *rounds
	tallies  *tallies
	now      func() time.Time
	log      *slog.Logger
	count    metric.Int64Counter
}

// delivery is one callback on its way through a handler.
type delivery struct {
	action   audit.Action
	token    *connect.Unverified // nil when unsigned
	values   lifecycle.Values
	dropped  []string
	received time.Time
	request  string
	limited  bool // its source has failed too often
}

func (d *delivery) clientKey() lifecycle.Secret { return d.values[lifecycle.ClientKey] }

func (d *delivery) subject() tenants.Subject { return tenants.Subject{ClientKey: d.clientKey()} }

// notProven is the one answer to every callback that is not proven, so that it
// tells nothing about which tenants are held.
func (d *delivery) notProven(reason string) error {
	if d.limited {
		return lifecycle.Fail(lifecycle.RateLimited, "The callback is not proven, and there were too many such attempts from this address. Try again later.",
			lifecycle.Because(reason), lifecycle.After(failurePeriod))
	}
	return lifecycle.Fail(lifecycle.SignatureInvalid,
		"The callback is not proven: sign it with the shared secret of the preceding install.", lifecycle.Because(reason))
}

// access is who acts: the party is anonymous until its signature or its
// possession of the secret is proven.
func (d *delivery) access(proven bool) lifecycle.Access {
	c := lifecycle.Caller{Type: lifecycle.ActorAnonymous, ID: "connect", Role: lifecycle.RoleIngress}
	if proven {
		c.Type = lifecycle.ActorBitbucket
	}
	return lifecycle.Access{Caller: c, Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation}, RequestID: d.request}
}

// stored is what the door is told of a proven callback. The names of dropped keys
// are said only here: before the proof they are a stranger's words.
func (d *delivery) stored() tenants.Delivery {
	v := tenants.Delivery{ReceivedAt: d.received, Dropped: d.dropped}
	if d.token != nil {
		v.TokenHash, v.IssuedAt, v.Remember = d.token.TokenHash(), d.token.IssuedAt, d.token.ExpiresAt.Add(connect.Leeway)
	}
	return v
}

// installed handles POST /connect/installed.
func (c *callbacks) installed(w http.ResponseWriter, r *http.Request) {
	c.answer(w, r, "installed", func(ctx context.Context, body []byte) (tenants.Result, error) {
		return c.handle(ctx, r, audit.TenantInstall, body, c.decoder.Installed, c.install)
	})
}

// uninstalled handles POST /connect/uninstalled.
func (c *callbacks) uninstalled(w http.ResponseWriter, r *http.Request) {
	c.answer(w, r, "uninstalled", func(ctx context.Context, body []byte) (tenants.Result, error) {
		return c.handle(ctx, r, audit.TenantErase, body, c.decoder.Uninstalled, c.uninstall)
	})
}

// handle takes a callback from its bytes to its act.
func (c *callbacks) handle(ctx context.Context, r *http.Request, action audit.Action, body []byte, decode func([]byte) (connect.Payload, error),
	act func(context.Context, *delivery) (tenants.Result, error)) (result tenants.Result, err error) {
	d, err := c.receive(ctx, r, action, body, decode)
	if err != nil {
		return "", err
	}
	if d.token == nil && action == audit.TenantErase {
		return "", d.notProven("no-token") // nothing to try: no tenant is looked up, and it costs its source nothing
	}
	if again, err := c.repeated(ctx, d); again || err != nil {
		return tenants.Replayed, err
	}
	within, end := c.limiter.begin(r)
	defer func() { end(failed(err)) }()
	d.limited = !within
	if d.token != nil && subtle.ConstantTimeCompare([]byte(d.token.Issuer.Reveal()), []byte(d.clientKey().Reveal())) != 1 {
		return "", c.deny(ctx, d, lifecycle.TenantID{}, "client-key-mismatch")
	}
	// Another callback of the same client key may be quicker, between our look at
	// the tenant and our act. Then this one has to prove itself anew.
	for range 3 {
		result, err = act(ctx, d)
		if !errors.Is(err, tenants.ErrOnFile) && !errors.Is(err, tenants.ErrChanged) {
			return result, err
		}
	}
	return "", lifecycle.Fail(lifecycle.StoreUnavailable, "Other callbacks of this installation were quicker each time; nothing was changed. Try again.",
		lifecycle.After(time.Second), lifecycle.Cause(err))
}

// failed reports whether an attempt counts against its source: what was recorded
// as a denial, or made us ask Bitbucket in vain.
func failed(err error) bool {
	if err == nil {
		return false
	}
	switch lifecycle.AsFault(err).Kind {
	case lifecycle.SignatureInvalid, lifecycle.ProofUnavailable, lifecycle.PayloadInvalid:
		return true
	}
	return false
}

// install acts on a delivery of installed. Tenant on file: a token signed with the
// stored secret is mandatory. Not on file: proof of possession with the offered
// secret, and a brand-new tenant.
//
// The two branches can be told apart from outside by who can make Bitbucket's API
// fail, or measures how long the call to it takes: a tenant on file is refused
// with 401 at once, one that is not only after Bitbucket was asked, and with 503
// when it does not answer. bitbucket.md section 3 asks for both (rule 1: 401 is
// mandatory; rule 2: nothing is refused for an outage of theirs), and asking
// Bitbucket about every forgery would let strangers spend our calls.
func (c *callbacks) install(ctx context.Context, d *delivery) (tenants.Result, error) {
	t, err := c.lookup(ctx, d)
	if err != nil {
		return "", err
	}
	if t != nil {
		d.action = audit.TenantUpdate
		secret, err := c.verify(ctx, d, t)
		if err != nil {
			return "", err
		}
		v := d.stored()
		v.Version = t.Version
		if secret != d.values[lifecycle.SharedSecret] {
			v.Slack = connect.Leeway
		}
		return c.door.Update(ctx, d.access(true), t.ID, d.values, v)
	}
	if d.limited {
		return "", c.deny(ctx, d, lifecycle.TenantID{}, "proof-not-asked")
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
	_, result, err := c.door.Install(ctx, d.access(true), d.values, d.stored())
	if err == nil && result == tenants.Stale {
		// Sent before the erasure. The secret that signed it is gone, so its token
		// proves nothing, and the answer is that of every token that does not.
		return "", d.notProven(string(result))
	}
	return result, err
}

// uninstall acts on a delivery of uninstalled. A tenant we do not hold gets the
// answer of a bad signature, after the same work.
func (c *callbacks) uninstall(ctx context.Context, d *delivery) (tenants.Result, error) {
	t, err := c.lookup(ctx, d)
	if err != nil {
		return "", err
	}
	if _, err := c.verify(ctx, d, t); err != nil {
		return "", err
	}
	v := d.stored()
	v.Version = t.Version
	out, err := c.eraser.Erase(ctx, d.access(true), t.ID, erasure.Order{Trigger: lifecycle.TriggerUninstall, RequestedAt: d.received, Delivery: v})
	switch {
	case err != nil:
		return "", err
	case out.Already: // by a concurrent uninstall, just now
		return tenants.Replayed, nil
	}
	// Begun is done for Bitbucket: it sends an uninstall once, and the tombstone is
	// what makes sure that it is finished.
	return out.Result, nil
}

// repeated reports, and records once, that this very delivery was acted upon before.
func (c *callbacks) repeated(ctx context.Context, d *delivery) (bool, error) {
	if d.token == nil {
		return false, nil
	}
	hash := d.token.TokenHash()
	id, done, err := c.door.Delivered(ctx, hash)
	if err != nil || !done {
		return false, err
	}
	if _, record := c.tallies.due(hash, replayPeriod); !record {
		return true, nil
	}
	err = c.door.Deny(ctx, d.access(false), tenants.Denial{Action: d.action, Tenant: id, Detail: string(tenants.Replayed)})
	if err != nil {
		c.tallies.undo(hash)
	}
	return true, err
}

// receive does everything that needs no database: token shape, times and qsh, then
// the payload's allow-list.
func (c *callbacks) receive(ctx context.Context, r *http.Request, action audit.Action, body []byte, decode func([]byte) (connect.Payload, error)) (*delivery, error) {
	d := &delivery{action: action, received: c.now().UTC(), request: requestID(ctx)}
	var err error
	d.token, err = c.verifier.Inspect(r)
	if err != nil && connect.ReasonOf(err) != connect.NoToken {
		return nil, err
	}
	p, err := decode(body)
	if err != nil {
		return nil, err
	}
	d.values, d.dropped = p.Values(), p.Dropped
	return d, nil
}

// lookup returns the live tenant of the client key, or nil when none is live. A
// database that does not answer is an error, never nil.
func (c *callbacks) lookup(ctx context.Context, d *delivery) (*tenants.Tenant, error) {
	look := c.door.Lookup
	if d.limited {
		look = c.door.Find
	}
	t, err := look(ctx, d.access(false), d.subject())
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

// verify checks the signature with the tenant's stored secret and returns that; no
// tenant is as a wrong signature.
func (c *callbacks) verify(ctx context.Context, d *delivery, t *tenants.Tenant) (lifecycle.Secret, error) {
	var id lifecycle.TenantID
	reason := "unknown-tenant"
	if t != nil {
		id, reason = t.ID, "signature"
	}
	if d.token == nil {
		return lifecycle.Secret{}, c.deny(ctx, d, id, "no-token")
	}
	secret, err := c.secret(ctx, d, id)
	if errors.Is(err, lifecycle.TenantErased) || errors.Is(err, lifecycle.TenantUnknown) {
		return lifecycle.Secret{}, d.notProven("unknown-tenant") // erased since the look-up; already recorded
	}
	if err != nil {
		return lifecycle.Secret{}, err
	}
	if err := d.token.Verify(secret); err != nil || t == nil {
		return lifecycle.Secret{}, c.deny(ctx, d, id, reason)
	}
	return secret, nil
}

// secret reads a tenant's secret, which is audited, at once or in the next round.
// For the zero tenant the same is done for a secret that nobody has.
func (c *callbacks) secret(ctx context.Context, d *delivery, id lifecycle.TenantID) (lifecycle.Secret, error) {
	read := func(ctx context.Context) (lifecycle.Secret, error) { return c.door.Secret(ctx, d.access(false), id) }
	if !d.limited {
		if id.IsZero() {
			return c.door.NoSecret(ctx, d.access(false), d.subject())
		}
		return read(ctx)
	}
	if id.IsZero() {
		read = func(context.Context) (lifecycle.Secret, error) { return lifecycle.NewSecret(rand.Text()), nil }
	}
	return c.rounds.secret(ctx, id, read)
}

// deny records the refusal and returns it. Beyond the source's limit it is one of
// those that a summary of the tenant's minute stands for: recorded at the first,
// with the number of those left out since the summary before.
func (c *callbacks) deny(ctx context.Context, d *delivery, id lifecycle.TenantID, reason string) error {
	denial := tenants.Denial{Action: d.action, Tenant: id, Subject: d.clientKey(), Detail: reason}
	if d.limited {
		leftOut, record := c.tallies.due(id, summaryPeriod)
		if !record {
			return d.notProven(reason)
		}
		denial.Subject, denial.Detail = lifecycle.Secret{}, fmt.Sprintf("limited %d", leftOut)
	}
	if err := c.door.Deny(ctx, d.access(false), denial); err != nil {
		if d.limited {
			c.tallies.undo(id)
		}
		return err
	}
	return d.notProven(reason)
}

// read takes the body whole.
func read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPayload))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, lifecycle.Fail(lifecycle.PayloadTooLarge, "A callback has at most 65536 bytes.")
	}
	if err != nil {
		return nil, lifecycle.Fail(lifecycle.PayloadInvalid, "The payload did not arrive whole.")
	}
	return body, nil
}

// answer runs a handler and answers once. What has begun is finished though the
// sender hangs up: it must be able neither to undo an uninstall nor to wipe out
// the trace of an attempt.
func (c *callbacks) answer(w http.ResponseWriter, r *http.Request, callback string, handle func(context.Context, []byte) (tenants.Result, error)) {
	body, err := read(w, r)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), actTimeout)
	defer cancel()
	var result tenants.Result
	if err == nil {
		result, err = handle(ctx, body)
	}
	outcome, reason, level := string(result), "", slog.LevelInfo
	if err != nil {
		f := lifecycle.AsFault(err)
		outcome, reason, level = string(f.Kind), f.Reason, slog.LevelWarn
	}
	c.count.Add(ctx, 1, metric.WithAttributes(attribute.String("trakr.callback", callback), attribute.String("trakr.outcome", outcome)))
	c.log.LogAttrs(ctx, level, "callback", slog.String("callback", callback), slog.String("outcome", outcome),
		slog.String("reason", reason), slog.String("request_id", requestID(ctx)))
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if problemOf(err, "").Status >= http.StatusInternalServerError {
		// Errors hold kinds and states, never a value (internal/store/internal/pg).
		c.log.ErrorContext(ctx, "request failed", "error", err, "request_id", requestID(ctx))
	}
	writeProblem(w, r, err)
}
