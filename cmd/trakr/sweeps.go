package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"trakr/internal/app"
	"trakr/internal/lifecycle"
	"trakr/internal/store/findings"
	"trakr/internal/sweep"
	"trakr/internal/view"
)

func (a *cli) sweepCommand() *cobra.Command {
	c := &cobra.Command{Use: "sweep", Short: "Run sweeps and see what they found",
		Example: "  trakr sweep run orphans\n  trakr sweep list --limit 5"}
	c.AddCommand(a.sweepRunCommand(), a.sweepListCommand())
	return c
}

func (a *cli) sweepRunCommand() *cobra.Command {
	var dry bool
	why := reasonFlags{code: string(lifecycle.SystemSweep)}
	run := &cobra.Command{
		Use: "run KIND", Short: "Run a sweep now; exits 1 when it finds something", Args: cobra.ExactArgs(1), ValidArgs: sweep.Kinds(),
		Long: "Runs one pass of a sweep and stores what it counted, zero included. KIND is one of:\n" + kindsOfSweep() +
			"A kind that deletes or erases is a dry run unless --dry-run=false is given; the scheduled passes act. A person who\n" +
			"has it act gives a ticket, which is recorded with what is deleted.\n" +
			"A dry run opens and resolves no finding. Beside a service that acts by another policy only a dry run is made. Exits " +
			"0 clean, 1 findings, 3 cannot tell.",
		Example: "  trakr sweep run orphans\n  trakr sweep run orphans --dry-run --json\n" +
			"  trakr sweep run retention --dry-run=false --reason-ref OPS-12",
	}
	run.RunE = a.with(app.Command, func(ctx context.Context, s *app.App, args []string) error {
		opts := []sweep.Option{sweep.ReportProgress(a.verifyProgress())}
		if run.Flags().Changed("dry-run") {
			opts = append(opts, sweep.DryRun(dry))
		}
		if !dry {
			if err := checkSamePolicy(ctx, s); err != nil {
				return err
			}
		}
		r, err := s.Runner.RunOnce(ctx, why.access(), args[0], sweep.ByCommand, opts...)
		if err != nil {
			return err
		}
		if err := a.printRun(r); err != nil {
			return err
		}
		switch r.Result {
		case findings.Clean:
			return nil
		case findings.Found:
			return errFinding
		}
		return errors.New("the sweep could not check everything; see what is marked unjudged")
	})
	run.Flags().BoolVar(&dry, "dry-run", false, "look and change nothing (default true for a kind that deletes or erases)")
	why.ticket(run)
	return run
}

// kindsOfSweep lists each kind with what it does.
func kindsOfSweep() string {
	var b strings.Builder
	for _, k := range sweep.Kinds() {
		fmt.Fprintf(&b, "  %-12s  %s\n", k, sweep.About(k))
	}
	return b.String()
}

// asTheServices refuses to put down what this command finds where a service runs that
// acts by another policy: it would close that one's findings, or open ones about nothing.
func checkSamePolicy(ctx context.Context, s *app.App) error {
	running, err := s.Instances.List(ctx)
	if err != nil {
		return err
	}
	for _, h := range running {
		if h.PolicyHash != "" && h.PolicyHash != s.Policy.Hash() {
			return usageError{fmt.Errorf("a running service acts by another policy (SHA-256 %s) than this command (%s): give it "+
				"the same TRAKR_POLICY, or look with --dry-run", h.PolicyHash, s.Policy.Hash())}
		}
	}
	return nil
}

// printRun prints one sweep as other programs or people read it.
func (a *cli) printRun(r findings.Run) error {
	if a.json {
		return a.printJSON(view.NewSweepRun(r))
	}
	if err := a.table("TABLE\tCOLUMN\tROWS\tJUDGEMENT", func(line func(...any)) {
		for _, c := range r.Checks {
			line(c.Table, dash(c.Column), c.Rows, judgement(c))
		}
	}); err != nil {
		return err
	}
	if r.DryRun {
		_, err := fmt.Fprintf(a.out, "\n%s sweep %s, dry run: %s; nothing was changed, no finding opened or resolved\n", r.Kind,
			r.ID, r.Result)
		return err
	}
	_, err := fmt.Fprintf(a.out, "\n%s sweep %s: %s\n", r.Kind, r.ID, r.Result)
	return err
}

// judgement returns what one check means.
func judgement(c findings.Check) string {
	switch {
	case c.Found():
		what := c.Ground
		if what == "" {
			what = "rows of tenants no longer registered"
		}
		return fmt.Sprintf("FINDING (%s): %s", c.Severity, what)
	case c.Disposition == findings.Checked && c.Ground != "":
		return "checked: " + c.Ground
	case c.Disposition == findings.Checked:
		return "nothing remains"
	case c.Ground != "":
		return strings.ReplaceAll(string(c.Disposition), "_", " ") + ": " + c.Ground
	}
	return string(c.Disposition)
}

func (a *cli) sweepListCommand() *cobra.Command {
	var limit int
	list := &cobra.Command{
		Use: "list", Short: "List past sweeps and open findings", Args: cobra.NoArgs,
		Example: "  trakr sweep list --limit 5",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, _ []string) error {
			runs, err := s.Findings.Runs(ctx, "", limit)
			if err != nil {
				return err
			}
			open, err := s.Findings.Findings(ctx, true, 1000)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"runs": view.NewSweepRuns(runs), "findings": view.NewFindings(open)})
			}
			if err := a.table("RUN\tKIND\tBY\tSTARTED\tRESULT\tCHECKS", func(line func(...any)) {
				for _, r := range runs {
					result := string(r.Result)
					if result == "" {
						result = "did not finish"
					}
					if r.DryRun {
						result += " (dry run)"
					}
					line(r.ID, r.Kind, r.Trigger, r.StartedAt, result, len(r.Checks))
				}
			}); err != nil || len(open) == 0 {
				return err
			}
			fmt.Fprintln(a.out)
			return a.printFindings(open)
		}),
	}
	list.Flags().IntVar(&limit, "limit", 20, "at most this many runs")
	return list
}

func (a *cli) printFindings(list []findings.Finding) error {
	return a.table("FINDING\tKIND\tSEVERITY\tSTATE\tTABLE\tCOLUMN\tROWS\tSINCE", func(line func(...any)) {
		for _, f := range list {
			rows := any(f.Rows)
			if f.Blind {
				rows = "cannot tell"
			}
			line(f.ID, f.Kind, f.Severity, f.State(), f.Table, dash(f.Column), rows, f.OpenedAt)
		}
	})
}

func (a *cli) findingCommand() *cobra.Command {
	var all bool
	var limit int
	list := &cobra.Command{
		Use: "list", Short: "List open findings", Args: cobra.NoArgs,
		Example: "  trakr finding list --all --limit 50",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, _ []string) error {
			list, err := s.Findings.Findings(ctx, !all, limit)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"findings": view.NewFindings(list)})
			}
			return a.printFindings(list)
		}),
	}
	list.Flags().BoolVar(&all, "all", false, "resolved ones too")
	list.Flags().IntVar(&limit, "limit", 100, "at most this many")
	show := &cobra.Command{
		Use: "show ID", Short: "Show a finding and its life", Args: cobra.ExactArgs(1),
		Example: "  trakr finding show 01a20e98-a0d9-7be0-acd3-8cea525129a5",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, args []string) error {
			f, life, err := s.Findings.Finding(ctx, args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(view.NewFindingDetail(f, life))
			}
			if err := a.printFindings([]findings.Finding{f}); err != nil {
				return err
			}
			fmt.Fprintln(a.out)
			return a.table("STEP\tAT\tROWS\tSWEEP\tBY\tREASON\tTICKET\tDELIVERED", func(line func(...any)) {
				for _, e := range life {
					delivered := any("-")
					if e.DeliveredAt != nil {
						delivered = *e.DeliveredAt
					}
					line(e.Transition, e.OccurredAt, e.Rows, dash(e.RunID), dash(e.ActorID), dash(e.ReasonCode), dash(e.ReasonRef),
						delivered)
				}
			})
		}),
	}
	var why reasonFlags
	acknowledge := &cobra.Command{
		Use: "acknowledge ID", Short: "Mark a finding as known, with a ticket; it stays open", Args: cobra.ExactArgs(1),
		Long: "Marks an open finding as known, with a reason and a ticket; audited. It stays open and counted until a\n" +
			"sweep no longer sees it. One that comes back later is a new finding.",
		Example: "  trakr finding acknowledge 01a20e98-a0d9-7be0-acd3-8cea525129a5 --reason-code incident_response --reason-ref OPS-12",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, args []string) error {
			f, err := s.Findings.Acknowledge(ctx, why.access(), args[0], a.now())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(view.NewFinding(f))
			}
			return a.printFindings([]findings.Finding{f})
		}),
	}
	why.register(acknowledge, lifecycle.IncidentResponse)
	show.ValidArgsFunction, acknowledge.ValidArgsFunction = a.ids(findingIDs), a.ids(findingIDs)
	c := &cobra.Command{Use: "finding", Short: "See and acknowledge what sweeps found",
		Example: "  trakr finding list\n  trakr finding acknowledge " + exampleID + " --reason-ref OPS-12"}
	c.AddCommand(list, show, acknowledge)
	return c
}
