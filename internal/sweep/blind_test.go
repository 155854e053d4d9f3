package sweep_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"trakr/internal/erasure"
	"trakr/internal/erasure/erasuretest"
	"trakr/internal/lifecycle"
	"trakr/internal/store/findings"
	"trakr/internal/store/storetest"
	"trakr/policy"
)

func TestAnIdThatStaysSomewhereOrCannotBeLookedForIsNotCertifiedAway(t *testing.T) {
	for name, rest := range map[string]string{
		"in a column of no telling name": ``,
		"behind a restrictive policy": `ALTER TABLE public.notes RENAME owner TO tenant_id; GRANT SELECT ON public.notes TO trakr_sweep; ALTER TABLE public.notes ENABLE ROW LEVEL SECURITY;
			CREATE POLICY shown ON public.notes FOR SELECT TO trakr_sweep USING (true); CREATE POLICY taken ON public.notes AS RESTRICTIVE FOR SELECT USING (false)`,
	} {
		t.Run(name, func(t *testing.T) {
			e := storetest.New(t)
			r := erasuretest.New(t, e)
			id := e.Install(storetest.Values("stays"), "in")
			e.Exec(`CREATE TABLE public.notes (owner uuid); INSERT INTO public.notes VALUES ('` + id.String() + `');` + rest)
			out, err := r.Erase(t.Context(), storetest.Ingress(), id, erasure.Order{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: e.Delivery("bye")})
			if err != nil {
				t.Fatal(err)
			}
			var left *erasure.Remains
			if err := r.Finish(t.Context(), scheduler, uuid.MustParse(out.ErasureID), r.Run(t)); !errors.As(err, &left) || len(left.Checks) != 1 || left.Checks[0].Table != "public.notes" {
				t.Errorf("%v", err)
			}
			e.Exec(`DELETE FROM public.notes; ALTER TABLE public.notes DISABLE ROW LEVEL SECURITY`)
			err = r.Finish(t.Context(), scheduler, uuid.MustParse(out.ErasureID), r.Run(t))
			if errors.Is(err, lifecycle.NotFound) { // the counts have no place in the log yet
				r.AwaitSequencing(t.Context())
				err = r.Finish(t.Context(), scheduler, uuid.MustParse(out.ErasureID), r.Run(t))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWhatCannotBeSeenIsAFindingUntilItIsSeen(t *testing.T) {
	e := storetest.New(t)
	gone := e.Install(storetest.Values("gone"), "b")
	uninstall(t, e, gone)
	e.Exec(`CREATE TABLE public.cache (tenant_id uuid)`)
	declare(e, policy.Table{Name: "public.cache", Columns: []string{"tenant_id"}, HasTenant: true})
	hide := func(word string) {
		e.Clock.Add(time.Minute)
		e.Exec(`ALTER TABLE public.cache ` + word + ` ROW LEVEL SECURITY`)
	}
	hide("ENABLE")
	r := run(t, e)
	if r.Result != findings.Blind || len(r.Findings) != 1 || !r.Findings[0].Blind || r.Findings[0].Severity != findings.High || r.Findings[0].Table != "public.cache" || r.Findings[0].Ground == "" {
		t.Fatalf("%s: %+v", r.Result, r.Findings)
	}
	first := r.Findings[0].ID
	e.Clock.Add(time.Minute)
	if again := run(t, e); len(again.Findings) != 1 || again.Findings[0].ID != first {
		t.Errorf("%+v", again.Findings)
	}
	if counts, err := findings.New(e.DB).OpenCounts(t.Context()); err != nil || len(counts) != 1 || counts[0].Count != 1 {
		t.Errorf("%+v, %v", counts, err)
	}
	// Behind it was a row: that is told anew.
	e.Exec(`INSERT INTO public.cache VALUES ('` + gone.String() + `')`)
	hide("DISABLE")
	r = run(t, e)
	if len(r.Findings) != 1 || r.Findings[0].Blind || r.Findings[0].ID == first || r.Findings[0].Rows != 1 || r.Findings[0].Severity != findings.Critical {
		t.Fatalf("%+v", r.Findings)
	}
	found := r.Findings[0].ID
	// What is known stays known while it cannot be seen.
	hide("ENABLE")
	if r = run(t, e); r.Result != findings.Blind || len(r.Findings) != 1 || r.Findings[0].ID != found || r.Findings[0].Blind || r.Findings[0].Rows != 1 {
		t.Errorf("%s: %+v", r.Result, r.Findings)
	}
	e.Exec(`DELETE FROM public.cache`)
	hide("DISABLE")
	if r = run(t, e); r.Result != findings.Clean || len(r.Findings) != 0 {
		t.Errorf("%s: %+v", r.Result, r.Findings)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.finding_events`); n != 4 {
		t.Errorf("%d steps, want two opened and two resolved", n)
	}
}
