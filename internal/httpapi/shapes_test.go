package httpapi_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/census"
	"trakr/internal/store/findings"
	"trakr/internal/sweep"
	"trakr/internal/sweep/sweeptest"
	"trakr/policy"
)

// minimise runs the sweep that a reader relies on.
func (w *world) minimise() findings.Run {
	w.T.Helper()
	r, err := sweep.New(w.DB, w.Policy, w.Clock.Now, slog.New(slog.DiscardHandler), sweeptest.Fill(w.Policy, sweep.NewMinimisation(census.New(w.DB), w.Policy))...)
	if err != nil {
		w.T.Fatal(err)
	}
	run, err := r.RunOnce(w.T.Context(), lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "test", Role: lifecycle.RoleScheduler},
		Reason: lifecycle.Reason{Code: lifecycle.SystemSweep}, RequestID: "req-test"}, sweep.Minimisation, sweep.ByCommand)
	if err != nil {
		w.T.Fatal(err)
	}
	return run
}

// whatTheHarnessShares are members of its payloads that Bitbucket never sent.
func whatTheHarnessShares(p *policy.Policy) {
	p.KnownPayloadKeys = append(p.KnownPayloadKeys, "other", "principal.email", "principal.phone")
}

// An e-mail address or a telephone number in the place of what names an installation:
// the install is refused, nobody is asked about it, and it comes to lie nowhere.
func TestAnInstallNamedByContactDataIsRefused(t *testing.T) {
	w := newWorld(t, whatTheHarnessShares)
	const mail, phone = "zqmarkerzq.smith@example.com", "+44 20 7946 0958"
	for name, c := range map[string]struct{ pointer, value string }{
		"an e-mail address as the client key":      {"/clientKey", mail},
		"a telephone number as the client key":     {"/clientKey", phone},
		"an encoded address in a longer key":       {"/clientKey", "connection:" + strings.Replace(mail, "@", "%40", 1)},
		"an e-mail address as the workspace's id":  {"/principal/uuid", mail},
		"a telephone number as the workspace's id": {"/principal/uuid", phone},
		"an e-mail address as the shared secret":   {"/sharedSecret", mail},
	} {
		x := invent("harmless")
		switch c.pointer {
		case "/clientKey":
			x.key = c.value
		case "/principal/uuid":
			x.key, x.uuid = "connection:7", c.value
		case "/sharedSecret":
			x.secret = c.value
		}
		w.bitbucket.set(func(f *fakeBitbucket) { f.secrets[x.uuid] = x.secret })
		r := w.deliver(installed, "", x.body("installed", x.secret))
		var problem struct {
			Errors []struct{ Pointer, Detail string }
		}
		if err := json.Unmarshal([]byte(r.body), &problem); err != nil || r.status != http.StatusBadRequest || r.kind() != "payload-invalid" || len(problem.Errors) != 1 || problem.Errors[0].Pointer != c.pointer {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		} else if d := problem.Errors[0].Detail; c.pointer == "/clientKey" && !strings.Contains(d, "shaped like an e-mail address or a telephone number") {
			t.Errorf("%s: the answer does not say what is wrong: %s", name, d)
		}
		for what := range search(map[string][]byte{"answer": []byte(r.body), "headers": fmt.Append(nil, r.header)}, marks) {
			t.Errorf("%s: the answer repeats the %s", name, what)
		}
	}
	if n := w.Int(`SELECT (SELECT count(*) FROM trakr.tenants) + (SELECT count(*) FROM trakr.tenant_fields) + (SELECT count(*) FROM trakr.outbox)`); n != 0 || w.bitbucket.calls != 0 {
		t.Errorf("%d rows, %d calls to Bitbucket", n, w.bitbucket.calls)
	}
	if !strings.Contains(w.log.String(), "contact-data") {
		t.Error("the log does not tell the operator why")
	}
	for what, where := range search(map[string][]byte{"dump": w.Dump(), "log": []byte(w.log.String())}, marks) {
		t.Errorf("the %s lies in %v", what, where)
	}
}

// marks are the parts of the invented contact data that stand nowhere else.
var marks = map[string]string{"e-mail address": "zqmarkerzq", "telephone number": "7946 0958", "telephone number in one piece": "2079460958"}

// What an installation can do without is left out, and the operator sees its name.
func TestAUsernameOrAvatarThatIsContactDataIsLeftOut(t *testing.T) {
	w := newWorld(t, whatTheHarnessShares)
	reviewer, service := w.token(lifecycle.RoleReviewer), w.token(lifecycle.RoleService)
	values := func(id string) (out struct {
		Fields map[string]string `json:"fields"`
	}) {
		t.Helper()
		r := w.call(http.MethodPost, "/v1/tenants/"+id+"/reads", service, map[string]any{"fields": []string{"client_key", "username", "avatar_url"}, "reason": map[string]string{"code": "service_operation"}})
		if err := json.Unmarshal([]byte(r.body), &out); err != nil || r.status != http.StatusOK {
			t.Fatalf("%d %s", r.status, r.body)
		}
		return out
	}
	for name, c := range map[string]struct{ username, avatar string }{
		"e-mail addresses":      {"zqmarkerzq.smith@example.com", "https://avatars.example.net/u/zqmarkerzq.smith%40example.com/32.png"},
		"telephone numbers":     {"+44 20 7946 0958", "https://avatars.example.net/u/%2B442079460958.png"},
		"a query and a number":  {"212-555-0958", "https://avatars.example.net/u?of=zqmarkerzq@example.com"},
		"a gravatar and a line": {"020 7946 0958", "https://secure.gravatar.com/avatar/zqmarkerzq"},
	} {
		x := invent("harmless")
		id := w.install(x) // first with values that may stay
		if v := values(id).Fields; v["username"] != x.username || v["avatar_url"] != x.avatar {
			t.Fatalf("%s: %v", name, v)
		}
		x.username, x.avatar = c.username, c.avatar
		w.Clock.Add(2 * time.Second)
		if r := w.deliver(installed, w.sign(x, installed, x.secret), x.body("installed", x.secret)); r.status != http.StatusNoContent {
			t.Fatalf("%s: installed again: %d %s", name, r.status, r.body)
		}
		y := invent("harmless")
		y.username, y.avatar = c.username, c.avatar
		for _, id := range []string{id, w.install(y)} {
			if v := values(id).Fields; v["username"] != "" || v["avatar_url"] != "" || v["client_key"] == "" {
				t.Errorf("%s: kept %v", name, v)
			}
			if n := w.Int(`SELECT count(*) FROM trakr.tenant_fields WHERE tenant_id = $1 AND username IS NULL AND avatar_url IS NULL`, id); n != 1 {
				t.Errorf("%s: a value is stored", name)
			}
			// The newest event of the tenant that came with a payload.
			told := ""
			for line := range strings.Lines(w.call(http.MethodGet, "/v1/audit/export?format=ndjson", reviewer, nil).body) {
				if strings.Contains(line, id) && (strings.Contains(line, `"tenant.install"`) || strings.Contains(line, `"tenant.update"`)) {
					told = line
				}
			}
			var event struct {
				FieldNames   []string `json:"field_names"`
				DroppedNames []string `json:"dropped_names"`
			}
			if err := json.Unmarshal([]byte(told), &event); err != nil || !slices.Equal(event.FieldNames, []string{"client_key", "shared_secret", "principal_uuid"}) ||
				!slices.Contains(event.DroppedNames, "principal.username") || !slices.Contains(event.DroppedNames, "principal.links.avatar.href") {
				t.Errorf("%s: the operator is told %v, %+v", name, err, event)
			}
		}
	}
	run := w.minimise()
	if run.Result != findings.Clean {
		t.Errorf("%s: %+v", run.Result, run.Findings)
	}
	evidence := ""
	for _, path := range []string{"/v1/audit/export?format=ndjson", "/v1/audit/export?format=csv", "/v1/sweeps"} {
		evidence += w.call(http.MethodGet, path, reviewer, nil).body
	}
	if n := strings.Count(evidence, `"not_searched"`); n != 6 {
		t.Errorf("the evidence says of %d columns that they are sealed", n)
	}
	places := w.places(w.log)
	places["evidence"] = []byte(evidence)
	for what, where := range search(places, marks) {
		t.Errorf("the %s lies in %v", what, where)
	}
}

// Digits make no telephone number.
func TestNumericNamesAreKept(t *testing.T) {
	w := newWorld(t)
	service := w.token(lifecycle.RoleService)
	for _, c := range []struct{ key, username, avatar string }{
		{"", "12345678901", "https://bitbucket.org/account/12345678901/avatar/"},
		{"connection:12345678901", "0123456789", "https://avatars.example.net/2026/11/25/0123456789.png"},
		{"connection:1", "2026-11-25", "https://avatars.example.net/557058:01920123-4567-4890-8123-456789012345/128"},
		{"connection:2", "01920123-4567-4890-8123-456789012345", "https://bytebucket.org/ravatar/%7B01920123-4567-4890-8123-456789012345%7D"},
	} {
		x := invent("harmless")
		x.key, x.username, x.avatar = c.key, c.username, c.avatar
		r := w.call(http.MethodPost, "/v1/tenants/"+w.install(x)+"/reads", service, map[string]any{"fields": []string{"client_key", "username", "avatar_url"}, "reason": map[string]string{"code": "service_operation"}})
		for _, v := range []string{x.clientKey(), x.username, x.avatar} {
			if !strings.Contains(r.body, `"`+v+`"`) {
				t.Errorf("%s was not kept: %s", v, r.body)
			}
		}
	}
}

// A tenant of a version that did not judge yet must still be able to leave.
func TestATenantNamedByContactDataCanStillUninstall(t *testing.T) {
	w := newWorld(t)
	x := invent("harmless")
	x.key = "zqmarkerzq.smith@example.com"
	id := w.Install(lifecycle.Values{lifecycle.ClientKey: lifecycle.NewSecret(x.key), lifecycle.SharedSecret: lifecycle.NewSecret(x.secret), lifecycle.PrincipalUUID: lifecycle.NewSecret(x.uuid)}, "before")
	w.Clock.Add(2 * time.Second)
	if r := w.deliver(installed, w.sign(x, installed, x.secret), x.body("installed", x.secret)); r.status != http.StatusBadRequest {
		t.Errorf("installed again: %d %s", r.status, r.body)
	}
	if r := w.deliver(uninstalled, w.sign(x, uninstalled, x.secret), x.body("uninstalled", "")); r.status != http.StatusNoContent {
		t.Errorf("uninstalled: %d %s", r.status, r.body)
	}
	if n := w.Int(`SELECT count(*) FROM trakr.tenant_fields WHERE tenant_id = $1`, id.String()); n != 0 {
		t.Error("the tenant is still there")
	}
}
