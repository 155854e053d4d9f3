// Package audit writes and reads the append-only record of every access to
// tenant fields. An event is appended inside the transaction of the act it
// records (Append) or, for a refused act, in a short one of its own (Record).
// It names fields and never has a value. There is no update and no delete.
package audit

import (
	"context"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"trakr/internal/lifecycle"
)

// Action is what was done, lower-case and dotted.
type Action string

// The actions.
const (
	TenantLookup    Action = "tenant.lookup"    // by client key or workspace uuid, found or not
	TenantRead      Action = "tenant.read"      // guarded fields were released; a status_detail where they only signed a token
	TenantInstall   Action = "tenant.install"   // a tenant was created
	TenantUpdate    Action = "tenant.update"    // installed again: fields replaced; or switched-off fields removed
	TenantErase     Action = "tenant.erase"     // the values of a tenant were deleted
	TenantProbe     Action = "tenant.probe"     // Bitbucket was asked whether the app is still installed
	TenantReencrypt Action = "tenant.reencrypt" // the values were re-encrypted with the active key and shown to no one
	KeyActivate     Action = "key.activate"     // another field key encrypts from here on: correlation_id
	KeyDestroy      Action = "key.destroy"      // a field key was removed; no value is encrypted with it
	ErasureBegin    Action = "erasure.begin"    // the tombstone is stored; nothing of the tenant is released from here on
	ErasureVerify   Action = "erasure.verify"   // every store was counted by another role
	ErasureIssue    Action = "erasure.issue"    // a certificate was issued
	RestoreReplay   Action = "restore.replay"   // the ledger was compared with a database
	HoldPlace       Action = "hold.place"
	HoldRelease     Action = "hold.release"
	RequestMove     Action = "request.move" // a deletion request changed its state: status_detail
	SweepRun        Action = "sweep.run"

	DeliverySend        Action = "delivery.send"        // an event about a tenant is about to leave for the end service: an attempt
	DeliveryAcknowledge Action = "delivery.acknowledge" // the end service took it
	DeliveryGiveUp      Action = "delivery.give_up"     // it was not taken for days, or the guard refused it
	DeliveryRetry       Action = "delivery.retry"       // a person had it tried again
	DeliveryClose       Action = "delivery.close"       // what waited is needless: tenant erased, or dropped by a person: status_detail

	FindingMove Action = "finding.move" // a finding was acknowledged
	ReportIssue Action = "report.issue"
	AuditExport Action = "audit.export"
	AuditRead   Action = "audit.read"       // a page of events, or a proof
	AuditExpire Action = "audit.expire"     // content past its period was removed by the owner
	RetireRows  Action = "retention.remove" // rows past their period were removed by the sweep
	TokenCreate Action = "token.create"
	TokenRevoke Action = "token.revoke"
	TokenUse    Action = "token.use" // recorded only when refused: the role may not do this
)

// Actions lists every action.
func Actions() []Action {
	return []Action{TenantLookup, TenantRead, TenantInstall, TenantUpdate, TenantErase, TenantProbe, TenantReencrypt,
		KeyActivate, KeyDestroy, ErasureBegin, ErasureVerify, ErasureIssue, RestoreReplay, HoldPlace, HoldRelease, RequestMove,
		DeliverySend, DeliveryAcknowledge, DeliveryGiveUp, DeliveryRetry, DeliveryClose, SweepRun, FindingMove, ReportIssue,
		AuditExport, AuditRead, AuditExpire, RetireRows, TokenCreate, TokenRevoke, TokenUse}
}

// Outcome is how it ended.
type Outcome string

// The outcomes: denied means a rule refused it, failure that it broke.
const (
	Success Outcome = "success"
	Denied  Outcome = "denied"
	Failure Outcome = "failure"
)

// Outcomes lists every outcome.
func Outcomes() []Outcome { return []Outcome{Success, Denied, Failure} }

// SchemaVersion is the version of the record's form.
const SchemaVersion = 1

// Event is one audit event. JSON and CSV use the column names.
type Event struct {
	EventID       uuid.UUID            // UUIDv7
	OccurredAt    time.Time            // our clock, UTC, microseconds
	TenantID      lifecycle.TenantID   // zero when no tenant is known
	ActorType     lifecycle.ActorType  //
	ActorID       string               // opaque
	Action        Action               //
	Outcome       Outcome              //
	StatusDetail  string               // one of a closed set: why denied, what was found
	ReasonCode    lifecycle.ReasonCode //
	ReasonRef     string               // ticket
	FieldNames    []lifecycle.Field    // names only
	DroppedNames  []string             // payload keys seen and not kept, names only
	SubjectDigest string               // keyed digest, hex; never the client key
	Recipient     string               // host a value was disclosed to
	RequestID     string               //
	TraceID       string               // W3C trace context
	CorrelationID string               // erasure, sweep run, report
	SchemaVersion int                  //

	LogIndex   *int64    // position in the log; nil until sequenced; set by Query
	RecordedAt time.Time // the database's clock; set when read back
}

// New starts the event of an act: who, why, when and in which request.
func New(ctx context.Context, now time.Time, a lifecycle.Access, act Action, out Outcome) Event {
	why := a.Recordable()
	e := Event{
		EventID:       newID(),
		OccurredAt:    now.UTC().Truncate(time.Microsecond),
		ActorType:     a.Caller.Type,
		ActorID:       a.Caller.ID,
		Action:        act,
		Outcome:       out,
		ReasonCode:    why.Code,
		ReasonRef:     why.Ref,
		RequestID:     a.RequestID,
		CorrelationID: a.CorrelationID,
		SchemaVersion: SchemaVersion,
	}
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		e.TraceID = sc.TraceID().String()
	}
	return e
}

// newID returns a UUIDv7. It can fail only when the system has no randomness
// left, and then a zero id violates the table's constraint on the second use.
func newID() uuid.UUID {
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.UUID{}
	}
	return id
}
