package httpapi_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/census"
	"trakr/internal/sweep"
	"trakr/policy"
)

// switchOff is a policy with fields off.
func switchOff(fields ...lifecycle.Field) func(*policy.Policy) {
	return func(p *policy.Policy) {
		for i, f := range p.Fields {
			p.Fields[i].Off = slices.Contains(fields, f.Name)
		}
	}
}

// A customer over-shares, and the policy has the username and the avatar off: from
// the install to the uninstall neither they nor the surplus come to lie anywhere.
func TestAFieldThatIsOffComesToLieNowhere(t *testing.T) {
	w := newWorld(t, switchOff(lifecycle.Username, lifecycle.AvatarURL))
	x := invent("zqmarkerzq")
	x.username, x.avatar = "zquserzq", "https://bitbucket.org/account/zqavatarzq/avatar/"
	id := w.install(x)
	service, reviewer := w.token(lifecycle.RoleService), w.token(lifecycle.RoleReviewer)
	why := map[string]string{"code": "service_operation"}
	read := func(fields ...string) reply {
		return w.call(http.MethodPost, "/v1/tenants/"+id+"/reads", service, map[string]any{"fields": fields, "reason": why})
	}
	for _, f := range []string{"username", "avatar_url"} {
		if r := read("client_key", f); r.status != http.StatusUnprocessableEntity || r.kind() != "field-not-allowed" || !strings.Contains(r.body, "/fields/1") || !strings.Contains(r.body, "not kept") {
			t.Errorf("reading %s: %d %s", f, r.status, r.body)
		}
	}
	if r := read("client_key", "principal_uuid"); r.status != http.StatusOK || !strings.Contains(r.body, x.uuid) {
		t.Errorf("reading the others: %d %s", r.status, r.body)
	}
	w.Clock.Add(2 * time.Second)
	if r := w.deliver(installed, w.sign(x, installed, x.secret), x.body("installed", x.secret)); r.status != http.StatusNoContent {
		t.Errorf("installed again: %d %s", r.status, r.body)
	}
	if n := w.Int(`SELECT count(*) FROM trakr.tenant_fields WHERE username IS NOT NULL OR avatar_url IS NOT NULL`); n != 0 {
		t.Error("a value of a field that is off is stored")
	}
	if n := w.Int(`SELECT count(*) FROM trakr.audit_events WHERE action IN ('tenant.install', 'tenant.update') AND dropped_names @> ARRAY['principal.username', 'principal.links.avatar.href', 'principal.email', 'principal.phone']
		AND field_names = ARRAY['client_key', 'shared_secret', 'principal_uuid']`); n != 2 {
		t.Error("the audit does not say what was written and what was left out")
	}
	// Of what was left out, only what nobody declared is a finding.
	found, err := sweep.NewMinimisation(census.New(w.DB), w.Policy).Look(t.Context(), sweep.Order{Now: w.Clock.Now()})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, c := range found.Checks {
		if name, ok := strings.CutPrefix(c.Column, "payload key "); ok && c.Found() {
			keys = append(keys, name)
		}
	}
	if slices.Sort(keys); !slices.Equal(keys, []string{"other", "principal.email", "principal.phone"}) {
		t.Errorf("payload members never seen before: %v", keys)
	}

	var places string
	for _, path := range []string{"/v1/audit/export?format=ndjson", "/v1/reports/location?format=html", "/v1/reports/retention?format=json", "/v1/policy"} {
		places += w.call(http.MethodGet, path, reviewer, nil).body
	}
	if !strings.Contains(places, "not kept: switched off") || !strings.Contains(places, "Not applicable: the policy switches username and avatar_url off") {
		t.Error("the report does not say that they are off, and what follows")
	}
	lie := map[string][]byte{"dump": w.Dump(), "log": []byte(w.log.String()), "evidence": []byte(places)}
	for what, where := range search(lie, map[string]string{"username": x.username, "avatar": "zqavatarzq", "surplus": x.mark}) {
		t.Errorf("the %s lies in %v", what, where)
	}
	w.Clock.Add(2 * time.Second)
	if r := w.deliver(uninstalled, w.sign(x, uninstalled, x.secret), x.body("uninstalled", "")); r.status != http.StatusNoContent {
		t.Errorf("uninstall: %d %s", r.status, r.body)
	}
	if n := w.Int(`SELECT count(*) FROM trakr.tenant_fields`); n != 0 {
		t.Error("the uninstall left a row")
	}
}
