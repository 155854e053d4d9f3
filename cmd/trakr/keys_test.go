package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"trakr/internal/app"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/platform/devpg"
	"trakr/internal/rotation"
	"trakr/internal/store/storetest"
)

// vaultOfTenants is a running service with many tenants whose values the test knows.
type vaultOfTenants struct {
	*machine
	db     *pgx.Conn
	token  string
	ids    []lifecycle.TenantID
	values map[lifecycle.TenantID]lifecycle.Values

	mu                  sync.Mutex
	reads, installs     int
	failed, wrongValues []string
}

func (m *machine) keyFile() string {
	if m.keys != "" {
		return m.keys
	}
	return filepath.Join(m.dir, "data/keys.json")
}

// keysOnDisk puts the keyring's file on a disk: one in memory, where the machine may be, is
// not changed in place.
func (m *machine) keysOnDisk() {
	m.t.Helper()
	m.keys = filepath.Join(m.t.TempDir(), "keys.json")
	m.env = append(m.env, "TRAKR_KEYS="+m.keys)
}

func (m *machine) keyring() *keyring.Keyring {
	m.t.Helper()
	return storetest.Must(m.t)(keyring.Load(m.keyFile())).(*keyring.Keyring)
}

// fill puts tenants into the database of a running service in one go, sealed as the
// service seals.
func fillTenants(m *machine, n int) *vaultOfTenants {
	m.t.Helper()
	must := storetest.Must(m.t)
	v := &vaultOfTenants{machine: m, values: map[lifecycle.TenantID]lifecycle.Values{}}
	pg := must(devpg.Attach(m.t.Context(), devpg.Config{DataDir: filepath.Join(m.dir, "data/postgres"), BinDir: os.Getenv("TRAKR_POSTGRES_BIN"), Logger: slog.New(slog.DiscardHandler)})).(*devpg.Server)
	v.db = must(pgx.Connect(m.t.Context(), pg.URL())).(*pgx.Conn)
	m.t.Cleanup(func() { _ = v.db.Close(context.Background()) })
	keys := m.keyring()
	var tenants, fields [][]any
	for i := range n {
		id, values := lifecycle.NewTenantID(), storetest.Values(strconv.Itoa(i))
		v.ids = append(v.ids, id)
		v.values[id] = values
		subject := must(keys.Digest(keyring.Subject, values[lifecycle.ClientKey])).(keyring.Digest)
		principal := must(keys.Digest(keyring.Principal, values[lifecycle.PrincipalUUID])).(keyring.Digest)
		now := time.Now().UTC()
		tenants = append(tenants, []any{id.String(), "connect", "live", []byte(subject), []byte(principal), now, now})
		row := []any{id.String()}
		for _, f := range lifecycle.Fields() {
			row = append(row, must(keys.Encrypt(id, f, values[f])))
		}
		fields = append(fields, append(row, now))
	}
	for _, c := range []struct {
		table   string
		columns []string
		rows    [][]any
	}{
		{"tenants", []string{"tenant_id", "ingress", "state", "subject_digest", "principal_digest", "installed_at", "updated_at"}, tenants},
		{"tenant_fields", []string{"tenant_id", "client_key", "shared_secret", "principal_uuid", "username", "avatar_url", "written_at"}, fields},
	} {
		must(v.db.CopyFrom(m.t.Context(), pgx.Identifier{"trakr", c.table}, c.columns, pgx.CopyFromRows(c.rows)))
	}
	var made struct{ Token string }
	m.jsonOf(&made, "token", "create", "--role", "service", "--label", "keys", "--json")
	v.token = made.Token
	return v
}

// read asks for one username and compares it.
func (v *vaultOfTenants) read(ctx context.Context, client *http.Client, id lifecycle.TenantID) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+v.priv+"/v1/tenants/"+id.String()+"/reads",
		strings.NewReader(`{"fields":["username"],"reason":{"code":"service_operation"}}`))
	if err != nil {
		v.t.Error(err)
		return
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+v.token)
	resp, err := client.Do(req)
	if ctx.Err() != nil {
		return
	}
	var got struct {
		Type   string
		Fields map[string]string
	}
	status := 0
	if err == nil {
		status = resp.StatusCode
		err = json.NewDecoder(resp.Body).Decode(&got)
		_ = resp.Body.Close()
	}
	if ctx.Err() != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reads++
	switch {
	case err != nil || status != http.StatusOK:
		v.failed = append(v.failed, fmt.Sprintf("read: %d %s %v", status, got.Type, err))
	case got.Fields["username"] != v.values[id][lifecycle.Username].Reveal():
		v.wrongValues = append(v.wrongValues, id.String())
	}
}

// install makes one more tenant, as Bitbucket would.
func (v *vaultOfTenants) install(ctx context.Context, client *http.Client, name string) {
	w := customer{m: v.machine, key: name, secret: lifecycle.NewSecret("a secret of the test's own, long enough"), uuid: uuid.NewString()}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+v.pub+"/connect/installed", strings.NewReader(w.payload("installed")))
	if err != nil {
		v.t.Error(err)
		return
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if ctx.Err() != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.installs++
	switch {
	case err != nil:
		v.failed = append(v.failed, "install: "+err.Error())
	case resp.StatusCode != http.StatusNoContent:
		b, _ := io.ReadAll(resp.Body)
		v.failed = append(v.failed, fmt.Sprintf("install: %d %s", resp.StatusCode, b))
	}
	if err == nil {
		_ = resp.Body.Close()
	}
}

// load reads and installs until the returned function is called.
func (v *vaultOfTenants) load() (stop func()) {
	ctx, cancel := context.WithCancel(v.t.Context())
	client := &http.Client{Timeout: 30 * time.Second}
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			for k := i; ctx.Err() == nil; k += 2 {
				v.read(ctx, client, v.ids[k%len(v.ids)])
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	wg.Go(func() {
		for k := 0; ctx.Err() == nil; k++ {
			v.install(v.t.Context(), client, fmt.Sprint("arrival-", k)) // one that is under way is finished
			time.Sleep(50 * time.Millisecond)
		}
	})
	return func() { cancel(); wg.Wait(); client.CloseIdleConnections() }
}

// sealed opens every value that lies in the database with a keyring and compares it,
// and returns how many there are and how many did not open.
func (v *vaultOfTenants) sealed(keys *keyring.Keyring) (values, closed int) {
	v.t.Helper()
	must := storetest.Must(v.t)
	rows := must(v.db.Query(v.t.Context(), `SELECT tenant_id::text, client_key, shared_secret, principal_uuid, username, avatar_url FROM trakr.tenant_fields`)).(pgx.Rows)
	var id string
	var b [5][]byte
	seen := map[lifecycle.TenantID]bool{}
	must(pgx.ForEachRow(rows, []any{&id, &b[0], &b[1], &b[2], &b[3], &b[4]}, func() error {
		tenant, err := lifecycle.ParseTenantID(id)
		seen[tenant] = true
		for i, f := range lifecycle.Fields() {
			if b[i] == nil {
				continue
			}
			values++
			got, err := keys.Decrypt(tenant, f, b[i])
			if err != nil {
				closed++
			} else if want, known := v.values[tenant]; known && got != want[f] {
				v.t.Errorf("%s of a tenant is not what it was", f)
			}
		}
		return err
	}))
	for _, id := range v.ids {
		if !seen[id] {
			v.t.Errorf("the values of %s are lost", id)
		}
	}
	return values, closed
}

// A thousand tenants, read and joined by others all the while, and one that leaves: the
// command is killed as soon as each of its steps is durable and run again, until it is
// through. No read and no install fails.
func TestKeysAreRotatedUnderLoadAndKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	m := usedMachine(t)
	m.keysOnDisk()
	m.env = append(m.env, "TRAKR_DEV_SKIP_PROOF=true")
	service, out := m.serve()
	leaver := m.customer("leaver")
	v := fillTenants(m, 1000)
	before, stored := m.keyring(), storetest.Must(t)(os.ReadFile(m.keyFile())).([]byte)
	old := before.Active()
	if n, closed := v.sealed(before); n != 5005 || closed != 0 {
		t.Fatalf("%d values, %d do not open", n, closed)
	}
	var plan rotation.Plan
	m.jsonOf(&plan, "keys", "rotate", "--dry-run", "--json")
	if plan.Underway || plan.Active != old || plan.New != 0 || plan.Values != 5005 || plan.Services != 1 {
		t.Errorf("%+v", plan)
	}

	stop := v.load()
	for _, step := range []string{rotation.Stage, rotation.Activate, rotation.Batch + " 2", rotation.Reencrypt, rotation.Unlist} {
		c := exec.CommandContext(t.Context(), os.Args[0], "keys", "rotate", "--reason-ref", "OPS-12")
		c.Env, c.Dir = append(slices.Clone(m.env), "TRAKR_TEST_KILL_AFTER="+step), m.dir
		said, err := c.CombinedOutput()
		if err == nil || c.ProcessState.ExitCode() != -1 {
			t.Fatalf("the command was not killed after %s: %v\n%s", step, err, said)
		}
		if _, closed := v.sealed(m.keyring()); closed != 0 {
			t.Fatalf("after %s %d values do not open with the keyring that is stored", step, closed)
		}
		if step == rotation.Batch+" 2" {
			leaver.uninstall()
		}
	}
	var done rotation.Done
	m.jsonOf(&done, "keys", "rotate", "--reason-ref", "OPS-12", "--json")
	if !done.Resumed || !done.Destroyed || !slices.Equal(done.Old, []keyring.KeyID{old}) {
		t.Errorf("%+v", done)
	}
	time.Sleep(app.RecordEvery + time.Second) // the service takes over a keyring without the old key
	stop()

	if len(v.failed)+len(v.wrongValues) > 0 || v.reads < 200 || v.installs < 20 {
		t.Errorf("of %d reads and %d installs %d failed, %d were wrong; the first: %v\n%s", v.reads, v.installs, len(v.failed), len(v.wrongValues), v.failed[:min(3, len(v.failed))], tail(out.String()))
	}
	t.Logf("%d reads, %d installs", v.reads, v.installs)
	after := m.keyring()
	n, closed := v.sealed(after)
	if closed != 0 || n < 5000 {
		t.Errorf("%d of %d values do not open", closed, n)
	}
	if all, opened := v.sealed(before); opened != all {
		t.Errorf("the keyring from before opens %d values", all-opened)
	}
	b := storetest.Must(t)(os.ReadFile(m.keyFile())).([]byte)
	if slices.Contains(after.FieldKeys(), old) || bytes.Contains(b, []byte(old.String())) {
		t.Error("the old key is in the file")
	}
	var shown struct {
		FieldKeys []struct {
			KeyID  keyring.KeyID `json:"key_id"`
			State  string
			Held   bool
			Values int
		} `json:"field_keys"`
		Services []struct {
			KeyIDs []keyring.KeyID `json:"key_ids"`
		}
	}
	m.jsonOf(&shown, "keys", "show", "--json")
	if len(shown.FieldKeys) != 2 || shown.FieldKeys[0].State != "destroyed" || shown.FieldKeys[0].Values != 0 || shown.FieldKeys[1].State != "active" || shown.FieldKeys[1].Values != n ||
		len(shown.Services) != 1 || !slices.Equal(shown.Services[0].KeyIDs, []keyring.KeyID{done.Active}) {
		t.Errorf("%+v", shown)
	}
	if s := m.trakr(exitClean, "keys", "rotate", "--resume"); !strings.Contains(s, "no rotation is under way") {
		t.Error(s)
	}
	if s := m.trakr(exitClean, "tenant", "lookup", "--client-key", "leaver", "--reason-ref", "OPS-1"); !strings.Contains(s, "erased") {
		t.Errorf("the one that left: %s", s)
	}
	m.trakr(exitClean, "audit", "verify")

	// With another keyring, half of one, or the one from before, nothing is rotated and
	// nothing is written; the service that runs goes on with what it has.
	m.spoiled(b, stored)
	v.read(t.Context(), http.DefaultClient, v.ids[0])
	if len(v.failed) > 0 {
		t.Error(v.failed)
	}
	m.stop(service)
	storetest.Must(t)(0, os.WriteFile(m.keyFile(), stored, 0o600))
	if s := m.trakr(exitCannotTell, "serve", "--dev"); !strings.Contains(s, "does not have the field key") {
		t.Errorf("the service with the keyring from before: %s", s)
	}
}

// spoiled runs commands with keyrings that are not the right one, and puts that back.
func (m *machine) spoiled(whole, before []byte) {
	m.t.Helper()
	must := storetest.Must(m.t)
	other := must(keyring.Marshal()).([]byte)
	for name, c := range map[string]struct {
		content []byte
		says    string
	}{
		"cut short":   {whole[:len(whole)/2], "restore the file"},
		"empty":       {nil, "restore the file"},
		"another one": {other, "another keyring"},
		"from before": {before, "does not have the field key"},
	} {
		must(0, os.WriteFile(m.keyFile(), c.content, 0o600))
		if s := m.trakr(exitCannotTell, "keys", "rotate"); !strings.Contains(s, c.says) {
			m.t.Errorf("a keyring %s: %s", name, s)
		}
		if b := must(os.ReadFile(m.keyFile())).([]byte); !bytes.Equal(b, c.content) {
			m.t.Errorf("a keyring %s was written over", name)
		}
	}
	must(0, os.WriteFile(m.keyFile(), whole, 0o600))
	m.trakr(exitClean, "keys", "show")
}
