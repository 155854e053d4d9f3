package holds_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/holds"
	"trakr/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

func lawyer() lifecycle.Access {
	return lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorStaff, ID: "token:lawyer", Role: lifecycle.RoleReviewer},
		Reason: lifecycle.Reason{Code: lifecycle.LegalRequest, Ref: "LEG-1"}, RequestID: "req-test"}
}

func open(t *testing.T) (*storetest.Env, *holds.Store) {
	e := storetest.New(t)
	return e, storetest.Must(t)(holds.New(e.DB, e.Log, e.Policy, &storetest.Outside{})).(*holds.Store)
}

func active(t *testing.T, e *storetest.Env, s *holds.Store, id lifecycle.TenantID) int {
	t.Helper()
	all, err := s.List(t.Context(), id, e.Clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestAHoldStandsUntilItsEndOrItsRelease(t *testing.T) {
	e, s := open(t)
	id := e.Install(storetest.Values("held"), "one")
	first, err := s.Place(t.Context(), lawyer(), holds.Order{Tenant: id, Ground: holds.LegalClaim, Until: e.Clock.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.Place(t.Context(), lawyer(), holds.Order{Tenant: id, Ground: holds.AuthorityOrder, Until: e.Clock.Now().Add(48 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if n := active(t, e, s, id); n != 2 {
		t.Errorf("%d active holds, want 2", n)
	}
	e.Clock.Add(time.Hour - time.Minute)
	if n := active(t, e, s, id); n != 2 {
		t.Errorf("a minute before the first ends: %d", n)
	}
	e.Clock.Add(time.Minute)
	if n := active(t, e, s, id); n != 1 || first.Active(e.Clock.Now()) || !second.Active(e.Clock.Now()) {
		t.Errorf("after the first ended: %d", n)
	}
	for range 2 { // releasing again changes nothing
		released, err := s.Release(t.Context(), lawyer(), second.ID)
		if err != nil || released.ReleasedBy != "token:lawyer" || released.Active(e.Clock.Now()) {
			t.Errorf("%+v, %v", released, err)
		}
		e.Clock.Add(time.Minute)
	}
	if n := active(t, e, s, id); n != 0 {
		t.Errorf("after the release: %d", n)
	}
	var acts []string
	for _, ev := range e.Events() {
		if strings.HasPrefix(string(ev.Action), "hold.") {
			acts = append(acts, string(ev.Action)+" "+ev.StatusDetail+" "+ev.ReasonRef)
			if ev.TenantID != id || ev.CorrelationID == "" {
				t.Errorf("%+v", ev)
			}
		}
	}
	if got := strings.Join(acts, ", "); got != "hold.place legal_claim LEG-1, hold.place authority_order LEG-1, hold.release authority_order LEG-1" {
		t.Errorf("the audit says: %s", got)
	}
}

func TestAHoldNeedsAPersonATicketAGroundAndAnEnd(t *testing.T) {
	e, s := open(t)
	id := e.Install(storetest.Values("refused"), "one")
	hour := e.Clock.Now().Add(time.Hour)
	for name, c := range map[string]struct {
		a    lifecycle.Access
		o    holds.Order
		want lifecycle.Kind
	}{
		"a service":          {storetest.Service(), holds.Order{Tenant: id, Ground: holds.LegalClaim, Until: hour}, lifecycle.Forbidden},
		"no ticket":          {lifecycle.Access{Caller: lawyer().Caller, Reason: lifecycle.Reason{Code: lifecycle.LegalRequest}}, holds.Order{Tenant: id, Ground: holds.LegalClaim, Until: hour}, lifecycle.ReasonRequired},
		"an invented ground": {lawyer(), holds.Order{Tenant: id, Ground: "because", Until: hour}, lifecycle.RequestInvalid},
		"no end":             {lawyer(), holds.Order{Tenant: id, Ground: holds.LegalClaim}, lifecycle.RequestInvalid},
		"an end in the past": {lawyer(), holds.Order{Tenant: id, Ground: holds.LegalClaim, Until: e.Clock.Now()}, lifecycle.RequestInvalid},
		"an end too far":     {lawyer(), holds.Order{Tenant: id, Ground: holds.LegalClaim, Until: e.Clock.Now().Add(366*24*time.Hour + time.Minute)}, lifecycle.RequestInvalid},
		"nobody's tenant":    {lawyer(), holds.Order{Tenant: lifecycle.NewTenantID(), Ground: holds.LegalClaim, Until: hour}, lifecycle.TenantUnknown},
	} {
		if _, err := s.Place(t.Context(), c.a, c.o); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if n := e.Int(`SELECT count(*) FROM trakr.legal_holds`); n != 0 {
		t.Errorf("%d holds were placed", n)
	}
	if _, err := s.Release(t.Context(), lawyer(), lifecycle.NewTenantID().String()); !errors.Is(err, lifecycle.NotFound) {
		t.Errorf("releasing what is not there: %v", err)
	}
}

func TestAnErasedTenantCannotBeHeldAndTheAttemptIsRecorded(t *testing.T) {
	e, s := open(t)
	id := e.Install(storetest.Values("gone"), "one")
	e.Exec(`UPDATE trakr.tenants SET state = 'erased', subject_digest = NULL, principal_digest = NULL, last_token_iat = NULL, erased_at = now() WHERE tenant_id = $1`, id.String())
	_, err := s.Place(t.Context(), lawyer(), holds.Order{Tenant: id, Ground: holds.LegalClaim, Until: e.Clock.Now().Add(time.Hour)})
	if !errors.Is(err, lifecycle.TenantErased) {
		t.Fatal(err)
	}
	events := e.Events()
	if last := events[len(events)-1]; last.Action != audit.HoldPlace || last.Outcome != audit.Denied || last.StatusDetail != "tenant-erased" {
		t.Errorf("%+v", last)
	}
}

// An erasure that deletes holds the registry's row; the hold waits for it and comes
// too late, or comes first and is seen.
func TestAHoldAndADeletionDoNotOverlookEachOther(t *testing.T) {
	e, s := open(t)
	id := e.Install(storetest.Values("race"), "one")
	commit, err := e.Hold(`SELECT 1 FROM trakr.tenants WHERE tenant_id = '` + id.String() + `' FOR UPDATE;
		UPDATE trakr.tenants SET state = 'erased', subject_digest = NULL, principal_digest = NULL, last_token_iat = NULL, erased_at = now() WHERE tenant_id = '` + id.String() + `'`)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := s.Place(t.Context(), lawyer(), holds.Order{Tenant: id, Ground: holds.LegalClaim, Until: e.Clock.Now().Add(time.Hour)})
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("the hold did not wait: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	commit()
	if err := <-done; !errors.Is(err, lifecycle.TenantErased) {
		t.Errorf("a hold on what is gone: %v", err)
	}
}

func TestNoHoldWithoutItsEvent(t *testing.T) {
	for name, sql := range storetest.Breaks() {
		t.Run(name, func(t *testing.T) {
			e, s := open(t)
			id := e.Install(storetest.Values("unrecorded"), "one")
			e.Exec(sql)
			_, err := s.Place(t.Context(), lawyer(), holds.Order{Tenant: id, Ground: holds.LegalClaim, Until: e.Clock.Now().Add(time.Hour)})
			if !errors.Is(err, lifecycle.AuditUnavailable) || e.Int(`SELECT count(*) FROM trakr.legal_holds`) != 0 {
				t.Errorf("placed without its event: %v", err)
			}
		})
	}
}

// What a backup would forget is noted outside the database: a hold that cannot be is
// not placed, and a release that cannot be stands all the same.
func TestAHoldStandsOnlyWhenItIsNotedOutsideTheDatabase(t *testing.T) {
	e := storetest.New(t)
	out := &storetest.Outside{}
	s := storetest.Must(t)(holds.New(e.DB, e.Log, e.Policy, out)).(*holds.Store)
	id := e.Install(storetest.Values("noted"), "one")
	o := holds.Order{Tenant: id, Ground: holds.LegalClaim, Until: e.Clock.Now().Add(time.Hour)}
	out.Broken = errors.New("the disk is full")
	if _, err := s.Place(t.Context(), lawyer(), o); !errors.Is(err, lifecycle.StoreUnavailable) || !strings.Contains(err.Error(), "ledger") {
		t.Errorf("placed without its note: %v", err)
	}
	if n := active(t, e, s, id); n != 0 {
		t.Errorf("%d holds stand", n)
	}
	out.Broken = nil
	h := storetest.Must(t)(s.Place(t.Context(), lawyer(), o)).(holds.Hold)
	out.Broken = errors.New("the disk is full")
	if got, err := s.Release(t.Context(), lawyer(), h.ID); err != nil || got.ReleasedAt == nil || active(t, e, s, id) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	out.Broken = nil
	if _, err := s.Release(t.Context(), lawyer(), h.ID); err != nil { // once more
		t.Error(err)
	}
	if len(out.Noted) != 2 || out.Noted[0] != h || out.Noted[1].ID != h.ID || out.Noted[1].ReleasedAt == nil {
		t.Errorf("noted: %+v", out.Noted)
	}
}
