package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"trakr/internal/proof/auditfile"
	"trakr/internal/proof/certificate"
)

func (a *cli) verifyCommand() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check an exported audit or a certificate of deletion offline, against the log's public key",
		Args:  cobra.ExactArgs(1),
		Long: "Reads an export (ndjson, csv or ocsf, also gzip) and checks that every record shown was at its position\n" +
			"in the log of the signed checkpoint, byte for byte, that nothing was changed, removed, inserted, moved or\n" +
			"cut since, and that the columns agree with the records. Needs no database and no network.\n\n" +
			"Of a certificate of deletion (json, html or pdf) it checks the signature, names every value that was changed,\n" +
			"added or removed since, proves that the records it rests on were in the log, and that it agrees with them.\n" +
			"An HTML page or a PDF is rendered again and compared, so that its text is proven too; a page that another version\n" +
			"of trakr made cannot be checked.\n\n" +
			"The key must have reached you by another way than the file; the operator of the service prints it with\n" +
			"trakr audit checkpoint --key. Not proven of an export: recorded_at, and that a filter left out only what it\n" +
			"should; of a certificate: its counts and places, and when backups are cleared, which its issuer only signs.\n" +
			"Exit codes: 0 proven, 1 a finding, 2 wrong usage, 3 cannot tell.",
		Example: "  trakr verify audit.ndjson --key log.vkey\n  trakr verify certificate.pdf --key log.vkey\n  trakr verify " +
			"audit.csv.gz --key trakr-audit/…+…+… --json",
		RunE: func(c *cobra.Command, args []string) error { return a.verify(c.Context(), args[0], key) },
	}
	c.Flags().StringVar(&key, "key", "", "the log's public key (C2SP signed-note), or a file that contains it")
	return c
}

func (a *cli) verify(ctx context.Context, file, key string) error {
	st, err := os.Stat(file)
	if err != nil {
		return usageError{err}
	}
	if b, err := os.ReadFile(key); err == nil {
		key = string(b)
	}
	key = strings.TrimSpace(key)
	if b, err := beginning(file); err != nil {
		return err
	} else if _, ok := certificate.Recognise(b); ok {
		return a.verifyCertificate(file, b, key)
	}
	bar := a.progress(2*st.Size(), "verifying", progressbar.OptionShowBytes(true))
	report, err := auditfile.Verify(ctx, func() (io.ReadCloser, error) { return os.Open(file) }, key, func(n int64) { bar(n) })
	bar(-1)
	switch {
	case errors.Is(err, auditfile.ErrNoKey):
		return noKey(err)
	case errors.Is(err, auditfile.ErrNotExport):
		return fmt.Errorf("%s is neither an exported audit nor a certificate of deletion", file)
	case err != nil:
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

// noKey adds how to get the key.
func noKey(err error) error {
	return fmt.Errorf("%w. Give the key that reached you by another way: --key KEY or --key FILE (the operator of the service "+
		"prints it with: trakr audit checkpoint --key)", err)
}

// beginning reads as much of a file as a certificate can have, and a byte more.
func beginning(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, usageError{err}
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, certificate.MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the file: %w", err)
	}
	return b, nil
}

func (a *cli) verifyCertificate(file string, b []byte, key string) error {
	r, err := certificate.Verify(b, key, toolVersion())
	switch {
	case errors.Is(err, certificate.ErrNoKey):
		return noKey(err)
	case err != nil:
		return err
	}
	if a.json {
		err = a.printJSON(r)
	} else {
		err = a.printCertificate(file, r)
	}
	switch {
	case err != nil:
		return err
	case len(r.Findings) > 0:
		return errFinding
	case r.Unjudged != "":
		return errors.New(r.Unjudged)
	}
	return nil
}

func (a *cli) printCertificate(file string, r certificate.Report) error {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "FINDING in %s: %s", file, f.Fault)
		if f.Pointer != "" {
			fmt.Fprintf(&b, " at %s", f.Pointer)
		}
		fmt.Fprintf(&b, ": %s.\n", f.Detail)
	}
	if len(r.Findings) == 0 {
		fmt.Fprintf(&b, "Proven: the certificate of deletion %s of %s is signed with the key of the log %s and unchanged.\n",
			r.CertificateID, r.Issuer, r.Origin)
		if r.State == certificate.Erased {
			fmt.Fprintf(&b, "Tenant %s, erasure %s: gone from the live service since %s, gone from backups after %s.\n", r.TenantID,
				r.ErasureID, r.DeletedLiveAt, r.BackupsClearAfter)
		} else {
			fmt.Fprintf(&b, "Request %s: nothing was held of the subject with the digest %s.\n", r.RequestID, r.SubjectDigest)
		}
		fmt.Fprintf(&b, "The records it rests on stand in the log at the positions %s and say what it says", positions(r.LogIndexes))
		if r.Format != certificate.JSON && r.Unjudged == "" {
			b.WriteString("; the page says what its certificate says")
		}
		b.WriteString(".\nNot proven, but signed: its counts and places, when backups are gone, and what recipients acknowledged.\n")
	}
	_, err := io.WriteString(a.out, b.String())
	return err
}

func positions(all []int64) string {
	out := make([]string, len(all))
	for i, n := range all {
		out[i] = strconv.FormatInt(n, 10)
	}
	return strings.Join(out, ", ")
}

func (a *cli) printVerified(file string, r auditfile.Report) error {
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
		fmt.Fprintf(&b, "Proven: %d events of %s stand in the log %s as they did at its checkpoint of %d events.\n", r.Events, file,
			r.Origin, r.Size)
		fmt.Fprintf(&b, "Looked at from position %d up to, not including, %d; selection %s; %d positions not shown", r.From, r.Next,
			r.Selection, r.Hidden)
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

// onTerminal reports whether standard error is a terminal.
func (a *cli) onTerminal() bool {
	f, ok := a.err.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// progress shows a bar on a terminal, and nothing elsewhere. The returned function
// moves it on; a negative number takes it away.
func (a *cli) progress(total int64, what string, more ...progressbar.Option) func(n int64) {
	if !a.onTerminal() {
		return func(int64) {}
	}
	bar := progressbar.NewOptions64(total, append(more, progressbar.OptionSetWriter(a.err), progressbar.OptionSetDescription(what),
		progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100e6))...)
	return func(n int64) {
		if n < 0 {
			_ = bar.Finish()
			return
		}
		_ = bar.Add64(n)
	}
}
