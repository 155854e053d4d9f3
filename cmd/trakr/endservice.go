package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/metric"

	"trakr/internal/delivery/endservice"
	"trakr/internal/egress"
	"trakr/internal/egress/webhook"
	"trakr/internal/lifecycle"
	"trakr/internal/schedule/leader"
	"trakr/internal/store"
	"trakr/internal/store/outbox"
	"trakr/internal/store/tenants"
)

// endService opens the outbox and returns the end service as the door announces to it;
// nil where none is configured.
func (s *service) endService() (_ *tenants.EndService, err error) {
	if s.outbox, err = outbox.New(s.db, s.audit, s.keys); err != nil || s.cfg.EndServiceURL == "" {
		return nil, err
	}
	if err := egress.Host(s.policy, lifecycle.ToEndService, s.cfg.EndServiceURL); err != nil {
		return nil, fmt.Errorf("TRAKR_END_SERVICE_URL: %w; correct it, or add the host under egress in the policy", err)
	}
	if s.guard, err = egress.New(s.policy, lifecycle.ToEndService, s.cfg.BaseURL); err != nil {
		return nil, fmt.Errorf("TRAKR_END_SERVICE_URL: %w", err)
	}
	return &tenants.EndService{Guard: s.guard, Outbox: s.outbox}, nil
}

// sender tells the end service; nil where there is none.
func (a *app) sender(s *service, meter metric.MeterProvider) (*endservice.Sender, error) {
	if s.guard == nil {
		return nil, nil
	}
	key, err := webhook.ParseKey(s.cfg.EndServiceSecret)
	if err != nil {
		return nil, err
	}
	return endservice.New(endservice.Config{Outbox: s.outbox, Guard: s.guard, URL: s.cfg.EndServiceURL, Key: key, Now: a.now, Log: s.log, Meter: meter,
		Notified: s.eraserBegun, // the certificate may have waited for it
		Lease: func(ctx context.Context) (leader.Lease, bool, error) {
			return store.TryLease(ctx, s.db, sendsLease)
		}})
}

// sendsLease is the lock of the replica that sends.
const sendsLease = "end service"

// nobodySends says, with the way out, that nobody sends; "" when a running service does.
// That is asked of its lock: the settings of a command need not be the service's.
func (s *service) nobodySends(ctx context.Context) (string, error) {
	lease, free, err := store.TryLease(ctx, s.db, sendsLease)
	if err != nil || !free {
		return "", err
	}
	lease.Release()
	if s.guard == nil {
		return "Nobody sends: no end service is configured. Set TRAKR_END_SERVICE_URL and TRAKR_END_SERVICE_SECRET for the service and start it: trakr serve", nil
	}
	return "Nobody sends: no running service has TRAKR_END_SERVICE_URL. Start one with it: trakr serve", nil
}

// endServiceCheck says in doctor whether anybody is told.
func (s *service) endServiceCheck(ctx context.Context) []finding {
	const name = "the end service is told of installs and erasures"
	n, err := s.outbox.Counts(ctx)
	if err != nil {
		return []finding{{name, "unknown", err.Error()}}
	}
	idle, err := s.nobodySends(ctx)
	switch {
	case err != nil:
		return []finding{{name, "unknown", err.Error()}}
	case n.Findings() > 0:
		detail := fmt.Sprintf("%d deliveries are dead, or not acknowledged for more than five days, %d of them notices of an erasure; see: trakr outbox list", n.Findings(), n.DeadNotices+n.OverdueNotices)
		return []finding{{name, "fail", strings.TrimSuffix(detail+". "+idle, ". ")}}
	case idle != "" && n.Waiting > 0:
		return []finding{{name, "warn", fmt.Sprintf("%d deliveries wait. %s", n.Waiting, idle)}}
	case s.guard == nil && idle != "":
		return []finding{{name, "warn", "nobody is told: TRAKR_END_SERVICE_URL is not set. Certificates say so"}}
	}
	return []finding{{name, "pass", fmt.Sprintf("%d deliveries wait", n.Waiting)}}
}

func (a *app) outboxCommand() *cobra.Command {
	c := &cobra.Command{Use: "outbox", Short: "Look at what the end service is to be told, have it tried again, or drop it",
		Example: "  trakr outbox list\n  trakr outbox retry --all-dead --reason-ref OPS-12"}
	c.AddCommand(a.outboxList(), a.outboxShow(), a.outboxRetry(), a.outboxDrop())
	return c
}

// shown is a delivery as outbox list has it in JSON.
type shown struct {
	outbox.Delivery
	Overdue bool `json:"overdue"`
}

func (a *app) outboxList() *cobra.Command {
	var all bool
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List deliveries that are not over, newest first", Args: cobra.NoArgs,
		Long: "Shows what waits for the end service and since when, and what is dead: not taken for five days, or refused by\n" +
			"the guard, because a value may not leave. Names of fields and ids only.\n" +
			"Says on standard error when nobody sends, and how that is mended.\n" +
			"Exits 1 when anything is dead, or was entered more than five days ago and is not acknowledged.",
		Example: "  trakr outbox list\n  trakr outbox list --all --limit 20 --json",
		RunE: a.with(func(ctx context.Context, s *service, _ []string) error {
			found, err := s.outbox.List(ctx, !all, limit)
			if err != nil {
				return err
			}
			n, err := s.outbox.Counts(ctx) // of all, not only of those that are listed
			if err != nil {
				return err
			}
			idle, err := s.nobodySends(ctx)
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

func (a *app) printDeliveries(found []outbox.Delivery, n outbox.Counts, idle string) error {
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

func (a *app) outboxShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show one delivery", Args: cobra.ExactArgs(1), Example: "  trakr outbox show " + exampleID,
		RunE: a.with(func(ctx context.Context, s *service, args []string) error {
			d, err := s.outbox.Get(ctx, args[0])
			if err != nil {
				return err
			}
			return a.printJSON(d)
		}),
	}
}

func (a *app) outboxRetry() *cobra.Command {
	var dead bool
	var why reasonFlags
	c := &cobra.Command{
		Use: "retry ID", Short: "Have a delivery tried again now, for five more days; audited", Args: cobra.MaximumNArgs(1),
		Long: "With --all-dead every dead one instead. One of whose tenant a later delivery was sent already is left: the\n" +
			"later one says all that it does, and must never come before it. So is one that the guard refused when it was\n" +
			"entered: nothing of it was kept, and it can only be dropped.",
		Example: "  trakr outbox retry " + exampleID + " --reason-ref OPS-12\n  trakr outbox retry --all-dead --reason-ref OPS-12",
		RunE: a.with(func(ctx context.Context, s *service, args []string) error {
			if dead == (len(args) == 1) {
				return usageError{errors.New("give an ID or --all-dead; see: trakr outbox retry --help")}
			}
			if !dead {
				d, err := s.outbox.Retry(ctx, why.access(), args[0])
				if err != nil {
					return err
				}
				return errors.Join(a.say(fmt.Sprintf("%s is tried again by the running service.", d.ID), d), a.warnIdle(ctx, s))
			}
			done, err := s.outbox.RetryDead(ctx, why.access())
			if err != nil {
				return err
			}
			return errors.Join(a.say(fmt.Sprintf("%d dead deliveries are tried again by the running service.", len(done)), map[string]any{"deliveries": done}), a.warnIdle(ctx, s))
		}),
	}
	c.Flags().BoolVar(&dead, "all-dead", false, "every dead delivery instead of one")
	why.register(c, lifecycle.ServiceOperation)
	return c
}

// warnIdle says on standard error when nobody sends.
func (a *app) warnIdle(ctx context.Context, s *service) error {
	idle, err := s.nobodySends(ctx)
	if err == nil && idle != "" {
		fmt.Fprintln(a.err, idle)
	}
	return err
}

func (a *app) say(words string, v any) error {
	if a.json {
		return a.printJSON(v)
	}
	_, err := fmt.Fprintln(a.out, words)
	return err
}

func (a *app) outboxDrop() *cobra.Command {
	var why reasonFlags
	c := &cobra.Command{
		Use: "drop ID", Short: "Close a delivery that is not taken, and forget its payload; audited, with a ticket", Args: cobra.ExactArgs(1),
		Long: "For an install or a change that the end service refuses, or that has waited for more than five days: it\n" +
			"will not be told. Had it been sent, those of its tenant before it are closed with it: they could not be sent any\n" +
			"more. The notice of an erasure is never dropped: have it tried again (trakr outbox retry) until the\n" +
			"end service itself acknowledges it.",
		Example: "  trakr outbox drop " + exampleID + " --reason-ref OPS-12",
		RunE: a.with(func(ctx context.Context, s *service, args []string) error {
			d, err := s.outbox.Drop(ctx, why.access(), args[0])
			if err != nil {
				return err
			}
			return a.say(fmt.Sprintf("%s is dropped: the end service is not told, and its payload is gone.", d.ID), d)
		}),
	}
	why.register(c, lifecycle.ServiceOperation)
	return c
}
