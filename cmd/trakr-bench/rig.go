package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"trakr/internal/app"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/platform/config"
	"trakr/internal/platform/devpg"
	"trakr/internal/platform/telemetry"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/tenants"
	"trakr/policy"
)

const (
	tenantCount = 1000
	template    = "bench_template"
)

// read are the fields that every read of the benchmark asks for.
var read = []lifecycle.Field{lifecycle.Username, lifecycle.AvatarURL}

// who reads: another part of the product, with a request id as long as a real one.
var who = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorService, ID: "token:0123abcd", Role: lifecycle.RoleService},
	Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation}, RequestID: "01890000-0000-7000-8000-00000000bec4"}

// reviewer exports and verifies.
var reviewer = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorStaff, ID: "token:4567cdef", Role: lifecycle.RoleReviewer},
	Reason: lifecycle.Reason{Code: lifecycle.ReviewerExport, Ref: "BENCH-1"}, RequestID: who.RequestID}

// rig is the private server with a template database: migrated, tenants installed,
// an audit that holds their installation only.
type rig struct {
	server    *devpg.Server
	version   string
	admin     *pgx.Conn
	telemetry *telemetry.Telemetry
	dir       string // the data directory of every database: keys, ledger, checkpoints
	policy    *policy.Policy
	tenants   []lifecycle.TenantID
	databases int

	connections int32 // of each pool
}

// newRig starts the server. After a failure nothing is left of it.
func newRig(ctx context.Context, connections int) (_ *rig, err error) {
	r := &rig{connections: int32(connections)}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	// Durable, unlike the tests' server.
	r.server, err = devpg.Temporary(ctx, devpg.Config{BinDir: os.Getenv("TRAKR_POSTGRES_BIN"),
		Settings: map[string]string{"fsync": "on", "full_page_writes": "on", "autovacuum": "off",
			"max_connections": strconv.Itoa(4*connections + 20)}})
	if err != nil {
		return nil, err
	}
	if r.admin, err = pgx.Connect(ctx, r.server.URL()); err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	if err := r.durable(ctx); err != nil {
		return nil, err
	}
	if r.dir, err = os.MkdirTemp("", "trakr-bench-"); err != nil {
		return nil, err
	}
	if r.policy, err = policy.Default(); err != nil {
		return nil, err
	}
	r.telemetry, err = telemetry.Setup(ctx, telemetry.Config{Service: "trakr", Version: "bench", LogWriter: io.Discard,
		LogLevel: slog.LevelInfo})
	if err != nil {
		return nil, err
	}
	return r, r.makeTemplate(ctx)
}

// durable refuses a server whose commits do not reach the disk.
func (r *rig) durable(ctx context.Context) error {
	var fsync, commit string
	err := r.admin.QueryRow(ctx, `SELECT current_setting('fsync'), current_setting('synchronous_commit'),
		current_setting('server_version')`).Scan(&fsync, &commit, &r.version)
	if err == nil && (fsync != "on" || commit != "on") {
		err = errors.New("the server's commits are not durable")
	}
	return err
}

// close stops the server, which removes its directory.
func (r *rig) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	if r.telemetry != nil {
		errs = append(errs, r.telemetry.Shutdown(ctx))
	}
	if r.admin != nil {
		_ = r.admin.Close(ctx)
	}
	if r.server != nil {
		errs = append(errs, r.server.Stop(ctx))
	}
	if r.dir != "" {
		errs = append(errs, os.RemoveAll(r.dir))
	}
	return errors.Join(errs...)
}

func (r *rig) makeTemplate(ctx context.Context) error {
	if _, err := r.admin.Exec(ctx, "CREATE DATABASE "+template); err != nil {
		return fmt.Errorf("making the template: %w", err)
	}
	if _, err := store.Migrate(ctx, within(r.server.URL(), template)); err != nil {
		return err
	}
	d, err := r.open(ctx, template)
	if err != nil {
		return err
	}
	defer d.close()
	r.tenants, err = install(ctx, d.door)
	return err
}

// install makes the tenants, each as a verified callback does.
func install(ctx context.Context, door *tenants.Door) ([]lifecycle.TenantID, error) {
	ingress := lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorBitbucket, ID: "connect", Role: lifecycle.RoleIngress},
		Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation}, RequestID: who.RequestID}
	var out []lifecycle.TenantID
	for range tenantCount {
		name := lifecycle.NewTenantID().String()
		id, _, err := door.Install(ctx, ingress, lifecycle.Values{
			lifecycle.ClientKey:     lifecycle.NewSecret("ari:cloud:bitbucket::app/{" + name + "}/trakr"),
			lifecycle.SharedSecret:  lifecycle.NewSecret(name + name),
			lifecycle.PrincipalUUID: lifecycle.NewSecret(name),
			lifecycle.Username:      lifecycle.NewSecret("workspace-" + name[:8]),
			lifecycle.AvatarURL:     lifecycle.NewSecret("https://bitbucket.org/workspaces/" + name[:8] + "/avatar/"),
		}, tenants.Delivery{Ingress: lifecycle.Connect, ReceivedAt: time.Now()})
		if err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, nil
}

// database is one database as the service works on it, and a plain pool beside
// the product's for what it is compared with.
type database struct {
	name  string
	app   *app.App // opened as a command opens it
	db    *store.DB
	log   *audit.Log
	door  *tenants.Door
	keys  *keyring.Keyring
	plain *pgxpool.Pool // superuser: no rule of the database's slows it
}

// fresh opens a new copy of the template.
func (r *rig) fresh(ctx context.Context) (*database, error) {
	name, err := r.copyOf(ctx, template)
	if err != nil {
		return nil, err
	}
	return r.open(ctx, name)
}

// copyOf copies a database without connections.
func (r *rig) copyOf(ctx context.Context, from string) (string, error) {
	r.databases++
	name := fmt.Sprintf("bench_%d", r.databases)
	if _, err := r.admin.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+from); err != nil {
		return "", fmt.Errorf("copying a database: %w", err)
	}
	// PostgreSQL does not copy the grants on the database itself; these are those of
	// deploy/roles.sql, and the service refuses to start without them.
	_, err := r.admin.Exec(ctx, "REVOKE ALL ON DATABASE "+name+" FROM PUBLIC; GRANT CREATE ON DATABASE "+name+" TO trakr_owner;"+
		"GRANT CONNECT ON DATABASE "+name+" TO trakr_owner, trakr_service, trakr_reader, trakr_backup")
	if err != nil {
		return "", fmt.Errorf("granting on a copy: %w", err)
	}
	return name, nil
}

// checkpoint writes to disk what a preparation left in memory, so that no round
// pays for it.
func (r *rig) checkpoint(ctx context.Context) error {
	_, err := r.admin.Exec(ctx, "CHECKPOINT")
	return err
}

func (r *rig) open(ctx context.Context, name string) (_ *database, err error) {
	d := &database{name: name}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	login, err := r.server.LoginURL(ctx, store.ServiceRole)
	if err != nil {
		return nil, err
	}
	cfg, err := config.Load([]string{"TRAKR_DATABASE_URL=" + within(login, name), "TRAKR_DATA_DIR=" + r.dir}, false)
	if err != nil {
		return nil, err
	}
	d.app, err = app.Open(ctx, app.Options{
		Mode: app.Command, Config: cfg, Version: "bench", Now: time.Now, Telemetry: r.telemetry, MaxConns: r.connections,
	})
	if err != nil {
		return nil, err
	}
	d.db, d.log, d.door, d.keys = d.app.DB, d.app.Audit, d.app.Door, d.app.Keys
	d.plain, err = r.plainPool(ctx, name)
	return d, err
}

func (r *rig) plainPool(ctx context.Context, name string) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig(within(r.server.URL(), name))
	if err != nil {
		return nil, errors.New("the private server's address cannot be read") // the error itself may quote it
	}
	c.MaxConns = r.connections
	return pgxpool.NewWithConfig(ctx, c)
}

// close ends what open began.
func (d *database) close() {
	if d.app != nil {
		_ = d.app.Close()
	}
	if d.plain != nil {
		d.plain.Close()
	}
}

// within is the connection string of another database of the same server.
func within(server, database string) string {
	u, err := url.Parse(server)
	if err != nil {
		return ""
	}
	u.Path = "/" + database
	return u.String()
}
