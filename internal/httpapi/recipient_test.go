package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"trakr/internal/egress"
	"trakr/internal/lifecycle"
	"trakr/internal/proof/certificate"
	"trakr/internal/store/outbox"
	"trakr/internal/store/storetest"
)

// told lets the end service take whatever is due.
func (w *world) told(o *outbox.Store, g *egress.Guard) int {
	w.T.Helper()
	a := lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "end service", Role: lifecycle.RoleScheduler}, Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation}}
	due, err := o.Due(w.T.Context(), w.Clock.Now(), 10)
	if err != nil {
		w.T.Fatal(err)
	}
	for _, d := range due {
		if _, err := o.Open(w.T.Context(), a, d, g, "api.trakr.example.com"); err != nil {
			w.T.Fatal(err)
		}
		d.Attempts++
		if err := o.Acknowledge(w.T.Context(), a, d, "api.trakr.example.com"); err != nil {
			w.T.Fatal(err)
		}
	}
	return len(due)
}

// announcingWorld is a world whose door announces to the end service.
func announcingWorld(t *testing.T, e *storetest.Env) (*world, *outbox.Store, *egress.Guard) {
	t.Helper()
	g, err := egress.New(e.Policy, lifecycle.ToEndService, "https://trakr.example.com")
	if err != nil {
		t.Fatal(err)
	}
	o := e.AnnounceTo(g)
	return worldOf(t, e), o, g
}

// The end service knows of the tenant and is out: the values go at once, and the
// request is completed when it acknowledged.
func TestADeletionRequestWaitsForTheEndService(t *testing.T) {
	w, o, g := announcingWorld(t, storetest.New(t))
	w.Clock.Add(-24 * time.Hour) // the database refuses a move at a time to come
	x := invent("waitforit")
	tenant := w.install(x)
	if w.told(o, g) != 1 {
		t.Fatal("the install was not told")
	}
	r := w.ask(w.token(lifecycle.RoleSupport), x).shown(t, http.StatusCreated, "awaiting_approval")
	at := asked + "/" + r.RequestID
	w.call(http.MethodPost, at+"/approve", w.token(lifecycle.RoleOperator), nil).shown(t, http.StatusOK, "approved")
	support := w.pass(time.Hour)
	w.call(http.MethodGet, at, support, nil).shown(t, http.StatusOK, "awaiting_recipient")
	support = w.pass(time.Hour)
	w.call(http.MethodGet, at, support, nil).shown(t, http.StatusOK, "awaiting_recipient")
	if n := w.Int(`SELECT count(*) FROM trakr.tenant_fields WHERE tenant_id = $1`, tenant); n != 0 {
		t.Error("the values wait for the end service")
	}
	w.call(http.MethodGet, at+"/certificate", support, nil).refused(t, http.StatusNotFound, "not-found")
	var found struct{ State string }
	if l := w.call(http.MethodPost, "/v1/erasures/lookup", support, map[string]any{"client_key": x.clientKey(), "reason": map[string]string{"code": "customer_initiated_support", "ref": "SUP-42"}}); json.Unmarshal([]byte(l.body), &found) != nil || found.State != "awaiting_recipient" {
		t.Errorf("the erasure says %d %s", l.status, l.body)
	}

	if w.told(o, g) != 1 {
		t.Fatal("the notice was not told")
	}
	support = w.pass(time.Minute)
	done := w.call(http.MethodGet, at, support, nil).shown(t, http.StatusOK, "completed")
	c := w.call(http.MethodGet, at+"/certificate", support, nil)
	got, err := certificate.Parse([]byte(c.body))
	if err != nil || got.CertificateID != done.CertificateID || len(got.Recipients) != 1 || got.Recipients[0].AcknowledgedAt.IsZero() {
		t.Errorf("%v: %s", err, c.body)
	}
}

// The guard refuses what an install would tell the end service: Bitbucket hears that we
// took it, nothing is sent, and the delivery is a finding.
func TestAnInstallOfWhichNothingMayBeToldIsAnInstall(t *testing.T) {
	w, o, g := announcingWorld(t, storetest.New(t))
	x, y := invent("refused"), invent("taken")
	x.key, x.username = "custom-zqmarkerzq-key", "zqmarkerzq"
	y.key, y.username = "connection:120245", "2024"
	refused, fine := w.install(x), w.install(y)
	list, err := o.List(t.Context(), true, 10)
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, d := range list {
		if id := d.Tenant.String(); id == refused && (d.State != outbox.Dead || d.LastOutcome != outbox.Refused) || id == fine && d.State != outbox.Waiting {
			t.Errorf("%+v", d)
		}
	}
	if n, err := o.Counts(t.Context()); err != nil || n.Findings() != 1 || w.Int(`SELECT count(*) FROM trakr.outbox_payloads WHERE tenant_id = $1`, refused) != 0 {
		t.Errorf("%+v, %v", n, err)
	}
	if n := w.told(o, g); n != 1 {
		t.Errorf("%d were told", n)
	}
	evidence := w.call(http.MethodGet, "/v1/audit/export?format=ndjson", w.token(lifecycle.RoleReviewer), nil).body
	if !strings.Contains(evidence, "installed: refused by the guard: the value of client_key holds that of username") {
		t.Error("the audit does not say why")
	}
	places := w.places(w.log)
	places["evidence"] = []byte(evidence)
	for what, where := range search(places, map[string]string{"username": "zqmarkerzq"}) {
		t.Errorf("the %s lies in clear in %v", what, where)
	}
	w.Clock.Add(2 * time.Second)
	if r := w.deliver(uninstalled, w.sign(x, uninstalled, x.secret), x.body("uninstalled", "")); r.status != http.StatusNoContent {
		t.Errorf("uninstalled: %d %s", r.status, r.body)
	}
}
