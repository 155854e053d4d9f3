package simulate

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"trakr/internal/connect"
	"trakr/internal/lifecycle"
)

func TestTheAPISaysOfAWorkspaceWhatItIsTold(t *testing.T) {
	a := newAPI("trakr", "")
	srv := httptest.NewServer(a)
	defer srv.Close()
	a.base = srv.URL
	b, c := invent(), invent()
	a.know(b, b.secret)
	a.know(c, c.secret)
	a.say(b, Answer{Status: 500})
	a.say(c, Answer{Status: 404, For: 50 * time.Millisecond})
	ask := func(w *workspace) int {
		resp, err := http.Get(a.base + "/2.0/workspaces/%7B" + w.uuid + "%7D/hooks")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if ask(b) != 500 || ask(c) != 404 || ask(invent()) != 404 {
		t.Errorf("told: %d, %d", ask(b), ask(c))
	}
	time.Sleep(60 * time.Millisecond)
	if got := ask(c); got != http.StatusUnauthorized { // known again, and this question has no token
		t.Errorf("after its time: %d", got)
	}
}

func TestAnswersAreReadStrictly(t *testing.T) {
	for s, want := range map[string]Answer{"3=500": {3, 500, 0}, "2=404@24h": {2, 404, 24 * time.Hour}} {
		if got, err := ParseAnswer(s); err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
	}
	for _, bad := range []string{"", "3", "3=", "=500", "3=99", "3=100", "3=600", "3=500@", "3=500@soon", "3=500@-1h", "x=500", "3=500 "} {
		if _, err := ParseAnswer(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	c := Config{Target: "http://127.0.0.1:1", Admin: "http://127.0.0.1:2", API: "127.0.0.1:3", Installs: 2, Answers: []Answer{{3, 500, 0}}}
	if err := c.check(); lifecycle.AsFault(err).Kind != lifecycle.RequestInvalid {
		t.Errorf("a workspace that is not there: %v", err)
	}
}

// An access token is for one workspace, and only for whoever has its secret.
func TestTheAPIGivesAccessTokensForTheSecretOnly(t *testing.T) {
	a := newAPI("trakr", "")
	srv := httptest.NewServer(a)
	defer srv.Close()
	a.base = srv.URL
	mine, other, stranger := invent(), invent(), invent()
	a.know(mine, mine.secret)
	a.know(other, other.secret)
	exchange := func(w *workspace, secret, grant string) (status int, token string) {
		now := time.Now()
		with := mint(connect.Claims{Issuer: lifecycle.NewSecret("trakr"), Subject: lifecycle.NewSecret(w.clientKey("trakr")), IssuedAt: now,
			ExpiresAt: now.Add(time.Minute), QSH: connect.QSH(http.MethodPost, a.base+exchangePath, a.base)}, secret)
		req, err := http.NewRequest(http.MethodPost, a.base+exchangePath, strings.NewReader("grant_type="+grant))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Authorization", "JWT "+with)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		var got struct {
			AccessToken string `json:"access_token"`
		}
		if resp.StatusCode == http.StatusOK && json.NewDecoder(resp.Body).Decode(&got) != nil {
			t.Fatal("no JSON")
		}
		return resp.StatusCode, got.AccessToken
	}
	call := func(w *workspace, token string) int {
		req, err := http.NewRequest(http.MethodGet, a.base+"/2.0/workspaces/%7B"+w.uuid+"%7D/hooks", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	const grant = "urn%3Abitbucket%3Aoauth2%3Ajwt"
	status, token := exchange(mine, mine.secret, grant)
	if status != http.StatusOK || call(mine, token) != http.StatusOK {
		t.Fatalf("exchanged %d, used %d", status, call(mine, token))
	}
	if got := call(other, token); got != http.StatusUnauthorized {
		t.Errorf("another workspace's token: %d", got)
	}
	if got := call(mine, ""); got != http.StatusUnauthorized {
		t.Errorf("no token: %d", got)
	}
	for what, got := range map[string]func() (int, string){
		"another's secret": func() (int, string) { return exchange(mine, other.secret, grant) },
		"nobody known":     func() (int, string) { return exchange(stranger, stranger.secret, grant) },
	} {
		if status, _ := got(); status != http.StatusUnauthorized {
			t.Errorf("%s: %d", what, status)
		}
	}
	if status, _ := exchange(mine, mine.secret, "password"); status != http.StatusBadRequest {
		t.Errorf("another grant: %d", status)
	}
}
