package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"trakr/internal/auditfile"
)

func (a *app) verifyCommand() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use: "verify FILE", Short: "Check an exported audit offline, against the log's public key", Args: cobra.ExactArgs(1),
		Long: "Reads an export (ndjson, csv or ocsf, also gzip) and checks that every record shown stood at its position\n" +
			"in the log of the signed checkpoint, byte for byte, that nothing was changed, removed, inserted, moved or\n" +
			"cut since, and that the columns say what the records say. Needs no database and no network.\n\n" +
			"The key must have reached you by another way than the file; whoever runs the service prints it with\n" +
			"trakr audit checkpoint --key. Not proven: recorded_at, and that a filter left out only what it should.\n" +
			"Exit codes: 0 proven, 1 a finding, 2 wrong usage, 3 cannot tell.",
		Example: "  trakr verify audit.ndjson --key log.vkey\n  trakr verify audit.csv.gz --key trakr-audit/…+…+… --json",
		RunE:    func(c *cobra.Command, args []string) error { return a.verify(c.Context(), args[0], key) },
	}
	c.Flags().StringVar(&key, "key", "", "the log's public key (C2SP signed-note), or a file that holds it")
	return c
}

func (a *app) verify(ctx context.Context, file, key string) error {
	st, err := os.Stat(file)
	if err != nil {
		return usageError{err}
	}
	if b, err := os.ReadFile(key); err == nil {
		key = string(b)
	}
	bar := a.progress(2*st.Size(), "verifying", progressbar.OptionShowBytes(true))
	report, err := auditfile.Verify(ctx, func() (io.ReadCloser, error) { return os.Open(file) }, strings.TrimSpace(key), func(n int64) { bar(n) })
	bar(-1)
	if errors.Is(err, auditfile.ErrNoKey) {
		return fmt.Errorf("%w. Give the key that reached you by another way: --key KEY or --key FILE (whoever runs the service prints it with: trakr audit checkpoint --key)", err)
	}
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(report)
	} else {
		err = a.printVerified(file, report)
	}
	if err == nil && !report.Proven {
		err = errFinding
	}
	return err
}

func (a *app) printVerified(file string, r auditfile.Report) error {
	var b strings.Builder
	if f := r.Finding; f != nil {
		fmt.Fprintf(&b, "FINDING in %s: %s", file, f.Fault)
		if f.Position >= 0 {
			fmt.Fprintf(&b, " at position %d", f.Position)
		}
		if f.Line > 0 {
			fmt.Fprintf(&b, " (line %d)", f.Line)
		}
		fmt.Fprintf(&b, ": %s.\nNothing after it was looked at.\n", f.Detail)
	} else {
		fmt.Fprintf(&b, "Proven: %d events of %s stand in the log %s as they did at its checkpoint of %d events.\n", r.Events, file, r.Origin, r.Size)
		fmt.Fprintf(&b, "Looked at from position %d up to, not including, %d; selection %s; %d positions not shown", r.From, r.Next, r.Selection, r.Hidden)
		if r.Expired > 0 {
			fmt.Fprintf(&b, "; content expired by policy below position %d", r.Expired)
		}
		fmt.Fprintln(&b, ".")
		if r.Waiting > 0 {
			fmt.Fprintf(&b, "%d older events had no position yet when it was made; they are not in it.\n", r.Waiting)
		}
		fmt.Fprintln(&b, "Not proven: recorded_at, which no record holds, and that what is not shown did not match the selection.")
	}
	_, err := io.WriteString(a.out, b.String())
	return err
}

// progress shows a bar on a terminal, and nothing elsewhere. The returned function
// moves it on; a negative number takes it away.
func (a *app) progress(total int64, what string, more ...progressbar.Option) func(n int64) {
	f, ok := a.err.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func(int64) {}
	}
	bar := progressbar.NewOptions64(total, append(more, progressbar.OptionSetWriter(f), progressbar.OptionSetDescription(what),
		progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100e6))...)
	return func(n int64) {
		if n < 0 {
			_ = bar.Finish()
			return
		}
		_ = bar.Add64(n)
	}
}
