package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"trakr/internal/app"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/tenants"
	"trakr/internal/view"
	"trakr/reports"
)

func (a *cli) reportCommand() *cobra.Command {
	var format, out, asOf, published string
	var why reasonFlags
	c := &cobra.Command{
		Use: "report KIND", Short: "Issue a report: " + strings.Join(reports.Kinds(), ", "),
		Args: reportKind, ValidArgs: reports.Kinds(),
		Long: "Builds a report from the policy and what is really in the database, and records that it was issued.\n" +
			"The same --as-of, state and version give the same bytes.\n" +
			"Formats: statement has html, md and json; marketplace has json; the others have html, json and csv.\n" +
			"marketplace is Atlassian's Privacy & Security sheet; --compare FILE lists where a downloaded one differs, and exits " +
			"1 when it does.\n" +
			"That prints the differences and no sheet: --out and --format do not go with it.\n" +
			"  curl -o live.json 'https://marketplace.atlassian.com/rest/2/addons/APP-KEY/privacy-and-security?state=live'",
		Example: "  trakr report location --format html --out location.html\n" +
			"  trakr report retention --format csv --as-of 2026-11-24T12:00:00Z --out -\n" +
			"  trakr report statement --format md\n" +
			"  trakr report marketplace --compare live.json",
		// The report must show a guard that is off.
		RunE: a.with(app.Inspect, func(ctx context.Context, s *app.App, args []string) error {
			var at time.Time
			if asOf != "" {
				var err error
				if at, err = time.Parse(time.RFC3339, asOf); err != nil {
					return usageError{errors.New("--as-of is a time such as 2026-11-24T12:00:00Z")}
				}
			}
			if format == "" {
				format = string(reports.FormatsOf(args[0])[0])
			}
			b, _, err := s.Reports.Issue(ctx, why.access(), args[0], format, at)
			if err != nil {
				return err
			}
			if published != "" {
				return a.compareSheets(published, b)
			}
			return a.write(out, b)
		}),
	}
	c.PreRunE = func(_ *cobra.Command, args []string) error {
		switch {
		case published != "" && args[0] != "marketplace":
			return usageError{errors.New("--compare is for the report marketplace")}
		case published != "" && (out != "-" || format != ""):
			return usageError{errors.New("--compare prints differences, and no sheet: leave --out and --format out, and get the " +
				"sheet with: trakr report marketplace --out FILE")}
		}
		return nil
	}
	c.Flags().StringVar(&format, "format", "", "html, json, csv or md (default html, of marketplace json)")
	completeFlag(c, "format", reportFormats)
	c.Flags().StringVar(&out, "out", "-", "file to write, or - for standard output")
	c.Flags().StringVar(&asOf, "as-of", "", "the moment the report speaks about, RFC 3339 (default now)")
	c.Flags().StringVar(&published, "compare", "", "file with the published sheet, as downloaded from Marketplace")
	why.register(c, lifecycle.ReviewerExport)
	return c
}

// reportKind takes one kind of report, and lists the kinds where none is given.
func reportKind(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return cobra.ExactArgs(1)(c, args)
	}
	var b strings.Builder
	for _, kind := range reports.Kinds() {
		fmt.Fprintf(&b, "\n  %-12s  %s", kind, strings.Join(formatNames(kind), ", "))
	}
	return usageError{fmt.Errorf("a report needs its kind; these are the kinds, with the formats of each:%s", b.String())}
}

// formatNames lists the formats of a kind of report.
func formatNames(kind string) (out []string) {
	for _, f := range reports.FormatsOf(kind) {
		out = append(out, string(f))
	}
	return out
}

// leftOut is shown for what a sheet does not have.
const leftOut = "(left out)"

// compareSheets lists where the published sheet differs from the derived one.
func (a *cli) compareSheets(file string, derived []byte) error {
	published, err := os.ReadFile(file)
	if err != nil {
		return usageError{fmt.Errorf("--compare: %w", err)}
	}
	found, err := reports.CompareSheets(published, derived)
	if err != nil {
		return usageError{fmt.Errorf("--compare %s: %w", file, err)}
	}
	if a.json {
		err = a.printJSON(map[string]any{"differences": found})
	} else if len(found) == 0 {
		_, err = fmt.Fprintln(a.out, "The published sheet says what this service does.")
	} else {
		err = a.table("PLACE\tPUBLISHED\tDERIVED", func(line func(...any)) {
			for _, d := range found {
				line(d.Path, cmp.Or(d.Published, leftOut), cmp.Or(d.Derived, leftOut))
			}
		})
	}
	if err == nil && len(found) > 0 {
		return errFinding
	}
	return err
}

// write puts b into a file, whole or not at all, or on standard output.
func (a *cli) write(out string, b []byte) error {
	if out == "-" {
		_, err := a.out.Write(b)
		return err
	}
	return a.writeFile(out, func(w io.Writer) error { _, err := w.Write(b); return err })
}

func (a *cli) writeFile(out string, fill func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(out), ".trakr-*")
	if err != nil {
		return usageError{fmt.Errorf("--out: %w", err)}
	}
	defer func() { _ = os.Remove(f.Name()) }()
	w := bufio.NewWriter(f)
	if err := fill(w); err != nil {
		_ = f.Close()
		return err
	}
	if err := errors.Join(w.Flush(), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", out, err)
	}
	if err := os.Rename(f.Name(), out); err != nil {
		return fmt.Errorf("writing %s: %w", out, err)
	}
	_, err = fmt.Fprintf(a.err, "%s written\n", out)
	return err
}

// auditFlags select events.
type auditFlags struct{ tenant, action, outcome, since, until string }

func (f *auditFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.tenant, "tenant", "", "only this tenant id")
	c.Flags().StringVar(&f.action, "action", "", "only this action, e.g. tenant.read")
	c.Flags().StringVar(&f.outcome, "outcome", "", "only success, denied or failure")
	completeAuditFlags(c)
	c.Flags().StringVar(&f.since, "since", "", "recorded at or after, RFC 3339")
	c.Flags().StringVar(&f.until, "until", "", "recorded before, RFC 3339")
}

func (f *auditFlags) filter() (audit.Filter, error) {
	out := audit.Filter{Action: audit.Action(f.action), Outcome: audit.Outcome(f.outcome)}
	var err error
	if f.outcome != "" && !slices.Contains(audit.Outcomes(), out.Outcome) {
		return out, usageError{errors.New("--outcome is one of success, denied, failure")}
	}
	if f.action != "" && !slices.Contains(audit.Actions(), out.Action) {
		return out, usageError{errors.New("--action is not one that is recorded; see: trakr audit list")}
	}
	if f.tenant != "" {
		if out.Tenant, err = lifecycle.ParseTenantID(f.tenant); err != nil {
			return out, usageError{fmt.Errorf("--tenant: %w", err)}
		}
	}
	for _, t := range []struct {
		flag, value string
		to          *time.Time
	}{{"--since", f.since, &out.Since}, {"--until", f.until, &out.Until}} {
		if t.value == "" {
			continue
		}
		if *t.to, err = time.Parse(time.RFC3339, t.value); err != nil {
			return out, usageError{fmt.Errorf("%s is a time such as 2026-11-24T12:00:00Z", t.flag)}
		}
	}
	return out, nil
}

func (a *cli) exportCommand() *cobra.Command {
	var format, out string
	var packed bool
	var from, limit int64
	var why reasonFlags
	var selection auditFlags
	c := &cobra.Command{
		Use:   "export",
		Short: "Export audit events with their proof, in the order of the log; the export is audited too",
		Args:  cobra.NoArgs,
		Long: "Exports the log of the newest checkpoint, or what the filters select of it. The file ends with the signed\n" +
			"checkpoint and the proof of every line, which trakr verify checks offline. A part that broke off lacks\n" +
			"that end; --from and --limit make parts that each have their own.",
		Example: "  trakr audit export --format csv --out audit.csv --reason-ref AUD-7\n" +
			"  trakr audit export --format ocsf --gzip --out audit.ocsf.gz --from 1200000 --limit 1000000\n" +
			"  trakr audit export --tenant 5f0c1f2e-8d7a-4c7e-9a52-0d9f6f4f4a11 | jq 'select(.action).action'",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, _ []string) error {
			f, err := selection.filter()
			if err != nil {
				return err
			}
			what := audit.Selection{Filter: f, Format: audit.Format(format), Gzip: packed, From: from, Limit: limit}
			// Without a running service nothing else sequences; with one, this waits.
			what.CatchUp = s.Sequencer.Once
			return a.export(ctx, s, why.access(), what, out)
		}),
	}
	c.Flags().StringVar(&format, "format", "ndjson", "ndjson, csv or ocsf (OCSF 1.8)")
	completeFlag(c, "format", oneOf(audit.Formats()...))
	c.Flags().StringVar(&out, "out", "-", "file to write, or - for standard output")
	c.Flags().BoolVar(&packed, "gzip", false, "pack the file")
	c.Flags().Int64Var(&from, "from", 0, "first log_index to export: the next of the part before")
	c.Flags().Int64Var(&limit, "limit", 0, "at most this many events; 0 for all")
	selection.register(c)
	why.register(c, lifecycle.ReviewerExport)
	return c
}

// export writes the file and prints how to check it.
func (a *cli) export(ctx context.Context, s *app.App, who lifecycle.Access, what audit.Selection, out string) error {
	var bar func(int64)
	var at int64
	what.Progress = func(position, size int64) {
		if bar == nil {
			at = what.From
			bar = a.progress(size-at, "exporting", progressbar.OptionShowCount())
		}
		bar(max(position-at, 0))
		at = max(position, at)
	}
	var done audit.Exported
	fill := func(w io.Writer) (err error) {
		done, err = s.Audit.Export(ctx, who, what, w)
		if bar != nil {
			bar(-1)
		}
		return err
	}
	var err error
	if out == "-" {
		err = fill(a.out)
	} else {
		err = a.writeFile(out, fill)
	}
	if err != nil {
		return err
	}
	if a.json && out != "-" {
		err = a.printJSON(done)
	}
	fmt.Fprintf(a.err, "%d events of the log of %d; the next part begins at %d\n", done.Events, done.Size, done.Next)
	if done.Waiting > 0 {
		fmt.Fprintf(a.err, "%d older events have no position yet and are not in it: is the service sequencing?\n", done.Waiting)
	}
	file := out
	if out == "-" {
		file = "FILE"
	}
	fmt.Fprintf(a.err, "verify it offline with: trakr verify %s --key KEY   (the key: trakr audit checkpoint --key; give it to "+
		"reviewers by another way)\n", file)
	if !done.Sound() {
		fmt.Fprintf(a.err, "FINDING: %d records are gone and %d rows were never part of the log; run: trakr audit verify\n",
			done.Missing, done.Unplaced)
		return errFinding
	}
	return err
}

func (a *cli) auditCommand() *cobra.Command {
	var why reasonFlags
	var selection auditFlags
	var limit int
	list := &cobra.Command{
		Use: "list", Short: "Show the newest audit events", Args: cobra.NoArgs,
		Example: "  trakr audit list --action tenant.read --limit 5",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, _ []string) error {
			f, err := selection.filter()
			if err != nil {
				return err
			}
			events, _, err := s.Audit.Query(ctx, why.access(), f, "", limit)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"events": events})
			}
			return a.table("OCCURRED\tACTION\tOUTCOME\tACTOR\tTENANT\tFIELDS\tDETAIL", func(line func(...any)) {
				for _, e := range events {
					v := e.View()
					line(e.OccurredAt, v.Action, v.Outcome, v.ActorType+" "+v.ActorID, dash(v.TenantID),
						dash(strings.Join(v.FieldNames, ",")), dash(v.StatusDetail))
				}
			})
		}),
	}
	list.Flags().IntVar(&limit, "limit", 20, "at most this many")
	selection.register(list)
	why.register(list, lifecycle.ReviewerExport)
	c := &cobra.Command{Use: "audit", Short: "See and export the record of every access",
		Example: "  trakr audit list --limit 5\n  trakr audit export --out audit.ndjson\n  trakr audit verify"}
	c.AddCommand(a.exportCommand(), list)
	c.AddCommand(a.logCommands()...)
	return c
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (a *cli) tenantCommand() *cobra.Command {
	var clientKey, workspace string
	var why reasonFlags
	lookup := &cobra.Command{
		Use: "lookup", Short: "Find a tenant by client key or workspace uuid; audited", Args: cobra.NoArgs,
		Long: "Finds a tenant and prints our id and its state, no value. A client key is personal data: give it on\n" +
			"standard input (--client-key -) so that it does not stay in the shell's history.",
		Example: "  trakr tenant lookup --client-key - --reason-code customer_initiated_support --reason-ref SUP-1234\n" +
			"  trakr tenant lookup --workspace-uuid - --reason-ref SUP-1234",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, _ []string) error {
			key, err := a.secretFlag(clientKey)
			if err != nil {
				return err
			}
			ws, err := a.secretFlag(workspace)
			if err != nil {
				return err
			}
			subject, err := tenants.ParseSubject(key, ws)
			if err != nil {
				return err
			}
			t, err := s.Door.Lookup(ctx, why.access(), subject)
			if err != nil {
				return err
			}
			return a.printTenant(t)
		}),
	}
	lookup.Flags().StringVar(&clientKey, "client-key", "", "the client key, or - to read it from standard input")
	lookup.Flags().StringVar(&workspace, "workspace-uuid", "", "the workspace's uuid, or - to read it from standard input")
	why.register(lookup, lifecycle.CustomerInitiatedSupport)
	show := &cobra.Command{
		Use:     "show ID",
		Short:   "Show the registry's entry of a tenant, without customer data",
		Args:    cobra.ExactArgs(1),
		Example: "  trakr tenant show " + exampleID,
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, args []string) error {
			id, err := lifecycle.ParseTenantID(args[0])
			if err != nil {
				return usageError{err}
			}
			t, err := s.Door.Get(ctx, id)
			if err != nil {
				return err
			}
			return a.printTenant(t)
		}),
	}
	c := &cobra.Command{Use: "tenant", Short: "Find a tenant and see its state",
		Example: "  trakr tenant lookup --client-key - --reason-ref SUP-1234\n  trakr tenant show " + exampleID}
	c.AddCommand(lookup, show)
	return c
}

// secretFlag takes a value as given, or one line of standard input for "-".
func (a *cli) secretFlag(v string) (string, error) {
	if v != "-" {
		return v, nil
	}
	line, err := bufio.NewReader(io.LimitReader(a.in, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading standard input: %w", err)
	}
	return strings.TrimSpace(line), nil
}

func (a *cli) printTenant(t tenants.Tenant) error {
	if a.json {
		return a.printJSON(view.NewTenant(t))
	}
	return a.table("TENANT\tSTATE\tINGRESS\tINSTALLED\tERASED", func(line func(...any)) {
		erased := any("-")
		if t.ErasedAt != nil {
			erased = *t.ErasedAt
		}
		line(t.ID, t.State, t.Ingress, t.InstalledAt, erased)
	})
}
