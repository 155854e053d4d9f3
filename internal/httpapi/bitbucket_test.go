package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/storetest"
)

// given is a token as the API hands it out.
type given struct {
	Token       string
	AccessToken string    `json:"access_token"`
	TokenType   string    `json:"token_type"`
	Scopes      string    `json:"scopes"`
	ExpiresAt   time.Time `json:"expires_at"`
	EventID     string    `json:"event_id"`
}

func (w *world) bitbucketToken(token, id string, want map[string]any) reply {
	w.T.Helper()
	return w.call(http.MethodPost, "/v1/tenants/"+id+"/bitbucket-token", token, want)
}

func hooks(x *workspace) map[string]any {
	return map[string]any{"kind": "jwt", "method": "GET", "path": "/2.0/workspaces/%7B" + x.uuid + "%7D/hooks", "query": "pagelen=10&q=a%20b",
		"reason": map[string]string{"code": "service_operation", "ref": "JOB-1"}}
}

var exchange = map[string]any{"kind": "access_token", "reason": map[string]string{"code": "service_operation"}}

// given reads a token that was handed out.
func (r reply) given(t *testing.T) given {
	t.Helper()
	var g given
	if err := json.Unmarshal([]byte(r.body), &g); err != nil || r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	return g
}

// used is how Bitbucket answers a request with the token.
func (w *world) used(method, target, token string) int {
	w.T.Helper()
	req, err := http.NewRequestWithContext(w.T.Context(), method, w.bitbucket.origin+target, nil)
	if err != nil {
		w.T.Fatal(err)
	}
	req.Header.Set("Authorization", "JWT "+token)
	return w.send(req).status
}

// recorded counts the events of a token handed out as they must be.
func (w *world) recorded(id, eventID, host string) int64 {
	w.T.Helper()
	return w.Int(`SELECT count(*) FROM trakr.audit_events WHERE event_id = $1::uuid AND tenant_id = $2::uuid AND action = 'tenant.read' AND outcome = 'success' AND actor_type = 'service'
		AND field_names = '{client_key,shared_secret}' AND recipient = $3 AND reason_code = 'service_operation' AND status_detail = 'signs a token'`, eventID, id, host)
}

func TestAServiceCallsBitbucketWithTokensAndNeverSeesTheSecret(t *testing.T) {
	w := newWorld(t)
	x := invent("bbtoken")
	id, service := w.install(x), w.token(lifecycle.RoleService)
	host := host(w)

	r := w.bitbucketToken(service, id, hooks(x))
	jwt := r.given(t)
	path := "/2.0/workspaces/%7B" + x.uuid + "%7D/hooks"
	if got := w.used(http.MethodGet, path+"?q=a+b&pagelen=10", jwt.Token); got != http.StatusOK {
		t.Errorf("the request it was made for: %d", got)
	}
	for what, c := range map[string][2]string{"another path": {http.MethodGet, path + "/1"}, "another method": {http.MethodPost, path + "?pagelen=10&q=a%20b"}, "another query": {http.MethodGet, path + "?pagelen=100"}} {
		if got := w.used(c[0], c[1], jwt.Token); got != http.StatusUnauthorized {
			t.Errorf("%s: %d", what, got)
		}
	}
	if left := time.Until(jwt.ExpiresAt); left <= 2*time.Minute || left > 3*time.Minute {
		t.Errorf("it lives for %v", left)
	}
	if w.recorded(id, jwt.EventID, host) != 1 {
		t.Error("the token is not recorded")
	}

	a := w.bitbucketToken(service, id, exchange)
	access := a.given(t)
	if access.AccessToken != w.bitbucket.given || access.AccessToken == "" || access.TokenType != "bearer" || access.Scopes != "account webhook" || access.Token != "" ||
		time.Until(access.ExpiresAt) < time.Hour || w.recorded(id, access.EventID, host) != 1 {
		t.Errorf("%+v", access)
	}
	if strings.Contains(r.body+a.body, x.secret) {
		t.Error("the secret is in an answer")
	}
	if log := w.log.String(); strings.Contains(log, x.secret) || strings.Contains(log, jwt.Token) || strings.Contains(log, access.AccessToken) || strings.Contains(log, x.uuid) || !strings.Contains(log, "bitbucket-token") {
		t.Error("the log holds a token or a value, or nothing of the request")
	}
	if dump := string(w.Dump()); strings.Contains(dump, jwt.Token) || strings.Contains(dump, access.AccessToken) {
		t.Error("a token is stored")
	}
	var doc struct {
		Paths map[string]map[string]struct{ Description string }
	}
	if err := json.Unmarshal([]byte(w.call(http.MethodGet, "/openapi.json", "", nil).body), &doc); err != nil || !strings.HasSuffix(doc.Paths["/v1/tenants/{id}/bitbucket-token"]["post"].Description, "Roles: service.") {
		t.Errorf("the API's description: %v", err)
	}
}

func TestABitbucketTokenIsRefusedWithTheCause(t *testing.T) {
	w := newWorld(t)
	x := invent("bbrefused")
	id, service := w.install(x), w.token(lifecycle.RoleService)
	calls := w.bitbucket.calls
	for _, role := range []lifecycle.Role{lifecycle.RoleSupport, lifecycle.RoleReviewer, lifecycle.RoleOperator} {
		w.bitbucketToken(w.token(role), id, hooks(x)).refused(t, http.StatusForbidden, "forbidden")
	}
	w.bitbucketToken(service, lifecycle.NewTenantID().String(), exchange).refused(t, http.StatusNotFound, "tenant-unknown")
	change := func(name string, value any) map[string]any {
		m := hooks(x)
		m[name] = value
		return m
	}
	for what, want := range map[string]map[string]any{"no path": change("path", ""), "another host": change("path", "https://MARKER.example.com/2.0"), "a host by two slashes": change("path", "//MARKER/2.0"),
		"a query in the path": change("path", "/2.0?MARKER=1"), "a broken escape": change("path", "/2.0/%zzMARKER"), "two lines": change("path", "/2.0\r\nMARKER"), "a fragment": change("query", "a=1#MARKER"),
		"no method": change("method", ""), "another kind": change("kind", "MARKER"), "a request for an access token": change("kind", "access_token")} {
		if r := w.bitbucketToken(service, id, want); r.status != http.StatusBadRequest || r.kind() != "request-invalid" || strings.Contains(r.body, "MARKER") {
			t.Errorf("%s: %d %s", what, r.status, r.body)
		}
	}
	w.bitbucketToken(service, id, change("reason", map[string]string{"code": "reviewer_export"})).refused(t, http.StatusUnprocessableEntity, "field-not-allowed")
	if w.bitbucket.calls != calls {
		t.Error("Bitbucket was asked in vain")
	}

	// Bitbucket refuses; Bitbucket is away.
	for status, kind := range map[int]string{http.StatusUnauthorized: "bitbucket-refused", http.StatusBadRequest: "bitbucket-refused", http.StatusTooManyRequests: "proof-unavailable",
		http.StatusInternalServerError: "proof-unavailable", http.StatusFound: "proof-unavailable", http.StatusNoContent: "proof-unavailable"} {
		w.bitbucket.set(func(f *fakeBitbucket) { f.status = status })
		r := w.bitbucketToken(service, id, exchange)
		want := http.StatusServiceUnavailable
		if kind == "bitbucket-refused" {
			want = http.StatusConflict
		}
		r.refused(t, want, kind)
		if (want == http.StatusServiceUnavailable) != (r.header.Get("Retry-After") != "") {
			t.Errorf("%d: Retry-After is %q", status, r.header.Get("Retry-After"))
		}
	}
	w.bitbucket.set(func(f *fakeBitbucket) { f.status, f.silent = 0, true })
	w.bitbucketToken(service, id, exchange).refused(t, http.StatusServiceUnavailable, "proof-unavailable")
	w.bitbucket.set(func(f *fakeBitbucket) { f.silent = false })

	w.Clock.Add(time.Second)
	if r := w.deliver(uninstalled, w.sign(x, uninstalled, x.secret), x.body("uninstalled", "")); r.status != http.StatusNoContent {
		t.Fatalf("%d %s", r.status, r.body)
	}
	for _, want := range []map[string]any{hooks(x), exchange} {
		w.bitbucketToken(service, id, want).refused(t, http.StatusGone, "tenant-erased")
	}
	if log := w.log.String(); strings.Contains(log, x.secret) || strings.Contains(log, x.uuid) || strings.Contains(log, "MARKER") || strings.Contains(log, host(w)) {
		t.Error("the log holds a value or the address")
	}
}

func host(w *world) string { return strings.TrimPrefix(w.bitbucket.origin, "http://") }

func TestNoBitbucketTokenLeavesWhenTheAuditCannotBeWritten(t *testing.T) {
	for name, sql := range storetest.Breaks() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			x := invent("bbleak")
			id, service := w.install(x), w.token(lifecycle.RoleService)
			calls := w.bitbucket.calls
			w.Exec(sql)
			for _, want := range []map[string]any{hooks(x), exchange} {
				r := w.bitbucketToken(service, id, want)
				r.refused(t, http.StatusServiceUnavailable, "audit-unavailable")
				if r.header.Get("Retry-After") == "" || strings.Contains(r.body, "token\":") {
					t.Errorf("%s", r.body)
				}
			}
			if w.bitbucket.calls != calls {
				t.Error("Bitbucket was asked without a record")
			}
		})
	}
}
