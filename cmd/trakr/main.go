// Command trakr runs and operates Trakr's data-lifecycle service. Each command
// is parsed here, wired from the packages under internal, and reports how it
// ended by its exit code: 0 clean, 1 a finding, 2 wrong usage, 3 could not be determined.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"trakr/internal/lifecycle"
	"trakr/policy"
)

// Exit codes.
const (
	exitClean      = 0
	exitFinding    = 1
	exitUsage      = 2
	exitCannotTell = 3
)

// errFinding ends a command that did its work and found something wrong.
var errFinding = errors.New("finding")

// usageError is a command line that cannot be carried out.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// cli is what every command shares.
type cli struct {
	in       io.Reader
	out, err io.Writer
	environ  []string
	now      func() time.Time
	json     bool

	afterStep func(step string) // for tests that end the process after a step; see app.Options
}

func main() { mainWith(func(string) {}) }

// mainWith is main; afterStep is app.Options.AfterStep.
func mainWith(afterStep func(step string)) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	a := &cli{in: os.Stdin, out: os.Stdout, err: os.Stderr, environ: os.Environ(), now: time.Now, afterStep: afterStep}
	context.AfterFunc(ctx, func() { // a second signal ends the program at once
		second := make(chan os.Signal, 1)
		signal.Notify(second, os.Interrupt, syscall.SIGTERM)
		<-second
		os.Exit(exitCannotTell)
	})
	code := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// run executes one command line and returns its exit code.
func (a *cli) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return exitClean
	case errors.Is(err, errFinding):
		return exitFinding
	case errors.As(err, &usage), errors.As(err, new(*policy.Error)):
		fmt.Fprintln(a.err, "trakr:", err)
		return exitUsage
	}
	f := lifecycle.AsFault(err)
	if f.Kind == lifecycle.Internal {
		fmt.Fprintln(a.err, "trakr:", err)
	} else {
		fmt.Fprintln(a.err, "trakr:", f.Detail)
	}
	switch f.Kind {
	case lifecycle.RequestInvalid, lifecycle.ReasonRequired, lifecycle.NotFound:
		return exitUsage
	case lifecycle.TenantUnknown, lifecycle.TenantErased, lifecycle.RequestConflict, lifecycle.SamePerson, lifecycle.OnHold:
		return exitFinding
	}
	return exitCannotTell
}

func (a *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "trakr",
		Short: "Proves what Trakr's security statement promises about Bitbucket tenants",
		Long: "trakr keeps the few fields the security statement names of a Bitbucket tenant, records every\n" +
			"access to them, erases them at the uninstall, and proves it.\n\n" +
			"Settings come from the environment (TRAKR_…, OTEL_…); deploy/settings.md lists them.\n" +
			"Exit codes: 0 clean, 1 a finding, 2 wrong usage, 3 cannot tell.",
		SilenceErrors: true, SilenceUsage: true,
		Version: toolVersion(),
		Args:    cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("there is no command %q; see: trakr --help", args[0])}
			}
			return c.Help()
		},
	}
	root.SetVersionTemplate("{{.Version}}\n") // as `trakr version` prints it
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON for programs")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see: %s --help", err, c.CommandPath())}
	})
	root.AddCommand(a.serveCommand(), a.migrateCommand(), a.doctorCommand(), a.policyCommand(), a.simulateCommand(),
		a.sweepCommand(), a.findingCommand(),
		a.reportCommand(), a.auditCommand(), a.verifyCommand(), a.tenantCommand(), a.deletionCommand(), a.outboxCommand(),
		a.holdCommand(), a.tokenCommand(), a.keysCommand(), a.erasureCommand(), a.restoreCommand(), a.versionCommand())
	for _, c := range root.Commands() {
		strictArgs(c)
	}
	return root
}

// strictArgs makes a wrong number of arguments, or an unknown sub-command, a
// usage error with a way out.
func strictArgs(c *cobra.Command) {
	check := c.Args
	if check == nil {
		check = cobra.NoArgs
	}
	c.Args = func(c *cobra.Command, args []string) error {
		err := check(c, args)
		if err != nil && !errors.As(err, new(usageError)) {
			err = usageError{fmt.Errorf("%w; see: %s --help", err, c.CommandPath())}
		}
		return err
	}
	if c.HasSubCommands() && c.RunE == nil {
		c.RunE = func(c *cobra.Command, _ []string) error {
			return usageError{fmt.Errorf("%s needs a sub-command; see: %s --help", c.CommandPath(), c.CommandPath())}
		}
	}
	for _, sub := range c.Commands() {
		strictArgs(sub)
	}
}
