package audit

import "encoding/json"

// View is an event in the published form: the columns' names, absent ones left out.
type View struct {
	EventID       string   `json:"event_id" doc:"UUIDv7"`
	OccurredAt    string   `json:"occurred_at" doc:"our clock, UTC, microseconds"`
	RecordedAt    string   `json:"recorded_at,omitempty" doc:"the database's clock"`
	TenantID      string   `json:"tenant_id,omitempty" doc:"our random id, never the client key"`
	ActorType     string   `json:"actor_type" doc:"kind of caller, e.g. bitbucket, service or staff"`
	ActorID       string   `json:"actor_id" doc:"opaque"`
	Action        string   `json:"action" doc:"what was done, e.g. tenant.read"`
	Outcome       string   `json:"outcome" enum:"success,denied,failure" doc:"denied: a rule refused it; failure: it was not completed"`
	StatusDetail  string   `json:"status_detail,omitempty" doc:"why denied, or what was found"`
	ReasonCode    string   `json:"reason_code" doc:"why it was done"`
	ReasonRef     string   `json:"reason_ref,omitempty" doc:"ticket"`
	FieldNames    []string `json:"field_names,omitempty" doc:"names only"`
	DroppedNames  []string `json:"dropped_names,omitempty" doc:"payload keys seen and not kept, names only"`
	SubjectDigest string   `json:"subject_digest,omitempty" doc:"keyed digest, hex"`
	Recipient     string   `json:"recipient,omitempty" doc:"the host that the fields were sent to"`
	RequestID     string   `json:"request_id,omitempty" doc:"of the HTTP request or the command"`
	TraceID       string   `json:"trace_id,omitempty" doc:"of the distributed trace"`
	CorrelationID string   `json:"correlation_id,omitempty" doc:"erasure, sweep run, report or token"`
	SchemaVersion int      `json:"schema_version" doc:"version of this form"`
	LogIndex      *int64   `json:"log_index,omitempty" doc:"position in the log, from 0; absent until sequenced"`
}

// View returns the event in the published form.
func (e Event) View() View {
	return View{e.EventID.String(), jsonTime(e.OccurredAt), jsonTime(e.RecordedAt), tenantText(e.TenantID), string(e.ActorType),
		e.ActorID, string(e.Action), string(e.Outcome), e.StatusDetail, string(e.ReasonCode), e.ReasonRef,
		fieldNames(e.FieldNames), e.DroppedNames, e.SubjectDigest, e.Recipient,
		e.RequestID, e.TraceID, e.CorrelationID, e.SchemaVersion, e.LogIndex}
}

// MarshalJSON implements json.Marshaler.
func (e Event) MarshalJSON() ([]byte, error) { return json.Marshal(e.View()) }
