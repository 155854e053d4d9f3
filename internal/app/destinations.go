package app

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

// hostSettings are the settings that name a host which the service connects to. A
// setting that ends in _URL and is missing here fails a test.
var hostSettings = []struct {
	name string
	to   lifecycle.Destination
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

// proxyVariables put a proxy between the service and its destinations.
var proxyVariables = []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"}

// destinations are the hosts that a process connects to.
type destinations struct {
	endpoints []drift.Endpoint
	databases []drift.Database
}

// resolveDestinations returns every host that the configuration resolves to, defaults
// included. Start-up, the drift sweep, doctor and the instance record all use it, so
// they cannot disagree.
func resolveDestinations(cfg config.Config, environ []string) (destinations, error) {
	vars := map[string]string{}
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		vars[name] = value
	}
	endpoints := configuredEndpoints(cfg, vars)
	databases, err := configuredDatabases(cfg)
	return destinations{append(endpoints, proxyEndpoints(endpoints, vars)...), databases}, err
}

// configuredEndpoints returns the addresses that the settings name.
func configuredEndpoints(cfg config.Config, vars map[string]string) []drift.Endpoint {
	var out []drift.Endpoint
	for _, s := range hostSettings {
		address := vars[s.name]
		switch {
		case s.name == "TRAKR_BITBUCKET_API_URL":
			address = cfg.BitbucketAPIURL
		case s.name == "TRAKR_LEDGER" && !cfg.LedgerAtURL():
			continue
		}
		if address == "" {
			continue
		}
		if !strings.Contains(address, "://") { // OTLP over gRPC is named without a scheme
			address = "http://" + address
		}
		out = append(out, drift.Endpoint{Setting: s.name, To: s.to, Address: address})
	}
	// Bitbucket issues access tokens at another host than the API's.
	if tokens := bitbucket.TokenURL(cfg.BitbucketAPIURL); egress.HostOf(tokens) != egress.HostOf(cfg.BitbucketAPIURL) {
		out = append(out, drift.Endpoint{Setting: "TRAKR_BITBUCKET_API_URL", To: lifecycle.ToBitbucket, Address: tokens})
	}
	return out
}

// proxyEndpoints returns the proxies in front of one of the endpoints: of all that are
// not on this machine, except for those that NO_PROXY excludes. Which variable a client
// reads depends on its library and on http or https; each of them names a third host
// that is meant to be in between, so each counts.
func proxyEndpoints(endpoints []drift.Endpoint, vars map[string]string) []drift.Endpoint {
	except := vars["NO_PROXY"]
	if except == "" {
		except = vars["no_proxy"]
	}
	var out []drift.Endpoint
	for _, name := range proxyVariables {
		proxyOf := (&httpproxy.Config{HTTPSProxy: vars[name], NoProxy: except}).ProxyFunc()
		for _, e := range endpoints {
			u, err := url.Parse(e.Address)
			if err != nil {
				continue // it has no host, which is a difference already
			}
			if p, err := proxyOf(&url.URL{Scheme: "https", Host: u.Host}); err == nil && p != nil {
				out = append(out, drift.Endpoint{Setting: name, To: lifecycle.ToProxy, Address: p.String()})
				break
			}
		}
	}
	return out
}

// configuredDatabases returns where the database is reached. The private one is on this
// machine.
func configuredDatabases(cfg config.Config) ([]drift.Database, error) {
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

// recorded returns the destinations in the form of an instance record, which keeps
// nothing of an address but the host.
func (d destinations) recorded() []instances.Destination {
	var out []instances.Destination
	for _, e := range d.endpoints {
		out = append(out, instances.Destination{Setting: e.Setting, Name: string(e.To), Host: egress.HostOf(e.Address)})
	}
	for _, b := range d.databases {
		out = append(out, instances.Destination{Setting: b.Setting, Name: instances.Database, Host: b.Host})
	}
	return out
}

// recordedDestinations returns what the running instances have recorded.
func recordedDestinations(running []instances.Instance) destinations {
	var d destinations
	for _, i := range running {
		for _, p := range i.Destinations {
			if p.Name == instances.Database {
				d.databases = append(d.databases, drift.Database{Setting: p.Setting, Host: p.Host})
				continue
			}
			d.endpoints = append(d.endpoints, drift.Endpoint{Setting: p.Setting, To: lifecycle.Destination(p.Name),
				Address: "https://" + net.JoinHostPort(p.Host, "443")})
		}
	}
	return d
}
