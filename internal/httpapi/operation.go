package httpapi

import (
	"context"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/tokens"
)

// operation is one operation of the API: what its description in /openapi.json needs,
// and who may use it.
type operation struct {
	method, path string
	tag          tag
	summary      string // one sentence
	detail       string // what the summary does not explain; may be empty
	roles        []lifecycle.Role
	status       int              // of a success; 0 is 200
	media        []string         // media types of a success; none is JSON of the output's body
	fails        []lifecycle.Kind // beyond those of every operation
}

// common are the kinds with which every operation can fail.
var common = []lifecycle.Kind{
	lifecycle.RequestInvalid, lifecycle.Unauthenticated, lifecycle.Forbidden,
	lifecycle.Internal, lifecycle.AuditUnavailable, lifecycle.StoreUnavailable,
}

// kinds returns the kinds with which the operation can fail. An operation with a
// body also refuses one that is too large.
func (op operation) kinds(input reflect.Type) []lifecycle.Kind {
	out := append(slices.Clone(common), op.fails...)
	if _, ok := input.FieldByName("Body"); ok {
		out = append(out, lifecycle.PayloadTooLarge)
	}
	return out
}

// responses describes every answer of the operation.
func (op operation) responses(input reflect.Type) map[string]*huma.Response {
	success := &huma.Response{Description: "Success."}
	if op.status == http.StatusCreated {
		success.Description = "Created."
	}
	for _, media := range op.media {
		if success.Content == nil {
			success.Content = map[string]*huma.MediaType{}
		}
		success.Content[media] = &huma.MediaType{Schema: mediaSchema(media)}
	}
	out := map[string]*huma.Response{strconv.Itoa(op.status): success}
	byStatus := map[int][]string{}
	for _, k := range op.kinds(input) {
		byStatus[statuses[k].status] = append(byStatus[statuses[k].status], string(k))
	}
	for status, kinds := range byStatus {
		slices.Sort(kinds)
		r := &huma.Response{
			Description: "Problem of type " + strings.Join(slices.Compact(kinds), ", ") + ".",
			Content: map[string]*huma.MediaType{
				"application/problem+json": {Schema: &huma.Schema{Ref: "#/components/schemas/Problem"}},
			},
		}
		if status == http.StatusServiceUnavailable {
			r.Headers = map[string]*huma.Param{"Retry-After": {
				Description: "Seconds after which a retry makes sense.", Schema: &huma.Schema{Type: huma.TypeInteger},
			}}
		}
		out[strconv.Itoa(status)] = r
	}
	return out
}

// mediaSchema describes a body that is a file: text, an object, or bytes.
func mediaSchema(media string) *huma.Schema {
	switch {
	case media == "application/json":
		return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}
	case strings.HasPrefix(media, "text/"), media == "application/x-ndjson":
		return &huma.Schema{Type: huma.TypeString}
	}
	return &huma.Schema{} // bytes
}

// add registers one operation behind a token with one of its roles.
func add[I, O any](a *admin, op operation, h func(context.Context, *I) (*O, error)) {
	if op.status == 0 {
		op.status = http.StatusOK
	}
	a.routes = append(a.routes, Route{op.method, op.path, "token", op.roles})
	huma.Register(a.api, huma.Operation{
		Method: op.method, Path: op.path, Tags: []string{string(op.tag)},
		Summary: op.summary, OperationID: operationID(op.method, op.path),
		Description:   strings.TrimSpace(op.detail + "\n\nRoles: " + joinRoles(op.roles) + "."),
		Responses:     op.responses(reflect.TypeFor[I]()),
		DefaultStatus: op.status,
		Security:      []map[string][]string{{"token": {}}},
		MaxBodyBytes:  maxPayload,
		Middlewares:   huma.Middlewares{a.authenticate(op.roles)},
		Metadata:      map[string]any{"roles": op.roles},
	}, func(ctx context.Context, in *I) (*O, error) {
		ctx, cancel := context.WithTimeout(ctx, budget(op.path))
		defer cancel()
		out, err := h(ctx, in)
		if err != nil {
			p := problemOf(err, requestID(ctx))
			if p.Status >= http.StatusInternalServerError {
				a.Log.ErrorContext(ctx, "request failed", "error", err, "request_id", requestID(ctx))
			}
			return nil, p
		}
		return out, nil
	})
}

// budget is how long a request may take, also when the database does not answer.
// Sweeps have their own limit in the policy; an export is streamed outside of it.
func budget(path string) time.Duration {
	switch {
	case strings.HasPrefix(path, "/v1/sweeps/"):
		return time.Hour
	case strings.HasPrefix(path, "/v1/deletion-requests"):
		return 30 * time.Second // every step that is possible at once is taken, up to the certificate
	case strings.HasPrefix(path, "/v1/reports/"):
		return 2 * time.Minute
	}
	return 10 * time.Second
}

func operationID(method, path string) string {
	s := strings.NewReplacer("/v1/", "", "/", "-", "{", "", "}", "").Replace(path)
	return strings.ToLower(method) + "-" + s
}

func joinRoles(roles []lifecycle.Role) string {
	s := make([]string, len(roles))
	for i, r := range roles {
		s[i] = string(r)
	}
	return strings.Join(s, ", ")
}

// authenticate passes a request on whose token carries one of the roles, and records
// one whose token does not.
func (a *admin) authenticate(roles []lifecycle.Role) func(huma.Context, func(huma.Context)) {
	return func(hc huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(hc)
		plain, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || len(r.Header.Values("Authorization")) != 1 {
			plain = ""
		}
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		t, err := a.Tokens.Authenticate(ctx, lifecycle.NewSecret(plain))
		cancel()
		if err != nil {
			a.Log.WarnContext(r.Context(), "token refused", "reason", lifecycle.AsFault(err).Reason, "request_id", requestID(r.Context()))
			writeProblem(w, r, err)
			return
		}
		if !slices.Contains(roles, t.Role) {
			who := lifecycle.Access{Caller: t.Caller(), RequestID: requestID(r.Context())}
			denied := audit.New(r.Context(), a.Audit.Now(), who, audit.TokenUse, audit.Denied)
			denied.StatusDetail = string(lifecycle.Forbidden)
			err := a.Audit.Record(r.Context(), denied)
			if err == nil {
				err = lifecycle.Fail(lifecycle.Forbidden, "This needs a token with one of these roles: "+joinRoles(roles)+".")
			}
			writeProblem(w, r, err)
			return
		}
		next(huma.WithValue(hc, keyToken, t))
	}
}

// access is the caller of a request with the reason given. A service that gives none
// acts in its ordinary operation; a person must give one.
func access(ctx context.Context, why reason, fallback lifecycle.ReasonCode) lifecycle.Access {
	t, _ := ctx.Value(keyToken).(tokens.Token)
	a := lifecycle.Access{
		Caller:    t.Caller(),
		Reason:    lifecycle.Reason{Code: lifecycle.ReasonCode(why.Code), Ref: why.Ref},
		RequestID: requestID(ctx),
	}
	if why.Code == "" && (fallback != lifecycle.ServiceOperation || !a.Caller.Type.Person()) {
		a.Reason.Code = fallback
	}
	return a
}

// Roles that several operations share.
var (
	valueReaders = []lifecycle.Role{lifecycle.RoleService, lifecycle.RoleSupport}
	finders      = []lifecycle.Role{lifecycle.RoleService, lifecycle.RoleSupport, lifecycle.RoleOperator}
	reviewers    = []lifecycle.Role{lifecycle.RoleReviewer, lifecycle.RoleOperator}
	everyone     = lifecycle.TokenRoles()
)

// reason is why a request is made, in a body.
type reason struct {
	Code string `json:"code,omitempty" doc:"a reason code of the policy" maxLength:"64"`
	Ref  string `json:"ref,omitempty" doc:"a ticket, e.g. SUP-1234; required for people" maxLength:"128"`
}

// ReasonQuery is why a request is made, in the query. It is exported for the reason
// that TenantPath is.
type ReasonQuery struct {
	ReasonCode string `query:"reason_code" doc:"a reason code of the policy" maxLength:"64"`
	ReasonRef  string `query:"reason_ref" doc:"a ticket, e.g. SUP-1234" maxLength:"128"`
}

func (q ReasonQuery) reason() reason { return reason{q.ReasonCode, q.ReasonRef} }

// lookupBody names a tenant by what a customer knows.
type lookupBody struct {
	ClientKey     string `json:"client_key,omitempty" doc:"the client key; give this or workspace_uuid" maxLength:"512"`
	WorkspaceUUID string `json:"workspace_uuid,omitempty" doc:"the workspace's UUID; give this or client_key" maxLength:"38"`
	Reason        reason `json:"reason,omitempty" doc:"why the tenant is looked up"`
}

// TenantPath is the path of one tenant. The paths are exported because the framework
// reads only exported embedded structs.
type TenantPath struct {
	ID string `path:"id" doc:"the tenant's id, as the look-up returns it"`
}

func parseID(s string) (lifecycle.TenantID, error) {
	id, err := lifecycle.ParseTenantID(s)
	if err != nil {
		return id, lifecycle.Fail(lifecycle.RequestInvalid, "A tenant is named by the id this service gave it; look it up first.",
			lifecycle.At("/id", "not a tenant id"))
	}
	return id, nil
}

// optionalID parses the tenant of a filter; none is the zero id.
func optionalID(s string) (lifecycle.TenantID, error) {
	if s == "" {
		return lifecycle.TenantID{}, nil
	}
	return parseID(s)
}

// body is an answer of JSON.
type body[T any] struct{ Body T }

// file is an answer that is not JSON of the API's own.
type file struct {
	ContentType string `header:"Content-Type" doc:"the media type of the file"`
	Disposition string `header:"Content-Disposition" doc:"its name"`
	Body        []byte
}

func newFile(contentType, name string, content []byte) *file {
	return &file{contentType, `inline; filename="` + name + `"`, content}
}

// mediaTypes returns the media types of a file's formats, without parameters.
func mediaTypes[F interface{ ContentType() string }](formats []F) []string {
	out := map[string]bool{}
	for _, f := range formats {
		media, _, _ := strings.Cut(f.ContentType(), ";")
		out[media] = true
	}
	return slices.Sorted(maps.Keys(out))
}
