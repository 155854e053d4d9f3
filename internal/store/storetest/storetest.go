// Package storetest gives each test a migrated PostgreSQL database of its own,
// cloned from a template, on a private server that lives as long as the test
// binary. The server runs on a copy of a cluster that is prepared once for all
// binaries of a run. There is no fake: what a test sees is what production runs.
// Without PostgreSQL binaries the tests fail; they are never skipped.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"trakr/internal/egress"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/platform/devpg"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/erasures"
	"trakr/internal/store/holds"
	"trakr/internal/store/outbox"
	"trakr/internal/store/tenants"
	"trakr/policy"
)

// evidence records, in the file that the test command names, that a test on PostgreSQL ran.
func evidence(t testing.TB) {
	path := os.Getenv("TRAKR_TEST_EVIDENCE")
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatalf("noting that PostgreSQL was used: %v", err)
	}
	_, err = fmt.Fprintln(f, t.Name())
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Env is one database with the stores that work on it, and a clock that moves only when the
// test moves it.
type Env struct {
	T      testing.TB
	URL    string
	DB     *store.DB
	Keys   *keyring.Keyring
	Policy *policy.Policy
	Log    *audit.Log
	Door   *tenants.Door
	Clock  *Clock
	Dir    string // a temporary directory, for files outside the database

	past superuser
}

// Clock is a clock for tests.
type Clock struct {
	mu sync.Mutex
	t  time.Time
}

// Now returns the clock's time.
func (c *Clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }

// Add moves the clock.
func (c *Clock) Add(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.t = c.t.Add(d) }

// loaded is the built-in policy, validated once for all tests.
var loaded = sync.OnceValues(policy.Default)

// builtIn returns the built-in policy for one test to change: the parts that tests change
// are copies.
func builtIn() (*policy.Policy, error) {
	p, err := loaded()
	if err != nil {
		return nil, err
	}
	c := *p
	c.Fields, c.Sweeps, c.Retention = slices.Clone(p.Fields), slices.Clone(p.Sweeps), slices.Clone(p.Retention)
	c.KnownPayloadKeys, c.Egress = slices.Clone(p.KnownPayloadKeys), slices.Clone(p.Egress)
	c.Stores = slices.Clone(p.Stores)
	for i := range c.Stores {
		c.Stores[i].Tables = slices.Clone(p.Stores[i].Tables)
	}
	return &c, nil
}

// New returns an Env on a new database, with the built-in policy.
func New(t testing.TB) *Env {
	t.Helper()
	e := &Env{T: t, URL: URL(t), Dir: t.TempDir(), Clock: &Clock{t: time.Now().UTC().Truncate(time.Second)}}
	t.Cleanup(e.past.close)
	e.Keys = Must(t)(keyring.New()).(*keyring.Keyring)
	e.Policy = Must(t)(builtIn()).(*policy.Policy)
	e.DB = Must(t)(store.Open(t.Context(), ServiceURL(t, e.URL), store.Options{MaxConns: 6, Role: store.ServiceRole})).(*store.DB)
	t.Cleanup(e.DB.Close)
	e.Log = Must(t)(audit.NewLog(e.DB, e.Clock.Now)).(*audit.Log)
	if err := e.Log.SignWith(t.Context(), e.Keys.Signing()); err != nil {
		t.Fatal(err)
	}
	e.Door = Must(t)(tenants.New(t.Context(), tenants.Config{DB: e.DB, Keys: e.Keys, Policy: e.Policy, Log: e.Log})).(*tenants.Door)
	t.Cleanup(e.Door.Close)
	return e
}

// AnnounceTo replaces the Env's door by one that announces installs, changes and
// erasures to the end service through g, and returns the outbox that it uses. Call it
// before anything is built on the door.
func (e *Env) AnnounceTo(g *egress.Guard) *outbox.Store {
	e.T.Helper()
	o := Must(e.T)(outbox.New(e.DB, e.Log, e.Keys)).(*outbox.Store)
	e.Door = Must(e.T)(tenants.New(e.T.Context(), tenants.Config{DB: e.DB, Keys: e.Keys, Policy: e.Policy, Log: e.Log,
		EndService: &tenants.EndService{Guard: g, Outbox: o}})).(*tenants.Door)
	e.T.Cleanup(e.Door.Close)
	return o
}

// Erase erases a tenant as internal/erasure does, with an invented line of the ledger and
// without the steps after the deletion of the values.
func (e *Env) Erase(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, x tenants.Erasure) (tenants.Result, error) {
	erasure, result, err := e.Door.BeginErasure(ctx, a, id, x)
	if err != nil || result != tenants.Applied {
		return result, err
	}
	if err := erasures.New(e.DB, e.Clock.Now).Note(ctx, erasure, counter.Add(1), sha256.Sum256(erasure[:])); err != nil {
		return "", err
	}
	return result, e.Door.Delete(ctx, a, erasure)
}

// Outside replaces the erasure ledger in tests of legal holds.
type Outside struct {
	Broken error        // returned by Note
	Noted  []holds.Hold // oldest first
}

// Note implements holds.Outside.
func (o *Outside) Note(_ context.Context, h holds.Hold) error {
	if o.Broken == nil {
		o.Noted = append(o.Noted, h)
	}
	return o.Broken
}

// Must returns a function that fails the test on an error.
func Must(t testing.TB) func(v any, err error) any {
	return func(v any, err error) any {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Exec runs SQL as the superuser, without any of the service's checks, to damage the
// database on purpose.
func (e *Env) Exec(sql string, args ...any) {
	e.T.Helper()
	if err := e.TryExec(sql, args...); err != nil {
		e.T.Fatal(err)
	}
}

// TryExec is Exec for statements that are expected to be refused.
func (e *Env) TryExec(sql string, args ...any) error {
	return e.past.with(e.URL, func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, sql, args...)
		return err
	})
}

// Hold runs SQL in a transaction that stays open until commit is called.
func (e *Env) Hold(sql string) (commit func(), err error) {
	e.T.Helper()
	c, err := pgx.Connect(e.T.Context(), e.URL)
	if err != nil {
		return nil, err
	}
	if _, err = c.Exec(e.T.Context(), "BEGIN; "+sql); err != nil {
		return nil, err
	}
	return func() {
		e.T.Helper()
		if _, err := c.Exec(context.Background(), "COMMIT"); err != nil {
			e.T.Error(err)
		}
		_ = c.Close(context.Background())
	}, nil
}

// Int runs a query that returns one number.
func (e *Env) Int(sql string, args ...any) (n int64) {
	e.T.Helper()
	e.one(&n, sql, args...)
	return n
}

// Bytes runs a query that returns one bytea.
func (e *Env) Bytes(sql string, args ...any) (b []byte) {
	e.T.Helper()
	e.one(&b, sql, args...)
	return b
}

func (e *Env) one(value any, sql string, args ...any) {
	e.T.Helper()
	err := e.past.with(e.URL, func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, sql, args...).Scan(value)
	})
	if err != nil {
		e.T.Fatal(err)
	}
}

// Dump returns the whole database as pg_dump writes it.
func (e *Env) Dump() []byte {
	e.T.Helper()
	bin, err := devpg.FindBinaries(os.Getenv("TRAKR_POSTGRES_BIN"))
	if err != nil {
		e.T.Fatal(err)
	}
	url := strings.Replace(e.URL, "&require_auth=scram-sha-256", "", 1) // libpq 15 does not know it
	cmd := exec.CommandContext(e.T.Context(), filepath.Join(bin, "pg_dump"), "--dbname", url, "--inserts")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		e.T.Fatalf("pg_dump: %v: %s", err, errs.String())
	}
	return out.Bytes()
}

// Breaks returns the ways in which writing the audit can fail, each as SQL that causes the
// failure. The last one lets every statement succeed and the COMMIT fail.
func Breaks() map[string]string {
	return map[string]string{
		"insert refused": `CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS
				$$ BEGIN RAISE EXCEPTION 'broken'; END $$;
			CREATE TRIGGER no BEFORE INSERT ON trakr.audit_events FOR EACH ROW EXECUTE FUNCTION public.no()`,
		"function missing": `DROP FUNCTION door.append(bytea[])`,
		"table missing":    `ALTER TABLE trakr.audit_events RENAME TO gone`,
		"constraint":       `ALTER TABLE trakr.audit_events ADD CONSTRAINT none CHECK (event_id IS NULL) NOT VALID`,
		"commit fails": `CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS
				$$ BEGIN RAISE EXCEPTION 'too late'; END $$;
			CREATE CONSTRAINT TRIGGER late AFTER INSERT ON trakr.audit_events
				DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.late()`,
	}
}

// Ingress is the access of a verified callback.
func Ingress() lifecycle.Access {
	return lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorBitbucket, ID: "connect", Role: lifecycle.RoleIngress},
		Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation}, RequestID: "req-test"}
}

// Service is the access of another part of the product.
func Service() lifecycle.Access {
	return lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorService, ID: "token:test", Role: lifecycle.RoleService},
		Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation}, RequestID: "req-test"}
}

// Values are made-up values of one tenant, one for each field. All but the UUID contain
// the marker.
func Values(marker string) lifecycle.Values {
	id := lifecycle.NewTenantID().String()
	values := lifecycle.Values{
		lifecycle.ClientKey:     lifecycle.NewSecret("ari:cloud:bitbucket::app/{" + id + "}/trakr-" + marker),
		lifecycle.SharedSecret:  lifecycle.NewSecret("secret-" + marker),
		lifecycle.PrincipalUUID: lifecycle.NewSecret(id),
		lifecycle.AvatarURL:     lifecycle.NewSecret("https://bitbucket.org/account/" + marker + "/avatar/"),
	}
	for _, f := range lifecycle.Fields() {
		if _, given := values[f]; !given {
			values[f] = lifecycle.NewSecret(string(f) + "-" + marker)
		}
	}
	return values
}

// Delivery returns a signed callback of the current time. Each name gives another delivery.
func (e *Env) Delivery(name string) tenants.Delivery {
	now := e.Clock.Now()
	d := tenants.Delivery{Ingress: lifecycle.Connect, IssuedAt: now, Remember: now.Add(time.Hour), ReceivedAt: now}
	copy(d.TokenHash[:], name+strings.Repeat(".", 32))
	return d
}

// Install installs a tenant.
func (e *Env) Install(values lifecycle.Values, delivery string) lifecycle.TenantID {
	e.T.Helper()
	id, result, err := e.Door.Install(e.T.Context(), Ingress(), values, e.Delivery(delivery))
	if err != nil || result != tenants.Applied {
		e.T.Fatalf("installing: %s, %v", result, err)
	}
	return id
}

// Events returns the whole audit, oldest first.
func (e *Env) Events() []audit.Event {
	e.T.Helper()
	var out []audit.Event
	if err := e.Log.Each(e.T.Context(), audit.Filter{}, func(ev audit.Event) error { out = append(out, ev); return nil }); err != nil {
		e.T.Fatal(err)
	}
	return out
}
