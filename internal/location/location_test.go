package location_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/location"
	"trakr/internal/store/inventory"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tenants"
	"trakr/internal/sweep"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

var reviewer = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorStaff, ID: "token:r", Role: lifecycle.RoleReviewer},
	Reason: lifecycle.Reason{Code: lifecycle.ReviewerExport}}

func reporter(t *testing.T, e *storetest.Env) *location.Reporter {
	t.Helper()
	r, err := sweep.New(e.DB, e.Policy, e.Clock.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return &location.Reporter{Policy: e.Policy, Inventory: inventory.New(e.DB), Sweeps: r, Now: e.Clock.Now, Version: "test"}
}

func TestTheSameMomentAndStateGiveTheSameBytes(t *testing.T) {
	e := storetest.New(t)
	e.Clock.Add(-time.Hour) // what happens, happens before the moment
	e.Install(storetest.Values("a"), "a")
	r := reporter(t, e)
	time.Sleep(1100 * time.Millisecond) // the database's clock must pass the second in which the install was recorded
	asOf, err := inventory.New(e.DB).Clock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"location", "retention"} {
		for _, format := range []string{"json", "csv", "html"} {
			first, _, err := r.Issue(t.Context(), reviewer, kind, format, asOf)
			if err != nil {
				t.Fatal(err)
			}
			e.Clock.Add(time.Minute)
			second, _, err := r.Issue(t.Context(), reviewer, kind, format, asOf)
			if err != nil || !bytes.Equal(first, second) {
				t.Errorf("%s as %s changed although nothing else did: %v", kind, format, err)
			}
		}
	}
	if n := e.Int(`SELECT count(*) FROM trakr.reports_issued`); n != 12 {
		t.Errorf("%d reports recorded, want 12", n)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'report.issue'`); n != 12 {
		t.Errorf("%d reports in the audit, want 12", n)
	}
}

func TestFactsAreWhatTheDatabaseHolds(t *testing.T) {
	e := storetest.New(t)
	e.Clock.Add(-time.Hour)
	e.Install(storetest.Values("a"), "a")
	gone := e.Install(storetest.Values("b"), "b")
	requested := e.Clock.Now()
	e.Clock.Add(2 * time.Hour / 3)
	if _, err := e.Door.Erase(t.Context(), storetest.Ingress(), gone, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: requested.Add(-time.Hour), Delivery: e.Delivery("c")}); err != nil {
		t.Fatal(err)
	}
	e.Exec(`CREATE TABLE public.cache (x int); INSERT INTO public.cache VALUES (1), (2)`)
	f, err := reporter(t, e).Facts(t.Context(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if f.LiveTenants != 1 || f.ErasedTenants != 1 || f.Erasures.Total != 1 || f.Erasures.Late != 1 || f.Erasures.LongestLag != time.Hour+2*time.Hour/3 {
		t.Errorf("%+v", f)
	}
	seen := map[string]int64{}
	for _, table := range f.Tables {
		seen[table.Name] = table.Rows
		if table.Declared == (table.Name == "public.cache") {
			t.Errorf("%s: declared=%v", table.Name, table.Declared)
		}
	}
	if seen["trakr.tenant_fields"] != 1 || seen["trakr.tenants"] != 2 || seen["public.cache"] != 2 {
		t.Errorf("rows: %v", seen)
	}
	if !f.Sweeps[0].Overdue || f.Sweeps[0].RunID != "" {
		t.Errorf("a sweep that never ran: %+v", f.Sweeps[0])
	}
	conflict := false
	for _, o := range f.Observations {
		conflict = conflict || o.Conflict
	}
	if !conflict {
		t.Error("a database on this machine does not contradict a managed one elsewhere")
	}
}

func TestNoReportAboutTheFutureOrWithoutARecord(t *testing.T) {
	e := storetest.New(t)
	r := reporter(t, e)
	if _, _, err := r.Issue(t.Context(), reviewer, "location", "html", time.Now().Add(time.Hour)); !errors.Is(err, lifecycle.RequestInvalid) {
		t.Errorf("the future: %v", err)
	}
	for _, sql := range storetest.Breaks() {
		e := storetest.New(t)
		r := reporter(t, e)
		e.Exec(sql)
		if b, _, err := r.Issue(t.Context(), reviewer, "retention", "html", time.Time{}); err == nil || b != nil {
			t.Errorf("a report left unrecorded after: %s", sql)
		}
	}
}
