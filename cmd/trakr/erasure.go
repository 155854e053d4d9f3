package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"trakr/internal/app"
	"trakr/internal/lifecycle"
	"trakr/internal/proof/certificate"
	"trakr/internal/view"
)

// erasureCommand shows erasures, whatever their trigger, and their certificates.
func (a *cli) erasureCommand() *cobra.Command {
	var limit int
	list := &cobra.Command{
		Use: "list", Short: "List erasures and how far each has come, newest first", Args: cobra.NoArgs,
		Example: "  trakr erasure list --limit 100",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, _ []string) error {
			all, err := s.Erasures.List(ctx, limit)
			if err != nil {
				return err
			}
			shown := make([]view.Erasure, 0, len(all))
			for _, x := range all {
				shown = append(shown, view.NewErasure(x, s.Policy.BackupWindow().Duration()))
			}
			if a.json {
				return a.printJSON(map[string]any{"erasures": shown})
			}
			return a.table("ERASURE\tTENANT\tTRIGGER\tBEGUN\tGONE FROM LIVE\tGONE FROM BACKUPS\tSTATE", func(line func(...any)) {
				for _, x := range shown {
					line(x.ErasureID, x.TenantID, x.Trigger, x.BegunAt, orDash(x.DeletedLiveAt), orDash(x.BackupsClearAfter), x.State)
				}
			})
		}),
	}
	list.Flags().IntVar(&limit, "limit", 50, "at most this many")
	var format, out string
	var why reasonFlags
	cert := &cobra.Command{
		Use: "certificate ERASURE", Short: "Write the certificate of an erasure", Args: cobra.ExactArgs(1),
		Long: "Writes the signed certificate of deletion (logical). With the log's public key it is checked offline by\ntrakr " +
			"verify, in each of its formats.",
		Example: "  trakr erasure certificate 0194… --format pdf --out certificate.pdf\n  trakr verify certificate.pdf --key log.vkey",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, args []string) error {
			id, err := uuid.Parse(args[0])
			if err != nil {
				return usageError{errors.New("an erasure is named by its id, a UUID; see: trakr erasure list")}
			}
			f, err := certificate.ParseFormat(format)
			if err != nil {
				return usageError{err}
			}
			b, err := s.Eraser.RenderCertificate(ctx, why.access(), id, f)
			if err != nil {
				return err
			}
			return a.write(out, b)
		}),
	}
	cert.Flags().StringVar(&format, "format", "json", "json, html or pdf")
	cert.Flags().StringVar(&out, "out", "-", "file to write, or - for standard output")
	why.register(cert, lifecycle.ReviewerExport)
	completeFlag(cert, "format", oneOf(certificate.Formats()...))
	cert.ValidArgsFunction = a.ids(erasureIDs)
	c := &cobra.Command{Use: "erasure", Short: "See erasures and write their certificates", Example: "  trakr erasure list"}
	c.AddCommand(list, cert)
	return c
}

func orDash(t *time.Time) string {
	if t == nil {
		return "–"
	}
	return fmt.Sprint(t.UTC().Format(time.RFC3339))
}
