package sweep

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"trakr/internal/erasure"
	"trakr/internal/lifecycle"
	"trakr/internal/store/erasures"
	"trakr/internal/store/findings"
	"trakr/internal/store/outbox"
	"trakr/policy"
)

// OutboxTable is the table of its findings about what the end service did not take.
const OutboxTable = "trakr.outbox"

// ErasurePass takes every erasure up to its certificate: what a crash, a full disk or
// a legal hold kept from going on. It is the pass that counts in the verifying step,
// which is entered, and certified, when its own run is stored.
type ErasurePass struct {
	eraser *erasure.Eraser
	policy *policy.Policy
	outbox *outbox.Store
}

// NewErasures returns the pass.
func NewErasures(e *erasure.Eraser, p *policy.Policy, o *outbox.Store) *ErasurePass {
	return &ErasurePass{eraser: e, policy: p, outbox: o}
}

// unacknowledged counts what the end service did not acknowledge for days: deliveries that
// were given up or that the guard refused, and deliveries that have waited as long, whether
// or not a sender runs.
func (p *ErasurePass) unacknowledged(ctx context.Context, o Order) ([]*findings.Check, error) {
	n, err := p.outbox.Counts(ctx)
	if err != nil {
		return nil, err
	}
	check := func(column string, rows, notices int64, ground string) *findings.Check {
		c := &findings.Check{Store: "database", Table: OutboxTable, Column: column, Disposition: findings.Checked, CheckedAt: o.Now, Severity: findings.High, Rows: rows}
		if rows > 0 {
			c.Ground = fmt.Sprintf("%s, %d of them notices of an erasure; see: trakr outbox list", ground, notices)
		}
		return c
	}
	return []*findings.Check{check("dead letters", n.Dead+n.DeadNotices, n.DeadNotices, "the end service did not take them for days, or the guard refused them"),
		check("overdue", n.Overdue, n.OverdueNotices, "they were entered more than five days ago and are not acknowledged, whether or not anybody sends")}, nil
}

// Kind implements Pass.
func (*ErasurePass) Kind() string { return Erasures }

// Destructive implements Pass. What it finishes was ordered and begun before: it is no dry
// run when a person starts it.
func (*ErasurePass) Destructive() bool { return false }

// errNotFinished leaves an erasure as it is: the pass only looks.
var errNotFinished = errors.New("a dry run finishes nothing")

// Look implements Pass.
func (p *ErasurePass) Look(ctx context.Context, o Order) (Found, error) {
	const table = "trakr.erasures"
	// The pass acts in its own name, whoever started it: its events say so.
	a := lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "sweep", Role: lifecycle.RoleScheduler},
		Reason: lifecycle.Reason{Code: lifecycle.SystemSweep}, RequestID: o.Access.RequestID}
	check := func(column string, severity findings.Severity) *findings.Check {
		return &findings.Check{Store: "database", Table: table, Column: column, Disposition: findings.Checked, CheckedAt: o.Now, Severity: severity}
	}
	ledger, late, remains := check("ledger", findings.Critical), check("past the deadline", findings.High), check("rows that remain", findings.Critical)
	held, waiting, recipient := check("on hold", findings.Low), check("under way", findings.Low), check("awaiting the recipient", findings.Low)
	recipient.Disposition, recipient.Ground = findings.Retained, "erased and verified; the certificate waits for the end service's acknowledgement, and a notice that waits too long is found under trakr.outbox"
	waiting.Disposition, waiting.Ground = findings.Retained, "begun, within the deadline, and finished by one of the next passes"
	held.Disposition, held.Ground = findings.Retained, "a legal hold keeps what is held; its release or end erases it"
	own := []*findings.Check{ledger, late, remains, held, waiting, recipient}
	open, err := p.unacknowledged(ctx, o)
	if err != nil {
		return Found{}, err
	}
	all := slices.Concat(own, open)
	found := func() Found {
		f := Found{SnapshotAt: o.Now}
		for _, c := range all {
			f.Checks = append(f.Checks, *c)
		}
		return f
	}

	// A database that was restored beneath a running service is noticed here.
	err = p.replay(ctx, a, o.DryRun)
	var refused *erasure.Refused
	if errors.As(err, &refused) {
		ledger.Rows, ledger.Ground = 1, refused.Why
		for _, c := range own[1:] {
			c.Disposition, c.Ground = findings.Unjudged, "nothing is finished while the erasure ledger is refused"
		}
		return found(), nil
	}
	if err != nil {
		return Found{}, err
	}
	judge := func(x erasures.Erasure, err error) error {
		var left *erasure.Remains
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, lifecycle.OnHold):
			held.Rows++
		case errors.Is(err, erasure.ErrAwaitsRecipient):
			recipient.Rows++
		case errors.As(err, &left):
			remains.Rows++
			remains.Ground = fmt.Sprintf("erasure %s: %v", x.ID, left)
		case o.Now.Sub(x.BegunAt) > p.policy.DeletionDeadline.Duration():
			late.Rows++
			late.Ground = fmt.Sprintf("erasure %s waits at the step %s (%s)", x.ID, erasure.StepOf(err), lifecycle.AsFault(err).Kind)
		default:
			waiting.Rows++
		}
		return nil
	}
	var counted []erasure.Counted
	err = p.eraser.EachUnfinished(ctx, func(x erasures.Erasure) error {
		if o.DryRun || len(counted) == maxCounted {
			return judge(x, errNotFinished)
		}
		c, err := p.eraser.Count(ctx, a, x.ID)
		if err == nil && c != nil {
			counted = append(counted, *c)
		}
		return judge(x, err)
	})
	if err != nil {
		return Found{}, err
	}
	f := found()
	f.Then = func(ctx context.Context) error { return p.settle(ctx, a, counted, o.RunID) }
	return f, nil
}

// maxCounted is how many erasures one pass verifies; their counts are kept in memory
// until its run is stored.
const maxCounted = 2000

// settle certifies what the run counted. What only waits for its place in the log gets
// it within seconds: those are tried once more, all after one wait.
func (p *ErasurePass) settle(ctx context.Context, a lifecycle.Access, counted []erasure.Counted, run string) error {
	var failed error
	for again := range 2 {
		var unplaced []erasure.Counted
		for _, c := range counted {
			err := p.eraser.Settle(ctx, a, c, run)
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, erasure.ErrAwaitsRecipient): // verified; the next pass counts it
			case errors.Is(err, lifecycle.NotFound) && again == 0:
				unplaced = append(unplaced, c)
			case err != nil:
				failed = errors.Join(failed, fmt.Errorf("erasure %s: %w", c.ID, err))
			}
		}
		if counted = unplaced; len(counted) == 0 {
			break
		}
		p.eraser.AwaitPlaces(ctx)
	}
	return failed
}

// replay erases again what a restore brought back, or in a dry run says that it would.
func (p *ErasurePass) replay(ctx context.Context, a lifecycle.Access, dry bool) error {
	if !dry {
		_, err := p.eraser.Replay(ctx, a, false)
		return err
	}
	n, held, err := p.eraser.CameBack(ctx)
	if err == nil && n+held > 0 {
		err = &erasure.Refused{Why: fmt.Sprintf("%d tenants of the erasure ledger are live, and %d legal holds in it are missing: a backup was restored. Run: trakr restore replay", n, held)}
	}
	return err
}
