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

// MarshalJSON implements json.Marshaler: the columns of the published form,
// absent ones left out.
func (e Event) MarshalJSON() ([]byte, error) {
	tenant := ""
	if !e.TenantID.IsZero() {
		tenant = e.TenantID.String()
	}
	return json.Marshal(struct {
		EventID       string            `json:"event_id"`
		OccurredAt    string            `json:"occurred_at"`
		RecordedAt    string            `json:"recorded_at,omitempty"`
		TenantID      string            `json:"tenant_id,omitempty"`
		ActorType     string            `json:"actor_type"`
		ActorID       string            `json:"actor_id"`
		Action        string            `json:"action"`
		Outcome       string            `json:"outcome"`
		StatusDetail  string            `json:"status_detail,omitempty"`
		ReasonCode    string            `json:"reason_code"`
		ReasonRef     string            `json:"reason_ref,omitempty"`
		FieldNames    []lifecycle.Field `json:"field_names,omitempty"`
		DroppedNames  []string          `json:"dropped_names,omitempty"`
		SubjectDigest string            `json:"subject_digest,omitempty"`
		Recipient     string            `json:"recipient,omitempty"`
		RequestID     string            `json:"request_id,omitempty"`
		TraceID       string            `json:"trace_id,omitempty"`
		CorrelationID string            `json:"correlation_id,omitempty"`
		SchemaVersion int               `json:"schema_version"`
	}{e.EventID.String(), jsonTime(e.OccurredAt), jsonTime(e.RecordedAt), tenant, string(e.ActorType), e.ActorID, string(e.Action),
		string(e.Outcome), e.StatusDetail, string(e.ReasonCode), e.ReasonRef, e.FieldNames, e.DroppedNames, e.SubjectDigest,
		e.Recipient, e.RequestID, e.TraceID, e.CorrelationID, e.SchemaVersion})
}

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
	tenant := ""
	if !e.TenantID.IsZero() {
		tenant = e.TenantID.String()
	}
	cells := []string{e.EventID.String(), jsonTime(e.OccurredAt), jsonTime(e.RecordedAt), tenant, string(e.ActorType), e.ActorID,
		string(e.Action), string(e.Outcome), e.StatusDetail, string(e.ReasonCode), e.ReasonRef,
		strings.Join(fieldNames(e.FieldNames), " "), strings.Join(e.DroppedNames, " "), e.SubjectDigest, e.Recipient,
		e.RequestID, e.TraceID, e.CorrelationID, strconv.Itoa(e.SchemaVersion)}
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
