package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"trakr/internal/check"
	"trakr/internal/erasure"
	"trakr/internal/erasure/ledger"
	"trakr/internal/evidence"
	"trakr/internal/platform/config"
	"trakr/internal/schedule"
	"trakr/internal/store"
	"trakr/internal/store/guard"
	"trakr/internal/store/instances"
	"trakr/policy"
)

// Doctor opens the service to inspect it, and runs every self-check. What cannot be
// checked is unknown, never a pass: with a database that cannot be opened that is
// everything but the settings.
func Doctor(ctx context.Context, o Options) []check.Result {
	o.Mode = Inspect
	found := settingsChecks(o.Config)
	opened := check.Result{ID: "service.opens", Title: "the service can be wired on its database", State: check.Pass}
	a, err := Open(ctx, o)
	if err != nil {
		found = append(found, unknown(opened, err), answersCheck(ctx, o.Config, nil))
		return append(found, guardChecks(guard.Unknown(errors.New("the database could not be asked")))...)
	}
	defer func() { _ = a.Close() }()
	return append(append(found, opened), a.Doctor(ctx)...)
}

// answersCheck reports whether a service runs: at the configured private address or,
// by its instance record, elsewhere. A stopped service is a warning: only the operator
// knows whether it should run.
func answersCheck(ctx context.Context, cfg config.Config, running []instances.Instance) check.Result {
	r := check.Result{ID: "service.answers", Title: "a service answers", State: check.Pass}
	address := "http://" + cfg.AdminListen
	switch {
	case answers(ctx, address+"/healthz"):
		r.Evidence = "at " + address
	case len(running) > 0:
		r.Evidence = fmt.Sprintf("%d running service(s) recorded on this database, none of them at %s", len(running), address)
	default:
		r.State, r.Evidence, r.WayOut = check.Warn, "no service answers at "+address+", and none is recorded as running",
			"start it: trakr serve"
	}
	return r
}

// answers reports whether a service's liveness probe answers at url.
func answers(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	direct := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy: it is this service
	resp, err := direct.Do(req)
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16))
	return err == nil && resp.StatusCode == http.StatusOK && string(body) == "ok\n"
}

// settingsChecks are the checks that need no database.
func settingsChecks(cfg config.Config) []check.Result {
	proof := check.Result{ID: "settings.proof-of-possession", Title: "proof of possession is on", State: check.Pass}
	if cfg.DevSkipProof {
		proof.State, proof.WayOut = check.Fail, "TRAKR_DEV_SKIP_PROOF"
	}
	private := check.Result{ID: "settings.admin-listen", Title: "the API listens on this machine only", State: check.Pass}
	if !config.Loopback("http://" + cfg.AdminListen) {
		private.State, private.WayOut = check.Fail, "TRAKR_ADMIN_LISTEN; put a proxy with TLS in front to reach it from elsewhere"
	}
	return []check.Result{proof, private, keysPrivate(cfg)}
}

func keysPrivate(cfg config.Config) check.Result {
	r := check.Result{ID: "settings.keys-private", Title: "the keyring's file is private", State: check.Pass}
	source := cfg.Keys.Reveal()
	if source[0] == '{' {
		r.Evidence = "handed over in the environment"
		return r
	}
	st, err := os.Stat(source)
	switch {
	case os.IsNotExist(err):
		r.Evidence = "not made yet"
	case err != nil:
		r.State, r.Evidence = check.Unknown, "cannot look at it"
	case st.Mode().Perm()&(fs.ModePerm&0o077) != 0:
		r.State, r.WayOut = check.Fail, "run: chmod 600 "+filepath.Clean(source)
	}
	return r
}

// unknown returns r as a check that could not be made.
func unknown(r check.Result, err error) check.Result {
	r.State, r.Evidence = check.Unknown, err.Error()
	return r
}

// guardChecks returns the controls of the database's catalog.
func guardChecks(controls []guard.Control) []check.Result {
	out := make([]check.Result, 0, len(controls))
	for _, c := range controls {
		out = append(out, check.Result{ID: "guard." + c.ID, Title: c.Name, State: c.State, Evidence: c.Detail()})
	}
	return out
}

// Doctor runs every self-check that needs the database.
func (a *App) Doctor(ctx context.Context) []check.Result {
	running, err := a.Instances.List(ctx)
	if err != nil {
		running = nil // the checks of the database below report why
	}
	out := []check.Result{
		answersCheck(ctx, a.Config, running),
		{ID: "policy.sound", Title: "the policy is sound", State: check.Pass, Evidence: a.Policy.Hash()},
	}
	out = append(out, a.ledgerChecks(ctx)...)
	out = append(out, a.observed.checks(ctx)...)
	out = append(out, a.schemaCheck(ctx))
	out = append(out, guardChecks(a.Inventory.Controls(ctx))...)
	out = append(out, a.selfScan(ctx)...)
	out = append(out, a.endServiceCheck(ctx))
	out = append(out, a.factsChecks(ctx)...)
	for _, rule := range a.Policy.Sweeps {
		out = append(out, a.sweepCheck(ctx, rule))
	}
	for i := range out { // names of controls and jobs have spaces, ids do not
		out[i].ID = strings.ReplaceAll(out[i].ID, " ", "-")
	}
	return out
}

func (a *App) schemaCheck(ctx context.Context) check.Result {
	r := check.Result{ID: "database.schema", Title: "the schema is of this version", State: check.Pass}
	pending, err := store.Pending(ctx, a.DB)
	switch {
	case err != nil:
		return unknown(r, err)
	case len(pending) > 0:
		r.State, r.WayOut = check.Fail, "run: trakr migrate"
	}
	return r
}

// factsChecks are the controls that reports show, without those that are checked here
// already.
func (a *App) factsChecks(ctx context.Context) []check.Result {
	var out []check.Result
	facts, err := a.Reports.Facts(ctx, a.now().Add(-time.Second))
	if err != nil {
		out = append(out, unknown(check.Result{ID: "database.facts", Title: "what the database holds"}, err))
	}
	for _, c := range facts.Controls {
		if c.ID != evidence.ControlProof {
			out = append(out, c)
		}
	}
	for _, j := range facts.Jobs {
		out = append(out, j.Result)
	}
	return out
}

func (a *App) sweepCheck(ctx context.Context, rule policy.Sweep) check.Result {
	r := check.Result{ID: "sweep." + rule.Kind, Title: "the sweep " + rule.Kind + " runs in time", State: check.Pass}
	interval, err := schedule.Interval(rule.Schedule, a.now())
	if err != nil {
		return unknown(r, err)
	}
	h, err := a.Runner.Health(ctx, rule.Kind, interval, a.now())
	switch {
	case err != nil:
		return unknown(r, err)
	case h.Last == nil && h.Since.IsZero():
		r.State, r.Evidence = check.Unknown, "the service never ran here"
	case h.Overdue:
		r.State, r.Evidence = check.Fail, "no pass within twice its interval; is the service running?"
	}
	return r
}

// ledgerChecks report whether the erasure ledger is the database's own and whole, and
// not on the volume whose loss would take the database too.
func (a *App) ledgerChecks(ctx context.Context) []check.Result {
	whole := check.Result{ID: "ledger.whole", Title: "the erasure ledger is whole and the database's own", State: check.Pass,
		Evidence: a.Ledger.Name()}
	apart := check.Result{ID: "ledger.apart", Title: "the erasure ledger lies on another volume than the database", State: check.Pass}
	var refused *erasure.Refused
	switch err := a.Eraser.Compare(ctx); {
	case errors.As(err, &refused):
		whole.State, whole.Evidence = check.Fail, refused.Why
	case err != nil:
		whole = unknown(whole, err)
	}
	switch {
	case a.Config.LedgerAtURL():
		apart.Evidence = "it is at a URL"
		return []check.Result{whole, apart}
	case a.server.private == nil:
		apart.Evidence = "the database is elsewhere; keep the file out of its backups"
		return []check.Result{whole, apart}
	}
	same, err := ledger.SameVolume(a.Config.Ledger, a.Config.DataDir)
	if err != nil {
		return []check.Result{whole, unknown(apart, err)}
	}
	if same {
		apart.State = check.Warn
		apart.Evidence = "a loss of this volume takes both, and a copy of it brings both back; set TRAKR_LEDGER to a path on " +
			"another one, or to a URL"
	}
	return []check.Result{whole, apart}
}
