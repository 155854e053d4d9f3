package httpapi_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"trakr/internal/bitbucket"
	"trakr/internal/check"
	"trakr/internal/connect"
	"trakr/internal/erasure/erasuretest"
	"trakr/internal/evidence"
	"trakr/internal/httpapi"
	"trakr/internal/ingress"
	"trakr/internal/lifecycle"
	"trakr/internal/platform/telemetry"
	deletionrequests "trakr/internal/requests"
	"trakr/internal/store/census"
	"trakr/internal/store/facts"
	"trakr/internal/store/findings"
	"trakr/internal/store/outbox"
	"trakr/internal/store/requests"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tokens"
	"trakr/internal/sweep"
	"trakr/internal/sweep/sweeptest"
	"trakr/policy"
	"trakr/reports"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// world is a whole service on a database of its own, reached over HTTP, with a
// Bitbucket API beside it.
type world struct {
	*storetest.Env
	public, admin *httptest.Server
	routes        []httpapi.Route
	tokens        *tokens.Store
	eraser        *erasuretest.Rig
	bitbucket     *fakeBitbucket
	log           *syncBuffer
	telemetry     *telemetry.Telemetry
	ready         []check.Result
	deletions     *deletionrequests.Service
	documented    description // once a test has called the API
}

// syncBuffer is a buffer that several goroutines write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// fakeBitbucket answers every request that a known secret signed: the proof of
// possession, the API's resources, and the exchange for an access token.
type fakeBitbucket struct {
	mu      sync.Mutex
	secrets map[string]string // by workspace uuid
	status  int               // 0: judge the token; else answer this
	silent  bool              // take the request and say nothing
	calls   int
	given   string // the access token handed out last
	origin  string
}

func (f *fakeBitbucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.silent {
		f.mu.Unlock()
		_, _ = io.Copy(io.Discard, r.Body) // the server sees that the client left only once the body is read
		<-r.Context().Done()
		f.mu.Lock()
		return
	}
	if f.status != 0 {
		w.WriteHeader(f.status)
		return
	}
	if r.URL.Path == "/site/oauth2/access_token" {
		f.exchange(w, r)
		return
	}
	id, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/2.0/workspaces/{"), "}")
	u, err := connect.NewVerifier(connect.Config{BaseURL: f.origin, Now: time.Now}).Inspect(r)
	if err != nil || f.secrets[id] == "" || u.Issuer.Reveal() != "trakr" || u.Verify(lifecycle.NewSecret(f.secrets[id])) != nil {
		w.WriteHeader(http.StatusUnauthorized)
	}
}

// exchange finds the workspace by the client key that a token of ours names.
func (f *fakeBitbucket) exchange(w http.ResponseWriter, r *http.Request) {
	u, err := connect.NewVerifier(connect.Config{BaseURL: f.origin, Now: time.Now}).Inspect(r)
	known := false
	for _, secret := range f.secrets {
		known = known || (err == nil && u.Issuer.Reveal() == "trakr" && u.Verify(lifecycle.NewSecret(secret)) == nil)
	}
	if !known || r.Method != http.MethodPost || r.PostFormValue("grant_type") != "urn:bitbucket:oauth2:jwt" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	f.given = "access-" + uuid.NewString()
	_, _ = w.Write([]byte(`{"access_token":"` + f.given + `","scopes":"account webhook","expires_in":7200,"token_type":"bearer"}`))
}

func (f *fakeBitbucket) set(change func(*fakeBitbucket)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func newWorld(t *testing.T, change ...func(*policy.Policy)) *world {
	t.Helper()
	return worldOf(t, storetest.New(t), change...)
}

func worldOf(t *testing.T, e *storetest.Env, change ...func(*policy.Policy)) *world {
	t.Helper()
	w := &world{Env: e, log: &syncBuffer{}, bitbucket: &fakeBitbucket{secrets: map[string]string{}}}
	for _, f := range change {
		f(w.Policy)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	api := httptest.NewServer(w.bitbucket)
	t.Cleanup(api.Close)
	w.bitbucket.origin = api.URL
	var err error
	w.telemetry, err = telemetry.Setup(t.Context(), telemetry.Config{Service: "trakr", Version: "test", LogWriter: w.log, LogLevel: slog.LevelDebug})
	must(err)
	prover, err := bitbucket.New(bitbucket.Config{Origin: api.URL, AppKey: "trakr", Resource: w.Policy.App.Proof.Resource, Now: time.Now,
		Timeout: 500 * time.Millisecond, Tracer: w.telemetry.Tracer})
	must(err)
	w.public = httptest.NewUnstartedServer(nil)
	base := "http://" + w.public.Listener.Addr().String()
	w.eraser = erasuretest.New(t, w.Env)
	said, err := policy.LoadStatement("", reports.Checks())
	must(err)
	reporter := &evidence.Reporter{Policy: w.Policy, Statement: said, Inventory: facts.New(w.DB), Now: w.Clock.Now, Version: "test"}
	gate, err := ingress.New(ingress.Config{Policy: w.Policy, BaseURL: base, Door: w.Door, Eraser: w.eraser.Eraser, Prover: prover, Now: w.Clock.Now})
	must(err)
	handler, err := httpapi.NewPublic(httpapi.Public{Statement: (&evidence.PublicStatement{Reporter: reporter}).Get, Policy: w.Policy, BaseURL: base, Ingress: gate, Now: w.Clock.Now,
		Log: w.telemetry.Logger, Meter: w.telemetry.Meter, Observe: w.telemetry.Observe})
	must(err)
	w.public.Config.Handler = handler
	w.public.Start()
	t.Cleanup(w.public.Close)
	if err := census.New(w.DB).PlantCanary(t.Context()); err != nil {
		t.Fatal(err)
	}
	runner, err := sweep.New(w.DB, w.Policy, w.Clock.Now, w.telemetry.Logger, sweeptest.Fill(w.Policy, sweep.NewOrphans(census.New(w.DB), w.Policy), sweep.NewErasures(w.eraser.Eraser, w.Policy, storetest.Must(t)(outbox.New(w.DB, w.Log, w.Keys)).(*outbox.Store)))...)
	must(err)
	reporter.Sweeps = runner
	w.tokens = tokens.New(w.DB, w.Clock.Now)
	seq, err := w.Log.NewSequencer()
	must(err)
	var sequencing sync.Mutex
	catchUp := func(ctx context.Context) error {
		sequencing.Lock()
		defer sequencing.Unlock()
		_, err := seq.Pass(ctx)
		return err
	}
	held := w.eraser.Config.Holds
	asked, err := requests.New(w.DB, w.Log)
	must(err)
	deletions, err := deletionrequests.New(deletionrequests.Config{Requests: asked, Holds: held, Door: w.Door, Census: census.New(w.DB), Policy: w.Policy, Log: w.telemetry.Logger,
		Erasures: &deletionrequests.Eraser{Eraser: w.eraser.Eraser, Store: w.eraser.Config.Erasures, Findings: findings.New(w.DB), Runner: runner, Policy: w.Policy, Now: w.Clock.Now}})
	must(err)
	w.deletions = deletions
	adminHandler, routes, err := httpapi.NewAdmin(httpapi.Admin{Holds: held, Deletions: deletions, Erasures: w.eraser.Config.Erasures, Certifier: w.eraser.Eraser, Policy: w.Policy, Door: w.Door, Audit: w.Log, CatchUp: catchUp, Tokens: w.tokens, Findings: findings.New(w.DB),
		Runner: runner, Bitbucket: prover, Reports: reporter,
		Ready:   func(context.Context) []check.Result { return w.ready },
		Metrics: w.telemetry.MetricsHandler(), Version: "test", Log: w.telemetry.Logger, Observe: w.telemetry.Observe})
	must(err)
	w.routes = routes
	w.admin = httptest.NewServer(adminHandler)
	t.Cleanup(w.admin.Close)
	return w
}

// token returns a bearer token of a role.
func (w *world) token(role lifecycle.Role) string {
	w.T.Helper()
	operator := lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorOperator, ID: "uid:0", Role: lifecycle.RoleOperator},
		Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation}}
	plain, _, err := w.tokens.Create(w.T.Context(), operator, role, "test", time.Hour)
	if err != nil {
		w.T.Fatal(err)
	}
	return plain.Reveal()
}

// reply is an answer, read whole.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) kind() string {
	var p struct{ Type string }
	_ = json.Unmarshal([]byte(r.body), &p) // no problem document has no type
	return p.Type[strings.LastIndex(p.Type, "/")+1:]
}

func (w *world) send(req *http.Request) reply {
	w.T.Helper()
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.T.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.T.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(b)}
}

// call uses the API.
func (w *world) call(method, path, token string, body any) reply {
	w.T.Helper()
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			w.T.Fatal(err)
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(w.T.Context(), method, w.admin.URL+path, content)
	if err != nil {
		w.T.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	r := w.send(req)
	w.checkDocumented(method, path, r)
	return r
}

// workspace is an invented customer as Bitbucket knows it.
type workspace struct {
	uuid, username, avatar, secret string
	mark                           string // stands in everything Bitbucket over-shares
	key                            string // the client key, when it is another than a registered app's
}

func invent(mark string) *workspace {
	return &workspace{uuid: uuid.NewString(), username: "ws-" + mark, avatar: "https://bitbucket.org/account/" + mark + "/avatar/", secret: "secret-" + mark + uuid.NewString(), mark: mark}
}

func (x *workspace) clientKey() string {
	return cmp.Or(x.key, "ari:cloud:bitbucket::app/{"+x.uuid+"}/trakr")
}

func (x *workspace) body(event, secret string) string {
	principal := map[string]any{"type": "team", "uuid": "{" + x.uuid + "}", "username": x.username, "display_name": "Display " + x.mark,
		"email": x.mark + "@example.com", "phone": "+1 555 " + x.mark, "created_on": "2020-01-02T03:04:05.678901+00:00",
		"links": map[string]any{"self": map[string]any{"href": "https://api.bitbucket.org/2.0/teams/" + x.mark}, "avatar": map[string]any{"href": x.avatar}}}
	m := map[string]any{"productType": "bitbucket", "eventType": event, "key": "trakr", "baseApiUrl": "https://" + x.mark + ".example.com", "clientKey": x.clientKey(),
		"publicKey": "MIG" + x.mark, "principal": principal, "user": principal, x.mark + "@example.com": "as a key"}
	if event == "installed" {
		m["sharedSecret"] = secret
		m["actor"] = map[string]any{"type": "user", "uuid": x.mark, "account_id": x.mark}
	}
	b, _ := json.Marshal(m) // strings and maps always encode
	return string(b)
}

// sign makes the token Bitbucket sends.
func (w *world) sign(x *workspace, path, secret string, change ...func(*connect.Claims)) string {
	w.T.Helper()
	c := connect.Claims{Issuer: lifecycle.NewSecret(x.clientKey()), Audience: lifecycle.NewSecret(x.clientKey()), IssuedAt: w.Clock.Now(),
		ExpiresAt: w.Clock.Now().Add(time.Hour), QSH: connect.QSH(http.MethodPost, path, "")}
	for _, f := range change {
		f(&c)
	}
	t, err := connect.Mint(c, lifecycle.NewSecret(secret))
	if err != nil {
		w.T.Fatal(err)
	}
	return t.Reveal()
}

// deliver sends a callback; no token means unsigned.
func (w *world) deliver(path, token, body string) reply {
	w.T.Helper()
	req, err := http.NewRequestWithContext(w.T.Context(), http.MethodPost, w.public.URL+path, strings.NewReader(body))
	if err != nil {
		w.T.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "JWT "+token)
	}
	return w.send(req)
}

// install makes x a live tenant by a first, unsigned install.
func (w *world) install(x *workspace) string {
	w.T.Helper()
	w.bitbucket.set(func(f *fakeBitbucket) { f.secrets[x.uuid] = x.secret })
	if r := w.deliver(connect.InstalledPath, "", x.body("installed", x.secret)); r.status != http.StatusNoContent {
		w.T.Fatalf("install: %d %s", r.status, r.body)
	}
	return w.lookup(x)
}

func (w *world) lookup(x *workspace) string {
	w.T.Helper()
	r := w.call(http.MethodPost, "/v1/tenants/lookup", w.token(lifecycle.RoleService), map[string]any{"client_key": x.clientKey()})
	var found struct {
		TenantID string `json:"tenant_id"`
	}
	if err := json.Unmarshal([]byte(r.body), &found); err != nil || r.status != http.StatusOK {
		w.T.Fatalf("lookup: %d %s", r.status, r.body)
	}
	return found.TenantID
}

// fingerprint is everything stored of tenants; it changes when anything does.
func (w *world) fingerprint() int64 {
	return w.Int(`SELECT coalesce(sum(hashtext(t::text)::bigint), 0) + (SELECT coalesce(sum(hashtext(f::text)::bigint), 0) FROM trakr.tenant_fields f) FROM trakr.tenants t`)
}
