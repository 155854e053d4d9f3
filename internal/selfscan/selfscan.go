// Package selfscan runs against the service's own handlers, in the same process, the
// security requirements that Atlassian checks an app for before and after it is listed
// (Marketplace: "Security requirements for cloud applications"; the probes are those of
// Atlassian's open scanner). Each requirement has a check.Result; nothing is claimed
// about what a service cannot see of itself: disks, people, a proxy in front.
package selfscan

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"trakr/internal/check"
	"trakr/internal/connect"
	"trakr/internal/httpapi"
	"trakr/internal/lifecycle"
	"trakr/policy"
	"trakr/reports"
)

// requirement is one requirement, named as Atlassian names it.
type requirement struct{ id, title string }

func (q requirement) result(s check.State, evidence string) check.Result {
	return check.Result{ID: "marketplace." + q.id, Title: q.title, State: s, Evidence: evidence}
}

func (q requirement) pass(evidence string) check.Result    { return q.result(check.Pass, evidence) }
func (q requirement) fail(evidence string) check.Result    { return q.result(check.Fail, evidence) }
func (q requirement) unknown(evidence string) check.Result { return q.result(check.Unknown, evidence) }

// declared is for what software cannot see: a person answers for it.
func (q requirement) declared(evidence string) check.Result { return q.result(check.Warn, evidence) }

// without fails with the faults, and passes when there is none.
func (q requirement) without(faults []string, evidence string) check.Result {
	if len(faults) > 0 {
		return q.fail(strings.Join(faults, "; "))
	}
	return q.pass(evidence)
}

// Config is what is scanned.
type Config struct {
	Policy        *policy.Policy
	BaseURL       string
	Public, Admin http.Handler
	Routes        []httpapi.Route // of both
	Log           *Log            // what the handlers log to
	Scopes        []reports.ScopeFacts
	DatabaseSafe  bool // the database is on this machine, or reached by TLS that names it
	Now           func() time.Time
	Dial          func(ctx context.Context, host string) (*tls.ConnectionState, error) // nil dials
}

// Log collects log lines.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *Log) contains(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), s)
}

// Scan checks every requirement. Its forged callbacks are refused as any forger's are, and
// those that reach a look-up are in the audit as such.
func Scan(ctx context.Context, c Config) []check.Result {
	s := &scan{Config: c, ctx: ctx}
	s.probe()
	return []check.Result{
		s.authenticated(), s.signedInstall(), s.algorithms(), s.secrets(),
		s.encrypted(), s.disks(), s.tls(), s.hsts(),
		s.certificate(), s.scopes(), s.domains(), s.headers(),
		s.cookies(), s.contact(), s.branding(), s.parts(),
	}
}

type scan struct {
	Config
	ctx     context.Context
	answers []answer // of everything that was asked
	forged  []answer // of these, forged callbacks
}

type answer struct {
	what   string
	status int
	header http.Header
	body   string
}

// canary is a secret that must not appear anywhere.
const canary = "trakr-selfscan-canary-0f1e2d3c4b5a69788796a5b4c3d2e1f0"

// question is one request of the scan.
type question struct {
	what          string // in the evidence; the method and path when empty
	method, path  string
	body          string // of a POST: JSON
	authorization string
}

// ask sends a request to a handler and keeps the answer.
func (s *scan) ask(h http.Handler, q question) answer {
	r := httptest.NewRequestWithContext(s.ctx, q.method, q.path, strings.NewReader(q.body))
	r.RemoteAddr = "127.0.0.1:1"
	if q.body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if q.authorization != "" {
		r.Header.Set("Authorization", q.authorization)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	a := answer{cmp.Or(q.what, q.method+" "+q.path), w.Code, w.Result().Header, w.Body.String()}
	s.answers = append(s.answers, a)
	return a
}

// probe sends what an unknown sender could send.
func (s *scan) probe() {
	for _, path := range []string{"/healthz", connect.DescriptorPath, httpapi.SecurityTextPath, "/nothing/here"} {
		s.ask(s.Public, question{method: http.MethodGet, path: path})
	}
	s.ask(s.Public, question{method: http.MethodDelete, path: connect.DescriptorPath})
	s.ask(s.Admin, question{what: "GET /nothing/here of the API", method: http.MethodGet, path: "/nothing/here"})
	payload := fmt.Sprintf(`{"key":%q,"clientKey":"connection:selfscan","sharedSecret":%q,`+
		`"principal":{"uuid":"{00000000-0000-4000-8000-000000000000}","type":"team"},"eventType":%%q}`, s.Policy.App.Key, canary)
	for path, event := range map[string]string{connect.InstalledPath: "installed", connect.UninstalledPath: "uninstalled"} {
		body := fmt.Sprintf(payload, event)
		post := func(what, token string) {
			q := question{what: what + " to " + path, method: http.MethodPost, path: path, body: body}
			if token != "" {
				q.authorization = "JWT " + token
			}
			s.forged = append(s.forged, s.ask(s.Public, q))
		}
		claims := s.claims(path)
		post("no token", "")
		post("alg none", unsigned(`{"alg":"none","typ":"JWT"}`, claims))
		post("RS256", unsigned(`{"alg":"RS256","typ":"JWT","kid":"selfscan"}`, claims)+
			base64.RawURLEncoding.EncodeToString(make([]byte, 256)))
		post("HS256 by a secret of the forger's", signed(claims))
		s.forged = append(s.forged, s.ask(s.Public, question{
			what: "a token in the query to " + path, method: http.MethodPost,
			path: path + "?jwt=" + url.QueryEscape(signed(claims)), body: body,
		}))
	}
}

// claims are those of a callback, as a forger would make them.
func (s *scan) claims(path string) string {
	now := s.Now().Unix()
	sum := sha256.Sum256([]byte("POST&" + path + "&"))
	b, _ := json.Marshal(map[string]any{ // strings and numbers always encode
		"iss": "connection:selfscan", "iat": now, "exp": now + 180, "qsh": fmt.Sprintf("%x", sum),
	})
	return string(b)
}

func unsigned(header, claims string) string {
	e := base64.RawURLEncoding.EncodeToString
	return e([]byte(header)) + "." + e([]byte(claims)) + "."
}

func signed(claims string) string {
	u := strings.TrimSuffix(unsigned(`{"alg":"HS256","typ":"JWT"}`, claims), ".")
	m := hmac.New(sha256.New, []byte(canary))
	m.Write([]byte(u))
	return u + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

func refused(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// authenticated: each route is public by declaration or has a guard, and without a token
// each guarded one refuses.
func (s *scan) authenticated() check.Result {
	q := requirement{"authentication", "Authenticate and authorise every request"}
	var bad []string
	guarded := 0
	for _, r := range s.Routes {
		if r.Guard == "public" {
			continue
		}
		guarded++
		if r.Guard != "token" {
			continue // callbacks are probed with forged tokens
		}
		path := strings.NewReplacer("{id}", lifecycle.NewTenantID().String(), "{kind}", "orphans").Replace(r.Path)
		a := s.ask(s.Admin, question{what: r.Method + " " + r.Path + " without a token", method: r.Method, path: path, body: "{}"})
		if !refused(a.status) {
			bad = append(bad, fmt.Sprintf("%s answers %d", a.what, a.status))
		}
	}
	if guarded == 0 {
		return q.unknown("no guarded route was found")
	}
	return q.without(bad, fmt.Sprintf("%d routes, %d of them public by declaration", len(s.Routes), len(s.Routes)-guarded))
}

// signedInstall: nothing unverified gets a 2xx.
func (s *scan) signedInstall() check.Result {
	q := requirement{"signed-install", "Signed install: an unverified install or uninstall is never accepted"}
	var bad []string
	for _, a := range s.forged {
		if a.status < 300 {
			bad = append(bad, fmt.Sprintf("%s is accepted (%d)", a.what, a.status))
		}
	}
	return q.without(bad, fmt.Sprintf("%d forged callbacks refused", len(s.forged)))
}

// algorithms: they are refused as not authenticated, not by accident.
func (s *scan) algorithms() check.Result {
	q := requirement{"token-algorithms", "JSON Web Tokens: alg none, RS256 and forged HS256 answer 401"}
	var bad []string
	for _, a := range s.forged {
		if !refused(a.status) {
			bad = append(bad, fmt.Sprintf("%s answers %d", a.what, a.status))
		}
	}
	return q.without(bad, "none, RS256, forged HS256, no token, and a token in the query")
}

// secrets: no answer, header or log line contains the canary secret of the forged installs.
func (s *scan) secrets() check.Result {
	q := requirement{"secrets", "Secrets are not exposed in answers, URLs or logs"}
	var bad []string
	for _, a := range s.answers {
		if strings.Contains(a.body+fmt.Sprint(a.header), canary) {
			bad = append(bad, "the answer to "+a.what+" repeats a secret")
		}
	}
	if s.Log.contains(canary) {
		bad = append(bad, "a log line repeats a secret")
	}
	return q.without(bad, fmt.Sprintf("a canary in %d requests appears nowhere", len(s.forged)))
}

func (s *scan) encrypted() check.Result {
	q := requirement{"database-encryption", "Data in transit to the database is encrypted"}
	if !s.DatabaseSafe {
		return q.fail("TRAKR_DATABASE_URL must set sslmode=verify-full: sslmode=require does not verify the server")
	}
	return q.pass("on this machine, or sslmode=verify-full")
}

func (s *scan) disks() check.Result {
	q := requirement{"disk-encryption", "Full disk encryption at rest"}
	m := s.Policy.Marketplace
	if !m.DiskEncryption {
		return q.fail("the policy declares that disks are not encrypted (marketplace.disk_encryption)")
	}
	return q.declared("declared by " + m.Owner + " on " + m.Decided +
		"; a service cannot see its disks. The service also encrypts the values itself")
}

func (s *scan) local() bool {
	u, err := url.Parse(s.BaseURL)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || (ip != nil && ip.IsLoopback())
}

// tls: Bitbucket calls https only.
func (s *scan) tls() check.Result {
	q := requirement{"tls", "TLS for every address"}
	switch {
	case strings.HasPrefix(s.BaseURL, "https://"):
		return q.pass("TRAKR_BASE_URL is https")
	case s.local():
		return q.declared("TRAKR_BASE_URL is this machine; a deployment must be https")
	}
	return q.fail("TRAKR_BASE_URL is not https")
}

func (s *scan) hsts() check.Result {
	q := requirement{"hsts", "HSTS of at least a year on every answer"}
	var bad []string
	for _, a := range s.answers {
		if maxAge(a.header.Get("Strict-Transport-Security")) < 31536000 {
			bad = append(bad, fmt.Sprintf("%s (%d) lacks it", a.what, a.status))
		}
	}
	return q.without(bad, fmt.Sprintf("%d answers, refusals included", len(s.answers)))
}

func maxAge(h string) int {
	for part := range strings.SplitSeq(h, ";") {
		if v, ok := strings.CutPrefix(strings.TrimSpace(part), "max-age="); ok {
			n, err := strconv.Atoi(v)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// soon is how long before its end a certificate fails the check.
const soon = 14 * 24 * time.Hour

func (s *scan) certificate() check.Result {
	q := requirement{"tls-certificate", "TLS 1.2 or newer, and a certificate that is valid"}
	u, err := url.Parse(s.BaseURL)
	if err != nil || u.Scheme != "https" {
		return q.declared("TRAKR_BASE_URL is not https, so there is no certificate to check")
	}
	dial := s.Dial
	if dial == nil {
		dial = handshake
	}
	state, err := dial(s.ctx, u.Host)
	var invalid *tls.CertificateVerificationError
	switch {
	case errors.As(err, &invalid):
		return q.fail("the certificate of TRAKR_BASE_URL is not valid: " + invalid.Err.Error())
	case err != nil:
		return q.unknown("TRAKR_BASE_URL could not be reached from here")
	case state.Version < tls.VersionTLS12:
		return q.fail("the address negotiates " + tls.VersionName(state.Version))
	case len(state.PeerCertificates) == 0:
		return q.unknown("no certificate was presented")
	}
	if left := state.PeerCertificates[0].NotAfter.Sub(s.Now()); left < soon {
		return q.fail(fmt.Sprintf("the certificate ends in %d days; renew it", int(left.Hours()/24)))
	}
	return q.pass(tls.VersionName(state.Version) + ", until " + state.PeerCertificates[0].NotAfter.UTC().Format(time.DateOnly))
}

func handshake(ctx context.Context, host string) (*tls.ConnectionState, error) {
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(host, "443")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := (&tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS12}}).DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	state := c.(*tls.Conn).ConnectionState()
	return &state, nil
}

func (s *scan) scopes() check.Result {
	q := requirement{"scopes", "Least privilege: each scope is needed"}
	var bad []string
	for _, x := range s.Scopes {
		if x.NeededBy == "" {
			bad = append(bad, "no call needs the scope "+x.Name)
		}
		if !slices.ContainsFunc(s.Policy.App.Scopes, func(p policy.Scope) bool { return p.Name == x.Name }) {
			bad = append(bad, "the scope "+x.Name+" is not declared")
		}
	}
	if len(s.Scopes) == 0 {
		return q.unknown("no descriptor was available")
	}
	return q.without(bad, fmt.Sprintf("%d scopes, each with the call that needs it", len(s.Scopes)))
}

// domains: every address of the descriptor that Bitbucket calls is on the base URL.
func (s *scan) domains() check.Result {
	q := requirement{"descriptor-addresses", "The descriptor's addresses are the vendor's own"}
	i := slices.IndexFunc(s.answers, func(a answer) bool { return a.what == "GET "+connect.DescriptorPath })
	var d struct {
		BaseURL   string            `json:"baseUrl"`
		Links     map[string]string `json:"links"`
		Lifecycle map[string]string `json:"lifecycle"`
	}
	if err := json.Unmarshal([]byte(s.answers[i].body), &d); err != nil {
		return q.fail("the descriptor is not JSON")
	}
	base, err := url.Parse(d.BaseURL)
	if err != nil || d.BaseURL != s.BaseURL {
		return q.fail("the descriptor's baseUrl is not TRAKR_BASE_URL")
	}
	var bad []string
	for what, ref := range d.Lifecycle {
		if u, err := base.Parse(ref); err != nil || u.Scheme != base.Scheme || u.Host != base.Host {
			bad = append(bad, "the callback "+what+" is on another host")
		}
	}
	if d.Links["self"] != s.BaseURL+connect.DescriptorPath {
		bad = append(bad, "links.self is not the descriptor's own address")
	}
	slices.Sort(bad)
	return q.without(bad, fmt.Sprintf("%d callbacks on the base URL", len(d.Lifecycle)))
}

func (s *scan) headers() check.Result {
	q := requirement{"cache-and-referrer", "Caching and referrers: Cache-Control and Referrer-Policy"}
	var bad []string
	for _, a := range s.answers {
		cache := a.header.Get("Cache-Control")
		if !strings.Contains(cache, "no-store") || !strings.Contains(cache, "no-cache") {
			bad = append(bad, a.what+": Cache-Control lacks no-cache or no-store")
		}
		switch p := a.header.Get("Referrer-Policy"); p {
		case "", "unsafe-url", "no-referrer-when-downgrade":
			bad = append(bad, a.what+": Referrer-Policy is "+strconv.Quote(p))
		}
	}
	return q.without(bad, fmt.Sprintf("%d answers", len(s.answers)))
}

func (s *scan) cookies() check.Result {
	q := requirement{"cookies", "Cookies are Secure, HttpOnly and SameSite"}
	var bad []string
	n := 0
	for _, a := range s.answers {
		for _, c := range (&http.Response{Header: a.header}).Cookies() {
			if n++; !c.Secure || !c.HttpOnly || c.SameSite == 0 || c.SameSite == http.SameSiteDefaultMode {
				bad = append(bad, a.what+": the cookie "+c.Name+" lacks Secure, HttpOnly or SameSite")
			}
		}
	}
	return q.without(bad, fmt.Sprintf("%d cookies set", n))
}

// contact: security.txt is there, unexpired, and names the contact of Marketplace's sheet.
func (s *scan) contact() check.Result {
	q := requirement{"security-contact", "A security contact: security.txt is valid and equals the sheet's"}
	i := slices.IndexFunc(s.answers, func(a answer) bool { return a.what == "GET "+httpapi.SecurityTextPath })
	fields := map[string]string{}
	for line := range strings.Lines(s.answers[i].body) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			fields[k] = v
		}
	}
	at, err := time.Parse(time.RFC3339, fields["Expires"])
	switch {
	case s.answers[i].status != http.StatusOK:
		return q.fail("there is none")
	case strings.TrimPrefix(fields["Contact"], "mailto:") != s.Policy.Marketplace.SecurityContact:
		return q.fail("it names another contact than the policy's marketplace.security_contact")
	case err != nil || !at.After(s.Now()):
		return q.fail("it has expired")
	}
	return q.pass("until " + at.Format(time.DateOnly))
}

// products are names that an app's own may not begin with.
var products = []string{
	"atlassian", "bitbucket", "jira", "confluence", "trello", "bamboo", "crucible", "fisheye", "statuspage", "opsgenie", "compass", "loom",
}

func (s *scan) branding() check.Result {
	q := requirement{"branding", "Branding: the name does not begin with an Atlassian product's"}
	name := strings.ToLower(s.Policy.App.Name)
	for _, p := range products {
		if strings.HasPrefix(name, p) {
			return q.fail("the app's name begins with " + p)
		}
	}
	return q.pass("")
}

func (s *scan) parts() check.Result {
	q := requirement{"known-weaknesses", "No parts with known weaknesses"}
	return q.declared("needs a list of known weaknesses, which a running service does not fetch; run govulncheck where it can be reached")
}
