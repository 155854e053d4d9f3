package requests_test

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"trakr/internal/lifecycle"
	deletionrequests "trakr/internal/requests"
	"trakr/internal/store/audit"
	"trakr/internal/store/census"
	"trakr/internal/store/holds"
	"trakr/internal/store/requests"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tenants"
	"trakr/policy"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// erasures is the one erasure in small: it deletes for real, and keeps certificates
// in memory.
type erasures struct {
	e *storetest.Env

	mu      sync.Mutex
	broken  error // Erase fails
	held    bool  // Erase begins, and a hold keeps the values
	remains bool  // Finish finds rows
	awaits  bool  // the end service has not acknowledged
	certs   map[string]string
	ordered int
	handed  int
	swept   int
	waits   bool // what certificates rest on is not there
}

func (f *erasures) set(change func(*erasures)) { f.mu.Lock(); defer f.mu.Unlock(); change(f) }

func (f *erasures) id(tenant lifecycle.TenantID) string {
	return string(f.e.Bytes(`SELECT convert_to(coalesce((SELECT erasure_id::text FROM trakr.erasures WHERE tenant_id = $1), ''), 'UTF8')`, tenant.String()))
}

func (f *erasures) Erase(_ context.Context, _ lifecycle.Access, tenant lifecycle.TenantID, o deletionrequests.Order) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ordered++
	if f.broken != nil {
		return "", f.broken
	}
	if f.id(tenant) == "" {
		f.e.Exec(`INSERT INTO trakr.erasures (erasure_id, tenant_id, ingress, trigger, subject_digest, requested_at, noted_at, ledger_seq, ledger_hash)
			SELECT gen_random_uuid(), tenant_id, ingress, 'request', subject_digest, $2, now(), 1, sha256('line') FROM trakr.tenants WHERE tenant_id = $1`, tenant.String(), o.RequestedAt)
	}
	if f.held {
		return f.id(tenant), lifecycle.OnHold
	}
	f.e.Exec(`UPDATE trakr.erasures SET erased_at = now() WHERE tenant_id = $1 AND erased_at IS NULL`, tenant.String())
	f.e.Exec(`DELETE FROM trakr.tenant_fields WHERE tenant_id = $1`, tenant.String())
	f.e.Exec(`DELETE FROM trakr.replay_guard WHERE tenant_id = $1`, tenant.String())
	f.e.Exec(`UPDATE trakr.tenants SET state = 'erased', subject_digest = NULL, principal_digest = NULL, last_token_iat = NULL, erased_at = now() WHERE tenant_id = $1 AND state <> 'erased'`, tenant.String())
	return f.id(tenant), nil
}

func (f *erasures) Sweep(context.Context, lifecycle.Access) (string, error) {
	f.set(func(f *erasures) { f.swept++ })
	return uuid.NewString(), nil
}

func (f *erasures) Finish(_ context.Context, _ lifecycle.Access, id, run string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if run == "" {
		return errors.New("no sweep has counted")
	}
	if f.waits {
		return deletionrequests.ErrWaits
	}
	if f.remains {
		return deletionrequests.ErrRemains
	}
	f.certify(id, "erasure_id")
	return nil
}

// certify issues the one certificate of an erasure or a request.
func (f *erasures) certify(id, of string) {
	if f.certs[id] == "" {
		f.certs[id] = uuid.NewString()
		f.e.Exec(`INSERT INTO trakr.certificates (certificate_id, `+of+`, issued_at, document) VALUES ($1, $2, now(), '{}')`, f.certs[id], id)
	}
}

func (f *erasures) Get(_ context.Context, id string) (deletionrequests.Erasure, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.e.Clock.Now()
	e := deletionrequests.Erasure{ID: id, DeletedAt: now, BackupsClearAfter: now.Add(7 * 24 * time.Hour), CertificateID: f.certs[id], AwaitsRecipient: f.awaits}
	if e.CertificateID != "" {
		e.VerifiedAt = now
	}
	return e, nil
}

func (f *erasures) Of(ctx context.Context, tenant lifecycle.TenantID) (deletionrequests.Erasure, error) {
	id := f.id(tenant)
	if id == "" {
		return deletionrequests.Erasure{}, lifecycle.NotFound
	}
	return f.Get(ctx, id)
}

func (f *erasures) NothingHeld(_ context.Context, _ lifecycle.Access, r requests.Request) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.certify(r.ID, "request_id")
	return f.certs[r.ID], nil
}

func (f *erasures) Certificate(_ context.Context, _ lifecycle.Access, of, format string) ([]byte, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handed++
	return []byte(`{"certificate_id":"` + f.certs[of] + `"}`), "application/" + format, nil
}

// office is support at work.
type office struct {
	*storetest.Env
	*deletionrequests.Service
	erasures *erasures
	holds    *holds.Store
	stop     func(lifecycle.RequestState) error
}

func open(t *testing.T, change ...func(*policy.Policy)) *office {
	t.Helper()
	o := &office{Env: storetest.New(t), stop: func(lifecycle.RequestState) error { return nil }}
	// The tests let days go by; the database refuses a move at a time to come.
	o.Clock.Add(-60 * 24 * hour)
	p := *o.Policy
	for _, f := range change {
		f(&p)
	}
	o.erasures = &erasures{e: o.Env, certs: map[string]string{}}
	o.holds = storetest.Must(t)(holds.New(o.DB, o.Log, &p, &storetest.Outside{})).(*holds.Store)
	o.Service = storetest.Must(t)(deletionrequests.New(deletionrequests.Config{Requests: storetest.Must(t)(requests.New(o.DB, o.Log)).(*requests.Store), Holds: o.holds, Door: o.Door,
		Census: census.New(o.DB), Policy: &p, Erasures: o.erasures, Log: slog.New(slog.DiscardHandler), After: func(s lifecycle.RequestState) error { return o.stop(s) }})).(*deletionrequests.Service)
	return o
}

func person(id string) lifecycle.Access {
	return lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorStaff, ID: "token:" + id, Role: lifecycle.RoleSupport},
		Reason: lifecycle.Reason{Code: lifecycle.CustomerRequestFulfilment, Ref: "SUP-7"}, RequestID: "req-test"}
}

func key(v lifecycle.Values) tenants.Subject {
	return tenants.Subject{ClientKey: v[lifecycle.ClientKey]}
}

// customer installs and asks for its deletion.
func (o *office) customer(mark string) (lifecycle.TenantID, lifecycle.Values, requests.Request) {
	o.T.Helper()
	v := storetest.Values(mark)
	id := o.Install(v, mark)
	r, err := o.Request(o.T.Context(), person("anna"), key(v), time.Time{})
	if err != nil || r.State != lifecycle.RequestAwaitingApproval || r.Tenant() != id {
		o.T.Fatalf("%+v, %v", r, err)
	}
	return id, v, r
}

func (o *office) expect(r requests.Request, err error, want lifecycle.RequestState) requests.Request {
	o.T.Helper()
	if err != nil || r.State != want {
		o.T.Fatalf("%s, %v; want %s", r.State, err, want)
	}
	return r
}

// pass is one run of the job.
func (o *office) pass(id string, want lifecycle.RequestState) deletionrequests.Shown {
	o.T.Helper()
	if err := o.Run(o.T.Context(), "cron"); err != nil {
		o.T.Logf("the pass says: %v", err)
	}
	return o.at(id, want)
}

func (o *office) at(id string, want lifecycle.RequestState) deletionrequests.Shown {
	o.T.Helper()
	s, err := o.Show(o.T.Context(), id)
	if err != nil || s.State != want {
		o.T.Fatalf("%s, %v; want %s", s.State, err, want)
	}
	return s
}

// moves are a request's moves as its history and the audit have them: the same.
func (o *office) moves(id string) string {
	o.T.Helper()
	s, err := o.Show(o.T.Context(), id)
	if err != nil {
		o.T.Fatal(err)
	}
	var history, audited []string
	for _, e := range s.History {
		history = append(history, e.By+" "+string(e.To))
	}
	for _, e := range o.Events() {
		if e.Action == audit.RequestMove && e.CorrelationID == id && (e.Outcome == audit.Success || e.StatusDetail == string(lifecycle.RequestDuplicate)) {
			audited = append(audited, e.ActorID+" "+e.StatusDetail)
		}
	}
	if got, want := strings.Join(audited, ", "), strings.Join(history, ", "); got != want {
		o.T.Errorf("the audit says\n%s\nand the history\n%s", got, want)
	}
	return strings.NewReplacer("token:", "", "deletion requests", "job").Replace(strings.Join(history, ", "))
}

func (o *office) denials() string {
	var out []string
	for _, e := range o.Events() {
		if e.Action == audit.RequestMove && e.Outcome == audit.Denied {
			out = append(out, e.StatusDetail)
		}
	}
	return strings.Join(out, " ")
}

const hour = time.Hour

func TestARequestTravelsFromTheTicketToTheCertificateByTwoPeople(t *testing.T) {
	o := open(t)
	id, _, r := o.customer("travel")
	shown := o.at(r.ID, lifecycle.RequestAwaitingApproval)
	if shown.ExpectedCompletionTime.Sub(shown.SubmittedTime) != 30*24*hour || shown.Overdue {
		t.Errorf("due %s", shown.ExpectedCompletionTime)
	}
	preview := map[string]string{}
	for _, c := range shown.Preview {
		if c.Rows != nil && *c.Rows > 0 {
			preview[c.Table] = c.Becomes
		}
	}
	if preview["trakr.tenant_fields"] != "deleted" || preview["trakr.replay_guard"] != "deleted" || preview["trakr.audit_events"] != "retained" || preview["trakr.deletion_requests"] != "retained" {
		t.Errorf("the preview says %v", preview)
	}
	r, err := o.Approve(t.Context(), person("bob"), r.ID)
	o.expect(r, err, lifecycle.RequestApproved)
	if *r.ApprovedBy != "token:bob" || r.NotBefore.Sub(*r.ApprovedAt) != hour {
		t.Errorf("%+v", r)
	}
	o.Clock.Add(hour - time.Minute)
	o.pass(r.ID, lifecycle.RequestApproved)
	if n := o.Int(`SELECT count(*) FROM trakr.tenant_fields WHERE tenant_id = $1`, id.String()); n != 1 {
		t.Fatal("erased before the cooling-off was over")
	}
	o.Clock.Add(time.Minute)
	done := o.pass(r.ID, lifecycle.RequestCompleted)
	if done.CertificateID == nil || done.DeletedLiveAt == nil || done.VerifiedAt == nil || done.BackupsClearAfter == nil || *done.ErasureID != o.erasures.id(id) {
		t.Errorf("%+v", done.Request)
	}
	for _, c := range done.Preview {
		if c.Becomes == "deleted" && *c.Rows > 0 {
			t.Errorf("%s still has %d rows", c.Table, *c.Rows)
		}
	}
	if got := o.moves(r.ID); got != "anna received, anna identity_check, anna awaiting_approval, bob approved, job in_progress, job verifying, job completed" {
		t.Errorf("it travelled: %s", got)
	}
	b, kind, err := o.Certificate(t.Context(), person("bob"), r.ID, "json")
	if err != nil || kind != "application/json" || !strings.Contains(string(b), *done.CertificateID) {
		t.Errorf("%s %s %v", b, kind, err)
	}
}

func TestNothingOfTheCustomerStandsInARequest(t *testing.T) {
	o := open(t)
	_, v, r := o.customer("marked")
	o.expect2(o.Cancel(t.Context(), person("anna"), r.ID))
	stranger := storetest.Values("stranger")
	o.expect2(o.Request(t.Context(), person("anna"), key(stranger), time.Time{}))
	dump := string(o.Dump())
	for _, x := range []lifecycle.Values{v, stranger} {
		for f, s := range x {
			if strings.Contains(dump, s.Reveal()) || strings.Contains(dump, hex.EncodeToString([]byte(s.Reveal()))) {
				t.Errorf("%s stands in the database in clear", f)
			}
		}
	}
}

func (o *office) expect2(_ requests.Request, err error) {
	o.T.Helper()
	if err != nil {
		o.T.Fatal(err)
	}
}

func TestTheSamePersonCannotApprove(t *testing.T) {
	o := open(t)
	_, _, r := o.customer("alone")
	if _, err := o.Approve(t.Context(), person("anna"), r.ID); !errors.Is(err, lifecycle.SamePerson) {
		t.Fatalf("approved by who entered it: %v", err)
	}
	if service := storetest.Service(); service.Caller.ID != "" {
		if _, err := o.Approve(t.Context(), service, r.ID); !errors.Is(err, lifecycle.Forbidden) {
			t.Errorf("approved by a program: %v", err)
		}
	}
	o.at(r.ID, lifecycle.RequestAwaitingApproval)
	if got := o.denials(); got != "approval-by-same-person" {
		t.Errorf("the audit has the denials: %s", got)
	}
}

func TestOfTwoApprovalsAtOnceOneWins(t *testing.T) {
	o := open(t)
	_, _, r := o.customer("twice")
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, who := range []string{"bob", "carla"} {
		wg.Go(func() { _, errs[i] = o.Approve(t.Context(), person(who), r.ID) })
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) || !(errors.Is(errs[0], lifecycle.RequestConflict) || errors.Is(errs[1], lifecycle.RequestConflict)) {
		t.Errorf("%v and %v", errs[0], errs[1])
	}
	if got := o.moves(r.ID); strings.Count(got, "approved") != 1 {
		t.Error(got)
	}
}

func TestASecondRequestForTheTenantIsADuplicate(t *testing.T) {
	o := open(t)
	_, v, first := o.customer("double")
	second, err := o.Request(t.Context(), person("carla"), tenants.Subject{WorkspaceUUID: v[lifecycle.PrincipalUUID]}, time.Time{})
	if !errors.Is(err, lifecycle.RequestConflict) || lifecycle.AsFault(err).Existing != first.ID || second.State != lifecycle.RequestDuplicate {
		t.Fatalf("%s %v", second.State, err)
	}
	o.at(second.ID, lifecycle.RequestDuplicate)
	if got := o.denials(); got != "duplicate" {
		t.Errorf("the audit has the denials: %s", got)
	}
	o.expect2(o.Cancel(t.Context(), person("anna"), first.ID))
	third, err := o.Request(t.Context(), person("carla"), key(v), time.Time{})
	o.expect(third, err, lifecycle.RequestAwaitingApproval)

	// Two at once: one is the duplicate of the other.
	v = storetest.Values("at once")
	o.Install(v, "at once")
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		wg.Go(func() { _, errs[i] = o.Request(t.Context(), person("anna"), key(v), time.Time{}) })
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) {
		t.Errorf("%v and %v", errs[0], errs[1])
	}
}

func TestADeniedRequestEndsWithItsGround(t *testing.T) {
	o := open(t)
	id, _, r := o.customer("denied")
	if _, err := o.Deny(t.Context(), person("bob"), r.ID, "no"); !errors.Is(err, lifecycle.RequestInvalid) {
		t.Errorf("denied without a ground: %v", err)
	}
	r, err := o.Deny(t.Context(), person("bob"), r.ID, requests.IdentityNotProven)
	if o.expect(r, err, lifecycle.RequestDenied); *r.Ground != requests.IdentityNotProven {
		t.Errorf("%+v", r)
	}
	if _, err := o.Approve(t.Context(), person("bob"), r.ID); !errors.Is(err, lifecycle.RequestConflict) {
		t.Errorf("a denied request was approved: %v", err)
	}
	o.Clock.Add(48 * hour)
	o.pass(r.ID, lifecycle.RequestDenied)
	if n := o.Int(`SELECT count(*) FROM trakr.tenant_fields WHERE tenant_id = $1`, id.String()); n != 1 {
		t.Error("erased although denied")
	}
}

func TestARequestIsCancelledUntilItsErasureBegins(t *testing.T) {
	o := open(t)
	_, v, r := o.customer("cancelled")
	o.expect2(o.Approve(t.Context(), person("bob"), r.ID))
	r, err := o.Cancel(t.Context(), person("anna"), r.ID) // in the cooling-off
	o.expect(r, err, lifecycle.RequestCancelled)
	o.Clock.Add(2 * hour)
	o.pass(r.ID, lifecycle.RequestCancelled)
	if o.erasures.ordered != 0 {
		t.Error("a cancelled request was carried out")
	}
	r, err = o.Request(t.Context(), person("anna"), key(v), time.Time{})
	o.expect(r, err, lifecycle.RequestAwaitingApproval)
	o.expect2(o.Approve(t.Context(), person("bob"), r.ID))
	o.erasures.set(func(f *erasures) { f.broken = errors.New("not now") })
	o.Clock.Add(2 * hour)
	o.pass(r.ID, lifecycle.RequestFailed)
	if _, err := o.Cancel(t.Context(), person("anna"), r.ID); !errors.Is(err, lifecycle.RequestConflict) {
		t.Errorf("cancelled after it was in progress: %v", err)
	}
}

func TestWhatFailedIsTriedAgainLaterAndLater(t *testing.T) {
	o := open(t)
	_, _, r := o.customer("failed")
	o.expect2(o.Approve(t.Context(), person("bob"), r.ID))
	o.erasures.set(func(f *erasures) { f.broken = errors.New("not now") })
	o.Clock.Add(hour)
	o.pass(r.ID, lifecycle.RequestFailed)
	o.pass(r.ID, lifecycle.RequestFailed)
	if o.erasures.ordered != 1 {
		t.Errorf("%d attempts at once", o.erasures.ordered)
	}
	o.Clock.Add(time.Minute)
	if s := o.pass(r.ID, lifecycle.RequestFailed); o.erasures.ordered != 2 || s.Attempts != 2 || s.RetryAt.Sub(o.Clock.Now()) != 2*time.Minute {
		t.Errorf("%d attempts, the next at %s", s.Attempts, s.RetryAt)
	}
	o.erasures.set(func(f *erasures) { f.broken = nil })
	o.Clock.Add(2 * time.Minute)
	o.pass(r.ID, lifecycle.RequestCompleted)
}

func TestAlreadyErasedIsASuccessWithTheCertificateThatThereIs(t *testing.T) {
	o := open(t)
	v := storetest.Values("erased")
	id := o.Install(v, "one")
	eid, err := o.erasures.Erase(t.Context(), storetest.Service(), id, deletionrequests.Order{RequestedAt: o.Clock.Now()})
	if err != nil || o.erasures.Finish(t.Context(), storetest.Service(), eid, uuid.NewString()) != nil {
		t.Fatal(err)
	}
	r, err := o.Request(t.Context(), person("anna"), key(v), time.Time{})
	if o.expect(r, err, lifecycle.RequestCompleted); *r.CertificateID != o.erasures.certs[eid] || r.ApprovedBy != nil {
		t.Errorf("%+v", r)
	}
	e, cert, err := o.Erased(t.Context(), person("anna"), key(v))
	if err != nil || e.ID != eid || e.State() != lifecycle.RequestCompleted || !strings.Contains(string(cert), *r.CertificateID) {
		t.Errorf("%+v %s %v", e, cert, err)
	}
}

func TestAnUninstallMeanwhileFulfilsTheRequest(t *testing.T) {
	o := open(t)
	id, _, r := o.customer("uninstalled")
	if _, err := o.erasures.Erase(t.Context(), storetest.Service(), id, deletionrequests.Order{RequestedAt: o.Clock.Now()}); err != nil {
		t.Fatal(err)
	}
	if s := o.pass(r.ID, lifecycle.RequestCompleted); s.ApprovedBy != nil || s.CertificateID == nil {
		t.Errorf("%+v", s.Request)
	}
}

func TestWhatWasNeverKnownIsASuccessWithItsOwnCertificate(t *testing.T) {
	o := open(t)
	r, err := o.Request(t.Context(), person("anna"), key(storetest.Values("never")), time.Time{})
	if o.expect(r, err, lifecycle.RequestCompletedNothingHeld); r.TenantID != nil || *r.CertificateID != o.erasures.certs[r.ID] || len(r.SubjectDigests) != 1 {
		t.Errorf("%+v", r)
	}
	if got := o.moves(r.ID); got != "anna received, anna completed_nothing_held" {
		t.Error(got)
	}
	if _, _, err := o.Erased(t.Context(), person("anna"), key(storetest.Values("never"))); !errors.Is(err, lifecycle.TenantUnknown) {
		t.Error(err)
	}
}

func TestAHoldStopsARequestVisiblyAndItsEndLetsItGoOn(t *testing.T) {
	o := open(t)
	id, _, r := o.customer("held")
	lawyer := person("lawyer")
	r, err := o.Service.Hold(t.Context(), lawyer, r.ID, holds.LegalClaim, o.Clock.Now().Add(10*hour))
	o.expect(r, err, lifecycle.RequestOnHold)
	if _, err := o.Approve(t.Context(), person("bob"), r.ID); !errors.Is(err, lifecycle.OnHold) {
		t.Errorf("approved while on hold: %v", err)
	}
	r, err = o.Release(t.Context(), lawyer, r.ID)
	o.expect(r, err, lifecycle.RequestAwaitingApproval)
	o.expect2(o.Approve(t.Context(), person("bob"), r.ID))
	h, err := o.holds.Place(t.Context(), lawyer, holds.Order{Tenant: id, Ground: holds.AuthorityOrder, Until: o.Clock.Now().Add(10 * hour)})
	if err != nil {
		t.Fatal(err)
	}
	o.Clock.Add(2 * hour)
	if s := o.pass(r.ID, lifecycle.RequestOnHold); len(s.Holds) != 1 || s.Holds[0].ID != h.ID || *s.HeldFrom != lifecycle.RequestApproved {
		t.Errorf("%+v", s)
	}
	o.Clock.Add(8*hour - time.Minute)
	o.pass(r.ID, lifecycle.RequestOnHold)
	o.Clock.Add(time.Minute) // the hold expires
	o.pass(r.ID, lifecycle.RequestCompleted)

	// One that comes between the beginning of the erasure and the deletion.
	_, _, r = o.customer("late")
	o.expect2(o.Approve(t.Context(), person("bob"), r.ID))
	o.erasures.set(func(f *erasures) { f.held = true })
	o.Clock.Add(hour)
	if err := o.Run(t.Context(), "cron"); err != nil {
		t.Fatal(err)
	}
	if got := o.moves(r.ID); !strings.Contains(got, "job in_progress, job on_hold") {
		t.Error(got)
	}
	if _, err := o.Cancel(t.Context(), person("anna"), r.ID); !errors.Is(err, lifecycle.RequestConflict) {
		t.Errorf("cancelled although its erasure has begun: %v", err)
	}
	o.erasures.set(func(f *erasures) { f.held = false })
	o.pass(r.ID, lifecycle.RequestCompleted)
}

func TestRowsThatRemainNeedAction(t *testing.T) {
	o := open(t)
	_, v, r := o.customer("remains")
	o.expect2(o.Approve(t.Context(), person("bob"), r.ID))
	o.erasures.set(func(f *erasures) { f.remains = true })
	o.Clock.Add(hour)
	o.pass(r.ID, lifecycle.RequestPartiallyCompleted)
	o.pass(r.ID, lifecycle.RequestPartiallyCompleted)
	if _, err := o.Request(t.Context(), person("carla"), key(v), time.Time{}); !errors.Is(err, lifecycle.RequestConflict) {
		t.Errorf("a second request beside one that needs action: %v", err)
	}
	o.erasures.set(func(f *erasures) { f.remains, f.awaits = false, true })
	o.pass(r.ID, lifecycle.RequestAwaitingRecipient)
	o.erasures.set(func(f *erasures) { f.awaits = false })
	o.pass(r.ID, lifecycle.RequestCompleted)
}

// A crash after any move leaves a request that the next pass carries on, once.
func TestACrashBetweenTwoMovesIsMadeUpByTheNextPass(t *testing.T) {
	for _, state := range []lifecycle.RequestState{lifecycle.RequestReceived, lifecycle.RequestIdentityCheck, lifecycle.RequestAwaitingApproval, lifecycle.RequestApproved, lifecycle.RequestInProgress, lifecycle.RequestVerifying} {
		t.Run(string(state), func(t *testing.T) {
			o := open(t, func(p *policy.Policy) { p.DeletionRequests.CoolingOff = policy.Period{} })
			v := storetest.Values("crash")
			o.Install(v, "one")
			crash := errors.New("killed")
			o.stop = func(s lifecycle.RequestState) error {
				if s == state {
					return crash
				}
				return nil
			}
			_, _ = o.Request(t.Context(), person("anna"), key(v), time.Time{})
			all, err := o.List(t.Context(), requests.Filter{Limit: 10}, false)
			if err != nil || len(all) != 1 {
				t.Fatalf("%d requests, %v", len(all), err)
			}
			id := all[0].ID
			if state == lifecycle.RequestReceived || state == lifecycle.RequestIdentityCheck {
				o.at(id, state)
				o.stop = func(lifecycle.RequestState) error { return nil }
			}
			o.pass(id, lifecycle.RequestAwaitingApproval)
			_, _ = o.Approve(t.Context(), person("bob"), id)
			if state == lifecycle.RequestApproved || state == lifecycle.RequestInProgress || state == lifecycle.RequestVerifying {
				o.at(id, state)
			}
			o.stop = func(lifecycle.RequestState) error { return nil }
			o.pass(id, lifecycle.RequestCompleted)
			if n := o.Int(`SELECT count(*) FROM trakr.erasures`); n != 1 || len(o.erasures.certs) != 1 {
				t.Errorf("%d erasures, %d certificates", n, len(o.erasures.certs))
			}
			if got := o.moves(id); strings.Count(got, ",") != 6 {
				t.Errorf("it travelled: %s", got)
			}
		})
	}
}

func TestIdentityIsConfirmedInAStepOfItsOwnWhereThePolicySaysSo(t *testing.T) {
	o := open(t, func(p *policy.Policy) { p.DeletionRequests.IdentityCheck = policy.IdentitySeparate })
	v := storetest.Values("who")
	o.Install(v, "one")
	r, err := o.Request(t.Context(), person("anna"), key(v), time.Time{})
	o.expect(r, err, lifecycle.RequestIdentityCheck)
	o.pass(r.ID, lifecycle.RequestIdentityCheck)
	if _, err := o.Approve(t.Context(), person("bob"), r.ID); !errors.Is(err, lifecycle.RequestConflict) {
		t.Errorf("approved before anybody knows who asked: %v", err)
	}
	r, err = o.Identify(t.Context(), person("anna"), r.ID)
	o.expect(r, err, lifecycle.RequestAwaitingApproval)
}

func TestARequestIsOverdueAMinuteAfterItsTime(t *testing.T) {
	o := open(t)
	v := storetest.Values("overdue")
	o.Install(v, "one")
	r, err := o.Request(t.Context(), person("anna"), key(v), o.Clock.Now().Add(-10*24*hour)) // the customer asked ten days ago
	o.expect(r, err, lifecycle.RequestAwaitingApproval)
	late := func() int {
		all, err := o.List(t.Context(), requests.Filter{Limit: 10}, true)
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	o.Clock.Add(20*24*hour - time.Minute)
	if n := late(); n != 0 {
		t.Errorf("%d overdue a minute before", n)
	}
	o.Clock.Add(2 * time.Minute)
	if n := late(); n != 1 || !o.at(r.ID, lifecycle.RequestAwaitingApproval).Overdue {
		t.Errorf("%d overdue a minute after", n)
	}
	o.expect2(o.Cancel(t.Context(), person("anna"), r.ID))
	if n := late(); n != 0 {
		t.Errorf("%d overdue after it ended", n)
	}
	for _, bad := range []time.Time{o.Clock.Now().Add(time.Minute), o.Clock.Now().Add(-400 * 24 * hour)} {
		if _, err := o.Request(t.Context(), person("anna"), key(v), bad); !errors.Is(err, lifecycle.RequestInvalid) {
			t.Errorf("submitted at %s: %v", bad, err)
		}
	}
}

func TestNoMoveWithoutItsEvent(t *testing.T) {
	for name, sql := range storetest.Breaks() {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			_, _, r := o.customer("unrecorded")
			o.Exec(sql)
			if _, err := o.Approve(t.Context(), person("bob"), r.ID); !errors.Is(err, lifecycle.AuditUnavailable) {
				t.Errorf("approved without its event: %v", err)
			}
			o.at(r.ID, lifecycle.RequestAwaitingApproval)
		})
	}
}

func TestARequestThatWaitsIsNoFailedJobAndOneSweepCountsForAll(t *testing.T) {
	o := open(t)
	var all []requests.Request
	for _, name := range []string{"a", "b", "c"} {
		_, _, r := o.customer(name)
		o.expect2(o.Approve(t.Context(), person("bob"), r.ID))
		all = append(all, r)
	}
	job := func(state lifecycle.RequestState) {
		t.Helper()
		swept := o.erasures.swept
		if err := o.Run(t.Context(), "cron"); err != nil {
			t.Errorf("the job failed: %v", err)
		}
		for _, r := range all {
			o.at(r.ID, state)
		}
		if n := o.erasures.swept - swept; n != 1 {
			t.Errorf("%d sweeps for %d requests", n, len(all))
		}
	}
	o.Clock.Add(2 * hour)
	o.erasures.set(func(f *erasures) { f.waits = true })
	job(lifecycle.RequestVerifying)
	o.erasures.set(func(f *erasures) { f.waits, f.remains = false, true })
	job(lifecycle.RequestPartiallyCompleted)
	o.erasures.set(func(f *erasures) { f.remains = false })
	job(lifecycle.RequestCompleted)
	_, _, r := o.customer("broken")
	o.expect2(o.Approve(t.Context(), person("bob"), r.ID))
	o.Clock.Add(2 * hour)
	o.erasures.set(func(f *erasures) { f.broken = errors.New("out of order") })
	if err := o.Run(t.Context(), "cron"); err == nil {
		t.Error("what nobody expected does not fail the job")
	}
}
