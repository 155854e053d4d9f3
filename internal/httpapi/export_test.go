package httpapi_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"trakr/internal/lifecycle"
	"trakr/internal/proof/auditfile"
	"trakr/internal/store/audit"
	"trakr/internal/store/storetest"
)

func TestAReviewerGetsFilesThatVerifyOffline(t *testing.T) {
	w := newWorld(t)
	w.install(invent("export"))
	reviewer := w.token(lifecycle.RoleReviewer)
	for query, want := range map[string][2]string{
		"":                         {"application/x-ndjson", "audit.ndjson"},
		"format=csv":               {"text/csv; charset=utf-8", "audit.csv"},
		"format=ocsf&gzip=true":    {"application/gzip", "audit.ocsf.gz"},
		"format=csv&gzip=true":     {"application/gzip", "audit.csv.gz"},
		"action=tenant.install":    {"application/x-ndjson", "audit.ndjson"},
		"from=2&limit=1":           {"application/x-ndjson", "audit.ndjson"},
		"outcome=failure&from=1":   {"application/x-ndjson", "audit.ndjson"},
		"format=ocsf&actor_id=x-y": {"application/x-ndjson", "audit.ocsf"},
	} {
		r := w.call(http.MethodGet, "/v1/audit/export?"+query, reviewer, nil)
		if r.status != http.StatusOK || r.header.Get("Content-Type") != want[0] || !strings.Contains(r.header.Get("Content-Disposition"), `"`+want[1]+`"`) {
			t.Errorf("%s: %d %v", query, r.status, r.header)
		}
		got, err := auditfile.Verify(t.Context(), func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(r.body)), nil }, w.Log.VerifierKey(), nil)
		if err != nil || !got.Proven || got.Waiting != 0 {
			t.Errorf("%s: %+v, %v", query, got.Finding, err)
		}
	}
	for _, bad := range []string{"from=-1", "from=100000", "limit=-1", "format=xml", "form=csv", "tenant_id=x"} {
		if r := w.call(http.MethodGet, "/v1/audit/export?"+bad, reviewer, nil); r.status < 400 || r.status >= 500 || r.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", bad, r.status, r.body)
		}
	}
	var doc struct {
		Paths map[string]map[string]struct{ Description string }
	}
	r := w.call(http.MethodGet, "/openapi.json", "", nil)
	if err := json.Unmarshal([]byte(r.body), &doc); err != nil || !strings.Contains(doc.Paths["/v1/audit/export"]["get"].Description, "trakr_checkpoint") {
		t.Errorf("the end of a file is not described: %v", err)
	}
}

func TestAnExportThatBreaksOffCutsTheConnection(t *testing.T) {
	w := newWorld(t)
	reviewer := w.token(lifecycle.RoleReviewer)
	for range 25 { // more than the sockets' buffers hold
		var evs []audit.Event
		for range 200 {
			ev := audit.New(t.Context(), w.Clock.Now(), storetest.Service(), audit.TenantLookup, audit.Success)
			ev.StatusDetail = strings.Repeat("x", 6000)
			evs = append(evs, ev)
		}
		if err := w.Log.Record(t.Context(), evs...); err != nil {
			t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.admin.URL+"/v1/audit/export", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+reviewer)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	// The client has the first bytes and lets the rest wait; the database goes away.
	if n := w.Int(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'SELECT id, recorded_at, record%'`); n == 0 {
		t.Fatal("the export had ended already")
	}
	b, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK || err == nil || len(b) == 0 || strings.Contains(string(b), "trakr_checkpoint") {
		t.Errorf("%d, %d bytes, %v: a part looks like the whole", resp.StatusCode, len(b), err)
	}
}
