// Package findings delivers each step of a finding's life (opened, acknowledged,
// resolved) to the operator's webhook. A step is delivered at least once while it is
// young enough, always with the same id, in no promised order. No error and no log line
// contains the secret, the address or the receiver's text.
package findings

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"trakr/internal/delivery"
	"trakr/internal/egress/webhook"
	"trakr/internal/schedule/leader"
)

// Message is an event that waits, with the number of its failed attempts.
type Message struct {
	Event    webhook.Event
	Attempts int
}

// Outbox keeps events until they are delivered. Each method is one transaction.
type Outbox interface {
	// Due lists messages whose next attempt is due, longest waiting first.
	Due(ctx context.Context, now time.Time, limit int) ([]Message, error)
	Delivered(ctx context.Context, id string, now time.Time) error
	Postpone(ctx context.Context, id string, next time.Time) error
	// GiveUp ends the attempts of older messages, and returns how many there were.
	GiveUp(ctx context.Context, before time.Time) (int64, error)
}

// Config is what a relay works with.
type Config struct {
	Outbox Outbox
	Send   func(ctx context.Context, e webhook.Event) error
	Lease  func(ctx context.Context) (l leader.Lease, ok bool, err error)
	Now    func() time.Time
	Log    *slog.Logger
	Meter  metric.MeterProvider
}

// Relay delivers the messages of an outbox, on one replica at a time.
type Relay struct {
	c          Config
	deliveries metric.Int64Counter
}

const (
	pollEvery = 5 * time.Second
	batch     = 50
	// MaxAge is how long a message is attempted: after three days it is no news, and the
	// API shows the finding.
	MaxAge = 72 * time.Hour
)

var schedule = delivery.Schedule{First: 10 * time.Second, Longest: time.Hour, MaxAge: MaxAge}

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

// Once attempts every message that is due, and stops at the first that fails, because
// the receiver is probably down. The failed message waits, longer each time, and does
// not delay the others.
func (r *Relay) Once(ctx context.Context) error {
	now := r.c.Now()
	lost, err := r.c.Outbox.GiveUp(ctx, now.Add(-schedule.MaxAge))
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
			if ctx.Err() != nil { // this process ends; nothing follows about the receiver
				return nil
			}
			r.count(ctx, "failure", 1)
			r.c.Log.WarnContext(ctx, "the webhook did not take an event", "event_id", m.Event.ID, "attempts", m.Attempts+1, "error", err)
			return r.c.Outbox.Postpone(ctx, m.Event.ID, r.c.Now().Add(schedule.Wait(m.Attempts+1)))
		}
		r.count(ctx, "success", 1)
		// A crash here delivers the event again, and its id identifies the repeat. So that
		// the end of ctx does not do the same, the step outlives it.
		if err := r.c.Outbox.Delivered(context.WithoutCancel(ctx), m.Event.ID, r.c.Now()); err != nil {
			return err
		}
	}
	return nil
}

func (r *Relay) count(ctx context.Context, outcome string, n int64) {
	r.deliveries.Add(ctx, n, metric.WithAttributes(attribute.String("trakr.outcome", outcome)))
}
