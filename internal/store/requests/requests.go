// Package requests keeps customers' deletion requests and the history of each. A
// request moves in one transaction with its audit event (request.move, whose
// status_detail is the new state) and its line of history. The database enforces the
// allowed moves, that the approver is another person than the requester, and that a tenant
// has at most one open request: see trakr.judge_request.
//
// Package internal/requests decides when a request moves.
package requests

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/holds"
	"trakr/internal/store/internal/pg"
)

// Request is one deletion request.
type Request struct {
	bun.BaseModel `bun:"table:trakr.deletion_requests,alias:r" json:"-"`

	ID             string                 `json:"request_id" bun:"request_id,pk"`
	State          lifecycle.RequestState `json:"state" bun:"state"`
	TenantID       *string                `json:"tenant_id,omitempty" bun:"tenant_id" doc:"our random id; absent when no tenant was known"`
	SubjectDigests []string               `json:"-" bun:"subject_digests,array"` // hex, newest key first; nil when a tenant is known

	Ticket                 string     `json:"ticket" bun:"ticket"`
	RequestedBy            string     `json:"requested_by" bun:"requested_by"`
	ApprovedBy             *string    `json:"approved_by,omitempty" bun:"approved_by"`
	MovedBy                string     `json:"-" bun:"moved_by"`
	SubmittedTime          time.Time  `json:"submitted_time" bun:"submitted_time" doc:"when the customer asked"`
	ReceivedTime           time.Time  `json:"received_time" bun:"received_time"`
	ExpectedCompletionTime time.Time  `json:"expected_completion_time" bun:"expected_completion_time" doc:"when it is due"`
	MovedAt                time.Time  `json:"moved_at" bun:"moved_at" doc:"when it entered its state"`
	MovedRef               *string    `json:"-" bun:"moved_ref"`
	ApprovedAt             *time.Time `json:"approved_at,omitempty" bun:"approved_at"`
	NotBefore              *time.Time `json:"not_before,omitempty" bun:"not_before" doc:"end of the cooling-off"`
	Ground                 *Ground    `json:"ground,omitempty" bun:"ground" doc:"of a denial"`

	HeldFrom *lifecycle.RequestState `json:"held_from,omitempty" bun:"held_from" doc:"its state when the hold ends"`

	ExistingRequestID *string `json:"existing_request_id,omitempty" bun:"existing_request_id" doc:"of a duplicate: the open request"`

	Attempts  int        `json:"attempts,omitempty" bun:"attempts" doc:"that failed"`
	RetryAt   *time.Time `json:"retry_at,omitempty" bun:"retry_at"`
	ErasureID *string    `json:"erasure_id,omitempty" bun:"erasure_id"`

	DeletedLiveAt     *time.Time `json:"deleted_live_at,omitempty" bun:"deleted_live_at" doc:"deleted from live stores"`
	VerifiedAt        *time.Time `json:"verified_at,omitempty" bun:"verified_at"`
	BackupsClearAfter *time.Time `json:"backups_clear_after,omitempty" bun:"backups_clear_after" doc:"expired from backups"`
	CertificateID     *string    `json:"certificate_id,omitempty" bun:"certificate_id"`
}

// Overdue reports whether a request is open past the time it was due.
func (r Request) Overdue(now time.Time) bool {
	return r.State.Open() && now.After(r.ExpectedCompletionTime)
}

// Tenant is the tenant it is about; zero when none was known.
func (r Request) Tenant() lifecycle.TenantID {
	if r.TenantID == nil {
		return lifecycle.TenantID{}
	}
	id, _ := lifecycle.ParseTenantID(*r.TenantID) // the column is a uuid, so it always parses
	return id
}

// Step is one move.
type Step struct {
	From lifecycle.RequestState `json:"from,omitempty" bun:"from_state,nullzero"`
	To   lifecycle.RequestState `json:"to" bun:"to_state"`
	By   string                 `json:"by" bun:"moved_by"`
	Ref  string                 `json:"ticket,omitempty" bun:"moved_ref,nullzero"`
	At   time.Time              `json:"at" bun:"moved_at"`
}

// Store keeps the requests of one database.
type Store struct {
	db  *store.DB
	log *audit.Log
}

// New returns the store of db.
func New(db *store.DB, log *audit.Log) (*Store, error) {
	if db == nil || log == nil {
		return nil, errors.New("deletion requests need a database and an audit log")
	}
	return &Store{db, log}, nil
}

// Now is the clock by which requests move.
func (s *Store) Now() time.Time { return s.log.Now().UTC().Truncate(time.Microsecond) }

// Order is a new request: about a tenant, or about the digests of what no tenant has.
type Order struct {
	Tenant    lifecycle.TenantID
	Digests   []keyring.Digest // newest key first
	Submitted time.Time        // by the customer
	Due       time.Time
}

// Receive enters a new request. If another one is open for the tenant it enters a duplicate
// and fails with request-conflict, which names the open one.
func (s *Store) Receive(ctx context.Context, a lifecycle.Access, o Order) (Request, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Request{}, fmt.Errorf("receiving a request: %w", err)
	}
	now := s.Now()
	r := Request{ID: id.String(), State: lifecycle.RequestReceived, Ticket: a.Reason.Ref, RequestedBy: a.Caller.ID, MovedBy: a.Caller.ID,
		SubmittedTime: o.Submitted.UTC(), ReceivedTime: now, ExpectedCompletionTime: o.Due.UTC(), MovedAt: now,
		MovedRef: &a.Reason.Ref}
	if !o.Tenant.IsZero() {
		t := o.Tenant.String()
		r.TenantID = &t
	} else {
		for _, d := range o.Digests {
			r.SubjectDigests = append(r.SubjectDigests, d.String())
		}
	}
	err = pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		if r.TenantID != nil {
			// Two requests at once wait for each other here; the second is the duplicate.
			if _, err := tx.NewRaw(`SELECT FROM trakr.tenants WHERE tenant_id = ? FOR UPDATE`, *r.TenantID).Exec(ctx); err != nil {
				return err
			}
			open, err := openFor(ctx, tx, *r.TenantID)
			if err != nil {
				return err
			}
			if open != "" {
				r.State, r.ExistingRequestID = lifecycle.RequestDuplicate, &open
			}
		}
		e := s.event(ctx, a, r)
		if r.State == lifecycle.RequestDuplicate {
			e.Outcome = audit.Denied
		}
		if err := audit.Append(ctx, tx, e); err != nil {
			return err
		}
		_, err := tx.NewInsert().Model(&r).Exec(ctx)
		return err
	})
	if err != nil {
		return Request{}, fmt.Errorf("receiving a request: %w", err)
	}
	if r.State == lifecycle.RequestDuplicate {
		return r, lifecycle.Fail(lifecycle.RequestConflict, "A deletion request for this tenant is open already: "+*r.ExistingRequestID+".",
			lifecycle.Existing(*r.ExistingRequestID), lifecycle.Because(string(lifecycle.RequestDuplicate)))
	}
	return r, nil
}

// openFor returns the id of a tenant's open request, "" for none.
func openFor(ctx context.Context, tx bun.Tx, tenant string) (string, error) {
	var row struct{ RequestID string }
	err := pg.Map(tx.NewRaw(`SELECT request_id FROM trakr.deletion_requests WHERE tenant_id = ? AND `+isOpen, tenant).Scan(ctx, &row))
	if errors.Is(err, pg.ErrNoRows) {
		return "", nil
	}
	return row.RequestID, err
}

// event is the audit event of a request that came into its state.
func (s *Store) event(ctx context.Context, a lifecycle.Access, r Request) audit.Event {
	e := audit.New(ctx, s.log.Now(), a, audit.RequestMove, audit.Success)
	e.TenantID, e.StatusDetail, e.CorrelationID = r.Tenant(), string(r.State), r.ID
	return e
}

// Facts are the facts that decide a move, as the moving transaction sees them.
type Facts struct {
	Hold   holds.Hold // that keeps the tenant's data longest
	Held   bool
	Begun  bool // an erasure of the tenant has begun, by any trigger
	Erased bool // the tenant is deleted from the live stores
	Now    time.Time
}

// Move calls change with the locked row of a request and stores the result. If change
// leaves the state as it is, nothing is stored; if it returns an error, the move is
// refused. A person's refused attempt is recorded in the audit.
func (s *Store) Move(
	ctx context.Context, a lifecycle.Access, id string, change func(r *Request, f Facts) error,
) (Request, error) {
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		return Request{}, unknown()
	}
	var r Request
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		r = Request{}
		err := pg.Map(tx.NewSelect().Model(&r).Where("request_id = ?", id).For("UPDATE").Scan(ctx))
		if errors.Is(err, pg.ErrNoRows) {
			return unknown()
		}
		if err != nil {
			return err
		}
		facts, err := s.facts(ctx, tx, r)
		if err != nil {
			return err
		}
		before := r.State
		if err := change(&r, facts); err != nil || r.State == before {
			return err
		}
		if a.Reason.Ref == "" {
			a.Reason.Ref = r.Ticket
		}
		r.MovedBy, r.MovedAt, r.MovedRef = a.Caller.ID, facts.Now, &a.Reason.Ref
		if err := audit.Append(ctx, tx, s.event(ctx, a, r)); err != nil {
			return err
		}
		res, err := tx.NewUpdate().Model(&r).Column(strings.Fields(movable)...).WherePK().Where("state = ?", before).Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, errors.New("a deletion request was not moved"))
		}
		return nil
	})
	if err != nil && a.Caller.Type.Person() && refused(err) {
		e := s.event(ctx, a, r)
		e.Outcome, e.StatusDetail = audit.Denied, string(lifecycle.AsFault(err).Kind)
		if rerr := s.log.Record(ctx, e); rerr != nil {
			return Request{}, rerr
		}
	}
	if err != nil {
		return Request{}, fmt.Errorf("moving a request: %w", err)
	}
	return r.utc(), nil
}

// refused reports whether a move was refused, rather than failed.
func refused(err error) bool {
	for _, k := range []lifecycle.Kind{
		lifecycle.SamePerson, lifecycle.RequestConflict, lifecycle.OnHold, lifecycle.Forbidden, lifecycle.ReasonRequired,
	} {
		if errors.Is(err, k) {
			return true
		}
	}
	return false
}

// movable are the columns that a move may change; the service's grant lists the same.
const movable = `state approved_by moved_by moved_at moved_ref approved_at not_before ground held_from attempts
	retry_at erasure_id deleted_live_at verified_at backups_clear_after certificate_id`

// isOpen selects the requests in a state for which lifecycle.RequestState.Open is true.
const isOpen = `state NOT IN ('completed', 'completed_nothing_held', 'denied', 'cancelled', 'duplicate')`

func (s *Store) facts(ctx context.Context, tx bun.Tx, r Request) (f Facts, err error) {
	f.Now = s.Now()
	if r.TenantID == nil {
		return f, nil
	}
	var row struct{ Begun, Erased bool }
	err = tx.NewRaw(`SELECT EXISTS (SELECT FROM trakr.erasures AS x WHERE x.tenant_id = t.tenant_id) AS begun, t.state = 'erased' AS erased
		FROM trakr.tenants AS t WHERE t.tenant_id = ?`, *r.TenantID).Scan(ctx, &row)
	if err != nil {
		return f, err
	}
	f.Begun, f.Erased = row.Begun, row.Erased
	f.Hold, f.Held, err = holds.Active(ctx, tx, r.Tenant(), f.Now)
	return f, err
}

// Get returns one request, or not-found.
func (s *Store) Get(ctx context.Context, id string) (Request, error) {
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		return Request{}, unknown()
	}
	var r Request
	err := pg.Map(pg.Bun(s.db).NewSelect().Model(&r).Where("request_id = ?", id).Scan(ctx))
	if errors.Is(err, pg.ErrNoRows) {
		return Request{}, unknown()
	}
	if err != nil {
		return Request{}, fmt.Errorf("reading a request: %w", err)
	}
	return r.utc(), nil
}

// History returns every move of a request, oldest first.
func (s *Store) History(ctx context.Context, id string) ([]Step, error) {
	out := []Step{}
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT from_state, to_state, moved_by, moved_ref, moved_at FROM trakr.deletion_request_events
		WHERE request_id = ? ORDER BY seq LIMIT 1000`, id).Scan(ctx, &out))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("reading a request's history: %w", err)
	}
	for i := range out {
		out[i].At = out[i].At.UTC()
	}
	return out, nil
}

// Filter selects requests; a zero member selects all.
type Filter struct {
	State   lifecycle.RequestState
	Open    bool
	Overdue time.Time // open past what was due by this time
	Tenant  lifecycle.TenantID
	Limit   int // at most 1000
}

// List returns requests: overdue ones the longest overdue first, others newest first.
func (s *Store) List(ctx context.Context, f Filter) ([]Request, error) {
	out := []Request{}
	q := pg.Bun(s.db).NewSelect().Model(&out)
	if f.State != "" {
		q = q.Where("state = ?", string(f.State))
	}
	if f.Open || !f.Overdue.IsZero() {
		q = q.Where(isOpen)
	}
	if !f.Tenant.IsZero() {
		q = q.Where("tenant_id = ?", f.Tenant.String())
	}
	if !f.Overdue.IsZero() {
		q = q.Where("expected_completion_time < ?", f.Overdue.UTC()).OrderExpr("expected_completion_time, request_id")
	} else {
		q = q.OrderExpr("received_time DESC, request_id DESC")
	}
	err := pg.Map(q.Limit(int64(min(max(f.Limit, 1), 1000))).Scan(ctx))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("listing requests: %w", err)
	}
	for i := range out {
		out[i] = out[i].utc()
	}
	return out, nil
}

// EachOpen calls yield with every open request, in the order in which they are due.
func (s *Store) EachOpen(ctx context.Context, yield func(Request) error) error {
	var after Request
	for {
		var page []Request
		q := pg.Bun(s.db).NewSelect().Model(&page).Where(isOpen)
		if after.ID != "" {
			q = q.Where("(expected_completion_time, request_id) > (?, ?::uuid)", after.ExpectedCompletionTime, after.ID)
		}
		err := pg.Map(q.OrderExpr("expected_completion_time, request_id").Limit(200).Scan(ctx))
		if err != nil && !errors.Is(err, pg.ErrNoRows) {
			return fmt.Errorf("listing open requests: %w", err)
		}
		for _, r := range page {
			if err := yield(r.utc()); err != nil {
				return err
			}
			after = r
		}
		if len(page) < 200 {
			return nil
		}
	}
}

func (r Request) utc() Request {
	for _, t := range []*time.Time{&r.SubmittedTime, &r.ReceivedTime, &r.ExpectedCompletionTime, &r.MovedAt} {
		*t = t.UTC()
	}
	for _, t := range []**time.Time{&r.ApprovedAt, &r.NotBefore, &r.RetryAt, &r.DeletedLiveAt, &r.VerifiedAt, &r.BackupsClearAfter} {
		if *t != nil {
			at := (*t).UTC()
			*t = &at
		}
	}
	return r
}

func unknown() error {
	return lifecycle.Fail(lifecycle.NotFound, "There is no deletion request with this id; trakr deletion list shows them.")
}
