package main

import (
	"context"
	"encoding/json"
	"os"
	"runtime/debug"
	"strconv"

	"github.com/spf13/cobra"

	"trakr/internal/app"
	"trakr/internal/lifecycle"
	"trakr/internal/platform/config"
)

// version is set by the linker; a plain build takes it from the build's record.
var version = ""

func toolVersion() string {
	if version != "" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "(devel)"
}

func (a *cli) config(dev bool) (config.Config, error) {
	c, err := config.Load(a.environ, dev)
	if err != nil {
		return c, usageError{err}
	}
	return c, nil
}

// options are the options of every command that opens the service.
func (a *cli) options(mode app.Mode, cfg config.Config) app.Options {
	return app.Options{Mode: mode, Config: cfg, Environ: a.environ, Version: toolVersion(), Now: a.now, Logs: a.err, AfterStep: a.afterStep}
}

// open opens the service for a command: on the configured database, or on the private
// PostgreSQL, which a running service lends and which otherwise runs for the time of the
// command.
func (a *cli) open(ctx context.Context, mode app.Mode) (*app.App, error) {
	cfg, err := a.config(false)
	if err != nil {
		return nil, err
	}
	return app.Open(ctx, a.options(mode, cfg))
}

// with opens the service for the time of one command.
func (a *cli) with(mode app.Mode, do func(ctx context.Context, s *app.App, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		s, err := a.open(c.Context(), mode)
		if err != nil {
			return err
		}
		defer func() { _ = s.Close() }()
		return do(c.Context(), s, args)
	}
}

// reasonFlags are why the operator acts.
type reasonFlags struct{ code, ref string }

func (r *reasonFlags) register(c *cobra.Command, fallback lifecycle.ReasonCode) {
	c.Flags().StringVar(&r.code, "reason-code", string(fallback), "why, a reason code of the policy")
	completeFlag(c, "reason-code", oneOf(lifecycle.ReasonCodes()...))
	r.ticket(c)
}

// ticket registers the ticket alone, where the code is given by the act.
func (r *reasonFlags) ticket(c *cobra.Command) {
	c.Flags().StringVar(&r.ref, "reason-ref", "", "ticket this is done for, e.g. OPS-12")
}

// access is the operator at the command line: the system's user by number.
func (r *reasonFlags) access() lifecycle.Access {
	return lifecycle.Access{
		Caller: lifecycle.Caller{Type: lifecycle.ActorOperator, ID: "uid:" + strconv.Itoa(os.Getuid()), Role: lifecycle.RoleOperator},
		Reason: lifecycle.Reason{Code: lifecycle.ReasonCode(r.code), Ref: r.ref}, RequestID: "cli",
	}
}

// printJSON prints for programs.
func (a *cli) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
