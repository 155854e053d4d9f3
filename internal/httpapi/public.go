package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/metric"

	"trakr/internal/connect"
	"trakr/internal/ingress"
	"trakr/internal/lifecycle"
	"trakr/policy"
	"trakr/reports"
)

// Public is what the public listener needs.
type Public struct {
	Policy         *policy.Policy
	BaseURL        string
	Ingress        *ingress.Gate
	TrustedProxies []netip.Prefix
	Now            func() time.Time
	Log            *slog.Logger
	Meter          metric.MeterProvider
	// Statement is the security statement for customers; nil when it is not public.
	Statement func(context.Context) (reports.SecurityStatement, error)
	Observe   func(route func(*http.Request) string) func(http.Handler) http.Handler // telemetry's middleware
}

// Route is one route and who may use it. Guard is what protects it:
// "public" (nothing, on purpose), "signature" (a verified callback) or "token"
// (a bearer token with one of the roles).
type Route struct {
	Method, Path string
	Guard        string
	Roles        []lifecycle.Role
}

// Paths for customers and researchers.
const (
	SecurityTextPath = "/.well-known/security.txt" // RFC 9116
	StatementPath    = "/security-statement"
)

// PublicRoutes lists the routes of the public listener.
func PublicRoutes() []Route {
	routes := []Route{
		{http.MethodGet, connect.DescriptorPath, "public", nil},
		{http.MethodGet, "/healthz", "public", nil},
		{http.MethodGet, SecurityTextPath, "public", nil},
		{http.MethodGet, StatementPath, "public", nil},
		{http.MethodGet, StatementPath + ".json", "public", nil},
	}
	for _, callback := range ingress.Callbacks() {
		routes = append(routes, Route{http.MethodPost, callback.Path, "signature", nil})
	}
	return routes
}

// NewPublic returns the handler of the public listener.
func NewPublic(p Public) (http.Handler, error) {
	if p.Ingress == nil {
		return nil, errors.New("the public listener needs an ingress")
	}
	descriptor, err := connect.Descriptor(p.Policy, p.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("making the descriptor: %w", err)
	}
	count, err := p.Meter.Meter("trakr/internal/httpapi").Int64Counter("trakr.callbacks",
		metric.WithDescription("Callbacks from Bitbucket by outcome."), metric.WithUnit("{callback}"))
	if err != nil {
		return nil, fmt.Errorf("making the callback counter: %w", err)
	}
	handlers := map[string]http.HandlerFunc{
		connect.DescriptorPath: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(descriptor)
		},
		"/healthz": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = w.Write([]byte("ok\n"))
		},
		SecurityTextPath:        p.securityText,
		StatementPath:           p.statement(reports.HTML),
		StatementPath + ".json": p.statement(reports.JSON),
	}
	c := &callbacks{gate: p.Ingress, trusted: p.TrustedProxies, log: p.Log, count: count}
	for _, callback := range ingress.Callbacks() {
		handlers[callback.Path] = c.handler(callback)
	}
	return chain(p.Log, p.Observe, routeTable(PublicRoutes(), handlers)), nil
}

// chain wraps a handler in what every answer needs, refusals included.
func chain(log *slog.Logger, observe func(func(*http.Request) string) func(http.Handler) http.Handler, t *table) http.Handler {
	return withHeaders(withRequestID(observe(t.route)(withRecovery(log, t))))
}

// table answers exactly the declared routes, and everything else with a problem.
type table struct {
	routes   []Route
	handlers map[string]http.HandlerFunc
}

func routeTable(routes []Route, handlers map[string]http.HandlerFunc) *table {
	return &table{routes, handlers}
}

// route names the route for telemetry: a declared path or "other".
func (t *table) route(r *http.Request) string {
	for _, x := range t.routes {
		if x.Path == r.URL.Path {
			return x.Path
		}
	}
	return "other"
}

// ServeHTTP implements http.Handler. It matches literal paths on purpose: the
// multiplexer's clean-up redirects would answer a signed callback with a 301.
func (t *table) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, x := range t.routes {
		if x.Path != r.URL.Path {
			continue
		}
		if x.Method == r.Method || (x.Method == http.MethodGet && r.Method == http.MethodHead) {
			t.handlers[x.Path](w, r)
			return
		}
		allowed = append(allowed, x.Method)
	}
	if allowed == nil {
		writeProblem(w, r, lifecycle.Fail(lifecycle.NotFound, "There is nothing at this address."))
		return
	}
	if slices.Contains(allowed, http.MethodGet) {
		allowed = append(allowed, http.MethodHead)
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	writeProblem(w, r, lifecycle.Fail(lifecycle.MethodNotAllowed, "This address takes another method; see the Allow header."))
}

// securityText names the security contact for researchers (RFC 9116). It never expires while
// the service runs.
func (p Public) securityText(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	contact := p.Policy.Marketplace.SecurityContact
	if strings.Contains(contact, "@") {
		contact = "mailto:" + contact
	}
	fmt.Fprintf(w, "Contact: %s\nExpires: %s\nPreferred-Languages: en\nCanonical: %s\nPolicy: %s\n", contact,
		p.Now().UTC().AddDate(0, 6, 0).Truncate(24*time.Hour).Format(time.RFC3339), p.BaseURL+SecurityTextPath,
		p.Policy.Marketplace.SecurityPolicies)
}

// statement shows the security statement where that is switched on.
func (p Public) statement(f reports.Format) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if p.Statement == nil {
			writeProblem(w, r, lifecycle.Fail(lifecycle.NotFound, "There is nothing at this address."))
			return
		}
		s, err := p.Statement(r.Context())
		if err != nil {
			writeProblem(w, r, err)
			return
		}
		b, err := s.Render(f)
		if err != nil {
			writeProblem(w, r, err)
			return
		}
		w.Header().Set("Content-Type", f.ContentType())
		_, _ = w.Write(b)
	}
}
