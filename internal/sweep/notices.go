package sweep

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"trakr/internal/egress/webhook"
	"trakr/internal/store/findings"
)

// EventType begins the type of each event about a finding; the transition follows.
const EventType = "com.trakr.finding."

// Outbox gives the webhook each step of a finding's life, from where the sweeps'
// store keeps it.
type Outbox struct {
	findings *findings.Store
	source   string
}

// NewOutbox returns the outbox. The source names this installation: its public
// address and the app's key.
func NewOutbox(s *findings.Store, baseURL, appKey string) *Outbox {
	return &Outbox{s, baseURL + "/" + appKey}
}

// notice is what a receiver learns: names of our tables and counts, never a value.
type notice struct {
	FindingID string            `json:"finding_id"`
	Kind      string            `json:"kind"`
	Severity  findings.Severity `json:"severity"`
	Store     string            `json:"store"`
	Table     string            `json:"table"`
	Column    string            `json:"column"`
	Count     int64             `json:"count"`
	Blind     bool              `json:"blind,omitempty"` // a sweep could not judge it
}

// Due implements webhook.Outbox.
func (o *Outbox) Due(ctx context.Context, now time.Time, limit int) ([]webhook.Message, error) {
	waiting, err := o.findings.Undelivered(ctx, now, limit)
	if err != nil {
		return nil, err
	}
	out := make([]webhook.Message, len(waiting))
	for i, w := range waiting {
		out[i] = webhook.Message{Attempts: w.Attempts, Event: webhook.Event{ID: w.ID, Source: o.source, Type: EventType + string(w.Transition),
			Subject: "findings/" + w.FindingID, Time: w.OccurredAt,
			Data: notice{w.FindingID, w.Kind, w.Severity, w.Store, w.Table, w.Column, w.Rows, w.Blind}}}
	}
	return out, nil
}

// Delivered implements webhook.Outbox.
func (o *Outbox) Delivered(ctx context.Context, id string, now time.Time) error {
	return o.findings.Delivered(ctx, id, now)
}

// Postpone implements webhook.Outbox.
func (o *Outbox) Postpone(ctx context.Context, id string, next time.Time) error {
	return o.findings.Postpone(ctx, id, next)
}

// GiveUp implements webhook.Outbox.
func (o *Outbox) GiveUp(ctx context.Context, before time.Time) (int64, error) {
	return o.findings.GiveUp(ctx, before)
}

// Measure registers how many findings are open, acknowledged ones included. A kind
// without one shows no series.
func Measure(provider metric.MeterProvider, s *findings.Store) error {
	_, err := provider.Meter("trakr/internal/sweep").Int64ObservableGauge("trakr.findings.open",
		metric.WithDescription("Open findings, acknowledged ones included."), metric.WithUnit("{finding}"),
		metric.WithInt64Callback(func(ctx context.Context, o metric.Int64Observer) error {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			counts, err := s.OpenCounts(ctx)
			if err != nil {
				return err
			}
			for _, c := range counts {
				o.Observe(c.Count, metric.WithAttributes(attribute.String("trakr.kind", c.Kind), attribute.String("trakr.severity", string(c.Severity))))
			}
			return nil
		}))
	if err != nil {
		return fmt.Errorf("making the findings' metric: %w", err)
	}
	return nil
}
