package sweep_test

import (
	"errors"
	"testing"

	"github.com/google/uuid"

	"trakr/internal/erasure"
	"trakr/internal/erasure/erasuretest"
	"trakr/internal/lifecycle"
	"trakr/internal/store/storetest"
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
			if err := r.Finish(t.Context(), scheduler, uuid.MustParse(out.ErasureID), uuid.NewString()); !errors.As(err, &left) || len(left.Checks) != 1 || left.Checks[0].Table != "public.notes" {
				t.Errorf("%v", err)
			}
			e.Exec(`DELETE FROM public.notes; ALTER TABLE public.notes DISABLE ROW LEVEL SECURITY`)
			if err := r.Finish(t.Context(), scheduler, uuid.MustParse(out.ErasureID), uuid.NewString()); err != nil {
				t.Error(err)
			}
		})
	}
}
