package erasure_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"trakr/internal/erasure"
	"trakr/internal/erasure/erasuretest"
	"trakr/internal/erasure/ledger"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/holds"
	"trakr/internal/store/storetest"
)

var lawyer = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorStaff, ID: "token:lawyer", Role: lifecycle.RoleReviewer},
	Reason: lifecycle.Reason{Code: lifecycle.LegalRequest, Ref: "LEG-1"}, RequestID: "req-test"}

// step is a line that the ledger got after the backup was made.
func step(t *testing.T, e *storetest.Env, r *erasuretest.Rig, id lifecycle.TenantID, hold string, s ledger.Step, until time.Time) {
	t.Helper()
	digest, err := e.Keys.Digest(keyring.Tenant, lifecycle.NewSecret(id.String()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Config.Ledger.Append(t.Context(), ledger.Entry{TenantDigest: digest.String(), At: e.Clock.Now(),
		Hold: &ledger.Hold{ID: hold, Step: s, Ground: string(holds.LegalClaim), Until: until}}); err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, e *storetest.Env, r *erasuretest.Rig, id lifecycle.TenantID) []holds.Hold {
	t.Helper()
	all, err := r.Config.Holds.List(t.Context(), id, e.Clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A backup does not know the holds placed after it. They are put back before anything
// is erased again; those that were released or ended meanwhile are not.
func TestAHoldThatABackupForgotKeepsItsValues(t *testing.T) {
	e := storetest.New(t)
	r := erasuretest.New(t, e)
	ids := restored(t, e, r, "held", "released", "expired", "plain")
	hour := e.Clock.Now().Add(time.Hour)
	ids = append(ids, e.Install(storetest.Values("live"), "in live")) // held, and never uninstalled
	hold := make([]string, len(ids))
	for i, id := range ids {
		if hold[i] = uuid.NewString(); i == 3 {
			continue
		}
		until := hour
		if i == 2 {
			until = e.Clock.Now().Add(time.Minute)
		}
		step(t, e, r, id, hold[i], ledger.Placed, until)
	}
	step(t, e, r, ids[1], hold[1], ledger.Released, hour)
	step(t, e, r, lifecycle.NewTenantID(), uuid.NewString(), ledger.Placed, hour) // installed after the backup: not here
	e.Clock.Add(time.Minute)

	if n, held, err := r.Resurrected(t.Context()); err != nil || n != 4 || held != 2 {
		t.Errorf("%d tenants and %d holds came back, %v", n, held, err)
	}
	got, err := r.Replay(t.Context(), scheduler, erasure.NewLines)
	if err != nil || got.Held != 2 || got.Released != 0 || got.Erased != 4 || got.Delayed != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, id := range ids {
		if answers(t, e, id) != (i == 4) {
			t.Errorf("tenant %d answers: %t", i, i != 4)
		}
		want := int64(0)
		if i == 0 || i == 4 {
			want = 1
		}
		if n := e.Int("SELECT count(*) FROM trakr.tenant_fields WHERE tenant_id = $1", id.String()); n != want {
			t.Errorf("%d rows of values of tenant %d, want %d", n, i, want)
		}
		if all := list(t, e, r, id); int64(len(all)) != want || want == 1 && (all[0].ID != hold[i] || all[0].PlacedBy != holds.AtRestore || all[0].Ground != holds.LegalClaim || !all[0].Until.Equal(hour)) {
			t.Errorf("tenant %d is held by %+v", i, all)
		}
	}
	placed := 0
	for _, x := range e.Events() {
		if x.Action == audit.HoldPlace && x.ActorID == holds.AtRestore && x.Outcome == audit.Success {
			placed++
		}
	}
	if placed != 2 {
		t.Errorf("%d events of holds put back", placed)
	}
	if got, err := r.Replay(t.Context(), scheduler, erasure.AllLines); err != nil || got.Held+got.Released+got.Erased != 0 {
		t.Errorf("once more: %+v, %v", got, err)
	}
	// Its release erases.
	if _, err := r.Config.Holds.Release(t.Context(), lawyer, hold[0]); err != nil {
		t.Fatal(err)
	}
	x, err := r.Config.Erasures.Of(t.Context(), ids[0])
	if err != nil || x.Trigger != lifecycle.TriggerRestoreReplay {
		t.Fatalf("%+v, %v", x, err)
	}
	finish(t, r, x.ID.String())
	if n := e.Int("SELECT count(*) FROM trakr.tenant_fields WHERE tenant_id = $1", ids[0].String()); n != 0 {
		t.Errorf("%d rows of values after the release", n)
	}
}

// A backup that knows a hold does not know its release: it is released again.
func TestAReleaseThatABackupForgotIsRepeated(t *testing.T) {
	e := storetest.New(t)
	r := erasuretest.New(t, e)
	id := e.Install(storetest.Values("again"), "in")
	until := e.Clock.Now().Add(time.Hour)
	h, err := r.Config.Holds.Place(t.Context(), lawyer, holds.Order{Tenant: id, Ground: holds.LegalClaim, Until: until})
	if err != nil {
		t.Fatal(err)
	}
	step(t, e, r, id, h.ID, ledger.Released, until)
	if got, err := r.Replay(t.Context(), scheduler, erasure.NewLines); err != nil || got.Released != 1 || got.Held != 0 || len(list(t, e, r, id)) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// Holds from before the ledger kept any, and a release while it was out, are entered by
// the next replay; what is there is not entered twice.
func TestWhatTheLedgerLacksOfHoldsIsEntered(t *testing.T) {
	e := storetest.New(t)
	r := erasuretest.New(t, e)
	old := storetest.Must(t)(holds.New(e.DB, e.Log, e.Policy, &storetest.Outside{})).(*holds.Store)
	var ids []string
	for _, name := range []string{"stands", "released"} {
		id := e.Install(storetest.Values(name), "in "+name)
		h := storetest.Must(t)(old.Place(t.Context(), lawyer, holds.Order{Tenant: id, Ground: holds.Restriction, Until: e.Clock.Now().Add(time.Hour)})).(holds.Hold)
		ids = append(ids, h.ID)
	}
	if _, err := old.Release(t.Context(), lawyer, ids[1]); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := r.Replay(t.Context(), scheduler, erasure.NewLines); err != nil {
			t.Fatal(err)
		}
	}
	var steps []string
	if err := r.Config.Ledger.Entries(t.Context(), func(x ledger.Entry) error {
		steps = append(steps, string(x.Hold.Step)+" "+x.Hold.ID)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(steps) != 3 || steps[0] != "placed "+ids[0] || steps[1] != "placed "+ids[1] || steps[2] != "released "+ids[1] {
		t.Errorf("the ledger has %q", steps)
	}
}

// A crash between the ledger's line and the commit leaves a hold that the ledger alone
// knows: it is placed by the next replay, so that it is not lost.
func TestAHoldWhoseCommitFailedIsPutBack(t *testing.T) {
	e := storetest.New(t)
	r := erasuretest.New(t, e)
	id := e.Install(storetest.Values("commit"), "in")
	e.Exec(`CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'too late'; END $$;
		CREATE CONSTRAINT TRIGGER late AFTER INSERT ON trakr.legal_holds DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.late()`)
	if _, err := r.Config.Holds.Place(t.Context(), lawyer, holds.Order{Tenant: id, Ground: holds.LegalClaim, Until: e.Clock.Now().Add(time.Hour)}); !errors.Is(err, lifecycle.AuditUnavailable) {
		t.Fatalf("the commit did not fail: %v", err)
	}
	e.Exec(`DROP TRIGGER late ON trakr.legal_holds`)
	if got, err := r.Replay(t.Context(), scheduler, erasure.NewLines); err != nil || got.Held != 1 || len(list(t, e, r, id)) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}
