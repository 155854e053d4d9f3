package sweep

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"trakr/internal/erasure"
	"trakr/internal/lifecycle"
	"trakr/internal/store/erasures"
	"trakr/internal/store/sweeps"
	"trakr/policy"
)

// Erasures is the kind that finishes and verifies what was begun.
const Erasures = "erasures"

// ErasurePass takes every erasure up to its certificate: what a crash, a full disk or
// a legal hold kept from going on. It is the pass that counts in the verifying step.
type ErasurePass struct {
	eraser *erasure.Eraser
	policy *policy.Policy
}

// NewErasures returns the pass.
func NewErasures(e *erasure.Eraser, p *policy.Policy) *ErasurePass { return &ErasurePass{e, p} }

// Kind implements Pass.
func (*ErasurePass) Kind() string { return Erasures }

// Acts implements Pass. What it finishes was ordered and begun before: it is no dry
// run when a person starts it.
func (*ErasurePass) Acts() bool { return false }

// errNotFinished leaves an erasure as it is: the pass only looks.
var errNotFinished = errors.New("a dry run finishes nothing")

// Look implements Pass.
func (p *ErasurePass) Look(ctx context.Context, o Order) (Found, error) {
	const table = "trakr.erasures"
	// The pass acts in its own name, whoever started it: its events say so.
	a := lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "sweep", Role: lifecycle.RoleScheduler},
		Reason: lifecycle.Reason{Code: lifecycle.SystemSweep}, RequestID: o.Access.RequestID}
	check := func(column string) *sweeps.Check {
		return &sweeps.Check{Store: "database", Table: table, Column: column, Disposition: sweeps.Checked, CheckedAt: o.Now}
	}
	late, held, remains, waiting := check("past the deadline"), check("on hold"), check("rows that remain"), check("under way")
	waiting.Disposition, waiting.Ground = sweeps.Retained, "begun, within the deadline, and finished by one of the next passes"
	remains.Severity = sweeps.Critical
	held.Disposition, held.Ground = sweeps.Retained, "a legal hold keeps what is held; its release or end erases it"

	if err := p.eraser.Compare(ctx); err != nil {
		var refused *erasure.Refused
		if !errors.As(err, &refused) {
			return Found{}, err
		}
		ledger := check("ledger")
		ledger.Rows, ledger.Ground, ledger.Severity = 1, refused.Why, sweeps.Critical
		return Found{Checks: []sweeps.Check{*ledger}, SnapshotAt: o.Now}, nil
	}
	finish := p.eraser.Finish
	if o.DryRun {
		finish = func(context.Context, lifecycle.Access, uuid.UUID, string) error { return errNotFinished }
	}
	err := p.eraser.EachUnfinished(ctx, func(x erasures.Erasure) error {
		err := finish(ctx, a, x.ID, o.RunID)
		var left *erasure.Remains
		switch {
		case err == nil:
			return ctx.Err()
		case errors.Is(err, lifecycle.OnHold):
			held.Rows++
			return nil
		case errors.As(err, &left):
			remains.Rows++
			remains.Ground = fmt.Sprintf("erasure %s: %v", x.ID, left)
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case x.DeletedAt.IsZero() && o.Now.Sub(x.RequestedAt) > p.policy.DeletionDeadline.Duration():
			late.Rows++
			late.Ground = fmt.Sprintf("erasure %s: %v", x.ID, lifecycle.AsFault(err).Kind)
			return nil
		}
		waiting.Rows++
		return nil
	})
	if err != nil {
		return Found{}, err
	}
	found := Found{SnapshotAt: o.Now}
	for _, c := range []*sweeps.Check{late, held, remains, waiting} {
		found.Checks = append(found.Checks, *c)
	}
	return found, nil
}
