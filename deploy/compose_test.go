package deploy

import (
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// compose is compose.yaml as Compose sees it with the example's settings.
func compose(t *testing.T) node {
	t.Helper()
	example := settings(read(t, "compose/.env.example"))
	used := map[string]bool{}
	text := regexp.MustCompile(`\$\{([A-Za-z_]+)(:[-?][^}]*)?\}`).ReplaceAllStringFunc(read(t, "compose/compose.yaml"), func(ref string) string {
		name := regexp.MustCompile(`[A-Za-z_]+`).FindString(ref)
		used[name] = true
		value, ok := example[name]
		if !ok {
			t.Errorf("compose.yaml uses %s, which .env.example does not have", name)
		}
		return value
	})
	for name := range example {
		if !used[name] {
			t.Errorf(".env.example has %s, which compose.yaml does not use", name)
		}
	}
	return decode(t, text)
}

func environment(t *testing.T, service node) map[string]string {
	t.Helper()
	out := map[string]string{}
	for k, v := range service.child("environment") {
		s, ok := v.(string)
		if !ok {
			t.Errorf("%s is not text", k)
		}
		out[k] = s
	}
	return out
}

func TestComposeServicesHaveNoRights(t *testing.T) {
	c := compose(t)
	c.onlyKeys(t, "compose.yaml", "name", "services", "networks", "volumes", "secrets")
	services := c.child("services")
	for _, want := range []string{"certificate", "postgres", "migrate", "trakr"} {
		s := services.child(want)
		if s == nil {
			t.Fatalf("there is no service %s", want)
		}
	}
	for name := range services {
		s := services.child(name)
		s.onlyKeys(t, name, "image", "build", "command", "entrypoint", "user", "environment", "volumes", "secrets", "networks", "network_mode",
			"ports", "tmpfs", "shm_size", "healthcheck", "depends_on", "restart", "stop_signal", "stop_grace_period", "logging",
			"read_only", "cap_drop", "security_opt")
		if s["read_only"] != true {
			t.Errorf("%s: not read_only", name)
		}
		if !slices.Equal(s.texts("cap_drop"), []string{"ALL"}) {
			t.Errorf("%s: cap_drop is %v", name, s["cap_drop"])
		}
		if !slices.Contains(s.texts("security_opt"), "no-new-privileges:true") {
			t.Errorf("%s: no no-new-privileges", name)
		}
		for _, v := range s.texts("volumes") {
			if strings.Contains(v, "docker.sock") {
				t.Errorf("%s: mounts the engine's socket", name)
			}
			if strings.HasPrefix(v, "./") && !strings.HasSuffix(v, ":ro") {
				t.Errorf("%s: can write to the host: %s", name, v)
			}
		}
		for _, secret := range s.texts("secrets") {
			if c.child("secrets").child(secret).text("file") == "" {
				t.Errorf("%s: no file for the secret %s", name, secret)
			}
		}
	}
	if _, own := services.child("trakr")["user"]; own {
		t.Error("trakr: the image's user is replaced")
	}
}

func TestComposePublishesOnThisHostOnly(t *testing.T) {
	services := compose(t).child("services")
	for name := range services {
		ports := services.child(name).list("ports")
		if name != "trakr" && len(ports) > 0 {
			t.Errorf("%s publishes %v", name, ports)
		}
		for _, p := range ports {
			if s, _ := p.(string); !strings.HasPrefix(s, "127.0.0.1:") {
				t.Errorf("%s publishes %v beyond this host", name, p)
			}
		}
	}
	if got := services.child("trakr").texts("ports"); !slices.Equal(got, []string{"127.0.0.1:8080:8080", "127.0.0.1:8081:8081"}) {
		t.Errorf("trakr publishes %v", got)
	}
}

func TestComposeKeepsTheOrder(t *testing.T) {
	c := compose(t)
	services := c.child("services")
	for _, edge := range [][3]string{{"postgres", "certificate", "service_completed_successfully"}, {"migrate", "postgres", "service_healthy"},
		{"trakr", "postgres", "service_healthy"}, {"trakr", "migrate", "service_completed_successfully"}} {
		if got := services.child(edge[0]).child("depends_on").child(edge[1]).text("condition"); got != edge[2] {
			t.Errorf("%s waits for %s until %q, not %s", edge[0], edge[1], got, edge[2])
		}
	}
	pg := services.child("postgres")
	if !regexp.MustCompile(`^postgres:(1[5-9]|[2-9][0-9])(-|$)`).MatchString(pg.text("image")) {
		t.Errorf("postgres is %q; the service needs 15 or newer", pg.text("image"))
	}
	if len(pg.child("healthcheck").list("test")) == 0 {
		t.Error("postgres has no healthcheck")
	}
	if got := pg.texts("networks"); !slices.Equal(got, []string{"database"}) || c.child("networks").child("database")["internal"] != true {
		t.Errorf("postgres is on %v, which must be the internal network alone", got)
	}
	if !slices.Contains(pg.texts("volumes"), "database:/var/lib/postgresql/data") {
		t.Error("the database is not on its volume")
	}
	if _, ok := c.child("volumes")["database"]; !ok {
		t.Error("the database's volume is not declared")
	}
	if got := services.child("migrate").texts("command"); !slices.Equal(got, []string{"migrate"}) {
		t.Errorf("migrate runs %v", got)
	}
	build := services.child("trakr").child("build")
	if _, err := os.Stat(filepath.Join("compose", build.text("context"), build.text("dockerfile"))); err != nil {
		t.Error(err)
	}
}

func TestComposeSettingsAreAcceptedAndVerifyTheDatabase(t *testing.T) {
	services := compose(t).child("services")
	for name, secret := range map[string]string{"migrate": "migration", "trakr": "database"} {
		s := services.child(name)
		cfg := accepted(t, name, environment(t, s))
		database := cfg.DatabaseURL.Reveal() + cfg.MigrationDatabaseURL.Reveal() // one of them is empty
		u, err := url.Parse(database)
		if err != nil {
			t.Fatal(err)
		}
		if _, has := u.User.Password(); has || u.User.Username() != "trakr_"+map[string]string{"migrate": "migration", "trakr": "service"}[name] {
			t.Errorf("%s: logs in as %s, password in the environment: %v", name, u.User.Username(), has)
		}
		q := u.Query()
		if q.Get("sslmode") != "verify-full" || q.Get("sslrootcert") != "/ca/ca.crt" || q.Get("passfile") != "/run/secrets/"+secret {
			t.Errorf("%s: connects with %v", name, q)
		}
		if !slices.Contains(s.texts("volumes"), "ca:/ca:ro") || !slices.Contains(s.texts("secrets"), secret) {
			t.Errorf("%s: the files its URL names are not mounted", name)
		}
		if got := services.child("certificate").texts("command"); !slices.Equal(got, []string{u.Hostname(), "/tls", "/ca"}) {
			t.Errorf("the certificate is made with %v, the host is %s", got, u.Hostname())
		}
		// The password file has a line for exactly this connection.
		if line := "'postgres:5432:trakr:" + u.User.Username() + ":%s\\n'"; u.Host != "postgres:5432" || u.Path != "/trakr" || !strings.Contains(read(t, "compose/secrets.sh"), line) {
			t.Errorf("%s: secrets.sh makes no password for %s", name, u.Redacted())
		}
	}
	if slices.Contains(services.child("trakr").texts("secrets"), "migration") {
		t.Error("trakr: the running service has the login that may change tables")
	}
	trakr := accepted(t, "trakr", environment(t, services.child("trakr")))
	if trakr.Keys.Reveal() != "/run/secrets/keys" || !slices.Contains(services.child("trakr").texts("secrets"), "keys") {
		t.Error("the keyring is not a secret file")
	}
	// What must outlive the database lies on volumes of its own, which the image
	// prepares for its user.
	all, last := stages(t)
	for name, path := range map[string]string{"ledger": trakr.Ledger, "checkpoint": trakr.CheckpointFile} {
		if filepath.Dir(path) != "/"+name || !slices.Contains(services.child("trakr").texts("volumes"), name+":/"+name) {
			t.Errorf("%s lies at %s, and not on the volume %s", name, path, name)
		}
		if _, ok := compose(t).child("volumes")[name]; !ok {
			t.Errorf("the volume %s is not declared", name)
		}
		if slices.ContainsFunc(services.child("postgres").texts("volumes"), func(v string) bool { return strings.HasPrefix(v, name+":") }) {
			t.Errorf("the database has the volume %s", name)
		}
		if !slices.Contains(all[last].copies, "--from=build --chown="+all[last].user+" /out/"+name+" /"+name) {
			t.Errorf("the image's user cannot write to a new volume at /%s", name)
		}
	}
	if trakr.DevSkipProof || trakr.Dev {
		t.Error("a development setting is on")
	}
}

func TestComposePostgresAdmitsTheServiceByTLSOnly(t *testing.T) {
	var rules []string
	for line := range strings.Lines(read(t, "compose/pg_hba.conf")) {
		if f := strings.Fields(line); len(f) > 0 && f[0] != "#" {
			rules = append(rules, strings.Join(f, " "))
		}
	}
	want := []string{"local all postgres peer", "local all all reject", "hostssl trakr trakr_service,trakr_migration all scram-sha-256", "host all all all reject"}
	if !slices.Equal(rules, want) {
		t.Errorf("pg_hba.conf: %q", rules)
	}
	pg := compose(t).child("services").child("postgres")
	command := pg.texts("command")
	for _, want := range []string{"-cssl=on", "-cssl_cert_file=/tls/server.crt", "-cssl_key_file=/tls/server.key", "-chba_file=/etc/trakr/pg_hba.conf",
		"-cpassword_encryption=scram-sha-256", "-clog_min_messages=log", "-clog_min_error_statement=panic", "-clog_error_verbosity=terse"} {
		if !slices.Contains(command, want) {
			t.Errorf("postgres runs without %s", want)
		}
	}
	for _, want := range []string{"tls:/tls:ro", "./pg_hba.conf:/etc/trakr/pg_hba.conf:ro", "../roles.sql:/etc/trakr/roles.sql:ro",
		"./database.sql:/docker-entrypoint-initdb.d/database.sql:ro"} {
		if !slices.Contains(pg.texts("volumes"), want) {
			t.Errorf("postgres does not mount %s", want)
		}
	}
	sql := read(t, "compose/database.sql")
	for _, want := range []string{"NOSUPERUSER", "NOCREATEDB", "NOCREATEROLE", "NOBYPASSRLS", "\\i /etc/trakr/roles.sql",
		"ALTER ROLE trakr_service LOGIN", "CREATE ROLE trakr_migration LOGIN", "GRANT trakr_owner TO trakr_migration"} {
		if !strings.Contains(sql, want) {
			t.Errorf("database.sql does not say %s", want)
		}
	}
	for _, role := range []string{"trakr_service", "trakr_owner"} {
		if !strings.Contains(Roles, "'"+role+"'") {
			t.Errorf("roles.sql makes no %s", role)
		}
	}
}

// TestComposeCertificate runs certificate.sh where openssl is installed, and reads
// it everywhere.
func TestComposeCertificate(t *testing.T) {
	text := read(t, "compose/certificate.sh")
	for _, want := range []string{"umask 077", "subjectAltName = DNS:$name", "basicConstraints = critical, CA:FALSE", "pathlen:0",
		"extendedKeyUsage = serverAuth", `trap 'rm -rf "$work"' EXIT`, `put server.key "$server" 0640`, `-keyout "$work/ca.key"`} {
		if !strings.Contains(text, want) {
			t.Errorf("certificate.sh does not say %q", want)
		}
	}
	if strings.Contains(text, "put ca.key") {
		t.Error("certificate.sh keeps the authority's key")
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Log("openssl is not installed: the script was read, not run")
		return
	}
	server, ca := t.TempDir(), t.TempDir()
	run := func(name string) string {
		out, err := exec.CommandContext(t.Context(), "sh", "compose/certificate.sh", name, server, ca).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	if out := run("postgres"); !strings.Contains(out, "made for postgres") {
		t.Error(out)
	}
	root, cert := certificate(t, filepath.Join(ca, "ca.crt")), certificate(t, filepath.Join(server, "server.crt"))
	pool := x509.NewCertPool()
	pool.AddCert(root)
	for name, good := range map[string]bool{"postgres": true, "other": false} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: name}); (err == nil) != good {
			t.Errorf("verified for %s: %v", name, err)
		}
	}
	if cert.IsCA || !root.IsCA || !root.MaxPathLenZero || time.Until(cert.NotAfter) < 365*24*time.Hour {
		t.Errorf("server CA=%v, authority CA=%v pathlen0=%v, until %v", cert.IsCA, root.IsCA, root.MaxPathLenZero, cert.NotAfter)
	}
	var names []string
	for dir, list := range map[string][]string{server: {"server.crt", "server.key"}, ca: {"ca.crt"}} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		names = names[:0]
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if !slices.Equal(names, list) {
			t.Errorf("left behind: %v", names)
		}
	}
	if st, err := os.Stat(filepath.Join(server, "server.key")); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("the key's mode: %v, %v", st.Mode(), err)
	}
	if out := run("postgres"); !strings.Contains(out, "kept") || !certificate(t, filepath.Join(server, "server.crt")).Equal(cert) {
		t.Errorf("a valid certificate was replaced: %s", out)
	}
	if out := run("elsewhere"); !strings.Contains(out, "made for elsewhere") {
		t.Errorf("a certificate of another name was kept: %s", out)
	}
}

func certificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	b, _ := pem.Decode([]byte(read(t, path)))
	if b == nil {
		t.Fatalf("%s is not PEM", path)
	}
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
