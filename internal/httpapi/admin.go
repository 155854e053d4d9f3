package httpapi

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"trakr/internal/lifecycle"
	"trakr/internal/requests"
	"trakr/internal/store/audit"
	"trakr/internal/store/erasures"
	"trakr/internal/store/findings"
	"trakr/internal/store/holds"
	"trakr/internal/store/tenants"
	"trakr/internal/store/tokens"
	"trakr/internal/sweep"
	"trakr/policy"
	"trakr/reports"
)

// Reporter builds a report and records that it was issued.
type Reporter interface {
	Issue(ctx context.Context, a lifecycle.Access, kind, format string, asOf time.Time) ([]byte, reports.Format, error)
}

// ReadyCheck is one condition of being ready.
type ReadyCheck struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// Admin is what the private listener needs.
type Admin struct {
	Policy   *policy.Policy
	Door     *tenants.Door
	Audit    *audit.Log
	CatchUp  func(context.Context) error // sequences what waits; nil where a service does that by itself
	Tokens   *tokens.Store
	Findings *findings.Store
	Runner   *sweep.Runner
	// Bitbucket makes tokens for other parts of the product.
	Bitbucket Bitbucket
	Holds     *holds.Store
	// Deletions answers customers' deletion requests.
	Deletions *requests.Service
	// Erasures and Certifier are of erasures whatever asked for them.
	Erasures  *erasures.Store
	Certifier Certifier
	Reports   Reporter
	Ready     func(context.Context) []ReadyCheck
	Metrics   http.Handler
	Version   string
	Log       *slog.Logger
	Observe   func(route func(*http.Request) string) func(http.Handler) http.Handler
}

// admin is the listener under construction.
type admin struct {
	Admin
	api    huma.API
	mux    *http.ServeMux
	routes []Route
}

// NewAdmin returns the handler of the private listener and its routes. It fails
// when an operation of the API has no declared role.
func NewAdmin(c Admin) (http.Handler, []Route, error) {
	a := &admin{Admin: c, mux: http.NewServeMux()}
	cfg := huma.DefaultConfig("Trakr data lifecycle", c.Version)
	cfg.Info.Description = "Audited access to the few fields kept of a Bitbucket tenant, and the evidence of what became of them. " +
		"Every answer that holds a tenant value was recorded in the append-only audit before it left. Errors are RFC 9457 problem documents."
	cfg.DocsPath, cfg.SchemasPath, cfg.CreateHooks = "", "", nil
	cfg.RejectUnknownQueryParameters = true
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer", Description: "trakr token create --role ROLE"}}
	a.api = humago.New(a.mux, cfg)
	a.tenantRoutes()
	a.bitbucketRoutes()
	a.auditRoutes()
	a.logRoutes()
	a.sweepRoutes()
	a.findingRoutes()
	a.deletionRoutes()
	a.everyErasureRoutes()
	a.reportRoutes()
	a.plainRoutes()
	if err := a.everyRouteHasRoles(); err != nil {
		return nil, nil, err
	}
	return withHeaders(withRequestID(c.Observe(a.route)(withRecovery(c.Log, http.HandlerFunc(a.serve))))), a.routes, nil
}

// plainRoutes are outside the API: probes, metrics, the API's description.
func (a *admin) plainRoutes() {
	a.routes = append(a.routes, Route{http.MethodGet, "/openapi.json", "public", nil})
	a.public("/metrics", a.Metrics.ServeHTTP)
	a.public("/readyz", func(w http.ResponseWriter, r *http.Request) {
		checks := a.Ready(r.Context())
		status, body := http.StatusOK, struct {
			Ready  bool         `json:"ready"`
			Checks []ReadyCheck `json:"checks"`
		}{true, checks}
		for _, c := range checks {
			if !c.OK {
				status, body.Ready = http.StatusServiceUnavailable, false
			}
		}
		writeJSON(w, status, body)
	})
	a.public("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n"))
	})
}

func (a *admin) public(path string, h http.HandlerFunc) {
	a.routes = append(a.routes, Route{http.MethodGet, path, "public", nil})
	a.mux.HandleFunc("GET "+path, h)
}

// add registers one operation behind a token with one of the roles.
func add[I, O any](a *admin, method, path, summary string, roles []lifecycle.Role, h func(context.Context, *I) (*O, error)) {
	a.routes = append(a.routes, Route{method, path, "token", roles})
	huma.Register(a.api, huma.Operation{
		Method: method, Path: path, Summary: summary, OperationID: operationID(method, path),
		Description:  "Roles: " + joinRoles(roles) + ".",
		Security:     []map[string][]string{{"token": {}}},
		MaxBodyBytes: maxPayload,
		Middlewares:  huma.Middlewares{a.authenticate(roles)},
		Metadata:     map[string]any{"roles": roles},
	}, func(ctx context.Context, in *I) (*O, error) {
		ctx, cancel := context.WithTimeout(ctx, budget(path))
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

// budget is how long a request may take, a database that does not answer
// included. Sweeps have their own limit in the policy; an export streams outside.
func budget(path string) time.Duration {
	switch {
	case strings.HasPrefix(path, "/v1/sweeps/"):
		return time.Hour
	case strings.HasPrefix(path, "/v1/deletion-requests"):
		return 30 * time.Second // what can be done at once is done: up to the certificate
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

// authenticate lets a request through whose token carries one of the roles, and
// records one whose token does not.
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
			denied := audit.New(r.Context(), a.Audit.Now(), lifecycle.Access{Caller: t.Caller(), RequestID: requestID(r.Context())}, audit.TokenUse, audit.Denied)
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

// access is who acts in a request, for the reason given. A service that gives
// none acts for its ordinary operation; a person must say.
func access(ctx context.Context, why reason, fallback lifecycle.ReasonCode) lifecycle.Access {
	t, _ := ctx.Value(keyToken).(tokens.Token)
	a := lifecycle.Access{Caller: t.Caller(), Reason: lifecycle.Reason{Code: lifecycle.ReasonCode(why.Code), Ref: why.Ref}, RequestID: requestID(ctx)}
	if why.Code == "" && (fallback != lifecycle.ServiceOperation || !a.Caller.Type.Person()) {
		a.Reason.Code = fallback
	}
	return a
}

// serve answers unknown addresses and methods with a problem, everything else
// with its handler.
func (a *admin) serve(w http.ResponseWriter, r *http.Request) {
	if !plain(r) {
		writeProblem(w, r, lifecycle.Fail(lifecycle.RequestInvalid, "The address holds bytes that are not text."))
		return
	}
	h, pattern := a.mux.Handler(r)
	// The multiplexer would redirect an address that is not clean, and repeat it.
	if pattern != "" && path.Clean(r.URL.Path) == r.URL.Path {
		a.mux.ServeHTTP(w, r)
		return
	}
	probe := &statusProbe{header: http.Header{}}
	h.ServeHTTP(probe, r)
	if probe.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", probe.header.Get("Allow"))
		writeProblem(w, r, lifecycle.Fail(lifecycle.MethodNotAllowed, "This address takes another method; see the Allow header."))
		return
	}
	writeProblem(w, r, lifecycle.Fail(lifecycle.NotFound, "There is nothing at this address; /openapi.json lists what there is."))
}

// plain reports whether path and query are text: the database takes no NUL and no
// invalid UTF-8.
func plain(r *http.Request) bool {
	query, err := url.QueryUnescape(r.URL.RawQuery)
	s := r.URL.Path + query
	return err == nil && utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// statusProbe learns what the multiplexer would answer.
type statusProbe struct {
	header http.Header
	status int
}

func (p *statusProbe) Header() http.Header         { return p.header }
func (p *statusProbe) Write(b []byte) (int, error) { return len(b), nil }
func (p *statusProbe) WriteHeader(status int)      { p.status = status }

// route names the route for telemetry: the pattern, never the path.
func (a *admin) route(r *http.Request) string {
	_, pattern := a.mux.Handler(r)
	if _, path, ok := strings.Cut(pattern, " "); ok {
		return path
	}
	return "other"
}

// everyRouteHasRoles compares what the API serves with what was declared.
func (a *admin) everyRouteHasRoles() error {
	for path, item := range a.api.OpenAPI().Paths {
		for method, op := range map[string]*huma.Operation{http.MethodGet: item.Get, http.MethodPost: item.Post, http.MethodPut: item.Put, http.MethodDelete: item.Delete, http.MethodPatch: item.Patch} {
			if op == nil {
				continue
			}
			if !slices.ContainsFunc(a.routes, func(r Route) bool {
				return r.Method == method && r.Path == path && r.Guard == "token" && len(r.Roles) > 0
			}) {
				return fmt.Errorf("the route %s %s declares no role", method, path)
			}
		}
	}
	return nil
}
