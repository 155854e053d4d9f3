package findings

import (
	"context"
	"time"

	"trakr/internal/egress/webhook"
	"trakr/internal/store/findings"
)

// EventType begins the type of each event about a finding; the transition follows.
const EventType = "com.trakr.finding."

// queue is the Outbox of the findings that the database keeps.
type queue struct {
	findings *findings.Store
	source   string
}

// NewOutbox returns the outbox of the stored findings. The source of its events is this
// installation: its public address and the app's key.
func NewOutbox(s *findings.Store, baseURL, appKey string) Outbox {
	return &queue{s, baseURL + "/" + appKey}
}

// notice is the event's data: names of our tables and counts, never a value.
type notice struct {
	FindingID string            `json:"finding_id"`
	Kind      string            `json:"kind"`
	Severity  findings.Severity `json:"severity"`
	Store     string            `json:"store"`
	Table     string            `json:"table"`
	Column    string            `json:"column"`
	Count     int64             `json:"count"`
	Blind     bool              `json:"blind,omitempty"` // a sweep could not check it
}

func (q *queue) Due(ctx context.Context, now time.Time, limit int) ([]Message, error) {
	waiting, err := q.findings.Undelivered(ctx, now, limit)
	if err != nil {
		return nil, err
	}
	out := make([]Message, len(waiting))
	for i, w := range waiting {
		out[i] = Message{Attempts: w.Attempts, Event: webhook.Event{ID: w.ID, Source: q.source, Type: EventType + string(w.Transition),
			Subject: "findings/" + w.FindingID, Time: w.OccurredAt,
			Data: notice{w.FindingID, w.Kind, w.Severity, w.Store, w.Table, w.Column, w.Rows, w.Blind}}}
	}
	return out, nil
}

func (q *queue) Delivered(ctx context.Context, id string, now time.Time) error {
	return q.findings.Delivered(ctx, id, now)
}

func (q *queue) Postpone(ctx context.Context, id string, next time.Time) error {
	return q.findings.Postpone(ctx, id, next)
}

func (q *queue) GiveUp(ctx context.Context, before time.Time) (int64, error) {
	return q.findings.GiveUp(ctx, before)
}
