package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"trakr/internal/app"
	"trakr/internal/lifecycle"
	"trakr/internal/store"
)

func (a *cli) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, Example: "  trakr version --json",
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				return a.printJSON(map[string]string{"version": toolVersion()})
			}
			_, err := fmt.Fprintln(a.out, toolVersion())
			return err
		}}
}

func (a *cli) migrateCommand() *cobra.Command {
	var status bool
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database's tables to this version",
		Long: "Applies pending migrations under a lock; each is one transaction, and nothing pending is a success.\nUses " +
			"TRAKR_MIGRATION_DATABASE_URL when set, else TRAKR_DATABASE_URL, else the private PostgreSQL.",
		Example: "  trakr migrate --status\n" +
			"  TRAKR_MIGRATION_DATABASE_URL=postgres://owner:…@db/trakr?sslmode=verify-full trakr migrate",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.migrate(c.Context(), status) },
	}
	c.Flags().BoolVar(&status, "status", false, "list migrations, apply none")
	return c
}

func (a *cli) migrate(ctx context.Context, status bool) error {
	cfg, err := a.config(false)
	if err != nil {
		return err
	}
	owner, err := app.OpenOwner(ctx, cfg)
	if err != nil {
		return err
	}
	defer owner.Close()
	var applied []store.Migration
	if !status {
		if applied, err = store.Migrate(ctx, owner.URL); err != nil {
			return err
		}
	}
	db, err := store.Open(ctx, owner.URL, store.Options{MaxConns: 1})
	if err != nil {
		return err
	}
	defer db.Close()
	all, err := store.Migrations(ctx, db)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"applied": len(applied), "migrations": all})
	}
	if err := a.table("VERSION\tFILE\tAPPLIED", func(line func(...any)) {
		for _, m := range all {
			when := any("pending")
			if !m.AppliedAt.IsZero() {
				when = m.AppliedAt
			}
			line(m.Version, m.Name, when)
		}
	}); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "%d applied now\n", len(applied))
	return err
}

func (a *cli) tokenCommand() *cobra.Command {
	var role, label string
	var expires time.Duration
	var why reasonFlags
	create := &cobra.Command{
		Use: "create", Short: "Make an API token; its text is shown once", Args: cobra.NoArgs,
		Example: "  trakr token create --role service --label end-service --expires-in 720h\n" +
			"  TOKEN=$(trakr token create --role reviewer --label audit-2026 --json | jq -r .token)",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, _ []string) error {
			plain, t, err := s.Tokens.Create(ctx, why.access(), lifecycle.Role(role), label, expires)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(struct {
					Token     string    `json:"token"`
					ID        string    `json:"id"`
					Role      string    `json:"role"`
					ExpiresAt time.Time `json:"expires_at"`
				}{plain.Reveal(), t.ID, string(t.Role), t.ExpiresAt})
			}
			_, err = fmt.Fprintf(a.out, "%s\n\nRole %s, until %s. This is the only time it is shown; revoke it with: trakr token "+
				"revoke %s\n",
				plain.Reveal(), t.Role, t.ExpiresAt.Format(time.RFC3339), t.ID)
			return err
		}),
	}
	create.Flags().StringVar(&role, "role", "", "service, support, reviewer or operator")
	completeFlag(create, "role", oneOf(lifecycle.TokenRoles()...))
	create.Flags().StringVar(&label, "label", "unnamed", "what it is for, not for whom: a-z 0-9 . _ -")
	create.Flags().DurationVar(&expires, "expires-in", 30*24*time.Hour, "how long it lives, at most 366 days (8784h)")
	why.register(create, lifecycle.ServiceOperation)
	list := &cobra.Command{
		Use: "list", Short: "List tokens, without their text", Args: cobra.NoArgs, Example: "  trakr token list --json",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, _ []string) error {
			all, err := s.Tokens.List(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"tokens": all})
			}
			return a.table("ID\tROLE\tLABEL\tCREATED\tEXPIRES\tSTATE", func(line func(...any)) {
				for _, t := range all {
					state := "valid"
					if t.RevokedAt != nil {
						state = "revoked"
					} else if !a.now().Before(t.ExpiresAt) {
						state = "expired"
					}
					line(t.ID, t.Role, t.Label, t.CreatedAt, t.ExpiresAt, state)
				}
			})
		}),
	}
	revoke := &cobra.Command{
		Use:     "revoke ID",
		Short:   "End a token at once",
		Args:    cobra.ExactArgs(1),
		Example: "  trakr token revoke 4f6c1d2a9b3e --reason-ref OPS-12",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, args []string) error {
			if err := s.Tokens.Revoke(ctx, why.access(), args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintln(a.out, "revoked")
			return err
		}),
	}
	why.register(revoke, lifecycle.ServiceOperation)
	revoke.ValidArgsFunction = a.ids(tokenIDs)
	c := &cobra.Command{Use: "token", Short: "Make, list and revoke API tokens",
		Example: "  trakr token create --role reviewer --label audit-2026\n  trakr token list"}
	c.AddCommand(create, list, revoke)
	return c
}
