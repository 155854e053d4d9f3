package audit

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"trakr/internal/lifecycle"
)

// View is an event in the published form: the columns' names, absent ones left out.
type View struct {
	EventID       string   `json:"event_id" doc:"UUIDv7"`
	OccurredAt    string   `json:"occurred_at" doc:"our clock, UTC, microseconds"`
	RecordedAt    string   `json:"recorded_at,omitempty" doc:"the database's clock"`
	TenantID      string   `json:"tenant_id,omitempty" doc:"our random id, never the client key"`
	ActorType     string   `json:"actor_type"`
	ActorID       string   `json:"actor_id" doc:"opaque"`
	Action        string   `json:"action"`
	Outcome       string   `json:"outcome" enum:"success,denied,failure"`
	StatusDetail  string   `json:"status_detail,omitempty" doc:"why denied, or what was found"`
	ReasonCode    string   `json:"reason_code"`
	ReasonRef     string   `json:"reason_ref,omitempty" doc:"ticket"`
	FieldNames    []string `json:"field_names,omitempty" doc:"names only"`
	DroppedNames  []string `json:"dropped_names,omitempty" doc:"payload keys seen and not kept, names only"`
	SubjectDigest string   `json:"subject_digest,omitempty" doc:"keyed digest, hex"`
	Recipient     string   `json:"recipient,omitempty"`
	RequestID     string   `json:"request_id,omitempty"`
	TraceID       string   `json:"trace_id,omitempty"`
	CorrelationID string   `json:"correlation_id,omitempty" doc:"erasure, sweep run, report or token"`
	SchemaVersion int      `json:"schema_version"`
}

// View returns the event in the published form.
func (e Event) View() View {
	v := View{e.EventID.String(), jsonTime(e.OccurredAt), jsonTime(e.RecordedAt), "", string(e.ActorType), e.ActorID, string(e.Action),
		string(e.Outcome), e.StatusDetail, string(e.ReasonCode), e.ReasonRef, fieldNames(e.FieldNames), e.DroppedNames, e.SubjectDigest,
		e.Recipient, e.RequestID, e.TraceID, e.CorrelationID, e.SchemaVersion}
	if !e.TenantID.IsZero() {
		v.TenantID = e.TenantID.String()
	}
	return v
}

// MarshalJSON implements json.Marshaler.
func (e Event) MarshalJSON() ([]byte, error) { return json.Marshal(e.View()) }

// Format is a form of export.
type Format string

// The formats: newline-delimited JSON and RFC 4180 CSV.
const (
	NDJSON Format = "ndjson"
	CSV    Format = "csv"
)

// Formats lists the formats.
func Formats() []Format { return []Format{NDJSON, CSV} }

// ContentType is the media type of a format.
func (f Format) ContentType() string {
	if f == CSV {
		return "text/csv; charset=utf-8"
	}
	return "application/x-ndjson"
}

// Export writes every selected event to w, oldest first, and returns how many.
// The export itself is recorded first: when that cannot be done nothing is
// written. An event of the export is not part of the export it describes.
func (l *Log) Export(ctx context.Context, a lifecycle.Access, f Filter, form Format, w io.Writer) (int64, error) {
	if err := a.CheckReason(); err != nil {
		return 0, err
	}
	e := New(ctx, l.now(), a, AuditExport, Success)
	e.StatusDetail = string(form)
	e.TenantID = f.Tenant
	var enc interface{ write(Event) error }
	switch form {
	case NDJSON:
		enc = &jsonLines{json.NewEncoder(w)}
	case CSV:
		enc = &csvLines{w: csv.NewWriter(w)}
	default:
		return 0, lifecycle.Fail(lifecycle.RequestInvalid, "The format is one of ndjson, csv.", lifecycle.At("/format", "unknown format"))
	}
	if err := l.Record(ctx, e); err != nil {
		return 0, err
	}
	var n int64
	err := l.Each(ctx, f, func(ev Event) error {
		if ev.EventID == e.EventID {
			return nil
		}
		n++
		return enc.write(ev)
	})
	if c, ok := enc.(*csvLines); ok && err == nil {
		err = c.close()
	}
	if err != nil {
		return n, fmt.Errorf("exporting the audit: %w", err)
	}
	return n, nil
}

type jsonLines struct{ e *json.Encoder }

func (j *jsonLines) write(e Event) error { return j.e.Encode(e) }

var csvHeader = []string{"event_id", "occurred_at", "recorded_at", "tenant_id", "actor_type", "actor_id", "action", "outcome",
	"status_detail", "reason_code", "reason_ref", "field_names", "dropped_names", "subject_digest", "recipient",
	"request_id", "trace_id", "correlation_id", "schema_version"}

type csvLines struct {
	w      *csv.Writer
	headed bool
}

func (c *csvLines) head() error {
	if c.headed {
		return nil
	}
	c.headed = true
	c.w.UseCRLF = true
	return c.w.Write(csvHeader)
}

func (c *csvLines) write(e Event) error {
	if err := c.head(); err != nil {
		return err
	}
	v := e.View()
	cells := []string{v.EventID, v.OccurredAt, v.RecordedAt, v.TenantID, v.ActorType, v.ActorID, v.Action, v.Outcome, v.StatusDetail,
		v.ReasonCode, v.ReasonRef, strings.Join(v.FieldNames, " "), strings.Join(v.DroppedNames, " "), v.SubjectDigest, v.Recipient,
		v.RequestID, v.TraceID, v.CorrelationID, strconv.Itoa(v.SchemaVersion)}
	for i, s := range cells {
		cells[i] = harmless(s)
	}
	return c.w.Write(cells)
}

func (c *csvLines) close() error {
	if err := c.head(); err != nil {
		return err
	}
	c.w.Flush()
	return c.w.Error()
}

// harmless keeps a spreadsheet from taking a cell for a formula.
func harmless(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}
