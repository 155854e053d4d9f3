package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"trakr/internal/store/audit"
	"trakr/internal/store/guard"
)

func (a *app) auditVerifyCommand() *cobra.Command {
	var files []string
	var without bool
	c := &cobra.Command{
		Use: "verify", Short: "Read the whole audit again and report every event, leaf or guard that was tampered with", Args: cobra.NoArgs,
		Long: "Reads every event, leaf, tile and checkpoint in one snapshot, beside a running service, and reports what was\n" +
			"changed, removed, inserted, reordered or cut, columns that disagree with their record, and guards of the\n" +
			"database that are not in place; the first bad position first.\n\n" +
			"A tail that was cut off without a trace shows only against a checkpoint kept outside the database: the one in\n" +
			"TRAKR_CHECKPOINT_FILE and its history, when they exist, and any given with --checkpoint. Keep one where\n" +
			"whoever can change the database cannot.\n\n" +
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
	c.Flags().BoolVar(&without, "no-checkpoint", false, "compare with none, and do not call it a failure that a cut tail cannot be told")
	return c
}

func (a *app) auditVerify(ctx context.Context, files []string, without bool) error {
	s, err := a.openAnyway(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	var kept []audit.Outside
	if !without {
		// Read before the snapshot is taken: the running service publishes on.
		if kept, err = keptCheckpoints(files, s.cfg.CheckpointFile); err != nil {
			return err
		}
	}
	v, err := s.audit.Verify(ctx, audit.VerifyOptions{Outside: kept, Progress: a.verifyProgress()})
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
		return errors.New("nothing was found, but a cut tail cannot be told without a checkpoint kept elsewhere; give one with --checkpoint FILE, or say --no-checkpoint")
	}
	return nil
}

// keptCheckpoints reads the checkpoints to compare with: those of the files named,
// which must be there, and those that the file sink has kept.
func keptCheckpoints(files []string, sink string) ([]audit.Outside, error) {
	var out []audit.Outside
	for _, f := range files {
		kept, err := checkpointsIn(f, true)
		if err != nil {
			return nil, err
		}
		out = append(out, kept...)
	}
	kept, err := sinkCheckpoints(sink, true)
	return append(out, kept...), err
}

// sinkCheckpoints reads what the file sink has kept, with its history or without.
func sinkCheckpoints(sink string, history bool) ([]audit.Outside, error) {
	out, err := checkpointsIn(sink, false)
	if err != nil || !history {
		return out, err
	}
	older, err := checkpointsIn(sink+".history", false)
	return append(out, older...), err
}

// checkpointsIn reads a file of checkpoints; one that was not named may be missing.
func checkpointsIn(file string, named bool) ([]audit.Outside, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return nil, nil
	}
	if err != nil {
		return nil, usageError{fmt.Errorf("--checkpoint: %w", err)}
	}
	notes := splitNotes(b)
	if len(notes) == 0 {
		notes = [][]byte{b} // not a checkpoint at all: that is a finding
	}
	var out []audit.Outside
	for i, n := range notes {
		name := "the checkpoint in " + file
		if len(notes) > 1 {
			name = fmt.Sprintf("checkpoint %d in %s", i+1, file)
		}
		out = append(out, audit.Outside{Name: name, Note: n})
	}
	return out, nil
}

// splitNotes takes a file of signed notes apart: each is its text, an empty line,
// and its signatures (C2SP signed-note); between two stands an empty line.
func splitNotes(b []byte) [][]byte {
	parts := bytes.Split(bytes.TrimRight(b, "\n"), []byte("\n\n"))
	var out [][]byte
	for i := 0; i+1 < len(parts); i += 2 {
		out = append(out, bytes.Join([][]byte{parts[i], append(bytes.Clone(parts[i+1]), '\n')}, []byte("\n\n")))
	}
	return out
}

// verifyProgress draws a bar on a terminal; its length is known with the first call.
func (a *app) verifyProgress() func(done, total int64) {
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

func (a *app) printVerification(v audit.Verification) error {
	p := func(format string, args ...any) { fmt.Fprintf(a.out, format+"\n", args...) }
	p("log          %s", v.Origin)
	p("verified     %d events at %d positions, %d checkpoints, %d tiles; %.1f s, %.0f events/s", v.Events-v.Waiting, v.Size, v.Checkpoints, v.Tiles, v.Seconds, float64(v.Events)/max(v.Seconds, 1e-3))
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
		if c.State == guard.Pass {
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
