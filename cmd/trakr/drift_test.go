package main

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/findings"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tenants"
	"trakr/internal/sweep"
)

// sweepDrift runs the sweep once and returns what it found, by name.
func (h *house) sweepDrift() map[string]findings.Check {
	h.T.Helper()
	cron := lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "cron", Role: lifecycle.RoleScheduler}, Reason: lifecycle.Reason{Code: lifecycle.SystemSweep}}
	h.Clock.Add(time.Hour)
	r, err := h.service.Runner.RunOnce(h.T.Context(), cron, sweep.Drift, sweep.BySchedule)
	if err != nil {
		h.T.Fatal(err)
	}
	found := map[string]findings.Check{}
	for _, c := range r.Checks {
		if c.Disposition == findings.Unjudged {
			h.T.Errorf("not judged: %+v", c)
		}
		if c.Found() {
			found[strings.TrimSuffix(c.Table+"."+c.Column, ".")] = c
		}
	}
	if (r.Result == findings.Clean) != (len(found) == 0) || len(r.Findings) != len(found) {
		h.T.Errorf("%s with %d findings of %v", r.Result, len(r.Findings), found)
	}
	return found
}

// states are doctor's words about drift.
func (h *house) states() (out string) {
	for _, r := range h.service.Doctor(h.T.Context()) {
		if strings.HasPrefix(r.ID, "drift.") {
			out += string(r.State) + " " + r.Detail() + "\n"
		}
	}
	return out
}

func TestWhatNobodyDeclaredIsAFindingAndStopsTheNextStart(t *testing.T) {
	h := newHouse(t, 0)
	if found := h.sweepDrift(); len(found) != 0 {
		t.Fatalf("a service that is what its policy says: %v", found)
	}
	if s := h.states(); s != "pass \n" {
		t.Errorf("doctor: %s", s)
	}
	env := []string{"TRAKR_DATABASE_URL=" + storetest.ServiceURL(t, h.URL), "TRAKR_DATA_DIR=" + t.TempDir(), "TRAKR_LISTEN=" + freePort(t), "TRAKR_ADMIN_LISTEN=" + freePort(t)}

	// The database gains a column, and a table with no tenant in it.
	h.Exec(`ALTER TABLE trakr.tenants ADD COLUMN email text; CREATE SCHEMA bench; CREATE TABLE bench.children (id int)`)
	found := h.sweepDrift()
	for name, severity := range map[string]findings.Severity{"trakr.tenants.email": findings.High, "bench.children": findings.High} {
		if c := found[name]; c.Severity != severity || !strings.Contains(c.Ground, "the policy does not declare this") || !strings.Contains(c.Ground, "Way out: ") {
			t.Errorf("%s: %+v", name, c)
		}
	}
	if len(found) != 2 {
		t.Errorf("%v", found)
	}
	events := h.Int(`SELECT count(*) FROM trakr.audit_events`)
	code, _, errs := run(t, env, "serve")
	for _, want := range []string{"so nothing is served", "catalog trakr.tenants.email: the policy does not declare this column. Way out: ", "catalog bench.children: the policy does not declare this table. Way out: ", h.service.Policy.Hash()} {
		if !strings.Contains(errs, want) {
			t.Errorf("serve lacks %q:\n%s", want, errs)
		}
	}
	if code != exitCannotTell || h.Int(`SELECT count(*) FROM trakr.audit_events`) != events {
		t.Errorf("serve ended with %d, or recorded something", code)
	}
	if s := h.states(); !strings.Contains(s, "fail catalog trakr.tenants.email") || !strings.Contains(s, "fail catalog bench.children") {
		t.Errorf("doctor: %s", s)
	}

	// What is declared and lost is told, and no more.
	h.Exec(`ALTER TABLE trakr.tenants DROP COLUMN email; DROP SCHEMA bench CASCADE; ALTER TABLE trakr.job_heartbeats DROP COLUMN failure CASCADE`)
	if found := h.sweepDrift(); len(found) != 1 || found["trakr.job_heartbeats.failure"].Severity != findings.Medium {
		t.Errorf("after the way out: %v", found)
	}
}

// The way out that is printed for values of a field that is off is carried out as it is
// printed, and then there is nothing to find.
func TestTheWayOutOfStoredValuesThatAreOffWorks(t *testing.T) {
	h := newHouse(t, 0)
	if _, r, err := h.service.Door.Install(t.Context(), storetest.Ingress(), storetest.Values("off"), h.Delivery("in")); err != nil || r != tenants.Applied {
		t.Fatal(r, err)
	}
	env := []string{"TRAKR_DATABASE_URL=" + storetest.ServiceURL(t, h.URL), "TRAKR_DATA_DIR=" + h.service.Config.DataDir,
		"TRAKR_POLICY=" + written(t, "source: principal.username", "source: principal.username\n    off: true")}
	code, out, errs := run(t, env, "sweep", "run", "drift")
	_, way, ok := strings.Cut(strings.Join(strings.Fields(out), " "), "at once: trakr ") // the table wraps it
	way, _, _ = strings.Cut(way, ". ")
	if code != exitFinding || !ok {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	if code, out, errs := run(t, env, strings.Fields(strings.TrimSuffix(way, "--reason-ref TICKET"))...); code != exitUsage || !strings.Contains(errs, "ticket") {
		t.Errorf("without a ticket: exit %d: %s%s", code, out, errs)
	}
	if code, out, errs := run(t, env, strings.Fields(strings.ReplaceAll(way, "TICKET", "OPS-12"))...); code != exitClean {
		t.Errorf("%s: exit %d: %s%s", way, code, out, errs)
	}
	if n := h.Int(`SELECT count(*) FROM trakr.tenant_fields WHERE username IS NOT NULL`); n != 0 {
		t.Error("the value is still there")
	}
	if n := h.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'tenant.update' AND reason_ref = 'OPS-12'`); n != 1 {
		t.Errorf("%d events name the ticket", n)
	}
	if code, out, errs := run(t, env, "sweep", "run", "drift"); code != exitClean {
		t.Errorf("afterwards: exit %d: %s%s", code, out, errs)
	}
}

func TestNobodyUndeclaredIsTalkedTo(t *testing.T) {
	for name, c := range map[string]struct {
		env  []string
		want string
	}{
		"a collector":    {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=https://collector.example.net"}, "the host collector.example.net for telemetry. Way out: declare the host under egress, to: telemetry"},
		"a webhook":      {[]string{"TRAKR_WEBHOOK_URL=https://hooks.example.net/MARKER", "TRAKR_WEBHOOK_SECRET=whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}, "hooks.example.net for findings"},
		"a ledger":       {[]string{"TRAKR_LEDGER=https://ledger.example.net/x"}, "ledger.example.net for ledger"},
		"a checkpoint":   {[]string{"TRAKR_CHECKPOINT_URL=https://keeper.example.net/x"}, "keeper.example.net for checkpoints"},
		"another API":    {[]string{"TRAKR_BITBUCKET_API_URL=https://api.example.net"}, "api.example.net for bitbucket"},
		"another region": {[]string{"TRAKR_DATABASE_URL=postgres://u:MARKER@db.example.net/x?sslmode=verify-full"}, "db.example.net for any database"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			code, _, errs := run(t, append(c.env, "TRAKR_DATA_DIR="+dir, "TRAKR_LISTEN="+freePort(t), "TRAKR_ADMIN_LISTEN="+freePort(t)), "serve")
			if code != exitCannotTell || !strings.Contains(errs, c.want) || strings.Contains(errs, "MARKER") {
				t.Errorf("exit %d: %s", code, errs)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("it began something: %v %v", left, err)
			}
		})
	}
	// Declared, it gets past that: to the next thing that is wrong.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	file := written(t, "purpose: \"Traces, metrics and logs of the running service.\"\n    hosts: []", "purpose: \"Traces, metrics and logs of the running service.\"\n    hosts: [collector.example.net]")
	code, _, errs := run(t, []string{"TRAKR_POLICY=" + file, "OTEL_EXPORTER_OTLP_ENDPOINT=https://collector.example.net", "TRAKR_DATA_DIR=" + t.TempDir(), "TRAKR_LISTEN=" + taken.Addr().String()}, "serve")
	if code != exitCannotTell || !strings.Contains(errs, "address already in use") || !strings.Contains(errs, `"policy_hash"`) {
		t.Errorf("a declared collector: exit %d: %s", code, errs)
	}
}

func TestAPromisedScheduleThatIsMissingStopsTheStart(t *testing.T) {
	for name, c := range map[string]struct {
		old, replacement string
		exit             int
		want             string
	}{
		"a sweep":           {"  - kind: orphans\n    schedule: \"17 * * * *\"\n    timeout: PT10M\n", "", exitUsage, "$.sweeps: the sweep orphans has no schedule, so it would never run"},
		"a sweep of others": {"  - kind: orphans\n", "  - kind: clouds\n    schedule: \"1 * * * *\"\n    timeout: PT10M\n  - kind: orphans\n", exitUsage, "$.sweeps[0].kind: the service has no sweep \"clouds\""},
		"a job":             {"- name: replay guard\n", "- name: replay keeper\n", exitCannotTell, "schedule replay guard: it is scheduled, and the policy does not declare it"},
		"another time":      {"    schedule: \"*/5 * * * *\"\n    does: \"Deletes", "    schedule: \"*/6 * * * *\"\n    does: \"Forgets", exitCannotTell, `schedule replay guard: it is scheduled at "*/5 * * * *", and the policy declares "*/6 * * * *"`},
	} {
		code, _, errs := run(t, []string{"TRAKR_POLICY=" + written(t, c.old, c.replacement), "TRAKR_DATA_DIR=" + t.TempDir(), "TRAKR_LISTEN=" + freePort(t), "TRAKR_ADMIN_LISTEN=" + freePort(t)}, "serve")
		if code != c.exit || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit %d: %s", name, code, errs)
		}
	}
}
