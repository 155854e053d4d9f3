package evidence_test

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"trakr/internal/check"
	"trakr/internal/store/instances"
	"trakr/internal/store/storetest"
	"trakr/policy"
	"trakr/reports"
)

// Reports check the services that the database records as running, by its own clock, and
// never the settings of the process that makes the report.
func TestOnlyTheRecordsOfRunningServicesAreChecked(t *testing.T) {
	e := storetest.New(t)
	must := storetest.Must(t)
	r := reporter(t, e)
	r.Statement = must(policy.LoadStatement("", reports.Checks())).(*policy.SecurityStatement)
	r.Running = instances.New(e.DB).List
	r.Own = []instances.Destination{{Setting: "HTTPS_PROXY", Name: "proxy", Host: "proxy.example.net"}, {Setting: "TRAKR_DATABASE_URL", Name: instances.Database, Host: "db.example.net"}}

	said := func() (facts reports.Facts, states map[string]check.State) {
		t.Helper()
		f, err := r.Facts(t.Context(), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		states = map[string]check.State{}
		for _, s := range reports.SecurityStatementOf(e.Policy, r.Statement, f, "test").Sentences {
			for _, c := range s.Checks {
				if c.ID == "hosts" || c.ID == "policy" {
					states[c.ID] = c.State
				}
			}
		}
		return f, states
	}
	hold := func(id uuid.UUID, acts instances.Facts) {
		t.Helper()
		must(0, instances.New(e.DB).Record(t.Context(), id, e.Keys, acts))
	}
	want := func(when string, services int, hosts, acts check.State) reports.Facts {
		t.Helper()
		f, states := said()
		if f.Instances != services || !maps.Equal(states, map[string]check.State{"hosts": hosts, "policy": acts}) {
			t.Errorf("%s: %d services, %v", when, f.Instances, states)
		}
		return f
	}

	// None runs: nothing is known of it, and this process's own proxy is not its. This process
	// reached the database, so its place is known.
	f := want("none runs", 0, check.Unknown, check.Unknown)
	if f.Hosts != nil || len(f.Databases) != 1 || f.Databases[0].Host != "db.example.net" || f.Databases[0].Declared {
		t.Errorf("%+v", f)
	}

	const host = "db-postgresql-nyc3-12345-do-user-1234567-0.c.db.ondigitalocean.com"
	sound := instances.Facts{PolicyHash: e.Policy.Hash(), Destinations: []instances.Destination{{Setting: "TRAKR_BITBUCKET_API_URL", Name: "bitbucket", Host: "api.bitbucket.org"},
		{Setting: "TRAKR_DATABASE_URL", Name: instances.Database, Host: host}}}
	one, two := uuid.New(), uuid.New()
	hold(one, sound)
	hold(two, sound)
	f = want("two replicas", 2, check.Pass, check.Pass)
	if len(f.Hosts) != 2 || len(f.Databases) != 1 || f.Databases[0].Host != host || !f.Databases[0].Declared {
		t.Errorf("%+v", f)
	}

	for name, c := range map[string]struct {
		acts         instances.Facts
		hosts, acts2 check.State
	}{
		"a proxy":             {instances.Facts{PolicyHash: e.Policy.Hash(), Destinations: append(sound.Destinations, instances.Destination{Setting: "HTTPS_PROXY", Name: "proxy", Host: "proxy.example.net"})}, check.Fail, check.Pass},
		"another database":    {instances.Facts{PolicyHash: e.Policy.Hash(), Destinations: append(sound.Destinations, instances.Destination{Setting: "TRAKR_DATABASE_URL", Name: instances.Database, Host: "203.0.113.9"})}, check.Fail, check.Pass},
		"a later destination": {instances.Facts{PolicyHash: e.Policy.Hash(), Destinations: append(sound.Destinations, instances.Destination{Setting: "TRAKR_X_URL", Name: "x", Host: "api.bitbucket.org"})}, check.Fail, check.Pass},
		"no host":             {instances.Facts{PolicyHash: e.Policy.Hash(), Destinations: append(sound.Destinations, instances.Destination{Setting: "TRAKR_X_URL", Name: "bitbucket"})}, check.Fail, check.Pass},
		"another policy":      {instances.Facts{PolicyHash: strings.Repeat("ab", 32), Destinations: sound.Destinations}, check.Pass, check.Unknown},
		"an older version":    {instances.Facts{}, check.Unknown, check.Unknown},
	} {
		hold(two, c.acts)
		want(name, 2, c.hosts, c.acts2)
	}
	// Half a minute without a word, by the database's clock, and it does not run.
	e.Exec(`UPDATE trakr.key_holders SET seen_at = clock_timestamp() - interval '29 seconds' WHERE instance_id = $1::text::uuid`, two.String())
	if f, _ := said(); f.Instances != 2 {
		t.Errorf("after 29 seconds: %d", f.Instances)
	}
	e.Exec(`UPDATE trakr.key_holders SET seen_at = clock_timestamp() - interval '31 seconds' WHERE instance_id = $1::text::uuid`, two.String())
	want("one was not seen for half a minute", 1, check.Pass, check.Pass)
	// A day later nothing is left of it.
	e.Exec(`UPDATE trakr.key_holders SET seen_at = clock_timestamp() - interval '25 hours' WHERE instance_id = $1::text::uuid`, two.String())
	hold(one, sound)
	if n := e.Int(`SELECT count(*) FROM trakr.key_holders`); n != 1 {
		t.Errorf("%d rows", n)
	}
	must(0, instances.New(e.DB).Leave(t.Context(), one))
	want("it left", 0, check.Unknown, check.Unknown)
	// The three lists have equal lengths, also when they are written by hand.
	if err := e.TryExec(`INSERT INTO trakr.key_holders (instance_id, key_ids, settings) VALUES (gen_random_uuid(), '{}', '{X}')`); err == nil {
		t.Error("a setting without its host was taken")
	}
}
