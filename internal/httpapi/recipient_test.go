package httpapi_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"trakr/internal/certificate"
	"trakr/internal/egress"
	"trakr/internal/lifecycle"
	"trakr/internal/store/outbox"
	"trakr/policy"
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

// The end service knows of the tenant and is out: the values go at once, and the
// request is completed when it acknowledged.
func TestADeletionRequestWaitsForTheEndService(t *testing.T) {
	w := newWorld(t)
	w.Clock.Add(-24 * time.Hour) // the database refuses a move at a time to come
	g, err := egress.New(w.Policy, policy.ToEndService, "https://trakr.example.com")
	if err != nil {
		t.Fatal(err)
	}
	w.Door.Telling(g, func() {})
	o, err := outbox.New(w.DB, w.Log, w.Keys)
	if err != nil {
		t.Fatal(err)
	}
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
