package simulate

import (
	"context"
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

// api is the simulated Bitbucket API: the one resource that proves possession.
type api struct {
	appKey, base string
	server       *http.Server

	mu      sync.Mutex
	secrets map[string]string // by workspace uuid
	said    map[string]said
}

// said is what the API says about a workspace whatever it knows.
type said struct {
	status int
	until  time.Time // zero: for ever
}

// startAPI listens on addr until stop.
func startAPI(ctx context.Context, addr, appKey string) (*api, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("the simulated Bitbucket API cannot listen on %s (is another simulation running?); choose another with --api and TRAKR_BITBUCKET_API_URL", addr)
	}
	a := &api{appKey: appKey, base: "http://" + addr, secrets: map[string]string{}, said: map[string]said{}}
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
	s := said{status: x.Status}
	if x.For > 0 {
		s.until = time.Now().Add(x.For)
	}
	a.said[w.uuid] = s
}

// ServeHTTP answers 200 to a token signed with the workspace's secret, 401 to
// any other, 404 for a workspace that is not known; about some, what it was told to.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, ok := strings.CutPrefix(r.URL.Path, "/2.0/workspaces/{")
	id, rest, closed := strings.Cut(id, "}")
	a.mu.Lock()
	secret, known := a.secrets[id]
	told, other := a.said[id]
	a.mu.Unlock()
	if other && (told.until.IsZero() || time.Now().Before(told.until)) {
		w.WriteHeader(told.status)
		return
	}
	if !ok || !closed || rest != "/hooks" || !known {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	v := connect.NewVerifier(connect.Config{BaseURL: a.base, Now: time.Now})
	u, err := v.Inspect(r)
	if err != nil || u.Issuer.Reveal() != a.appKey || u.Verify(lifecycle.NewSecret(secret)) != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"values":[]}`))
}
