package app

import (
	"context"
	"fmt"
	"strings"

	"trakr/internal/check"
	"trakr/internal/delivery/endservice"
	"trakr/internal/egress"
	"trakr/internal/egress/webhook"
	"trakr/internal/erasure"
	"trakr/internal/lifecycle"
	"trakr/internal/schedule/leader"
	"trakr/internal/store"
	"trakr/internal/store/outbox"
	"trakr/policy"
)

// EndServiceLease is the lock of the replica that delivers to the end service.
const EndServiceLease = "end service"

// endServiceGuard returns the guard of what may be disclosed to the end service, or nil
// when no end service is configured.
func endServiceGuard(o Options, p *policy.Policy) (*egress.Guard, error) {
	if o.Config.EndServiceURL == "" {
		return nil, nil
	}
	if err := egress.Host(p, lifecycle.ToEndService, o.Config.EndServiceURL); err != nil {
		return nil, fmt.Errorf("TRAKR_END_SERVICE_URL: %w; correct it, or add the host under egress in the policy", err)
	}
	g, err := egress.New(p, lifecycle.ToEndService, o.Config.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("TRAKR_END_SERVICE_URL: %w", err)
	}
	return g, nil
}

// newSender returns what delivers the outbox to the end service. Each acknowledged
// notice asks for a pass of the finisher, because a certificate may have waited for it.
func newSender(b *base, out *outbox.Store, g *egress.Guard, f *erasure.Finisher) (*endservice.Sender, error) {
	key, err := webhook.ParseKey(b.Config.EndServiceSecret)
	if err != nil {
		return nil, err
	}
	return endservice.New(endservice.Config{
		Outbox: out, Guard: g, URL: b.Config.EndServiceURL, Key: key,
		Now: b.Now, Log: b.log, Meter: b.meter, Notified: f.Begun,
		Lease: func(ctx context.Context) (leader.Lease, bool, error) {
			return store.TryLease(ctx, b.db, EndServiceLease)
		},
	})
}

// NoSender returns why nothing is delivered to the end service, with the way out, or ""
// when a running service delivers. The lock answers it, because the settings of a command
// need not be the service's.
func (a *App) NoSender(ctx context.Context) (string, error) {
	lease, free, err := store.TryLease(ctx, a.DB, EndServiceLease)
	if err != nil || !free {
		return "", err
	}
	lease.Release()
	if a.guard == nil {
		return "Nobody sends: no end service is configured. Set TRAKR_END_SERVICE_URL and TRAKR_END_SERVICE_SECRET for the service " +
			"and start it: trakr serve", nil
	}
	return "Nobody sends: no running service has TRAKR_END_SERVICE_URL. Start one with it: trakr serve", nil
}

// endServiceCheck reports whether deliveries reach the end service.
func (a *App) endServiceCheck(ctx context.Context) check.Result {
	r := check.Result{ID: "outbox.end-service", Title: "the end service is told of installs and erasures", State: check.Pass}
	n, err := a.Outbox.Counts(ctx)
	if err != nil {
		return unknown(r, err)
	}
	idle, err := a.NoSender(ctx)
	if err != nil {
		return unknown(r, err)
	}
	switch {
	case n.Findings() > 0:
		r.State = check.Fail
		r.Evidence = fmt.Sprintf("%d deliveries are dead, or not acknowledged for more than five days, %d of them notices of an "+
			"erasure; see: trakr outbox list",
			n.Findings(), n.DeadNotices+n.OverdueNotices)
		r.Evidence = strings.TrimSuffix(r.Evidence+". "+idle, ". ")
	case idle != "" && n.Waiting > 0:
		r.State, r.Evidence = check.Warn, fmt.Sprintf("%d deliveries wait. %s", n.Waiting, idle)
	case a.guard == nil && idle != "":
		r.State, r.Evidence = check.Warn, "nobody is told: TRAKR_END_SERVICE_URL is not set. Certificates say so"
	default:
		r.Evidence = fmt.Sprintf("%d deliveries wait", n.Waiting)
	}
	return r
}
