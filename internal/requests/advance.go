package requests

import (
	"context"
	"errors"
	"fmt"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/requests"
	"trakr/policy"
)

// Run advances every open request; one sweep counts for all requests that are to be
// verified. A request that fails does not delay the others, and one that waits for an
// expected condition is no failure: its state and its holds show it.
func (s *Service) Run(ctx context.Context, requestID string) error {
	var failed []error
	advance := func(r requests.Request, p *pass) {
		_, err := s.advance(ctx, serviceAccess(lifecycle.Access{RequestID: requestID}, r), r.ID, p)
		switch {
		case err == nil:
		case expected(err):
			s.c.Log.WarnContext(ctx, "a deletion request waits for its next pass", "correlation_id", r.ID, "error", err)
		default:
			failed = append(failed, fmt.Errorf("deletion request %s: %w", r.ID, err))
		}
	}
	first, second := &pass{postpone: true}, &pass{}
	err := s.c.Requests.EachOpen(ctx, func(r requests.Request) error {
		advance(r, first)
		return ctx.Err()
	})
	for _, r := range first.postponed {
		if ctx.Err() != nil {
			break
		}
		advance(r, second)
	}
	return errors.Join(append(failed, err, ctx.Err())...)
}

// expected reports whether an error only means that a request has to wait.
func expected(err error) bool {
	return errors.Is(err, ErrRemains) || errors.Is(err, ErrWaits) || errors.Is(err, lifecycle.OnHold)
}

// pass is the state that the requests of one pass share.
type pass struct {
	postpone  bool               // collect the requests to be verified in postponed
	postponed []requests.Request // to be verified by another pass

	swept bool   // the sweep ran
	run   string // its id
	err   error  // its error
}

// sweep runs the sweep at the first call, and returns the same result at later ones.
func (p *pass) sweep(ctx context.Context, a lifecycle.Access, e Erasures) (string, error) {
	if !p.swept {
		p.swept = true
		p.run, p.err = e.Sweep(ctx, a)
	}
	return p.run, p.err
}

// maxMoves bounds the moves of one Advance; the longest path through the states has fewer.
const maxMoves = 16

// Advance takes every step of a request that can be taken now. Concurrent calls are safe:
// each move locks the request's row and checks its state.
func (s *Service) Advance(ctx context.Context, a lifecycle.Access, id string) (requests.Request, error) {
	return s.advance(ctx, a, id, &pass{})
}

func (s *Service) advance(ctx context.Context, a lifecycle.Access, id string, p *pass) (requests.Request, error) {
	r, err := s.c.Requests.Get(ctx, id)
	for range maxMoves {
		if err != nil || !r.State.Open() {
			return r, err
		}
		before := r.State
		if r, err = s.c.Requests.Move(ctx, a, id, s.classify); err == nil && r.State == before {
			r, err = s.act(ctx, a, r, p)
		}
		if err != nil || r.State == before {
			return r, err
		}
		err = s.c.After(r.State)
	}
	return r, err
}

// classify makes the moves that follow from the facts alone: a hold was placed or ended,
// another trigger began the erasure, a period ended.
func (s *Service) classify(r *requests.Request, f requests.Facts) error {
	putOnHold := func() {
		from := r.State
		if from == lifecycle.RequestFailed {
			from = lifecycle.RequestInProgress
		}
		r.State, r.HeldFrom = lifecycle.RequestOnHold, &from
	}
	switch r.State {
	case lifecycle.RequestReceived:
		switch {
		case r.TenantID == nil: // see act
		case f.Begun:
			r.State = lifecycle.RequestInProgress
		default:
			r.State = lifecycle.RequestIdentityCheck
		}
	case lifecycle.RequestIdentityCheck, lifecycle.RequestAwaitingApproval, lifecycle.RequestApproved:
		switch {
		case f.Held:
			putOnHold()
		case f.Begun:
			r.State = lifecycle.RequestInProgress
		case r.State == lifecycle.RequestIdentityCheck && s.c.Policy.DeletionRequests.IdentityCheck == policy.IdentityByTicket:
			r.State = lifecycle.RequestAwaitingApproval
		case r.State == lifecycle.RequestApproved && !f.Now.Before(*r.NotBefore):
			r.State = lifecycle.RequestInProgress
		}
	case lifecycle.RequestInProgress:
		if f.Held && !f.Erased {
			putOnHold()
		}
	case lifecycle.RequestFailed:
		switch {
		case f.Held && !f.Erased:
			putOnHold()
		case !f.Now.Before(*r.RetryAt):
			r.State = lifecycle.RequestInProgress
		}
	case lifecycle.RequestOnHold:
		switch {
		case f.Held && !f.Erased:
		case f.Begun:
			r.State, r.HeldFrom = lifecycle.RequestInProgress, nil
		default:
			r.State, r.HeldFrom = *r.HeldFrom, nil
		}
	}
	return nil
}

// act takes the step of a state, and moves the request by its result.
func (s *Service) act(ctx context.Context, a lifecycle.Access, r requests.Request, p *pass) (requests.Request, error) {
	switch {
	case r.State == lifecycle.RequestReceived && r.TenantID == nil:
		// A crash after the certificate was issued: it is found by the request's id.
		id, err := s.c.Erasures.NothingHeld(ctx, a, r)
		if err != nil {
			return r, fmt.Errorf("certifying that nothing is held: %w", err)
		}
		return s.move(ctx, a, r, func(r *requests.Request, _ requests.Facts) {
			r.State, r.CertificateID = lifecycle.RequestCompletedNothingHeld, &id
		})
	case r.State == lifecycle.RequestInProgress:
		return s.erase(ctx, a, r)
	case r.State == lifecycle.RequestVerifying, r.State == lifecycle.RequestPartiallyCompleted,
		r.State == lifecycle.RequestAwaitingRecipient:
		if p.postpone {
			p.postponed = append(p.postponed, r)
			return r, nil
		}
		return s.finish(ctx, a, r, p)
	}
	return r, nil
}

// erase orders the one erasure. A crash after it and before the move: the erasure is
// ordered again, which is a success, and its id is the same.
func (s *Service) erase(ctx context.Context, a lifecycle.Access, r requests.Request) (requests.Request, error) {
	id, err := s.c.Erasures.Erase(ctx, a, r.Tenant(), Order{RequestID: r.ID, RequestedAt: r.SubmittedTime})
	var e Erasure
	if err == nil {
		e, err = s.c.Erasures.Get(ctx, id)
	}
	cause := err
	r, err = s.move(ctx, a, r, func(r *requests.Request, f requests.Facts) {
		if id != "" {
			r.ErasureID = &id
		}
		from := lifecycle.RequestInProgress
		switch {
		case errors.Is(cause, lifecycle.OnHold):
			r.State, r.HeldFrom = lifecycle.RequestOnHold, &from
		case cause != nil:
			retry := f.Now.Add(backoff(r.Attempts))
			r.State, r.RetryAt, r.Attempts = lifecycle.RequestFailed, &retry, r.Attempts+1
		default:
			r.State, r.RetryAt = lifecycle.RequestVerifying, nil
			e.note(r)
		}
	})
	if cause != nil && !errors.Is(cause, lifecycle.OnHold) {
		err = errors.Join(fmt.Errorf("erasing: %w", cause), err)
	}
	return r, err
}

// finish has a deleted tenant's erasure verified and certified, and moves the request by
// the erasure's progress.
func (s *Service) finish(ctx context.Context, a lifecycle.Access, r requests.Request, p *pass) (requests.Request, error) {
	if r.ErasureID == nil {
		return r, errors.New("a request is verified without an erasure")
	}
	e, err := s.c.Erasures.Get(ctx, *r.ErasureID)
	if err != nil {
		return r, err
	}
	var cause error
	// A verified erasure that only waits for the end service needs no sweep.
	if e.CertificateID == "" && (e.VerifiedAt.IsZero() || !e.AwaitsRecipient) {
		var run string
		if run, cause = p.sweep(ctx, a, s.c.Erasures); cause == nil {
			cause = s.c.Erasures.Finish(ctx, a, *r.ErasureID, run)
		}
		if e, err = s.c.Erasures.Get(ctx, *r.ErasureID); err != nil {
			return r, errors.Join(cause, err)
		}
	}
	r, err = s.move(ctx, a, r, func(r *requests.Request, _ requests.Facts) {
		switch to := e.State(); {
		case errors.Is(cause, ErrRemains) && r.State != lifecycle.RequestPartiallyCompleted:
			r.State = lifecycle.RequestPartiallyCompleted
		case errors.Is(cause, ErrRemains):
		case r.State == lifecycle.RequestPartiallyCompleted && e.CertificateID != "":
			r.State = lifecycle.RequestVerifying // and completed by the next step
		case to == lifecycle.RequestCompleted &&
			(r.State == lifecycle.RequestVerifying || r.State == lifecycle.RequestAwaitingRecipient),
			to == lifecycle.RequestAwaitingRecipient && r.State == lifecycle.RequestVerifying:
			r.State = to
		}
		e.note(r)
	})
	if cause != nil {
		err = errors.Join(fmt.Errorf("finishing an erasure: %w", cause), err)
	}
	return r, err
}

// note copies the erasure's progress to a request.
func (e Erasure) note(r *requests.Request) {
	for _, t := range []struct {
		from time.Time
		to   **time.Time
	}{{e.DeletedAt, &r.DeletedLiveAt}, {e.VerifiedAt, &r.VerifiedAt}, {e.BackupsClearAfter, &r.BackupsClearAfter}} {
		if !t.from.IsZero() {
			at := t.from.UTC()
			*t.to = &at
		}
	}
	if e.CertificateID != "" {
		id := e.CertificateID
		r.CertificateID = &id
	}
}

// move applies a change when the request is still in the state in which it was seen;
// otherwise another process moved it, and there is nothing left to do.
func (s *Service) move(
	ctx context.Context, a lifecycle.Access, seen requests.Request, change func(*requests.Request, requests.Facts),
) (requests.Request, error) {
	return s.c.Requests.Move(ctx, a, seen.ID, func(r *requests.Request, f requests.Facts) error {
		if r.State == seen.State {
			change(r, f)
		}
		return nil
	})
}

// backoff returns how long a failed request waits for its next attempt: a minute, then
// twice as long each time, at most an hour.
func backoff(attempts int) time.Duration {
	return min(time.Minute<<min(attempts, 6), time.Hour)
}
