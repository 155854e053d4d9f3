package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"trakr/internal/app"
	"trakr/internal/erasure"
	"trakr/internal/lifecycle"
)

// restoreCommand is what an operator runs after a backup came back.
func (a *cli) restoreCommand() *cobra.Command {
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
		RunE: a.with(app.Replay, func(ctx context.Context, s *app.App, _ []string) error {
			access := app.StartAccess()
			access.RequestID = "cli"
			aside := ""
			if accept {
				var err error
				if aside, err = s.AcceptCut(ctx, why.access()); err != nil {
					return err
				}
			}
			r, err := s.Eraser.Replay(ctx, access, erasure.AllLines)
			if err != nil {
				return err
			}
			// What the start itself had to erase was brought back by the same backup.
			r.Erased, r.Delayed = r.Erased+s.Replayed.Erased, r.Delayed+s.Replayed.Delayed
			r.Held, r.Released = r.Held+s.Replayed.Held, r.Released+s.Replayed.Released
			if a.json {
				return a.printJSON(map[string]any{"ledger_id": r.LedgerID, "entries": r.Entries, "compared": r.Compared,
					"erased": r.Erased, "delayed": r.Delayed, "held": r.Held, "released": r.Released, "checkpoint_set_aside": aside})
			}
			_, err = fmt.Fprintf(a.out, "%d lines in the ledger; %d legal holds were missing and are placed again, %d are "+
				"released again; %d tenants had come back and are erased again", r.Entries, r.Held, r.Released, r.Erased)
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
		Use: "bind-ledger", Short: "Declare that this database and the ledger belong together", Args: cobra.NoArgs,
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
			cfg, err := a.config(false)
			if err != nil {
				return err
			}
			o := a.options(app.Replay, cfg)
			o.Adopt = &access
			s, err := app.Open(c.Context(), o)
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }()
			head, err := s.Ledger.Head(c.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"ledger_id": head.LedgerID, "entries": head.Seq, "erased": s.Replayed.Erased,
					"held": s.Replayed.Held})
			}
			_, err = fmt.Fprintf(a.out, "This database is tied to the ledger %s, which has %d lines; %d legal holds are placed "+
				"again, %d tenants erased again.\n", head.LedgerID, head.Seq, s.Replayed.Held, s.Replayed.Erased)
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
