// Package endservice delivers the events of the outbox to the end service, which is
// Trakr's own service behind this one: a tenant was installed, changed or erased.
//
// An event is delivered at least once, always with the same id and the same bytes, and a
// tenant's events in their order; a refused event delays only its own tenant. After five
// days of attempts an event is dead: a finding, until an operator retries it. The audit
// records a disclosure before a byte leaves (outbox.Open). While the end service cannot be
// reached at all, nothing is opened. An event that the guard refuses is dead at once,
// because a retry cannot change that.
//
// No error and no log line contains the secret, a value, or the receiver's text.
package endservice

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"trakr/internal/delivery"
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
	URL    string // the caller has checked its host against the policy
	Key    webhook.Key
	Lease  func(ctx context.Context) (l leader.Lease, ok bool, err error)
	// Notified is called when the notice of an erasure was acknowledged; nil for nothing.
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
	doubt bool      // whether it can be reached is not known; guarded by mu
	asked time.Time // it asked for no request before this time; guarded by mu
	idle  int       // passes in a row in which it was down; only Run's goroutine uses it
}

const (
	pollEvery = 5 * time.Second
	batch     = 64
	parallel  = 4
)

var (
	// attempts is the schedule of one delivery.
	attempts = delivery.Schedule{First: 10 * time.Second, Longest: time.Hour, LongestAsked: 24 * time.Hour, MaxAge: outbox.MaxAge}
	// passes is the schedule of passes while the end service is down.
	passes = delivery.Schedule{First: pollEvery, Longest: time.Minute}
)

// New returns a sender that does nothing until Run.
func New(c Config) (*Sender, error) {
	if c.Outbox == nil || c.Guard == nil || c.Lease == nil || c.Now == nil || c.Log == nil || c.Meter == nil {
		return nil, errors.New("a sender needs an outbox, a guard, a lock, a clock, a log and a meter")
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Hostname() == "" {
		return nil, errors.New("the end service's address is not a URL")
	}
	if c.Notified == nil {
		c.Notified = func() {}
	}
	s := &Sender{c: c, host: u.Hostname(), post: webhook.NewSender(c.URL, c.Key, c.Now), doubt: true}
	if err := s.measure(); err != nil {
		return nil, fmt.Errorf("making the end service's metrics: %w", err)
	}
	return s, nil
}

// measure registers the metrics: attempts by outcome, and open deliveries.
func (s *Sender) measure() (err error) {
	m := s.c.Meter.Meter("trakr/internal/endservice")
	s.counter, err = m.Int64Counter("trakr.end_service.deliveries",
		metric.WithDescription("Attempts to deliver an event to the end service, by how they ended."), metric.WithUnit("{attempt}"))
	if err != nil {
		return err
	}
	_, err = m.Int64ObservableGauge("trakr.end_service.open",
		metric.WithDescription("Deliveries that the end service has not acknowledged, dead ones included."), metric.WithUnit("{delivery}"),
		metric.WithInt64Callback(func(ctx context.Context, o metric.Int64Observer) error {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			n, err := s.c.Outbox.Counts(ctx)
			if err == nil {
				o.Observe(n.Waiting, metric.WithAttributes(attribute.String("trakr.outcome", string(outbox.Waiting))))
				o.Observe(n.Dead+n.DeadNotices, metric.WithAttributes(attribute.String("trakr.outcome", string(outbox.Dead))))
			}
			return err
		}))
	return err
}

// Run delivers whenever no other replica does, until ctx ends. It finishes the attempts
// that are under way then.
func (s *Sender) Run(ctx context.Context) {
	leader.Loop{Lease: s.c.Lease, Once: s.Once, Every: pollEvery,
		Rest: func() (time.Duration, <-chan struct{}) {
			if s.idle > 0 { // a commit does not end an outage sooner
				return s.rest(), nil
			}
			return s.rest(), s.c.Outbox.Entered()
		},
		Failed: func(ctx context.Context, err error) {
			s.c.Log.ErrorContext(ctx, "delivering to the end service failed", "error", err)
		}}.Run(ctx)
}

// rest returns the time between two passes: longer each time while the end service is
// down.
func (s *Sender) rest() time.Duration {
	if s.idle == 0 {
		return pollEvery
	}
	return delivery.Jitter(passes.Wait(s.idle))
}

// Once attempts every delivery that is due, and stops when the end service turns out to
// be down.
func (s *Sender) Once(ctx context.Context) error {
	for !s.paused() {
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
		taken, down, err := s.attemptAll(ctx, due)
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

// paused reports whether the end service asked for no request yet.
func (s *Sender) paused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c.Now().Before(s.asked)
}

// attemptAll attempts deliveries, each of another tenant, a few at a time.
func (s *Sender) attemptAll(ctx context.Context, due []outbox.Delivery) (taken int, down bool, err error) {
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
				case unavailable:
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

// outcome is how an attempt ended.
type outcome string

const (
	accepted    outcome = "success"
	refused     outcome = "refused" // this delivery, or all of them: waiting does not help
	unavailable outcome = "failure" // the end service is down, or busy
	skipped     outcome = "left"    // not to be sent any more
)

// sender is the caller of record in the audit.
var sender = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "end service", Role: lifecycle.RoleScheduler},
	Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation}}

// attempt attempts one delivery.
func (s *Sender) attempt(ctx context.Context, d outbox.Delivery) (outcome, error) {
	if !s.c.Guard.Releases(d.Fields) { // the policy changed: it is not even opened
		return s.failed(ctx, d, refused, "not released", 0)
	}
	// An attempt that has begun outlives ctx: a lost answer would only mean that the same
	// bytes are sent again.
	ctx = context.WithoutCancel(ctx)
	// From its opening to its answer an attempt takes no longer than its claim: after that
	// another replica may send this delivery, and the tenant's next one.
	mine, cancel := context.WithTimeout(ctx, outbox.Claim)
	defer cancel()
	body, err := s.c.Outbox.Open(mine, sender, d, s.c.Guard, s.host)
	if errors.Is(err, outbox.ErrGone) {
		return skipped, nil
	}
	d.Attempts++
	if errors.Is(err, egress.ErrRefused) { // it is dead, and nothing was sent
		s.count(ctx, refused)
		s.c.Log.ErrorContext(ctx, "a delivery for the end service may not be sent", "event_id", d.ID.String(), "error", err)
		return refused, nil
	}
	var f *lifecycle.Fault
	if errors.As(err, &f) { // of the database: nothing was opened
		return skipped, err
	}
	if err != nil { // wrong keys
		s.c.Log.ErrorContext(ctx, "a delivery for the end service cannot be sent", "event_id", d.ID.String(), "error", err)
		return s.failed(ctx, d, refused, "not readable", 0)
	}
	// A crash from here on sends the same bytes again, with the same id.
	answer, err := s.post.Post(mine, d.ID.String(), body.Bytes())
	switch {
	case err != nil:
		return s.failed(ctx, d, unavailable, "no answer", 0)
	case answer.Status/100 == 2:
		s.count(ctx, accepted)
		s.mark(false)
		err := s.c.Outbox.Acknowledge(ctx, sender, d, s.host)
		if err == nil && d.Kind == egress.Erased {
			s.c.Notified()
		}
		return accepted, err
	case answer.Status/100 == 5, answer.Status == http.StatusRequestTimeout, answer.Status == http.StatusTooEarly,
		answer.Status == http.StatusTooManyRequests:
		return s.failed(ctx, d, unavailable, "answered "+strconv.Itoa(answer.Status), answer.RetryAfter)
	}
	return s.failed(ctx, d, refused, "answered "+strconv.Itoa(answer.Status), answer.RetryAfter)
}

// failed records a failed attempt, and gives the delivery up once it is old enough. The
// reason is what an operator reads.
func (s *Sender) failed(ctx context.Context, d outbox.Delivery, how outcome, reason string, ask time.Duration) (outcome, error) {
	s.count(ctx, how)
	now := s.c.Now()
	ask = attempts.Asked(ask)
	if how == unavailable {
		s.mark(true)
		s.mu.Lock()
		s.asked = now.Add(min(ask, attempts.Longest))
		s.mu.Unlock()
	}
	s.c.Log.WarnContext(ctx, "the end service did not take an event", "event_id", d.ID.String(), "attempts", d.Attempts, "reason", reason)
	if d.FirstTriedAt != nil && attempts.Over(*d.FirstTriedAt, now) {
		return how, s.c.Outbox.GiveUp(ctx, sender, d, s.host, reason)
	}
	wait := attempts.Wait(d.Attempts)
	if how == refused {
		wait = attempts.Longest
	}
	return how, s.c.Outbox.Postpone(ctx, d, now.Add(max(delivery.Jitter(wait), ask)), reason)
}

// mark records whether it is in doubt that the end service can be reached.
func (s *Sender) mark(doubt bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubt = doubt
}

// unreached records that no attempt could be made, and gives up the deliveries that are
// old enough.
func (s *Sender) unreached(ctx context.Context) error {
	const reason = "no connection"
	now := s.c.Now()
	if s.idle == 1 {
		s.c.Log.WarnContext(ctx, "the end service cannot be reached; its deliveries wait")
	}
	if err := s.c.Outbox.Unreached(ctx, now, reason); err != nil {
		return err
	}
	old, err := s.c.Outbox.Tried(ctx, now, batch)
	if err != nil {
		return err
	}
	for _, d := range old {
		if err := s.c.Outbox.GiveUp(ctx, sender, d, s.host, reason); err != nil {
			return err
		}
	}
	return nil
}

// reachable opens and closes a connection, with its TLS handshake, so that no delivery is
// opened and recorded for an end service that is not there. Behind a proxy that proves
// nothing and is not done, nor is it after an attempt that was answered.
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

func (s *Sender) count(ctx context.Context, how outcome) {
	s.counter.Add(ctx, 1, metric.WithAttributes(attribute.String("trakr.outcome", string(how))))
}
