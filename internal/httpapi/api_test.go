package httpapi_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"trakr/internal/check"
	"trakr/internal/lifecycle"
	"trakr/internal/store/storetest"
	"trakr/reports"
)

func TestEveryRouteLetsInItsRolesAndNobodyElse(t *testing.T) {
	w := newWorld(t)
	tokens := map[lifecycle.Role]string{}
	for _, role := range lifecycle.TokenRoles() {
		tokens[role] = w.token(role)
	}
	guarded := 0
	for _, r := range w.routes {
		path := strings.NewReplacer("{id}", lifecycle.NewTenantID().String(), "{kind}", "orphans").Replace(r.Path)
		if strings.HasPrefix(r.Path, "/v1/reports") {
			path = "/v1/reports/location"
		}
		switch r.Guard {
		case "public":
			if !slices.Contains([]string{"/openapi.json", "/metrics", "/readyz", "/healthz"}, r.Path) {
				t.Errorf("%s is public", r.Path)
			}
			continue
		case "token":
			guarded++
		default:
			t.Errorf("%s %s declares no guard", r.Method, r.Path)
			continue
		}
		if len(r.Roles) == 0 {
			t.Errorf("%s %s declares no role", r.Method, r.Path)
		}
		for _, bad := range []string{"", "nonsense", "trakr_00000000_AAAA"} {
			if got := w.call(r.Method, path, bad, nil); got.status != http.StatusUnauthorized || got.kind() != "unauthenticated" || got.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s %s with token %q: %d %s", r.Method, r.Path, bad, got.status, got.body)
			}
		}
		for role, token := range tokens {
			got := w.call(r.Method, path, token, nil)
			if allowed := slices.Contains(r.Roles, role); (got.status == http.StatusForbidden) == allowed {
				t.Errorf("%s %s as %s: %d %s", r.Method, r.Path, role, got.status, got.body)
			}
		}
	}
	if guarded < 10 {
		t.Errorf("only %d guarded routes", guarded)
	}
	if n := w.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'token.use' AND outcome = 'denied'`); n == 0 {
		t.Error("a refused role leaves no trace")
	}
}

func TestTokensEnd(t *testing.T) {
	w := newWorld(t)
	token := w.token(lifecycle.RoleReviewer)
	if r := w.call(http.MethodGet, "/v1/sweeps", token, nil); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if n := w.Int(`SELECT count(*) FROM trakr.api_tokens WHERE secret_hash = sha256(convert_to($1, 'UTF8'))`, token); n != 1 {
		t.Error("the token is not stored as its hash")
	}
	if strings.Contains(string(w.Dump()), token) {
		t.Error("the token stands in the database in clear")
	}
	w.Clock.Add(time.Hour)
	if r := w.call(http.MethodGet, "/v1/sweeps", token, nil); r.status != http.StatusUnauthorized {
		t.Errorf("after its expiry: %d", r.status)
	}
}

func TestEveryAnswerCarriesTheMarketplacesHeaders(t *testing.T) {
	w := newWorld(t)
	get := func(base, method, path string) reply {
		req, err := http.NewRequestWithContext(t.Context(), method, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		return w.send(req)
	}
	for _, c := range []struct {
		base, method, path string
		status             int
	}{
		{w.public.URL, "GET", "/atlassian-connect.json", 200}, {w.public.URL, "GET", "/healthz", 200}, {w.public.URL, "GET", "/nothing", 404},
		{w.public.URL, "GET", "/connect/installed", 405}, {w.public.URL, "POST", "/connect/installed", 400}, {w.public.URL, "POST", "/connect/uninstalled", 400},
		{w.public.URL, "POST", "//connect/installed", 404}, {w.public.URL, "BREW", "/healthz", 405},
		{w.admin.URL, "GET", "/openapi.json", 200}, {w.admin.URL, "GET", "/metrics", 200}, {w.admin.URL, "GET", "/readyz", 200}, {w.admin.URL, "GET", "/v1/audit/events", 401},
		{w.admin.URL, "DELETE", "/v1/sweeps", 405}, {w.admin.URL, "GET", "/nothing", 404},
		{w.admin.URL, "GET", "/v1//sweeps?x=marker", 404}, {w.admin.URL, "GET", "/v1/../v1/sweeps", 404}, {w.admin.URL, "GET", "/v1/audit/events?actor_id=%00", 400}, {w.admin.URL, "GET", "/v1/sweeps?kind=%ff", 400},
	} {
		r := get(c.base, c.method, c.path)
		if r.status != c.status {
			t.Errorf("%s %s: %d, want %d: %s", c.method, c.path, r.status, c.status, r.body)
		}
		for name, want := range map[string]string{"Strict-Transport-Security": "max-age=63072000", "Cache-Control": "no-cache, no-store", "Referrer-Policy": "no-referrer",
			"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'"} {
			if !strings.Contains(r.header.Get(name), want) {
				t.Errorf("%s %s (%d): %s is %q", c.method, c.path, r.status, name, r.header.Get(name))
			}
		}
		if c.status >= 400 && (r.header.Get("Content-Type") != "application/problem+json" || r.kind() == "") {
			t.Errorf("%s %s: no problem document: %s", c.method, c.path, r.body)
		}
		if strings.Contains(r.body, "marker") {
			t.Errorf("%s %s repeats what was asked: %s", c.method, c.path, r.body)
		}
	}
}

func TestNoFieldLeavesWhenTheAuditCannotBeWritten(t *testing.T) {
	for name, sql := range storetest.Breaks() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			x := invent("leak")
			id := w.install(x)
			service, support := w.token(lifecycle.RoleService), w.token(lifecycle.RoleSupport)
			w.Exec(sql)
			ticket := map[string]string{"code": "customer_initiated_support", "ref": "SUP-1"}
			for what, r := range map[string]reply{
				"read by a service": w.call(http.MethodPost, "/v1/tenants/"+id+"/reads", service, map[string]any{"fields": []string{"username", "avatar_url", "client_key", "principal_uuid"}, "reason": map[string]string{"code": "service_operation"}}),
				"read by a person":  w.call(http.MethodPost, "/v1/tenants/"+id+"/reads", support, map[string]any{"fields": []string{"username"}, "reason": ticket}),
				"a refused read":    w.call(http.MethodPost, "/v1/tenants/"+id+"/reads", service, map[string]any{"fields": []string{"shared_secret"}, "reason": map[string]string{"code": "service_operation"}}),
				"lookup":            w.call(http.MethodPost, "/v1/tenants/lookup", service, map[string]any{"client_key": x.clientKey()}),
				"export":            w.call(http.MethodGet, "/v1/audit/export", w.anyReviewer(), nil),
			} {
				if r.status != http.StatusServiceUnavailable || r.kind() != "audit-unavailable" || r.header.Get("Retry-After") == "" {
					t.Errorf("%s: %d %s", what, r.status, r.body)
				}
				if strings.Contains(r.body, x.mark) || strings.Contains(r.body, x.uuid) {
					t.Errorf("%s: a value is in the answer: %s", what, r.body)
				}
			}
		})
	}
}

// anyReviewer plants a reviewer's token past the broken audit.
func (w *world) anyReviewer() string {
	const token = "trakr_00000001_reviewer"
	w.Exec(`INSERT INTO trakr.api_tokens (id, secret_hash, role, label, created_by, created_at, expires_at)
		VALUES ('00000001', sha256(convert_to($1, 'UTF8')), 'reviewer', 'test', 'test', now(), now() + interval '1 hour')`, token)
	return token
}

func TestReadsByPeopleNeedATicketAndRefusalsSayHow(t *testing.T) {
	w := newWorld(t)
	x := invent("ticket")
	id := w.install(x)
	support := w.token(lifecycle.RoleSupport)
	read := func(body map[string]any) reply {
		return w.call(http.MethodPost, "/v1/tenants/"+id+"/reads", support, body)
	}
	if r := read(map[string]any{"fields": []string{"username"}}); r.status != http.StatusBadRequest || r.kind() != "reason-required" {
		t.Errorf("no reason: %d %s", r.status, r.body)
	}
	if r := read(map[string]any{"fields": []string{"username"}, "reason": map[string]string{"code": "customer_initiated_support"}}); r.status != http.StatusBadRequest || !strings.Contains(r.body, "/reason/ref") {
		t.Errorf("no ticket: %d %s", r.status, r.body)
	}
	why := map[string]string{"code": "customer_initiated_support", "ref": "SUP-12"}
	if r := read(map[string]any{"fields": []string{"username", "shared_secret"}, "reason": why}); r.status != http.StatusUnprocessableEntity || r.kind() != "field-not-allowed" || !strings.Contains(r.body, `"/fields/1"`) {
		t.Errorf("the secret: %d %s", r.status, r.body)
	}
	if r := read(map[string]any{"fields": []string{"username"}, "reason": why}); r.status != http.StatusOK || !strings.Contains(r.body, x.username) {
		t.Errorf("with a ticket: %d %s", r.status, r.body)
	}
	for _, body := range []map[string]any{{"fields": []string{"MARKER"}, "reason": why}, {"fields": "MARKER"}, {"MARKER": 1, "fields": []string{"username"}}, {"fields": []string{"username"}, "reason": map[string]string{"code": "MARKER", "ref": "MARKER MARKER"}}} {
		if r := read(body); r.status < 400 || strings.Contains(r.body, "MARKER") {
			t.Errorf("%v: %d %s", body, r.status, r.body)
		}
	}
	if r := w.call(http.MethodGet, "/v1/tenants/MARKER", support, nil); r.status != http.StatusBadRequest || strings.Contains(r.body, "MARKER") {
		t.Errorf("a tenant by another name: %d %s", r.status, r.body)
	}
	if r := w.call(http.MethodGet, "/v1/audit/events?MARKER=1", w.token(lifecycle.RoleReviewer), nil); r.status != http.StatusBadRequest || strings.Contains(r.body, "MARKER") {
		t.Errorf("an unknown parameter: %d %s", r.status, r.body)
	}
}

func TestAuditIsPagedFilteredAndExported(t *testing.T) {
	w := newWorld(t)
	id := w.install(invent("audit"))
	service, reviewer := w.token(lifecycle.RoleService), w.token(lifecycle.RoleReviewer)
	for range 5 {
		w.call(http.MethodPost, "/v1/tenants/"+id+"/reads", service, map[string]any{"fields": []string{"username"}, "reason": map[string]string{"code": "service_operation"}})
	}
	seen, cursor := 0, ""
	for page := 0; ; page++ {
		var out struct {
			Events     []map[string]any `json:"events"`
			NextCursor string           `json:"next_cursor"`
		}
		r := w.call(http.MethodGet, "/v1/audit/events?action=tenant.read&outcome=success&tenant_id="+id+"&field=username&limit=2&cursor="+cursor, reviewer, nil)
		if err := json.Unmarshal([]byte(r.body), &out); err != nil || r.status != http.StatusOK {
			t.Fatalf("%d %s", r.status, r.body)
		}
		seen += len(out.Events)
		if cursor = out.NextCursor; cursor == "" || page > 5 {
			break
		}
	}
	if seen != 5 {
		t.Errorf("pages hold %d reads, want 5", seen)
	}
	nd := w.call(http.MethodGet, "/v1/audit/export?format=ndjson", reviewer, nil)
	lines := strings.Split(strings.TrimSpace(nd.body), "\n")
	csv := w.call(http.MethodGet, "/v1/audit/export?format=csv&reason_ref=AUD-1", reviewer, nil)
	// Each holds its own event, and a line for the checkpoint; CSV has a header.
	if n := w.Int(`SELECT count(*) FROM trakr.audit_events`); int64(len(lines)) != n || int64(strings.Count(csv.body, "\r\n")) != n+2 {
		t.Errorf("%d lines of ndjson, %d of csv, %d events", len(lines), strings.Count(csv.body, "\r\n"), n)
	}
	for _, l := range lines {
		if !json.Valid([]byte(l)) {
			t.Errorf("not JSON: %s", l)
		}
	}
	if n := w.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'audit.export' AND actor_type = 'staff'`); n != 2 {
		t.Errorf("%d exports recorded, want 2", n)
	}
}

func TestAFindingIsSeenAcknowledgedAndStaysOpen(t *testing.T) {
	w := newWorld(t)
	w.Exec(`CREATE TABLE public.cache (tenant_id uuid)`)
	reviewer, service := w.token(lifecycle.RoleReviewer), w.token(lifecycle.RoleService)
	dry := w.call(http.MethodPost, "/v1/sweeps/orphans/runs", reviewer, map[string]any{"dry_run": true})
	if dry.status != http.StatusOK || !strings.Contains(dry.body, `"dry_run":true`) || !strings.Contains(dry.body, `"findings":[]`) {
		t.Errorf("a dry run: %d %s", dry.status, dry.body)
	}
	if r := w.call(http.MethodPost, "/v1/sweeps/orphans/runs", reviewer, map[string]any{"dry_run": "MARKER"}); r.status != http.StatusBadRequest || strings.Contains(r.body, "MARKER") {
		t.Errorf("neither dry nor not: %d %s", r.status, r.body)
	}
	w.call(http.MethodPost, "/v1/sweeps/orphans/runs", reviewer, nil)
	// Who has a sweep remove values needs a ticket, and can name one here.
	w.call(http.MethodPost, "/v1/sweeps/orphans/runs", reviewer, map[string]any{"reason": map[string]string{"ref": "OPS-12"}})
	if n := w.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'sweep.run' AND reason_code = 'system_sweep' AND reason_ref = 'OPS-12'`); n != 1 {
		t.Errorf("%d sweeps are recorded with the ticket", n)
	}
	type finding struct {
		ID             string `json:"finding_id"`
		Severity       string `json:"severity"`
		AcknowledgedBy string `json:"acknowledged_by"`
		ReasonRef      string `json:"reason_ref"`
		Events         []struct{ Transition string }
	}
	get := func(path string, v any) {
		t.Helper()
		if r := w.call(http.MethodGet, path, service, nil); r.status != http.StatusOK || json.Unmarshal([]byte(r.body), v) != nil {
			t.Fatalf("%s: %d %s", path, r.status, r.body)
		}
	}
	var list struct{ Findings []finding }
	get("/v1/findings", &list)
	if len(list.Findings) != 1 || list.Findings[0].Severity != "high" {
		t.Fatalf("%+v", list)
	}
	path := "/v1/findings/" + list.Findings[0].ID
	ticket := map[string]any{"reason": map[string]string{"code": "incident_response", "ref": "OPS-12"}}
	for what, c := range map[string]struct {
		token, path string
		body        any
		status      int
		kind        string
	}{
		"a service":       {service, path, ticket, http.StatusForbidden, "forbidden"},
		"no reason":       {reviewer, path, map[string]any{"reason": map[string]string{}}, http.StatusBadRequest, "reason-required"},
		"no ticket":       {reviewer, path, map[string]any{"reason": map[string]string{"code": "incident_response"}}, http.StatusBadRequest, "reason-required"},
		"another finding": {reviewer, "/v1/findings/" + lifecycle.NewTenantID().String(), ticket, http.StatusNotFound, "not-found"},
		"no id":           {reviewer, "/v1/findings/MARKER", ticket, http.StatusNotFound, "not-found"},
	} {
		if r := w.call(http.MethodPost, c.path+"/acknowledge", c.token, c.body); r.status != c.status || r.kind() != c.kind || strings.Contains(r.body, "MARKER") {
			t.Errorf("%s: %d %s", what, r.status, r.body)
		}
	}
	if r := w.call(http.MethodPost, path+"/acknowledge", reviewer, ticket); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if r := w.call(http.MethodPost, path+"/acknowledge", reviewer, ticket); r.status != http.StatusConflict || r.kind() != "request-conflict" {
		t.Errorf("a second time: %d %s", r.status, r.body)
	}
	var one finding
	get(path, &one)
	if one.ReasonRef != "OPS-12" || !strings.HasPrefix(one.AcknowledgedBy, "token:") || len(one.Events) != 2 || one.Events[1].Transition != "acknowledged" {
		t.Errorf("%+v", one)
	}
	get("/v1/findings", &list)
	if len(list.Findings) != 1 || list.Findings[0].ReasonRef != "OPS-12" {
		t.Errorf("an acknowledged finding is not open and marked: %+v", list)
	}
}

func TestSweepsReportsPolicyAndReadiness(t *testing.T) {
	w := newWorld(t)
	w.install(invent("report"))
	reviewer := w.token(lifecycle.RoleReviewer)
	r := w.call(http.MethodPost, "/v1/sweeps/orphans/runs", reviewer, nil)
	tables := 0
	for _, d := range w.Policy.Stores[0].Tables {
		if d.HasTenant {
			tables++
		}
	}
	var run struct {
		RunID    string `json:"run_id"`
		Kind     string `json:"kind"`
		Result   string `json:"result"`
		Checks   []any  `json:"checks"`
		Findings []any  `json:"findings"`
	}
	if err := json.Unmarshal([]byte(r.body), &run); err != nil || r.status != http.StatusOK || run.Result != "clean" || len(run.Checks) != tables || run.Findings == nil || run.RunID == "" {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := w.call(http.MethodPost, "/v1/sweeps/MARKER/runs", reviewer, nil); r.status != http.StatusNotFound || strings.Contains(r.body, "MARKER") {
		t.Errorf("an unknown sweep: %d %s", r.status, r.body)
	}
	starts := map[reports.Format]string{reports.HTML: "<!doctype html>", reports.JSON: "{\n", reports.CSV: "section,item", reports.Markdown: "# Trakr"}
	for _, kind := range reports.Kinds() {
		for format, start := range starts {
			r := w.call(http.MethodGet, "/v1/reports/"+kind+"?format="+string(format), reviewer, nil)
			if !slices.Contains(reports.FormatsOf(kind), format) {
				if r.status != http.StatusBadRequest || !strings.Contains(r.body, "/format") {
					t.Errorf("%s as %s, which it has not: %d %.80s", kind, format, r.status, r.body)
				}
			} else if r.status != http.StatusOK || !strings.HasPrefix(r.body, start) {
				t.Errorf("%s as %s: %d %.80s", kind, format, r.status, r.body)
			}
		}
	}
	if r := w.call(http.MethodGet, "/v1/statement", reviewer, nil); r.status != http.StatusOK || !strings.Contains(r.body, `"state": "not_verified"`) {
		t.Errorf("the statement: %d %.80s", r.status, r.body)
	}
	if r := w.call(http.MethodGet, "/v1/policy", reviewer, nil); r.status != http.StatusOK || !strings.Contains(r.body, w.Policy.Hash()) {
		t.Errorf("policy: %d", r.status)
	}
	w.ready = []check.Result{{ID: "sweep.orphans", State: check.Fail}}
	if r := w.call(http.MethodGet, "/readyz", "", nil); r.status != http.StatusServiceUnavailable {
		t.Errorf("not ready: %d", r.status)
	}
	var doc map[string]any
	if r := w.call(http.MethodGet, "/openapi.json", "", nil); !strings.Contains(r.body, "one of: orphans") {
		t.Error("the API's description does not list the kinds of sweeps")
	} else if json.NewDecoder(strings.NewReader(r.body)).Decode(&doc) != nil || doc["openapi"] != "3.1.0" {
		t.Errorf("openapi: %v", doc["openapi"])
	}
}
