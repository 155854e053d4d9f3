package main

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"trakr/internal/app"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/requests"
	"trakr/reports"
)

// completer answers the shell's question for the values of an argument or a flag.
type completer = func(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective)

// maxCompleted is how many ids a completion offers, newest first.
const maxCompleted = 50

// completeFlag registers the values of a flag. A flag that does not exist is a fault of
// this program, which its tests see.
func completeFlag(c *cobra.Command, flag string, values completer) {
	if err := c.RegisterFlagCompletionFunc(flag, values); err != nil {
		panic(err)
	}
}

// oneOf offers fixed values.
func oneOf[S ~string](values ...S) completer {
	var out []string
	for _, v := range values {
		out = append(out, string(v))
	}
	return cobra.FixedCompletions(out, cobra.ShellCompDirectiveNoFileComp)
}

// ids offers what list finds in the database, as the first argument. It asks a database
// that runs already, and offers nothing where none does.
func (a *cli) ids(list func(ctx context.Context, s *app.App) ([]string, error)) completer {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		s, err := a.open(c.Context(), app.Complete)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer func() { _ = s.Close() }()
		found, err := list(c.Context(), s)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

func findingIDs(ctx context.Context, s *app.App) (out []string, err error) {
	list, err := s.Findings.Findings(ctx, true, maxCompleted)
	for _, f := range list {
		out = append(out, f.ID+"\t"+f.Kind)
	}
	return out, err
}

func requestIDs(ctx context.Context, s *app.App) (out []string, err error) {
	list, err := s.Deletions.List(ctx, requests.Filter{Limit: maxCompleted}, false)
	for _, r := range list {
		out = append(out, r.ID+"\t"+string(r.State)+" "+r.Ticket)
	}
	return out, err
}

func erasureIDs(ctx context.Context, s *app.App) (out []string, err error) {
	list, err := s.Erasures.List(ctx, maxCompleted)
	for _, x := range list {
		out = append(out, x.ID.String()+"\t"+string(x.State()))
	}
	return out, err
}

func deliveryIDs(ctx context.Context, s *app.App) (out []string, err error) {
	list, err := s.Outbox.List(ctx, true, maxCompleted)
	for _, d := range list {
		out = append(out, d.ID.String()+"\t"+string(d.Kind))
	}
	return out, err
}

func (a *cli) holdIDs(ctx context.Context, s *app.App) (out []string, err error) {
	list, err := s.Holds.List(ctx, lifecycle.TenantID{}, a.now())
	for _, h := range list {
		out = append(out, h.ID+"\t"+string(h.Ground))
	}
	return out, err
}

func tokenIDs(ctx context.Context, s *app.App) (out []string, err error) {
	list, err := s.Tokens.List(ctx)
	for _, t := range list {
		if t.RevokedAt == nil {
			out = append(out, t.ID+"\t"+t.Label)
		}
	}
	return out, err
}

// reportFormats offers the formats of the kind that was typed.
func reportFormats(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var out []string
	for _, kind := range reports.Kinds() {
		if len(args) > 0 && args[0] != kind {
			continue
		}
		for _, f := range reports.FormatsOf(kind) {
			if !slices.Contains(out, string(f)) {
				out = append(out, string(f))
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeAuditFlags offers the actions and outcomes that are recorded.
func completeAuditFlags(c *cobra.Command) {
	completeFlag(c, "action", oneOf(audit.Actions()...))
	completeFlag(c, "outcome", oneOf(audit.Outcomes()...))
}
