package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"trakr/internal/app"
	"trakr/internal/check"
	"trakr/internal/platform/config"
	"trakr/internal/store/audit"
)

func (a *cli) auditVerifyCommand() *cobra.Command {
	var files []string
	var without bool
	c := &cobra.Command{
		Use: "verify", Short: "Read the whole audit again and report every event, leaf or guard that was tampered with", Args: cobra.NoArgs,
		Long: "Reads every event, leaf, tile and checkpoint in one snapshot, beside a running service, and reports what was\n" +
			"changed, removed, inserted, reordered or cut, columns that disagree with their record, and guards of the\n" +
			"database that are not in place; the first bad position first.\n\n" +
			"A tail that was cut off without a trace shows only against a checkpoint kept outside the database: the one in\n" +
			"TRAKR_CHECKPOINT_FILE and its history, when they exist, and any given with --checkpoint. Keep one where\n" +
			"those who can change the database cannot.\n\n" +
			"Not proven: recorded_at, which is in no record. Nothing of the content is shown, so the run is no event.\n" +
			"Exits 0 clean, 1 a finding, 3 cannot tell (no checkpoint from elsewhere, or the database did not answer).",
		Example: "  trakr audit verify\n  trakr audit verify --checkpoint /mnt/elsewhere/checkpoint --json",
		RunE: func(c *cobra.Command, _ []string) error {
			if without && len(files) > 0 {
				return usageError{errors.New("give --checkpoint or --no-checkpoint, not both")}
			}
			return a.auditVerify(c.Context(), files, without)
		},
	}
	c.Flags().StringArrayVar(&files, "checkpoint", nil, "file with a checkpoint kept elsewhere, or with several; may be repeated")
	c.Flags().BoolVar(&without, "no-checkpoint", false, "compare with none; then it is no failure that a cut tail cannot be detected")
	return c
}

func (a *cli) auditVerify(ctx context.Context, files []string, without bool) error {
	s, err := a.open(ctx, app.Inspect)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	var kept []audit.Outside
	if !without {
		// Read before the snapshot is taken: the running service publishes on.
		if kept, err = keptCheckpoints(s.Config, files); err != nil {
			return err
		}
	}
	v, err := s.Audit.Verify(ctx, audit.VerifyOptions{Outside: kept, Progress: a.verifyProgress()})
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(struct {
			Clean     bool `json:"clean"`
			TailKnown bool `json:"tail_known"`
			audit.Verification
		}{v.Clean(), v.TailKnown(), v})
	} else {
		err = a.printVerification(v)
	}
	switch {
	case err != nil:
		return err
	case !v.Clean():
		return errFinding
	case !v.TailKnown() && !without:
		return errors.New("nothing was found, but a cut tail cannot be told without a checkpoint kept elsewhere; give one with " +
			"--checkpoint FILE, or say --no-checkpoint")
	}
	return nil
}

// keptCheckpoints reads the checkpoints to compare with: those of the files named, which
// must exist, and those that the file sink has kept.
func keptCheckpoints(cfg config.Config, files []string) ([]audit.Outside, error) {
	var out []audit.Outside
	for _, f := range files {
		kept, err := app.CheckpointsIn(f)
		if err != nil {
			return nil, usageError{fmt.Errorf("--checkpoint: %w", err)}
		}
		out = append(out, kept...)
	}
	kept, err := app.KeptCheckpoints(cfg)
	if err != nil {
		return nil, usageError{fmt.Errorf("--checkpoint: %w", err)}
	}
	return append(out, kept...), nil
}

// verifyProgress draws a bar on a terminal; its length is known with the first call.
func (a *cli) verifyProgress() func(done, total int64) {
	var bar func(int64)
	var at int64
	return func(done, total int64) {
		if bar == nil {
			bar = a.progress(total, "verifying", progressbar.OptionShowCount(), progressbar.OptionShowIts())
		}
		bar(done - at)
		if at = done; done == total {
			bar(-1)
		}
	}
}

func (a *cli) printVerification(v audit.Verification) error {
	p := func(format string, args ...any) { fmt.Fprintf(a.out, format+"\n", args...) }
	p("log          %s", v.Origin)
	p("verified     %d events at %d positions, %d checkpoints, %d tiles; %.1f s, %.0f events/s", v.Events-v.Waiting, v.Size,
		v.Checkpoints, v.Tiles, v.Seconds, float64(v.Events)/max(v.Seconds, 1e-3))
	p("root         %s", v.Root)
	if v.Waiting > 0 {
		p("waiting      %d events have no position yet", v.Waiting)
	}
	if v.ExpiredUpTo > 0 {
		p("expired      content expired by policy until position %d", v.ExpiredUpTo)
	}
	switch {
	case v.Outside >= 0:
		p("tail         the log contains the %d events of a checkpoint kept elsewhere", v.Outside)
	case !v.TailKnown():
		p("tail         a cut tail cannot be told without a checkpoint kept elsewhere")
	}
	passed := 0
	for _, c := range v.Controls {
		if c.State == check.Pass {
			passed++
			continue
		}
		p("control      %s: %s: %s", c.State, c.Name, c.Detail())
	}
	p("controls     %d of %d pass", passed, len(v.Controls))
	if len(v.Faults) == 0 {
		if v.Clean() {
			p("\nclean: nothing was changed, removed, inserted or reordered")
		} else {
			p("\nFINDING: no event was tampered with, but a guard is not in place")
		}
		return nil
	}
	p("")
	err := a.table("POSITION\tFAULT\tEVENT\tDETAIL", func(line func(...any)) {
		for _, f := range v.Faults {
			position := any("-")
			if f.Position >= 0 {
				position = f.Position
			}
			line(position, f.Kind, dash(f.EventID), f.Detail)
		}
	})
	var all int64
	for _, n := range v.Counts {
		all += n
	}
	if more := all - int64(len(v.Faults)); more > 0 {
		p("and %d more; --json counts them by kind", more)
	}
	if first := v.Faults[0]; first.Position >= 0 {
		p("\nFINDING: %d fault(s); the first bad position is %d", all, first.Position)
	} else {
		p("\nFINDING: %d fault(s)", all)
	}
	return err
}
