package audit

import (
	"slices"
	"strings"

	"trakr/internal/lifecycle"
)

// form is how a column's value is written on the wire and in the record.
type form int

const (
	asText form = iota
	asList
	asUUID
	asTime
	asNumber
)

// column is one member of an event's record, and the column of trakr.audit_events that
// the database derives from it under the same name.
type column struct {
	name string
	form form
	// One of them returns the value. A text that is empty and a list without elements
	// make no member, unless the member is required.
	text     func(*Event) string
	list     func(*Event) []string
	number   func(*Event) int64
	required bool
}

// columns is the one list of them, in the order of the record's members (RFC 8785: by
// name). Event.Record writes by it and Verify reads by it. The fields of row (what Query
// selects), of View (the API) and of auditfile.Members (what a file can show) are
// compared with it by a test, and so are the columns of the table.
var columns = []column{
	{name: "action", text: func(e *Event) string { return string(e.Action) }},
	{name: "actor_id", text: func(e *Event) string { return e.ActorID }},
	{name: "actor_type", text: func(e *Event) string { return string(e.ActorType) }},
	{name: "correlation_id", text: func(e *Event) string { return e.CorrelationID }},
	{name: "dropped_names", form: asList, list: func(e *Event) []string { return e.DroppedNames }},
	{name: "event_id", form: asUUID, text: func(e *Event) string { return e.EventID.String() }},
	{name: "field_names", form: asList, list: func(e *Event) []string { return fieldNames(e.FieldNames) }},
	{name: "occurred_at", form: asTime, text: func(e *Event) string { return e.OccurredAt.UTC().Format(TimeForm) }},
	{name: "outcome", text: func(e *Event) string { return string(e.Outcome) }},
	{name: "reason_code", text: func(e *Event) string { return string(e.ReasonCode) }, required: true},
	{name: "reason_ref", text: func(e *Event) string { return e.ReasonRef }},
	{name: "recipient", text: func(e *Event) string { return e.Recipient }},
	{name: "request_id", text: func(e *Event) string { return e.RequestID }},
	{name: "schema_version", form: asNumber, number: func(e *Event) int64 { return int64(e.SchemaVersion) }},
	{name: "status_detail", text: func(e *Event) string { return e.StatusDetail }},
	{name: "subject_digest", text: func(e *Event) string { return e.SubjectDigest }},
	{name: "tenant_id", form: asUUID, text: func(e *Event) string { return tenantText(e.TenantID) }},
	{name: "trace_id", text: func(e *Event) string { return e.TraceID }},
}

func columnNames() []string {
	out := make([]string, len(columns))
	for i, c := range columns {
		out[i] = c.name
	}
	return out
}

func isColumn(name string) bool {
	return slices.ContainsFunc(columns, func(c column) bool { return c.name == name })
}

// The columns that Verify reads, in this order: the event's place in the log, its record,
// and then the columns of the list.
const (
	rawEpoch = iota
	rawXid
	rawID
	rawRecord
	rawColumns
)

var (
	verifiedColumns = "epoch, xid, id, record, " + strings.Join(columnNames(), ", ")
	rawEventID      = rawColumns + slices.Index(columnNames(), "event_id")
)

func tenantText(id lifecycle.TenantID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}
