package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"trakr/internal/app"
	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/policy"
)

// logCommands are the audit as a log: verify, checkpoint, proof, expire.
func (a *cli) logCommands() []*cobra.Command {
	return []*cobra.Command{a.auditVerifyCommand(), a.checkpointCommand(), a.proofCommand(), a.expireCommand()}
}

func (a *cli) checkpointCommand() *cobra.Command {
	var out string
	var key bool
	c := &cobra.Command{
		Use: "checkpoint", Short: "Print the newest signed checkpoint of the audit", Args: cobra.NoArgs,
		Long: "Prints the signed tree head (C2SP tlog-checkpoint). Keep it somewhere else: with it, a cut or changed\n" +
			"log is noticed later. --key prints the log's public key instead, which must reach reviewers by another way.",
		Example: "  trakr audit checkpoint --out /mnt/elsewhere/checkpoint\n  trakr audit checkpoint --key > log.vkey",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, _ []string) error {
			if key {
				return a.write(out, []byte(s.Audit.VerifierKey()+"\n"))
			}
			cp, err := s.Audit.Latest(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"checkpoint": string(cp.Note), "key": s.Audit.VerifierKey(), "size": cp.Size,
					"signed_at": cp.SignedAt})
			}
			return a.write(out, cp.Note)
		}),
	}
	c.Flags().StringVar(&out, "out", "-", "file to write, or - for standard output")
	c.Flags().BoolVar(&key, "key", false, "print the log's public key instead")
	return c
}

func (a *cli) proofCommand() *cobra.Command {
	var out string
	var from int64
	var why reasonFlags
	c := &cobra.Command{
		Use: "proof [EVENT_ID]", Short: "Prove that an event is in the log, or that the log only grew", Args: cobra.MaximumNArgs(1),
		Long: "With an EVENT_ID: its exact record and the inclusion proof (RFC 6962) against the newest checkpoint.\n" +
			"With --from SIZE: the consistency proof that the log of the newest checkpoint begins with that of the\n" +
			"older one. Both are JSON and can be checked offline.",
		Example: "  trakr audit proof 01a20f71-bb11-75a6-860d-653088c706c6 --out proof.json\n  trakr audit proof --from 1200",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, args []string) error {
			var v any
			var err error
			switch {
			case len(args) == 1 && from < 0:
				v, err = s.Audit.Prove(ctx, why.access(), args[0])
			case len(args) == 0 && from >= 0:
				v, err = s.Audit.ProveGrowth(ctx, from)
			default:
				return usageError{errors.New("give an EVENT_ID or --from SIZE; see: trakr audit proof --help")}
			}
			if err != nil {
				return err
			}
			b, err := json.MarshalIndent(v, "", "  ")
			if err != nil {
				return err
			}
			return a.write(out, append(b, '\n'))
		}),
	}
	c.Flags().StringVar(&out, "out", "-", "file to write, or - for standard output")
	c.Flags().Int64Var(&from, "from", -1, "size of an older checkpoint")
	why.register(c, lifecycle.ReviewerExport)
	return c
}

func (a *cli) expireCommand() *cobra.Command {
	var why reasonFlags
	c := &cobra.Command{
		Use: "expire", Short: "Remove the content of events past the policy's period; hashes stay", Args: cobra.NoArgs,
		Long: "Drops the audit's months that ended before the period of the policy's class \"audit\" (at least 365\n" +
			"days). Their leaf hashes stay, so everything else still verifies, and the removal is itself an event.\n" +
			"The running service cannot do this: it acts as the tables' owner, through\n" +
			"TRAKR_MIGRATION_DATABASE_URL or the private PostgreSQL.",
		Example: "  trakr audit expire --reason-ref OPS-31",
		RunE:    func(c *cobra.Command, _ []string) error { return a.expire(c.Context(), why.access()) },
	}
	why.register(c, lifecycle.ServiceOperation)
	return c
}

func (a *cli) expire(ctx context.Context, who lifecycle.Access) error {
	cfg, err := a.config(false)
	if err != nil {
		return err
	}
	p, err := policy.LoadFile(cfg.Policy)
	if err != nil {
		return err
	}
	owner, err := app.OpenOwner(ctx, cfg)
	if err != nil {
		return err
	}
	defer owner.Close()
	db, err := store.Open(ctx, owner.URL, store.Options{MaxConns: 2, Role: store.OwnerRole})
	if err != nil {
		return err
	}
	defer db.Close()
	if err := owner.CheckSchema(ctx, db); err != nil {
		return err
	}
	now := a.now()
	got, err := audit.Expire(ctx, db, who, now, now.Add(-auditPeriod(p)))
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(got)
	}
	if len(got.Partitions) == 0 {
		_, err = fmt.Fprintf(a.out, "Nothing to remove: no month ended before %s.\n", got.OlderThan)
		return err
	}
	_, err = fmt.Fprintf(a.out, "Removed the content of %s; positions below %d keep their hashes. Event %s.\n",
		strings.Join(got.Partitions, ", "), got.UpTo, got.EventID)
	return err
}

// auditPeriod is how long the policy keeps the audit's content.
func auditPeriod(p *policy.Policy) time.Duration {
	t, _, _ := p.Table("trakr.audit_events")
	for _, r := range p.Retention {
		if r.Class == t.Class {
			return max(r.Period.Duration(), audit.MinimumKept)
		}
	}
	return audit.MinimumKept
}
