package main

import (
	"context"
	"strings"

	"trakr/internal/bitbucket"
	"trakr/internal/config"
	"trakr/internal/connect"
	"trakr/internal/drift"
	"trakr/internal/egress"
	"trakr/internal/lifecycle"
	"trakr/internal/schedule"
	"trakr/policy"
)

// destinations are the settings that name whom the service talks to. One that is not
// here and ends in _URL fails a test.
var destinations = []struct {
	setting string
	to      policy.Destination
}{
	{"TRAKR_BITBUCKET_API_URL", policy.ToBitbucket},
	{"TRAKR_END_SERVICE_URL", policy.ToEndService},
	{"TRAKR_WEBHOOK_URL", policy.ToFindings},
	{"TRAKR_CHECKPOINT_URL", policy.ToCheckpoints},
	{"TRAKR_LEDGER", policy.ToLedger},
	{"TRAKR_KEYS_WRAP", policy.ToKeys},
	{"OTEL_EXPORTER_OTLP_ENDPOINT", policy.ToTelemetry},
	{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", policy.ToTelemetry},
	{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", policy.ToTelemetry},
	{"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", policy.ToTelemetry},
}

// endpoints are the addresses that the settings name, the defaults included.
func endpoints(cfg config.Config, environ []string) []drift.Endpoint {
	vars := map[string]string{}
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		vars[name] = value
	}
	vars["TRAKR_BITBUCKET_API_URL"] = cfg.BitbucketAPIURL
	if !cfg.LedgerAtURL() {
		delete(vars, "TRAKR_LEDGER")
	}
	var out []drift.Endpoint
	for _, d := range destinations {
		address := vars[d.setting]
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
		out = append(out, drift.Endpoint{Setting: "TRAKR_BITBUCKET_API_URL", To: policy.ToBitbucket, Address: tokens})
	}
	return out
}

// databases are where the database is reached; none for the private one.
func databases(cfg config.Config) []drift.Endpoint {
	var out []drift.Endpoint
	for _, d := range []struct {
		setting string
		url     lifecycle.Secret
	}{{"TRAKR_DATABASE_URL", cfg.DatabaseURL}, {"TRAKR_MIGRATION_DATABASE_URL", cfg.MigrationDatabaseURL}} {
		if !d.url.Empty() {
			out = append(out, drift.Endpoint{Setting: d.setting, Address: d.url.Reveal()})
		}
	}
	return out
}

// settled are the facts that need no database: what the settings and the descriptor
// say, and what is scheduled.
func (s *service) settled() (drift.Facts, error) {
	f := drift.Facts{Endpoints: endpoints(s.cfg, s.environ), Databases: databases(s.cfg), Jobs: s.scheduled, Sweeps: sweepKinds()}
	if f.Jobs == nil { // not scheduled yet, or by another process of this version
		for _, j := range s.jobs() {
			f.Jobs = append(f.Jobs, drift.Job{Name: j.Name, Schedule: j.Spec})
		}
	}
	d, err := connect.Descriptor(s.policy, s.cfg.BaseURL)
	if err != nil {
		return f, err
	}
	f.Scopes, err = connect.Scopes(d)
	return f, err
}

// noteScheduled keeps what a scheduler really has, for the comparison while it runs.
func (s *service) noteScheduled(jobs *schedule.Scheduler) {
	s.scheduled = nil
	for _, j := range jobs.Jobs() {
		s.scheduled = append(s.scheduled, drift.Job{Name: j.Name, Schedule: j.Spec})
	}
}

// facts are all of them.
func (s *service) facts(ctx context.Context) (drift.Facts, error) {
	f, err := s.settled()
	if err != nil {
		return f, err
	}
	if f.Tables, err = s.sweeps.Catalog(ctx); err != nil {
		return f, err
	}
	f.Held, err = s.door.Held(ctx)
	return f, err
}

// asDeclared refuses to start with what the policy does not declare.
func (s *service) asDeclared(f drift.Facts) error {
	return drift.Refusal(s.policy, drift.Compare(s.policy, f, egress.Host))
}

// driftChecks are doctor's: one for each difference, or one that says that there is none.
func (s *service) driftChecks(ctx context.Context) []finding {
	const name = "what runs is what the policy declares"
	f, err := s.facts(ctx)
	if err != nil {
		return []finding{{name, "unknown", err.Error()}}
	}
	var out []finding
	for _, d := range drift.Compare(s.policy, f, egress.Host) {
		out = append(out, finding{name, "fail", d.String()})
	}
	if out == nil {
		out = []finding{{name, "pass", ""}}
	}
	return out
}
