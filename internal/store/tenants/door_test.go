package tenants_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tenants"
	"trakr/policy"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

func TestReadReleasesExactlyWhatItRecords(t *testing.T) {
	e := storetest.New(t)
	values := storetest.Values("m")
	delete(values, lifecycle.AvatarURL)
	id := e.Install(values, "a")
	got, err := e.Door.Read(t.Context(), storetest.Service(), id, lifecycle.Username, lifecycle.AvatarURL)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Values) != 1 || got.Values[lifecycle.Username] != values[lifecycle.Username] {
		t.Errorf("released %d values, want the username alone: the tenant has no avatar", len(got.Values))
	}
	events := e.Events()
	last := events[len(events)-1]
	want := []lifecycle.Field{lifecycle.Username, lifecycle.AvatarURL}
	if last.EventID != got.EventID || last.Action != audit.TenantRead || last.TenantID != id || !slices.Equal(last.FieldNames, want) ||
		last.ActorType != lifecycle.ActorService || last.ActorID != "token:test" || last.ReasonCode != lifecycle.ServiceOperation || last.RequestID != "req-test" {
		t.Errorf("the event does not say what was read: %+v", last)
	}
}

func TestRefusedReadsReleaseNothingAndAreRecorded(t *testing.T) {
	e := storetest.New(t)
	live := e.Install(storetest.Values("live"), "a")
	gone := e.Install(storetest.Values("gone"), "b")
	if _, err := e.Erase(t.Context(), storetest.Ingress(), gone, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: e.Delivery("c")}); err != nil {
		t.Fatal(err)
	}
	staff := storetest.Service()
	staff.Caller = lifecycle.Caller{Type: lifecycle.ActorStaff, ID: "token:staff", Role: lifecycle.RoleSupport}
	staff.Reason = lifecycle.Reason{Code: lifecycle.CustomerInitiatedSupport}
	prose := staff
	prose.Reason.Ref = "marker@example.com asked"
	noReason := storetest.Service()
	noReason.Reason.Code = "marker because"
	reviewer := staff
	reviewer.Caller.Role, reviewer.Reason = lifecycle.RoleReviewer, lifecycle.Reason{Code: lifecycle.SecurityReview, Ref: "AUD-1"}
	for name, c := range map[string]struct {
		access lifecycle.Access
		id     lifecycle.TenantID
		fields []lifecycle.Field
		kind   lifecycle.Kind
	}{
		"no tenant":           {storetest.Service(), lifecycle.NewTenantID(), []lifecycle.Field{lifecycle.Username}, lifecycle.TenantUnknown},
		"erased tenant":       {storetest.Service(), gone, []lifecycle.Field{lifecycle.Username}, lifecycle.TenantErased},
		"the secret":          {storetest.Service(), live, []lifecycle.Field{lifecycle.SharedSecret}, lifecycle.FieldNotAllowed},
		"a field and secret":  {storetest.Service(), live, []lifecycle.Field{lifecycle.Username, lifecycle.SharedSecret}, lifecycle.FieldNotAllowed},
		"the wrong role":      {reviewer, live, []lifecycle.Field{lifecycle.Username}, lifecycle.FieldNotAllowed},
		"an unknown field":    {storetest.Service(), live, []lifecycle.Field{"marker@example.com"}, lifecycle.FieldNotAllowed},
		"a field twice":       {storetest.Service(), live, []lifecycle.Field{lifecycle.Username, lifecycle.Username}, lifecycle.FieldNotAllowed},
		"no field":            {storetest.Service(), live, nil, lifecycle.RequestInvalid},
		"a person, no ticket": {staff, live, []lifecycle.Field{lifecycle.Username}, lifecycle.ReasonRequired},
		"prose as ticket":     {prose, live, []lifecycle.Field{lifecycle.Username}, lifecycle.ReasonRequired},
		"no known reason":     {noReason, live, []lifecycle.Field{lifecycle.Username}, lifecycle.ReasonRequired},
	} {
		t.Run(name, func(t *testing.T) {
			before := e.Int(`SELECT count(*) FROM trakr.audit_events`)
			got, err := e.Door.Read(t.Context(), c.access, c.id, c.fields...)
			if !errors.Is(err, c.kind) || len(got.Values) != 0 {
				t.Fatalf("got %v and %d values, want %s", err, len(got.Values), c.kind)
			}
			if n := e.Int(`SELECT count(*) FROM trakr.audit_events`); n != before+1 {
				t.Fatalf("%d events for one refused read", n-before)
			}
			events := e.Events()
			if last := events[len(events)-1]; last.Outcome != audit.Denied || last.StatusDetail != string(c.kind) || last.TenantID != c.id {
				t.Errorf("recorded as %+v", last)
			}
			if strings.Contains(err.Error(), "marker") || e.Int(`SELECT count(*) FROM trakr.audit_events WHERE convert_from(record, 'UTF8') LIKE '%marker%'`) != 0 {
				t.Error("what the caller wrote is repeated")
			}
		})
	}
}

func TestNoValueWithoutADurableRecord(t *testing.T) {
	for name, sql := range storetest.Breaks() {
		t.Run(name, func(t *testing.T) {
			e := storetest.New(t)
			values := storetest.Values("m")
			id := e.Install(values, "a")
			e.Exec(sql)
			if got, err := e.Door.Read(t.Context(), storetest.Service(), id, lifecycle.Username); !errors.Is(err, lifecycle.AuditUnavailable) || len(got.Values) != 0 {
				t.Errorf("read: %d values, %v; want audit-unavailable", len(got.Values), err)
			}
			if s, err := e.Door.Secret(t.Context(), storetest.Ingress(), id); !errors.Is(err, lifecycle.AuditUnavailable) || !s.Empty() {
				t.Errorf("secret: %v; want audit-unavailable", err)
			}
			if got, err := e.Door.Read(t.Context(), storetest.Service(), id, lifecycle.SharedSecret); !errors.Is(err, lifecycle.AuditUnavailable) || len(got.Values) != 0 {
				t.Errorf("a denial that cannot be recorded: %v; want audit-unavailable", err)
			}
			if _, err := e.Door.Lookup(t.Context(), storetest.Service(), tenants.Subject{ClientKey: values[lifecycle.ClientKey]}); !errors.Is(err, lifecycle.AuditUnavailable) {
				t.Errorf("lookup: %v; want audit-unavailable", err)
			}
			if _, _, err := e.Door.Install(t.Context(), storetest.Ingress(), storetest.Values("n"), e.Delivery("b")); !errors.Is(err, lifecycle.AuditUnavailable) {
				t.Errorf("install: %v; want audit-unavailable", err)
			}
			if _, err := e.Erase(t.Context(), storetest.Ingress(), id, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: e.Delivery("c")}); !errors.Is(err, lifecycle.AuditUnavailable) {
				t.Errorf("erase: %v; want audit-unavailable", err)
			}
			if n := e.Int(`SELECT count(*) FROM trakr.tenants WHERE state = 'live'`); n != 1 {
				t.Errorf("%d live tenants, want the one from before", n)
			}
		})
	}
}

func TestAuditOnlyGrows(t *testing.T) {
	e := storetest.New(t)
	e.Install(storetest.Values("m"), "a")
	for _, sql := range []string{
		`UPDATE trakr.audit_events SET actor_id = 'x'`, `DELETE FROM trakr.audit_events`, `TRUNCATE trakr.audit_events`,
		`SET session_replication_role = replica; DELETE FROM trakr.audit_events`,
		`SET session_replication_role = replica; TRUNCATE trakr.audit_events`,
	} {
		if err := e.TryExec(sql); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if e.Int(`SELECT count(*) FROM trakr.audit_events`) != 1 {
		t.Error("events are missing")
	}
}

func TestTheDoorFunctionReadsNothingUnderAnotherName(t *testing.T) {
	e := storetest.New(t)
	id := e.Install(storetest.Values("m"), "a").String()
	record := func(action, outcome, fields string) string {
		return `SELECT count(*) FROM door.read(ARRAY[convert_to('{"action":"` + action + `","actor_id":"x","actor_type":"service","event_id":"` + lifecycle.NewTenantID().String() +
			`","field_names":` + fields + `,"occurred_at":"2026-11-24T00:00:00.000000Z","outcome":"` + outcome + `","reason_code":"service_operation","schema_version":1,"tenant_id":"` + id + `"}', 'UTF8')])`
	}
	if err := e.TryExec(record("tenant.read", "success", `["username"]`)); err != nil {
		t.Fatalf("an honest record: %v", err)
	}
	for _, sql := range []string{record("tenant.lookup", "success", `["username"]`), record("tenant.read", "denied", `["username"]`),
		record("tenant.read", "success", `[]`), `SET synchronous_commit = off; ` + record("tenant.read", "success", `["username"]`)} {
		if err := e.TryExec(sql); err == nil {
			t.Errorf("released: %s", sql)
		}
	}
}

func TestErasureLeavesOnlyTheTombstone(t *testing.T) {
	e := storetest.New(t)
	values := storetest.Values("m")
	id := e.Install(values, "install")
	other := e.Install(storetest.Values("other"), "other")
	e.Clock.Add(time.Minute)
	result, err := e.Erase(t.Context(), storetest.Ingress(), id, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: e.Delivery("uninstall")})
	if err != nil || result != tenants.Applied {
		t.Fatal(result, err)
	}
	for _, table := range []string{"trakr.tenant_fields", "trakr.replay_guard"} {
		if n := e.Int(`SELECT count(*) FROM `+table+` WHERE tenant_id = $1`, id.String()); n != 0 {
			t.Errorf("%s: %d rows of the erased tenant", table, n)
		}
		if n := e.Int(`SELECT count(*) FROM `+table+` WHERE tenant_id = $1`, other.String()); n != 1 {
			t.Errorf("%s: %d rows of the other tenant, want 1", table, n)
		}
	}
	if n := e.Int(`SELECT count(*) FROM trakr.tenants WHERE tenant_id = $1 AND state = 'erased' AND subject_digest IS NULL AND principal_digest IS NULL AND last_token_iat IS NULL`, id.String()); n != 1 {
		t.Error("the registry still knows by what the tenant could be recognised")
	}
	if n := e.Int(`SELECT count(*) FROM trakr.erasures WHERE tenant_id = $1 AND octet_length(subject_digest) = 36`, id.String()); n != 1 {
		t.Error("no tombstone")
	}
	if found, err := e.Door.Lookup(t.Context(), storetest.Service(), tenants.Subject{ClientKey: values[lifecycle.ClientKey]}); err != nil || found.State != lifecycle.Erased || found.ID != id {
		t.Errorf("look-up after erasure: %+v, %v", found, err)
	}
	if _, err := e.Erase(t.Context(), storetest.Ingress(), id, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: e.Delivery("again")}); !errors.Is(err, lifecycle.TenantErased) {
		t.Errorf("erasing twice: %v", err)
	}

	again := e.Install(values, "reinstall")
	if again == id {
		t.Fatal("a re-install got the old id")
	}
	if _, err := e.Door.Read(t.Context(), storetest.Service(), id, lifecycle.Username); !errors.Is(err, lifecycle.TenantErased) {
		t.Errorf("the old id after a re-install: %v", err)
	}
}

func TestDeliveriesActOnceAndInOrder(t *testing.T) {
	e := storetest.New(t)
	values := storetest.Values("m")
	first := e.Delivery("first")
	id, _, err := e.Door.Install(t.Context(), storetest.Ingress(), values, first)
	if err != nil {
		t.Fatal(err)
	}
	if found, ok, err := e.Door.Delivered(t.Context(), first.TokenHash); err != nil || !ok || found != id {
		t.Errorf("the same install again is not recognised: %v, %v", ok, err)
	}
	e.Clock.Add(10 * time.Second)
	rotated := storetest.Values("rotated")
	rotated[lifecycle.ClientKey] = values[lifecycle.ClientKey]
	newer := e.Delivery("newer")
	for i, want := range []tenants.Result{tenants.Applied, tenants.Replayed} {
		if got, err := e.Door.Update(t.Context(), storetest.Ingress(), id, rotated, newer); err != nil || got != want {
			t.Fatalf("delivery %d: %s, %v; want %s", i+1, got, err, want)
		}
	}
	late := e.Delivery("late")
	late.IssuedAt = first.IssuedAt.Add(time.Second)
	if got, err := e.Door.Update(t.Context(), storetest.Ingress(), id, values, late); err != nil || got != tenants.Stale {
		t.Errorf("an older install: %s, %v", got, err)
	}
	lateUninstall := e.Delivery("late uninstall")
	lateUninstall.IssuedAt = first.IssuedAt.Add(2 * time.Second)
	if got, err := e.Erase(t.Context(), storetest.Ingress(), id, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: lateUninstall}); err != nil || got != tenants.Stale {
		t.Errorf("a late uninstall of the install before: %s, %v", got, err)
	}
	tie := e.Delivery("same second")
	tie.IssuedAt = newer.IssuedAt
	if got, err := e.Erase(t.Context(), storetest.Ingress(), id, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: tie}); err != nil || got != tenants.Applied {
		t.Errorf("an uninstall of the same second: %s, %v", got, err)
	}
	if found, ok, err := e.Door.Delivered(t.Context(), tie.TokenHash); err != nil || !ok || found != id {
		t.Errorf("the same uninstall again is not recognised: %v, %v", ok, err)
	}
}

func TestReplayedFirstInstallCreatesNothing(t *testing.T) {
	e := storetest.New(t)
	v := e.Delivery("captured")
	if _, _, err := e.Door.Install(t.Context(), storetest.Ingress(), storetest.Values("a"), v); err != nil {
		t.Fatal(err)
	}
	_, result, err := e.Door.Install(t.Context(), storetest.Ingress(), storetest.Values("b"), v)
	if err != nil || result != tenants.Replayed {
		t.Fatalf("%s, %v", result, err)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.tenants`); n != 1 {
		t.Errorf("%d tenants", n)
	}
}

func TestConcurrentFirstInstallsMakeOneTenant(t *testing.T) {
	e := storetest.New(t)
	values := storetest.Values("m")
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for i := range 8 {
		wg.Go(func() {
			_, _, err := e.Door.Install(t.Context(), storetest.Ingress(), values, e.Delivery(string(rune('a'+i))))
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	made := 0
	for err := range errs {
		if err == nil {
			made++
		} else if !errors.Is(err, tenants.ErrOnFile) {
			t.Errorf("unexpected: %v", err)
		}
	}
	if made != 1 || e.Int(`SELECT count(*) FROM trakr.tenants`) != 1 {
		t.Errorf("%d installs succeeded", made)
	}
}

func TestDatabaseDownIsNeverUnknown(t *testing.T) {
	e := storetest.New(t)
	values := storetest.Values("m")
	id := e.Install(values, "a")
	e.DB.Close()
	if _, err := e.Door.Lookup(t.Context(), storetest.Service(), tenants.Subject{ClientKey: values[lifecycle.ClientKey]}); !errors.Is(err, lifecycle.StoreUnavailable) {
		t.Errorf("lookup: %v", err)
	}
	if _, err := e.Door.Read(t.Context(), storetest.Service(), id, lifecycle.Username); !errors.Is(err, lifecycle.StoreUnavailable) && !errors.Is(err, lifecycle.AuditUnavailable) {
		t.Errorf("read: %v", err)
	}
	if _, err := e.Door.Get(t.Context(), id); !errors.Is(err, lifecycle.StoreUnavailable) {
		t.Errorf("get: %v", err)
	}
	if _, _, err := e.Door.Delivered(t.Context(), [32]byte{}); !errors.Is(err, lifecycle.StoreUnavailable) {
		t.Errorf("delivered: %v", err)
	}
}

func TestAPolicyThatKeepsValuesIsRefused(t *testing.T) {
	e := storetest.New(t)
	for i, s := range e.Policy.Stores {
		for j, tb := range s.Tables {
			if tb.Name == "trakr.tenant_fields" {
				e.Policy.Stores[i].Tables[j].HasTenant = false
			}
		}
	}
	if _, err := tenants.New(t.Context(), tenants.Config{DB: e.DB, Keys: e.Keys, Policy: e.Policy, Log: e.Log}); err == nil {
		t.Error("a door that would not erase the values was built")
	}
}

func TestAPolicyNoUninstallCouldFollowIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ table, sql, want string }{
		"a table that does not exist":  {"trakr.nowhere", "", "no such table"},
		"a table without the column":   {"trakr.schedule_state", "", "no tenant_id"},
		"a table it may not delete of": {"trakr.later", `CREATE TABLE trakr.later (tenant_id uuid); GRANT SELECT, INSERT ON trakr.later TO trakr_service`, "may not delete"},
		"a view":                       {"trakr.seen", `CREATE VIEW trakr.seen AS SELECT tenant_id FROM trakr.replay_guard; GRANT ALL ON trakr.seen TO trakr_service`, "no such table"},
		"a sound one":                  {"trakr.later", `CREATE TABLE trakr.later (tenant_id uuid); GRANT SELECT, DELETE ON trakr.later TO trakr_service`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := storetest.New(t)
			if c.sql != "" {
				e.Exec(c.sql)
			}
			s := &e.Policy.Stores[0]
			found := false
			for i := range s.Tables {
				if s.Tables[i].Name == c.table {
					s.Tables[i].HasTenant, found = true, true
				}
			}
			if !found {
				s.Tables = append(s.Tables, policy.Table{Name: c.table, HasTenant: true})
			}
			d, err := tenants.New(t.Context(), tenants.Config{DB: e.DB, Keys: e.Keys, Policy: e.Policy, Log: e.Log})
			if err == nil {
				d.Close()
			}
			if (err == nil) != (c.want == "") || (err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.table))) {
				t.Errorf("got %v, want %q about %s", err, c.want, c.table)
			}
		})
	}
}

func TestAnActWithoutWhoOrWhyIsRefusedAndRecorded(t *testing.T) {
	e := storetest.New(t)
	id := e.Install(storetest.Values("m"), "a")
	bare := storetest.Ingress()
	bare.Reason = lifecycle.Reason{Code: "marker because"}
	for action, act := range map[audit.Action]func() error{
		audit.TenantRead: func() error { _, err := e.Door.Secret(t.Context(), bare, id); return err },
		audit.TenantInstall: func() error {
			_, _, err := e.Door.Install(t.Context(), bare, storetest.Values("n"), e.Delivery("b"))
			return err
		},
		audit.TenantUpdate: func() error {
			_, err := e.Door.Update(t.Context(), bare, id, storetest.Values("m"), e.Delivery("c"))
			return err
		},
		audit.ErasureBegin: func() error {
			_, err := e.Erase(t.Context(), bare, id, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, Delivery: e.Delivery("d")})
			return err
		},
	} {
		before := len(e.Events())
		if err := act(); !errors.Is(err, lifecycle.ReasonRequired) {
			t.Errorf("%s: %v", action, err)
		}
		events := e.Events()[before:]
		if len(events) != 1 || events[0].Action != action || events[0].Outcome != audit.Denied || events[0].StatusDetail != string(lifecycle.ReasonRequired) {
			t.Errorf("%s left %+v", action, events)
		}
		if action != audit.TenantInstall && len(events) == 1 && events[0].TenantID != id {
			t.Errorf("%s does not name the tenant", action)
		}
	}
}

func TestASecretReplacedMeanwhileProvesNothing(t *testing.T) {
	e := storetest.New(t)
	values := storetest.Values("m")
	id := e.Install(values, "a")
	look := func() tenants.Version {
		found, err := e.Door.Find(t.Context(), storetest.Ingress(), tenants.Subject{ClientKey: values[lifecycle.ClientKey]})
		if err != nil || found.ID != id || found.Version == 0 {
			t.Fatalf("%+v, %v", found, err)
		}
		return found.Version
	}
	seen := look()
	if look() != seen {
		t.Error("looking changes the version")
	}
	e.Clock.Add(time.Minute)
	quicker := e.Delivery("quicker")
	quicker.Version, quicker.Slack = seen, 30*time.Second
	if got, err := e.Door.Update(t.Context(), storetest.Ingress(), id, values, quicker); err != nil || got != tenants.Applied {
		t.Fatal(got, err)
	}
	// Verified under the secret of before, arrived at the door after it.
	slower := e.Delivery("slower")
	slower.Version, slower.IssuedAt = seen, slower.IssuedAt.Add(-time.Second)
	erase := func() (tenants.Result, error) {
		return e.Erase(t.Context(), storetest.Ingress(), id, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: slower})
	}
	if _, err := erase(); !errors.Is(err, tenants.ErrChanged) {
		t.Errorf("an uninstall under the old secret: %v", err)
	}
	if _, err := e.Door.Update(t.Context(), storetest.Ingress(), id, values, slower); !errors.Is(err, tenants.ErrChanged) {
		t.Errorf("an install under the old secret: %v", err)
	}
	slower.Version = look() // verified anew
	if got, err := erase(); err != nil || got != tenants.Applied {
		t.Errorf("verified under the new secret: %s, %v", got, err)
	}
}

func TestWhatActedBeforeAnErasureIsKnownAfterIt(t *testing.T) {
	e := storetest.New(t)
	values := storetest.Values("m")
	e.Install(values, "first")
	other := e.Install(storetest.Values("other"), "other")
	id := func() lifecycle.TenantID {
		found, err := e.Door.Lookup(t.Context(), storetest.Service(), tenants.Subject{ClientKey: values[lifecycle.ClientKey]})
		if err != nil {
			t.Fatal(err)
		}
		return found.ID
	}()
	captured := e.Delivery("first")
	e.Clock.Add(10 * time.Second)
	uninstall := e.Delivery("uninstall")
	if _, err := e.Erase(t.Context(), storetest.Ingress(), id, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: uninstall}); err != nil {
		t.Fatal(err)
	}
	for _, v := range []tenants.Delivery{captured, uninstall} {
		if found, done, err := e.Door.Delivered(t.Context(), v.TokenHash); err != nil || !done || found != id {
			t.Errorf("a token that acted is not known any more: %v, %v", done, err)
		}
		// Also to the transaction itself, for one that was looked for too early.
		v.IssuedAt = e.Clock.Now().Add(time.Second)
		if _, got, err := e.Door.Install(t.Context(), storetest.Ingress(), values, v); err != nil || got != tenants.Replayed {
			t.Errorf("a token of an earlier life: %s, %v", got, err)
		}
	}
	e.Clock.Add(10 * time.Second)
	old := e.Delivery("of before")
	old.IssuedAt = uninstall.IssuedAt.Add(-time.Second)
	if _, got, err := e.Door.Install(t.Context(), storetest.Ingress(), values, old); err != nil || got != tenants.Stale {
		t.Errorf("a signed install of before: %s, %v", got, err)
	}
	if _, got, err := e.Door.Install(t.Context(), storetest.Ingress(), storetest.Values("another"), old); err != nil || got != tenants.Applied {
		t.Errorf("another client key's install: %s, %v", got, err)
	}
	unsigned := tenants.Delivery{Ingress: lifecycle.Connect, ReceivedAt: e.Clock.Now()}
	again, got, err := e.Door.Install(t.Context(), storetest.Ingress(), values, unsigned)
	if err != nil || got != tenants.Applied {
		t.Fatalf("an unsigned first install: %s, %v", got, err)
	}
	// The secret may be as before: an uninstall of before the erasure is none of this tenant.
	late := e.Delivery("late")
	late.IssuedAt = uninstall.IssuedAt.Add(-time.Second)
	if got, err := e.Erase(t.Context(), storetest.Ingress(), again, tenants.Erasure{Trigger: lifecycle.TriggerUninstall, RequestedAt: e.Clock.Now(), Delivery: late}); err != nil || got != tenants.Stale {
		t.Errorf("an uninstall of the earlier life: %s, %v", got, err)
	}
	// An erasure that no callback asked for has no date to compare.
	if got, err := e.Erase(t.Context(), storetest.Ingress(), again, tenants.Erasure{Trigger: "probe", RequestedAt: e.Clock.Now(), Delivery: tenants.Delivery{ReceivedAt: e.Clock.Now()}}); err != nil || got != tenants.Applied {
		t.Errorf("an erasure without a token: %s, %v", got, err)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.replay_guard WHERE tenant_id = $1`, other.String()); n != 1 {
		t.Errorf("another tenant's entries: %d", n)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.replay_guard AS g JOIN trakr.tenants AS t USING (tenant_id) WHERE t.state = 'erased'`); n != 0 {
		t.Errorf("%d entries name an erased tenant", n)
	}
}

func TestNoSecretLooksLikeOne(t *testing.T) {
	e := storetest.New(t)
	nobody := tenants.Subject{ClientKey: lifecycle.NewSecret("connection:404")}
	s, err := e.Door.NoSecret(t.Context(), storetest.Ingress(), nobody)
	if err != nil || s.Empty() {
		t.Fatal(err)
	}
	if again, _ := e.Door.NoSecret(t.Context(), storetest.Ingress(), nobody); again.Reveal() == s.Reveal() {
		t.Error("the secret that nobody has can be known")
	}
	events := e.Events()
	if last := events[len(events)-1]; len(events) != 2 || last.Action != audit.TenantRead || last.Outcome != audit.Denied || last.SubjectDigest == "" {
		t.Errorf("recorded as %+v", events)
	}
}

// The sweep that asks Bitbucket gets what it must show there; nobody else does, not
// with the same reason, nor in the same role for another one.
func TestOnlyTheSweepGetsWhatAnInstallationIsProvenWith(t *testing.T) {
	e := storetest.New(t)
	values := storetest.Values("m")
	id := e.Install(values, "a")
	sweep := lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "sweep:liveness", Role: lifecycle.RoleScheduler}, Reason: lifecycle.Reason{Code: lifecycle.SystemSweep}}
	got, err := e.Door.Installation(t.Context(), sweep, id)
	if err != nil || got.ClientKey != values[lifecycle.ClientKey] || got.Secret != values[lifecycle.SharedSecret] || got.WorkspaceUUID != values[lifecycle.PrincipalUUID] {
		t.Errorf("the sweep was not served: %v", err)
	}
	events := e.Events()
	if last := events[len(events)-1]; last.Action != audit.TenantRead || last.Outcome != audit.Success || len(last.FieldNames) != 3 || last.ReasonCode != lifecycle.SystemSweep {
		t.Errorf("the read is not recorded as one: %+v", last)
	}
	other := sweep
	other.Reason.Code = lifecycle.ServiceOperation
	mixed := storetest.Service()
	mixed.Caller.Role = lifecycle.RoleScheduler
	for name, a := range map[string]lifecycle.Access{"another reason": other, "a service in its role": mixed, "a service": storetest.Service(), "callbacks": storetest.Ingress(),
		"an operator": {Caller: lifecycle.Caller{Type: lifecycle.ActorOperator, ID: "uid:0", Role: lifecycle.RoleOperator}, Reason: lifecycle.Reason{Code: lifecycle.SystemSweep, Ref: "OPS-1"}}} {
		before := len(e.Events())
		if got, err := e.Door.Installation(t.Context(), a, id); !errors.Is(err, lifecycle.FieldNotAllowed) || !got.Secret.Empty() || !got.ClientKey.Empty() {
			t.Errorf("%s: %v", name, err)
		}
		if after := e.Events(); len(after) != before+1 || after[before].Outcome != audit.Denied {
			t.Errorf("%s: the attempt is not recorded", name)
		}
	}
}
