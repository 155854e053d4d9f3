package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"trakr/internal/connect"
	"trakr/internal/lifecycle"
	"trakr/internal/proof/certificate"
	"trakr/internal/store/audit"
)

// shown is a request as the API shows it.
type shown struct {
	RequestID         string `json:"request_id"`
	State             string
	TenantID          string `json:"tenant_id"`
	Ticket            string
	NotBefore         string `json:"not_before"`
	ExistingRequestID string `json:"existing_request_id"`
	CertificateID     string `json:"certificate_id"`
	ErasureID         string `json:"erasure_id"`
	Preview           []struct {
		Table, Becomes string
		Count          *int64
	}
	Holds   []struct{ Ground string }
	History []struct{ To, By, Ticket string }
}

func (r reply) shown(t *testing.T, status int, state string) shown {
	t.Helper()
	var s shown
	if err := json.Unmarshal([]byte(r.body), &s); err != nil || r.status != status || s.State != state {
		t.Fatalf("%d %s; want %d and the state %s", r.status, r.body, status, state)
	}
	return s
}

func (r reply) refused(t *testing.T, status int, kind string) {
	t.Helper()
	if r.status != status || r.kind() != kind {
		t.Errorf("%d %s; want %d %s", r.status, r.body, status, kind)
	}
}

const asked = "/v1/deletion-requests"

func (w *world) ask(token string, x *workspace) reply {
	return w.call(http.MethodPost, asked, token, map[string]any{"client_key": x.clientKey(), "reason": map[string]string{"code": "customer_request_fulfilment", "ref": "SUP-41"}})
}

// pass is the job's, after the clock was moved; tokens of before have ended.
func (w *world) pass(after time.Duration) (support string) {
	w.T.Helper()
	w.Clock.Add(after)
	if err := w.deletions.Run(w.T.Context(), "cron"); err != nil {
		w.T.Fatal(err)
	}
	return w.token(lifecycle.RoleSupport)
}

func TestADeletionRequestTravelsThroughTheAPIToACertificateThatVerifies(t *testing.T) {
	w := newWorld(t)
	w.Clock.Add(-24 * time.Hour) // the database refuses a move at a time to come
	x := invent("deleteme")
	tenant := w.install(x)
	anna, bob := w.token(lifecycle.RoleSupport), w.token(lifecycle.RoleOperator)
	r := w.ask(anna, x).shown(t, http.StatusCreated, "awaiting_approval")
	counted := map[string]string{}
	for _, p := range r.Preview {
		if p.Count != nil && *p.Count > 0 {
			counted[p.Table] = p.Becomes
		}
	}
	if r.TenantID != tenant || r.Ticket != "SUP-41" || counted["trakr.tenant_fields"] != "deleted" || counted["trakr.audit_events"] != "retained" {
		t.Errorf("%+v", r)
	}
	at := asked + "/" + r.RequestID
	w.call(http.MethodPost, at+"/approve", anna, nil).refused(t, http.StatusForbidden, "approval-by-same-person")
	w.call(http.MethodGet, at+"/certificate", anna, nil).refused(t, http.StatusNotFound, "not-found")
	again := w.ask(bob, x)
	again.refused(t, http.StatusConflict, "request-conflict")
	if !strings.Contains(again.body, `"existing_request_id":"`+r.RequestID+`"`) {
		t.Errorf("the open request is not named: %s", again.body)
	}

	// Two approvals at once: one wins.
	carla := w.token(lifecycle.RoleSupport)
	var wg sync.WaitGroup
	answers := make([]reply, 2)
	for i, token := range []string{bob, carla} {
		wg.Go(func() { answers[i] = w.call(http.MethodPost, at+"/approve", token, map[string]any{}) })
	}
	wg.Wait()
	if answers[0].status > answers[1].status {
		answers[0], answers[1] = answers[1], answers[0]
	}
	if s := answers[0].shown(t, http.StatusOK, "approved"); s.NotBefore == "" {
		t.Errorf("%+v", s)
	}
	answers[1].refused(t, http.StatusConflict, "request-conflict")

	support := w.pass(time.Hour)
	done := w.call(http.MethodGet, at, support, nil).shown(t, http.StatusOK, "completed")
	if done.CertificateID == "" || done.ErasureID == "" || len(done.History) != 7 || done.History[3].Ticket != "SUP-41" {
		t.Errorf("%+v", done)
	}
	w.call(http.MethodPost, "/v1/tenants/"+tenant+"/reads", support, map[string]any{"fields": []string{"username"}, "reason": map[string]string{"code": "customer_initiated_support", "ref": "SUP-1"}}).refused(t, http.StatusGone, "tenant-erased")
	for format, kind := range map[string]string{"json": "application/json", "html": "text/html; charset=utf-8", "pdf": "application/pdf"} {
		c := w.call(http.MethodGet, at+"/certificate?format="+format, support, nil)
		if c.status != http.StatusOK || c.header.Get("Content-Type") != kind {
			t.Fatalf("%s: %d %s %.100s", format, c.status, c.header.Get("Content-Type"), c.body)
		}
		if format == "json" {
			got, err := certificate.Parse([]byte(c.body))
			if err != nil || got.RequestID != r.RequestID || got.TenantID != tenant || got.Trigger != lifecycle.TriggerRequest || got.CertificateID != done.CertificateID {
				t.Errorf("%v: %s", err, c.body)
			}
		}
	}
	var list struct {
		Erasures []struct {
			ErasureID         string `json:"erasure_id"`
			TenantID          string `json:"tenant_id"`
			State             string `json:"state"`
			DeletedLiveAt     string `json:"deleted_live_at"`
			BackupsClearAfter string `json:"backups_clear_after"`
		} `json:"erasures"`
	}
	reviewer := w.token(lifecycle.RoleReviewer)
	if l := w.call(http.MethodGet, "/v1/erasures", reviewer, nil); json.Unmarshal([]byte(l.body), &list) != nil || len(list.Erasures) != 1 || list.Erasures[0].ErasureID != done.ErasureID ||
		list.Erasures[0].TenantID != tenant || list.Erasures[0].State != "certified" || list.Erasures[0].BackupsClearAfter <= list.Erasures[0].DeletedLiveAt {
		t.Errorf("%d %s", l.status, l.body)
	}
	w.call(http.MethodGet, "/v1/erasures", w.token(lifecycle.RoleService), nil).refused(t, http.StatusForbidden, "forbidden")
	issued := func() int {
		n := 0
		for _, ev := range w.Events() {
			if ev.Action == audit.ReportIssue {
				n++
			}
		}
		return n
	}
	before := issued()
	for format, kind := range map[string]string{"json": "application/json", "html": "text/html; charset=utf-8", "pdf": "application/pdf"} {
		c := w.call(http.MethodGet, "/v1/erasures/"+done.ErasureID+"/certificate?reason_ref=AUD-7&format="+format, reviewer, nil)
		if c.status != http.StatusOK || c.header.Get("Content-Type") != kind || (format == "json" && !strings.Contains(c.body, done.CertificateID)) {
			t.Errorf("%s: %d %s %.100s", format, c.status, c.header.Get("Content-Type"), c.body)
		}
	}
	if n := issued(); n != before+3 {
		t.Errorf("%d certificates handed out and recorded, want 3", n-before)
	}
	w.call(http.MethodGet, "/v1/erasures/"+r.RequestID[:35]+"/certificate", reviewer, nil).refused(t, http.StatusBadRequest, "request-invalid")
	w.call(http.MethodGet, "/v1/erasures/"+tenant+"/certificate", reviewer, nil).refused(t, http.StatusNotFound, "not-found")
	// Asked again, it is a success with the same certificate.
	if s := w.ask(support, x).shown(t, http.StatusCreated, "completed"); s.CertificateID != done.CertificateID {
		t.Errorf("another certificate: %+v", s)
	}
	look := w.call(http.MethodPost, "/v1/erasures/lookup", w.token(lifecycle.RoleService), map[string]any{"client_key": x.clientKey()})
	if look.status != http.StatusOK || !strings.Contains(look.body, `"erasure_id":"`+done.ErasureID+`"`) || !strings.Contains(look.body, `"state":"completed"`) || !strings.Contains(look.body, done.CertificateID) {
		t.Errorf("%d %s", look.status, look.body)
	}
	for _, marked := range []string{string(w.Dump()), w.log.String()} {
		if strings.Contains(marked, x.mark) || strings.Contains(marked, x.uuid) {
			t.Error("a value of the customer is left in the database or the log")
		}
	}
}

func TestWhatWasNeverKnownIsDeniedCancelledOrHeldEndsAsItIsNamed(t *testing.T) {
	w := newWorld(t)
	w.Clock.Add(-24 * time.Hour) // the database refuses a move at a time to come
	anna, bob := w.token(lifecycle.RoleSupport), w.token(lifecycle.RoleSupport)

	never := w.ask(anna, invent("never")).shown(t, http.StatusCreated, "completed_nothing_held")
	handed := func() int64 {
		return w.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'report.issue' AND status_detail = 'certificate json' AND outcome = 'success'`)
	}
	before := handed()
	c := w.call(http.MethodGet, asked+"/"+never.RequestID+"/certificate", anna, nil)
	if n := handed() - before; n != 1 {
		t.Errorf("%d certificates handed out are recorded, that of nothing held among them", n)
	}
	if got, err := certificate.Parse([]byte(c.body)); err != nil || got.State != certificate.NothingHeld || got.RequestID != never.RequestID {
		t.Errorf("%v: %d %s", err, c.status, c.body)
	}
	w.call(http.MethodPost, "/v1/erasures/lookup", anna, map[string]any{"client_key": invent("never2").clientKey(), "reason": map[string]string{"code": "customer_initiated_support", "ref": "SUP-2"}}).refused(t, http.StatusNotFound, "tenant-unknown")

	x := invent("denied")
	tenant := w.install(x)
	w.call(http.MethodPost, "/v1/erasures/lookup", w.token(lifecycle.RoleService), map[string]any{"client_key": x.clientKey()}).refused(t, http.StatusNotFound, "not-found")
	r := w.ask(anna, x).shown(t, http.StatusCreated, "awaiting_approval")
	w.call(http.MethodPost, asked+"/"+r.RequestID+"/deny", bob, map[string]any{"ground": "MARKER"}).refused(t, http.StatusBadRequest, "request-invalid")
	w.call(http.MethodPost, asked+"/"+r.RequestID+"/deny", bob, map[string]any{"ground": "not_entitled"}).shown(t, http.StatusOK, "denied")
	w.call(http.MethodPost, asked+"/"+r.RequestID+"/approve", bob, nil).refused(t, http.StatusConflict, "request-conflict")

	r = w.ask(anna, x).shown(t, http.StatusCreated, "awaiting_approval")
	w.call(http.MethodPost, asked+"/"+r.RequestID+"/approve", bob, nil).shown(t, http.StatusOK, "approved")
	w.call(http.MethodPost, asked+"/"+r.RequestID+"/cancel", anna, nil).shown(t, http.StatusOK, "cancelled")

	// A hold between the approval and the deletion, and its release.
	r = w.ask(anna, x).shown(t, http.StatusCreated, "awaiting_approval")
	at := asked + "/" + r.RequestID
	until := w.Clock.Now().Add(48 * time.Hour).Format(time.RFC3339)
	w.call(http.MethodPost, at+"/hold", anna, map[string]any{"ground": "legal_claim", "until": until}).shown(t, http.StatusOK, "on_hold")
	w.call(http.MethodPost, at+"/approve", bob, nil).refused(t, http.StatusConflict, "on-hold")
	w.call(http.MethodPost, at+"/release", anna, nil).refused(t, http.StatusForbidden, "forbidden")
	reviewer := w.token(lifecycle.RoleReviewer)
	w.call(http.MethodPost, at+"/release", reviewer, nil).shown(t, http.StatusOK, "awaiting_approval")
	w.call(http.MethodPost, at+"/approve", bob, nil).shown(t, http.StatusOK, "approved")
	placed := w.call(http.MethodPost, "/v1/holds", reviewer, map[string]any{"tenant_id": tenant, "ground": "authority_order", "until": until, "reason": map[string]string{"ref": "LEG-1"}})
	var hold struct {
		HoldID string `json:"hold_id"`
	}
	if err := json.Unmarshal([]byte(placed.body), &hold); err != nil || placed.status != http.StatusCreated {
		t.Fatalf("%d %s", placed.status, placed.body)
	}
	support := w.pass(2 * time.Hour)
	if s := w.call(http.MethodGet, at, support, nil).shown(t, http.StatusOK, "on_hold"); len(s.Holds) != 1 || s.Holds[0].Ground != "authority_order" {
		t.Errorf("%+v", s)
	}
	// An uninstall meanwhile: the tenant answers nothing, and its values stay.
	if d := w.deliver(connect.UninstalledPath, w.sign(x, connect.UninstalledPath, x.secret), x.body("uninstalled", "")); d.status != http.StatusNoContent {
		t.Fatalf("uninstall: %d %s", d.status, d.body)
	}
	if n := w.Int(`SELECT count(*) FROM trakr.tenant_fields WHERE tenant_id = $1`, tenant); n != 1 {
		t.Error("a hold did not keep the values from the uninstall")
	}
	reviewer = w.token(lifecycle.RoleReviewer)
	if l := w.call(http.MethodGet, "/v1/holds?tenant_id="+tenant, reviewer, nil); !strings.Contains(l.body, hold.HoldID) || strings.Count(l.body, "hold_id") != 1 {
		t.Errorf("%d %s", l.status, l.body)
	}
	if rel := w.call(http.MethodPost, "/v1/holds/"+hold.HoldID+"/release", reviewer, map[string]any{"reason": map[string]string{"ref": "LEG-2"}}); rel.status != http.StatusOK {
		t.Fatalf("%d %s", rel.status, rel.body)
	}
	support = w.pass(time.Minute)
	w.call(http.MethodGet, at, support, nil).shown(t, http.StatusOK, "completed")
	w.call(http.MethodPost, "/v1/holds", reviewer, map[string]any{"tenant_id": tenant, "ground": "authority_order", "until": until, "reason": map[string]string{"ref": "LEG-1"}}).refused(t, http.StatusGone, "tenant-erased")

	var list struct{ Requests []shown }
	if l := w.call(http.MethodGet, asked+"?state=denied", support, nil); json.Unmarshal([]byte(l.body), &list) != nil || len(list.Requests) != 1 {
		t.Errorf("%d %s", l.status, l.body)
	}
	if l := w.call(http.MethodGet, asked+"?overdue=true", support, nil); json.Unmarshal([]byte(l.body), &list) != nil || len(list.Requests) != 0 {
		t.Errorf("%d %s", l.status, l.body)
	}
}

func TestADeletionRequestNeedsATicketAndASubject(t *testing.T) {
	w := newWorld(t)
	support := w.token(lifecycle.RoleSupport)
	x := invent("form")
	w.install(x)
	w.call(http.MethodPost, asked, support, map[string]any{"client_key": x.clientKey(), "reason": map[string]string{}}).refused(t, http.StatusBadRequest, "reason-required")
	w.call(http.MethodPost, asked, support, map[string]any{"client_key": x.clientKey(), "reason": map[string]string{"ref": "she asked"}}).refused(t, http.StatusBadRequest, "reason-required")
	w.call(http.MethodPost, asked, support, map[string]any{"reason": map[string]string{"ref": "SUP-1"}}).refused(t, http.StatusBadRequest, "request-invalid")
	w.call(http.MethodGet, asked+"/MARKER", support, nil).refused(t, http.StatusNotFound, "not-found")
	if n := w.Int(`SELECT count(*) FROM trakr.deletion_requests`); n != 0 {
		t.Errorf("%d requests were entered", n)
	}
}
