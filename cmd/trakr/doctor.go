package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"trakr/internal/app"
	"trakr/internal/check"
)

// finding is one self-check in JSON.
type finding struct {
	Check  string      `json:"check"`
	State  check.State `json:"state"`
	Detail string      `json:"detail,omitempty"`
}

func (a *cli) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check the controls the promises rest on", Args: cobra.NoArgs,
		Long: "Checks settings, keys, the database's guards, its schema, proof of possession and the sweeps;\n" +
			"and what Atlassian's Marketplace requires of an app, by asking the service's own handlers in this process:\n" +
			"forged callbacks are refused like a stranger's, and recorded as such.\n" +
			"States: pass, fail, warn (a person answers for it), unknown (cannot tell).\nExits 0 when all pass, 1 when one fails, 3 when one cannot be told.",
		Example: "  trakr doctor\n  trakr doctor --json",
		RunE:    func(c *cobra.Command, _ []string) error { return a.doctor(c.Context()) },
	}
}

func (a *cli) doctor(ctx context.Context) error {
	cfg, err := a.config(false)
	if err != nil {
		return err
	}
	found := app.Doctor(ctx, a.options(app.Inspect, cfg))
	count := map[check.State]int{}
	for _, r := range found {
		count[r.State]++
	}
	if a.json {
		list := make([]finding, len(found))
		for i, r := range found {
			list[i] = finding{r.Title, r.State, r.Detail()}
		}
		err = a.printJSON(map[string]any{"checks": list, "failed": count[check.Fail], "unknown": count[check.Unknown]})
	} else {
		err = a.table("STATE\tCHECK\tDETAIL", func(line func(...any)) {
			for _, r := range found {
				line(r.State, r.Title, r.Detail())
			}
		})
	}
	switch {
	case err != nil:
		return err
	case count[check.Fail] > 0:
		return errFinding
	case count[check.Unknown] > 0:
		return fmt.Errorf("%d check(s) could not be made", count[check.Unknown])
	}
	return nil
}
