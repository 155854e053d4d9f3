package sweep

import (
	"context"
	"errors"
	"fmt"
	"time"

	"trakr/internal/erasure"
	"trakr/internal/lifecycle"
	"trakr/internal/store/erasures"
	"trakr/internal/store/findings"
	"trakr/internal/store/outbox"
	"trakr/policy"
)

// OutboxTable is the table of its findings about overdue deliveries.
const OutboxTable = "trakr.outbox"

// ErasurePass takes every erasure up to its certificate, including those that a crash, a
// full disk or a legal hold interrupted. It makes the counts of the verifying step; they
// are stored, and certified, once its own run is stored.
type ErasurePass struct {
	eraser *erasure.Eraser
	policy *policy.Policy
	outbox *outbox.Store
}

// NewErasures returns the pass.
func NewErasures(e *erasure.Eraser, p *policy.Policy, o *outbox.Store) *ErasurePass {
	return &ErasurePass{eraser: e, policy: p, outbox: o}
}

// Kind implements Pass.
func (*ErasurePass) Kind() string { return Erasures }

// Destructive implements Pass. The erasures that it finishes were ordered and begun
// before, so it is no dry run when a person starts it.
func (*ErasurePass) Destructive() bool { return false }

// Look implements Pass.
func (p *ErasurePass) Look(ctx context.Context, o Order) (Found, error) {
	// The pass acts as itself, whatever started it, and its events show that.
	a := lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "sweep", Role: lifecycle.RoleScheduler},
		Reason: lifecycle.Reason{Code: lifecycle.SystemSweep}, RequestID: o.Access.RequestID}
	open, err := p.unacknowledged(ctx, o.Now)
	if err != nil {
		return Found{}, err
	}
	t := newTally(o.Now, p.policy.DeletionDeadline.Duration())

	// A database that was restored beneath a running service is noticed here.
	err = p.replay(ctx, a, o.DryRun)
	var refused *erasure.Refused
	if errors.As(err, &refused) {
		t.refuse(refused.Why)
		return Found{SnapshotAt: o.Now, Checks: append(t.checks(), open...)}, nil
	}
	if err != nil {
		return Found{}, err
	}
	counted, err := p.count(ctx, a, o.DryRun, t)
	if err != nil {
		return Found{}, err
	}
	return Found{SnapshotAt: o.Now, Checks: append(t.checks(), open...),
		Then: func(ctx context.Context) error { return p.certify(ctx, a, counted, o.RunID) }}, nil
}

// unacknowledged counts the deliveries that the end service did not acknowledge for days:
// those that were given up or that the guard refused, and those that have waited as long,
// whether or not a sender runs.
func (p *ErasurePass) unacknowledged(ctx context.Context, now time.Time) ([]findings.Check, error) {
	n, err := p.outbox.Counts(ctx)
	if err != nil {
		return nil, err
	}
	count := func(column string, rows, notices int64, ground string) findings.Check {
		c := checked(OutboxTable, column, now)
		c.Rows, c.Severity = rows, findings.High
		if rows > 0 {
			c.Ground = fmt.Sprintf("%s, %d of them notices of an erasure; see: trakr outbox list", ground, notices)
		}
		return c
	}
	return []findings.Check{
		count("dead letters", n.Dead+n.DeadNotices, n.DeadNotices,
			"the end service did not take them for days, or the guard refused them"),
		count("overdue", n.Overdue, n.OverdueNotices,
			"they were queued more than five days ago and are not acknowledged, whether or not a sender runs"),
	}, nil
}

// count takes each unfinished erasure up to its counts, and adds every one to the tally.
func (p *ErasurePass) count(ctx context.Context, a lifecycle.Access, dry bool, t *tally) ([]erasure.Counted, error) {
	var counted []erasure.Counted
	err := p.eraser.EachUnfinished(ctx, func(x erasures.Erasure) error {
		err := errNotFinished
		if !dry && len(counted) < maxCounted {
			var c *erasure.Counted
			if c, err = p.eraser.Count(ctx, a, x.ID); err == nil && c != nil {
				counted = append(counted, *c)
			}
		}
		if err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
		t.add(x, err)
		return nil
	})
	return counted, err
}

// errNotFinished marks an erasure that the pass leaves as it is.
var errNotFinished = errors.New("a dry run finishes nothing")

// maxCounted is how many erasures one pass verifies; their counts are kept in memory
// until its run is stored.
const maxCounted = 2000

// tally is the results of one pass over the erasures.
type tally struct {
	now      time.Time
	deadline time.Duration

	ledger, late, remains, onHold, underWay, awaitsRecipient findings.Check
}

func newTally(now time.Time, deadline time.Duration) *tally {
	finding := func(column string, s findings.Severity) findings.Check {
		c := checked("trakr.erasures", column, now)
		c.Severity = s
		return c
	}
	retained := func(column, ground string) findings.Check {
		c := finding(column, findings.Low)
		c.Disposition, c.Ground = findings.Retained, ground
		return c
	}
	return &tally{
		now: now, deadline: deadline,
		ledger:   finding("ledger", findings.Critical),
		late:     finding("past the deadline", findings.High),
		remains:  finding("rows that remain", findings.Critical),
		onHold:   retained("on hold", "a legal hold keeps the values; its release or end erases them"),
		underWay: retained("under way", "begun, within the deadline, and finished by one of the next passes"),
		awaitsRecipient: retained("awaiting the recipient", "erased and verified; "+
			"the certificate waits for the end service's acknowledgement, and a notice that waits too long is found under trakr.outbox"),
	}
}

// refuse records that the erasure ledger was refused, so that nothing was finished.
func (t *tally) refuse(why string) {
	t.ledger.Rows, t.ledger.Ground = 1, why
	for _, c := range []*findings.Check{&t.late, &t.remains, &t.onHold, &t.underWay, &t.awaitsRecipient} {
		c.Disposition, c.Ground = findings.Unjudged, "nothing is finished while the erasure ledger is refused"
	}
}

// add counts one erasure by the error that its step returned.
func (t *tally) add(x erasures.Erasure, err error) {
	var left *erasure.Remains
	switch {
	case err == nil:
	case errors.Is(err, lifecycle.OnHold):
		t.onHold.Rows++
	case errors.Is(err, erasure.ErrAwaitsRecipient):
		t.awaitsRecipient.Rows++
	case errors.As(err, &left):
		t.remains.Rows++
		t.remains.Ground = fmt.Sprintf("erasure %s: %v", x.ID, left)
	case t.now.Sub(x.BegunAt) > t.deadline:
		t.late.Rows++
		t.late.Ground = fmt.Sprintf("erasure %s waits at the step %s (%s)",
			x.ID, erasure.StepOf(err), lifecycle.AsFault(err).Kind)
	default:
		t.underWay.Rows++
	}
}

func (t *tally) checks() []findings.Check {
	return []findings.Check{t.ledger, t.late, t.remains, t.onHold, t.underWay, t.awaitsRecipient}
}

// certify verifies and certifies the erasures that the stored run counted. An erasure that
// only waits for its place in the log gets it within seconds: those are retried once, all
// after one wait.
func (p *ErasurePass) certify(ctx context.Context, a lifecycle.Access, counted []erasure.Counted, run string) error {
	var failed error
	for attempt := range 2 {
		var unplaced []erasure.Counted
		for _, c := range counted {
			err := p.eraser.Certify(ctx, a, c, run)
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, erasure.ErrAwaitsRecipient): // verified; the next pass counts it
			case errors.Is(err, lifecycle.NotFound) && attempt == 0:
				unplaced = append(unplaced, c)
			case err != nil:
				failed = errors.Join(failed, fmt.Errorf("erasure %s: %w", c.ID, err))
			}
		}
		if counted = unplaced; len(counted) == 0 {
			break
		}
		p.eraser.AwaitSequencing(ctx)
	}
	return failed
}

// replay erases again what a restore brought back. A dry run only returns that it would,
// as an erasure.Refused.
func (p *ErasurePass) replay(ctx context.Context, a lifecycle.Access, dry bool) error {
	if !dry {
		_, err := p.eraser.Replay(ctx, a, erasure.NewLines)
		return err
	}
	n, holds, err := p.eraser.Resurrected(ctx)
	if err == nil && n+holds > 0 {
		err = &erasure.Refused{Why: fmt.Sprintf("%d tenants of the erasure ledger are live, and %d legal holds in it are missing: "+
			"a backup was restored. Run: trakr restore replay", n, holds)}
	}
	return err
}
