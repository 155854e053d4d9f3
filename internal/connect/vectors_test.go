package connect_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"trakr/internal/connect"
	"trakr/internal/lifecycle"
)

// The vectors come from the npm package atlassian-jwt 2.0.3.

type qshVector struct {
	ID, Method, URL, Canonical, QSH, Note string
	BaseURL                               string `json:"base_url"`
	Tags                                  []string
}

type jwtVector struct {
	ID      string
	Request struct {
		Method, URL, Carrier string
		BaseURL              string  `json:"base_url"`
		BodyClientKey        *string `json:"body_client_key"`
	}
	StoredSecrets map[string]string `json:"stored_secrets"`
	Now           int64
	Token         string
	Expect        string
	Reason        string
	Why           string
}

func load[T any](t testing.TB, file string) []T {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var all struct{ Vectors []T }
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	return all.Vectors
}

func TestQSHVectors(t *testing.T) {
	ran, form := 0, 0
	for _, v := range load[qshVector](t, "qsh.json") {
		if slices.Contains(v.Tags, "form-body") { // a callback's body is JSON and never counted
			form++
			continue
		}
		ran++
		t.Run(v.ID, func(t *testing.T) {
			if got := connect.CanonicalRequest(v.Method, v.URL, v.BaseURL); got != v.Canonical {
				t.Errorf("%s\n got %q\nwant %q", v.Note, got, v.Canonical)
			}
			if got := connect.QSH(v.Method, v.URL, v.BaseURL); got != v.QSH {
				t.Errorf("qsh %s, want %s", got, v.QSH)
			}
		})
	}
	if ran+form != 71 || form > 4 {
		t.Errorf("ran %d vectors and left out %d with a form body, of 71", ran, form)
	}
}

// request builds what the vector describes, as it would come over the wire.
func (v jwtVector) request() *http.Request {
	target := strings.TrimPrefix(v.Request.URL, "https://app.example.com")
	if strings.Contains(v.Request.Carrier, "jwt=") && !strings.Contains(target, "jwt=") {
		sep := "?"
		if strings.Contains(target, "?") {
			sep = "&"
		}
		target += sep + "jwt=" + v.Token
	}
	r := httptest.NewRequest(v.Request.Method, target, nil)
	if scheme, ok := strings.CutPrefix(v.Request.Carrier, "Authorization: "); ok {
		r.Header.Set("Authorization", scheme+" "+v.Token)
	}
	return r
}

// judge composes the checks as the handler does.
func (v jwtVector) judge() connect.Rejection {
	verifier := connect.NewVerifier(connect.Config{BaseURL: v.Request.BaseURL, Now: func() time.Time { return time.Unix(v.Now, 0) }})
	u, err := verifier.Inspect(v.request())
	if err != nil {
		return connect.ReasonOf(err)
	}
	secret, ok := v.StoredSecrets[u.Issuer.Reveal()]
	if !ok {
		return "unknown-tenant"
	}
	if err := u.Verify(lifecycle.NewSecret(secret)); err != nil {
		return connect.ReasonOf(err)
	}
	if v.Request.BodyClientKey != nil && *v.Request.BodyClientKey != u.Issuer.Reveal() {
		return "client-key-mismatch"
	}
	return ""
}

func TestJWTVectors(t *testing.T) {
	vectors := load[jwtVector](t, "jwt.json")
	if len(vectors) != 41 {
		t.Errorf("%d vectors, want 41", len(vectors))
	}
	for _, v := range vectors {
		t.Run(v.ID, func(t *testing.T) {
			if got := v.judge(); string(got) != v.Reason {
				t.Errorf("%s: rejected for %q, want %q", v.Why, got, v.Reason)
			}
			if (v.Expect == "accept") != (v.Reason == "") {
				t.Errorf("the vector contradicts itself")
			}
		})
	}
}
