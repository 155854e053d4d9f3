package webhook

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"trakr/internal/schedule/leader"
)

// Message is an event that waits, and how often it was tried in vain.
type Message struct {
	Event    Event
	Attempts int
}

// Outbox keeps events until they are delivered. Each method is one step of its own.
type Outbox interface {
	// Due lists messages whose next attempt is due, longest waiting first.
	Due(ctx context.Context, now time.Time, limit int) ([]Message, error)
	Delivered(ctx context.Context, id string, now time.Time) error
	Postpone(ctx context.Context, id string, next time.Time) error
	// GiveUp ends the attempts for what is older, and says for how many.
	GiveUp(ctx context.Context, before time.Time) (int64, error)
}

// Config is what a relay works with.
type Config struct {
	Outbox Outbox
	Send   func(ctx context.Context, e Event) error
	Lease  func(ctx context.Context) (l leader.Lease, ok bool, err error)
	Now    func() time.Time
	Log    *slog.Logger
	Meter  metric.MeterProvider
}

// Relay brings what waits in an outbox to its receiver, on one replica at a time.
type Relay struct {
	c          Config
	deliveries metric.Int64Counter
}

const (
	pollEvery = 5 * time.Second
	batch     = 50
	// MaxAge is how long delivery is tried: after three days nobody waits for the
	// news, and what it is about shows in the API.
	MaxAge      = 72 * time.Hour
	firstRetry  = 10 * time.Second
	longestWait = time.Hour
)

// NewRelay returns a relay that does nothing until Run.
func NewRelay(c Config) (*Relay, error) {
	n, err := c.Meter.Meter("trakr/internal/webhook").Int64Counter("trakr.webhook.deliveries",
		metric.WithDescription("Attempts to deliver an event to the webhook, by how they ended."), metric.WithUnit("{attempt}"))
	if err != nil {
		return nil, fmt.Errorf("making the webhook's metrics: %w", err)
	}
	return &Relay{c, n}, nil
}

// Run delivers whenever no other replica does, until ctx ends.
func (r *Relay) Run(ctx context.Context) {
	leader.Loop{Lease: r.c.Lease, Once: r.Once, Every: pollEvery, Failed: func(ctx context.Context, err error) {
		r.c.Log.ErrorContext(ctx, "delivering to the webhook failed", "error", err)
	}}.Run(ctx)
}

// Once tries what is due, and stops at the first message that is not taken: the
// receiver is probably down. That message waits, longer each time; others do not
// wait for it.
func (r *Relay) Once(ctx context.Context) error {
	now := r.c.Now()
	lost, err := r.c.Outbox.GiveUp(ctx, now.Add(-MaxAge))
	if err != nil {
		return err
	}
	if lost > 0 {
		r.count(ctx, "given_up", lost)
		r.c.Log.ErrorContext(ctx, "events older than three days were not delivered to the webhook", "messages", lost)
	}
	due, err := r.c.Outbox.Due(ctx, now, batch)
	if err != nil {
		return err
	}
	for _, m := range due {
		if err := r.c.Send(ctx, m.Event); err != nil {
			if ctx.Err() != nil { // we stop; it says nothing of the receiver
				return nil
			}
			r.count(ctx, "failure", 1)
			r.c.Log.WarnContext(ctx, "the webhook did not take an event", "event_id", m.Event.ID, "attempts", m.Attempts+1, "error", err)
			return r.c.Outbox.Postpone(ctx, m.Event.ID, r.c.Now().Add(wait(m.Attempts)))
		}
		r.count(ctx, "success", 1)
		// A crash here delivers it again; the receiver knows its id. So does being
		// told to stop, unless the step outlives that.
		if err := r.c.Outbox.Delivered(context.WithoutCancel(ctx), m.Event.ID, r.c.Now()); err != nil {
			return err
		}
	}
	return nil
}

// wait is how long a message rests after so many attempts failed before this one.
func wait(before int) time.Duration {
	return min(firstRetry<<min(before, 20), longestWait)
}

func (r *Relay) count(ctx context.Context, outcome string, n int64) {
	r.deliveries.Add(ctx, n, metric.WithAttributes(attribute.String("trakr.outcome", outcome)))
}
