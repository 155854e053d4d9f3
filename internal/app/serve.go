package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"trakr/internal/evidence"
	"trakr/internal/httpapi"
	"trakr/internal/ingress"
	"trakr/internal/platform/telemetry"
	"trakr/internal/schedule"
	"trakr/internal/sweep"
	"trakr/reports"
)

// Serve serves both listeners and runs the scheduled jobs until ctx ends or something
// that it depends on fails. It needs an App that was opened in the mode Serve.
func (a *App) Serve(ctx context.Context) error {
	if a.mode != Serve {
		return errors.New("a service was opened for another purpose than to serve")
	}
	public, err := a.PublicHandler(a.telemetry, a.prover())
	if err != nil {
		return err
	}
	admin, _, err := a.AdminHandler(a.telemetry, a.telemetry.Observe)
	if err != nil {
		return err
	}
	jobs, err := a.Scheduler(a.meter)
	if err != nil {
		return err
	}
	relay, err := a.relay(a.meter)
	if err != nil {
		return err
	}
	if err := a.expectSweeps(ctx); err != nil {
		return err
	}
	if err := a.instance.announce(ctx); err != nil {
		return err
	}
	defer a.instance.remove()

	failed := make(chan error, 2)
	servers := []*http.Server{
		serveOn(a.listeners.public, public, failed, a.log),
		serveOn(a.listeners.private, admin, failed, a.log),
	}
	// What works in the background outlives the signal: the last requests and jobs
	// still record events and open findings.
	var background sync.WaitGroup
	working, endWork := context.WithCancel(context.WithoutCancel(ctx))
	defer func() { endWork(); background.Wait() }()
	background.Go(func() { a.Sequencer.Run(working) })
	background.Go(func() { a.finisher.Run(working, a.log, a.finishErasures) })
	background.Go(func() { a.instance.run(working) })
	if a.sender != nil {
		background.Go(func() { a.sender.Run(working) })
	}
	if relay != nil {
		background.Go(func() { relay.Run(working) })
	}
	if err := jobs.Start(ctx); err != nil {
		return err
	}
	a.log.InfoContext(ctx, "serving", "listen", a.Config.Listen, "admin_listen", a.Config.AdminListen)
	return a.stopServing(a.supervise(ctx, failed), servers, jobs)
}

// expectSweeps records from when on each sweep is due, and plants the first canary:
// without a fresh one the orphan sweep is blind.
func (a *App) expectSweeps(ctx context.Context) error {
	if err := a.Census.PlantCanary(ctx); err != nil {
		return err
	}
	if err := sweep.Measure(a.meter, a.Findings); err != nil {
		return err
	}
	for _, rule := range a.Policy.Sweeps {
		if err := a.Runner.Expect(ctx, rule.Kind); err != nil {
			return err
		}
	}
	return nil
}

// stopServing ends the jobs and the servers, which may finish what they began. It
// returns their failures beside err.
func (a *App) stopServing(err error, servers []*http.Server, jobs *schedule.Scheduler) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	drained := make(chan struct{})
	go func() { jobs.Stop(); close(drained) }()
	for _, srv := range servers {
		err = errors.Join(err, srv.Shutdown(ctx))
	}
	<-drained
	return err
}

// supervise waits until ctx ends or a listener fails. A private PostgreSQL that ends by
// itself (killed, its disk full) is started again; until it answers, what needs it is
// refused with 503.
func (a *App) supervise(ctx context.Context, failed <-chan error) error {
	private := a.server.private
	for {
		var ended <-chan struct{}
		if private != nil {
			ended = private.Done()
		}
		select {
		case <-ctx.Done():
			a.log.Info("stopping; a second signal ends at once", "signal", "received")
			return nil
		case err := <-failed:
			return err
		case <-ended:
			a.log.Error("the private PostgreSQL ended by itself; it is started again", "error", private.Err())
		}
		for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
			err := private.Restart(ctx)
			if err == nil {
				break
			}
			if ctx.Err() == nil {
				a.log.Error("the private PostgreSQL does not start", "error", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case err := <-failed:
				return err
			case <-time.After(wait):
			}
		}
	}
}

// InUse adds the way out to the error of an address that is in use.
func InUse(setting string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s: %w; stop what listens there, or set %s to another address", setting, err, setting)
	}
	return fmt.Errorf("%s: %w", setting, err)
}

// serveOn serves one listener with time limits that a slow client cannot extend.
func serveOn(l net.Listener, h http.Handler, failed chan<- error, log *slog.Logger) *http.Server {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 32 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("serving: %w", err)
		}
	}()
	return srv
}

// Observe is the middleware that traces, counts and logs each request.
type Observe = func(route func(*http.Request) string) func(http.Handler) http.Handler

// prover returns what asks Bitbucket about a first install, or nil when the development
// switch is on.
func (a *App) prover() ingress.Prover {
	if a.Config.DevSkipProof {
		return nil
	}
	return a.client
}

// PublicHandler returns the handler of the public listener. A first install is proven by
// prover.
func (a *App) PublicHandler(t *telemetry.Telemetry, prover ingress.Prover) (http.Handler, error) {
	var statement func(context.Context) (reports.SecurityStatement, error)
	if a.Config.PublicStatement {
		statement = (&evidence.PublicStatement{Reporter: a.Reports}).Get
	}
	gate, err := ingress.New(ingress.Config{Policy: a.Policy, BaseURL: a.Config.BaseURL, Door: a.Door, Eraser: a.Eraser,
		Prover: prover, Now: a.now})
	if err != nil {
		return nil, err
	}
	return httpapi.NewPublic(httpapi.Public{
		Policy: a.Policy, BaseURL: a.Config.BaseURL, Ingress: gate, Statement: statement,
		TrustedProxies: a.Config.TrustedProxies, Now: a.now, Log: t.Logger, Meter: t.Meter, Observe: t.ObserveStrangers,
	})
}

// AdminHandler returns the handler of the private listener, and its routes. Each request
// is observed by observe.
func (a *App) AdminHandler(t *telemetry.Telemetry, observe Observe) (http.Handler, []httpapi.Route, error) {
	return httpapi.NewAdmin(httpapi.Admin{
		Holds: a.Holds, Deletions: a.Deletions, Erasures: a.Erasures, Certifier: a.Eraser, Policy: a.Policy, Door: a.Door, Audit: a.Audit,
		Tokens: a.Tokens, Findings: a.Findings, Runner: a.Runner, Bitbucket: a.client, Reports: a.Reports, Ready: a.Ready,
		Metrics: t.MetricsHandler(), Version: a.version, Log: t.Logger, Observe: observe,
	})
}
