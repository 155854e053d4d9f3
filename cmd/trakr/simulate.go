package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"trakr/internal/app"
	"trakr/internal/egress/webhook"
	"trakr/internal/lifecycle"
	"trakr/internal/platform/config"
	"trakr/internal/simulate"
)

func (a *cli) simulateCommand() *cobra.Command {
	c := simulate.Config{Progress: a.err}
	var token string
	var answers []string
	cmd := &cobra.Command{
		Use: "simulate", Short: "Act as Bitbucket against a running service on this machine", Args: cobra.NoArgs,
		Long: "Plays Bitbucket Cloud against a running `trakr serve --dev`: installs, re-installs, reads, calls, replays,\n" +
			"forgeries, dropped callbacks and uninstalls of invented workspaces, with a Bitbucket API of its own on\n" +
			"this machine so that the service's proof of possession is real. Exits 1 when the service accepted or\n" +
			"refused something it should not have.\n\n" +
			"With --stay its Bitbucket API continues to answer after the story, so that the liveness sweep can ask:\n" +
			"workspaces whose uninstall was dropped are not known there, and --answer lets it answer otherwise\n" +
			"about one of the others. Workspaces count from 1: first those that uninstall, then those dropped.\n\n" +
			"Reads and calls need a token of the service; without --token one for 15 minutes is made beside the running service.",
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
			}{"target": {&c.Target, "http://" + cfg.Listen}, "admin": {&c.Admin, "http://" + cfg.AdminListen},
				"api": {&c.API, strings.TrimPrefix(cfg.BitbucketAPIURL, "http://")}} {
				if !cmd.Flags().Changed(flag) {
					*to.value = to.is
				}
			}
			c.Token = lifecycle.NewSecret(token)
			if token == "" && c.Reads+c.Tokens > 0 {
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
				_ = show(sum) // a closed terminal does not end the simulation
				fmt.Fprintf(a.err, "\nThe simulated Bitbucket API answers on %s for %s, or until Ctrl-C. In another shell:\n  "+
					"TRAKR_BITBUCKET_API_URL=http://%s trakr sweep run liveness\n", c.API, c.Stay, c.API)
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
	f.StringVar(&c.Admin, "admin", "", "private address of the service, for reads and calls (default: TRAKR_ADMIN_LISTEN)")
	f.StringVar(&c.API, "api", "", "where the simulated Bitbucket API answers (default: TRAKR_BITBUCKET_API_URL, else 127.0.0.1:8090)")
	f.StringVar(&token, "token", "", "bearer token of role service")
	f.IntVar(&c.Installs, "installs", 5, "workspaces that install")
	f.IntVar(&c.Uninstalls, "uninstalls", 2, "workspaces that uninstall")
	f.IntVar(&c.Reads, "reads", 10, "audited reads")
	f.IntVar(&c.Tokens, "tokens", 4, "tokens to call Bitbucket with: signed for one request, and access tokens, in turn; each is used")
	f.IntVar(&c.Repeats, "repeats", 2, "installs repeated with a new secret")
	f.IntVar(&c.Replays, "replays", 2, "deliveries sent twice")
	f.IntVar(&c.Forgeries, "forgeries", 9, "callbacks that must be refused")
	f.IntVar(&c.Drops, "drops", 1, "workspaces whose uninstall is never delivered")
	f.StringArrayVar(&answers, "answer", nil, "what the API answers about a workspace after the story: "+
		"WORKSPACE=STATUS[@DURATION], e.g. 3=404@24h")
	f.DurationVar(&c.Stay, "stay", 0, "how long the API continues to answer after the story, e.g. 168h")
	f.IntVar(&c.Concurrency, "concurrency", 4, "callbacks at a time")
	cmd.AddCommand(a.receiverCommand())
	return cmd
}

// simulationToken makes a short-lived token beside the running service.
func (a *cli) simulationToken(ctx context.Context) (lifecycle.Secret, error) {
	s, err := a.open(ctx, app.Command)
	if err != nil {
		return lifecycle.Secret{}, err
	}
	defer func() { _ = s.Close() }()
	why := reasonFlags{code: string(lifecycle.ServiceOperation)}
	t, _, err := s.Tokens.Create(ctx, why.access(), lifecycle.RoleService, "simulate", 15*time.Minute)
	return t, err
}

// receiverCommand is a small end service of its own, to try the outbox against.
func (a *cli) receiverCommand() *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use: "receiver", Short: "Act as the end service on this machine", Args: cobra.NoArgs,
		Long: "Takes the events that the service sends to its end service, verifies their signatures, keeps what they\n" +
			"disclose in memory, deletes it at the notice of an erasure, and answers what it has of a tenant.\n" +
			"Its key is TRAKR_END_SERVICE_SECRET, else one for development that everybody knows.",
		Example: "  trakr simulate receiver\n" +
			"  TRAKR_END_SERVICE_URL=http://127.0.0.1:8091" + simulate.EventsPath + " TRAKR_END_SERVICE_SECRET=" +
			simulate.DevEndSecret + " trakr serve --dev\n" +
			"  curl -d '{\"tenant_id\":\"5f0c1f2e-8d7a-4c7e-9a52-0d9f6f4f4a11\"}' http://127.0.0.1:8091/holds",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !config.Loopback("http://" + listen) {
				return usageError{errors.New("--listen is an address of this machine, such as 127.0.0.1:8091")}
			}
			secret := lifecycle.NewSecret(simulate.DevEndSecret)
			for _, v := range a.environ {
				if given, ok := strings.CutPrefix(v, "TRAKR_END_SERVICE_SECRET="); ok && given != "" {
					secret = lifecycle.NewSecret(given)
				}
			}
			key, err := webhook.ParseKey(secret)
			if err != nil {
				return usageError{fmt.Errorf("TRAKR_END_SERVICE_SECRET %w", err)}
			}
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return app.InUse("--listen", err)
			}
			r := simulate.NewReceiver(key, a.now)
			srv := &http.Server{Handler: r, ReadHeaderTimeout: 5 * time.Second}
			ended := make(chan error, 1)
			go func() { ended <- srv.Serve(l) }()
			fmt.Fprintf(a.err, "The simulated end service takes events at http://%s%s until Ctrl-C.\n", l.Addr(), simulate.EventsPath)
			select {
			case err := <-ended:
				return err
			case <-cmd.Context().Done():
			}
			stop, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			err = srv.Shutdown(stop)
			received := r.Received()
			if a.json {
				return errors.Join(err, a.printJSON(received))
			}
			_, werr := fmt.Fprintf(a.out, "%+v\n", received)
			return errors.Join(err, werr)
		},
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:8091", "address on this machine")
	return c
}
