package main

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"trakr/internal/bitbucket"
	"trakr/internal/drift"
	"trakr/internal/egress"
	"trakr/internal/lifecycle"
	"trakr/internal/platform/config"
	"trakr/internal/store"
	"trakr/internal/store/instances"
)

// destinations are the settings that name whom the service talks to. One that is not
// here and ends in _URL fails a test.
var destinations = []struct {
	setting string
	to      lifecycle.Destination
}{
	{"TRAKR_BITBUCKET_API_URL", lifecycle.ToBitbucket},
	{"TRAKR_END_SERVICE_URL", lifecycle.ToEndService},
	{"TRAKR_WEBHOOK_URL", lifecycle.ToFindings},
	{"TRAKR_CHECKPOINT_URL", lifecycle.ToCheckpoints},
	{"TRAKR_LEDGER", lifecycle.ToLedger},
	{"TRAKR_KEYS_WRAP", lifecycle.ToKeys},
	{"OTEL_EXPORTER_OTLP_ENDPOINT", lifecycle.ToTelemetry},
	{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", lifecycle.ToTelemetry},
	{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", lifecycle.ToTelemetry},
	{"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", lifecycle.ToTelemetry},
}

// proxies are the variables that put a proxy between the service and the others.
var proxies = []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"}

// talksTo is whom the service talks to: the hosts of its settings as they resolve, the
// defaults included. It is the one answer to that question: of the start, the sweep of
// drift, doctor, and of what a running service says of itself.
func talksTo(cfg config.Config, environ []string) ([]drift.Endpoint, []drift.Database, error) {
	vars := map[string]string{}
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		vars[name] = value
	}
	to := endpoints(cfg, vars)
	at, err := databases(cfg)
	return append(to, proxied(to, vars)...), at, err
}

// endpoints are the addresses that the settings name.
func endpoints(cfg config.Config, vars map[string]string) []drift.Endpoint {
	var out []drift.Endpoint
	for _, d := range destinations {
		address := vars[d.setting]
		switch {
		case d.setting == "TRAKR_BITBUCKET_API_URL":
			address = cfg.BitbucketAPIURL
		case d.setting == "TRAKR_LEDGER" && !cfg.LedgerAtURL():
			continue
		}
		if address == "" {
			continue
		}
		if !strings.Contains(address, "://") { // as OTLP over gRPC may be named
			address = "http://" + address
		}
		out = append(out, drift.Endpoint{Setting: d.setting, To: d.to, Address: address})
	}
	// Access tokens are given out at another host than the API's.
	if tokens := bitbucket.TokenURL(cfg.BitbucketAPIURL); egress.HostOf(tokens) != egress.HostOf(cfg.BitbucketAPIURL) {
		out = append(out, drift.Endpoint{Setting: "TRAKR_BITBUCKET_API_URL", To: lifecycle.ToBitbucket, Address: tokens})
	}
	return out
}

// proxied are the proxies that stand before one of the endpoints: before all that is not
// this machine, but for what NO_PROXY excepts. Which of the variables a client heeds
// depends on its library and on http or https; each of them says that somebody else is
// meant to be in between, so each counts.
func proxied(to []drift.Endpoint, vars map[string]string) []drift.Endpoint {
	except := vars["NO_PROXY"]
	if except == "" {
		except = vars["no_proxy"]
	}
	var out []drift.Endpoint
	for _, name := range proxies {
		before := (&httpproxy.Config{HTTPSProxy: vars[name], NoProxy: except}).ProxyFunc()
		for _, e := range to {
			u, err := url.Parse(e.Address)
			if err != nil {
				continue // it has no host, which is a difference already
			}
			if p, err := before(&url.URL{Scheme: "https", Host: u.Host}); err == nil && p != nil {
				out = append(out, drift.Endpoint{Setting: name, To: lifecycle.ToProxy, Address: p.String()})
				break
			}
		}
	}
	return out
}

// databases are where the database is reached. The private one is on this machine.
func databases(cfg config.Config) ([]drift.Database, error) {
	var out []drift.Database
	for _, d := range []struct {
		setting string
		url     lifecycle.Secret
	}{{"TRAKR_DATABASE_URL", cfg.DatabaseURL}, {"TRAKR_MIGRATION_DATABASE_URL", cfg.MigrationDatabaseURL}} {
		if d.url.Empty() {
			continue
		}
		hosts, err := store.Hosts(d.url.Reveal())
		if err != nil {
			return nil, fmt.Errorf("%s %w", d.setting, err)
		}
		for _, h := range hosts {
			out = append(out, drift.Database{Setting: d.setting, Host: h})
		}
	}
	if cfg.DatabaseURL.Empty() {
		out = append(out, drift.Database{Setting: "TRAKR_DATA_DIR"})
	}
	return out, nil
}

// parties are the same as a running service puts them down: hosts, and nothing else of
// an address.
func parties(to []drift.Endpoint, at []drift.Database) []instances.Destination {
	var out []instances.Destination
	for _, e := range to {
		out = append(out, instances.Destination{Setting: e.Setting, Name: string(e.To), Host: egress.HostOf(e.Address)})
	}
	for _, d := range at {
		out = append(out, instances.Destination{Setting: d.Setting, Name: instances.Database, Host: d.Host})
	}
	return out
}

// said is what running services have put down.
func said(running []instances.Instance) (to []drift.Endpoint, at []drift.Database) {
	for _, h := range running {
		for _, p := range h.Destinations {
			if p.Name == instances.Database {
				at = append(at, drift.Database{Setting: p.Setting, Host: p.Host})
				continue
			}
			to = append(to, drift.Endpoint{Setting: p.Setting, To: lifecycle.Destination(p.Name), Address: "https://" + net.JoinHostPort(p.Host, "443")})
		}
	}
	return to, at
}

// instanceFacts are what this service records of itself.
func (s *service) instanceFacts() (instances.Facts, error) {
	to, at, err := talksTo(s.cfg, s.environ)
	return instances.Facts{PolicyHash: s.policy.Hash(), Destinations: parties(to, at)}, err
}
