package bitbucket_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.opentelemetry.io/otel/trace/noop"

	"trakr/internal/bitbucket"
	"trakr/internal/connect"
	"trakr/internal/lifecycle"
)

const resource = "/2.0/workspaces/{workspace}/hooks"

var (
	workspace = lifecycle.NewSecret("0a1b2c3d-0000-4000-8000-00000000a001")
	clientKey = lifecycle.NewSecret("ari:marker-client-key")
	secret    = lifecycle.NewSecret("marker-secret")
)

func client(t *testing.T, origin string) *bitbucket.Client {
	t.Helper()
	c, err := bitbucket.New(bitbucket.Config{Origin: origin, AppKey: "trakr", Resource: resource, Now: time.Now,
		Timeout: 300 * time.Millisecond, Tracer: noop.NewTracerProvider()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func silent(t *testing.T, err error) {
	t.Helper()
	shown := fmt.Sprintf("%v %+v %+v", err, err, lifecycle.AsFault(err))
	if strings.Contains(shown, "marker") || strings.Contains(shown, workspace.Reveal()) || strings.Contains(shown, "127.0.0.1") {
		t.Errorf("the error tells a value or the address: %s", shown)
	}
}

func TestTheProofIsASignedRequestForTheProtectedResource(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.RequestURI != "/2.0/workspaces/%7B0a1b2c3d-0000-4000-8000-00000000a001%7D/hooks" {
			t.Errorf("asked for %s", r.RequestURI)
		}
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "JWT ")
		claims := jwt.MapClaims{}
		if _, err := jwt.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return []byte("marker-secret"), nil }, jwt.WithValidMethods([]string{"HS256"})); err != nil {
			t.Error(err)
		}
		life := claims["exp"].(float64) - claims["iat"].(float64)
		if claims["iss"] != "trakr" || claims["sub"] != clientKey.Reveal() || claims["qsh"] != connect.QSH("GET", r.RequestURI, "") || life > 180 {
			t.Errorf("claims %v", claims)
		}
		_, _ = w.Write([]byte(strings.Repeat("x", 1<<20)))
	}))
	defer srv.Close()
	if err := client(t, srv.URL).ProvePossession(t.Context(), workspace, clientKey, secret); err != nil {
		t.Error(err)
	}
	if p := client(t, srv.URL).Probe(t.Context(), workspace, clientKey, secret); p.Answer != bitbucket.Alive {
		t.Errorf("%+v", p)
	}
}

func TestAnswersAreToldApart(t *testing.T) {
	for status, want := range map[int]lifecycle.Kind{200: "", 204: "", 400: lifecycle.SignatureInvalid, 401: lifecycle.SignatureInvalid,
		403: lifecycle.SignatureInvalid, 404: lifecycle.SignatureInvalid, 429: lifecycle.ProofUnavailable, 500: lifecycle.ProofUnavailable,
		502: lifecycle.ProofUnavailable, 503: lifecycle.ProofUnavailable, 301: lifecycle.ProofUnavailable} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
		}))
		err := client(t, srv.URL).ProvePossession(t.Context(), workspace, clientKey, secret)
		srv.Close()
		if (want == "") != (err == nil) || (want != "" && !errors.Is(err, want)) {
			t.Errorf("%d: %v, want %q", status, err, want)
		}
		if want == lifecycle.ProofUnavailable && lifecycle.AsFault(err).RetryAfter != 7*time.Second {
			t.Errorf("%d: retry after %v", status, lifecycle.AsFault(err).RetryAfter)
		}
		if err != nil {
			silent(t, err)
		}
	}
}

func TestOnlyAClearWordSaysThatAnAppIsGone(t *testing.T) {
	for status, want := range map[int]bitbucket.Answer{200: bitbucket.Alive, 204: bitbucket.Alive, 401: bitbucket.Suspected, 403: bitbucket.Suspected, 404: bitbucket.Suspected,
		400: bitbucket.CannotTell, 408: bitbucket.CannotTell, 410: bitbucket.CannotTell, 429: bitbucket.CannotTell, 301: bitbucket.CannotTell, 302: bitbucket.CannotTell,
		500: bitbucket.CannotTell, 502: bitbucket.CannotTell, 503: bitbucket.CannotTell} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
		}))
		c := client(t, srv.URL)
		p := c.Probe(t.Context(), workspace, clientKey, secret)
		srv.Close()
		if p.Answer != want || p.Status != status || p.Busy() != (status == 429) || p.RetryAfter != 7*time.Second || p.Detail() != fmt.Sprintf("%s %d", want, status) {
			t.Errorf("%d: %+v, %q", status, p, p.Detail())
		}
		// The very same resource, and nobody there.
		if p := c.Probe(t.Context(), workspace, clientKey, secret); p.Answer != bitbucket.CannotTell || p.Detail() != "cannot-tell no-answer" {
			t.Errorf("nobody there: %+v", p)
		}
	}
	tls := httptest.NewTLSServer(nil)
	defer tls.Close()
	for name, origin := range map[string]string{"untrusted": tls.URL, "no such host": "http://marker.invalid"} {
		if p := client(t, origin).Probe(t.Context(), workspace, clientKey, secret); p.Answer != bitbucket.CannotTell || p.Status != 0 {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func TestNoAnswerIsNeverARefusal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { // takes connections and says nothing
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer func() { _ = c.Close() }()
		}
	}()
	defer func() { _ = l.Close() }()
	closed := httptest.NewServer(nil)
	closed.Close()
	tls := httptest.NewTLSServer(nil)
	defer tls.Close()
	for name, origin := range map[string]string{"silence": "http://" + l.Addr().String(), "nobody": closed.URL, "untrusted": tls.URL, "no such host": "http://marker.invalid"} {
		err := client(t, origin).ProvePossession(t.Context(), workspace, clientKey, secret)
		if !errors.Is(err, lifecycle.ProofUnavailable) || lifecycle.AsFault(err).RetryAfter <= 0 {
			t.Errorf("%s: %v", name, err)
		}
		silent(t, err)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var followed atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Store(true) }))
	defer other.Close()
	srv := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusFound))
	defer srv.Close()
	err := client(t, srv.URL).ProvePossession(t.Context(), workspace, clientKey, secret)
	if !errors.Is(err, lifecycle.ProofUnavailable) || followed.Load() {
		t.Errorf("followed=%v: %v", followed.Load(), err)
	}
}

func TestOnlyAUUIDGetsIntoThePath(t *testing.T) {
	c := client(t, "http://127.0.0.1:1")
	for _, bad := range []string{"", "..", "{0a1b2c3d-0000-4000-8000-00000000a001}", "0a1b2c3d/0000-4000-8000-00000000a001x"} {
		if err := c.ProvePossession(t.Context(), lifecycle.NewSecret(bad), clientKey, secret); !errors.Is(err, lifecycle.PayloadInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
