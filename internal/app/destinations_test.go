package app

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"trakr/internal/drift"
	"trakr/internal/lifecycle"
	"trakr/internal/platform/config"
	"trakr/internal/store/instances"
)

// Every request passes a proxy first, so it is a destination. NO_PROXY excepts the hosts
// it names, and this machine is never reached through one.
func TestAProxyIsADestination(t *testing.T) {
	const api, token = "api.bitbucket.org", "bitbucket.org"
	for name, c := range map[string]struct {
		env  []string
		want []string // SETTING host
	}{
		"none":                   {nil, nil},
		"https":                  {[]string{"HTTPS_PROXY=http://u:MARKER@proxy.example.net:3128"}, []string{"HTTPS_PROXY proxy.example.net"}},
		"without a scheme":       {[]string{"https_proxy=proxy.example.net:3128"}, []string{"https_proxy proxy.example.net"}},
		"http alone":             {[]string{"HTTP_PROXY=http://a.example.net", "http_proxy=http://b.example.net"}, []string{"HTTP_PROXY a.example.net", "http_proxy b.example.net"}},
		"all":                    {[]string{"ALL_PROXY=socks5://a.example.net:1080", "all_proxy=socks5h://b.example.net"}, []string{"ALL_PROXY a.example.net", "all_proxy b.example.net"}},
		"on this machine":        {[]string{"HTTPS_PROXY=http://127.0.0.1:3128"}, []string{"HTTPS_PROXY 127.0.0.1"}},
		"excepted, one of two":   {[]string{"HTTPS_PROXY=http://proxy.example.net", "NO_PROXY=" + api}, []string{"HTTPS_PROXY proxy.example.net"}},
		"excepted, both":         {[]string{"HTTPS_PROXY=http://proxy.example.net", "NO_PROXY=" + token}, nil}, // and below it
		"excepted, lower case":   {[]string{"HTTPS_PROXY=http://proxy.example.net", "no_proxy=*"}, nil},
		"only this machine left": {[]string{"HTTPS_PROXY=http://proxy.example.net", "TRAKR_BITBUCKET_API_URL=http://127.0.0.1:1"}, nil},
		"before a collector":     {[]string{"HTTPS_PROXY=http://proxy.example.net", "TRAKR_BITBUCKET_API_URL=http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_ENDPOINT=collector.example.net:4317"}, []string{"HTTPS_PROXY proxy.example.net"}},
		"before a key server":    {[]string{"HTTPS_PROXY=http://proxy.example.net", "TRAKR_BITBUCKET_API_URL=http://127.0.0.1:1", "TRAKR_KEYS_WRAP=hcvault://vault.example.net/transit/keys/k", "TRAKR_KEYS_WRAP_TOKEN=x"}, []string{"HTTPS_PROXY proxy.example.net"}},
	} {
		cfg, err := config.Load(c.env, false)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		d, err := resolveDestinations(cfg, c.env)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, p := range d.recorded() {
			if p.Name == string(lifecycle.ToProxy) {
				got = append(got, p.Setting+" "+p.Host)
			}
			if strings.Contains(fmt.Sprint(p), "MARKER") {
				t.Errorf("%s: more than the host is put down", name)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// What an instance recorded is read as what it was.
func TestRecordedDestinationsAreReadBack(t *testing.T) {
	d := destinations{
		endpoints: []drift.Endpoint{
			{Setting: "TRAKR_WEBHOOK_URL", To: lifecycle.ToFindings, Address: "https://u:p@hooks.example.net:8443/x?y"},
			{Setting: "OTEL_EXPORTER_OTLP_ENDPOINT", To: lifecycle.ToTelemetry, Address: "http://[2001:db8::1]:4318"},
		},
		databases: []drift.Database{{Setting: "TRAKR_DATABASE_URL", Host: "db.example.net"}, {Setting: "TRAKR_DATA_DIR"}},
	}
	recorded := d.recorded()
	back := recordedDestinations([]instances.Instance{{Facts: instances.Facts{Destinations: recorded}}})
	if again := back.recorded(); !slices.Equal(again, recorded) || len(recorded) != 4 {
		t.Errorf("%v, was %v", again, recorded)
	}
}

// A setting that a later version adds and that names a host is compared too, or is listed
// here with the reason why not.
func TestEverySettingThatNamesAHostIsCompared(t *testing.T) {
	inward := []string{"TRAKR_BASE_URL", "TRAKR_DATABASE_URL", "TRAKR_MIGRATION_DATABASE_URL"} // our own address; stores
	for _, v := range config.Variables() {
		known := slices.Contains(inward, v)
		for _, d := range hostSettings {
			known = known || d.name == v
		}
		if strings.HasSuffix(v, "_URL") && !known {
			t.Errorf("%s names a host that is not compared with the policy: see hostSettings", v)
		}
	}
}
