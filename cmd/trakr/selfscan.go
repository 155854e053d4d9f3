package main

import (
	"context"
	"log/slog"
	"net/url"

	"trakr/internal/httpapi"
	"trakr/internal/lifecycle"
	"trakr/internal/platform/config"
	"trakr/internal/platform/telemetry"
	"trakr/internal/selfscan"
)

// selfScan runs Marketplace's requirements against the handlers that serve would run,
// in this process: nothing listens.
func (a *app) selfScan(ctx context.Context, s *service) []finding {
	unknown := func(err error) []finding {
		return []finding{{"Marketplace: the requirements can be checked", "unknown", err.Error()}}
	}
	said := &selfscan.Log{}
	tel, err := telemetry.Setup(ctx, telemetry.Config{Service: "trakr-doctor", Version: toolVersion(), LogWriter: said, LogLevel: slog.LevelDebug})
	if err != nil {
		return unknown(err)
	}
	defer func() { _ = tel.Shutdown(ctx) }()
	before := s.log
	s.log = tel.Logger
	defer func() { s.log = before }()
	public, admin, routes, err := a.handlers(s, knowsNobody{}, tel, nil)
	if err != nil {
		return unknown(err)
	}
	var out []finding
	for _, r := range selfscan.Scan(ctx, selfscan.Config{Policy: s.policy, BaseURL: s.cfg.BaseURL, Public: public, Admin: admin, Routes: append(httpapi.PublicRoutes(), routes...),
		Log: said, Scopes: s.reports.Scopes, DatabaseSafe: verified(s.cfg), Now: a.now}) {
		out = append(out, finding{"Marketplace: " + r.Requirement, string(r.State), r.Detail})
	}
	return out
}

// knowsNobody stands for Bitbucket, which does not know a secret that the scan made up:
// nothing leaves the process.
type knowsNobody struct{}

// ProvePossession implements ingress.Prover.
func (knowsNobody) ProvePossession(context.Context, lifecycle.Secret, lifecycle.Secret, lifecycle.Secret) error {
	return lifecycle.SignatureInvalid
}

// verified reports whether nobody can stand between the service and its database.
func verified(c config.Config) bool {
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
