package main

import (
	"encoding/json"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"trakr/internal/platform/devpg"
	"trakr/internal/store"
	"trakr/internal/store/instances"
	"trakr/internal/store/storetest"
	"trakr/policy"
)

// outside is a machine whose service would talk to Bitbucket itself.
func outside(t *testing.T, env ...string) *machine {
	m := newMachine(t)
	m.env = slices.DeleteFunc(m.env, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return name == "TRAKR_BITBUCKET_API_URL" || strings.HasPrefix(name, "PG") || strings.HasSuffix(strings.ToLower(name), "_proxy")
	})
	m.env = append(m.env, env...)
	return m
}

// The start judges what the settings resolve to, with what PostgreSQL's and HTTP's own
// variables make of them.
func TestNobodyIsReachedByTheWayOfTheEnvironment(t *testing.T) {
	services := filepath.Join(t.TempDir(), "services")
	must(t, os.WriteFile(services, []byte("[elsewhere]\nhost=203.0.113.9\npassword=MARKER\n"), 0o600))
	const database = "TRAKR_DATABASE_URL=postgres:///trakr?user=x&sslmode=require"
	const undeclared = "the policy does not declare the host 203.0.113.9 for any database"
	for name, c := range map[string]struct {
		env  []string
		want []string
	}{
		"PGHOST":             {[]string{database, "PGHOST=203.0.113.9", "PGPASSWORD=MARKER"}, []string{"host TRAKR_DATABASE_URL: " + undeclared, "Way out: ", "PGHOST"}},
		"a service file":     {[]string{database, "PGSERVICE=elsewhere", "PGSERVICEFILE=" + services}, []string{"host TRAKR_DATABASE_URL: " + undeclared, "Way out: ", "PGSERVICE"}},
		"no such service":    {[]string{database, "PGSERVICE=nowhere", "PGSERVICEFILE=" + services}, []string{"TRAKR_DATABASE_URL cannot be read", "PGSERVICE"}},
		"PGHOST, migrations": {[]string{"TRAKR_MIGRATION_DATABASE_URL=postgres:///trakr?user=x&sslmode=require", "PGHOST=203.0.113.9"}, []string{"host TRAKR_MIGRATION_DATABASE_URL: " + undeclared, "Way out: "}},
		"the second of two":  {[]string{"TRAKR_DATABASE_URL=postgres://x:MARKER@127.0.0.1,203.0.113.9/trakr?sslmode=require"}, []string{undeclared, "Way out: "}},
		"host in the query":  {[]string{"TRAKR_DATABASE_URL=postgres://x:MARKER@127.0.0.1/trakr?sslmode=require&host=203.0.113.9"}, []string{undeclared, "Way out: "}},
		"HTTPS_PROXY":        {[]string{"HTTPS_PROXY=http://u:MARKER@proxy.example.net:3128"}, []string{"host HTTPS_PROXY: the policy does not declare the host proxy.example.net for proxy", "Way out: declare the host under egress, to: proxy", "or unset HTTPS_PROXY"}},
		"all_proxy":          {[]string{"all_proxy=socks5://proxy.example.net"}, []string{"host all_proxy: the policy does not declare the host proxy.example.net for proxy", "or unset all_proxy"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := outside(t, c.env...)
			said := m.trakr(exitCannotTell, "serve")
			for _, want := range append(c.want, "") {
				if !strings.Contains(said, want) {
					t.Errorf("it lacks %q: %s", want, said)
				}
			}
			if strings.Contains(said, "MARKER") {
				t.Errorf("a secret is repeated: %s", said)
			}
			if _, err := os.Stat(filepath.Join(m.dir, "data")); err == nil {
				t.Error("it began something")
			}
		})
	}
	// Declared, or with nobody left to reach through it, it is no reason: the next one is
	// that the address is taken.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = taken.Close() }()
	for name, env := range map[string][]string{
		"a declared proxy": {"HTTPS_PROXY=http://proxy.example.net:3128", "TRAKR_POLICY=" + written(t, "where HTTPS_PROXY or the like names a proxy.\"\n    hosts: []", "where HTTPS_PROXY or the like names a proxy.\"\n    hosts: [proxy.example.net]")},
		"an excepted one":  {"HTTPS_PROXY=http://proxy.example.net:3128", "NO_PROXY=bitbucket.org"},
		"a socket":         {"TRAKR_DATABASE_URL=postgres:///trakr?user=x", "PGHOST=/run/nowhere"},
	} {
		said := outside(t, append(env, "TRAKR_LISTEN="+taken.Addr().String())...).trakr(exitCannotTell, "serve")
		if !strings.Contains(said, "address already in use") {
			t.Errorf("%s: %s", name, said)
		}
	}
}

// judged is what a report of the statement says of each sentence, and of each check.
func (m *machine) judged() (sentences, checks map[string]string, why map[string]string) {
	m.t.Helper()
	m.trakr(exitClean, "report", "statement", "--format", "json", "--out", "statement.json")
	b, err := os.ReadFile(filepath.Join(m.dir, "statement.json"))
	must(m.t, err)
	var s securityStatement
	must(m.t, json.Unmarshal(b, &s))
	sentences, checks, why = map[string]string{}, map[string]string{}, map[string]string{}
	for _, x := range s.Sentences {
		sentences[x.ID] = x.State
		for _, c := range x.Checks {
			checks[c.ID], why[c.ID] = c.State, c.Why
		}
	}
	return sentences, checks, why
}

// with is the same machine as somebody else's shell sees it.
func (m *machine) with(env ...string) *machine {
	other := *m
	other.env = append(slices.Clone(m.env), env...)
	return &other
}

// What a report says of whom the service talks to is what the running service says,
// whoever asks with whatever environment.
func TestTheServiceThatRunsIsJudgedAndNotWhoeverAsks(t *testing.T) {
	t.Parallel()
	m := usedMachine(t)
	service, _ := m.serve()
	var shown struct{ Services []instances.Instance }
	m.jsonOf(&shown, "keys", "show", "--json")
	if len(shown.Services) != 1 || shown.Services[0].PolicyHash != storetest.Must(t)(policy.Default()).(*policy.Policy).Hash() ||
		!slices.Equal(shown.Services[0].Destinations, []instances.Destination{{Setting: "TRAKR_BITBUCKET_API_URL", Name: "bitbucket", Host: "127.0.0.1"}, {Setting: "TRAKR_DATA_DIR", Name: instances.Database}}) {
		t.Errorf("%+v", shown)
	}
	_, before, why := m.judged()
	if before["hosts"] != "true" || before["policy"] != "true" || before["observed-place"] != "false" {
		t.Errorf("%v %q", before, why)
	}

	// Another shell: its own settings say nothing of the service.
	strange := m.with("TRAKR_BITBUCKET_API_URL=https://api.example.net", "HTTPS_PROXY=http://proxy.example.net:3128", "OTEL_EXPORTER_OTLP_ENDPOINT=https://collector.example.net", "OTEL_TRACES_EXPORTER=none")
	if _, after, why := strange.judged(); after["hosts"] != "true" || after["policy"] != "true" {
		t.Errorf("with another environment: %v %q", after, why)
	}
	if s := strange.trakr(exitClean, "sweep", "run", "drift"); strings.Contains(s, "example.net") {
		t.Errorf("the sweep judges its own shell: %s", s)
	}
	if s := strange.trakr(exitFinding, "doctor"); !strings.Contains(s, "host HTTPS_PROXY: ") || !strings.Contains(s, "host TRAKR_BITBUCKET_API_URL: ") {
		t.Errorf("doctor is about this shell too: %s", s)
	}
	// Another policy than the service acts by proves nothing of it.
	other := m.with("TRAKR_POLICY=" + written(t, "    source: principal.username\n", "    source: principal.username\n    off: true\n"))
	sentences, checks, why := other.judged()
	if checks["policy"] != "not_verified" || sentences["kept"] == "true" || sentences["use"] == "true" || sentences["location"] == "true" || !strings.Contains(why["policy"], "1 acts by another policy") {
		t.Errorf("with another policy: %v %v %q", sentences, checks, why)
	}

	// A replica that talks to somebody else, as one of another version could.
	m.sql(`INSERT INTO trakr.key_holders (instance_id, key_ids, policy_hash, settings, destinations, hosts)
		SELECT gen_random_uuid(), key_ids, policy_hash, '{HTTPS_PROXY}', '{proxy}', '{proxy.example.net}' FROM trakr.key_holders`)
	if sentences, checks, why := m.judged(); checks["hosts"] != "false" || sentences["use"] != "false" || !strings.Contains(why["hosts"], "proxy.example.net (HTTPS_PROXY)") {
		t.Errorf("a replica with a proxy: %v %q", checks, why)
	}
	if s := m.trakr(exitFinding, "sweep", "run", "drift"); !strings.Contains(s, "proxy.example.net") {
		t.Errorf("the sweep: %s", s)
	}
	m.sql(`DELETE FROM trakr.key_holders WHERE settings = '{HTTPS_PROXY}'`)

	// It ends orderly, and nothing is known of it any more.
	must(t, service.Process.Signal(syscall.SIGTERM))
	if state, err := service.Process.Wait(); err != nil || state.ExitCode() != exitClean {
		t.Errorf("SIGTERM: %v %v", state, err)
	}
	m.jsonOf(&shown, "keys", "show", "--json")
	_, after, why := m.judged()
	if len(shown.Services) != 0 || after["hosts"] != "not_verified" || after["policy"] != "not_verified" || !strings.Contains(why["hosts"], "no running service has reported its destinations") {
		t.Errorf("nothing runs: %v %v %q", shown.Services, after, why)
	}
}

// byTCP starts the machine's private PostgreSQL as one that listens on an address and a
// port, and returns the URL by which the service logs in there.
func (m *machine) byTCP() *url.URL {
	m.t.Helper()
	private, err := devpg.Start(m.t.Context(), m.server())
	must(m.t, err)
	_, err = store.Migrate(m.t.Context(), private.URL())
	must(m.t, err)
	login, err := private.LoginURL(m.t.Context(), store.ServiceRole)
	must(m.t, err)
	cluster := private.DataDirectory()
	must(m.t, private.Stop(m.t.Context()))
	u, err := url.Parse(login)
	must(m.t, err)

	hba := filepath.Join(cluster, "tcp_hba.conf")
	must(m.t, os.WriteFile(hba, []byte("host all all 127.0.0.1/32 scram-sha-256\n"), 0o644))
	owner, err := os.Stat(filepath.Join(cluster, "PG_VERSION"))
	must(m.t, err)
	must(m.t, os.Chmod(hba, owner.Mode().Perm()|fs.FileMode(0o444)))
	bin, err := devpg.FindBinaries(os.Getenv("TRAKR_POSTGRES_BIN"))
	must(m.t, err)
	address := freePort(m.t)
	_, port, err := net.SplitHostPort(address)
	must(m.t, err)
	c := exec.Command(filepath.Join(bin, "postgres"), "-D", cluster, "-c", "listen_addresses=127.0.0.1", "-c", "port="+port, "-c", "unix_socket_directories=", "-c", "hba_file="+hba, "-c", "fsync=off")
	c.Dir = cluster
	out := &console{}
	c.Stdout, c.Stderr = out, out
	if st := owner.Sys().(*syscall.Stat_t); os.Geteuid() == 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: st.Uid, Gid: st.Gid}}
	}
	must(m.t, c.Start())
	m.t.Cleanup(func() { _ = c.Process.Signal(os.Interrupt); _ = c.Wait() })
	for range 300 {
		if conn, err := net.Dial("tcp", address); err == nil {
			_ = conn.Close()
			u.Host, u.RawQuery = address, ""
			return u
		}
		time.Sleep(100 * time.Millisecond) // until it listens
	}
	m.t.Fatalf("PostgreSQL does not listen: %s", out.String())
	return nil
}

// A database that is reached by TCP is where the policy says only when its host shows it.
func TestADatabaseByTCPIsNotInNewYorkForThat(t *testing.T) {
	t.Parallel()
	m := usedMachine(t)
	at := m.byTCP()
	// The URL leaves out the host, and PostgreSQL's own variables fill it in.
	host, port, err := net.SplitHostPort(at.Host)
	must(t, err)
	user, password := at.User.Username(), ""
	password, _ = at.User.Password()
	m.env = append(m.env, "TRAKR_DATABASE_URL=postgres://"+at.Path, "PGHOST="+host, "PGPORT="+port, "PGUSER="+user, "PGPASSWORD="+password)
	for _, c := range []struct {
		connection string
		want       string
		why        string
	}{
		{"network", "false", "TCP on the machine the service runs on"},
		{"local", "not_verified", "the host 127.0.0.1 (TRAKR_DATABASE_URL) shows no region"},
	} {
		m := m.with("TRAKR_POLICY=" + written(t, "    connection: network\n", "    connection: "+c.connection+"\n"))
		service, _ := m.serve()
		sentences, checks, why := m.judged()
		if checks["observed-place"] != c.want || sentences["location"] != c.want || !strings.Contains(why["observed-place"], c.why) || checks["hosts"] != "true" || checks["policy"] != "true" {
			t.Errorf("%s: %v %v %q", c.connection, sentences, checks, why)
		}
		m.stop(service)
	}
}
