package bitbucket_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"trakr/internal/bitbucket"
	"trakr/internal/connect"
	"trakr/internal/lifecycle"
)

func TestAccessTokensAreAskedForWhereBitbucketGivesThem(t *testing.T) {
	c := client(t, "https://api.bitbucket.org")
	if got := bitbucket.TokenURL("https://api.bitbucket.org"); got != "https://bitbucket.org/site/oauth2/access_token" || c.TokenHost() != "bitbucket.org" || c.Host() != "api.bitbucket.org" {
		t.Errorf("%s, %s", got, c.TokenHost())
	}
}

func TestAnExchangeIsASignedRequestForAnAccessToken(t *testing.T) {
	answer := `{"access_token":"marker-access","scopes":"account","expires_in":3600,"token_type":"bearer","refresh_token":"marker-refresh"}`
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, err := connect.NewVerifier(connect.Config{Now: time.Now}).Inspect(r)
		if err != nil || u.Verify(secret) != nil || u.Issuer.Reveal() != "trakr" {
			t.Errorf("the token: %v", err)
		}
		if r.Method != http.MethodPost || r.RequestURI != "/site/oauth2/access_token" || r.PostFormValue("grant_type") != "urn:bitbucket:oauth2:jwt" || len(r.PostForm) != 1 {
			t.Errorf("%s %s %v", r.Method, r.RequestURI, r.PostForm)
		}
		_, _ = w.Write([]byte(answer))
	}))
	defer srv.Close()
	c := client(t, srv.URL)
	got, err := c.Exchange(t.Context(), clientKey, secret)
	if err != nil || got.Token.Reveal() != "marker-access" || got.Type != "bearer" || got.Scopes != "account" || time.Until(got.ExpiresAt) < 59*time.Minute {
		t.Errorf("%+v, %v", got, err)
	}
	for what, bad := range map[string]string{"nothing": "", "no JSON": "<html>marker", "no token": `{"expires_in":3600}`, "no end": `{"access_token":"marker"}`, "an end long past": `{"access_token":"marker","expires_in":-9223372036854775808}`,
		"for ever": `{"access_token":"marker","expires_in":9223372036854775807}`, "without an end": `{"access_token":"` + strings.Repeat("x", 1<<20) + `","expires_in":3600}`} {
		answer = bad
		got, err := c.Exchange(t.Context(), clientKey, secret)
		if !errors.Is(err, lifecycle.ProofUnavailable) || !got.Token.Empty() || lifecycle.AsFault(err).RetryAfter <= 0 {
			t.Errorf("%s: %v", what, err)
		}
		silent(t, err)
	}
}

func TestARefusedExchangeIsToldFromAnOutage(t *testing.T) {
	for status, want := range map[int]lifecycle.Kind{400: lifecycle.BitbucketRefused, 401: lifecycle.BitbucketRefused, 403: lifecycle.BitbucketRefused, 404: lifecycle.BitbucketRefused,
		408: lifecycle.ProofUnavailable, 429: lifecycle.ProofUnavailable, 500: lifecycle.ProofUnavailable, 503: lifecycle.ProofUnavailable, 301: lifecycle.ProofUnavailable, 307: lifecycle.ProofUnavailable} {
		followed := false
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			followed = followed || r.URL.Path == "/elsewhere"
			w.Header().Set("Location", "/elsewhere")
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(`{"error":"marker"}`))
		}))
		c := client(t, srv.URL)
		_, err := c.Exchange(t.Context(), clientKey, secret)
		srv.Close()
		if !errors.Is(err, want) || followed || (want == lifecycle.ProofUnavailable && lifecycle.AsFault(err).RetryAfter != 7*time.Second) {
			t.Errorf("%d: %v, followed %v", status, err, followed)
		}
		silent(t, err)
		if _, err := c.Exchange(t.Context(), clientKey, secret); !errors.Is(err, lifecycle.ProofUnavailable) {
			t.Errorf("nobody there: %v", err)
		}
	}
}
