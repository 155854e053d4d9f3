package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/google/uuid"

	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
)

func (a *admin) auditRoutes() {
	add(a, operation{
		method: http.MethodGet, path: "/v1/audit/events", tag: tagAudit, roles: reviewers,
		summary: "List audit events",
		detail:  "The reading is audited.",
		fails:   []lifecycle.Kind{lifecycle.ReasonRequired},
	}, a.listEvents)
	add(a, operation{
		method: http.MethodGet, path: "/v1/audit/export", tag: tagAudit, roles: reviewers,
		summary: "Export every selected event in the order of the log, with proofs that can be verified offline",
		detail:  exportDescription,
		media:   []string{"application/x-ndjson", "text/csv", "application/gzip"},
		fails:   []lifecycle.Kind{lifecycle.ReasonRequired},
	}, a.exportEvents)
	add(a, operation{
		method: http.MethodGet, path: "/v1/audit/checkpoint", tag: tagAudit, roles: everyone,
		summary: "Get the newest signed checkpoint of the audit",
		fails:   []lifecycle.Kind{lifecycle.NotFound},
	}, a.latestCheckpoint)
	add(a, operation{
		method: http.MethodGet, path: "/v1/audit/proof", tag: tagAudit, roles: reviewers,
		summary: "Get one event's record and the proof that the log contains it",
		detail:  "The reading is audited.",
		fails:   []lifecycle.Kind{lifecycle.ReasonRequired, lifecycle.NotFound},
	}, a.proveEvent)
	add(a, operation{
		method: http.MethodGet, path: "/v1/audit/consistency", tag: tagAudit, roles: everyone,
		summary: "Get the proof that the log only grew since an older checkpoint",
		fails:   []lifecycle.Kind{lifecycle.NotFound},
	}, a.proveGrowth)
}

// AuditFilter selects events. It is exported for the reason that TenantPath is.
type AuditFilter struct {
	TenantID      string          `query:"tenant_id" doc:"only events about this tenant"`
	ActorID       string          `query:"actor_id" maxLength:"64" doc:"only events of this caller"`
	Action        string          `query:"action" maxLength:"64" doc:"only this action, e.g. tenant.read"`
	Outcome       string          `query:"outcome" enum:"success,denied,failure" doc:"only this outcome"`
	Field         lifecycle.Field `query:"field" doc:"only events that name this field"`
	RequestID     string          `query:"request_id" maxLength:"64" doc:"only events of this request"`
	CorrelationID string          `query:"correlation_id" maxLength:"64" doc:"only events of this erasure, sweep run, report or token"`
	EventID       string          `query:"event_id" maxLength:"36" doc:"only this event"`
	Since         time.Time       `query:"since" doc:"recorded at or after, RFC 3339"`
	Until         time.Time       `query:"until" doc:"recorded before, RFC 3339"`
}

func (f AuditFilter) filter() (audit.Filter, error) {
	out := audit.Filter{
		ActorID: f.ActorID, Action: audit.Action(f.Action), Outcome: audit.Outcome(f.Outcome), Field: f.Field,
		RequestID: f.RequestID, CorrelationID: f.CorrelationID, EventID: f.EventID, Since: f.Since, Until: f.Until,
	}
	if f.EventID != "" {
		if _, err := uuid.Parse(f.EventID); err != nil || len(f.EventID) != 36 {
			return out, lifecycle.Fail(lifecycle.RequestInvalid, "An event is named by its event_id, a UUID.",
				lifecycle.At("/event_id", "not a uuid"))
		}
	}
	if f.TenantID != "" {
		id, err := lifecycle.ParseTenantID(f.TenantID)
		if err != nil {
			return out, lifecycle.Fail(lifecycle.RequestInvalid, "A tenant is named by the id this service gave it.",
				lifecycle.At("/tenant_id", "not a tenant id"))
		}
		out.Tenant = id
	}
	return out, nil
}

type eventsInput struct {
	AuditFilter

	Cursor string `query:"cursor" doc:"next_cursor of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"at most this many"`
}

type eventPage struct {
	Events     []audit.View `json:"events" doc:"newest first"`
	NextCursor string       `json:"next_cursor,omitempty" doc:"absent on the last page"`
}

func (a *admin) listEvents(ctx context.Context, in *eventsInput) (*body[eventPage], error) {
	f, err := in.filter()
	if err != nil {
		return nil, err
	}
	events, next, err := a.Audit.Query(ctx, access(ctx, reason{}, lifecycle.ReviewerExport), f, in.Cursor, in.Limit)
	if err != nil {
		return nil, err
	}
	out := eventPage{Events: make([]audit.View, len(events)), NextCursor: next}
	for i, e := range events {
		out.Events[i] = e.View()
	}
	return &body[eventPage]{out}, nil
}

type exportInput struct {
	AuditFilter
	ReasonQuery

	Format string `query:"format" enum:"ndjson,csv,ocsf" default:"ndjson" doc:"ocsf is OCSF 1.8"`
	Gzip   bool   `query:"gzip" doc:"answer with a gzip file"`
	From   int64  `query:"from" minimum:"0" doc:"first log_index: the next of the part before"`
	Limit  int64  `query:"limit" minimum:"0" doc:"at most this many events; 0 for all"`
}

func (a *admin) exportEvents(ctx context.Context, in *exportInput) (*huma.StreamResponse, error) {
	f, err := in.filter()
	if err != nil {
		return nil, err
	}
	who := access(ctx, in.reason(), lifecycle.ReviewerExport)
	what := audit.Selection{
		Filter: f, Format: audit.Format(in.Format), Gzip: in.Gzip, From: in.From, Limit: in.Limit, CatchUp: a.CatchUp,
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		a.export(w, r, who, what)
	}}, nil
}

type checkpoint struct {
	Checkpoint string    `json:"checkpoint" doc:"signed tree head, C2SP tlog-checkpoint"`
	Key        string    `json:"key" doc:"the log's public key, C2SP signed-note; keep it apart from the checkpoints"`
	Size       int64     `json:"size" doc:"events that have a position"`
	SignedAt   time.Time `json:"signed_at" doc:"when it was signed"`
}

func (a *admin) latestCheckpoint(ctx context.Context, _ *struct{}) (*body[checkpoint], error) {
	cp, err := a.Audit.Latest(ctx)
	if err != nil {
		return nil, err
	}
	return &body[checkpoint]{checkpoint{string(cp.Note), a.Audit.VerifierKey(), cp.Size, cp.SignedAt}}, nil
}

type proofInput struct {
	ReasonQuery

	EventID string `query:"event_id" required:"true" maxLength:"36" doc:"the event to prove"`
}

func (a *admin) proveEvent(ctx context.Context, in *proofInput) (*body[audit.Proof], error) {
	p, err := a.Audit.Prove(ctx, access(ctx, in.reason(), lifecycle.ReviewerExport), in.EventID)
	if err != nil {
		return nil, err
	}
	return &body[audit.Proof]{p}, nil
}

type growthInput struct {
	From int64 `query:"from" required:"true" minimum:"0" doc:"size of the older checkpoint"`
}

func (a *admin) proveGrowth(ctx context.Context, in *growthInput) (*body[audit.Consistency], error) {
	c, err := a.Audit.ProveGrowth(ctx, in.From)
	if err != nil {
		return nil, err
	}
	return &body[audit.Consistency]{c}, nil
}
