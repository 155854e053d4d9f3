package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What support and the operator do at the command line, without the API: the same
// person cannot approve, a hold stops, and what was never known ends with a
// certificate that verifies offline.
func TestDeletionRequestsAndHoldsAtTheCommandLine(t *testing.T) {
	t.Parallel()
	m := usedMachine(t)
	m.env = append(m.env, "TRAKR_DEV_SKIP_PROOF=true")
	_, _ = m.serve()
	m.swept() // that no data is stored rests on a clean sweep for orphans

	var never struct {
		RequestID string `json:"request_id"`
		State     string
	}
	m.jsonOf(&never, "deletion", "request", "--client-key", "connection:never", "--reason-ref", "SUP-1", "--json")
	if never.State != "completed_nothing_held" {
		t.Fatalf("%+v", never)
	}
	m.trakr(exitClean, "deletion", "certificate", never.RequestID, "--out", "nothing.json")
	key := m.trakr(exitClean, "audit", "checkpoint", "--key")
	if err := os.WriteFile(filepath.Join(m.dir, "log.vkey"), []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	m.trakr(exitClean, "verify", "nothing.json", "--key", "log.vkey")
	if s := m.trakr(exitClean, "deletion", "show", never.RequestID); !strings.Contains(s, "completed_nothing_held") || !strings.Contains(s, "SUP-1") {
		t.Error(s)
	}
	m.trakr(exitUsage, "deletion", "request", "--client-key", "connection:never")
	m.trakr(exitUsage, "deletion", "show", "nonsense")
	m.trakr(exitUsage, "deletion", "deny", never.RequestID, "--ground", "no", "--reason-ref", "SUP-1")
	m.trakr(exitFinding, "deletion", "approve", never.RequestID, "--reason-ref", "SUP-1")
	m.trakr(exitClean, "deletion", "list", "--overdue")
	if s := m.trakr(exitClean, "deletion", "list", "--all"); !strings.Contains(s, never.RequestID) {
		t.Error(s)
	}

	w := m.customer("connection:alone")
	var r struct {
		RequestID string `json:"request_id"`
		TenantID  string `json:"tenant_id"`
	}
	m.jsonOf(&r, "deletion", "request", "--client-key", w.key, "--reason-ref", "SUP-2", "--json")
	if s := m.trakr(exitFinding, "deletion", "approve", r.RequestID, "--reason-ref", "SUP-2"); !strings.Contains(s, "second person") {
		t.Error(s)
	}
	if s := m.trakr(exitFinding, "deletion", "request", "--client-key", w.key, "--reason-ref", "SUP-3"); !strings.Contains(s, r.RequestID) {
		t.Error(s)
	}
	if s := m.trakr(exitClean, "deletion", "cancel", r.RequestID); !strings.Contains(s, "cancelled") {
		t.Error(s)
	}

	tenant := r.TenantID
	until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	var hold struct {
		HoldID string `json:"hold_id"`
	}
	m.jsonOf(&hold, "hold", "place", tenant, "--ground", "legal_claim", "--until", until, "--reason-ref", "LEG-1", "--json")
	if s := m.trakr(exitClean, "hold", "list"); !strings.Contains(s, hold.HoldID) || !strings.Contains(s, "active") {
		t.Error(s)
	}
	m.trakr(exitUsage, "hold", "place", tenant, "--ground", "legal_claim", "--until", "tomorrow", "--reason-ref", "LEG-1")
	m.trakr(exitUsage, "hold", "place", tenant, "--ground", "legal_claim", "--until", until)
	m.trakr(exitClean, "hold", "release", hold.HoldID, "--reason-ref", "LEG-2")
	if s := m.trakr(exitClean, "hold", "list"); strings.Contains(s, hold.HoldID) {
		t.Error(s)
	}
	if s := m.trakr(exitClean, "hold", "list", "--all"); !strings.Contains(s, "released") {
		t.Error(s)
	}
}

// swept waits until the service's first sweep for orphans has ended clean.
func (m *machine) swept() {
	m.t.Helper()
	for range 300 {
		var list struct {
			Runs []struct{ Kind, Result string } `json:"runs"`
		}
		m.jsonOf(&list, "sweep", "list", "--json")
		for _, r := range list.Runs {
			if r.Kind == "orphans" && r.Result == "clean" {
				return
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	m.t.Fatal("no sweep for orphans ended clean")
}
