package simulate

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"trakr/internal/connect"
	"trakr/internal/lifecycle"
)

// api is the simulated Bitbucket API: the one resource that proves possession, and the
// exchange of a signed token for an access token.
type api struct {
	appKey, base string
	server       *http.Server

	mu      sync.Mutex
	secrets map[string]string // by workspace uuid
	given   map[string]string // access tokens; whose they are, by workspace uuid
	fixed   map[string]fixed
}

func newAPI(appKey, base string) *api {
	return &api{appKey: appKey, base: base, secrets: map[string]string{}, given: map[string]string{}, fixed: map[string]fixed{}}
}

// fixed is the API's answer about a workspace, whatever it knows.
type fixed struct {
	status int
	until  time.Time // zero: for ever
}

// startAPI listens on addr until stop.
func startAPI(ctx context.Context, addr, appKey string) (*api, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("the simulated Bitbucket API cannot listen on %s (is another simulation running?); "+
			"choose another address with --api and TRAKR_BITBUCKET_API_URL", addr)
	}
	a := newAPI(appKey, "http://"+addr)
	a.server = &http.Server{Handler: a, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := a.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			_ = l.Close()
		}
	}()
	return a, nil
}

func (a *api) stop() { _ = a.server.Close() }

func (a *api) know(w *workspace, secret string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.secrets[w.uuid] = secret
}

func (a *api) forget(w *workspace) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.secrets, w.uuid)
}

func (a *api) say(w *workspace, x Answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := fixed{status: x.Status}
	if x.For > 0 {
		s.until = time.Now().Add(x.For)
	}
	a.fixed[w.uuid] = s
}

// ServeHTTP implements http.Handler.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost && r.URL.Path == exchangePath {
		a.exchange(w, r)
		return
	}
	id, ok := strings.CutPrefix(r.URL.Path, "/2.0/workspaces/{")
	id, rest, closed := strings.Cut(id, "}")
	a.mu.Lock()
	secret, known := a.secrets[id]
	answer, other := a.fixed[id]
	a.mu.Unlock()
	switch {
	case other && (answer.until.IsZero() || time.Now().Before(answer.until)):
		w.WriteHeader(answer.status)
	case !ok || !closed || rest != "/hooks" || !known:
		w.WriteHeader(http.StatusNotFound)
	case a.allowed(r, id, secret):
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"values":[]}`))
	default:
		w.WriteHeader(http.StatusUnauthorized)
	}
}

// allowed reports whether a request about a workspace has an access token of its own,
// or a token signed with its secret for this very request.
func (a *api) allowed(r *http.Request, id, secret string) bool {
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.given[token] == id
	}
	return a.signed(r, secret)
}

func (a *api) signed(r *http.Request, secret string) bool {
	u, err := connect.NewVerifier(connect.Config{BaseURL: a.base, Now: time.Now}).Inspect(r)
	return err == nil && u.Issuer.Reveal() == a.appKey && u.Verify(lifecycle.NewSecret(secret)) == nil
}

const exchangePath = "/site/oauth2/access_token"

// exchange gives an access token for one signed with the secret of the workspace that
// its subject names.
func (a *api) exchange(w http.ResponseWriter, r *http.Request) {
	id := a.subject(r)
	a.mu.Lock()
	secret, known := a.secrets[id]
	a.mu.Unlock()
	if r.FormValue("grant_type") != "urn:bitbucket:oauth2:jwt" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if !known || !a.signed(r, secret) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	token := rand.Text()
	a.mu.Lock()
	a.given[token] = id
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token_type": "bearer", "scopes": "webhook", "expires_in": 7200})
}

// subject is the workspace that a token claims to be about, before anything is proven.
func (a *api) subject(r *http.Request) string {
	parts := strings.Split(strings.TrimPrefix(r.Header.Get("Authorization"), "JWT "), ".")
	if len(parts) != 3 {
		return ""
	}
	var claims struct{ Sub string }
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(b, &claims) != nil {
		return ""
	}
	id, _, _ := strings.Cut(strings.TrimPrefix(claims.Sub, clientKeyPrefix), "}")
	return id
}
