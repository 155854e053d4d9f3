package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"trakr/internal/bitbucket"
	"trakr/internal/connect"
	"trakr/internal/drift"
	"trakr/internal/egress"
	"trakr/internal/erasure"
	"trakr/internal/erasure/ledger"
	"trakr/internal/evidence"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/platform/config"
	"trakr/internal/platform/devpg"
	deletionrequests "trakr/internal/requests"
	"trakr/internal/sequencer"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/census"
	"trakr/internal/store/erasures"
	"trakr/internal/store/facts"
	"trakr/internal/store/findings"
	"trakr/internal/store/guard"
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

// version is set by the linker; a plain build takes it from the build's record.
var version = ""

func toolVersion() string {
	if version != "" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "(devel)"
}

// service is everything wired on one database.
type service struct {
	cfg       config.Config
	policy    *policy.Policy
	statement *policy.SecurityStatement
	db        *store.DB
	postgres  *devpg.Server // nil with a database of the operator's own
	log       *slog.Logger
	audit     *audit.Log
	keys      *keyring.Keyring
	holding   *holding // serve's word on which keys it holds
	door      *tenants.Door
	findings  *findings.Store
	census    *census.Store
	retention *retention.Store
	beats     *heartbeats.Store
	runner    *sweep.Runner
	erasures  *erasures.Store
	holds     *holds.Store
	ledger    ledger.Ledger
	eraser    *erasure.Eraser
	replayed  erasure.Replayed // what the ledger led to at the start
	inventory *facts.Store
	tokens    *tokens.Store
	reports   *evidence.Reporter
	client    *bitbucket.Client
	deletions *deletionrequests.Service
	environ   []string
	scheduled []drift.Job // what the running scheduler has; nil before

	outbox *outbox.Store
	guard  *egress.Guard // what may be told to the end service; nil: there is none

	tracer    trace.TracerProvider
	newKeys   bool
	begun     chan struct{}     // an erasure has begun
	serving   bool              // a sequencer of its own runs
	replaying bool              // a command that replays the ledger
	adopt     *lifecycle.Access // who says that database and ledger belong together
	unplayed  bool              // a command that works although a replay is due
	anyway    bool              // wired although a guard is missing, by a command that says so
}

func (a *app) config(dev bool) (config.Config, error) {
	c, err := config.Load(a.environ, dev)
	if err != nil {
		return c, usageError{err}
	}
	return c, nil
}

// open wires a command to the database: the configured one, or the private
// PostgreSQL, which a running service lends and otherwise is started for the
// command's time.
func (a *app) open(ctx context.Context) (*service, error) { return a.wired(ctx, &service{}) }

// openAnyway is open for the commands that judge the database's guards themselves.
func (a *app) openAnyway(ctx context.Context) (*service, error) {
	return a.wired(ctx, &service{anyway: true})
}

func (a *app) wired(ctx context.Context, s *service) (*service, error) {
	cfg, err := a.config(false)
	if err != nil {
		return nil, err
	}
	s.cfg, s.environ, s.log = cfg, a.environ, slog.New(slog.DiscardHandler)
	if err := s.connect(ctx, attachOrStart, cfg.DatabaseURL, nil); err != nil {
		s.close()
		return nil, err
	}
	if err := s.wire(ctx, a.now); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

type startMode int

const (
	attachOrStart startMode = iota
	startOnly
)

// connect opens the database as the service's role; url is empty for the private
// PostgreSQL, whose tables are brought to this version first, unless another process,
// perhaps of an older version, works on them.
func (s *service) connect(ctx context.Context, mode startMode, url lifecycle.Secret, tracer trace.TracerProvider) error {
	if url.Empty() {
		if err := s.private(ctx, mode); err != nil {
			return err
		}
		if err := s.migrate(ctx); err != nil {
			return err
		}
		login, err := s.postgres.LoginURL(ctx, store.ServiceRole)
		if err != nil {
			return err
		}
		url = lifecycle.NewSecret(login)
	}
	s.tracer = tracer
	var err error
	s.db, err = store.Open(ctx, url.Reveal(), store.Options{Tracer: tracer, Role: store.ServiceRole})
	return err
}

// migrate brings the tables of the private PostgreSQL to this version. Tables that
// another process has at its own stay as they are; that this one cannot work with them
// is told later.
func (s *service) migrate(ctx context.Context) error {
	if s.postgres.Attached() {
		begun, err := store.Migrated(ctx, s.postgres.URL())
		if err != nil || begun {
			return err
		}
	}
	_, err := store.Migrate(ctx, s.postgres.URL())
	return err
}

// private starts the private PostgreSQL, or finds the one that runs.
func (s *service) private(ctx context.Context, mode startMode) (err error) {
	c := devpg.Config{DataDir: filepath.Join(s.cfg.DataDir, "postgres"), BinDir: s.cfg.PostgresBin, Logger: s.log}
	// Another command may have started it for its own time, or be starting or
	// stopping it at this moment: none is an answer, so ask again for a while.
	for begin, said := time.Now(), false; ; {
		if mode == attachOrStart {
			if s.postgres, err = devpg.Attach(ctx, c); !errors.Is(err, devpg.ErrNotRunning) {
				return err
			}
		}
		if s.postgres, err = devpg.Start(ctx, c); !errors.Is(err, devpg.ErrInUse) || time.Since(begin) > otherCommand {
			return err
		}
		if !said {
			said = true
			s.log.Info("the private PostgreSQL is in use by another process; waiting for it to end")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// otherCommand is how long a process waits for another one to give the private
// PostgreSQL back.
const otherCommand = 15 * time.Second

// ownerURL is where migrations and the log's retention connect: the private
// PostgreSQL's superuser, or the login the operator named for it.
func (s *service) ownerURL(ctx context.Context) (string, error) {
	switch {
	case !s.cfg.MigrationDatabaseURL.Empty():
		return s.cfg.MigrationDatabaseURL.Reveal(), nil
	case !s.cfg.DatabaseURL.Empty():
		return s.cfg.DatabaseURL.Reveal(), nil
	case s.postgres == nil:
		if err := s.private(ctx, attachOrStart); err != nil {
			return "", err
		}
	}
	return s.postgres.URL(), nil
}

// wire checks that the tables are of this version and that the guards are in
// place, and builds everything on them.
func (s *service) wire(ctx context.Context, now func() time.Time) (err error) {
	if s.policy == nil {
		if s.policy, err = policy.LoadFile(s.cfg.Policy); err != nil {
			return err
		}
	}
	if s.statement, err = policy.LoadStatement(s.cfg.Statement, reports.Checks()); err != nil {
		return err
	}
	if err := s.schema(ctx); err != nil {
		return err
	}
	if err := s.guarded(ctx); err != nil {
		return err
	}
	s.findings, s.census, s.retention = findings.New(s.db), census.New(s.db), retention.New(s.db)
	if s.serving {
		// Before anything is recorded or erased: a table that nobody declared could hold
		// what no erasure knows.
		tables, err := s.census.Catalog(ctx)
		if err != nil {
			return err
		}
		if err := s.asDeclared(drift.Facts{Tables: tables}); err != nil {
			return err
		}
	}
	keys, err := s.keyring(ctx)
	if err != nil {
		return err
	}
	if err := tenants.BindKeys(ctx, s.db, keys, now()); err != nil {
		return err
	}
	s.keys = keys
	if s.audit, err = audit.NewLog(s.db, now); err != nil {
		return err
	}
	if err := s.audit.SignWith(ctx, keys.Signing()); err != nil {
		return err
	}
	recipient, err := s.endService()
	if err != nil {
		return err
	}
	s.door, err = tenants.New(ctx, tenants.Config{DB: s.db, Keys: keys, Policy: s.policy, Log: s.audit, EndService: recipient})
	if err != nil {
		return err
	}
	s.inventory, s.tokens = facts.New(s.db), tokens.New(s.db, now)
	s.erasures = erasures.New(s.db, now)
	if s.serving {
		// After a long rest, or in a restored database, the running month may lack its
		// place; without it nothing could be recorded and so nothing erased or read.
		if _, err := s.audit.MakePartitions(ctx, monthsAhead); err != nil {
			return err
		}
	}
	if err := s.erasing(ctx, keys, now); err != nil {
		return err
	}
	s.beats = heartbeats.New(s.db)
	if s.client, err = s.bitbucket(now); err != nil {
		return err
	}
	if s.runner, err = sweep.New(s.db, s.policy, now, s.log, s.passes()...); err != nil {
		return err
	}
	if err := s.requests(now); err != nil {
		return err
	}
	descriptor, err := connect.Descriptor(s.policy, s.cfg.BaseURL)
	if err != nil {
		return err
	}
	asked, err := connect.Scopes(descriptor)
	if err != nil {
		return err
	}
	own, err := s.instanceFacts()
	if err != nil {
		return err
	}
	s.reports = &evidence.Reporter{Running: instances.New(s.db).List, Own: own.Destinations, Policy: s.policy, Statement: s.statement, Scopes: evidence.Scopes(asked, s.policy), Inventory: s.inventory, Sweeps: s.runner, Now: now, Version: toolVersion(), SkipProof: s.cfg.DevSkipProof,
		Jobs: s.jobNames(), Heartbeats: s.beats, SwitchedOff: s.door.CountSwitchedOff}
	return nil
}

// requests builds what answers deletion requests, on the one erasure.
func (s *service) requests(now func() time.Time) (err error) {
	r, err := requests.New(s.db, s.audit)
	if err != nil {
		return err
	}
	s.deletions, err = deletionrequests.New(deletionrequests.Config{Requests: r, Holds: s.holds, Door: s.door, Census: s.census, Policy: s.policy, Log: s.log,
		Erasures: &deletionrequests.Eraser{Eraser: s.eraser, Store: s.erasures, Findings: s.findings, Runner: s.runner, Policy: s.policy, Now: now}})
	return err
}

// passes returns one pass of each kind of sweep.
func (s *service) passes() []sweep.Pass {
	return sweep.Passes(sweep.Parts{DB: s.db, Policy: s.policy, Log: s.audit, Findings: s.findings, Census: s.census, Retention: s.retention, Outbox: s.outbox, Liveness: liveness.New(s.db),
		Eraser: s.eraser, Bitbucket: s.client, Door: s.door, Running: s.facts,
		Outside: func(_ context.Context, all bool) ([]audit.Outside, error) {
			return sinkCheckpoints(s.cfg.CheckpointFile, all)
		}})
}

// bitbucket is the client of the configured API.
func (s *service) bitbucket(now func() time.Time) (*bitbucket.Client, error) {
	tracer := s.tracer
	if tracer == nil {
		tracer = noop.NewTracerProvider()
	}
	return bitbucket.New(bitbucket.Config{Origin: s.cfg.BitbucketAPIURL, AppKey: s.policy.App.Key, Resource: s.policy.App.Proof.Resource, Now: now, Tracer: tracer})
}

func (s *service) schema(ctx context.Context) error {
	pending, err := store.Pending(ctx, s.db)
	switch {
	case err != nil || len(pending) == 0:
	case s.postgres != nil && s.postgres.Attached():
		return fmt.Errorf("the database lacks %d migration(s): the service that runs on it is older than this program; start this version of it instead, which applies them", len(pending))
	default:
		return fmt.Errorf("the database lacks %d migration(s); run: trakr migrate", len(pending))
	}
	return err
}

// guarded refuses a database whose catalog is not the one the promises rest on.
func (s *service) guarded(ctx context.Context) error {
	if s.anyway {
		return nil
	}
	controls, err := guard.Check(ctx, s.db)
	if err != nil {
		return err
	}
	return guard.Refusal(controls)
}

// keyring loads the keys, and makes new ones only where no older ones can be
// missing: beside a database that never had any.
func (s *service) keyring(ctx context.Context) (*keyring.Keyring, error) {
	source := keySource(s.cfg)
	k, err := source.Load()
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	used, err := tenants.Bound(ctx, s.db)
	if err != nil {
		return nil, err
	}
	if used {
		return nil, fmt.Errorf("there is no keyring at %s, and the database was used with one; restore that file (its values cannot be read without it)", source.At)
	}
	k, s.newKeys, err = source.LoadOrCreate()
	return k, err
}

func (s *service) close() {
	if s.door != nil {
		s.door.Close()
	}
	if s.ledger != nil {
		_ = s.ledger.Close()
	}
	if s.db != nil {
		s.db.Close()
	}
	if s.postgres != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := s.postgres.Stop(ctx); err != nil {
			s.log.Error("the private PostgreSQL did not stop", "error", err)
		}
	}
}

// sequencer publishes to what the settings name.
func (s *service) sequencer(meter metric.MeterProvider, now func() time.Time) (*sequencer.Sequencer, error) {
	file, err := sequencer.NewFile(s.cfg.CheckpointFile)
	if err != nil {
		return nil, err
	}
	sinks := []sequencer.Sink{file}
	if s.cfg.CheckpointURL != "" {
		sinks = append(sinks, sequencer.NewHTTP(s.cfg.CheckpointURL))
	}
	return sequencer.New(sequencer.Config{DB: s.db, Log: s.audit, Sinks: sinks, Meter: meter, Now: now, Slog: s.log})
}

// with opens the database for one command.
func (a *app) with(do func(ctx context.Context, s *service, args []string) error) func(*cobra.Command, []string) error {
	return a.on(service{}, do)
}

// anyhow is with for a command that judges the database's guards itself.
func (a *app) anyhow(do func(ctx context.Context, s *service, args []string) error) func(*cobra.Command, []string) error {
	return a.on(service{anyway: true}, do)
}

// replaying is with for the command that erases again what a restore brought back.
func (a *app) replaying(do func(ctx context.Context, s *service, args []string) error) func(*cobra.Command, []string) error {
	return a.on(service{replaying: true}, do)
}

// beforeReplay is with for what a person may have to do before that: hold what the law
// keeps.
func (a *app) beforeReplay(do func(ctx context.Context, s *service, args []string) error) func(*cobra.Command, []string) error {
	return a.on(service{unplayed: true}, do)
}

func (a *app) on(as service, do func(ctx context.Context, s *service, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		s, err := a.wired(c.Context(), &as)
		if err != nil {
			return err
		}
		defer s.close()
		return do(c.Context(), s, args)
	}
}

// reasonFlags are why the operator acts.
type reasonFlags struct{ code, ref string }

func (r *reasonFlags) register(c *cobra.Command, fallback lifecycle.ReasonCode) {
	c.Flags().StringVar(&r.code, "reason-code", string(fallback), "why, a reason code of the policy")
	r.ticket(c)
}

// ticket registers the ticket alone, where the code is given by the act.
func (r *reasonFlags) ticket(c *cobra.Command) {
	c.Flags().StringVar(&r.ref, "reason-ref", "", "ticket this is done for, e.g. OPS-12")
}

// access is the operator at the command line: the system's user by number.
func (r *reasonFlags) access() lifecycle.Access {
	return lifecycle.Access{
		Caller: lifecycle.Caller{Type: lifecycle.ActorOperator, ID: "uid:" + strconv.Itoa(os.Getuid()), Role: lifecycle.RoleOperator},
		Reason: lifecycle.Reason{Code: lifecycle.ReasonCode(r.code), Ref: r.ref}, RequestID: "cli",
	}
}

// printJSON prints for programs.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table prints rows for people.
func (a *app) table(header string, rows func(line func(cells ...any))) error {
	w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, header)
	rows(func(cells ...any) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			if t, ok := c.(time.Time); ok {
				c = t.UTC().Format(time.RFC3339)
			}
			fmt.Fprint(w, c)
		}
		fmt.Fprintln(w)
	})
	return w.Flush()
}
