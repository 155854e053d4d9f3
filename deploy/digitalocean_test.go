package deploy

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The fields of the App Platform's spec that the file may use, as DigitalOcean's
// reference and its Go client (godo, AppSpec) have them.
var (
	appFields = []string{"name", "region", "databases", "services", "jobs", "ingress", "domains", "alerts", "envs", "features", "egress", "vpc",
		"maintenance", "disable_edge_cache", "disable_email_obfuscation", "enhanced_threat_control_enabled"}
	componentFields = []string{"name", "image", "envs", "instance_size_slug", "instance_count", "alerts", "log_destinations", "termination"}
	serviceFields   = append([]string{"http_port", "internal_ports", "health_check", "liveness_health_check", "protocol", "autoscaling"}, componentFields...)
	jobFields       = append([]string{"kind", "timeout", "schedule"}, componentFields...)
)

func app(t *testing.T) node { return decode(t, read(t, "digitalocean/app.yaml")) }

// appEnv is what a component's program gets, with the platform's references put in.
func appEnv(t *testing.T, component node) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, e := range component.nodes("envs") {
		e.onlyKeys(t, e.text("key"), "key", "value", "scope", "type")
		if e.text("scope") != "RUN_TIME" {
			t.Errorf("%s has the scope %q: settings are not for the build", e.text("key"), e.text("scope"))
		}
		out[e.text("key")] = strings.ReplaceAll(e.text("value"), "${db.DATABASE_URL}", databaseURL)
		if strings.Contains(out[e.text("key")], "${") {
			t.Errorf("%s refers to %s, which nothing provides", e.text("key"), e.text("value"))
		}
	}
	return out
}

func TestAppRunsInNewYork(t *testing.T) {
	a := app(t)
	a.onlyKeys(t, "app.yaml", appFields...)
	if a.text("region") != "nyc" {
		t.Errorf("region is %q", a.text("region"))
	}
	dbs := a.nodes("databases")
	if len(dbs) != 1 {
		t.Fatalf("%d databases", len(dbs))
	}
	db := dbs[0]
	db.onlyKeys(t, "database", "name", "engine", "version", "production", "cluster_name", "db_name", "db_user")
	if db.text("name") != "db" || db.text("engine") != "PG" || db.text("version") < "15" || db["production"] != true || db.text("cluster_name") == "" {
		t.Errorf("the database is %v: a managed cluster of PostgreSQL 15 or newer is needed", db)
	}
	// A new cluster's datacentre is chosen by the command in the comment: it must be
	// the one of the policy.
	policy := read(t, "../policy/trakr.yaml")
	if !strings.Contains(policy, "region: nyc3") || !strings.Contains(read(t, "digitalocean/app.yaml"), "--region nyc3 ") {
		t.Error("the database's datacentre is not the policy's")
	}
}

func TestAppShowsThePublicListenerOnly(t *testing.T) {
	a := app(t)
	services := a.nodes("services")
	if len(services) != 1 {
		t.Fatalf("%d services", len(services))
	}
	s := services[0]
	s.onlyKeys(t, "service", serviceFields...)
	s.child("health_check").onlyKeys(t, "health_check", "http_path", "port", "initial_delay_seconds", "period_seconds", "timeout_seconds", "success_threshold", "failure_threshold")
	s.child("termination").onlyKeys(t, "termination", "drain_seconds", "grace_period_seconds")
	cfg := accepted(t, "service", appEnv(t, s))
	if s.number("http_port") != 8080 || cfg.Listen != "0.0.0.0:8080" {
		t.Errorf("http_port %d, the public listener is %s", s.number("http_port"), cfg.Listen)
	}
	if ports := s.list("internal_ports"); len(ports) != 1 || node(map[string]any{"p": ports[0]}).number("p") != 8081 || cfg.AdminListen != "0.0.0.0:8081" {
		t.Errorf("internal_ports %v, the private listener is %s", ports, cfg.AdminListen)
	}
	if h := s.child("health_check"); h.text("http_path") != "/healthz" || h["port"] != nil {
		t.Errorf("health_check is %v", h)
	}
	for _, r := range a.child("ingress").nodes("rules") {
		r.onlyKeys(t, "ingress rule", "match", "component", "cors", "redirect")
		if r.child("component").text("name") != s.text("name") || r.child("match").child("path").text("prefix") != "/" {
			t.Errorf("ingress: %v", r)
		}
	}
	for _, d := range a.nodes("domains") {
		d.onlyKeys(t, "domain", "domain", "type", "zone", "wildcard", "minimum_tls_version", "certificate")
		if "https://"+d.text("domain") != cfg.BaseURL {
			t.Errorf("the domain is %s, TRAKR_BASE_URL %s", d.text("domain"), cfg.BaseURL)
		}
	}
}

// A container's disk ends with every deployment.
func TestAppKeepsTheLedgerOutsideTheContainer(t *testing.T) {
	s := app(t).nodes("services")[0]
	env := appEnv(t, s)
	if !slices.ContainsFunc(s.nodes("envs"), func(e node) bool { return e.text("key") == "TRAKR_LEDGER_TOKEN" && e.text("type") == "SECRET" }) {
		t.Error("the ledger's token is not handed over as a SECRET")
	}
	env["TRAKR_LEDGER_TOKEN"] = "x" // as the platform puts it in
	cfg := accepted(t, "service", env)
	if !cfg.LedgerAtURL() || !strings.HasPrefix(cfg.Ledger, "https://") || !strings.HasPrefix(cfg.CheckpointURL, "https://") {
		t.Errorf("the ledger is at %s, checkpoints go to %q", cfg.Ledger, cfg.CheckpointURL)
	}
	all, last := stages(t)
	if dir := strings.TrimSuffix(cfg.CheckpointFile, "/checkpoint"); !slices.ContainsFunc(all[last].copies, func(c string) bool {
		return strings.HasPrefix(c, "--from=build --chown="+all[last].user+" ") && strings.HasSuffix(c, " "+dir)
	}) {
		t.Errorf("the image's user cannot write %s", cfg.CheckpointFile)
	}
}

func TestAppHoldsNoSecret(t *testing.T) {
	var secrets []string
	for _, component := range append(app(t).nodes("services"), app(t).nodes("jobs")...) {
		for _, e := range component.nodes("envs") {
			if e.text("type") == "SECRET" {
				secrets = append(secrets, component.text("name")+" "+e.text("key"))
				if e["value"] != nil {
					t.Errorf("%s is written into the spec", e.text("key"))
				}
			}
			if regexp.MustCompile(`://[^/]*:[^/]*@|"fields"`).MatchString(e.text("value")) {
				t.Errorf("%s holds a password or keys", e.text("key"))
			}
		}
		if component.child("image")["registry_credentials"] != nil {
			t.Error("registry credentials are written into the spec")
		}
	}
	if want := []string{"trakr TRAKR_KEYS", "trakr TRAKR_LEDGER_TOKEN", "migrate TRAKR_MIGRATION_DATABASE_URL"}; !slices.Equal(secrets, want) {
		t.Errorf("handed over as SECRET: %q", secrets)
	}
}

func TestAppMigratesFirst(t *testing.T) {
	a := app(t)
	jobs := a.nodes("jobs")
	if len(jobs) != 1 {
		t.Fatalf("%d jobs", len(jobs))
	}
	j := jobs[0]
	j.onlyKeys(t, "job", jobFields...)
	accepted(t, "job", appEnv(t, j))
	if _, has := appEnv(t, a.nodes("services")[0])["TRAKR_MIGRATION_DATABASE_URL"]; has {
		t.Error("the running service has the login that may change tables")
	}
	if j.text("kind") != "PRE_DEPLOY" {
		t.Errorf("the migration is %q", j.text("kind"))
	}
	// The job's image is the Dockerfile's stage "migrate" of the same version.
	service := a.nodes("services")[0].child("image")
	image := j.child("image")
	image.onlyKeys(t, "image", "registry_type", "registry", "repository", "tag", "digest")
	if image.text("repository") != service.text("repository") || image.text("tag") != service.text("tag")+"-migrate" {
		t.Errorf("the job runs %v, the service %v", image, service)
	}
	all, _ := stages(t)
	if _, ok := all["migrate"]; !ok {
		t.Error("the Dockerfile has no stage migrate")
	}
}
