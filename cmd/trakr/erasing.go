package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/metric/noop"

	"trakr/internal/erasure"
	"trakr/internal/erasure/ledger"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/proof/merkle"
	"trakr/internal/sequencer"
	"trakr/internal/store/audit"
	"trakr/internal/store/holds"
	"trakr/internal/sweep"
)

// erasing opens the ledger and holds it against the database before anything else
// can look at a tenant: what a restored backup brought back is erased again first.
func (s *service) erasing(ctx context.Context, keys *keyring.Keyring, now func() time.Time) (err error) {
	if s.ledger, err = s.openLedger(ctx, now); err != nil {
		return err
	}
	if s.holds, err = holds.New(s.db, s.audit, s.policy, erasure.Outside{Ledger: s.ledger, Keys: keys}); err != nil {
		return err
	}
	c := erasure.Config{Door: s.door, Erasures: s.erasures, Census: s.census, Holds: s.holds, Log: s.audit, Keys: keys, Policy: s.policy, Ledger: s.ledger,
		Version: toolVersion(), Now: now, Slog: s.log, After: afterStep}
	s.begun = make(chan struct{}, 1)
	c.Begun = s.eraserBegun
	if !s.serving {
		seq, err := s.sequencer(noop.NewMeterProvider(), now)
		if err != nil {
			return err
		}
		c.Sequence = seq.Once
	}
	if s.eraser, err = erasure.New(c); err != nil {
		return err
	}
	switch {
	case s.anyway, s.unplayed: // a command that judges: it says what is wrong and changes nothing
		return nil
	case s.serving || s.replaying:
		if s.replayed, err = s.eraser.Replay(ctx, starting(), false); err == nil && s.replayed.Erased+s.replayed.Held > 0 {
			s.log.WarnContext(ctx, "a restored backup had brought erased tenants back, or had forgotten legal holds; they are erased again, and placed again", "tenants", s.replayed.Erased, "holds", s.replayed.Held)
		}
		return err
	}
	n, held, err := s.eraser.CameBack(ctx)
	if err == nil && n+held > 0 {
		err = fmt.Errorf("%d tenants that the erasure ledger knows as erased are live, and %d legal holds that it knows are missing: a backup was restored. Run: trakr restore replay", n, held)
	}
	return err
}

// acceptCut records why the log is shorter than the checkpoint kept outside the
// database and sets that aside; "" when it is not.
func (s *service) acceptCut(ctx context.Context, access lifecycle.Access) (string, error) {
	if err := access.Check(); err != nil {
		return "", err
	}
	file, err := sequencer.NewFile(s.cfg.CheckpointFile)
	if err != nil {
		return "", err
	}
	signed, err := file.Last(ctx)
	if err != nil || signed == nil {
		return "", err
	}
	kept, err := merkle.Open(signed, s.audit.Verifier())
	if err != nil {
		return "", fmt.Errorf("the checkpoint in %s is not of this log and key: %w", s.cfg.CheckpointFile, err)
	}
	if err := s.audit.Contains(ctx, kept); !errors.Is(err, audit.ErrFork) {
		return "", err
	}
	has, err := s.audit.Backlog(ctx)
	if err != nil {
		return "", err
	}
	if err := s.erasures.CutAccepted(ctx, access, kept.Size, has.Size); err != nil {
		return "", err
	}
	return file.SetAside(kept.Size)
}

// eraserBegun asks for the sweep of erasures.
func (s *service) eraserBegun() {
	select {
	case s.begun <- struct{}{}:
	default: // it is asked for already
	}
}

// restoreCommand is what an operator runs after a backup came back.
func (a *app) restoreCommand() *cobra.Command {
	var accept bool
	var why reasonFlags
	replay := &cobra.Command{
		Use: "replay", Short: "Erase again what a restored backup brought back", Args: cobra.NoArgs,
		Long: "Holds every line of the erasure ledger (TRAKR_LEDGER) against the database and erases again, with the\n" +
			"trigger restore_replay, each tenant that was erased before and is there again. Legal holds that the backup\n" +
			"did not know are placed again first, under their own ids, and keep what they kept. Every start of the service\n" +
			"does the same for the lines the database does not know, before it serves. A ledger that is missing, was\n" +
			"cut, or is another one is refused. Running it again changes nothing.\n\n" +
			"A restored database has lost the newest events of the audit, and its sequencer signs nothing as long as\n" +
			"the checkpoint in TRAKR_CHECKPOINT_FILE says so. --accept-cut-log records that you know why, with a\n" +
			"ticket, and sets that checkpoint aside (it is kept). Do it with the service stopped, then start it.",
		Example: "  trakr restore replay\n  trakr restore replay --accept-cut-log --reason-code incident_response --reason-ref OPS-12",
		RunE: a.replaying(func(ctx context.Context, s *service, _ []string) error {
			access := starting()
			access.RequestID = "cli"
			aside := ""
			if accept {
				var err error
				if aside, err = s.acceptCut(ctx, why.access()); err != nil {
					return err
				}
			}
			r, err := s.eraser.Replay(ctx, access, true)
			if err != nil {
				return err
			}
			// What the start itself had to erase was brought back by the same backup.
			r.Erased, r.Delayed = r.Erased+s.replayed.Erased, r.Delayed+s.replayed.Delayed
			r.Held, r.Released = r.Held+s.replayed.Held, r.Released+s.replayed.Released
			if a.json {
				return a.printJSON(map[string]any{"ledger_id": r.LedgerID, "entries": r.Entries, "compared": r.Compared, "erased": r.Erased, "delayed": r.Delayed, "held": r.Held, "released": r.Released, "checkpoint_set_aside": aside})
			}
			_, err = fmt.Fprintf(a.out, "%d lines in the ledger; %d legal holds were missing and are placed again, %d are released again; %d tenants had come back and are erased again", r.Entries, r.Held, r.Released, r.Erased)
			if err == nil && r.Delayed > 0 {
				_, err = fmt.Fprintf(a.out, "; of %d a legal hold keeps the values", r.Delayed)
			}
			fmt.Fprintln(a.out)
			if aside != "" {
				fmt.Fprintf(a.out, "The checkpoint of the lost tail is kept as %s; the log goes on from what was restored.\n", aside)
			}
			return err
		}),
	}
	var answers reasonFlags
	bind := &cobra.Command{
		Use: "bind-ledger", Short: "Say that this database and the ledger belong together", Args: cobra.NoArgs,
		Long: "A database is tied to its erasure ledger by the first start. Where a database that has had tenants knows no\n" +
			"ledger (its backup, or its version, is from before it had one), or a ledger has lines already and the database\n" +
			"is new, nothing starts, because the one could be of another time or installation. This command ties them, under\n" +
			"a ticket, makes the ledger where there is none, and replays it. First make sure that TRAKR_LEDGER is right, and\n" +
			"that no copy of a ledger is to be had. A database that is tied to another ledger stays so.",
		Example: "  trakr restore bind-ledger --reason-code incident_response --reason-ref OPS-12",
		RunE: func(c *cobra.Command, _ []string) error {
			access := answers.access()
			if err := access.Check(); err != nil {
				return err
			}
			s, err := a.wired(c.Context(), &service{replaying: true, adopt: &access})
			if err != nil {
				return err
			}
			defer s.close()
			head, err := s.ledger.Head(c.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"ledger_id": head.LedgerID, "entries": head.Seq, "erased": s.replayed.Erased, "held": s.replayed.Held})
			}
			_, err = fmt.Fprintf(a.out, "This database is tied to the ledger %s, which has %d lines; %d legal holds are placed again, %d tenants erased again.\n", head.LedgerID, head.Seq, s.replayed.Held, s.replayed.Erased)
			return err
		},
	}
	answers.register(bind, lifecycle.IncidentResponse)
	replay.Flags().BoolVar(&accept, "accept-cut-log", false, "the database was restored: go on with its shorter audit log")
	why.register(replay, lifecycle.IncidentResponse)
	c := &cobra.Command{Use: "restore", Short: "What to do after a backup was restored", Example: "  trakr restore replay"}
	c.AddCommand(replay, bind)
	return c
}

// finishSoon runs the sweep of erasures shortly after one has begun, so that a
// certificate does not wait for the schedule. What it misses, the schedule catches.
func (s *service) finishSoon(ctx context.Context) {
	const pause = 2 * time.Second // those that come together are finished together
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.begun:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		_, err := s.runner.RunOnce(ctx, starting(), sweep.Erasures, sweep.BySchedule)
		if errors.Is(err, lifecycle.SweepRunning) {
			s.eraserBegun() // its look at the list may have come too early
		} else if err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "finishing erasures failed", "error", err)
		}
	}
}

// starting is the service's own start as who acts.
func starting() lifecycle.Access {
	return lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "start", Role: lifecycle.RoleScheduler},
		Reason: lifecycle.Reason{Code: lifecycle.SystemSweep}, RequestID: "start"}
}

// openLedger opens the ledger that the settings name; one is made only where neither
// the settings' place nor the database knows one.
func (s *service) openLedger(ctx context.Context, now func() time.Time) (ledger.Ledger, error) {
	open := func() (ledger.Ledger, error) { return aLedger(ledger.OpenFile(s.cfg.Ledger)) }
	create := func() (ledger.Ledger, error) { return aLedger(ledger.CreateFile(s.cfg.Ledger, now())) }
	if s.cfg.LedgerAtURL() {
		c := ledger.HTTPConfig{URL: s.cfg.Ledger, Token: s.cfg.LedgerToken}
		open = func() (ledger.Ledger, error) { return aLedger(ledger.OpenHTTP(ctx, c)) }
		create = func() (ledger.Ledger, error) { return aLedger(ledger.CreateHTTP(ctx, c, now())) }
	}
	return erasure.Open(ctx, s.erasures, open, create, s.adopt)
}

// aLedger keeps a nil pointer from becoming a ledger.
func aLedger[L ledger.Ledger](l L, err error) (ledger.Ledger, error) {
	if err != nil {
		return nil, err
	}
	return l, nil
}

// afterStep is called when a step of an erasure is durable. Tests set it, to end this
// process there as a power failure would.
var afterStep func(step string)
