package location_test

import (
	"context"
	"maps"
	"testing"
	"time"

	"trakr/internal/connect"
	"trakr/internal/lifecycle"
	"trakr/internal/location"
	"trakr/internal/store/audit"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tenants"
	"trakr/internal/sweep"
	"trakr/policy"
	"trakr/reports"
)

// Reality changes under a running database, and exactly the sentences bound to what
// changed turn false; put back, the statement is what it was.
func TestRealityTurnsExactlyTheBoundSentencesFalse(t *testing.T) {
	e := storetest.New(t)
	e.Policy.Stores[0].Connection = "local" // as these tests reach it
	e.Install(storetest.Values("one"), "one")
	r := reporter(t, e)
	var err error
	if r.Statement, err = policy.LoadStatement("", reports.Checks()); err != nil {
		t.Fatal(err)
	}
	descriptor, err := connect.Descriptor(e.Policy, "https://data.trakr.example.com")
	if err != nil {
		t.Fatal(err)
	}
	if r.Scopes, err = location.Scopes(descriptor, e.Policy); err != nil {
		t.Fatal(err)
	}
	settings := []tenants.Party{{Setting: "TRAKR_BITBUCKET_API_URL", To: "bitbucket", Host: "api.bitbucket.org"}}
	r.Running = func(context.Context) ([]tenants.Holder, error) {
		return []tenants.Holder{{Acts: tenants.Acts{PolicyHash: e.Policy.Hash(), TalksTo: settings}}}, nil
	}
	untrue := func() map[string]bool {
		t.Helper()
		f, err := r.Facts(t.Context(), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]bool{}
		for _, s := range reports.SecurityStatementOf(e.Policy, r.Statement, f, "test").Sentences {
			if s.State == reports.False {
				out[s.ID] = true
			}
		}
		return out
	}
	swept := func() {
		t.Helper()
		if _, err := r.Sweeps.RunOnce(t.Context(), scheduler, sweep.Orphans, sweep.ByCommand); err != nil {
			t.Fatal(err)
		}
	}
	swept()
	before := untrue()
	// No scheduler runs here, and the tests' server does not flush.
	if !maps.Equal(before, map[string]bool{"checked": true, "access": true}) {
		t.Fatalf("false at the beginning: %v", before)
	}
	for _, c := range []struct {
		what        string
		change, put func()
		want        []string
	}{
		{"a column for e-mail", func() { e.Exec(`ALTER TABLE trakr.tenants ADD COLUMN owner_email text`) }, func() { e.Exec(`ALTER TABLE trakr.tenants DROP COLUMN owner_email`) }, []string{"kept", "no-contact-data"}},
		{"a table nobody declared", func() { e.Exec(`CREATE TABLE public.copies (x text)`) }, func() { e.Exec(`DROP TABLE public.copies`) }, []string{"kept", "no-contact-data"}},
		{"another place", func() { e.Policy.Stores[0].Connection = "network" }, func() { e.Policy.Stores[0].Connection = "local" }, []string{"location"}},
		{"a host", func() {
			settings = append(settings, tenants.Party{Setting: "TRAKR_WEBHOOK_URL", To: "findings", Host: "hooks.example.net"})
		}, func() { settings = settings[:1] }, []string{"use"}},
		{"a scope", func() { r.Scopes = append(r.Scopes, reports.ScopeFacts{Name: "repository"}) }, func() { r.Scopes = r.Scopes[:2] }, []string{"scopes"}},
		{"a row that remains", func() {
			e.Exec(`CREATE TABLE public.orphans (tenant_id uuid); INSERT INTO public.orphans VALUES (gen_random_uuid()); GRANT SELECT ON public.orphans TO trakr_sweep`)
			swept()
		}, func() { e.Exec(`DROP TABLE public.orphans`); swept() }, []string{"deleted", "checked", "kept", "no-contact-data"}},
		{"a late erasure", func() {
			late := e.Install(storetest.Values("late"), "late")
			if _, err := e.Erase(t.Context(), storetest.Ingress(), late, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now().Add(-2 * time.Hour), Delivery: e.Delivery("late bye")}); err != nil {
				t.Fatal(err)
			}
		}, nil, []string{"deleted"}},
		{"one more field sent", func() {
			x := audit.New(t.Context(), e.Clock.Now(), scheduler, audit.DeliverySend, audit.Success)
			x.FieldNames, x.Recipient = []lifecycle.Field{lifecycle.Username}, "api.trakr.example.com"
			if err := e.Log.Record(t.Context(), x); err != nil {
				t.Fatal(err)
			}
		}, nil, []string{"deleted", "use"}}, // the late one stays
	} {
		c.change()
		want := maps.Clone(before)
		for _, id := range c.want {
			want[id] = true
		}
		if got := untrue(); !maps.Equal(got, want) {
			t.Errorf("%s: false are %v, want %v", c.what, got, want)
		}
		if c.put == nil {
			continue
		}
		if c.put(); !maps.Equal(untrue(), before) {
			t.Errorf("%s, put back: %v", c.what, untrue())
		}
	}
}
