package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"trakr/deploy"
	"trakr/internal/connect"
	"trakr/internal/lifecycle"
	"trakr/internal/platform/devpg"
)

// A dump from before two erasures and a legal hold is restored on a new server: the
// tenants never answer, because they are erased again before anything is served, and
// what the law keeps of one is still there. Without the whole ledger nothing starts.
func TestARestoredDumpIsErasedAgainBeforeAnythingIsServed(t *testing.T) {
	t.Parallel()
	m := usedMachine(t)
	m.env = append(m.env, "TRAKR_DEV_SKIP_PROOF=true")
	c, _ := m.serve()
	held, gone := m.customer("held-marker"), m.customer("gone-marker")
	var made struct{ Token string }
	m.jsonOf(&made, "token", "create", "--role", "service", "--label", "restore", "--json")
	p := &tour{machine: m, refused: map[int]int{}, token: made.Token}
	for _, w := range []customer{held, gone} {
		p.read(t.Context(), http.DefaultClient, w.tenant)
	}
	if len(p.released) != 2 {
		t.Fatal("the tenants do not answer before anything happened")
	}
	m.dump("backup.dump")

	// The dump knows nothing of what follows.
	var hold struct {
		ID string `json:"hold_id"`
	}
	m.jsonOf(&hold, "hold", "place", held.tenant, "--ground", "authority_order", "--until", time.Now().Add(24*time.Hour).UTC().Format(time.RFC3339), "--reason-ref", "LEG-7", "--json")
	held.uninstall()
	gone.uninstall()
	m.awaitPlace(gone.tenant) // the checkpoint outside the database knows of it
	m.stop(c)
	lines := m.ledgerLines()
	if len(lines) != 4 {
		t.Fatalf("the ledger has %d lines, want its head, a hold and two erasures", len(lines))
	}
	must(t, os.RemoveAll(filepath.Join(m.dir, "data/postgres")))
	m.restore("backup.dump")

	path := filepath.Join(m.dir, "data/ledger.ndjson")
	for _, c := range []struct {
		name        string
		spoil, mend func() error
		want        string
	}{
		{"removed", func() error { return os.Rename(path, path+".away") }, func() error { return os.Rename(path+".away", path) }, "missing"},
		{"cut", func() error { return os.WriteFile(path, []byte(lines[0]), 0o600) },
			func() error { return os.WriteFile(path, []byte(strings.Join(lines, "")+"\n"), 0o600) }, "shortened"},
	} {
		must(t, c.spoil())
		for _, command := range [][]string{{"serve", "--dev"}, {"restore", "replay"}, {"tenant", "show", gone.tenant}} {
			if s := m.trakr(exitCannotTell, command...); !strings.Contains(s, c.want) || !strings.Contains(s, "ledger") {
				t.Errorf("%s, trakr %s: %s", c.name, command[0], s)
			}
		}
		must(t, c.mend())
	}
	if s := m.trakr(exitCannotTell, "tenant", "show", gone.tenant); !strings.Contains(s, "2 tenants") || !strings.Contains(s, "1 legal holds") || !strings.Contains(s, "trakr restore replay") {
		t.Errorf("before the replay a command says: %s", s)
	}

	s := m.trakr(exitClean, "migrate") + m.trakr(exitClean, "restore", "replay", "--accept-cut-log", "--reason-ref", "OPS-12")
	for _, want := range []string{"1 legal holds were missing and are placed again", "2 tenants had come back", "of 1 a legal hold keeps the values", "is kept as"} {
		if !strings.Contains(s, want) {
			t.Errorf("the replay does not say %q: %s", want, s)
		}
	}
	c, _ = m.serve()
	for _, w := range []customer{held, gone} {
		p.read(t.Context(), http.DefaultClient, w.tenant)
	}
	if len(p.released) != 2 || p.refused[http.StatusGone] != 2 {
		t.Errorf("after the restore they answered: %+v", p.refused)
	}
	m.trakr(exitClean, "sweep", "run", "erasures")
	m.erasedAgain(map[string]string{held.tenant: "begun", gone.tenant: "certified"})
	if left := m.sql("SELECT tenant_id FROM trakr.tenant_fields"); left != held.tenant {
		t.Errorf("values are left of %q, want of the tenant that is held alone", left)
	}
	if s := m.trakr(exitClean, "hold", "list"); !strings.Contains(s, hold.ID) || !strings.Contains(s, "ledger-at-restore") || !strings.Contains(s, "authority_order") {
		t.Errorf("the hold is shown as %s", s)
	}

	m.trakr(exitClean, "hold", "release", hold.ID, "--reason-ref", "LEG-8")
	m.trakr(exitClean, "sweep", "run", "erasures")
	certified := m.erasedAgain(map[string]string{held.tenant: "certified", gone.tenant: "certified"})
	if left := m.sql("SELECT tenant_id FROM trakr.tenant_fields"); left != "" {
		t.Errorf("values are left of %q", left)
	}
	key := strings.TrimSpace(m.trakr(exitClean, "audit", "checkpoint", "--key"))
	m.trakr(exitClean, "erasure", "certificate", certified[held.tenant], "--out", "certificate.json")
	m.trakr(exitClean, "verify", "certificate.json", "--key", key)
	m.trakr(exitClean, "audit", "verify")
	if s := m.trakr(exitClean, "restore", "replay"); !strings.Contains(s, "0 tenants had come back") {
		t.Errorf("a second replay: %s", s)
	}
	// What is tied stays tied, and only a person with a ticket ties.
	m.trakr(exitUsage, "restore", "bind-ledger")
	if s := m.trakr(exitClean, "restore", "bind-ledger", "--reason-ref", "OPS-13"); !strings.Contains(s, "is tied to the ledger") {
		t.Errorf("binding again: %s", s)
	}
	m.stop(c)
}

// awaitPlace waits until the deletion of a tenant stands in the log.
func (m *machine) awaitPlace(tenant string) {
	m.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		var newest struct {
			Events []struct {
				LogIndex *int64 `json:"log_index"`
			}
		}
		m.jsonOf(&newest, "audit", "list", "--tenant", tenant, "--action", "tenant.erase", "--limit", "1", "--json")
		if len(newest.Events) == 1 && newest.Events[0].LogIndex != nil {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatal("the deletion got no place in the log")
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// erasedAgain checks each tenant's state, and returns the erasures' ids.
func (m *machine) erasedAgain(want map[string]string) map[string]string {
	m.t.Helper()
	ids := map[string]string{}
	for _, x := range m.erasures() {
		ids[x.TenantID] = x.ErasureID
		if x.Trigger != "restore_replay" || string(x.State) != want[x.TenantID] {
			m.t.Errorf("%+v, want %s", x, want[x.TenantID])
		}
	}
	if len(ids) != len(want) {
		m.t.Errorf("%d tenants are erased, want %d", len(ids), len(want))
	}
	return ids
}

// postgres runs one of PostgreSQL's own programs on the running private server.
func (m *machine) postgres(s *devpg.Server, url, program string, args ...string) string {
	m.t.Helper()
	bin, err := devpg.FindBinaries(os.Getenv("TRAKR_POSTGRES_BIN"))
	must(m.t, err)
	if url == "" {
		url = s.URL()
	}
	url = strings.Replace(url, "&require_auth=scram-sha-256", "", 1) // libpq 15 does not know it
	cmd := exec.CommandContext(m.t.Context(), filepath.Join(bin, program), append([]string{"--dbname", url}, args...)...)
	cmd.Dir = m.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		m.t.Fatalf("%s: %v: %s", program, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (m *machine) server() devpg.Config {
	return devpg.Config{DataDir: filepath.Join(m.dir, "data/postgres"), BinDir: os.Getenv("TRAKR_POSTGRES_BIN")}
}

// dump backs the running service up, as the role that is there for it.
func (m *machine) dump(file string) {
	m.t.Helper()
	s, err := devpg.Attach(m.t.Context(), m.server())
	must(m.t, err)
	url, err := s.LoginURL(m.t.Context(), "trakr_backup")
	must(m.t, err)
	m.postgres(s, url, "pg_dump", "-Fc", "--file", file)
}

// restore puts a dump into a new server, as an administrator, by the runbook.
func (m *machine) restore(file string) {
	m.t.Helper()
	s, err := devpg.Start(m.t.Context(), m.server())
	must(m.t, err)
	roles := filepath.Join(m.dir, "roles.sql")
	must(m.t, os.WriteFile(roles, []byte(deploy.Roles), 0o600))
	m.postgres(s, "", "psql", "--quiet", "--set", "ON_ERROR_STOP=1", "--file", roles)
	m.postgres(s, "", "pg_restore", "--clean", "--if-exists", "--exit-on-error", file)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	must(m.t, s.Stop(ctx))
}

// sql asks the running server past every door.
func (m *machine) sql(query string) string {
	m.t.Helper()
	s, err := devpg.Attach(m.t.Context(), m.server())
	must(m.t, err)
	return m.postgres(s, "", "psql", "-Atc", query)
}

// customer is a workspace whose secret the test knows.
type customer struct {
	m         *machine
	key, uuid string
	secret    lifecycle.Secret
	tenant    string
}

// customer installs a new one.
func (m *machine) customer(key string) customer {
	m.t.Helper()
	w := customer{m: m, key: key, uuid: uuid.NewString(), secret: lifecycle.NewSecret("a secret of the test's own, long enough")}
	w.send("/connect/installed", "installed", "")
	var newest struct {
		Events []struct {
			TenantID string `json:"tenant_id"`
		}
	}
	m.jsonOf(&newest, "audit", "list", "--action", "tenant.install", "--outcome", "success", "--limit", "1", "--json")
	w.tenant = newest.Events[0].TenantID
	return w
}

func (w customer) payload(event string) string {
	return `{"eventType":"` + event + `","key":"trakr","clientKey":"` + w.key + `","sharedSecret":"` + w.secret.Reveal() + `","baseUrl":"https://bitbucket.org","productType":"bitbucket",
		"principal":{"uuid":"{` + w.uuid + `}","username":"marker","type":"team","links":{"avatar":{"href":"https://bitbucket.org/a.png"}}}}`
}

func (w customer) send(path, event, token string) {
	w.m.t.Helper()
	req, err := http.NewRequestWithContext(w.m.t.Context(), http.MethodPost, "http://"+w.m.pub+path, strings.NewReader(w.payload(event)))
	if err != nil {
		w.m.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "JWT "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.m.t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		w.m.t.Fatalf("%s: %d %s", path, resp.StatusCode, b)
	}
}

func (w customer) uninstall() {
	base := "http://" + w.m.pub
	key := lifecycle.NewSecret(w.key)
	token, err := connect.Mint(connect.Claims{Issuer: key, Audience: key, IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
		QSH: connect.QSH(http.MethodPost, base+"/connect/uninstalled", base)}, w.secret)
	if err != nil {
		w.m.t.Fatal(err)
	}
	w.send("/connect/uninstalled", "uninstalled", token.Reveal())
}
