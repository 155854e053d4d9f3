package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"trakr/internal/app"
	"trakr/internal/lifecycle"
	"trakr/internal/store/outbox"
)

func (a *cli) outboxCommand() *cobra.Command {
	c := &cobra.Command{Use: "outbox", Short: "See deliveries to the end service, have them retried, or drop them",
		Example: "  trakr outbox list\n  trakr outbox retry --all-dead --reason-ref OPS-12"}
	for _, sub := range []*cobra.Command{a.outboxShow(), a.outboxRetry(), a.outboxDrop()} {
		sub.ValidArgsFunction = a.ids(deliveryIDs)
		c.AddCommand(sub)
	}
	c.AddCommand(a.outboxList())
	return c
}

// shown is a delivery as outbox list has it in JSON.
type shown struct {
	outbox.Delivery
	Overdue bool `json:"overdue"`
}

func (a *cli) outboxList() *cobra.Command {
	var all bool
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List deliveries that are not over, newest first", Args: cobra.NoArgs,
		Long: "Shows what waits for the end service and since when, and what is dead: not taken for five days, or refused by\n" +
			"the guard, because a value may not leave. Names of fields and ids only.\n" +
			"Reports on standard error when no service sends, and the way out.\n" +
			"Exits 1 when anything is dead, or was entered more than five days ago and is not acknowledged.",
		Example: "  trakr outbox list\n  trakr outbox list --all --limit 20 --json",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, _ []string) error {
			found, err := s.Outbox.List(ctx, !all, limit)
			if err != nil {
				return err
			}
			n, err := s.Outbox.Counts(ctx) // of all, not only of those that are listed
			if err != nil {
				return err
			}
			idle, err := s.NoSender(ctx)
			if err != nil {
				return err
			}
			if err := a.printDeliveries(found, n, idle); err != nil {
				return err
			}
			if n.Findings() > 0 {
				return errFinding
			}
			return nil
		}),
	}
	c.Flags().BoolVar(&all, "all", false, "also what is over")
	c.Flags().IntVar(&limit, "limit", 100, "at most so many")
	return c
}

func (a *cli) printDeliveries(found []outbox.Delivery, n outbox.Counts, idle string) error {
	now := a.now()
	if a.json {
		list := make([]shown, len(found))
		for i, d := range found {
			list[i] = shown{d, d.Overdue(now)}
		}
		return a.printJSON(map[string]any{"deliveries": list, "overdue": n.Findings(), "sent": idle == ""})
	}
	err := a.table("DELIVERY\tTENANT\tKIND\tSTATE\tWAITS\tATTEMPTS\tLAST OUTCOME", func(line func(...any)) {
		for _, d := range found {
			waits := "–"
			if d.ClosedAt == nil {
				waits = now.Sub(d.EnqueuedAt).Round(time.Minute).String()
				if d.Overdue(now) {
					waits += " OVERDUE"
				}
			}
			line(d.ID, d.Tenant, d.Kind, d.State, waits, d.Attempts, cmp.Or(d.LastOutcome, "–"))
		}
	})
	if open := n.Waiting + n.Dead + n.DeadNotices; idle != "" && open > 0 {
		fmt.Fprintf(a.err, "%d deliveries are open. %s\n", open, idle)
	}
	return err
}

func (a *cli) outboxShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show one delivery", Args: cobra.ExactArgs(1), Example: "  trakr outbox show " + exampleID,
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, args []string) error {
			d, err := s.Outbox.Get(ctx, args[0])
			if err != nil {
				return err
			}
			return a.printJSON(d)
		}),
	}
}

func (a *cli) outboxRetry() *cobra.Command {
	var dead bool
	var why reasonFlags
	c := &cobra.Command{
		Use: "retry ID", Short: "Have a delivery tried again now, for five more days; audited", Args: cobra.MaximumNArgs(1),
		Long: "With --all-dead every dead one instead. One of whose tenant a later delivery was sent already is left: the\n" +
			"later one contains all that it does, and must never come before it. So is one that the guard refused when it was\n" +
			"entered: nothing of it was kept, and it can only be dropped.",
		Example: "  trakr outbox retry " + exampleID + " --reason-ref OPS-12\n  trakr outbox retry --all-dead --reason-ref OPS-12",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, args []string) error {
			if dead == (len(args) == 1) {
				return usageError{errors.New("give an ID or --all-dead; see: trakr outbox retry --help")}
			}
			if !dead {
				d, err := s.Outbox.Retry(ctx, why.access(), args[0])
				if err != nil {
					return err
				}
				return errors.Join(a.report(fmt.Sprintf("%s is tried again by the running service.", d.ID), d), a.warnIdle(ctx, s))
			}
			done, err := s.Outbox.RetryDead(ctx, why.access())
			if err != nil {
				return err
			}
			return errors.Join(a.report(fmt.Sprintf("%d dead deliveries are tried again by the running service.", len(done)),
				map[string]any{"deliveries": done}), a.warnIdle(ctx, s))
		}),
	}
	c.Flags().BoolVar(&dead, "all-dead", false, "every dead delivery instead of one")
	why.register(c, lifecycle.ServiceOperation)
	return c
}

// warnIdle reports on standard error when no service sends.
func (a *cli) warnIdle(ctx context.Context, s *app.App) error {
	idle, err := s.NoSender(ctx)
	if err == nil && idle != "" {
		fmt.Fprintln(a.err, idle)
	}
	return err
}

// report prints an outcome for people, or v as JSON.
func (a *cli) report(text string, v any) error {
	if a.json {
		return a.printJSON(v)
	}
	_, err := fmt.Fprintln(a.out, text)
	return err
}

func (a *cli) outboxDrop() *cobra.Command {
	var why reasonFlags
	c := &cobra.Command{
		Use:   "drop ID",
		Short: "Close a delivery that is not taken, and forget its payload; audited, with a ticket",
		Args:  cobra.ExactArgs(1),
		Long: "For an install or a change that the end service refuses, or that has waited for more than five days: it\n" +
			"will not be told. Had it been sent, those of its tenant before it are closed with it: they could not be sent any\n" +
			"more. The notice of an erasure is never dropped: have it tried again (trakr outbox retry) until the\n" +
			"end service itself acknowledges it.",
		Example: "  trakr outbox drop " + exampleID + " --reason-ref OPS-12",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, args []string) error {
			d, err := s.Outbox.Drop(ctx, why.access(), args[0])
			if err != nil {
				return err
			}
			return a.report(fmt.Sprintf("%s is dropped: the end service is not told, and its payload is gone.", d.ID), d)
		}),
	}
	why.register(c, lifecycle.ServiceOperation)
	return c
}
