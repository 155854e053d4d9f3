package sweeps_test

import (
	"os"
	"testing"

	"trakr/internal/lifecycle"
	"trakr/internal/store/storetest"
	"trakr/internal/store/sweeps"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// count is a tenant's rows as checks by table and column.
func count(t *testing.T, e *storetest.Env, id lifecycle.TenantID) map[string]sweeps.Check {
	t.Helper()
	checks, at, err := sweeps.New(e.DB).Tenant(t.Context(), id, func(table string) (sweeps.Declaration, bool) {
		d, s, ok := e.Policy.Table(table)
		if !ok {
			return sweeps.Declaration{}, false
		}
		if d.Retained != nil {
			return sweeps.Declaration{Store: s.Name, Ground: d.Retained.Ground}, true
		}
		return sweeps.Declaration{Store: s.Name}, true
	})
	if err != nil || at.IsZero() {
		t.Fatal(err)
	}
	out := map[string]sweeps.Check{}
	for _, c := range checks {
		out[c.Table+" "+c.Column] = c
	}
	return out
}

func TestATenantsRowsAreCountedInEveryTableThatCarriesOne(t *testing.T) {
	e := storetest.New(t)
	id := e.Install(storetest.Values("counted"), "one")
	e.Install(storetest.Values("other"), "two")
	got := count(t, e, id)
	for column, want := range map[string]sweeps.Check{
		"trakr.tenants tenant_id":       {Disposition: sweeps.Retained, Rows: 1},
		"trakr.tenant_fields tenant_id": {Disposition: sweeps.Checked, Rows: 1},
		"trakr.replay_guard tenant_id":  {Disposition: sweeps.Checked, Rows: 1},
		"trakr.erasures tenant_id":      {Disposition: sweeps.Retained, Rows: 0},
		"trakr.audit_events tenant_id":  {Disposition: sweeps.Retained, Rows: 1},
	} {
		c, ok := got[column]
		if !ok || c.Disposition != want.Disposition || c.Rows != want.Rows || len(c.PredicateDigest) != 64 {
			t.Errorf("%s: %+v", column, c)
		}
	}
	if other := count(t, e, lifecycle.NewTenantID()); other["trakr.tenant_fields tenant_id"].Rows != 0 || other["trakr.tenant_fields tenant_id"].PredicateDigest != got["trakr.tenant_fields tenant_id"].PredicateDigest {
		t.Error("a stranger's rows are counted, or by another predicate")
	}
}

func TestWhatNobodyThoughtOfIsCountedAndWhatCannotBeToldIsNotZero(t *testing.T) {
	e := storetest.New(t)
	id := e.Install(storetest.Values("strange"), "one")
	e.Exec(`CREATE TABLE public.later (tenant text); INSERT INTO public.later VALUES ('{' || upper(replace('` + id.String() + `', '-', '')) || '}'), ('nobody')`)
	e.Exec(`CREATE TABLE public.hidden (tenant_id uuid); INSERT INTO public.hidden VALUES ('` + id.String() + `'); ALTER TABLE public.hidden ENABLE ROW LEVEL SECURITY`)
	e.Exec(`CREATE TABLE public.opaque (tenant_hash bytea); INSERT INTO public.opaque VALUES ('\x01')`)
	got := count(t, e, id)
	if c := got["public.later tenant"]; c.Rows != 1 || !c.Undeclared || c.Disposition != sweeps.Checked {
		t.Errorf("an id in a text: %+v", c)
	}
	for _, column := range []string{"public.hidden tenant_id", "public.opaque tenant_hash"} {
		if c, ok := got[column]; !ok || c.Disposition != sweeps.Unjudged {
			t.Errorf("%s: %+v", column, c)
		}
	}
}
