package requests

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"trakr/internal/erasure"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/proof/certificate"
	"trakr/internal/store/erasures"
	"trakr/internal/store/findings"
	"trakr/internal/store/requests"
	"trakr/internal/sweep"
	"trakr/policy"
)

// Eraser implements Erasures by package erasure. The runner provides the sweeps' runs that
// certificates refer to.
type Eraser struct {
	Eraser   *erasure.Eraser
	Store    *erasures.Store
	Findings *findings.Store
	Runner   *sweep.Runner
	Policy   *policy.Policy
	Now      func() time.Time
}

// Erase implements Erasures.
func (e *Eraser) Erase(ctx context.Context, a lifecycle.Access, tenant lifecycle.TenantID, o Order) (string, error) {
	out, err := e.Eraser.Erase(ctx, a, tenant, erasure.Order{
		Trigger: lifecycle.TriggerRequest, RequestedAt: o.RequestedAt, RequestID: o.RequestID,
	})
	if err != nil {
		return "", err
	}
	if out.ErasureID == "" {
		return "", fmt.Errorf("an erasure was ordered and is %s", out.Result)
	}
	return out.ErasureID, out.Delay
}

// Sweep implements Erasures.
func (e *Eraser) Sweep(ctx context.Context, a lifecycle.Access) (string, error) {
	run, err := e.Runner.RunOnce(ctx, a, sweep.Erasures, sweep.BySchedule)
	if errors.Is(err, lifecycle.SweepRunning) {
		return "", fmt.Errorf("%w: %w", ErrWaits, err)
	}
	return run.ID, err
}

// Finish implements Erasures. The sweep has finished every erasure that it could; this call
// returns why an erasure is still unfinished.
func (e *Eraser) Finish(ctx context.Context, a lifecycle.Access, erasureID, run string) error {
	id, err := uuid.Parse(erasureID)
	if err != nil {
		return errors.New("an erasure is named by a uuid")
	}
	var left *erasure.Remains
	switch err = e.Eraser.Finish(ctx, a, id, run); {
	case errors.As(err, &left):
		return fmt.Errorf("%w: %w", ErrRemains, err)
	case errors.Is(err, erasure.ErrAwaitsRecipient): // Erasure.AwaitsRecipient shows it
		return nil
	}
	return err
}

// Get implements Erasures.
func (e *Eraser) Get(ctx context.Context, erasureID string) (Erasure, error) {
	id, err := uuid.Parse(erasureID)
	if err != nil {
		return Erasure{}, lifecycle.Fail(lifecycle.NotFound, "There is no such erasure.")
	}
	x, err := e.Store.Get(ctx, id)
	return e.erasure(x), err
}

// Of implements Erasures.
func (e *Eraser) Of(ctx context.Context, tenant lifecycle.TenantID) (Erasure, error) {
	x, err := e.Store.Of(ctx, tenant)
	return e.erasure(x), err
}

func (e *Eraser) erasure(x erasures.Erasure) Erasure {
	out := Erasure{
		ID: x.ID.String(), DeletedAt: x.DeletedAt, VerifiedAt: x.VerifiedAt,
		CertificateID: x.CertificateID, AwaitsRecipient: e.Eraser.Awaits(x),
	}
	if !x.DeletedAt.IsZero() {
		out.BackupsClearAfter = x.DeletedAt.Add(e.Policy.BackupWindow().Duration())
	}
	return out
}

// NothingHeld implements Erasures. It requires a clean sweep for orphans: rows of a tenant
// that is no longer registered would still be stored data.
func (e *Eraser) NothingHeld(ctx context.Context, a lifecycle.Access, r requests.Request) (string, error) {
	n := erasure.Nothing{RequestID: r.ID, RequestedAt: r.SubmittedTime}
	for _, d := range r.SubjectDigests {
		b, err := hex.DecodeString(d)
		if err != nil {
			return "", errors.New("a request's digest is not hexadecimal")
		}
		n.Digests = append(n.Digests, keyring.Digest(b))
	}
	last, err := e.Findings.LastSuccess(ctx, sweep.Orphans, e.Now())
	if err != nil {
		return "", err
	}
	if last == nil || last.Result != findings.Clean {
		run, err := e.Runner.RunOnce(ctx, a, sweep.Orphans, sweep.BySchedule)
		if errors.Is(err, lifecycle.SweepRunning) {
			return "", fmt.Errorf("%w: %w", ErrWaits, err)
		}
		if err != nil {
			return "", err
		}
		last = &run
	}
	if last.Result != findings.Clean {
		return "", fmt.Errorf("%w: the sweep for orphans ended as %s, so it is not proven that no data is stored", ErrWaits, last.Result)
	}
	n.SweepRun = last.ID
	c, err := e.Eraser.CertifyNothing(ctx, a, n)
	if errors.Is(err, erasure.ErrHeld) {
		err = fmt.Errorf("%w: %w", ErrWaits, err)
	}
	return c.ID, err
}

// Certificate implements Erasures.
func (e *Eraser) Certificate(ctx context.Context, a lifecycle.Access, of, format string) ([]byte, string, error) {
	id, err := uuid.Parse(of)
	if err != nil {
		return nil, "", lifecycle.Fail(lifecycle.NotFound, "There is no such certificate.")
	}
	f := certificate.Format(format)
	b, err := e.Eraser.RenderCertificate(ctx, a, id, f)
	return b, f.ContentType(), err
}
