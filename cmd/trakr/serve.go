package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"trakr/internal/evidence"
	"trakr/internal/httpapi"
	"trakr/internal/ingress"
	"trakr/internal/lifecycle"
	"trakr/internal/platform/config"
	"trakr/internal/platform/telemetry"
	"trakr/internal/schedule"
	"trakr/internal/sequencer"
	"trakr/internal/store"
	"trakr/internal/sweep"
	"trakr/policy"
	"trakr/reports"
)

func (a *app) serveCommand() *cobra.Command {
	var dev bool
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve Bitbucket's callbacks, the API and the scheduled sweeps",
		Long: "Serves the public listener (descriptor, callbacks) and the private one (API, /readyz, /metrics),\n" +
			"and runs the sweeps of the policy. Without TRAKR_DATABASE_URL it runs a private PostgreSQL of its\n" +
			"own in TRAKR_DATA_DIR. Ends orderly on Ctrl-C or SIGTERM and leaves no process behind.",
		Example: "  trakr serve --dev                 # on a laptop; Bitbucket's API is `trakr simulate`\n" +
			"  TRAKR_BASE_URL=https://trakr.example.com TRAKR_DATABASE_URL=postgres://… trakr serve",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.serve(c.Context(), dev) },
	}
	c.Flags().BoolVar(&dev, "dev", false, "defaults for a laptop: Bitbucket's API is expected at "+config.DevBitbucketAPI)
	return c
}

// serve runs until ctx ends or something it depends on does.
func (a *app) serve(ctx context.Context, dev bool) (err error) {
	cfg, err := a.config(dev)
	if err != nil {
		return err
	}
	// What the service promises comes first: without a sound policy nothing starts, and
	// nobody is talked to whom it does not declare.
	s := &service{cfg: cfg, environ: a.environ, serving: true}
	if s.policy, err = policy.LoadFile(cfg.Policy); err != nil {
		return err
	}
	settled, err := s.settled()
	if err != nil {
		return err
	}
	if err := s.asDeclared(settled); err != nil {
		return err
	}
	tel, err := telemetry.Setup(ctx, telemetry.Config{Service: "trakr", Version: toolVersion(), LogWriter: a.err, LogLevel: cfg.LogLevel})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err = errors.Join(err, tel.Shutdown(ctx))
	}()
	s.log = tel.Logger
	s.log.InfoContext(ctx, "policy loaded", "policy_hash", s.policy.Hash(), "version", toolVersion())

	// The addresses are next: a port that is taken should not cost a start of the
	// database.
	public, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return inUse("TRAKR_LISTEN", err)
	}
	defer func() { _ = public.Close() }()
	private, err := net.Listen("tcp", cfg.AdminListen)
	if err != nil {
		return inUse("TRAKR_ADMIN_LISTEN", err)
	}
	defer func() { _ = private.Close() }()

	defer s.close()
	if err := s.connect(ctx, startOnly, cfg.DatabaseURL, tel.Tracer); err != nil {
		if ctx.Err() != nil {
			s.log.Info("stopped while starting")
			return nil
		}
		return err
	}
	if err := s.wire(ctx, a.now); err != nil {
		return err
	}

	seq, err := s.sequencer(tel.Meter, a.now)
	if err != nil {
		return err
	}
	publicHandler, adminHandler, _, err := a.handlers(s, s.prover(), tel, seq)
	if err != nil {
		return err
	}
	// Before the first sweep: without a fresh canary it is blind.
	if err := s.census.PlantCanary(ctx); err != nil {
		return err
	}
	jobs, err := a.scheduler(s, tel.Meter)
	if err != nil {
		return err
	}
	s.noteScheduled(jobs)
	relay, err := a.relay(s, tel.Meter)
	if err != nil {
		return err
	}
	teller, err := a.sender(s, tel.Meter)
	if err != nil {
		return err
	}
	if err := sweep.Measure(tel.Meter, s.findings); err != nil {
		return err
	}
	for _, rule := range s.policy.Sweeps {
		if err := s.runner.Expect(ctx, rule.Kind); err != nil {
			return err
		}
	}
	a.notice(s, dev)

	if s.holding, err = holdKeys(ctx, s); err != nil {
		return err
	}
	defer s.holding.leave()
	failed := make(chan error, 2)
	servers := []*http.Server{start(public, publicHandler, failed, s.log), start(private, adminHandler, failed, s.log)}
	// What works in the background outlives the signal: the last requests and jobs
	// still record events and open findings.
	var background sync.WaitGroup
	working, endWork := context.WithCancel(context.WithoutCancel(ctx))
	defer func() { endWork(); background.Wait() }()
	background.Go(func() { seq.Run(working) })
	background.Go(func() { s.finishSoon(working) })
	background.Go(func() { s.holding.run(working) })
	if teller != nil {
		background.Go(func() { teller.Run(working) })
	}
	if relay != nil {
		background.Go(func() { relay.Run(working) })
	}
	if err := jobs.Start(ctx); err != nil {
		return err
	}
	s.log.InfoContext(ctx, "serving", "listen", cfg.Listen, "admin_listen", cfg.AdminListen)

	err = s.supervise(ctx, failed)
	stop, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	drained := make(chan struct{})
	go func() { jobs.Stop(); close(drained) }()
	for _, srv := range servers {
		err = errors.Join(err, srv.Shutdown(stop))
	}
	<-drained
	return err
}

// supervise waits for the end: of ctx, or of a listener. A private PostgreSQL that
// ends by itself (killed, its disk full) is started again; until it answers, what
// needs it is refused with 503.
func (s *service) supervise(ctx context.Context, failed <-chan error) error {
	for {
		var gone <-chan struct{}
		if s.postgres != nil {
			gone = s.postgres.Done()
		}
		select {
		case <-ctx.Done():
			s.log.Info("stopping; a second signal ends at once", "signal", "received")
			return nil
		case err := <-failed:
			return err
		case <-gone:
			s.log.Error("the private PostgreSQL ended by itself; it is started again", "error", s.postgres.Err())
		}
		for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
			err := s.postgres.Restart(ctx)
			if err == nil {
				break
			}
			if ctx.Err() == nil {
				s.log.Error("the private PostgreSQL does not start", "error", err)
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

// inUse says how to get around an address that is taken.
func inUse(setting string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s: %w; stop what listens there, or set %s to another address", setting, err, setting)
	}
	return fmt.Errorf("%s: %w", setting, err)
}

// simulateFlags are what simulate needs where the addresses are not the default.
func simulateFlags(c config.Config) string {
	if c.Listen == config.DefaultListen && c.AdminListen == config.DefaultAdminListen && c.BitbucketAPIURL == config.DevBitbucketAPI {
		return ""
	}
	return fmt.Sprintf(" --target http://%s --admin http://%s --api %s", c.Listen, c.AdminListen, strings.TrimPrefix(c.BitbucketAPIURL, "http://"))
}

// start serves one listener with time limits that a slow client cannot stretch.
func start(l net.Listener, h http.Handler, failed chan<- error, log *slog.Logger) *http.Server {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 32 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("serving: %w", err)
		}
	}()
	return srv
}

// prover asks Bitbucket about a first install, unless that is switched off.
func (s *service) prover() ingress.Prover {
	if s.cfg.DevSkipProof {
		return nil
	}
	return s.client
}

func (a *app) handlers(s *service, prover ingress.Prover, tel *telemetry.Telemetry, seq *sequencer.Sequencer) (public, admin http.Handler, routes []httpapi.Route, err error) {
	var statement func(context.Context) (reports.SecurityStatement, error)
	if s.cfg.PublicStatement {
		statement = (&evidence.PublicStatement{Reporter: s.reports}).Get
	}
	gate, err := ingress.New(ingress.Config{Policy: s.policy, BaseURL: s.cfg.BaseURL, Door: s.door, Eraser: s.eraser, Prover: prover, Now: a.now})
	if err != nil {
		return nil, nil, nil, err
	}
	public, err = httpapi.NewPublic(httpapi.Public{Statement: statement, Policy: s.policy, BaseURL: s.cfg.BaseURL, Ingress: gate,
		TrustedProxies: s.cfg.TrustedProxies, Now: a.now, Log: s.log, Meter: tel.Meter, Observe: tel.ObserveStrangers})
	if err != nil {
		return nil, nil, nil, err
	}
	admin, routes, err = httpapi.NewAdmin(httpapi.Admin{Holds: s.holds, Deletions: s.deletions, Erasures: s.erasures, Certifier: s.eraser, Policy: s.policy, Door: s.door, Audit: s.audit, Tokens: s.tokens, Findings: s.findings,
		Runner: s.runner, Bitbucket: s.client, Reports: s.reports, Ready: a.ready(s, seq), Metrics: tel.MetricsHandler(), Version: toolVersion(), Log: s.log, Observe: tel.Observe})
	return public, admin, routes, err
}

// ready judges whether this replica should get traffic: the database answers,
// its tables are of this version, the log keeps up and is sound, and no sweep and
// no scheduled job is overdue.
func (a *app) ready(s *service, seq *sequencer.Sequencer) func(context.Context) []httpapi.ReadyCheck {
	return func(ctx context.Context) []httpapi.ReadyCheck {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		pending, err := store.Pending(ctx, s.db)
		checks := []httpapi.ReadyCheck{{Name: "database", OK: err == nil, Detail: detail(err, "answers")},
			{Name: "schema", OK: err == nil && len(pending) == 0, Detail: detail(err, fmt.Sprintf("%d migrations pending", len(pending)))}}
		checks = append(checks, a.logReady(ctx, s, seq))
		if s.holding != nil { // a service that serves has it
			checks = append(checks, s.holding.ready())
		}
		for _, rule := range s.policy.Sweeps {
			c := httpapi.ReadyCheck{Name: "sweep " + rule.Kind}
			interval, err := schedule.Interval(rule.Schedule, a.now())
			if err == nil {
				h, herr := s.runner.Health(ctx, rule.Kind, interval, a.now())
				c.OK, err = herr == nil && !h.Overdue, herr
			}
			c.Detail = detail(err, "no pass within twice its interval")
			if c.OK {
				c.Detail = "ran in time"
			}
			checks = append(checks, c)
		}
		return append(checks, a.jobsReady(ctx, s)...)
	}
}

// maxLag is how long an event may wait for its position in the log.
const maxLag = time.Minute

func (a *app) logReady(ctx context.Context, s *service, seq *sequencer.Sequencer) httpapi.ReadyCheck {
	c := httpapi.ReadyCheck{Name: "audit log"}
	if seq.Err() != nil {
		c.Detail = "the stored log is not the one that was sequenced; run: trakr audit verify"
		return c
	}
	b, err := s.audit.Backlog(ctx)
	c.OK = err == nil && sequencer.Lag(b, a.now()) < maxLag
	if c.Detail = detail(err, "events wait for their position for more than a minute"); c.OK {
		c.Detail = "keeps up"
	}
	return c
}

func detail(err error, fine string) string {
	if err != nil {
		return string(lifecycle.AsFault(err).Kind)
	}
	return fine
}

// notice tells the person who started the service where it is, what is for
// development only, and what to do next.
func (a *app) notice(s *service, dev bool) {
	p := func(format string, args ...any) { fmt.Fprintf(a.out, format+"\n", args...) }
	p("")
	p("Trakr data lifecycle %s", toolVersion())
	p("  public   http://%s   descriptor, callbacks", s.cfg.Listen)
	p("  private  http://%s   API, /openapi.json, /readyz, /metrics", s.cfg.AdminListen)
	if s.postgres != nil {
		p("  data     %s   private PostgreSQL %s", s.postgres.DataDirectory(), s.postgres.Version())
	}
	if s.newKeys {
		p("  keys     %s   just generated, mode 0600: without this file nothing can be read again", s.cfg.Keys.Reveal())
	}
	if dev {
		p("")
		p("For development only:")
		p("  - the base URL is %s: Bitbucket itself could not call it", s.cfg.BaseURL)
		p("  - first installs are proven against %s, not against Bitbucket", s.cfg.BitbucketAPIURL)
		if s.postgres != nil {
			p("  - keys and database lie on the same disk (%s); production keeps them apart", filepath.Clean(s.cfg.DataDir))
		}
	}
	if s.cfg.DevSkipProof {
		p("  - TRAKR_DEV_SKIP_PROOF is on: anyone who reaches this address can install")
	}
	if dev {
		p("")
		p("Next, in a second shell:")
		p("  bin/trakr simulate --installs 5 --uninstalls 2%s", simulateFlags(s.cfg))
	}
	p("")
}
