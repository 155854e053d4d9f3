package census_test

import (
	"os"
	"testing"

	"trakr/internal/drift"
	"trakr/internal/lifecycle"
	"trakr/internal/store/census"
	"trakr/internal/store/findings"
	"trakr/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// count is a tenant's rows as checks by table and column.
func count(t *testing.T, e *storetest.Env, id lifecycle.TenantID) map[string]findings.Check {
	t.Helper()
	checks, at, err := census.New(e.DB).Tenant(t.Context(), id, drift.Declared(e.Policy))
	if err != nil || at.IsZero() {
		t.Fatal(err)
	}
	out := map[string]findings.Check{}
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
	for column, want := range map[string]findings.Check{
		"trakr.tenants tenant_id":       {Disposition: findings.Retained, Rows: 1},
		"trakr.tenant_fields tenant_id": {Disposition: findings.Checked, Rows: 1},
		"trakr.replay_guard tenant_id":  {Disposition: findings.Checked, Rows: 1},
		"trakr.erasures tenant_id":      {Disposition: findings.Retained, Rows: 0},
		"trakr.audit_events tenant_id":  {Disposition: findings.Retained, Rows: 1},
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
	if c := got["public.later tenant"]; c.Rows != 1 || !c.Undeclared || c.Disposition != findings.Checked {
		t.Errorf("an id in a text: %+v", c)
	}
	for _, column := range []string{"public.hidden tenant_id", "public.opaque tenant_hash"} {
		if c, ok := got[column]; !ok || c.Disposition != findings.Unjudged {
			t.Errorf("%s: %+v", column, c)
		}
	}
}

func TestAnIdIsFoundWhereNoPolicySaysWhatIsKeptWhateverTheColumnsName(t *testing.T) {
	e := storetest.New(t)
	id := e.Install(storetest.Values("unsaid"), "one")
	e.Install(storetest.Values("other"), "two")
	e.Exec(`CREATE TABLE public.notes (owner uuid, body jsonb, sum bytea, n integer)`)
	e.Exec(`INSERT INTO public.notes VALUES ($1::uuid, jsonb_build_object('of', upper($1::uuid::text)), NULL, 1), (gen_random_uuid(), '{}', NULL, 2)`, id.String())
	e.Exec(`CREATE TABLE trakr."user" (of_whom text)`) // a name that SQL quotes
	e.Exec(`ALTER TABLE trakr.sweep_runs ADD COLUMN started_for uuid`)
	e.Exec(`CREATE TABLE public.sealed (owner text); ALTER TABLE public.sealed ENABLE ROW LEVEL SECURITY`)
	e.Exec(`CREATE TABLE public.hashes (v bytea); INSERT INTO public.hashes VALUES ('\x01')`)
	got := count(t, e, id)
	for column, rows := range map[string]int64{"public.notes owner": 1, "public.notes body": 1, "public.notes sum": 0, "trakr.user of_whom": 0, "trakr.sweep_runs started_for": 0} {
		if c, ok := got[column]; !ok || c.Rows != rows || c.Disposition != findings.Checked || !c.Undeclared {
			t.Errorf("%s: %+v", column, c)
		}
	}
	for _, column := range []string{"public.sealed owner", "public.hashes v"} {
		if c, ok := got[column]; !ok || c.Disposition != findings.Unjudged {
			t.Errorf("%s: %+v", column, c)
		}
	}
	for _, column := range []string{"public.notes n", "trakr.sweep_runs run_id", "trakr.tenants ingress"} {
		if c, ok := got[column]; ok {
			t.Errorf("%s is counted although it is declared or cannot hold an id: %+v", column, c)
		}
	}
}

func TestWhatARestrictivePolicyTakesBackIsNotZero(t *testing.T) {
	for name, to := range map[string]string{"from everybody": "PUBLIC", "from the role that counts": "trakr_sweep", "from one it is in": "pg_read_all_data", "from somebody else": "trakr_reader"} {
		t.Run(name, func(t *testing.T) {
			e := storetest.New(t)
			id := e.Install(storetest.Values("hidden"), "one")
			e.Exec(`CREATE TABLE public.notes (tenant_id uuid); INSERT INTO public.notes VALUES ('` + id.String() + `'); GRANT SELECT ON public.notes TO trakr_sweep;
				ALTER TABLE public.notes ENABLE ROW LEVEL SECURITY; CREATE POLICY shown ON public.notes FOR SELECT TO trakr_sweep USING (true)`)
			if c := count(t, e, id)["public.notes tenant_id"]; c.Disposition != findings.Checked || c.Rows != 1 {
				t.Fatalf("shown: %+v", c)
			}
			e.Exec(`CREATE POLICY taken ON public.notes AS RESTRICTIVE TO ` + to + ` USING (false)`)
			c := count(t, e, id)["public.notes tenant_id"]
			if want := map[bool]findings.Disposition{true: findings.Checked, false: findings.Unjudged}[to == "trakr_reader"]; c.Disposition != want {
				t.Errorf("%+v", c)
			}
		})
	}
}
