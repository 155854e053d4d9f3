// Package app is the wired service: every part of Trakr on one database, built in one
// order by one constructor. The service, the commands, the tests and the benchmark all
// use Open, so none of them can work with other parts than the others.
//
// An App exists only complete: Open returns it when every part works, or an error and
// nothing, and Close ends the parts in reverse order. The purpose of the process is a
// Mode, which decides what the database must fulfil.
//
// It parses no flags, prints nothing, and knows no SQL.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"go.opentelemetry.io/otel/metric"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	nooptrace "go.opentelemetry.io/otel/trace/noop"

	"trakr/internal/bitbucket"
	"trakr/internal/connect"
	"trakr/internal/delivery/endservice"
	"trakr/internal/egress"
	"trakr/internal/erasure"
	"trakr/internal/erasure/ledger"
	"trakr/internal/evidence"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/platform/config"
	"trakr/internal/platform/telemetry"
	deletionrequests "trakr/internal/requests"
	"trakr/internal/sequencer"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/census"
	"trakr/internal/store/erasures"
	"trakr/internal/store/facts"
	"trakr/internal/store/findings"
	"trakr/internal/store/heartbeats"
	"trakr/internal/store/holds"
	"trakr/internal/store/instances"
	"trakr/internal/store/liveness"
	"trakr/internal/store/outbox"
	"trakr/internal/store/requests"
	"trakr/internal/store/retention"
	"trakr/internal/store/tenants"
	"trakr/internal/store/tokens"
	"trakr/internal/sweep"
	"trakr/policy"
	"trakr/reports"
)

// Options are what Open builds the service from.
type Options struct {
	Mode    Mode
	Config  config.Config
	Environ []string // as os.Environ; for the proxies and collectors that it names
	Version string   // of this program
	Now     func() time.Time

	// Logs receives the service's log lines. Only Serve writes any.
	Logs io.Writer
	// Telemetry replaces the one that Serve sets up, and the silent one of the other
	// modes. Close leaves it open. It is for tests and the benchmark.
	Telemetry *telemetry.Telemetry
	// MaxConns bounds the connections to the database; 0 means the default.
	MaxConns int32
	// Adopt is the operator who declares that the database and the ledger belong
	// together, for `trakr restore bind-ledger`.
	Adopt *lifecycle.Access
	// AfterStep is called when a step of an erasure or a key rotation is durable, for
	// tests that end the process there as a power failure would.
	AfterStep func(step string)
}

// App is the wired service.
type App struct {
	Config    config.Config
	Policy    *policy.Policy
	DB        *store.DB
	Keys      *keyring.Keyring
	Audit     *audit.Log
	Sequencer *sequencer.Sequencer // runs in Serve; commands call Once
	Door      *tenants.Door
	Outbox    *outbox.Store
	Findings  *findings.Store
	Census    *census.Store
	Tokens    *tokens.Store
	Inventory *facts.Store
	Instances *instances.Store
	Erasures  *erasures.Store
	Holds     *holds.Store
	Ledger    ledger.Ledger
	Eraser    *erasure.Eraser
	Runner    *sweep.Runner
	Deletions *deletionrequests.Service
	Reports   *evidence.Reporter

	// KeysGenerated reports that Open generated the keyring.
	KeysGenerated bool
	// Replayed is what the comparison with the ledger led to, in Serve and Replay.
	Replayed erasure.Replayed

	signals
	mode      Mode
	now       func() time.Time
	version   string
	afterStep func(step string)
	server    *server
	listeners listeners
	client    *bitbucket.Client
	beats     *heartbeats.Store
	guard     *egress.Guard      // of the end service; nil when there is none
	sender    *endservice.Sender // nil when there is no end service
	finisher  *erasure.Finisher
	observed  *observed
	instance  *instance
	closers   closers
}

// ErrStopped means that the process was asked to end while it was starting.
var ErrStopped = errors.New("stopped while starting")

// Open builds the service. Each step uses only what the steps before it built. After a
// failure nothing is left open.
func Open(ctx context.Context, o Options) (_ *App, err error) {
	need, ok := requirements[o.Mode]
	if !ok {
		return nil, fmt.Errorf("the service cannot be opened in the mode %d", o.Mode)
	}
	if o.AfterStep == nil {
		o.AfterStep = func(string) {}
	}
	var c closers
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()

	// 1. The promises: without a sound policy nothing starts, and the service connects
	// to no host that the policy does not declare.
	p, err := loadPromises(o)
	if err != nil {
		return nil, err
	}
	if need.service {
		if err := refuseUndeclared(p.policy, settingsFacts(p)); err != nil {
			return nil, err
		}
	}
	// 2. Telemetry, and 3. the addresses: an address that is in use should not cost a
	// start of the database.
	s, err := openSignals(ctx, o, &c)
	if err != nil {
		return nil, err
	}
	s.log.InfoContext(ctx, "policy loaded", "policy_hash", p.policy.Hash(), "version", o.Version)
	var l listeners
	if need.service {
		if l, err = listen(o.Config, &c); err != nil {
			return nil, err
		}
	}
	// 4. The database, which must be the one that the promises rest on.
	b := &base{Options: o, promises: p, signals: s, need: need}
	if err := b.open(ctx, &c); err != nil {
		return nil, err
	}
	// 5. Keys, audit and everything that records.
	r, err := openRecords(ctx, b, &c)
	if err != nil {
		return nil, err
	}
	// 6. The ledger, before anything else can read a tenant.
	e, err := openErasing(ctx, b, r, &c)
	if err != nil {
		return nil, err
	}
	// 7. What works on them.
	a, err := assemble(b, r, e)
	if err != nil {
		return nil, err
	}
	a.listeners, a.closers = l, c
	return a, nil
}

// Close ends every part, in reverse order. An App is not used afterwards.
func (a *App) Close() error { return a.closers.close() }

// PrivatePostgres returns the directory and the version of the private PostgreSQL; both
// are empty with a database of the operator's own.
func (a *App) PrivatePostgres() (dir, version string) {
	if a.server.private == nil {
		return "", ""
	}
	return a.server.private.DataDirectory(), a.server.private.Version()
}

// AfterStep is Options.AfterStep, for the steps that a command takes itself.
func (a *App) AfterStep(step string) { a.afterStep(step) }

// closers end what Open opened.
type closers []func() error

func (c *closers) add(f func() error) { *c = append(*c, f) }

func (c *closers) close() (err error) {
	for i := len(*c) - 1; i >= 0; i-- {
		err = errors.Join(err, (*c)[i]())
	}
	*c = nil
	return err
}

// promises are what the service promises and what its settings name: everything that is
// known before anything is opened.
type promises struct {
	policy       *policy.Policy
	statement    *policy.SecurityStatement
	scopes       []string // that the descriptor asks for
	destinations destinations
}

func loadPromises(o Options) (p promises, err error) {
	if p.policy, err = policy.LoadFile(o.Config.Policy); err != nil {
		return p, err
	}
	if p.statement, err = policy.LoadStatement(o.Config.Statement, reports.Checks()); err != nil {
		return p, err
	}
	if p.destinations, err = resolveDestinations(o.Config, o.Environ); err != nil {
		return p, err
	}
	d, err := connect.Descriptor(p.policy, o.Config.BaseURL)
	if err != nil {
		return p, err
	}
	p.scopes, err = connect.Scopes(d)
	return p, err
}

// signals are what the parts log, trace and count through.
type signals struct {
	log       *slog.Logger
	tracer    trace.TracerProvider
	meter     metric.MeterProvider
	telemetry *telemetry.Telemetry // nil where nothing is emitted
}

func openSignals(ctx context.Context, o Options, c *closers) (signals, error) {
	t := o.Telemetry
	if t == nil {
		if o.Mode != Serve {
			return signals{log: slog.New(slog.DiscardHandler), tracer: nooptrace.NewTracerProvider(),
				meter: noopmetric.NewMeterProvider()}, nil
		}
		var err error
		t, err = telemetry.Setup(ctx, telemetry.Config{Service: "trakr", Version: o.Version, LogWriter: o.Logs,
			LogLevel: o.Config.LogLevel})
		if err != nil {
			return signals{}, err
		}
		c.add(func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			return t.Shutdown(ctx)
		})
	}
	return signals{log: t.Logger, tracer: t.Tracer, meter: t.Meter, telemetry: t}, nil
}

// listeners are the two addresses of a service.
type listeners struct{ public, private net.Listener }

func listen(cfg config.Config, c *closers) (l listeners, err error) {
	if l.public, err = net.Listen("tcp", cfg.Listen); err != nil {
		return l, InUse("TRAKR_LISTEN", err)
	}
	c.add(func() error { _ = l.public.Close(); return nil })
	if l.private, err = net.Listen("tcp", cfg.AdminListen); err != nil {
		return l, InUse("TRAKR_ADMIN_LISTEN", err)
	}
	c.add(func() error { _ = l.private.Close(); return nil })
	return l, nil
}

// base is the database and what was known before it was opened.
type base struct {
	Options
	promises
	signals
	need   requirement
	server *server
	db     *store.DB
	census *census.Store
}

// open opens the database as the service's role and checks it.
func (b *base) open(ctx context.Context, c *closers) (err error) {
	if b.server, err = openServer(ctx, b.Config, b.log, b.need.postgres); err != nil {
		return b.stopped(ctx, err)
	}
	c.add(func() error { b.server.stop(); return nil })
	url, err := b.server.serviceURL(ctx)
	if err != nil {
		return b.stopped(ctx, err)
	}
	b.db, err = store.Open(ctx, url, store.Options{Tracer: b.tracer, Role: store.ServiceRole, MaxConns: b.MaxConns})
	if err != nil {
		return b.stopped(ctx, err)
	}
	c.add(func() error { b.db.Close(); return nil })
	if err := b.server.checkSchema(ctx, b.db); err != nil {
		return err
	}
	if b.need.guards {
		if err := checkGuards(ctx, b.db); err != nil {
			return err
		}
	}
	b.census = census.New(b.db)
	if b.need.service {
		return checkCatalog(ctx, b.policy, b.census)
	}
	return nil
}

// stopped returns ErrStopped instead of a failure that the end of ctx has caused.
func (b *base) stopped(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	b.log.Info("stopped while starting")
	return ErrStopped
}

// records are the parts that record, and the outbox that is written with them.
type records struct {
	keys      *keyring.Keyring
	generated bool
	audit     *audit.Log
	sequencer *sequencer.Sequencer
	door      *tenants.Door
	outbox    *outbox.Store
	guard     *egress.Guard
	sender    *endservice.Sender
	finisher  *erasure.Finisher
	erasures  *erasures.Store
}

func openRecords(ctx context.Context, b *base, c *closers) (r records, err error) {
	if r.keys, r.generated, err = openKeys(ctx, b.Config, b.db); err != nil {
		return r, err
	}
	if err := tenants.BindKeys(ctx, b.db, r.keys, b.Now()); err != nil {
		return r, err
	}
	if r.audit, err = audit.NewLog(b.db, b.Now); err != nil {
		return r, err
	}
	if err := r.audit.SignWith(ctx, r.keys.Signing()); err != nil {
		return r, err
	}
	sinks, err := checkpointSinks(b.Config)
	if err != nil {
		return r, err
	}
	r.sequencer, err = sequencer.New(sequencer.Config{DB: b.db, Log: r.audit, Sinks: sinks, Meter: b.meter, Now: b.Now, Slog: b.log})
	if err != nil {
		return r, err
	}
	// The outbox comes before the door: each act on a tenant enters its delivery in its
	// own transaction.
	r.finisher = erasure.NewFinisher()
	if r.outbox, err = outbox.New(b.db, r.audit, r.keys); err != nil {
		return r, err
	}
	if r.guard, err = endServiceGuard(b.Options, b.policy); err != nil {
		return r, err
	}
	door := tenants.Config{DB: b.db, Keys: r.keys, Policy: b.policy, Log: r.audit}
	if r.guard != nil {
		if r.sender, err = newSender(b, r.outbox, r.guard, r.finisher); err != nil {
			return r, err
		}
		door.EndService = &tenants.EndService{Guard: r.guard, Outbox: r.outbox}
	}
	if r.door, err = tenants.New(ctx, door); err != nil {
		return r, err
	}
	c.add(func() error { r.door.Close(); return nil })
	r.erasures = erasures.New(b.db, b.Now)
	if b.need.service {
		// After a long stop, or in a restored database, the running month may lack its
		// partition; without it nothing could be recorded, and so nothing erased or read.
		_, err = r.audit.MakePartitions(ctx, monthsAhead)
	}
	return r, err
}

// erasing is the one erasure and the ledger it rests on.
type erasing struct {
	ledger   ledger.Ledger
	holds    *holds.Store
	eraser   *erasure.Eraser
	replayed erasure.Replayed
}

func openErasing(ctx context.Context, b *base, r records, c *closers) (e erasing, err error) {
	if e.ledger, err = openLedger(ctx, b.Options, r.erasures); err != nil {
		return e, err
	}
	c.add(func() error { _ = e.ledger.Close(); return nil })
	if e.holds, err = holds.New(b.db, r.audit, b.policy, erasure.Outside{Ledger: e.ledger, Keys: r.keys}); err != nil {
		return e, err
	}
	cfg := erasure.Config{
		Door: r.door, Erasures: r.erasures, Census: b.census, Holds: e.holds, Log: r.audit, Keys: r.keys, Policy: b.policy,
		Ledger:  e.ledger,
		Version: b.Version, Now: b.Now, Slog: b.log, Begun: r.finisher.Begun, After: b.AfterStep,
	}
	if b.Mode != Serve { // the service's sequencer runs every second
		cfg.Sequence = r.sequencer.Once
	}
	if e.eraser, err = erasure.New(cfg); err != nil {
		return e, err
	}
	e.replayed, err = compareLedger(ctx, b.need.ledger, e.eraser, b.log)
	return e, err
}

// assemble builds what works on the records. It opens nothing.
func assemble(b *base, r records, e erasing) (*App, error) {
	a := &App{
		Config: b.Config, Policy: b.policy, DB: b.db, Keys: r.keys, KeysGenerated: r.generated, Audit: r.audit, Sequencer: r.sequencer,
		Door: r.door, Outbox: r.outbox, Findings: findings.New(b.db), Census: b.census, Tokens: tokens.New(b.db, b.Now),
		Inventory: facts.New(b.db), Instances: instances.New(b.db),
		Erasures: r.erasures, Holds: e.holds, Ledger: e.ledger, Eraser: e.eraser, Replayed: e.replayed,
		signals: b.signals, mode: b.Mode, now: b.Now, version: b.Version, afterStep: b.AfterStep, server: b.server,
		beats: heartbeats.New(b.db), guard: r.guard, sender: r.sender, finisher: r.finisher,
	}
	var err error
	a.client, err = bitbucket.New(bitbucket.Config{Origin: b.Config.BitbucketAPIURL, AppKey: b.policy.App.Key,
		Resource: b.policy.App.Proof.Resource, Now: b.Now, Tracer: b.tracer})
	if err != nil {
		return nil, err
	}
	a.observed = &observed{policy: b.policy, own: b.destinations, scopes: b.scopes, mode: b.Mode, door: r.door, census: b.census,
		running: a.Instances}
	a.observed.setJobs(comparableJobs(planJobs(b.policy)))
	if a.Runner, err = sweep.New(b.db, b.policy, b.Now, b.log, a.passes()...); err != nil {
		return nil, err
	}
	if a.Deletions, err = newDeletions(a); err != nil {
		return nil, err
	}
	recorded := instances.Facts{PolicyHash: b.policy.Hash(), Destinations: b.destinations.recorded()}
	a.instance = newInstance(a.Instances, r.keys, b.log, recorded)
	a.Reports = &evidence.Reporter{
		Running: a.Instances.List, Own: recorded.Destinations, Policy: b.policy, Statement: b.statement,
		Scopes:    evidence.Scopes(b.scopes, b.policy),
		Inventory: a.Inventory, Sweeps: a.Runner, Now: b.Now, Version: b.Version, SkipProof: b.Config.DevSkipProof,
		Jobs: jobNames(b.policy), Heartbeats: a.beats, SwitchedOff: r.door.CountSwitchedOff,
	}
	_, err = a.Jobs() // each planned job has something that runs it
	return a, err
}

// passes returns one pass for each kind of sweep.
func (a *App) passes() []sweep.Pass {
	return sweep.Passes(sweep.Parts{
		DB: a.DB, Policy: a.Policy, Log: a.Audit, Findings: a.Findings, Census: a.Census, Retention: retention.New(a.DB),
		Outbox: a.Outbox, Liveness: liveness.New(a.DB),
		Eraser: a.Eraser, Bitbucket: a.client, Door: a.Door, Running: a.observed.facts,
		Outside: func(_ context.Context, all bool) ([]audit.Outside, error) {
			if all {
				return KeptCheckpoints(a.Config)
			}
			return NewestCheckpoint(a.Config)
		},
	})
}

// newDeletions builds what answers deletion requests, on the one erasure.
func newDeletions(a *App) (*deletionrequests.Service, error) {
	r, err := requests.New(a.DB, a.Audit)
	if err != nil {
		return nil, err
	}
	return deletionrequests.New(deletionrequests.Config{
		Requests: r, Holds: a.Holds, Door: a.Door, Census: a.Census, Policy: a.Policy, Log: a.log,
		Erasures: &deletionrequests.Eraser{Eraser: a.Eraser, Store: a.Erasures, Findings: a.Findings, Runner: a.Runner,
			Policy: a.Policy, Now: a.now},
	})
}
