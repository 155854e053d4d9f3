package census_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trakr/internal/drift"
	"trakr/internal/store/census"
	"trakr/internal/store/findings"
	"trakr/internal/store/storetest"
)

// A large table is read in pieces, with pauses, while others write; what is counted and
// what is said to have been counted are the same.
func TestALargeTableIsCountedTheSameBesideTraffic(t *testing.T) {
	e := storetest.New(t)
	e.Install(storetest.Values("one"), "one")
	// 81,000 rows thinly spread over some 4,500 pages in two parts; one of 1,000 is stale.
	e.Exec(`CREATE TABLE public.large (tenant_id uuid, n bigint) PARTITION BY RANGE (n);
		CREATE TABLE public.large_1 PARTITION OF public.large FOR VALUES FROM (0) TO (80000) WITH (fillfactor = 10);
		CREATE TABLE public.large_2 PARTITION OF public.large FOR VALUES FROM (80000) TO (90000);
		INSERT INTO public.large SELECT CASE WHEN n % 1000 = 0 THEN gen_random_uuid() ELSE t.tenant_id END, n FROM trakr.tenants AS t, generate_series(0, 80999) AS n;
		CREATE TABLE public.traffic (n bigint); ANALYZE public.large`)
	pieces := func() int64 {
		return e.Int(`SELECT (length(s) - length(replace(s, 'door.pace', ''))) / length('door.pace') FROM door.source('public', 'large', 'tenant_id') AS s`)
	}
	counted := func() findings.Check {
		t.Helper()
		checks, _, err := census.New(e.DB).Orphans(t.Context(), drift.Declared(e.Policy))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range checks {
			if c.Table == "public.large" && c.Column == "tenant_id" {
				c.Duration = 0
				return c
			}
		}
		t.Fatal("the table was not counted")
		return findings.Check{}
	}
	if n := pieces(); n != 0 {
		t.Errorf("nobody writes, and the table is read in %d pieces", n)
	}
	alone := counted()
	if alone.Rows != 81 {
		t.Fatalf("alone: %+v", alone)
	}
	done := make(chan error)
	go func() {
		done <- e.TryExec(`DO $$ BEGIN
			WHILE NOT EXISTS (SELECT FROM public.traffic WHERE n = 0) LOOP
				INSERT INTO public.traffic SELECT generate_series(1, 100);
				COMMIT;
				PERFORM pg_sleep(0.005);
			END LOOP;
		END $$`)
	}()
	for e.Int(`SELECT count(*) FROM public.traffic`) == 0 {
		time.Sleep(time.Millisecond)
	}
	n, beside := pieces(), counted()
	e.Exec(`INSERT INTO public.traffic VALUES (0)`)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n < 5 {
		t.Errorf("others write, and the table is read in %d pieces", n)
	}
	beside.CheckedAt = alone.CheckedAt
	if d := cmp.Diff(alone, beside); d != "" {
		t.Errorf("alone, and beside others who write:\n%s", d)
	}
}
