// Package endservice brings to Trakr's own service behind this one what waits in the
// outbox: that a tenant was installed, changed or erased.
//
// Each event is delivered at least once, always with the same id and the same bytes, and
// a tenant's events in their order; a tenant that is refused holds up no other one. It is
// tried for five days, then it is dead: a finding, until somebody has it tried again.
// Before a byte leaves, the audit has it (outbox.Open). While the end service cannot be
// reached at all, nothing is opened. What the guard refuses is dead at once: trying again
// does not mend that.
//
// No error and no log line holds the secret, a value, or the receiver's words.
package endservice

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"trakr/internal/egress"
	"trakr/internal/egress/webhook"
	"trakr/internal/lifecycle"
	"trakr/internal/schedule/leader"
	"trakr/internal/store/outbox"
)

// Config is what a sender works with.
type Config struct {
	Outbox *outbox.Store
	Guard  *egress.Guard
	URL    string // whose host the policy declares; the caller checks
	Key    webhook.Key
	Lease  func(ctx context.Context) (l leader.Lease, ok bool, err error)
	// Notified is called when the notice of an erasure was acknowledged.
	Notified func()
	Now      func() time.Time
	Log      *slog.Logger
	Meter    metric.MeterProvider
}

// Sender delivers, on one replica at a time.
type Sender struct {
	c       Config
	host    string
	post    *webhook.Sender
	counter metric.Int64Counter

	mu    sync.Mutex
	doubt bool      // whether it can be reached is not known; by mu
	asked time.Time // until then it wants to be left alone; by mu
	idle  int       // passes in a row in which it was down
}

const (
	pollEvery   = 5 * time.Second
	longestRest = time.Minute // between passes while it is down
	firstRetry  = 10 * time.Second
	longestWait = time.Hour      // between two attempts of a delivery ...
	longestAsk  = 24 * time.Hour // ... unless the end service asks for more
	batch       = 64
	parallel    = 4
)

// New returns a sender that does nothing until Run.
func New(c Config) (*Sender, error) {
	if c.Outbox == nil || c.Guard == nil || c.Lease == nil || c.Now == nil || c.Log == nil || c.Meter == nil {
		return nil, errors.New("a sender needs an outbox, a guard, a lock and a clock")
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Hostname() == "" {
		return nil, errors.New("the end service's address is not a URL")
	}
	if c.Notified == nil {
		c.Notified = func() {}
	}
	s := &Sender{c: c, host: u.Hostname(), post: webhook.NewSender(c.URL, c.Key, c.Now), doubt: true}
	m := c.Meter.Meter("trakr/internal/endservice")
	if s.counter, err = m.Int64Counter("trakr.end_service.deliveries", metric.WithDescription("Attempts to tell the end service of a tenant, by how they ended."), metric.WithUnit("{attempt}")); err != nil {
		return nil, fmt.Errorf("making the end service's metrics: %w", err)
	}
	_, err = m.Int64ObservableGauge("trakr.end_service.open", metric.WithDescription("Deliveries that the end service has not acknowledged, dead ones included."), metric.WithUnit("{delivery}"),
		metric.WithInt64Callback(func(ctx context.Context, o metric.Int64Observer) error {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			n, err := c.Outbox.Counts(ctx)
			if err == nil {
				o.Observe(n.Waiting, metric.WithAttributes(attribute.String("trakr.outcome", string(outbox.Waiting))))
				o.Observe(n.Dead+n.DeadNotices, metric.WithAttributes(attribute.String("trakr.outcome", string(outbox.Dead))))
			}
			return err
		}))
	if err != nil {
		return nil, fmt.Errorf("making the end service's metrics: %w", err)
	}
	return s, nil
}

// Run delivers whenever no other replica does, until ctx ends. What is under way then
// is finished.
func (s *Sender) Run(ctx context.Context) {
	leader.Loop{Lease: s.c.Lease, Once: s.Once, Every: pollEvery,
		Rest: func() (time.Duration, <-chan struct{}) {
			if s.idle > 0 { // while it is down a commit does not make it come back sooner
				return s.rest(), nil
			}
			return s.rest(), s.c.Outbox.Entered()
		},
		Failed: func(ctx context.Context, err error) {
			s.c.Log.ErrorContext(ctx, "telling the end service failed", "error", err)
		}}.Run(ctx)
}

// rest is the time between two passes: longer each time while the end service is down.
func (s *Sender) rest() time.Duration {
	if s.idle == 0 {
		return pollEvery
	}
	return jitter(min(pollEvery<<min(s.idle-1, 10), longestRest))
}

// jitter takes or gives up to a fifth, so that what failed together does not come back
// together.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// wait is how long a delivery rests after so many attempts.
func wait(attempts int) time.Duration {
	return jitter(min(firstRetry<<min(max(attempts-1, 0), 20), longestWait))
}

// Once tries everything that is due, and stops when the end service turns out to be
// down.
func (s *Sender) Once(ctx context.Context) error {
	for !s.leftAlone() {
		due, err := s.c.Outbox.Due(ctx, s.c.Now(), batch)
		if err != nil {
			return err
		}
		if len(due) == 0 {
			return nil
		}
		if !s.reachable(ctx) {
			s.idle++
			return s.unreached(ctx)
		}
		taken, down, err := s.all(ctx, due)
		switch {
		case err != nil || ctx.Err() != nil:
			return err
		case down:
			s.idle++
			return nil
		}
		s.idle = 0
		if taken == 0 {
			return nil
		}
	}
	return nil
}

// leftAlone reports whether the end service asked not to be called now.
func (s *Sender) leftAlone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c.Now().Before(s.asked)
}

// all tries deliveries, each of another tenant, some at a time.
func (s *Sender) all(ctx context.Context, due []outbox.Delivery) (taken int, down bool, err error) {
	var mu sync.Mutex
	for some := range slices.Chunk(due, parallel) {
		var wg sync.WaitGroup
		for _, d := range some {
			wg.Go(func() {
				how, e := s.attempt(ctx, d)
				mu.Lock()
				defer mu.Unlock()
				err = errors.Join(err, e)
				switch how {
				case accepted:
					taken++
				case unwell:
					down = true
				}
			})
		}
		wg.Wait()
		if down || err != nil || ctx.Err() != nil {
			break
		}
	}
	return taken, down, err
}

// verdict is how an attempt ended.
type verdict string

const (
	accepted verdict = "success"
	refused  verdict = "refused" // this delivery, or all: not a fault that mends itself
	unwell   verdict = "failure" // it is down, or busy
	left     verdict = "left"    // not to be sent any more
)

// sender is who acts.
var sender = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "end service", Role: lifecycle.RoleScheduler},
	Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation}}

// attempt tries one delivery.
func (s *Sender) attempt(ctx context.Context, d outbox.Delivery) (verdict, error) {
	if !s.c.Guard.Releases(d.Fields) { // any more: it is not even opened
		return s.failed(ctx, d, refused, "not released", 0)
	}
	// What has begun is finished when we are told to stop: an answer that is lost would
	// only have to be asked for again.
	ctx = context.WithoutCancel(ctx)
	// From its opening to its answer an attempt takes no longer than others leave it alone
	// for: afterwards another replica may send it, and the next one after it.
	mine, cancel := context.WithTimeout(ctx, outbox.Claim)
	defer cancel()
	body, err := s.c.Outbox.Open(mine, sender, d, s.c.Guard, s.host)
	if errors.Is(err, outbox.ErrGone) {
		return left, nil
	}
	d.Attempts++
	if errors.Is(err, egress.ErrRefused) { // it is dead, and nothing of it left
		s.count(ctx, refused)
		s.c.Log.ErrorContext(ctx, "a delivery for the end service may not be sent", "event_id", d.ID.String(), "error", err)
		return refused, nil
	}
	var f *lifecycle.Fault
	if errors.As(err, &f) { // the database: nothing was opened
		return left, err
	}
	if err != nil { // wrong keys
		s.c.Log.ErrorContext(ctx, "a delivery for the end service cannot be sent", "event_id", d.ID.String(), "error", err)
		return s.failed(ctx, d, refused, "not readable", 0)
	}
	// A crash from here on sends the same bytes again, with the same id.
	answer, err := s.post.Post(mine, d.ID.String(), body.Bytes())
	switch {
	case err != nil:
		return s.failed(ctx, d, unwell, "no answer", 0)
	case answer.Status/100 == 2:
		s.count(ctx, accepted)
		s.mark(false)
		err := s.c.Outbox.Acknowledge(ctx, sender, d, s.host)
		if err == nil && d.Kind == egress.Erased {
			s.c.Notified()
		}
		return accepted, err
	case answer.Status/100 == 5, answer.Status == http.StatusRequestTimeout, answer.Status == http.StatusTooEarly, answer.Status == http.StatusTooManyRequests:
		return s.failed(ctx, d, unwell, "answered "+strconv.Itoa(answer.Status), answer.RetryAfter)
	}
	return s.failed(ctx, d, refused, "answered "+strconv.Itoa(answer.Status), answer.RetryAfter)
}

// failed enters that an attempt failed, and gives up what has been tried long enough.
func (s *Sender) failed(ctx context.Context, d outbox.Delivery, how verdict, outcome string, ask time.Duration) (verdict, error) {
	s.count(ctx, how)
	now := s.c.Now()
	ask = min(ask, longestAsk)
	if how == unwell {
		s.mark(true)
		s.mu.Lock()
		s.asked = now.Add(min(ask, longestWait))
		s.mu.Unlock()
	}
	s.c.Log.WarnContext(ctx, "the end service did not take an event", "event_id", d.ID.String(), "attempts", d.Attempts, "reason", outcome)
	if d.FirstTriedAt != nil && now.Sub(*d.FirstTriedAt) >= outbox.MaxAge {
		return how, s.c.Outbox.GiveUp(ctx, sender, d, s.host, outcome)
	}
	rest := wait(d.Attempts)
	if how == refused {
		rest = jitter(longestWait)
	}
	return how, s.c.Outbox.Postpone(ctx, d, now.Add(max(rest, ask)), outcome)
}

// mark notes whether it is in doubt that the end service can be reached.
func (s *Sender) mark(doubt bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubt = doubt
}

// unreached enters that nothing could be tried, and gives up what has waited long
// enough.
func (s *Sender) unreached(ctx context.Context) error {
	const outcome = "no connection"
	now := s.c.Now()
	if s.idle == 1 {
		s.c.Log.WarnContext(ctx, "the end service cannot be reached; what it is to be told waits")
	}
	if err := s.c.Outbox.Unreached(ctx, now, outcome); err != nil {
		return err
	}
	old, err := s.c.Outbox.Tried(ctx, now, batch)
	if err != nil {
		return err
	}
	for _, d := range old {
		if err := s.c.Outbox.GiveUp(ctx, sender, d, s.host, outcome); err != nil {
			return err
		}
	}
	return nil
}

// reachable opens a connection and closes it, with the handshake where there is one, so
// that nothing is opened and recorded for an end service that is not there. Behind a
// proxy it cannot be told. Where it answered last it is believed.
func (s *Sender) reachable(ctx context.Context) bool {
	s.mu.Lock()
	doubt := s.doubt
	s.mu.Unlock()
	if !doubt {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, pollEvery)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.c.URL, nil)
	if err != nil {
		return false
	}
	if proxy, err := http.ProxyFromEnvironment(req); err != nil || proxy != nil {
		return err == nil
	}
	port, dial := req.URL.Port(), (&net.Dialer{}).DialContext
	switch {
	case req.URL.Scheme == "https":
		dial = (&tls.Dialer{}).DialContext
		if port == "" {
			port = "443"
		}
	case port == "":
		port = "80"
	}
	conn, err := dial(ctx, "tcp", net.JoinHostPort(req.URL.Hostname(), port))
	if err != nil {
		return false
	}
	_ = conn.Close()
	s.mark(false)
	return true
}

func (s *Sender) count(ctx context.Context, how verdict) {
	s.counter.Add(ctx, 1, metric.WithAttributes(attribute.String("trakr.outcome", string(how))))
}
