package selfscan_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"trakr/internal/check"
	"trakr/internal/connect"
	"trakr/internal/httpapi"
	"trakr/internal/selfscan"
	"trakr/policy"
	"trakr/reports"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// A service that does everything right; each test breaks one thing. The real handlers
// are scanned by doctor's own test.
type service struct {
	base     string
	hsts     string
	cache    string
	referrer string
	cookie   string
	callback func(*http.Request) int
	api      int
	contact  string
	expires  string
	log      *selfscan.Log
	repeat   string
}

func good(p *policy.Policy) *service {
	return &service{base: "https://data.trakr.example.com", hsts: "max-age=63072000; includeSubDomains", cache: "no-cache, no-store", referrer: "no-referrer",
		callback: func(*http.Request) int { return http.StatusUnauthorized }, api: http.StatusUnauthorized,
		contact: "mailto:" + p.Marketplace.SecurityContact, expires: now.AddDate(0, 6, 0).Format(time.RFC3339), log: &selfscan.Log{}}
}

func (s *service) handler(p *policy.Policy, api bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for k, v := range map[string]string{"Strict-Transport-Security": s.hsts, "Cache-Control": s.cache, "Referrer-Policy": s.referrer, "Set-Cookie": s.cookie} {
			if v != "" {
				w.Header().Set(k, v)
			}
		}
		switch {
		case api && r.URL.Path != "/nothing/here":
			w.WriteHeader(s.api)
		case r.Method == http.MethodPost:
			fmt.Fprintln(s.log, s.repeat)
			w.WriteHeader(s.callback(r))
			fmt.Fprintln(w, s.repeat)
		case r.Method != http.MethodGet:
			w.WriteHeader(http.StatusMethodNotAllowed)
		case r.URL.Path == connect.DescriptorPath:
			d, _ := connect.Descriptor(p, "https://data.trakr.example.com")
			_, _ = w.Write(d)
		case r.URL.Path == httpapi.SecurityTextPath:
			fmt.Fprintf(w, "Contact: %s\nExpires: %s\n", s.contact, s.expires)
		case r.URL.Path == "/healthz":
			_, _ = w.Write([]byte("ok\n"))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
}

func (s *service) scan(t *testing.T, p *policy.Policy, change func(*selfscan.Config)) map[string]check.Result {
	t.Helper()
	c := selfscan.Config{Policy: p, BaseURL: s.base, Public: s.handler(p, false), Admin: s.handler(p, true), Log: s.log, DatabaseSafe: true, Now: func() time.Time { return now },
		Routes: append(httpapi.PublicRoutes(), httpapi.Route{Method: http.MethodGet, Path: "/v1/sweeps", Guard: "token"}),
		Scopes: []reports.ScopeFacts{{Name: "account", NeededBy: "callbacks"}, {Name: "webhook", NeededBy: "the proof"}},
		Dial: func(context.Context, string) (*tls.ConnectionState, error) {
			return &tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: []*x509.Certificate{{NotAfter: now.AddDate(0, 2, 0)}}}, nil
		}}
	if change != nil {
		change(&c)
	}
	out := map[string]check.Result{}
	for _, r := range selfscan.Scan(t.Context(), c) {
		if _, twice := out[r.Title]; twice {
			t.Errorf("%s has two results", r.Title)
		}
		out[r.Title] = r
	}
	return out
}

func TestAServiceThatBreaksARequirementFailsIt(t *testing.T) {
	p, err := policy.Default()
	if err != nil {
		t.Fatal(err)
	}
	dial := func(state *tls.ConnectionState, err error) func(*selfscan.Config) {
		return func(c *selfscan.Config) {
			c.Dial = func(context.Context, string) (*tls.ConnectionState, error) { return state, err }
		}
	}
	ends := func(at time.Time, version uint16) *tls.ConnectionState {
		return &tls.ConnectionState{Version: version, PeerCertificates: []*x509.Certificate{{NotAfter: at}}}
	}
	for name, c := range map[string]struct {
		change func(*service)
		config func(*selfscan.Config)
		broken map[string]check.State // by a word of the requirement
	}{
		"nothing":               {nil, nil, nil},
		"takes alg none":        {func(s *service) { s.callback = accepts(`"none"`) }, nil, map[string]check.State{"Signed install": check.Fail, "JSON Web Tokens": check.Fail}},
		"takes RS256":           {func(s *service) { s.callback = accepts(`"RS256"`) }, nil, map[string]check.State{"Signed install": check.Fail, "JSON Web Tokens": check.Fail}},
		"takes any signature":   {func(s *service) { s.callback = accepts(`"HS256"`) }, nil, map[string]check.State{"Signed install": check.Fail, "JSON Web Tokens": check.Fail}},
		"takes anything":        {func(s *service) { s.callback = func(*http.Request) int { return http.StatusNoContent } }, nil, map[string]check.State{"Signed install": check.Fail, "JSON Web Tokens": check.Fail}},
		"answers 500":           {func(s *service) { s.callback = func(*http.Request) int { return http.StatusInternalServerError } }, nil, map[string]check.State{"JSON Web Tokens": check.Fail}},
		"a token in the query":  {func(s *service) { s.callback = inQuery }, nil, map[string]check.State{"Signed install": check.Fail, "JSON Web Tokens": check.Fail}},
		"repeats a secret":      {func(s *service) { s.repeat = "trakr-selfscan-canary-0f1e2d3c4b5a69788796a5b4c3d2e1f0" }, nil, map[string]check.State{"Secrets": check.Fail}},
		"an open API":           {func(s *service) { s.api = http.StatusOK }, nil, map[string]check.State{"Authenticate": check.Fail}},
		"no guarded route":      {nil, func(c *selfscan.Config) { c.Routes = nil }, map[string]check.State{"Authenticate": check.Unknown}},
		"no HSTS":               {func(s *service) { s.hsts = "" }, nil, map[string]check.State{"HSTS": check.Fail}},
		"HSTS of a day":         {func(s *service) { s.hsts = "max-age=86400" }, nil, map[string]check.State{"HSTS": check.Fail}},
		"cached":                {func(s *service) { s.cache = "no-cache" }, nil, map[string]check.State{"Caching": check.Fail}},
		"unsafe referrer":       {func(s *service) { s.referrer = "unsafe-url" }, nil, map[string]check.State{"Caching": check.Fail}},
		"a cookie for scripts":  {func(s *service) { s.cookie = "a=b; Secure; SameSite=Lax" }, nil, map[string]check.State{"Cookies": check.Fail}},
		"a cookie":              {func(s *service) { s.cookie = "a=b; Secure; HttpOnly; SameSite=Lax" }, nil, nil},
		"another contact":       {func(s *service) { s.contact = "mailto:else@example.com" }, nil, map[string]check.State{"security contact": check.Fail}},
		"expired contact":       {func(s *service) { s.expires = now.AddDate(0, 0, -1).Format(time.RFC3339) }, nil, map[string]check.State{"security contact": check.Fail}},
		"the database unproven": {nil, func(c *selfscan.Config) { c.DatabaseSafe = false }, map[string]check.State{"in transit": check.Fail}},
		"a scope for nothing":   {nil, func(c *selfscan.Config) { c.Scopes[1].NeededBy = "" }, map[string]check.State{"Least privilege": check.Fail}},
		"plain http":            {func(s *service) { s.base = "http://data.trakr.example.com" }, nil, map[string]check.State{"TLS for": check.Fail, "certificate": check.Warn, "descriptor's": check.Fail}},
		"a certificate's end":   {nil, dial(ends(now.AddDate(0, 0, 3), tls.VersionTLS13), nil), map[string]check.State{"certificate": check.Fail}},
		"TLS 1.1":               {nil, dial(ends(now.AddDate(1, 0, 0), tls.VersionTLS11), nil), map[string]check.State{"certificate": check.Fail}},
		"an untrusted one":      {nil, dial(nil, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), map[string]check.State{"certificate": check.Fail}},
		"not reachable":         {nil, dial(nil, errors.New("timeout")), map[string]check.State{"certificate": check.Unknown}},
	} {
		t.Run(name, func(t *testing.T) {
			s := good(p)
			if c.change != nil {
				c.change(s)
			}
			for requirement, r := range s.scan(t, p, c.config) {
				want := check.Pass
				if strings.Contains(requirement, "disk encryption") || strings.Contains(requirement, "known weaknesses") {
					want = check.Warn
				}
				for word, state := range c.broken {
					if strings.Contains(requirement, word) {
						want = state
					}
				}
				if r.State != want {
					t.Errorf("%s: %s (%s), want %s", requirement, r.State, r.Evidence, want)
				}
			}
		})
	}
}

// accepts is a service that believes tokens whose header names an algorithm.
func accepts(alg string) func(*http.Request) int {
	return func(r *http.Request) int {
		head, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Authorization"), "JWT "), ".")
		if b, err := base64.RawURLEncoding.DecodeString(head); err == nil && strings.Contains(string(b), alg) {
			return http.StatusNoContent
		}
		return http.StatusUnauthorized
	}
}

func inQuery(r *http.Request) int {
	if r.URL.Query().Get("jwt") != "" {
		return http.StatusNoContent
	}
	return http.StatusUnauthorized
}
