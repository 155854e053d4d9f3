// Package requests carries a customer's request that its data be deleted from the
// ticket to the certificate: one person enters it, a second one approves it, and after a
// cooling-off the erasure is ordered, verified and certified.
//
// A request is a row of states (store/requests). People move it by Request, Identify,
// Approve, Deny, Cancel, Hold and Release; everything else is done by Advance, which a
// job calls every minute and every act of a person at its end. Each move is one
// transaction, and each step between two of them can be repeated: after a crash anywhere
// the next pass continues.
//
// It deletes nothing itself and knows no SQL.
package requests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/census"
	"trakr/internal/store/holds"
	"trakr/internal/store/requests"
	"trakr/internal/store/tenants"
	"trakr/policy"
)

// Erasures is the one erasure, whatever its trigger.
type Erasures interface {
	// Erase begins a tenant's erasure for a request, or continues the one under way,
	// until its values are deleted; one that is done is a success. An on-hold error means
	// that a legal hold keeps the values. The id may come with an error, when the erasure
	// has begun and waits.
	Erase(ctx context.Context, a lifecycle.Access, tenant lifecycle.TenantID, o Order) (erasureID string, err error)
	// Finish verifies and certifies a deleted tenant's erasure, by the counts of a sweep's
	// run that began after the deletion. ErrRemains means that rows were found, ErrWaits
	// that it cannot be determined yet; the next call checks again.
	Finish(ctx context.Context, a lifecycle.Access, erasureID, run string) error
	// Sweep runs one pass of the sweep that counts, for all erasures. ErrWaits means
	// that one is running now.
	Sweep(ctx context.Context, a lifecycle.Access) (run string, err error)
	// Get returns an erasure by its id, Of by its tenant; both can be not-found.
	Get(ctx context.Context, erasureID string) (Erasure, error)
	Of(ctx context.Context, tenant lifecycle.TenantID) (Erasure, error)
	// NothingHeld issues the certificate that no data is stored under the name that a
	// request gave. There is one for each request.
	NothingHeld(ctx context.Context, a lifecycle.Access, r requests.Request) (certificateID string, err error)
	// Certificate renders the certificate of an erasure, or of a request that has none,
	// as json, html or pdf, and records in the audit that it was issued to the caller.
	Certificate(ctx context.Context, a lifecycle.Access, id, format string) (content []byte, contentType string, err error)
}

// Expected ends of a step, after which a request waits for the next pass.
var (
	// ErrRemains means that rows of an erased tenant were found.
	ErrRemains = errors.New("rows of the tenant remain")
	// ErrWaits means that a precondition of the next step is not met yet. It is no fault
	// of the request.
	ErrWaits = errors.New("a precondition of the request is not met yet")
)

// Order is the request that an erasure fulfils.
type Order struct {
	RequestID   string
	RequestedAt time.Time // by the customer
}

// Erasure is the progress of an erasure; a zero time is a step not taken.
type Erasure struct {
	ID                string
	DeletedAt         time.Time // when it was deleted from live stores
	VerifiedAt        time.Time
	BackupsClearAfter time.Time
	CertificateID     string
	AwaitsRecipient   bool // the end service has yet to acknowledge
}

// State returns the state of a request whose erasure this is.
func (e Erasure) State() lifecycle.RequestState {
	switch {
	case e.CertificateID != "" && !e.AwaitsRecipient:
		return lifecycle.RequestCompleted
	case e.AwaitsRecipient && !e.VerifiedAt.IsZero():
		return lifecycle.RequestAwaitingRecipient
	case !e.DeletedAt.IsZero():
		return lifecycle.RequestVerifying
	}
	return lifecycle.RequestInProgress
}

// Config is what a Service works with.
type Config struct {
	Requests *requests.Store
	Holds    *holds.Store
	Door     *tenants.Door
	Census   *census.Store
	Policy   *policy.Policy
	Erasures Erasures
	Log      *slog.Logger

	// After, if given, is called when a request has entered a state, for tests that stop
	// there.
	After func(lifecycle.RequestState) error
}

// Service carries out deletion requests. It is safe for concurrent use.
type Service struct{ c Config }

// New returns a service.
func New(c Config) (*Service, error) {
	if c.Requests == nil || c.Holds == nil || c.Door == nil || c.Census == nil || c.Policy == nil ||
		c.Erasures == nil || c.Log == nil {
		return nil, errors.New("deletion requests need their store, holds, the door, the census, a policy, the erasure and a log")
	}
	if c.After == nil {
		c.After = func(lifecycle.RequestState) error { return nil }
	}
	return &Service{c}, nil
}

// Request enters a customer's request. The subject is looked up (audited, by keyed
// digest) and not stored. If it is a tenant, the request waits for its approval; if the
// tenant's erasure has begun already, or is done, the request follows that erasure; if no
// data is stored, it is completed with a certificate that states this. Submitted is when
// the customer asked; zero is now.
func (s *Service) Request(
	ctx context.Context, a lifecycle.Access, subject tenants.Subject, submitted time.Time,
) (requests.Request, error) {
	if err := person(a); err != nil {
		return requests.Request{}, err
	}
	now := s.c.Requests.Now()
	if submitted.IsZero() {
		submitted = now
	}
	if submitted.After(now) || now.Sub(submitted) > longAgo {
		return requests.Request{}, lifecycle.Fail(lifecycle.RequestInvalid,
			"The time at which the customer asked must be within the past year.", lifecycle.At("/submitted_time", "out of range"))
	}
	o := requests.Order{Submitted: submitted, Due: submitted.Add(s.c.Policy.DeletionRequests.Due.Duration())}
	t, err := s.c.Door.Lookup(ctx, a, subject)
	switch {
	case errors.Is(err, lifecycle.TenantUnknown):
		if o.Digests, err = s.c.Door.Digests(subject); err != nil {
			return requests.Request{}, err
		}
	case err != nil:
		return requests.Request{}, err
	default:
		o.Tenant = t.ID
	}
	if err := s.oneInstallation(ctx, subject); err != nil {
		return requests.Request{}, err
	}
	r, err := s.c.Requests.Receive(ctx, a, o)
	if err != nil {
		return r, err
	}
	return s.advanceNow(ctx, a, r)
}

// oneInstallation refuses a workspace that is installed more than once here: a request
// is about one tenant, and must not end as completed while another one stays.
func (s *Service) oneInstallation(ctx context.Context, subject tenants.Subject) error {
	if subject.WorkspaceUUID.Empty() {
		return nil
	}
	all, err := s.c.Door.Installations(ctx, subject)
	if err != nil || len(all) <= 1 {
		return err
	}
	var ids []string
	for _, id := range all {
		ids = append(ids, id.String())
	}
	return lifecycle.Fail(lifecycle.RequestConflict, "This workspace is installed more than once here (tenants "+strings.Join(ids, ", ")+
		"); enter a request for each by its client key, which an audited read of each tenant shows.")
}

// longAgo is how old a customer's request may be when it is entered.
const longAgo = 366 * 24 * time.Hour

// Identify confirms that the customer itself asked, where the policy requires that as a
// step of its own.
func (s *Service) Identify(ctx context.Context, a lifecycle.Access, id string) (requests.Request, error) {
	return s.decide(ctx, a, id, func(r *requests.Request, f requests.Facts) error {
		if r.State != lifecycle.RequestIdentityCheck {
			return s.conflict(*r, "Only a request whose identity check is open can be confirmed")
		}
		r.State = lifecycle.RequestAwaitingApproval
		return nil
	})
}

// Approve lets a request be carried out after the cooling-off. It takes another
// person than the one who entered it.
func (s *Service) Approve(ctx context.Context, a lifecycle.Access, id string) (requests.Request, error) {
	return s.decide(ctx, a, id, func(r *requests.Request, f requests.Facts) error {
		switch {
		case f.Held && r.State.Open():
			return f.Hold.Refusal()
		case r.State != lifecycle.RequestAwaitingApproval:
			return s.conflict(*r, "Only a request that awaits its approval can be approved")
		case r.RequestedBy == a.Caller.ID:
			return lifecycle.Fail(lifecycle.SamePerson, "The person who entered a request cannot approve it: a second person must.")
		}
		until := f.Now.Add(s.c.Policy.DeletionRequests.CoolingOff.Duration())
		r.State, r.ApprovedBy, r.ApprovedAt, r.NotBefore = lifecycle.RequestApproved, &a.Caller.ID, &f.Now, &until
		return nil
	})
}

// Deny ends a request that was not approved yet, on a ground.
func (s *Service) Deny(ctx context.Context, a lifecycle.Access, id string, ground requests.Ground) (requests.Request, error) {
	if !slices.Contains(requests.Grounds(), ground) {
		return requests.Request{}, lifecycle.Fail(lifecycle.RequestInvalid,
			"A denial names its ground: "+Grounds()+".", lifecycle.At("/ground", "unknown ground"))
	}
	return s.decide(ctx, a, id, func(r *requests.Request, f requests.Facts) error {
		if !in(*r, lifecycle.RequestIdentityCheck, lifecycle.RequestAwaitingApproval) {
			return s.conflict(*r, "Only a request that is not approved yet can be denied")
		}
		r.State, r.Ground, r.HeldFrom = lifecycle.RequestDenied, &ground, nil
		return nil
	})
}

// Cancel withdraws a request before anything is deleted: during the cooling-off too.
func (s *Service) Cancel(ctx context.Context, a lifecycle.Access, id string) (requests.Request, error) {
	return s.decide(ctx, a, id, func(r *requests.Request, f requests.Facts) error {
		if f.Begun || !in(*r, lifecycle.RequestReceived, lifecycle.RequestIdentityCheck,
			lifecycle.RequestAwaitingApproval, lifecycle.RequestApproved) {
			return s.conflict(*r, "Only a request whose erasure has not begun can be cancelled")
		}
		r.State, r.HeldFrom = lifecycle.RequestCancelled, nil
		return nil
	})
}

// in reports whether a request is, or was before a hold, in one of the states.
func in(r requests.Request, states ...lifecycle.RequestState) bool {
	return slices.Contains(states, r.State) || (r.State == lifecycle.RequestOnHold && slices.Contains(states, *r.HeldFrom))
}

// Hold places a legal hold on the tenant of an open request, which waits from then on.
func (s *Service) Hold(
	ctx context.Context, a lifecycle.Access, id string, ground holds.Ground, until time.Time,
) (requests.Request, error) {
	r, err := s.c.Requests.Get(ctx, id)
	if err != nil {
		return r, err
	}
	if !r.State.Open() || r.TenantID == nil {
		return r, s.conflict(r, "Only an open request can be put on hold")
	}
	hold := holds.Order{Tenant: r.Tenant(), Ground: ground, Until: until}
	if _, err := s.c.Holds.Place(ctx, onTicket(a, r), hold); err != nil {
		return r, err
	}
	return s.advanceNow(ctx, serviceAccess(a, r), r)
}

// Release ends every hold on the tenant of a request; the request continues in the state
// that it had before.
func (s *Service) Release(ctx context.Context, a lifecycle.Access, id string) (requests.Request, error) {
	r, err := s.c.Requests.Get(ctx, id)
	if err != nil {
		return r, err
	}
	var active []holds.Hold
	if r.TenantID != nil {
		if active, err = s.c.Holds.List(ctx, r.Tenant(), s.c.Requests.Now()); err != nil {
			return r, err
		}
	}
	if len(active) == 0 {
		return r, s.conflict(r, "No legal hold keeps the tenant of this request")
	}
	for _, h := range active {
		if _, err := s.c.Holds.Release(ctx, onTicket(a, r), h.ID); err != nil {
			return r, err
		}
	}
	return s.advanceNow(ctx, serviceAccess(a, r), r)
}

// decide makes one move by a person, and then takes every step that the service can take
// now.
func (s *Service) decide(
	ctx context.Context, a lifecycle.Access, id string, change func(*requests.Request, requests.Facts) error,
) (requests.Request, error) {
	r, err := s.c.Requests.Get(ctx, id)
	if err != nil {
		return r, err
	}
	a = onTicket(a, r)
	if err := person(a); err != nil {
		return r, err
	}
	if r, err = s.c.Requests.Move(ctx, a, id, change); err != nil {
		return r, err
	}
	return s.advanceNow(ctx, serviceAccess(a, r), r)
}

// advanceNow advances a request whose move by a person is committed. A step that fails is
// logged, not returned: the job retries it.
func (s *Service) advanceNow(ctx context.Context, a lifecycle.Access, r requests.Request) (requests.Request, error) {
	if err := s.c.After(r.State); err != nil {
		return r, err
	}
	advanced, err := s.Advance(ctx, a, r.ID)
	if err != nil {
		s.c.Log.WarnContext(ctx, "a deletion request waits for its next pass", "correlation_id", r.ID, "error", err)
	}
	if advanced.ID == "" {
		return r, nil
	}
	return advanced, nil
}

// person refuses a caller that is not a person, or gives no valid reason.
func person(a lifecycle.Access) error {
	if err := a.Check(); err != nil {
		return err
	}
	if !a.Caller.Type.Person() {
		return lifecycle.Fail(lifecycle.Forbidden, "Deletion requests are decided by people.")
	}
	return nil
}

// onTicket returns a with the request's ticket as its reference when it names none.
func onTicket(a lifecycle.Access, r requests.Request) lifecycle.Access {
	if a.Reason.Ref == "" {
		a.Reason.Ref = r.Ticket
	}
	return a
}

// serviceAccess returns the access of the service itself, which acts for a request. The
// request's earlier moves record the persons who decided.
func serviceAccess(a lifecycle.Access, r requests.Request) lifecycle.Access {
	return lifecycle.Access{
		Caller:    lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "deletion requests", Role: lifecycle.RoleScheduler},
		Reason:    lifecycle.Reason{Code: lifecycle.CustomerRequestFulfilment, Ref: r.Ticket},
		RequestID: a.RequestID, CorrelationID: r.ID,
	}
}

// conflict returns the error of a move that a request's state does not allow.
func (s *Service) conflict(r requests.Request, rule string) error {
	return lifecycle.Fail(lifecycle.RequestConflict, fmt.Sprintf("%s; this one is %s.", rule, r.State), lifecycle.Existing(r.ID))
}

// Grounds returns the grounds of a denial as one text for messages and help.
func Grounds() string {
	var all []string
	for _, g := range requests.Grounds() {
		all = append(all, string(g))
	}
	return strings.Join(all, ", ")
}
