package drift_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"trakr/internal/drift"
	"trakr/internal/lifecycle"
	"trakr/policy"
)

// agreed is a policy and the facts of a service that is what it says.
func agreed(t *testing.T) (*policy.Policy, drift.Facts) {
	t.Helper()
	p, err := policy.Default()
	if err != nil {
		t.Fatal(err)
	}
	f := drift.Facts{Tables: map[string][]string{}, SwitchedOff: map[lifecycle.Field]int64{}, Scopes: []string{}}
	for _, s := range p.Stores {
		for _, table := range s.Tables {
			f.Tables[table.Name] = slices.Clone(table.Columns)
		}
	}
	for _, s := range p.App.Scopes {
		f.Scopes = append(f.Scopes, s.Name)
	}
	for _, s := range p.Sweeps {
		f.Jobs, f.Sweeps = append(f.Jobs, drift.Job{Name: drift.SweepJob + s.Kind, Schedule: s.Schedule}), append(f.Sweeps, s.Kind)
	}
	for _, j := range p.Jobs {
		f.Jobs = append(f.Jobs, drift.Job{Name: j.Name, Schedule: j.Schedule})
	}
	f.Endpoints = []drift.Endpoint{{"TRAKR_BITBUCKET_API_URL", lifecycle.ToBitbucket, "https://api.bitbucket.org"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", lifecycle.ToTelemetry, "http://localhost:4318"}, {"TRAKR_WEBHOOK_URL", lifecycle.ToFindings, "http://127.0.0.1:9/x"}}
	f.Databases = []drift.Database{{Setting: "TRAKR_DATABASE_URL", Host: "db-1.db.ondigitalocean.com"}}
	return p, f
}

func compare(p *policy.Policy, f drift.Facts) []drift.Difference {
	return drift.Compare(p, f)
}

func TestAServiceThatIsWhatItsPolicySaysHasNoDifference(t *testing.T) {
	p, f := agreed(t)
	if found := compare(p, f); found != nil || drift.Refusal(p, found) != nil {
		t.Errorf("%v", found)
	}
	if found := compare(p, drift.Facts{}); found != nil {
		t.Errorf("what was not looked at is compared: %v", found)
	}
}

func TestEachDifferenceIsNamedWithAWayOut(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(p *policy.Policy, f *drift.Facts)
		want    string // what the one difference begins with
		refuses bool
	}{
		"a column": {func(_ *policy.Policy, f *drift.Facts) {
			f.Tables["trakr.tenants"] = append(f.Tables["trakr.tenants"], "email")
		}, "catalog trakr.tenants.email: the policy does not declare this column", true},
		"a table":            {func(_ *policy.Policy, f *drift.Facts) { f.Tables["bench.children"] = []string{"id"} }, "catalog bench.children: the policy does not declare this table", true},
		"a table's absence":  {func(_ *policy.Policy, f *drift.Facts) { delete(f.Tables, "trakr.certificates") }, "catalog trakr.certificates: the policy declares this table, and it is not there", false},
		"a column's absence": {func(_ *policy.Policy, f *drift.Facts) { f.Tables["trakr.log_identity"] = []string{"log_id"} }, "catalog trakr.log_identity.created_at: the policy declares this column", false},
		"a scope more":       {func(_ *policy.Policy, f *drift.Facts) { f.Scopes = append(f.Scopes, "repository:write") }, "scope repository:write: the descriptor asks for this scope, and the policy does not declare it", true},
		"a scope less":       {func(_ *policy.Policy, f *drift.Facts) { f.Scopes = f.Scopes[1:] }, "scope account: the policy declares this scope, and the descriptor does not ask", true},
		"a host": {func(_ *policy.Policy, f *drift.Facts) {
			f.Endpoints[1].Address = "https://collector.example.net/x?k=MARKER"
		}, "host OTEL_EXPORTER_OTLP_ENDPOINT: the policy does not declare the host collector.example.net for telemetry", true},
		"another's host": {func(_ *policy.Policy, f *drift.Facts) {
			f.Endpoints[2].Address = "https://u:MARKER@api.bitbucket.org/x"
		}, "host TRAKR_WEBHOOK_URL: the policy does not declare the host api.bitbucket.org for findings", true},
		"no host": {func(_ *policy.Policy, f *drift.Facts) { f.Endpoints[2].Address = "MARKER" }, "host TRAKR_WEBHOOK_URL: the address of findings has no host", true},
		"a database": {func(_ *policy.Policy, f *drift.Facts) {
			f.Databases[0].Host = "x.rds.amazonaws.com"
		}, "host TRAKR_DATABASE_URL: the policy does not declare the host x.rds.amazonaws.com for any database", true},
		"the bare suffix": {func(_ *policy.Policy, f *drift.Facts) {
			f.Databases[0].Host = "db.ondigitalocean.com"
		}, "host TRAKR_DATABASE_URL: the policy does not declare the host db.ondigitalocean.com", true},
		"one of two hosts": {func(_ *policy.Policy, f *drift.Facts) {
			f.Databases = []drift.Database{{"TRAKR_DATABASE_URL", ""}, {"TRAKR_DATABASE_URL", "DB.example.com."}}
		}, "host TRAKR_DATABASE_URL: the policy does not declare the host db.example.com", true},
		"two of two hosts": {func(_ *policy.Policy, f *drift.Facts) {
			f.Databases = []drift.Database{{"TRAKR_DATABASE_URL", "a.example.com"}, {"TRAKR_DATABASE_URL", "b.example.com"}, {"TRAKR_DATABASE_URL", "b.example.com"}}
		}, "host TRAKR_DATABASE_URL: the policy does not declare the host a.example.com for any database, so its place is not known; the policy does not declare the host b.example.com for any database, so its place is not known. Way out: ", true},
		"a proxy": {func(_ *policy.Policy, f *drift.Facts) {
			f.Endpoints = append(f.Endpoints, drift.Endpoint{Setting: "HTTPS_PROXY", To: lifecycle.ToProxy, Address: "http://u:MARKER@proxy.example.net:3128"})
		}, "host HTTPS_PROXY: the policy does not declare the host proxy.example.net for proxy. Way out: declare the host under egress, to: proxy, with what goes there, or unset HTTPS_PROXY", true},
		"a job": {func(_ *policy.Policy, f *drift.Facts) {
			f.Jobs = append(f.Jobs, drift.Job{Name: "upload", Schedule: "* * * * *"})
		}, "schedule upload: it is scheduled, and the policy does not declare it", true},
		"a job's absence":    {func(_ *policy.Policy, f *drift.Facts) { f.Jobs = f.Jobs[1:] }, "schedule sweep orphans: the policy promises that it runs, and it is not scheduled", true},
		"a job's time":       {func(_ *policy.Policy, f *drift.Facts) { f.Jobs[0].Schedule = "0 0 1 1 *" }, `schedule sweep orphans: it is scheduled at "0 0 1 1 *", and the policy declares "17 * * * *"`, true},
		"a sweep of no time": {func(p *policy.Policy, f *drift.Facts) { p.Sweeps, f.Jobs = p.Sweeps[1:], f.Jobs[1:] }, "schedule sweep orphans: the policy gives it no schedule", true},
		"a sweep of none":    {func(_ *policy.Policy, f *drift.Facts) { f.Sweeps = f.Sweeps[1:] }, "schedule sweep orphans: the policy promises this sweep, and this version has none", true},
		"a value held": {func(p *policy.Policy, f *drift.Facts) {
			p.Fields[3].Off, f.SwitchedOff = true, map[lifecycle.Field]int64{lifecycle.Username: 3}
		},
			"field username: the policy switches it off, and values of it are still stored", false},
	} {
		t.Run(name, func(t *testing.T) {
			p, f := agreed(t)
			f.Tables = maps.Clone(f.Tables)
			c.change(p, &f)
			found := compare(p, f)
			if len(found) != 1 || !strings.HasPrefix(found[0].String(), c.want) || !strings.Contains(found[0].String(), ". Way out: ") || strings.Contains(found[0].String(), "MARKER") {
				t.Fatalf("want %q, got %v", c.want, found)
			}
			err := drift.Refusal(p, found)
			if (err != nil) != c.refuses || (err != nil && !strings.Contains(err.Error(), found[0].String())) {
				t.Errorf("refusal: %v", err)
			}
		})
	}
}

func TestThisMachineAndItsOwnNetworkNeedNoMention(t *testing.T) {
	p, f := agreed(t)
	for _, host := range []string{"", "localhost", "::1", "postgres", "10.2.3.4", "trakr-db.prod.svc.cluster.local", "DB-1.db.ondigitalocean.com."} {
		f.Databases[0].Host = host
		if found := compare(p, f); found != nil {
			t.Errorf("%s: %v", host, found)
		}
	}
	for _, address := range []string{"http://localhost:1", "http://127.0.0.2:1/x", "http://[::1]:4318"} {
		f.Endpoints[1].Address = address
		if found := compare(p, f); found != nil {
			t.Errorf("%s: %v", address, found)
		}
	}
	f.Endpoints[1].Address = "http://collector:4318" // of another party there is no own network
	if found := compare(p, f); len(found) != 1 {
		t.Errorf("an undeclared collector: %v", found)
	}
}
