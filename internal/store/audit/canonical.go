package audit

import (
	"strconv"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/proof/jcs"
)

// TimeForm is how times stand in records: UTC, always six decimals.
const TimeForm = "2006-01-02T15:04:05.000000Z"

// Record returns the canonical bytes of the event: JSON as RFC 8785 (JCS) wants
// it, that is keys in UTF-16 order (all of ours are ASCII), no white space,
// shortest escapes. Absent members are left out. These bytes, and not a later
// re-encoding, are what is stored and will be hashed.
func (e Event) Record() []byte {
	var w writer
	w.str("action", string(e.Action))
	w.str("actor_id", e.ActorID)
	w.str("actor_type", string(e.ActorType))
	w.str("correlation_id", e.CorrelationID)
	w.list("dropped_names", e.DroppedNames)
	w.str("event_id", e.EventID.String())
	w.list("field_names", fieldNames(e.FieldNames))
	w.str("occurred_at", e.OccurredAt.UTC().Format(TimeForm))
	w.str("outcome", string(e.Outcome))
	w.always("reason_code", string(e.ReasonCode))
	w.str("reason_ref", e.ReasonRef)
	w.str("recipient", e.Recipient)
	w.str("request_id", e.RequestID)
	w.key("schema_version")
	w.b = strconv.AppendInt(w.b, int64(e.SchemaVersion), 10)
	w.str("status_detail", e.StatusDetail)
	w.str("subject_digest", e.SubjectDigest)
	if !e.TenantID.IsZero() {
		w.str("tenant_id", e.TenantID.String())
	}
	w.str("trace_id", e.TraceID)
	return append(w.b, '}')
}

func fieldNames(fs []lifecycle.Field) []string {
	if fs == nil {
		return nil
	}
	out := make([]string, len(fs))
	for i, f := range fs {
		out[i] = string(f)
	}
	return out
}

// writer appends members in the order it is called, which must be sorted.
type writer struct{ b []byte }

func (w *writer) key(k string) {
	if len(w.b) == 0 {
		w.b = append(w.b, '{')
	} else {
		w.b = append(w.b, ',')
	}
	w.b = jcs.AppendString(w.b, k)
	w.b = append(w.b, ':')
}

func (w *writer) str(k, v string) {
	if v != "" {
		w.always(k, v)
	}
}

func (w *writer) always(k, v string) {
	w.key(k)
	w.b = jcs.AppendString(w.b, v)
}

func (w *writer) list(k string, vs []string) {
	if len(vs) == 0 {
		return
	}
	w.key(k)
	w.b = append(w.b, '[')
	for i, v := range vs {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.b = jcs.AppendString(w.b, v)
	}
	w.b = append(w.b, ']')
}

// jsonTime formats an optional time for people and machines alike.
func jsonTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(TimeForm)
}
