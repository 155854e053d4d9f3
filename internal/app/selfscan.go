package app

import (
	"context"
	"log/slog"
	"net/url"

	"trakr/internal/check"
	"trakr/internal/httpapi"
	"trakr/internal/lifecycle"
	"trakr/internal/platform/config"
	"trakr/internal/platform/telemetry"
	"trakr/internal/selfscan"
)

// selfScan runs Marketplace's requirements against the handlers that Serve would run, in
// this process: nothing listens.
func (a *App) selfScan(ctx context.Context) []check.Result {
	one := check.Result{ID: "marketplace.scan", Title: "Marketplace: the requirements can be checked"}
	lines := &selfscan.Log{}
	t, err := telemetry.Setup(ctx, telemetry.Config{Service: "trakr-doctor", Version: a.version, LogWriter: lines,
		LogLevel: slog.LevelDebug})
	if err != nil {
		return []check.Result{unknown(one, err)}
	}
	defer func() { _ = t.Shutdown(ctx) }()
	public, err := a.PublicHandler(t, absentBitbucket{})
	if err != nil {
		return []check.Result{unknown(one, err)}
	}
	admin, routes, err := a.AdminHandler(t, t.Observe)
	if err != nil {
		return []check.Result{unknown(one, err)}
	}
	var out []check.Result
	for _, r := range selfscan.Scan(ctx, selfscan.Config{
		Policy: a.Policy, BaseURL: a.Config.BaseURL, Public: public, Admin: admin, Routes: append(httpapi.PublicRoutes(), routes...),
		Log: lines, Scopes: a.Reports.Scopes, DatabaseSafe: databaseSafe(a.Config), Now: a.now,
	}) {
		r.Title = "Marketplace: " + r.Title
		out = append(out, r)
	}
	return out
}

// absentBitbucket takes the place of Bitbucket, which does not know a secret that the
// scan made up: nothing leaves the process.
type absentBitbucket struct{}

// ProvePossession implements ingress.Prover.
func (absentBitbucket) ProvePossession(context.Context, lifecycle.Secret, lifecycle.Secret, lifecycle.Secret) error {
	return lifecycle.SignatureInvalid
}

// databaseSafe reports whether no other machine can be between the service and its
// database without being noticed.
func databaseSafe(c config.Config) bool {
	if c.DatabaseURL.Empty() {
		return true
	}
	u, err := url.Parse(c.DatabaseURL.Reveal())
	if err != nil {
		return false
	}
	host := u.Hostname()
	if h := u.Query().Get("host"); h != "" {
		host = h
	}
	return host == "" || host[0] == '/' || config.Loopback("http://"+host) || u.Query().Get("sslmode") == "verify-full"
}
