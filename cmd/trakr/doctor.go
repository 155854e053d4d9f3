package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"trakr/internal/app"
	"trakr/internal/check"
)

// selfCheck is one self-check in JSON.
type selfCheck struct {
	ID     string      `json:"id"`
	Check  string      `json:"check"`
	State  check.State `json:"state"`
	Detail string      `json:"detail,omitempty"`
}

func (a *cli) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check the controls the promises rest on", Args: cobra.NoArgs,
		Long: "Checks settings, keys, the database's guards, its schema, the erasure ledger, whether a service answers, and the\n" +
			"sweeps and jobs; and what Atlassian's Marketplace requires of an app, by asking the service's own handlers in\n" +
			"this process: forged callbacks are refused like a stranger's, and recorded as such.\n" +
			"Each check has a stable id; its first part is its group.\n" +
			"States: pass, fail, warn (a person decides), unknown (could not be checked).\n" +
			"Exits 0 when none fails and each could be checked, 1 when one fails, 3 when one is unknown.",
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
		list := make([]selfCheck, len(found))
		for i, r := range found {
			list[i] = selfCheck{r.ID, r.Title, r.State, r.Detail()}
		}
		err = a.printJSON(map[string]any{"checks": list, "failed": count[check.Fail], "unknown": count[check.Unknown]})
	} else {
		_, err = fmt.Fprintf(a.out, "%s\n%d checks: %d pass, %d warn, %d fail, %d unknown\n", groupedChecks(found),
			len(found), count[check.Pass], count[check.Warn], count[check.Fail], count[check.Unknown])
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

// groupedChecks prints checks by group: the state, the title with the id, and below them
// the evidence and the way out.
func groupedChecks(found []check.Result) string {
	const indent = "           " // as wide as the state's column
	var b strings.Builder
	group := ""
	for _, r := range found {
		if g, _, _ := strings.Cut(r.ID, "."); g != group {
			if group != "" {
				b.WriteByte('\n')
			}
			group = g
			fmt.Fprintln(&b, group)
		}
		title := wrap(r.Title+" ["+r.ID+"]", tableWidth-len(indent))
		fmt.Fprintf(&b, "  %-7s  %s\n", r.State, strings.Join(title, "\n"+indent))
		if d := r.Detail(); d != "" {
			fmt.Fprintln(&b, indent+strings.Join(wrap(d, tableWidth-len(indent)), "\n"+indent))
		}
	}
	return b.String()
}
