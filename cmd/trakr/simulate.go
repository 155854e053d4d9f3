package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"trakr/internal/lifecycle"
	"trakr/internal/simulate"
)

func (a *app) simulateCommand() *cobra.Command {
	c := simulate.Config{Progress: a.err}
	var token string
	var answers []string
	cmd := &cobra.Command{
		Use: "simulate", Short: "Act as Bitbucket against a running service on this machine", Args: cobra.NoArgs,
		Long: "Plays Bitbucket Cloud against a running `trakr serve --dev`: installs, re-installs, reads, replays,\n" +
			"forgeries, dropped callbacks and uninstalls of invented workspaces, with a Bitbucket API of its own on\n" +
			"this machine so that the service's proof of possession is real. Exits 1 when the service accepted or\n" +
			"refused something it should not have.\n\n" +
			"With --stay its Bitbucket API goes on answering after the story, so that the liveness sweep can ask:\n" +
			"workspaces whose uninstall was dropped are not known there, and --answer lets it say something else\n" +
			"about one of the others. Workspaces count from 1: first those that uninstall, then those dropped.\n\n" +
			"Reads need a token; without --token one for 15 minutes is made beside the running service.",
		Example: "  trakr simulate --installs 5 --uninstalls 2\n" +
			"  trakr simulate --installs 200 --uninstalls 200 --reads 1000 --forgeries 10 --json\n" +
			"  trakr simulate --installs 5 --uninstalls 1 --drops 1 --answer 3=404@24h --answer 4=500 --stay 168h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			cfg, err := a.config(true)
			if err != nil {
				return err
			}
			for flag, to := range map[string]struct {
				value *string
				is    string
			}{"target": {&c.Target, "http://" + cfg.Listen}, "admin": {&c.Admin, "http://" + cfg.AdminListen}, "api": {&c.API, strings.TrimPrefix(cfg.BitbucketAPIURL, "http://")}} {
				if !cmd.Flags().Changed(flag) {
					*to.value = to.is
				}
			}
			c.Token = lifecycle.NewSecret(token)
			if token == "" && c.Reads > 0 {
				t, err := a.simulationToken(ctx)
				if err != nil {
					return err
				}
				c.Token = t
			}
			if f, ok := a.err.(*os.File); ok {
				c.Terminal = term.IsTerminal(int(f.Fd()))
			}
			for _, s := range answers {
				x, err := simulate.ParseAnswer(s)
				if err != nil {
					return usageError{err}
				}
				c.Answers = append(c.Answers, x)
			}
			show := func(sum simulate.Summary) error {
				if a.json {
					return a.printJSON(sum)
				}
				sum.WriteTable(a.out)
				return nil
			}
			c.Staying = func(sum simulate.Summary) {
				_ = show(sum) // a terminal that is gone does not end the simulation
				fmt.Fprintf(a.err, "\nThe simulated Bitbucket API answers on %s for %s, or until Ctrl-C. In another shell:\n  TRAKR_BITBUCKET_API_URL=http://%s trakr sweep run liveness\n", c.API, c.Stay, c.API)
			}
			sum, err := simulate.Run(ctx, c)
			if err != nil {
				return err
			}
			if c.Stay == 0 {
				err = show(sum)
			}
			if err == nil && !sum.OK() {
				err = errFinding
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Target, "target", "", "public address of the service (default: TRAKR_LISTEN)")
	f.StringVar(&c.Admin, "admin", "", "private address of the service, for reads (default: TRAKR_ADMIN_LISTEN)")
	f.StringVar(&c.API, "api", "", "where the simulated Bitbucket API answers (default: TRAKR_BITBUCKET_API_URL, else 127.0.0.1:8090)")
	f.StringVar(&token, "token", "", "bearer token of role service")
	f.IntVar(&c.Installs, "installs", 5, "workspaces that install")
	f.IntVar(&c.Uninstalls, "uninstalls", 2, "workspaces that uninstall")
	f.IntVar(&c.Reads, "reads", 10, "audited reads")
	f.IntVar(&c.Repeats, "repeats", 2, "installs repeated with a new secret")
	f.IntVar(&c.Replays, "replays", 2, "deliveries sent twice")
	f.IntVar(&c.Forgeries, "forgeries", 9, "callbacks that must be refused")
	f.IntVar(&c.Drops, "drops", 1, "workspaces whose uninstall is never delivered")
	f.StringArrayVar(&answers, "answer", nil, "what the API says about a workspace after the story: WORKSPACE=STATUS[@DURATION], e.g. 3=404@24h")
	f.DurationVar(&c.Stay, "stay", 0, "how long the API goes on answering after the story, e.g. 168h")
	f.IntVar(&c.Concurrency, "concurrency", 4, "callbacks at a time")
	return cmd
}

// simulationToken makes a short-lived token beside the running service.
func (a *app) simulationToken(ctx context.Context) (lifecycle.Secret, error) {
	s, err := a.open(ctx)
	if err != nil {
		return lifecycle.Secret{}, err
	}
	defer s.close()
	why := reasonFlags{code: string(lifecycle.ServiceOperation)}
	t, _, err := s.tokens.Create(ctx, why.access(), lifecycle.RoleService, "simulate", 15*time.Minute)
	return t, err
}
