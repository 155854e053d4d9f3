package tenants_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/holds"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tenants"
)

// off switches fields off in the policy that the door acts by.
func off(e *storetest.Env, fields ...lifecycle.Field) {
	for i, f := range e.Policy.Fields {
		e.Policy.Fields[i].Off = slices.Contains(fields, f.Name)
	}
}

func sweeper() lifecycle.Access {
	return lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "cron", Role: lifecycle.RoleScheduler},
		Reason: lifecycle.Reason{Code: lifecycle.SystemSweep}, RequestID: "cron"}
}

func TestAFieldThatIsOffIsNeitherStoredNorReleased(t *testing.T) {
	e := storetest.New(t)
	off(e, lifecycle.Username)
	id := e.Install(storetest.Values("one"), "one")
	if _, err := e.Door.Update(t.Context(), storetest.Ingress(), id, storetest.Values("two"), e.Delivery("two")); err != nil {
		t.Fatal(err)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.tenant_fields WHERE username IS NOT NULL OR avatar_url IS NULL`); n != 0 {
		t.Error("the username is stored, or the avatar is not")
	}
	_, err := e.Door.Read(t.Context(), storetest.Service(), id, lifecycle.AvatarURL, lifecycle.Username)
	if f := lifecycle.AsFault(err); f.Kind != lifecycle.FieldNotAllowed || len(f.Pointers) != 1 || f.Pointers[0].Pointer != "/fields/1" {
		t.Errorf("a read of it: %+v", f)
	}
	if r, err := e.Door.Read(t.Context(), storetest.Service(), id, lifecycle.AvatarURL); err != nil || len(r.Values) != 1 {
		t.Errorf("a read of another: %v %v", r, err)
	}
	for _, ev := range e.Events() {
		if (ev.Action == audit.TenantInstall || ev.Action == audit.TenantUpdate) && slices.Contains(ev.FieldNames, lifecycle.Username) {
			t.Errorf("%s says that the username was written", ev.Action)
		}
	}
	if held, err := e.Door.CountSwitchedOff(t.Context()); err != nil || len(held) != 1 || held[lifecycle.Username] != 0 {
		t.Errorf("held: %v %v", held, err)
	}
}

func TestWhatIsSwitchedOffIsRemovedAndRecorded(t *testing.T) {
	e := storetest.New(t)
	first, second, erasing := e.Install(storetest.Values("one"), "one"), e.Install(storetest.Values("two"), "two"), e.Install(storetest.Values("three"), "three")
	var many []lifecycle.TenantID
	for range 3 {
		many = append(many, e.Install(storetest.Values("many"), lifecycle.NewTenantID().String()))
	}
	lawyer := lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorStaff, ID: "token:lawyer", Role: lifecycle.RoleReviewer},
		Reason: lifecycle.Reason{Code: lifecycle.LegalRequest, Ref: "LEG-1"}}
	kept := storetest.Must(t)(holds.New(e.DB, e.Log, e.Policy, &storetest.Outside{})).(*holds.Store)
	hold, err := kept.Place(t.Context(), lawyer, holds.Order{Tenant: second, Ground: holds.LegalClaim, Until: e.Clock.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.Door.BeginErasure(t.Context(), storetest.Ingress(), erasing, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: e.Delivery("gone")}); err != nil {
		t.Fatal(err)
	}
	// With nothing off nothing happens.
	if n, err := e.Door.RemoveSwitchedOff(t.Context(), sweeper()); n != 0 || err != nil {
		t.Errorf("with all fields on: %d %v", n, err)
	}

	off(e, lifecycle.Username, lifecycle.AvatarURL)
	if held, err := e.Door.CountSwitchedOff(t.Context()); err != nil || held[lifecycle.Username] != 6 || held[lifecycle.AvatarURL] != 6 {
		t.Errorf("held before: %v %v", held, err)
	}
	person := sweeper()
	person.Caller = lifecycle.Caller{Type: lifecycle.ActorOperator, ID: "uid:0", Role: lifecycle.RoleOperator}
	if _, err := e.Door.RemoveSwitchedOff(t.Context(), person); !errors.Is(err, lifecycle.ReasonRequired) {
		t.Errorf("a person without a ticket: %v", err)
	}
	if n, err := e.Door.RemoveSwitchedOff(t.Context(), sweeper()); n != 4 || err != nil {
		t.Errorf("removed of %d tenants, %v; want 4", n, err)
	}
	for _, id := range append(many, first) {
		if n := e.Int(`SELECT count(*) FROM trakr.tenant_fields WHERE tenant_id = $1 AND username IS NULL AND avatar_url IS NULL AND client_key IS NOT NULL AND shared_secret IS NOT NULL`, id.String()); n != 1 {
			t.Errorf("of %s too much or too little was removed", id)
		}
	}
	if n := e.Int(`SELECT count(*) FROM trakr.tenant_fields WHERE username IS NOT NULL AND tenant_id IN ($1, $2)`, second.String(), erasing.String()); n != 2 {
		t.Error("what a hold keeps, or an erasure takes, was touched")
	}
	var recorded []lifecycle.TenantID
	for _, ev := range e.Events() {
		if ev.Action == audit.TenantUpdate && ev.StatusDetail == "removed: switched off" && len(ev.FieldNames) == 2 {
			recorded = append(recorded, ev.TenantID)
		}
	}
	if len(recorded) != 4 || slices.Contains(recorded, second) {
		t.Errorf("recorded of %v", recorded)
	}
	if _, err := kept.Release(t.Context(), lawyer, hold.ID); err != nil {
		t.Fatal(err)
	}
	if n, err := e.Door.RemoveSwitchedOff(t.Context(), sweeper()); n != 1 || err != nil {
		t.Errorf("after the hold: %d %v", n, err)
	}
	if n, err := e.Door.RemoveSwitchedOff(t.Context(), sweeper()); n != 0 || err != nil {
		t.Errorf("once more: %d %v", n, err)
	}
}
