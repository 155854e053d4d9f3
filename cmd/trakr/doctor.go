package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"trakr/internal/erasure"
	"trakr/internal/erasure/ledger"
	"trakr/internal/evidence"
	"trakr/internal/platform/config"
	"trakr/internal/schedule"
	"trakr/internal/store"
	"trakr/internal/store/guard"
)

// finding is one self-check: pass, fail, warn where it is the operator's to judge, or
// unknown when it could not be made.
type finding struct {
	Check  string `json:"check"`
	State  string `json:"state"`
	Detail string `json:"detail,omitempty"`
}

func (a *app) doctorCommand() *cobra.Command {
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

func (a *app) doctor(ctx context.Context) error {
	cfg, err := a.config(false)
	if err != nil {
		return err
	}
	found := []finding{
		check("proof of possession is on", !cfg.DevSkipProof, "TRAKR_DEV_SKIP_PROOF"),
		check("the API listens on this machine only", config.Loopback("http://"+cfg.AdminListen), "TRAKR_ADMIN_LISTEN; put a proxy with TLS in front to reach it from elsewhere"),
		keysPrivate(cfg),
	}
	found = append(found, a.examine(ctx)...)
	failed, unknown := 0, 0
	for _, f := range found {
		switch f.State {
		case "fail":
			failed++
		case "unknown":
			unknown++
		}
	}
	if a.json {
		err = a.printJSON(map[string]any{"checks": found, "failed": failed, "unknown": unknown})
	} else {
		err = a.table("STATE\tCHECK\tDETAIL", func(line func(...any)) {
			for _, f := range found {
				line(f.State, f.Check, f.Detail)
			}
		})
	}
	switch {
	case err != nil:
		return err
	case failed > 0:
		return errFinding
	case unknown > 0:
		return fmt.Errorf("%d check(s) could not be made", unknown)
	}
	return nil
}

func check(name string, ok bool, detail string) finding {
	if ok {
		return finding{name, "pass", ""}
	}
	return finding{name, "fail", detail}
}

func keysPrivate(cfg config.Config) finding {
	const name = "the keyring's file is private"
	source := cfg.Keys.Reveal()
	if source[0] == '{' {
		return finding{name, "pass", "handed over in the environment"}
	}
	st, err := os.Stat(source)
	if os.IsNotExist(err) {
		return finding{name, "pass", "not made yet"}
	}
	if err != nil {
		return finding{name, "unknown", "cannot look at it"}
	}
	return check(name, st.Mode().Perm()&(fs.ModePerm&0o077) == 0, "run: chmod 600 "+filepath.Clean(source))
}

// guards are the controls in the database, each with its state.
func guards(controls []guard.Control) []finding {
	out := make([]finding, 0, len(controls))
	for _, c := range controls {
		out = append(out, finding{c.Name, string(c.State), c.Detail()})
	}
	return out
}

// examine asks the database. What cannot be asked is unknown, never a pass.
func (a *app) examine(ctx context.Context) []finding {
	s, err := a.openAnyway(ctx)
	if err != nil {
		return append([]finding{{"the service can be wired on its database", "unknown", err.Error()}},
			guards(guard.Unjudged(errors.New("the database could not be asked")))...)
	}
	defer s.close()
	found := []finding{{"the service can be wired on its database", "pass", ""}, {"the policy is sound", "pass", s.policy.Hash()}}
	found = append(found, s.ledgerChecks(ctx)...)
	found = append(found, s.driftChecks(ctx)...)
	pending, err := store.Pending(ctx, s.db)
	if err != nil {
		found = append(found, finding{"the schema is of this version", "unknown", err.Error()})
	} else {
		found = append(found, check("the schema is of this version", len(pending) == 0, "run: trakr migrate"))
	}
	found = append(found, guards(s.inventory.Controls(ctx))...)
	found = append(found, a.selfScan(ctx, s)...)
	found = append(found, s.endServiceCheck(ctx)...)
	facts, err := s.reports.Facts(ctx, a.now().Add(-1e9))
	if err != nil {
		found = append(found, finding{"what the database holds", "unknown", err.Error()})
	}
	for _, c := range facts.Controls {
		if c.ID != "proof-of-possession" && !strings.HasPrefix(c.ID, evidence.GuardControl) {
			found = append(found, finding{c.Title, c.State, c.Detail})
		}
	}
	for _, rule := range s.policy.Sweeps {
		name := "the sweep " + rule.Kind + " runs in time"
		interval, err := schedule.Interval(rule.Schedule, a.now())
		if err != nil {
			found = append(found, finding{name, "unknown", err.Error()})
			continue
		}
		h, err := s.runner.Health(ctx, rule.Kind, interval, a.now())
		switch {
		case err != nil:
			found = append(found, finding{name, "unknown", err.Error()})
		case h.Last == nil && h.Since.IsZero():
			found = append(found, finding{name, "unknown", "the service never ran here"})
		default:
			found = append(found, check(name, !h.Overdue, "no pass within twice its interval; is the service running?"))
		}
	}
	return found
}

// ledgerChecks judge the erasure ledger: that it is the database's, whole, and not on
// the volume that a loss of the database would take too.
func (s *service) ledgerChecks(ctx context.Context) []finding {
	const fits, apart = "the erasure ledger is whole and the database's own", "the erasure ledger lies on another volume than the database"
	var refused *erasure.Refused
	whole := finding{fits, "pass", s.ledger.Name()}
	switch err := s.eraser.Compare(ctx); {
	case errors.As(err, &refused):
		whole = finding{fits, "fail", refused.Why}
	case err != nil:
		whole = finding{fits, "unknown", err.Error()}
	}
	switch {
	case s.cfg.LedgerAtURL():
		return []finding{whole, {apart, "pass", "it is at a URL"}}
	case s.postgres == nil:
		return []finding{whole, {apart, "pass", "the database is elsewhere; keep the file out of its backups"}}
	}
	same, err := ledger.SameVolume(s.cfg.Ledger, s.cfg.DataDir)
	if err != nil {
		return []finding{whole, {apart, "unknown", err.Error()}}
	}
	if same {
		return []finding{whole, {apart, "warn", "a loss of this volume takes both, and a copy of it brings both back; set TRAKR_LEDGER to a path on another one, or to a URL"}}
	}
	return []finding{whole, {apart, "pass", ""}}
}
