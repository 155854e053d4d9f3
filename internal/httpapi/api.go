package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/google/uuid"

	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/findings"
	"trakr/internal/store/tenants"
	"trakr/internal/sweep"
	"trakr/reports"
)

// Roles that several routes share.
var (
	values   = []lifecycle.Role{lifecycle.RoleService, lifecycle.RoleSupport}
	reviews  = []lifecycle.Role{lifecycle.RoleReviewer, lifecycle.RoleOperator}
	everyone = lifecycle.TokenRoles()
)

// reason is why a request is made.
type reason struct {
	Code string `json:"code,omitempty" doc:"a reason code of the policy" maxLength:"64"`
	Ref  string `json:"ref,omitempty" doc:"a ticket, e.g. SUP-1234; people must name one" maxLength:"128"`
}

// registryEntry is a tenant without customer data.
type registryEntry struct {
	TenantID    string     `json:"tenant_id"`
	State       string     `json:"state" enum:"live,erased"`
	Ingress     string     `json:"ingress"`
	InstalledAt time.Time  `json:"installed_at"`
	UpdatedAt   time.Time  `json:"updated_at"`
	ErasedAt    *time.Time `json:"erased_at,omitempty"`
}

func entry(t tenants.Tenant) registryEntry {
	return registryEntry{t.ID.String(), string(t.State), string(t.Ingress), t.InstalledAt, t.UpdatedAt, t.ErasedAt}
}

func parseID(s string) (lifecycle.TenantID, error) {
	id, err := lifecycle.ParseTenantID(s)
	if err != nil {
		return id, lifecycle.Fail(lifecycle.RequestInvalid, "A tenant is named by the id this service gave it; look it up first.", lifecycle.At("/id", "not a tenant id"))
	}
	return id, nil
}

type body[T any] struct{ Body T }

func (a *admin) tenantRoutes() {
	type lookupIn struct {
		Body struct {
			ClientKey     string `json:"client_key,omitempty" maxLength:"512"`
			WorkspaceUUID string `json:"workspace_uuid,omitempty" maxLength:"38"`
			Reason        reason `json:"reason,omitempty"`
		}
	}
	add(a, http.MethodPost, "/v1/tenants/lookup", "Find a tenant by client key or workspace uuid", append(values[:len(values):len(values)], lifecycle.RoleOperator),
		func(ctx context.Context, in *lookupIn) (*body[registryEntry], error) {
			s, err := tenants.ParseSubject(in.Body.ClientKey, in.Body.WorkspaceUUID)
			if err != nil {
				return nil, err
			}
			t, err := a.Door.Lookup(ctx, access(ctx, in.Body.Reason, lifecycle.ServiceOperation), s)
			if err != nil {
				return nil, err
			}
			return &body[registryEntry]{entry(t)}, nil
		})
	type idIn struct {
		ID string `path:"id" doc:"tenant id"`
	}
	add(a, http.MethodGet, "/v1/tenants/{id}", "The registry's entry of a tenant, without customer data", everyone,
		func(ctx context.Context, in *idIn) (*body[registryEntry], error) {
			id, err := parseID(in.ID)
			if err != nil {
				return nil, err
			}
			t, err := a.Door.Get(ctx, id)
			if err != nil {
				return nil, err
			}
			return &body[registryEntry]{entry(t)}, nil
		})
	type readIn struct {
		ID   string `path:"id" doc:"tenant id"`
		Body struct {
			Fields []string `json:"fields" doc:"names of guarded fields" maxItems:"16"`
			Reason reason   `json:"reason,omitempty"`
		}
	}
	type readOut struct {
		Fields  map[string]*string `json:"fields" doc:"exactly the fields asked for; null where the tenant has none"`
		EventID string             `json:"event_id" doc:"the audit event that was committed before this answer"`
	}
	add(a, http.MethodPost, "/v1/tenants/{id}/reads", "Read guarded fields; the read is audited before the answer", values,
		func(ctx context.Context, in *readIn) (*body[readOut], error) {
			id, err := parseID(in.ID)
			if err != nil {
				return nil, err
			}
			fields := make([]lifecycle.Field, len(in.Body.Fields))
			for i, f := range in.Body.Fields {
				fields[i] = lifecycle.Field(f)
			}
			got, err := a.Door.Read(ctx, access(ctx, in.Body.Reason, ""), id, fields...)
			if err != nil {
				return nil, err
			}
			out := readOut{Fields: map[string]*string{}, EventID: got.EventID.String()}
			for _, f := range fields {
				out.Fields[string(f)] = nil
				if v, ok := got.Values[f]; ok {
					s := v.Reveal()
					out.Fields[string(f)] = &s
				}
			}
			return &body[readOut]{out}, nil
		})
}

// AuditFilter is the selection both audit routes share.
type AuditFilter struct {
	TenantID      string    `query:"tenant_id"`
	ActorID       string    `query:"actor_id" maxLength:"64"`
	Action        string    `query:"action" maxLength:"64"`
	Outcome       string    `query:"outcome" enum:"success,denied,failure"`
	Field         string    `query:"field" enum:"client_key,shared_secret,principal_uuid,username,avatar_url"`
	RequestID     string    `query:"request_id" maxLength:"64"`
	CorrelationID string    `query:"correlation_id" maxLength:"64"`
	EventID       string    `query:"event_id" maxLength:"36"`
	Since         time.Time `query:"since" doc:"recorded at or after, RFC 3339"`
	Until         time.Time `query:"until" doc:"recorded before, RFC 3339"`
}

func (f AuditFilter) filter() (audit.Filter, error) {
	out := audit.Filter{ActorID: f.ActorID, Action: audit.Action(f.Action), Outcome: audit.Outcome(f.Outcome), Field: lifecycle.Field(f.Field),
		RequestID: f.RequestID, CorrelationID: f.CorrelationID, EventID: f.EventID, Since: f.Since, Until: f.Until}
	if f.EventID != "" {
		if _, err := uuid.Parse(f.EventID); err != nil || len(f.EventID) != 36 {
			return out, lifecycle.Fail(lifecycle.RequestInvalid, "An event is named by its event_id, a UUID.", lifecycle.At("/event_id", "not a uuid"))
		}
	}
	if f.TenantID != "" {
		id, err := lifecycle.ParseTenantID(f.TenantID)
		if err != nil {
			return out, lifecycle.Fail(lifecycle.RequestInvalid, "A tenant is named by the id this service gave it.", lifecycle.At("/tenant_id", "not a tenant id"))
		}
		out.Tenant = id
	}
	return out, nil
}

func (a *admin) auditRoutes() {
	type eventsIn struct {
		AuditFilter
		Cursor string `query:"cursor" doc:"next_cursor of the page before"`
		Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	}
	type eventsOut struct {
		Events     []audit.View `json:"events" doc:"newest first"`
		NextCursor string       `json:"next_cursor,omitempty" doc:"absent on the last page"`
	}
	add(a, http.MethodGet, "/v1/audit/events", "Audit events, newest first; the reading is audited", reviews,
		func(ctx context.Context, in *eventsIn) (*body[eventsOut], error) {
			f, err := in.filter()
			if err != nil {
				return nil, err
			}
			events, next, err := a.Audit.Query(ctx, access(ctx, reason{}, lifecycle.ReviewerExport), f, in.Cursor, in.Limit)
			if err != nil {
				return nil, err
			}
			out := eventsOut{Events: make([]audit.View, len(events)), NextCursor: next}
			for i, e := range events {
				out.Events[i] = e.View()
			}
			return &body[eventsOut]{out}, nil
		})
	type exportIn struct {
		AuditFilter
		Format     string `query:"format" enum:"ndjson,csv,ocsf" default:"ndjson" doc:"ocsf is OCSF 1.8"`
		Gzip       bool   `query:"gzip" doc:"answer with a gzip file"`
		From       int64  `query:"from" minimum:"0" doc:"first log_index: the next of the part before"`
		Limit      int64  `query:"limit" minimum:"0" doc:"at most so many events; 0 for all"`
		ReasonCode string `query:"reason_code" maxLength:"64"`
		ReasonRef  string `query:"reason_ref" maxLength:"128"`
	}
	add(a, http.MethodGet, "/v1/audit/export", exportSummary, reviews,
		func(ctx context.Context, in *exportIn) (*huma.StreamResponse, error) {
			f, err := in.filter()
			if err != nil {
				return nil, err
			}
			who := access(ctx, reason{in.ReasonCode, in.ReasonRef}, lifecycle.ReviewerExport)
			what := audit.Selection{Filter: f, Format: audit.Format(in.Format), Gzip: in.Gzip, From: in.From, Limit: in.Limit, CatchUp: a.CatchUp}
			return &huma.StreamResponse{Body: func(hc huma.Context) {
				r, w := humago.Unwrap(hc)
				a.export(w, r, who, what)
			}}, nil
		})
	a.api.OpenAPI().Paths["/v1/audit/export"].Get.Description += exportDescription
}

const exportSummary = "Every selected event in the order of the log, with what proves it offline; the export is audited"

// exportDescription is the form of the file, as auditfile makes it.
const exportDescription = `
An attachment of one event a line, each with its log_index, its leaf (RFC 6962: SHA-256(0x00 || record)) and the exact record: in ndjson the
members after "leaf" with "{" before them, in csv the last cell, in ocsf "raw_data".
After the events, one line for each run of positions that are not shown:
{"trakr_proof":{"from","to","hashes":[base64]}}, the roots of the fewest complete subtrees that cover them. The last line is
{"trakr_checkpoint":{"note","key","format","events","from","next","expired","waiting","unplaced","selection"}}: note is the signed tree head (C2SP
tlog-checkpoint), next the log_index to continue with (?from=), expired the position below which content may be gone by policy, waiting the number
of older events that had no position yet, unplaced the rows that were never part of the log (a finding). In csv these two stand in the last cell of
a row that begins with #proof or #checkpoint. An answer without a last line of this kind broke off and proves nothing.
Check a file with: trakr verify FILE --key KEY, where KEY reached you by another way. recorded_at is the database's word and is not proven.`

// export streams. A failure before the first byte is a problem document; one
// after it cuts the connection, so that nobody takes a part for the whole.
func (a *admin) export(w http.ResponseWriter, r *http.Request, who lifecycle.Access, what audit.Selection) {
	out := &lateHeader{w: w, contentType: what.Format.ContentType(), name: "audit." + string(what.Format)}
	if what.Gzip {
		out.contentType, out.name = "application/gzip", out.name+".gz"
	}
	done, err := a.Audit.Export(r.Context(), who, what, out)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // the connection may be used again
	switch {
	case err == nil:
		if !done.Sound() {
			a.Log.ErrorContext(r.Context(), "an export met a changed log; run: trakr audit verify", "request_id", requestID(r.Context()))
		}
	case !out.started:
		writeProblem(w, r, err)
	default:
		a.Log.ErrorContext(r.Context(), "export broke off", "error", err, "request_id", requestID(r.Context()))
		if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = c.Close()
		}
	}
}

// lateHeader sends the header with the first byte.
type lateHeader struct {
	w                 http.ResponseWriter
	contentType, name string
	started           bool
}

func (l *lateHeader) start() {
	if !l.started {
		l.started = true
		l.w.Header().Set("Content-Type", l.contentType)
		l.w.Header().Set("Content-Disposition", `attachment; filename="`+l.name+`"`)
		l.w.WriteHeader(http.StatusOK)
	}
}

// stalled is how long a client may take to accept what one Write gives it (some
// hundred KiB); one that stops reading would keep a transaction open for ever.
const stalled = 2 * time.Minute

// Write implements io.Writer.
func (l *lateHeader) Write(b []byte) (int, error) {
	l.start()
	if err := http.NewResponseController(l.w).SetWriteDeadline(time.Now().Add(stalled)); err != nil {
		return 0, fmt.Errorf("limiting the time of a write: %w", err)
	}
	return l.w.Write(b)
}

func (a *admin) sweepRoutes() {
	type listIn struct {
		Kind  string `query:"kind" maxLength:"32"`
		Limit int    `query:"limit" minimum:"1" maximum:"200" default:"20"`
	}
	type runsOut struct {
		Runs []findings.Run `json:"runs" doc:"newest first"`
	}
	add(a, http.MethodGet, "/v1/sweeps", "Sweeps with the count of every table checked", everyone,
		func(ctx context.Context, in *listIn) (*body[runsOut], error) {
			runs, err := a.Findings.Runs(ctx, in.Kind, in.Limit)
			if err != nil {
				return nil, err
			}
			return &body[runsOut]{runsOut{runs}}, nil
		})
	type runIn struct {
		Kind string `path:"kind"`
		Body *struct {
			DryRun *bool  `json:"dry_run,omitempty" doc:"look and change nothing; without a word, true for a kind that deletes or erases"`
			Reason reason `json:"reason,omitempty" doc:"a person who has a sweep remove values names a ticket"`
		}
	}
	add(a, http.MethodPost, "/v1/sweeps/{kind}/runs", "Run a sweep now and wait for its result", reviews,
		func(ctx context.Context, in *runIn) (*body[findings.Run], error) {
			var opts []sweep.Option
			var why reason
			if in.Body != nil {
				why = in.Body.Reason
				if in.Body.DryRun != nil {
					opts = append(opts, sweep.DryRun(*in.Body.DryRun))
				}
			}
			run, err := a.Runner.RunOnce(ctx, access(ctx, why, lifecycle.SystemSweep), in.Kind, sweep.ByAPI, opts...)
			if err != nil {
				return nil, err
			}
			return &body[findings.Run]{run}, nil
		})
	a.api.OpenAPI().Paths["/v1/sweeps/{kind}/runs"].Post.Parameters[0].Description = "one of: " + strings.Join(a.Runner.Kinds(), ", ")
}

func (a *admin) findingRoutes() {
	type findingsIn struct {
		All   bool `query:"all" doc:"resolved ones too"`
		Limit int  `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	}
	type findingsOut struct {
		Findings []findings.Finding `json:"findings"`
	}
	add(a, http.MethodGet, "/v1/findings", "What should not be there, until a sweep no longer sees it", everyone,
		func(ctx context.Context, in *findingsIn) (*body[findingsOut], error) {
			found, err := a.Findings.Findings(ctx, !in.All, in.Limit)
			if err != nil {
				return nil, err
			}
			return &body[findingsOut]{findingsOut{found}}, nil
		})
	type idIn struct {
		ID string `path:"id" doc:"finding id"`
	}
	type findingOut struct {
		findings.Finding
		Events []findings.Event `json:"events" doc:"its life so far, oldest step first"`
	}
	add(a, http.MethodGet, "/v1/findings/{id}", "One finding and its life", everyone,
		func(ctx context.Context, in *idIn) (*body[findingOut], error) {
			f, life, err := a.Findings.Finding(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			return &body[findingOut]{findingOut{f, life}}, nil
		})
	type acknowledgeIn struct {
		ID   string `path:"id" doc:"finding id"`
		Body struct {
			Reason reason `json:"reason"`
		}
	}
	add(a, http.MethodPost, "/v1/findings/{id}/acknowledge", "Say that a person knows of a finding, and the ticket; it stays open; audited", reviews,
		func(ctx context.Context, in *acknowledgeIn) (*body[findings.Finding], error) {
			f, err := a.Findings.Acknowledge(ctx, access(ctx, in.Body.Reason, ""), in.ID, a.Audit.Now())
			if err != nil {
				return nil, err
			}
			return &body[findings.Finding]{f}, nil
		})
}

func (a *admin) reportRoutes() {
	type reportIn struct {
		Kind       string    `path:"kind" doc:"location, retention, requests, attestation, statement or marketplace"`
		Format     string    `query:"format" enum:"html,json,csv,md" default:"html" doc:"statement: html, md or json; marketplace: json; the others: html, json or csv"`
		AsOf       time.Time `query:"as_of" doc:"the moment the report speaks about; default now"`
		ReasonCode string    `query:"reason_code" maxLength:"64"`
		ReasonRef  string    `query:"reason_ref" maxLength:"128"`
	}
	type reportOut struct {
		ContentType string `header:"Content-Type"`
		Disposition string `header:"Content-Disposition"`
		Body        []byte
	}
	add(a, http.MethodGet, "/v1/reports/{kind}", "A report from the policy and what the database really holds; its issue is audited", reviews,
		func(ctx context.Context, in *reportIn) (*reportOut, error) {
			b, form, err := a.Reports.Issue(ctx, access(ctx, reason{in.ReasonCode, in.ReasonRef}, lifecycle.ReviewerExport), in.Kind, in.Format, in.AsOf)
			if err != nil {
				return nil, err
			}
			return &reportOut{form.ContentType(), `inline; filename="` + in.Kind + "." + string(form) + `"`, b}, nil
		})
	type statementIn struct {
		ReasonCode string `query:"reason_code" maxLength:"64"`
		ReasonRef  string `query:"reason_ref" maxLength:"128"`
	}
	add(a, http.MethodGet, "/v1/statement", "The security statement, each sentence with what its checks say now; its issue is audited", reviews,
		func(ctx context.Context, in *statementIn) (*reportOut, error) {
			b, form, err := a.Reports.Issue(ctx, access(ctx, reason{in.ReasonCode, in.ReasonRef}, lifecycle.ReviewerExport), "statement", string(reports.JSON), time.Time{})
			if err != nil {
				return nil, err
			}
			return &reportOut{form.ContentType(), `inline; filename="statement.json"`, b}, nil
		})
	type policyOut struct {
		Hash   string          `json:"hash" doc:"SHA-256 of the policy file"`
		Policy json.RawMessage `json:"policy"`
	}
	add(a, http.MethodGet, "/v1/policy", "The policy this service acts by", everyone,
		func(context.Context, *struct{}) (*body[policyOut], error) {
			b, err := a.Policy.JSON()
			if err != nil {
				return nil, err
			}
			return &body[policyOut]{policyOut{a.Policy.Hash(), b}}, nil
		})
}
