package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/metric"

	"trakr/internal/egress"
	"trakr/internal/endservice"
	"trakr/internal/leader"
	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/outbox"
	"trakr/internal/webhook"
	"trakr/policy"
)

// telling has what happens to tenants entered for the end service, where there is one.
// It comes before anything acts on a tenant.
func (s *service) telling() (err error) {
	if s.outbox, err = outbox.New(s.db, s.audit, s.keys); err != nil {
		return err
	}
	s.entered = make(chan struct{}, 1)
	if s.cfg.EndServiceURL == "" {
		return nil
	}
	if err := egress.Host(s.policy, policy.ToEndService, s.cfg.EndServiceURL); err != nil {
		return fmt.Errorf("TRAKR_END_SERVICE_URL: %w; correct it, or add the host under egress in the policy", err)
	}
	if s.guard, err = egress.New(s.policy, policy.ToEndService, s.cfg.BaseURL); err != nil {
		return fmt.Errorf("TRAKR_END_SERVICE_URL: %w", err)
	}
	s.door.Telling(s.guard, func() {
		select {
		case s.entered <- struct{}{}:
		default: // it is known already
		}
	})
	return nil
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
			return store.TryLease(ctx, s.db, "end service")
		}})
}

// tell runs the sender and wakes it after each commit that entered something.
func (s *service) tell(ctx context.Context, to *endservice.Sender) {
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.entered:
				to.Wake()
			}
		}
	}()
	to.Run(ctx)
}

// endServiceCheck says in doctor whether anybody is told.
func (s *service) endServiceCheck(ctx context.Context) []finding {
	const name = "the end service is told of installs and erasures"
	n, err := s.outbox.Counts(ctx)
	switch {
	case err != nil:
		return []finding{{name, "unknown", err.Error()}}
	case n.Dead+n.DeadNotices > 0:
		return []finding{{name, "fail", fmt.Sprintf("%d deliveries were not taken for days; see: trakr outbox list", n.Dead+n.DeadNotices)}}
	case s.guard == nil:
		return []finding{{name, "warn", "nobody is told: TRAKR_END_SERVICE_URL is not set. Certificates say so"}}
	}
	return []finding{{name, "pass", fmt.Sprintf("%d deliveries wait", n.Waiting)}}
}

func (a *app) outboxCommand() *cobra.Command {
	c := &cobra.Command{Use: "outbox", Short: "Look at what the end service is to be told, and have it tried again"}
	var all bool
	var limit int
	list := &cobra.Command{
		Use: "list", Short: "List deliveries that are not over, newest first", Args: cobra.NoArgs,
		Long:    "Shows what waits for the end service and what it did not take for five days (dead). Names of fields and ids only.\nExits 1 when something is dead.",
		Example: "  trakr outbox list\n  trakr outbox list --all --limit 20 --json",
		RunE: a.with(func(ctx context.Context, s *service, _ []string) error {
			found, err := s.outbox.List(ctx, !all, limit)
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(map[string]any{"deliveries": found})
			} else {
				err = a.table("DELIVERY\tTENANT\tKIND\tSTATE\tATTEMPTS\tLAST OUTCOME", func(line func(...any)) {
					for _, d := range found {
						line(d.ID, d.Tenant, d.Kind, d.State, d.Attempts, cmp.Or(d.LastOutcome, "–"))
					}
				})
			}
			for _, d := range found {
				if err == nil && d.State == outbox.Dead {
					err = errFinding
				}
			}
			return err
		}),
	}
	list.Flags().BoolVar(&all, "all", false, "also what is over")
	list.Flags().IntVar(&limit, "limit", 100, "at most so many")
	show := &cobra.Command{
		Use: "show ID", Short: "Show one delivery", Args: cobra.ExactArgs(1), Example: "  trakr outbox show 5f0c1f2e-8d7a-4c7e-9a52-0d9f6f4f4a11",
		RunE: a.with(func(ctx context.Context, s *service, args []string) error {
			d, err := s.outbox.Get(ctx, args[0])
			if err != nil {
				return err
			}
			return a.printJSON(d)
		}),
	}
	var why reasonFlags
	retry := &cobra.Command{
		Use: "retry ID", Short: "Have a delivery tried again now, for five more days; audited", Args: cobra.ExactArgs(1),
		Example: "  trakr outbox retry 5f0c1f2e-8d7a-4c7e-9a52-0d9f6f4f4a11 --reason-ref OPS-12",
		RunE: a.with(func(ctx context.Context, s *service, args []string) error {
			d, err := s.outbox.Retry(ctx, why.access(), args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(d)
			}
			_, err = fmt.Fprintf(a.out, "%s is tried again by the running service.\n", d.ID)
			return err
		}),
	}
	why.register(retry, lifecycle.ServiceOperation)
	c.AddCommand(list, show, retry)
	return c
}
