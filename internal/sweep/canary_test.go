package sweep_test

import (
	"strings"
	"testing"

	"trakr/internal/lifecycle"
	"trakr/internal/store/census"
	"trakr/internal/store/findings"
	"trakr/internal/store/storetest"
	"trakr/internal/sweep"
	"trakr/policy"
)

const canaries = "trakr.sweep_canaries"

// unplanted runs the orphan sweep without planting anything before.
func unplanted(t *testing.T, e *storetest.Env) findings.Run {
	t.Helper()
	r, err := runner(t, e).RunOnce(t.Context(), scheduler, sweep.Orphans, sweep.ByCommand)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTheCanaryIsSeenAndIsNoFinding(t *testing.T) {
	e := storetest.New(t)
	for range 3 { // each removes the one before
		if err := census.New(e.DB).PlantCanary(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r := unplanted(t, e)
	c := check(r, canaries)
	if r.Result != findings.Clean || len(r.Findings) != 0 || c.Disposition != findings.Retained || c.Rows != 1 || len(c.PredicateDigest) != 64 || !strings.Contains(c.Ground, "canary") {
		t.Errorf("%s: %+v", r.Result, c)
	}
}

func TestASweepThatDoesNotSeeTheCanaryIsBlind(t *testing.T) {
	for name, c := range map[string]struct {
		sql, says string
		want      findings.Result
	}{
		"its writer stopped before the first":    {`DELETE FROM trakr.sweep_canaries`, "none is there", findings.Blind},
		"its writer stopped twenty minutes ago":  {`UPDATE trakr.sweep_canaries SET planted_at = now() - interval '20 minutes 1 second'`, "stale", findings.Blind},
		"the newest is not twenty minutes old":   {`UPDATE trakr.sweep_canaries SET planted_at = now() - interval '19 minutes'`, "", findings.Clean},
		"row-level security hides it":            {`ALTER TABLE trakr.sweep_canaries ENABLE ROW LEVEL SECURITY`, "row-level security", findings.Blind},
		"its table is gone":                      {`DROP TABLE trakr.sweep_canaries`, "missing from the catalog", findings.Blind},
		"the counting function counts something": {strings.NewReplacer("$body", "SELECT ''SELECT 1'', 0::bigint, 0::bigint").Replace(`DO $do$ BEGIN EXECUTE 'CREATE OR REPLACE FUNCTION door.count_orphans(p_schema name, p_table name, p_column name) RETURNS TABLE (predicate text, rows bigint, filled bigint) LANGUAGE sql STABLE SECURITY DEFINER AS $b$ $body $b$'; END $do$`), "none is there", findings.Blind},
	} {
		t.Run(name, func(t *testing.T) {
			e := storetest.New(t)
			if err := census.New(e.DB).PlantCanary(t.Context()); err != nil {
				t.Fatal(err)
			}
			e.Exec(c.sql)
			r := unplanted(t, e)
			got := check(r, canaries)
			if r.Result != c.want || (c.want == findings.Blind && (got.Disposition != findings.Unjudged || !strings.Contains(got.Ground, c.says))) {
				t.Errorf("%s: %+v", r.Result, got)
			}
			if c.want == findings.Blind {
				if name == "its table is gone" {
					return
				}
				e.Exec(`ALTER TABLE trakr.sweep_canaries DISABLE ROW LEVEL SECURITY`)
				if err := census.New(e.DB).PlantCanary(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// Nobody can make a sweep believe that it sees, but the canary's own writer.
func TestOnlyItsWriterPlantsTheCanary(t *testing.T) {
	e := storetest.New(t)
	for _, sql := range []string{`INSERT INTO trakr.sweep_canaries DEFAULT VALUES`, `DELETE FROM trakr.sweep_canaries`, `UPDATE trakr.sweep_canaries SET planted_at = now()`} {
		if err := e.TryExec("SET ROLE trakr_service; " + sql); err == nil {
			t.Errorf("the service may %s", sql)
		}
	}
	if err := e.TryExec(`INSERT INTO trakr.sweep_canaries (tenant_id) VALUES (gen_random_uuid())`); err == nil {
		t.Error("any tenant can be a canary")
	}
	if err := e.TryExec(`INSERT INTO trakr.tenants (tenant_id, ingress, state, installed_at, updated_at, erased_at) VALUES ('00000000-0000-8000-8000-63616e617279', 'connect', 'erased', now(), now(), now())`); err == nil {
		t.Error("a tenant can have the canary's id")
	}
}

// Row-level guards, or a grant that nobody thought of, never make the sweep see zero:
// a row that a superuser puts into any table of the catalog is counted.
func TestTheSweepSeesARowInEveryTable(t *testing.T) {
	e := storetest.New(t)
	stale := lifecycle.NewTenantID().String()
	e.Exec(`CREATE TABLE public.guarded (tenant_id uuid NOT NULL); ALTER TABLE public.guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
		CREATE POLICY counts ON public.guarded FOR SELECT TO trakr_sweep USING (true); CREATE TABLE public.plain (tenant_id uuid)`)
	// One row of every table with a tenant: a value of its type in every column that
	// needs one, past every check and reference.
	e.Exec(`SET session_replication_role = replica; DO $$ DECLARE t record; c record; names text; vals text; BEGIN
		FOR t IN SELECT DISTINCT schema_name, table_name, column_name FROM door.tenant_columns() WHERE carries = 'tenant' AND kind = 'uuid' AND table_name <> 'sweep_canaries' LOOP
			EXECUTE format('ALTER TABLE %I.%I DISABLE TRIGGER USER', t.schema_name, t.table_name);
			FOR c IN SELECT conname FROM pg_constraint WHERE conrelid = format('%I.%I', t.schema_name, t.table_name)::regclass AND contype = 'c' AND conislocal LOOP
				EXECUTE format('ALTER TABLE %I.%I DROP CONSTRAINT %I', t.schema_name, t.table_name, c.conname);
			END LOOP;
			SELECT string_agg(format('%I', a.attname), ', '), string_agg(CASE WHEN a.attname = t.column_name THEN quote_literal('` + stale + `') || '::uuid'
				ELSE CASE a.atttypid::regtype::text WHEN 'uuid' THEN 'gen_random_uuid()' WHEN 'timestamp with time zone' THEN 'now()' WHEN 'boolean' THEN 'false'
					WHEN 'integer' THEN '1' WHEN 'bigint' THEN '1' WHEN 'bytea' THEN '''\x00''' WHEN 'text' THEN '''erased''' ELSE '''{}''' END END, ', ')
			INTO names, vals FROM pg_attribute AS a
			WHERE a.attrelid = format('%I.%I', t.schema_name, t.table_name)::regclass AND a.attnum > 0 AND NOT a.attisdropped
				AND (a.attname = t.column_name OR (a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''));
			EXECUTE format('INSERT INTO %I.%I (%s) VALUES (%s)', t.schema_name, t.table_name, names, vals);
		END LOOP; END $$`)
	r := run(t, e)
	seen := 0
	for _, s := range e.Policy.Stores {
		for _, d := range s.Tables {
			if c := checkColumn(r, d.Name, "tenant_id"); d.HasTenant && c.Rows < 1 {
				t.Errorf("%s: %+v", d.Name, c)
			} else if d.HasTenant {
				seen++
			}
		}
	}
	for _, table := range []string{"public.guarded", "public.plain"} {
		if c := checkColumn(r, table, "tenant_id"); c.Rows != 1 || c.Disposition != findings.Checked {
			t.Errorf("%s: %+v", table, c)
		}
	}
	if seen < 6 {
		t.Errorf("only %d tables carry a tenant", seen)
	}
}

// A later release guards its new table and forgets the sweep.
func TestAGuardedTableThatForgotTheSweepIsNeverClean(t *testing.T) {
	e := storetest.New(t)
	e.Exec(`CREATE TABLE public.guarded (tenant_id uuid NOT NULL); INSERT INTO public.guarded VALUES (gen_random_uuid());
		ALTER TABLE public.guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY others ON public.guarded USING (false)`)
	declare(e, policy.Table{Name: "public.guarded", Columns: []string{"tenant_id"}, HasTenant: true})
	r := run(t, e)
	if c := checkColumn(r, "public.guarded", "tenant_id"); r.Result != findings.Blind || c.Disposition != findings.Unjudged || !strings.Contains(c.Ground, "row-level security") {
		t.Errorf("%s: %+v", r.Result, c)
	}
}
