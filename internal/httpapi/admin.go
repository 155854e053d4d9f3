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
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"trakr/internal/check"
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
)

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
	// Ready returns the checks that decide whether this replica should get traffic.
	Ready   func(context.Context) []check.Result
	Metrics http.Handler
	Version string
	Log     *slog.Logger
	Observe func(route func(*http.Request) string) func(http.Handler) http.Handler
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
	a.api = humago.New(a.mux, apiConfig(c.Version))
	a.tenantRoutes()
	a.bitbucketRoutes()
	a.auditRoutes()
	a.sweepRoutes()
	a.findingRoutes()
	a.deletionRoutes()
	a.erasureRoutes()
	a.holdRoutes()
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
	a.public("/readyz", a.readyz)
	a.public("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n"))
	})
}

// readyCheck is one check in the answer of /readyz.
type readyCheck struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// readyz answers 200 when every check passes, else 503.
func (a *admin) readyz(w http.ResponseWriter, r *http.Request) {
	var checks []readyCheck
	for _, c := range a.Ready(r.Context()) {
		name := strings.NewReplacer(".", " ", "-", " ").Replace(c.ID)
		checks = append(checks, readyCheck{name, c.State == check.Pass, c.Detail()})
	}
	ready := !slices.ContainsFunc(checks, func(c readyCheck) bool { return !c.OK })
	status := http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, struct {
		Ready  bool         `json:"ready"`
		Checks []readyCheck `json:"checks"`
	}{ready, checks})
}

func (a *admin) public(path string, h http.HandlerFunc) {
	a.routes = append(a.routes, Route{http.MethodGet, path, "public", nil})
	a.mux.HandleFunc("GET "+path, h)
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
		operations := map[string]*huma.Operation{
			http.MethodGet: item.Get, http.MethodPost: item.Post, http.MethodPut: item.Put,
			http.MethodDelete: item.Delete, http.MethodPatch: item.Patch,
		}
		for method, op := range operations {
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
