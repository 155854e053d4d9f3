// Package ingress takes the callbacks by which a platform announces installs and
// uninstalls from their bytes to their act, whatever their wire form:
//
//	open the message → refuse a replay → look up the tenant → prove the sender → act
//
// It promises that nothing is stored and no tenant is erased before the sender is
// proven: by the tenant's stored secret, or, for a first install, by the platform
// itself. Every refusal has the same answer, so that it discloses nothing about
// which tenants exist.
//
// It also bounds what unproven senders can cost. Anyone can send callbacks from
// anywhere, also from the platform's own addresses or through the same proxy; and
// the platform sends an uninstall only once. So nothing is refused for its source
// before its token was verified with the stored secret; what is bounded is the cost
// of failures. Within the limit of its source, each failure is recorded: the
// look-up, the read of the secret, the denial. Beyond it
//
//   - the look-up leaves no event, and the secret of one tenant is read at most
//     once every two seconds, one audited read for all that wait (see rounds);
//   - a token that verifies acts as before; every other attempt is answered 429,
//     the same for tenants that exist and those that do not, and recorded as one
//     summary a minute for each tenant, and one for all unknown ones;
//   - the platform is not asked: a first install has to be sent again.
//
// A replay is recorded once for each token.
//
// Status codes, headers and the limit of a body are httpapi's. To add a wire form,
// see "Add an ingress" in internal/README.md.
package ingress

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"trakr/internal/connect"
	"trakr/internal/erasure"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/tenants"
	"trakr/policy"
)

// actTimeout is how long a callback may take once its body is read, even when its
// sender no longer waits: an install runs inside the customer's click.
const actTimeout = 8 * time.Second

// Periods in which the same occurrence is recorded once.
const (
	summaryPeriod = time.Minute
	replayPeriod  = connect.MaxLifetime + 4*connect.Leeway // longer than a token is valid
)

// Event is what a callback announces.
type Event int

// The events.
const (
	Installed Event = iota
	Uninstalled
)

// Callback is one address that a platform sends to.
type Callback struct {
	Name  string // in metrics and logs
	Path  string
	Event Event
}

// Message is one callback as it arrived.
type Message struct {
	Callback  Callback
	Request   *http.Request // its headers and address; the body is read
	Body      []byte
	Source    netip.Addr // of the sender, for the limits
	RequestID string
}

// Form is one platform's wire form. It neither looks up nor stores a tenant.
type Form interface {
	// Open reads a message and checks everything that needs no secret. Its errors
	// are signature-invalid or payload-invalid and are the sender's answer.
	Open(m Message) (Claim, error)
	// Prove asks the platform whether the values of a first install are true.
	// Refused is signature-invalid; no answer is proof-unavailable.
	Prove(ctx context.Context, values lifecycle.Values) error
}

// Claim is what a message claims. Nothing of it is proven.
type Claim struct {
	Values  lifecycle.Values
	Dropped []string // names of payload keys that are not kept
	Token   *Token   // nil when unsigned
}

// Token is the signature of a message. Everything that needs no secret is checked.
type Token struct {
	Hash      [32]byte         // identifies it
	Issuer    lifecycle.Secret // the client key it claims to be from
	IssuedAt  time.Time
	ExpiresAt time.Time
	Verify    func(secret lifecycle.Secret) error
}

// form is one entry of forms.
type form struct {
	ingress   lifecycle.Ingress // stored with each tenant, and the caller in the audit
	callbacks []Callback
	open      func(Config) Form
}

// opened is a wire form that works with one Gate's Config.
type opened struct {
	Form
	ingress lifecycle.Ingress
}

// forms is the one list of the wire forms.
var forms = []form{
	{lifecycle.Connect, connectCallbacks, newConnect},
}

// Callbacks lists the callbacks of every wire form.
func Callbacks() []Callback {
	var out []Callback
	for _, f := range forms {
		out = append(out, f.callbacks...)
	}
	return out
}

// Config is what a Gate needs.
type Config struct {
	Policy  *policy.Policy
	BaseURL string // the public one, as in the descriptor
	Door    *tenants.Door
	Eraser  *erasure.Eraser
	Prover  Prover // nil accepts first installs unproven; development only
	Now     func() time.Time
}

// Gate handles callbacks. It is safe for concurrent use.
type Gate struct {
	door    *tenants.Door
	eraser  *erasure.Eraser
	now     func() time.Time
	forms   map[string]opened // by the callback's path
	limiter *failureLimiter
	rounds  *rounds
	tallies *tallies
}

// New returns a Gate for every wire form. It fails without a door or an eraser.
func New(c Config) (*Gate, error) {
	if c.Policy == nil || c.Door == nil || c.Eraser == nil || c.Now == nil {
		return nil, errors.New("the ingress needs a policy, a door, an eraser and a clock")
	}
	g := &Gate{
		door: c.Door, eraser: c.Eraser, now: c.Now, forms: map[string]opened{},
		limiter: newFailureLimiter(c.Now), rounds: newRounds(), tallies: newTallies(c.Now),
	}
	for _, f := range forms {
		o := opened{f.open(c), f.ingress}
		for _, callback := range f.callbacks {
			g.forms[callback.Path] = o
		}
	}
	return g, nil
}

// Handle takes one callback to its act. What has begun is finished even when the
// sender disconnects: a sender must be able neither to undo an uninstall nor to
// erase the trace of an attempt.
func (g *Gate) Handle(ctx context.Context, m Message) (result tenants.Result, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), actTimeout)
	defer cancel()
	d := &delivery{form: g.forms[m.Callback.Path], action: audit.TenantInstall, received: g.now().UTC(), request: m.RequestID}
	act := g.install
	if m.Callback.Event == Uninstalled {
		d.action, act = audit.TenantErase, g.uninstall
	}
	if d.Claim, err = d.form.Open(m); err != nil {
		return "", err
	}
	if d.Token == nil && m.Callback.Event == Uninstalled {
		// There is nothing to verify: no tenant is looked up, and it costs its source nothing.
		return "", d.notProven("no-token")
	}
	if again, err := g.repeated(ctx, d); again || err != nil {
		return tenants.Replayed, err
	}
	within, end := g.limiter.begin(m.Source)
	defer func() { end(failed(err)) }()
	d.limited = !within
	if d.Token != nil && subtle.ConstantTimeCompare([]byte(d.Token.Issuer.Reveal()), []byte(d.clientKey().Reveal())) != 1 {
		return "", g.deny(ctx, d, lifecycle.TenantID{}, "client-key-mismatch")
	}
	// Another callback of the same client key may act between our look-up of the
	// tenant and our act. Then this one has to be proven again.
	for range 3 {
		result, err = act(ctx, d)
		if !errors.Is(err, tenants.ErrOnFile) && !errors.Is(err, tenants.ErrChanged) {
			return result, err
		}
	}
	return "", lifecycle.Fail(lifecycle.StoreUnavailable,
		"Other callbacks of this installation were quicker each time; nothing was changed. Try again.",
		lifecycle.After(time.Second), lifecycle.Cause(err))
}

// failed reports whether an attempt counts against its source: it was recorded as
// a denial, or made us ask the platform in vain.
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
