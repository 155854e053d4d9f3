package httpapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"trakr/internal/connect"
	"trakr/internal/lifecycle"
)

const (
	installed   = connect.InstalledPath
	uninstalled = connect.UninstalledPath
)

func TestAWorkspaceFromInstallToNothing(t *testing.T) {
	w := newWorld(t)
	x := invent("story")
	id := w.install(x)
	service := w.token(lifecycle.RoleService)
	read := func(id string) reply {
		return w.call(http.MethodPost, "/v1/tenants/"+id+"/reads", service, map[string]any{"fields": []string{"username", "client_key"}, "reason": map[string]string{"code": "service_operation"}})
	}
	if r := read(id); r.status != http.StatusOK || !strings.Contains(r.body, x.username) || !strings.Contains(r.body, x.uuid) {
		t.Fatalf("read: %d %s", r.status, r.body)
	}
	w.Clock.Add(time.Minute)
	token := w.sign(x, uninstalled, x.secret)
	for range 2 { // the same delivery twice is a no-op that is answered alike
		if r := w.deliver(uninstalled, token, x.body("uninstalled", "")); r.status != http.StatusNoContent {
			t.Fatalf("uninstall: %d %s", r.status, r.body)
		}
	}
	if r := read(id); r.status != http.StatusGone || r.kind() != "tenant-erased" || strings.Contains(r.body, x.mark) {
		t.Errorf("read after the uninstall: %d %s", r.status, r.body)
	}
	if n := w.Int(`SELECT count(*) FROM trakr.tenant_fields`) + w.Int(`SELECT count(*) FROM trakr.replay_guard`); n != 0 {
		t.Errorf("%d rows remain", n)
	}
	if n := w.Int(`SELECT count(*) FROM trakr.erasures`); n != 1 {
		t.Errorf("%d tombstones", n)
	}
	// After an uninstall the first install is signed with a secret we erased.
	old := x.secret
	x.secret += "new"
	w.bitbucket.set(func(f *fakeBitbucket) { f.secrets[x.uuid] = x.secret })
	if r := w.deliver(installed, w.sign(x, installed, old), x.body("installed", x.secret)); r.status != http.StatusNoContent {
		t.Fatalf("re-install: %d %s", r.status, r.body)
	}
	if again := w.lookup(x); again == id {
		t.Error("the re-install got the old tenant id")
	}
}

func TestForgedCallbacksChangeNothing(t *testing.T) {
	w := newWorld(t)
	a, b := invent("aaaa"), invent("bbbb")
	w.install(a)
	w.install(b)
	stranger := invent("cccc")
	before := w.fingerprint()
	for name, r := range map[string]struct{ path, token, body string }{
		"unsigned install over a live tenant":      {installed, "", a.body("installed", "evil")},
		"install signed with the secret it brings": {installed, w.sign(a, installed, "evil"), a.body("installed", "evil")},
		"tenant A's token with tenant B's body":    {installed, w.sign(a, installed, a.secret), b.body("installed", "evil")},
		"tenant A's token to uninstall B":          {uninstalled, w.sign(a, uninstalled, a.secret), b.body("uninstalled", "")},
		"B's name signed by A's secret":            {uninstalled, w.sign(b, uninstalled, a.secret), b.body("uninstalled", "")},
		"unsigned uninstall":                       {uninstalled, "", a.body("uninstalled", "")},
		"a token made for the other address":       {uninstalled, w.sign(a, installed, a.secret), a.body("uninstalled", "")},
		"an expired token": {uninstalled, w.sign(a, uninstalled, a.secret, func(c *connect.Claims) {
			c.ExpiresAt = w.Clock.Now().Add(-time.Minute)
			c.IssuedAt = w.Clock.Now().Add(-time.Hour)
		}), a.body("uninstalled", "")},
		"a token with another aud":                    {uninstalled, w.sign(a, uninstalled, a.secret, func(c *connect.Claims) { c.Audience = lifecycle.NewSecret("x") }), a.body("uninstalled", "")},
		"a tenant never installed":                    {uninstalled, w.sign(stranger, uninstalled, "x"), stranger.body("uninstalled", "")},
		"a first install Bitbucket does not confirm":  {installed, "", stranger.body("installed", "unknown-secret")},
		"the same with a token signed by that secret": {installed, w.sign(stranger, installed, "unknown-secret"), stranger.body("installed", "unknown-secret")},
	} {
		t.Run(name, func(t *testing.T) {
			got := w.deliver(r.path, r.token, r.body)
			if got.status != http.StatusUnauthorized || got.kind() != "signature-invalid" {
				t.Errorf("answered %d %s", got.status, got.body)
			}
			for _, m := range []string{"aaaa", "bbbb", "cccc", "evil", a.uuid, b.uuid} {
				if strings.Contains(got.body, m) {
					t.Errorf("the answer repeats %q: %s", m, got.body)
				}
			}
			if w.fingerprint() != before {
				t.Error("something changed")
			}
		})
	}
	if n := w.Int(`SELECT count(*) FROM trakr.tenants`); n != 2 {
		t.Errorf("%d tenants, want 2", n)
	}
}

func TestAnUnknownTenantAnswersAsABadSignatureDoes(t *testing.T) {
	w := newWorld(t)
	held, stranger := invent("held"), invent("none")
	w.install(held)
	bad := w.deliver(uninstalled, w.sign(held, uninstalled, "wrong"), held.body("uninstalled", ""))
	unknown := w.deliver(uninstalled, w.sign(stranger, uninstalled, "wrong"), stranger.body("uninstalled", ""))
	mask := func(r reply) string { return strings.ReplaceAll(r.body, r.header.Get("X-Request-Id"), "ID") }
	if bad.status != unknown.status || mask(bad) != mask(unknown) || len(bad.header) != len(unknown.header) {
		t.Errorf("told apart:\n%d %s\n%d %s", bad.status, mask(bad), unknown.status, mask(unknown))
	}
}

func TestRepeatedReplayedAndLateDeliveries(t *testing.T) {
	w := newWorld(t)
	x := invent("order")
	w.install(x)
	w.Clock.Add(10 * time.Second)
	first := w.sign(x, installed, x.secret)
	if r := w.deliver(installed, first, x.body("installed", "second-secret")); r.status != http.StatusNoContent {
		t.Fatalf("signed re-install: %d %s", r.status, r.body)
	}
	before := w.fingerprint()
	if r := w.deliver(installed, first, x.body("installed", "replayed-secret")); r.status != http.StatusNoContent || w.fingerprint() != before {
		t.Errorf("a replay: %d, changed=%v", r.status, w.fingerprint() != before)
	}
	early := func(c *connect.Claims) { c.IssuedAt = c.IssuedAt.Add(-5 * time.Second) }
	if r := w.deliver(uninstalled, w.sign(x, uninstalled, "second-secret", early), x.body("uninstalled", "")); r.status != http.StatusNoContent || w.fingerprint() != before {
		t.Errorf("a late uninstall of the install before: %d, changed=%v", r.status, w.fingerprint() != before)
	}
	if r := w.deliver(uninstalled, w.sign(x, uninstalled, "second-secret"), x.body("uninstalled", "")); r.status != http.StatusNoContent || w.Int(`SELECT count(*) FROM trakr.tenant_fields`) != 0 {
		t.Errorf("the uninstall of the same second: %d", r.status)
	}
}

func TestAFirstInstallWithoutBitbucketsWordStoresNothing(t *testing.T) {
	for name, damage := range map[string]func(*fakeBitbucket){
		"429": func(f *fakeBitbucket) { f.status = 429 }, "500": func(f *fakeBitbucket) { f.status = 500 }, "nothing": func(f *fakeBitbucket) { f.silent = true },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.bitbucket.set(damage)
			x := invent("prvx")
			r := w.deliver(installed, "", x.body("installed", x.secret))
			if r.status != http.StatusServiceUnavailable || r.kind() != "proof-unavailable" || r.header.Get("Retry-After") == "" || strings.Contains(r.body, x.mark) {
				t.Errorf("answered %d %s (Retry-After %q)", r.status, r.body, r.header.Get("Retry-After"))
			}
			if n := w.Int(`SELECT (SELECT count(*) FROM trakr.tenants) + (SELECT count(*) FROM trakr.tenant_fields) + (SELECT count(*) FROM trakr.replay_guard)`); n != 0 {
				t.Errorf("%d rows stored", n)
			}
			if w.bitbucket.calls == 0 {
				t.Error("Bitbucket was not asked")
			}
		})
	}
}

func TestDatabaseDownIs503AndNeverANewTenant(t *testing.T) {
	w := newWorld(t)
	x := invent("down")
	id := w.install(x)
	service := w.token(lifecycle.RoleService)
	calls := w.bitbucket.calls
	w.DB.Close()
	for name, r := range map[string]reply{
		"install":   w.deliver(installed, "", x.body("installed", x.secret)),
		"signed":    w.deliver(installed, w.sign(x, installed, x.secret), x.body("installed", "next")),
		"uninstall": w.deliver(uninstalled, w.sign(x, uninstalled, x.secret), x.body("uninstalled", "")),
		"read":      w.call(http.MethodPost, "/v1/tenants/"+id+"/reads", service, map[string]any{"fields": []string{"username"}}),
		"lookup":    w.call(http.MethodPost, "/v1/tenants/lookup", service, map[string]any{"client_key": x.clientKey()}),
	} {
		if r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" || strings.Contains(r.body, x.mark) {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	if w.bitbucket.calls != calls {
		t.Error("a database that does not answer was taken for an unknown tenant: Bitbucket was asked")
	}
	if n := w.Int(`SELECT count(*) FROM trakr.tenants`); n != 1 {
		t.Errorf("%d tenants", n)
	}
}

func TestPayloadsAreLimitedAndRefusedByPointer(t *testing.T) {
	w := newWorld(t)
	x := invent("limit")
	if r := w.deliver(installed, "", `{"x":"`+strings.Repeat("limit", 14000)+`"}`); r.status != http.StatusRequestEntityTooLarge || r.kind() != "payload-too-large" {
		t.Errorf("70 KB: %d %s", r.status, r.body)
	}
	r := w.deliver(installed, "", strings.Replace(x.body("installed", x.secret), `"sharedSecret"`, `"sharedSecrets"`, 1))
	if r.status != http.StatusBadRequest || r.kind() != "payload-invalid" || !strings.Contains(r.body, `"/sharedSecret"`) || strings.Contains(r.body, "limit") {
		t.Errorf("without a secret: %d %s", r.status, r.body)
	}
	if w.bitbucket.calls != 0 || w.Int(`SELECT count(*) FROM trakr.audit_events`) != 0 {
		t.Error("a payload that cannot be read reached Bitbucket or the audit")
	}
}

func TestASourceThatFailsTooOftenHasToWait(t *testing.T) {
	w := newWorld(t)
	x := invent("flood")
	w.install(x)
	limited := 0
	for range 80 {
		r := w.deliver(uninstalled, w.sign(x, uninstalled, "wrong"), x.body("uninstalled", ""))
		if r.status == http.StatusTooManyRequests && r.header.Get("Retry-After") != "" {
			limited++
		}
	}
	if limited != 20 {
		t.Errorf("%d of 80 wrong attempts were limited, want the last 20", limited)
	}
	w.Clock.Add(time.Minute)
	if r := w.deliver(uninstalled, w.sign(x, uninstalled, x.secret), x.body("uninstalled", "")); r.status != http.StatusNoContent {
		t.Errorf("after a minute: %d %s", r.status, r.body)
	}
}
