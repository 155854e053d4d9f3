package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"trakr/internal/app"
	"trakr/internal/lifecycle"
	"trakr/internal/proof/certificate"
	deletionrequests "trakr/internal/requests"
	"trakr/internal/store/holds"
	"trakr/internal/store/requests"
	"trakr/internal/store/tenants"
	"trakr/internal/view"
)

func (a *cli) deletionCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "deletion", Short: "Handle customers' deletion requests",
		Long: "Two people take a request from the ticket to the certificate: one enters it, another approves it,\n" +
			"and after the policy's cooling-off the running service carries it out, verifies and certifies it.\n" +
			"At the command line a person is the system's user, by number; with the API it is the token.",
		Example: "  trakr deletion request --client-key - --reason-ref SUP-1234\n" +
			"  trakr deletion approve 01a20e98-a0d9-7be0-acd3-8cea525129a5 --reason-ref SUP-1234\n" +
			"  trakr deletion list --overdue",
	}
	c.AddCommand(a.deletionRequest(), a.deletionList(), a.deletionShow(), a.deletionCertificate(), a.deletionDeny(), a.deletionHold(),
		a.deletionAct("identify", "Record that the customer itself asked, where the policy wants that in a step of its own",
			lifecycle.CustomerRequestFulfilment, (*deletionrequests.Service).Identify),
		a.deletionAct("approve", "Approve a request that another person entered", lifecycle.CustomerRequestFulfilment,
			(*deletionrequests.Service).Approve),
		a.deletionAct("cancel", "Withdraw a request before its erasure begins", lifecycle.CustomerRequestFulfilment,
			(*deletionrequests.Service).Cancel),
		a.deletionAct("release", "Release every legal hold that keeps the request's tenant", lifecycle.LegalRequest,
			(*deletionrequests.Service).Release))
	return c
}

// exampleID is the id in examples.
const exampleID = "01a20e98-a0d9-7be0-acd3-8cea525129a5"

func (a *cli) deletionRequest() *cobra.Command {
	var clientKey, workspace, submitted string
	var why reasonFlags
	c := &cobra.Command{
		Use: "request", Short: "Enter a customer's deletion request; shows what would be deleted", Args: cobra.NoArgs,
		Long: "Looks the tenant up (audited, by keyed digest) and enters the request under the customer's ticket. The\n" +
			"client key or workspace is not kept; give it on standard input so that it does not stay in the shell's\n" +
			"history. Nothing held, and already erased, are successes with a certificate.",
		Example: "  trakr deletion request --client-key - --reason-ref SUP-1234\n" +
			"  trakr deletion request --workspace-uuid - --reason-ref SUP-1234 --submitted 2026-11-20T09:00:00Z --json",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, _ []string) error {
			key, err := a.secretFlag(clientKey)
			if err != nil {
				return err
			}
			ws, err := a.secretFlag(workspace)
			if err != nil {
				return err
			}
			subject, err := tenants.ParseSubject(key, ws)
			if err != nil {
				return err
			}
			at, err := timeFlag("--submitted", submitted)
			if err != nil {
				return err
			}
			r, err := s.Deletions.Request(ctx, why.access(), subject, at)
			return a.printDeletion(ctx, s, r, err)
		}),
	}
	c.Flags().StringVar(&clientKey, "client-key", "", "the client key, or - to read it from standard input")
	c.Flags().StringVar(&workspace, "workspace-uuid", "", "the workspace's uuid, or - to read it from standard input")
	c.Flags().StringVar(&submitted, "submitted", "", "when the customer asked, RFC 3339 (default now): the request is due from here")
	why.register(c, lifecycle.CustomerRequestFulfilment)
	return c
}

func timeFlag(name, value string) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return t, usageError{fmt.Errorf("%s is a time such as 2026-11-24T12:00:00Z", name)}
	}
	return t, nil
}

func (a *cli) deletionList() *cobra.Command {
	var overdue, all bool
	var state string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List open requests; --overdue exits 1 when there is one", Args: cobra.NoArgs,
		Example: "  trakr deletion list --all\n  trakr deletion list --state awaiting_approval\n  trakr deletion list --overdue --json",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, _ []string) error {
			if state != "" && !slices.Contains(lifecycle.RequestStates(), lifecycle.RequestState(state)) {
				return usageError{errors.New("--state is one of those that trakr deletion list --all shows")}
			}
			list, err := s.Deletions.List(ctx, requests.Filter{State: lifecycle.RequestState(state), Open: !all && state == "",
				Limit: limit}, overdue)
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(map[string]any{"requests": view.NewListedRequests(list)})
			} else {
				err = a.table("REQUEST\tSTATE\tTICKET\tTENANT\tRECEIVED\tDUE\tOVERDUE", func(line func(...any)) {
					for _, r := range list {
						tenant := "-"
						if r.TenantID != nil {
							tenant = *r.TenantID
						}
						late := "-"
						if r.Overdue {
							late = "OVERDUE"
						}
						line(r.ID, r.State, r.Ticket, tenant, r.ReceivedTime, r.ExpectedCompletionTime, late)
					}
				})
			}
			if err == nil && overdue && len(list) > 0 {
				return errFinding
			}
			return err
		}),
	}
	c.Flags().BoolVar(&overdue, "overdue", false, "only open requests past their due time, the longest overdue first")
	c.Flags().BoolVar(&all, "all", false, "those that ended too")
	c.Flags().StringVar(&state, "state", "", "only this state, e.g. awaiting_approval")
	completeFlag(c, "state", oneOf(lifecycle.RequestStates()...))
	c.Flags().IntVar(&limit, "limit", 100, "at most this many")
	return c
}

func (a *cli) deletionShow() *cobra.Command {
	return &cobra.Command{
		ValidArgsFunction: a.ids(requestIDs),
		Use:               "show ID", Short: "Show a request, its history and what is held of the tenant now", Args: cobra.ExactArgs(1),
		Example: "  trakr deletion show " + exampleID,
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, args []string) error {
			return a.printDeletion(ctx, s, requests.Request{ID: args[0]}, nil)
		}),
	}
}

// deletionAct is an act that needs nothing but the request.
func (a *cli) deletionAct(name, short string, code lifecycle.ReasonCode,
	do func(*deletionrequests.Service, context.Context, lifecycle.Access, string) (requests.Request, error)) *cobra.Command {
	var why reasonFlags
	c := &cobra.Command{
		Use: name + " ID", Short: short, Args: cobra.ExactArgs(1),
		Example: "  trakr deletion " + name + " " + exampleID + " --reason-ref SUP-1234",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, args []string) error {
			r, err := do(s.Deletions, ctx, why.access(), args[0])
			return a.printDeletion(ctx, s, r, err)
		}),
	}
	why.register(c, code)
	c.ValidArgsFunction = a.ids(requestIDs)
	return c
}

func (a *cli) deletionDeny() *cobra.Command {
	var ground string
	var why reasonFlags
	c := &cobra.Command{
		Use: "deny ID", Short: "Deny a request that is not approved yet, on a ground", Args: cobra.ExactArgs(1),
		Example: "  trakr deletion deny " + exampleID + " --ground identity_not_proven --reason-ref SUP-1234",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, args []string) error {
			r, err := s.Deletions.Deny(ctx, why.access(), args[0], requests.Ground(ground))
			return a.printDeletion(ctx, s, r, err)
		}),
	}
	c.Flags().StringVar(&ground, "ground", "", deletionrequests.Grounds())
	completeFlag(c, "ground", oneOf(requests.Grounds()...))
	c.ValidArgsFunction = a.ids(requestIDs)
	why.register(c, lifecycle.CustomerRequestFulfilment)
	return c
}

func (a *cli) deletionHold() *cobra.Command {
	var ground, until string
	var why reasonFlags
	c := &cobra.Command{
		Use: "hold ID", Short: "Place a legal hold on the request's tenant; the request waits", Args: cobra.ExactArgs(1),
		Example: "  trakr deletion hold " + exampleID + " --ground legal_claim --until 2027-01-31T00:00:00Z --reason-ref LEG-7",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, args []string) error {
			at, err := timeFlag("--until", until)
			if err != nil {
				return err
			}
			r, err := s.Deletions.Hold(ctx, why.access(), args[0], holds.Ground(ground), at)
			return a.printDeletion(ctx, s, r, err)
		}),
	}
	registerHold(c, &ground, &until)
	c.ValidArgsFunction = a.ids(requestIDs)
	why.register(c, lifecycle.LegalRequest)
	return c
}

func registerHold(c *cobra.Command, ground, until *string) {
	c.Flags().StringVar(ground, "ground", "", "legal_obligation, legal_claim, authority_order or restriction")
	completeFlag(c, "ground", oneOf(holds.Grounds()...))
	c.Flags().StringVar(until, "until", "", "when it ends, RFC 3339; the policy bounds it")
}

func (a *cli) deletionCertificate() *cobra.Command {
	var format, out string
	c := &cobra.Command{
		Use: "certificate ID", Short: "Write the certificate of a completed request", Args: cobra.ExactArgs(1),
		Long:    "Writes the certificate of a completed request. It is checked offline with: trakr verify FILE --key KEY",
		Example: "  trakr deletion certificate " + exampleID + " --format pdf --out certificate.pdf",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, args []string) error {
			if !slices.Contains([]string{"json", "html", "pdf"}, format) {
				return usageError{errors.New("--format is one of json, html, pdf")}
			}
			why := reasonFlags{code: string(lifecycle.CustomerRequestFulfilment)}
			b, _, err := s.Deletions.Certificate(ctx, why.access(), args[0], format)
			if err != nil {
				return err
			}
			return a.write(out, b)
		}),
	}
	c.Flags().StringVar(&format, "format", "json", "json, html or pdf")
	completeFlag(c, "format", oneOf(certificate.Formats()...))
	c.ValidArgsFunction = a.ids(requestIDs)
	c.Flags().StringVar(&out, "out", "-", "file to write, or - for standard output")
	return c
}

// printDeletion prints a request after an act, or the act's refusal.
func (a *cli) printDeletion(ctx context.Context, s *app.App, r requests.Request, err error) error {
	if err != nil {
		return err
	}
	shown, err := s.Deletions.Show(ctx, r.ID)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(view.NewRequestDetail(shown))
	}
	if err := a.printRequest(shown); err != nil {
		return err
	}
	if len(shown.Preview) > 0 {
		fmt.Fprintln(a.out)
		err = a.table("TABLE\tROWS\tBECOMES", func(line func(...any)) {
			for _, c := range shown.Preview {
				rows := any("?")
				if c.Rows != nil {
					rows = *c.Rows
				}
				becomes := c.Becomes
				if c.Ground != "" {
					becomes += ": " + c.Ground
				}
				line(c.Table, rows, becomes)
			}
		})
	}
	fmt.Fprintln(a.out)
	return errors.Join(err, a.table("AT\tSTATE\tBY\tTICKET", func(line func(...any)) {
		for _, e := range shown.History {
			line(e.At, e.To, e.By, dash(e.Ref))
		}
	}))
}

// printRequest prints what is known of a request, one fact a line.
func (a *cli) printRequest(r deletionrequests.Shown) error {
	return a.table("REQUEST\t"+r.ID, func(line func(...any)) {
		line("state", r.State)
		line("ticket", r.Ticket)
		line("entered by", r.RequestedBy)
		line("due", r.ExpectedCompletionTime)
		for _, f := range []struct {
			name  string
			value *string
		}{{"tenant", r.TenantID}, {"approved by", r.ApprovedBy}, {"ground", (*string)(r.Ground)},
			{"duplicate of", r.ExistingRequestID}, {"erasure", r.ErasureID}, {"certificate", r.CertificateID}} {
			if f.value != nil {
				line(f.name, *f.value)
			}
		}
		for _, f := range []struct {
			name string
			at   *time.Time
		}{{"not before", r.NotBefore}, {"tried again", r.RetryAt}, {"gone from live", r.DeletedLiveAt},
			{"gone from backups after", r.BackupsClearAfter}, {"verified", r.VerifiedAt}} {
			if f.at != nil {
				line(f.name, *f.at)
			}
		}
		for _, h := range r.Holds {
			line("legal hold", strings.Join([]string{h.ID, string(h.Ground), h.Ref, "until " + h.Until.Format(time.RFC3339)}, " "))
		}
	})
}

func (a *cli) holdCommand() *cobra.Command {
	var ground, until string
	var why reasonFlags
	place := &cobra.Command{
		Use: "place TENANT", Short: "Hold a tenant's data back from deletion", Args: cobra.ExactArgs(1),
		Long: "While a hold is active nothing of the tenant is deleted, whatever asks for it: an uninstall, a request,\n" +
			"a period that ended. It takes a ground, an end and a ticket; another hold extends it.",
		Example: "  trakr hold place 5f0c1f2e-8d7a-4c7e-9a52-0d9f6f4f4a11 --ground legal_claim --until 2027-01-31T00:00:00Z " +
			"--reason-ref LEG-7",
		RunE: a.with(app.BeforeReplay, func(ctx context.Context, s *app.App, args []string) error {
			id, err := lifecycle.ParseTenantID(args[0])
			if err != nil {
				return usageError{err}
			}
			at, err := timeFlag("--until", until)
			if err != nil {
				return err
			}
			h, err := s.Holds.Place(ctx, why.access(), holds.Order{Tenant: id, Ground: holds.Ground(ground), Until: at})
			if err != nil {
				return err
			}
			return a.printHolds(h)
		}),
	}
	registerHold(place, &ground, &until)
	why.register(place, lifecycle.LegalRequest)
	var all bool
	var tenant string
	list := &cobra.Command{
		Use: "list", Short: "List active holds", Args: cobra.NoArgs,
		Example: "  trakr hold list --all",
		RunE: a.with(app.BeforeReplay, func(ctx context.Context, s *app.App, _ []string) error {
			var id lifecycle.TenantID
			var err error
			if tenant != "" {
				if id, err = lifecycle.ParseTenantID(tenant); err != nil {
					return usageError{fmt.Errorf("--tenant: %w", err)}
				}
			}
			now := a.now()
			if all {
				now = time.Time{}
			}
			list, err := s.Holds.List(ctx, id, now)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"holds": view.NewHolds(list)})
			}
			return a.holdTable(list)
		}),
	}
	list.Flags().BoolVar(&all, "all", false, "released and expired ones too")
	list.Flags().StringVar(&tenant, "tenant", "", "only this tenant id")
	release := &cobra.Command{
		Use: "release HOLD", Short: "End a hold; an erasure that waited for it continues", Args: cobra.ExactArgs(1),
		Example: "  trakr hold release " + exampleID + " --reason-ref LEG-7",
		RunE: a.with(app.BeforeReplay, func(ctx context.Context, s *app.App, args []string) error {
			h, err := s.Holds.Release(ctx, why.access(), args[0])
			if err != nil {
				return err
			}
			return a.printHolds(h)
		}),
	}
	why.register(release, lifecycle.LegalRequest)
	release.ValidArgsFunction = a.ids(a.holdIDs)
	c := &cobra.Command{Use: "hold", Short: "Hold tenants' data back from deletion, on a ground and for a time",
		Example: "  trakr hold list\n  trakr hold release " + exampleID + " --reason-ref LEG-7"}
	c.AddCommand(place, list, release)
	return c
}

func (a *cli) printHolds(h holds.Hold) error {
	if a.json {
		return a.printJSON(view.NewHold(h))
	}
	return a.holdTable([]holds.Hold{h})
}

func (a *cli) holdTable(list []holds.Hold) error {
	return a.table("HOLD\tTENANT\tGROUND\tTICKET\tPLACED BY\tUNTIL\tSTATE", func(line func(...any)) {
		for _, h := range list {
			state := "active"
			switch {
			case h.ReleasedAt != nil:
				state = "released"
			case !h.Active(a.now()):
				state = "expired"
			}
			line(h.ID, h.TenantID, h.Ground, h.Ref, h.PlacedBy, h.Until, state)
		}
	})
}
