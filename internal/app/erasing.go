package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"trakr/internal/erasure"
	"trakr/internal/erasure/ledger"
	"trakr/internal/lifecycle"
	"trakr/internal/proof/merkle"
	"trakr/internal/sequencer"
	"trakr/internal/store/audit"
	"trakr/internal/store/erasures"
	"trakr/internal/sweep"
)

// StartAccess is the start of the service, or of a command, as the caller of what it
// does by itself.
func StartAccess() lifecycle.Access {
	return lifecycle.Access{
		Caller:    lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "start", Role: lifecycle.RoleScheduler},
		Reason:    lifecycle.Reason{Code: lifecycle.SystemSweep},
		RequestID: "start",
	}
}

// openLedger opens the ledger that the settings name. It creates one only where neither
// the settings' place nor the database knows one.
func openLedger(ctx context.Context, o Options, s *erasures.Store) (ledger.Ledger, error) {
	cfg := o.Config
	open := func() (ledger.Ledger, error) { return asLedger(ledger.OpenFile(cfg.Ledger)) }
	create := func() (ledger.Ledger, error) { return asLedger(ledger.CreateFile(cfg.Ledger, o.Now())) }
	if cfg.LedgerAtURL() {
		c := ledger.HTTPConfig{URL: cfg.Ledger, Token: cfg.LedgerToken}
		open = func() (ledger.Ledger, error) { return asLedger(ledger.OpenHTTP(ctx, c)) }
		create = func() (ledger.Ledger, error) { return asLedger(ledger.CreateHTTP(ctx, c, o.Now())) }
	}
	return erasure.Open(ctx, s, open, create, o.Adopt)
}

// asLedger keeps a nil pointer from becoming a non-nil ledger.
func asLedger[L ledger.Ledger](l L, err error) (ledger.Ledger, error) {
	if err != nil {
		return nil, err
	}
	return l, nil
}

// compareLedger applies the ledger to the database as the mode requires. It comes before
// anything else can read a tenant: what a restored backup brought back is erased again
// first, or refused.
func compareLedger(ctx context.Context, use ledgerUse, e *erasure.Eraser, log *slog.Logger) (erasure.Replayed, error) {
	switch use {
	case ledgerReplayed:
		r, err := e.Replay(ctx, StartAccess(), erasure.NewLines)
		if err == nil && r.Erased+r.Held > 0 {
			log.WarnContext(ctx, "a restored backup had brought erased tenants back, or had forgotten legal holds; "+
				"they are erased again, and placed again", "tenants", r.Erased, "holds", r.Held)
		}
		return r, err
	case ledgerCompared:
		n, holds, err := e.Resurrected(ctx)
		if err == nil && n+holds > 0 {
			err = fmt.Errorf("%d tenants that the erasure ledger knows as erased are live, and %d legal holds that it knows are missing: "+
				"a backup was restored. Run: trakr restore replay", n, holds)
		}
		return erasure.Replayed{}, err
	}
	return erasure.Replayed{}, nil
}

// AcceptCut records why the log is shorter than the checkpoint kept outside the database
// and sets that checkpoint aside. It returns the file to which it was moved, or "" when
// the log is not shorter.
func (a *App) AcceptCut(ctx context.Context, access lifecycle.Access) (string, error) {
	if err := access.Check(); err != nil {
		return "", err
	}
	file, err := sequencer.NewFile(a.Config.CheckpointFile)
	if err != nil {
		return "", err
	}
	signed, err := file.Last(ctx)
	if err != nil || signed == nil {
		return "", err
	}
	kept, err := merkle.Open(signed, a.Audit.Verifier())
	if err != nil {
		return "", fmt.Errorf("the checkpoint in %s is not of this log and key: %w", a.Config.CheckpointFile, err)
	}
	if err := a.Audit.Contains(ctx, kept); !errors.Is(err, audit.ErrFork) {
		return "", err
	}
	has, err := a.Audit.Backlog(ctx)
	if err != nil {
		return "", err
	}
	if err := a.Erasures.CutAccepted(ctx, access, kept.Size, has.Size); err != nil {
		return "", err
	}
	return file.SetAside(kept.Size)
}

// finishErasures runs the pass that an erasure.Finisher asks for.
func (a *App) finishErasures(ctx context.Context) error {
	_, err := a.Runner.RunOnce(ctx, StartAccess(), sweep.Erasures, sweep.BySchedule)
	return err
}

// monthsAhead is how many months of the audit get their partition in advance: a job that
// does not run for a year is noticed before an event lacks one.
const monthsAhead = 12
