package httpapi_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"trakr/internal/connect"
	"trakr/internal/lifecycle"
)

const (
	installed   = connect.InstalledPath
	uninstalled = connect.UninstalledPath
)

// state is what the registry says of a tenant.
func (w *world) state(id string) string {
	w.T.Helper()
	for _, s := range []string{"live", "erased"} {
		if w.Int(`SELECT count(*) FROM trakr.tenants WHERE tenant_id = $1 AND state = $2`, id, s) == 1 {
			return s
		}
	}
	return "unknown"
}

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
	id := w.install(x)
	w.Clock.Add(10 * time.Second)
	first := w.sign(x, installed, x.secret)
	if r := w.deliver(installed, first, x.body("installed", x.secret)); r.status != http.StatusNoContent {
		t.Fatalf("signed re-install: %d %s", r.status, r.body)
	}
	before := w.fingerprint()
	if r := w.deliver(installed, first, x.body("installed", "replayed-secret")); r.status != http.StatusNoContent || w.fingerprint() != before {
		t.Errorf("a replay: %d, changed=%v", r.status, w.fingerprint() != before)
	}
	// The secret is as before, so only the iat tells that this uninstall is of
	// the install before: one second is enough.
	second := func(c *connect.Claims) { c.IssuedAt = c.IssuedAt.Add(-time.Second) }
	if r := w.deliver(uninstalled, w.sign(x, uninstalled, x.secret, second), x.body("uninstalled", "")); r.status != http.StatusNoContent || w.fingerprint() != before {
		t.Errorf("a late uninstall of the install before: %d, changed=%v", r.status, w.fingerprint() != before)
	}
	if r := w.deliver(uninstalled, w.sign(x, uninstalled, x.secret), x.body("uninstalled", "")); r.status != http.StatusNoContent || w.state(id) != "erased" {
		t.Errorf("the uninstall of the same second: %d, %s", r.status, w.state(id))
	}
}

func TestAnUninstallUnderANewSecretIsNotLostToClocks(t *testing.T) {
	w := newWorld(t)
	x := invent("rotate")
	id := w.install(x)
	w.Clock.Add(time.Minute)
	late := w.sign(x, uninstalled, x.secret)
	w.Clock.Add(time.Second)
	if r := w.deliver(installed, w.sign(x, installed, x.secret), x.body("installed", "new-secret")); r.status != http.StatusNoContent {
		t.Fatalf("re-install with a new secret: %d %s", r.status, r.body)
	}
	before := w.fingerprint()
	// The uninstall of the install before is signed with the secret of before.
	if r := w.deliver(uninstalled, late, x.body("uninstalled", "")); r.status != http.StatusUnauthorized || w.fingerprint() != before {
		t.Errorf("a late uninstall under the old secret: %d, changed=%v", r.status, w.fingerprint() != before)
	}
	old := func(c *connect.Claims) {
		c.IssuedAt, c.ExpiresAt = c.IssuedAt.Add(-31*time.Second), c.ExpiresAt.Add(-31*time.Second)
	}
	if r := w.deliver(uninstalled, w.sign(x, uninstalled, "new-secret", old), x.body("uninstalled", "")); r.status != http.StatusNoContent || w.fingerprint() != before {
		t.Errorf("an uninstall older than any clock explains: %d, changed=%v", r.status, w.fingerprint() != before)
	}
	// Under the new secret it can only be of after: the clock that dated it runs behind.
	behind := func(c *connect.Claims) { c.IssuedAt = c.IssuedAt.Add(-30 * time.Second) }
	if r := w.deliver(uninstalled, w.sign(x, uninstalled, "new-secret", behind), x.body("uninstalled", "")); r.status != http.StatusNoContent || w.state(id) != "erased" {
		t.Errorf("a real uninstall, dated by a slow clock: %d, %s", r.status, w.state(id))
	}
}

func TestAnIatInTheFutureDoesNotLockTheUninstallOut(t *testing.T) {
	w := newWorld(t)
	x := invent("future")
	id := w.install(x)
	w.Clock.Add(10 * time.Second)
	ahead := func(c *connect.Claims) { c.IssuedAt = c.IssuedAt.Add(25 * time.Second) }
	if r := w.deliver(installed, w.sign(x, installed, x.secret, ahead), x.body("installed", x.secret)); r.status != http.StatusNoContent {
		t.Fatalf("re-install: %d %s", r.status, r.body)
	}
	w.Clock.Add(time.Second)
	if r := w.deliver(uninstalled, w.sign(x, uninstalled, x.secret), x.body("uninstalled", "")); r.status != http.StatusNoContent || w.state(id) != "erased" {
		t.Errorf("the uninstall a second later: %d, the tenant is %s", r.status, w.state(id))
	}
}

func TestACapturedTokenActsOnceInWhateverForm(t *testing.T) {
	w := newWorld(t)
	x := invent("newline")
	id := w.install(x)
	w.Clock.Add(10 * time.Second)
	token := w.sign(x, installed, x.secret)
	query := func(path, text, body string) reply { return w.deliver(path+"?jwt="+text, "", body) }
	unused := w.sign(x, installed, x.secret, func(c *connect.Claims) { c.IssuedAt = c.IssuedAt.Add(time.Second) })
	if r := w.deliver(installed, token, x.body("installed", x.secret)); r.status != http.StatusNoContent {
		t.Fatalf("re-install: %d %s", r.status, r.body)
	}
	before := w.fingerprint()
	for name, r := range map[string]reply{
		"with a newline":              query(installed, token+"%0A", x.body("installed", "attacker")),
		"with CR LF":                  query(installed, token+"%0D%0A", x.body("installed", "attacker")),
		"as it is, in the query":      query(installed, token, x.body("installed", "attacker")),
		"one never used, in a query":  query(installed, unused, x.body("installed", "attacker")),
		"the same with another param": w.deliver(installed+"?a=1&jwt="+unused, "", x.body("installed", "attacker")),
	} {
		if r.status != http.StatusUnauthorized || w.fingerprint() != before {
			t.Errorf("%s: %d, changed=%v", name, r.status, w.fingerprint() != before)
		}
	}
	w.Clock.Add(10 * time.Second)
	token = w.sign(x, uninstalled, x.secret)
	if r := w.deliver(uninstalled, token, x.body("uninstalled", "")); r.status != http.StatusNoContent || w.state(id) != "erased" {
		t.Fatalf("uninstall: %d, %s", r.status, w.state(id))
	}
	w.Clock.Add(10 * time.Second)
	again := w.install(x) // with the same secret
	for name, r := range map[string]reply{"as it is": w.deliver(uninstalled, token, x.body("uninstalled", "")),
		"with a newline": query(uninstalled, token+"%0A", x.body("uninstalled", ""))} {
		if w.state(again) != "live" {
			t.Errorf("the uninstall before, %s, erased the re-installed tenant (%d)", name, r.status)
		}
	}
}

func TestACapturedInstallDoesNotBringAnErasedTenantBack(t *testing.T) {
	w := newWorld(t)
	x := invent("lazarus")
	w.install(x)
	w.Clock.Add(10 * time.Second)
	used, body := w.sign(x, installed, x.secret), x.body("installed", x.secret)
	if r := w.deliver(installed, used, body); r.status != http.StatusNoContent {
		t.Fatalf("re-install: %d %s", r.status, r.body)
	}
	w.Clock.Add(10 * time.Second)
	at := w.Clock.Now()
	if r := w.deliver(uninstalled, w.sign(x, uninstalled, x.secret), x.body("uninstalled", "")); r.status != http.StatusNoContent {
		t.Fatalf("uninstall: %d %s", r.status, r.body)
	}
	w.Clock.Add(10 * time.Second)
	live := func() int64 { return w.Int(`SELECT count(*) FROM trakr.tenants WHERE state = 'live'`) }
	dated := func(iat time.Time) string {
		return w.sign(x, installed, x.secret, func(c *connect.Claims) { c.IssuedAt, c.ExpiresAt = iat, iat.Add(time.Hour) })
	}
	calls := w.bitbucket.calls
	if r := w.deliver(installed, used, body); r.status != http.StatusNoContent || live() != 0 || w.bitbucket.calls != calls {
		t.Errorf("a token acted upon before: %d, %d live, %d calls", r.status, live(), w.bitbucket.calls-calls)
	}
	// Bitbucket's API still confirms the secret; the order alone tells.
	for name, iat := range map[string]time.Time{"of before the uninstall": at.Add(-5 * time.Second), "of a second before": at.Add(-time.Second)} {
		if r := w.deliver(installed, dated(iat), body); r.status != http.StatusUnauthorized || live() != 0 {
			t.Errorf("an install %s: %d, %d live", name, r.status, live())
		}
	}
	if n := w.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'tenant.install' AND outcome = 'denied' AND status_detail = 'stale'`); n != 2 {
		t.Errorf("%d stale installs are recorded, want 2", n)
	}
	if r := w.deliver(installed, dated(at), body); r.status != http.StatusNoContent || live() != 1 {
		t.Errorf("a re-install of the same second, which only the proof can judge: %d, %d live", r.status, live())
	}
}

func TestReplaysAreRecordedOnce(t *testing.T) {
	w := newWorld(t)
	x := invent("grow")
	w.install(x)
	w.Clock.Add(10 * time.Second)
	token := w.sign(x, installed, x.secret)
	w.deliver(installed, token, x.body("installed", x.secret))
	before := w.Int(`SELECT count(*) FROM trakr.audit_events`)
	for range 100 {
		if r := w.deliver(installed, token, x.body("installed", "x")); r.status != http.StatusNoContent {
			t.Fatalf("a replay: %d", r.status)
		}
		w.Clock.Add(time.Second)
	}
	if n := w.Int(`SELECT count(*) FROM trakr.audit_events`) - before; n != 1 {
		t.Errorf("100 replays of one token left %d events, want 1", n)
	}
	if n := w.Int(`SELECT count(*) FROM trakr.audit_events WHERE status_detail = 'replayed' AND outcome = 'denied' AND tenant_id IS NOT NULL`); n != 1 {
		t.Errorf("%d denied replays are recorded", n)
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
	x, before := invent("limit"), len(w.Events()) // the ledger was bound
	if r := w.deliver(installed, "", `{"x":"`+strings.Repeat("limit", 14000)+`"}`); r.status != http.StatusRequestEntityTooLarge || r.kind() != "payload-too-large" {
		t.Errorf("70 KB: %d %s", r.status, r.body)
	}
	r := w.deliver(installed, "", strings.Replace(x.body("installed", x.secret), `"sharedSecret"`, `"sharedSecrets"`, 1))
	if r.status != http.StatusBadRequest || r.kind() != "payload-invalid" || !strings.Contains(r.body, `"/sharedSecret"`) || strings.Contains(r.body, "limit") {
		t.Errorf("without a secret: %d %s", r.status, r.body)
	}
	if n := w.Int(`SELECT count(*) FROM trakr.audit_events`); w.bitbucket.calls != 0 || n != int64(before) {
		t.Errorf("a payload that cannot be read reached Bitbucket (%d calls) or the audit (%d events)", w.bitbucket.calls, n)
	}
}

// failTooOften makes this test's address one that has failed too often.
func (w *world) failTooOften(x *workspace) {
	w.T.Helper()
	for range 60 {
		if r := w.deliver(uninstalled, w.sign(x, uninstalled, "wrong"), x.body("uninstalled", "")); r.status != http.StatusUnauthorized {
			w.T.Fatalf("a bad signature: %d", r.status)
		}
	}
}

func TestBeyondTheLimitOnlyWhatIsProvenActs(t *testing.T) {
	w := newWorld(t)
	x, y := invent("flood"), invent("unheld")
	id := w.install(x)
	w.Clock.Add(10 * time.Second)
	for range 80 { // a webhook's deliveries to the wrong address cost nothing and count as nothing
		w.deliver(installed, "", `{"push":{"changes":[]}}`)
	}
	w.failTooOften(x)
	before := w.Int(`SELECT count(*) FROM trakr.audit_events`)
	calls := w.bitbucket.calls
	wrong := func(x *workspace, path string) reply {
		event := strings.TrimPrefix(path, "/connect/")
		return w.deliver(path, w.sign(x, path, "wrong"), x.body(event, "evil"))
	}
	var wg sync.WaitGroup
	for name, attempt := range map[string]func() reply{
		"a bad signature":                 func() reply { return wrong(x, uninstalled) },
		"another":                         func() reply { return wrong(x, uninstalled) },
		"an install with a bad signature": func() reply { return wrong(x, installed) },
		"a tenant that is not held":       func() reply { return wrong(y, uninstalled) },
		"a first install, signed":         func() reply { return wrong(y, installed) },
		"an unsigned install of one held": func() reply { return w.deliver(installed, "", x.body("installed", "evil")) },
		"an unsigned first install":       func() reply { return w.deliver(installed, "", y.body("installed", "evil")) },
		"tenant A's token, tenant B's body": func() reply {
			return w.deliver(uninstalled, w.sign(x, uninstalled, x.secret), y.body("uninstalled", ""))
		},
	} {
		wg.Go(func() {
			if r := attempt(); r.status != http.StatusTooManyRequests || r.header.Get("Retry-After") == "" {
				t.Errorf("%s: %d %s", name, r.status, r.body)
			}
		})
	}
	wg.Wait()
	if w.bitbucket.calls != calls {
		t.Error("Bitbucket was asked for a source beyond its limit")
	}
	// One read of the secret for all who waited (two when a round began between
	// them), and one summary each for the tenant held and for all that are not.
	if n := w.Int(`SELECT count(*) FROM trakr.audit_events WHERE status_detail LIKE 'limited%' AND outcome = 'denied'`); n != 2 {
		t.Errorf("%d summaries, want 2", n)
	}
	if n := w.Int(`SELECT count(*) FROM trakr.audit_events`) - before; n > 4 {
		t.Errorf("8 attempts beyond the limit left %d events", n)
	}
	w.Clock.Add(time.Minute) // as a minute gives tokens back, use them up again
	for range 30 {
		wrong(x, uninstalled)
	}
	wrong(x, uninstalled)
	if n := w.Int(`SELECT count(*) FROM trakr.audit_events WHERE status_detail = 'limited 3' AND tenant_id = $1`, id); n != 1 {
		t.Error("the next minute's summary does not say how many were left out")
	}
	// Bitbucket shares the address. Its uninstall is sent once.
	if r := w.deliver(uninstalled, w.sign(x, uninstalled, x.secret), x.body("uninstalled", "")); r.status != http.StatusNoContent || w.state(id) != "erased" {
		t.Fatalf("a valid uninstall: %d %s, the tenant is %s", r.status, r.body, w.state(id))
	}
}

func TestParallelFailuresDoNotPassTheLimit(t *testing.T) {
	w := newWorld(t)
	x := invent("race")
	id := w.install(x)
	w.Clock.Add(10 * time.Second)
	before := w.Int(`SELECT count(*) FROM trakr.audit_events`)
	client := &http.Transport{MaxIdleConnsPerHost: 100}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	var refused, limited, valid atomic.Int64
	for i := range 100 {
		wg.Go(func() {
			secret := "wrong"
			if i == 80 {
				secret = x.secret // Bitbucket's own, in the middle of it all
			}
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, w.public.URL+uninstalled, strings.NewReader(x.body("uninstalled", "")))
			req.Header.Set("Authorization", "JWT "+w.sign(x, uninstalled, secret))
			resp, err := client.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = resp.Body.Close() }()
			switch resp.StatusCode {
			case http.StatusUnauthorized:
				refused.Add(1)
			case http.StatusTooManyRequests:
				limited.Add(1)
			case http.StatusNoContent:
				valid.Add(1)
			default:
				t.Errorf("answered %d", resp.StatusCode)
			}
		})
	}
	wg.Wait()
	if refused.Load() > 60 || valid.Load() != 1 || w.state(id) != "erased" {
		t.Errorf("%d refused, %d limited, %d valid; the tenant is %s", refused.Load(), limited.Load(), valid.Load(), w.state(id))
	}
	if n := w.Int(`SELECT count(*) FROM trakr.audit_events`) - before; n > 3*60+20 {
		t.Errorf("100 parallel attempts left %d events", n)
	}
}

func TestASenderThatHangsUpUndoesNothing(t *testing.T) {
	for name, c := range map[string]struct{ lock, secret, want string }{
		"a verified uninstall":  {`LOCK TABLE trakr.erasures IN EXCLUSIVE MODE`, "", `SELECT count(*) FROM trakr.tenants WHERE state = 'erased'`},
		"the trace of a denial": {`LOCK TABLE trakr.audit_events IN EXCLUSIVE MODE`, "wrong", `SELECT count(*) FROM trakr.audit_events WHERE outcome = 'denied' AND status_detail = 'signature'`},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			x := invent("hang")
			w.install(x)
			w.Clock.Add(10 * time.Second)
			if c.secret == "" {
				c.secret = x.secret
			}
			token := w.sign(x, uninstalled, c.secret)
			release, err := w.Hold(c.lock)
			if err != nil {
				t.Fatal(err)
			}
			ctx, hangUp := context.WithCancel(t.Context())
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, w.public.URL+uninstalled, strings.NewReader(x.body("uninstalled", "")))
			req.Header.Set("Authorization", "JWT "+token)
			gone := make(chan error, 1)
			go func() {
				_, err := http.DefaultTransport.RoundTrip(req)
				gone <- err
			}()
			waiting := `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
			eventually(t, "the callback waits for the lock", func() bool { return w.Int(waiting) > 0 })
			hangUp()
			if err := <-gone; err == nil {
				t.Fatal("the request was answered before it hung up")
			}
			time.Sleep(100 * time.Millisecond) // the server learns of it
			release()
			eventually(t, "what was begun is done", func() bool { return w.Int(c.want) == 1 })
		})
	}
}

// eventually waits for a condition that others bring about.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come about: " + what)
		}
	}
}

func TestAnUnknownTenantCostsWhatABadSignatureCosts(t *testing.T) {
	w := newWorld(t)
	held, stranger := invent("held"), invent("none")
	w.install(held)
	trace := func(x *workspace) (actions []string) {
		before := len(w.Events())
		w.deliver(uninstalled, w.sign(x, uninstalled, "wrong"), x.body("uninstalled", ""))
		for _, e := range w.Events()[before:] {
			actions = append(actions, string(e.Action))
		}
		return actions
	}
	if a, b := trace(held), trace(stranger); len(a) != 3 || !slices.Equal(a, b) {
		t.Errorf("a bad signature commits %v, an unknown tenant %v", a, b)
	}
}

func TestKeyNamesOfAnUnprovenSenderAreNotRecorded(t *testing.T) {
	w := newWorld(t)
	x := invent("names")
	w.install(x)
	w.Clock.Add(10 * time.Second)
	body := func(event, secret string) string {
		return strings.Replace(x.body(event, secret), `"productType"`, `"jane_doe_example":1,"productType"`, 1)
	}
	recorded := func() int64 {
		return w.Int(`SELECT count(*) FROM trakr.audit_events WHERE convert_from(record, 'UTF8') LIKE '%jane_doe_example%'`)
	}
	w.deliver(uninstalled, w.sign(x, uninstalled, "wrong"), body("uninstalled", ""))
	w.deliver(installed, "", body("installed", "evil"))
	stranger := *x
	stranger.uuid = "0a1b2c3d-0000-4000-8000-00000000a001"
	w.deliver(installed, "", strings.ReplaceAll(body("installed", "evil"), x.uuid, stranger.uuid))
	w.deliver(uninstalled, w.sign(x, uninstalled, x.secret), strings.ReplaceAll(body("uninstalled", ""), x.uuid, stranger.uuid))
	if n := recorded(); n != 0 {
		t.Errorf("%d events hold a key that an unproven sender made up", n)
	}
	w.deliver(installed, w.sign(x, installed, x.secret), body("installed", x.secret))
	if n := recorded(); n != 1 {
		t.Errorf("%d events name the key of the proven callback, want 1", n)
	}
}

func TestABrokenCallbackSaysWhyInTheLog(t *testing.T) {
	w := newWorld(t)
	x := invent("broke")
	w.install(x)
	w.Clock.Add(10 * time.Second)
	w.Exec(`ALTER TABLE trakr.erasures RENAME TO gone`)
	r := w.deliver(uninstalled, w.sign(x, uninstalled, x.secret), x.body("uninstalled", ""))
	if r.status != http.StatusInternalServerError || strings.Contains(r.body, "42P01") {
		t.Fatalf("answered %d %s", r.status, r.body)
	}
	if log := w.log.String(); !strings.Contains(log, "SQLSTATE 42P01") || strings.Contains(log, x.uuid) {
		t.Errorf("the log does not say why, or says of whom:\n%s", log)
	}
}
