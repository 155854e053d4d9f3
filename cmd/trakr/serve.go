package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"trakr/internal/app"
	"trakr/internal/platform/config"
)

func (a *cli) serveCommand() *cobra.Command {
	var dev bool
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve Bitbucket's callbacks, the API and the scheduled sweeps",
		Long: "Serves the public listener (descriptor, callbacks) and the private one (API, /readyz, /metrics),\n" +
			"and runs the sweeps of the policy. Without TRAKR_DATABASE_URL it runs a private PostgreSQL of its\n" +
			"own in TRAKR_DATA_DIR. Ends orderly on Ctrl-C or SIGTERM and leaves no process behind.",
		Example: "  trakr serve --dev                 # on a laptop; Bitbucket's API is `trakr simulate`\n" +
			"  TRAKR_BASE_URL=https://trakr.example.com TRAKR_DATABASE_URL=postgres://… trakr serve",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.serve(c.Context(), dev) },
	}
	c.Flags().BoolVar(&dev, "dev", false, "defaults for a laptop: Bitbucket's API is expected at "+config.DevBitbucketAPI)
	return c
}

// serve runs until ctx ends or something that the service depends on fails.
func (a *cli) serve(ctx context.Context, dev bool) (err error) {
	cfg, err := a.config(dev)
	if err != nil {
		return err
	}
	s, err := app.Open(ctx, a.options(app.Serve, cfg))
	if errors.Is(err, app.ErrStopped) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	a.notice(s)
	return s.Serve(ctx)
}

// simulateFlags are what simulate needs where the addresses are not the default.
func simulateFlags(c config.Config) string {
	if c.Listen == config.DefaultListen && c.AdminListen == config.DefaultAdminListen && c.BitbucketAPIURL == config.DevBitbucketAPI {
		return ""
	}
	return fmt.Sprintf(" --target http://%s --admin http://%s --api %s", c.Listen, c.AdminListen,
		strings.TrimPrefix(c.BitbucketAPIURL, "http://"))
}

// notice shows the person who started the service where it is, what is for
// development only, and what to do next.
func (a *cli) notice(s *app.App) {
	dev := s.Config.Dev
	p := func(format string, args ...any) { fmt.Fprintf(a.out, format+"\n", args...) }
	p("")
	p("Trakr data lifecycle %s", toolVersion())
	p("  public   http://%s   descriptor, callbacks", s.Config.Listen)
	p("  private  http://%s   API, /openapi.json, /readyz, /metrics", s.Config.AdminListen)
	dir, version := s.PrivatePostgres()
	if dir != "" {
		p("  data     %s   private PostgreSQL %s", dir, version)
	}
	if s.KeysGenerated {
		p("  keys     %s   just generated, mode 0600: without this file nothing can be read again", s.Config.Keys.Reveal())
	}
	if dev {
		p("")
		p("For development only:")
		p("  - the base URL is %s: Bitbucket itself could not call it", s.Config.BaseURL)
		p("  - first installs are proven against %s, not against Bitbucket", s.Config.BitbucketAPIURL)
		if dir != "" {
			p("  - keys and database are on the same disk (%s); production keeps them apart", filepath.Clean(s.Config.DataDir))
		}
	}
	if s.Config.DevSkipProof {
		p("  - TRAKR_DEV_SKIP_PROOF is on: anyone who reaches this address can install")
	}
	if dev {
		p("")
		p("Next, in a second shell:")
		p("  bin/trakr simulate --installs 5 --uninstalls 2%s", simulateFlags(s.Config))
	}
	p("")
}
