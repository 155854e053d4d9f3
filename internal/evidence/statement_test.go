package evidence_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"trakr/internal/check"
	"trakr/internal/drift"
	"trakr/internal/lifecycle"
	"trakr/internal/store/instances"
	"trakr/internal/store/storetest"
	"trakr/internal/sweep"
	"trakr/reports"
)

const (
	no      = check.Fail
	unknown = check.Unknown
)

// story is one change of reality, and all that it makes of the statement and the sheet.
type story struct {
	what      string
	change    func()
	checks    states   // exactly these turn, and so
	sentences states   // exactly these
	sheet     []string // and these places of the Marketplace sheet; none where it has no place for it
	put       func()   // puts it back; nil for what cannot be: it stays so to the end
}

// Places of the sheet that change together.
var (
	typesOfData = []string{"dataAccessAndStorage.typesOfDataAccessed", "dataAccessAndStorage.typesOfDataStored",
		"privacy.ccpa.serviceProvider.endUserDataTypes", "privacy.gdpr.dataProcessor.endUserDataTypes"}
	logsUnclean  = []string{"logDetails.logEUDShareWithThirdParty", "logDetails.logEndUserData", "logDetails.logProcessAndOrStoreEUDOutsideAtlassian"}
	countries    = []string{"dataResidency.countriesWhereEndUserDataStored"}
	thirdParties = []string{"thirdPartyInformation.thirdPartyDetails"}
	permissions  = []string{"security.permissionsJustification"}
	daysKept     = []string{"dataRetention.retentionDurationInDays.max"}
	indefinitely = []string{"dataRetention.isRetentionDurationIndefinite", "dataRetention.retentionDurationInDays"}
)

// stories are all there are, one check of the statement after the other. Those that
// cannot be put back come last.
func (w *reality) stories() []story {
	sweeps := func(kinds ...string) func() { return func() { w.sweep(kinds...) } }
	sql := func(sql string, kinds ...string) func() { return func() { w.Exec(sql); w.sweep(kinds...) } }
	var overdue string // the request
	var changed int64  // the event
	return []story{
		// kept, no-contact-data
		{"a column for e-mail", sql(`ALTER TABLE trakr.tenants ADD COLUMN owner_email text`),
			states{"catalog": no}, states{"kept": no, "no-contact-data": no}, typesOfData, sql(`ALTER TABLE trakr.tenants DROP COLUMN owner_email`)},
		{"a column beside the values", sql(`ALTER TABLE trakr.tenant_fields ADD COLUMN phone text`),
			states{"catalog": no, "fields": no}, states{"kept": no, "no-contact-data": no}, typesOfData, sql(`ALTER TABLE trakr.tenant_fields DROP COLUMN phone`)},
		{"a table that nobody declared", sql(`CREATE TABLE public.copies (x text)`),
			states{"catalog": no}, states{"kept": no, "no-contact-data": no}, typesOfData, sql(`DROP TABLE public.copies`)},
		{"the username is switched off, and stored", func() {
			w.declare("    source: principal.username\n", "    source: principal.username\n    off: true\n")
		}, states{"fields": no}, states{"kept": no}, typesOfData, func() {
			if w.sweep(sweep.Retention); w.said().checks["fields"] != "" {
				w.t.Error("removed, and still said to be stored")
			}
			w.declare()
		}},
		{"a field of a forbidden category, which no policy file may declare", func() {
			w.Policy.Fields[4].Category, w.Policy.Fields[4].Label = "user.contact.email", "E-mail address"
		}, states{"no-contact-field": no}, states{"no-contact-data": no}, typesOfData, func() { w.declare() }},
		{"an e-mail address in a stored value", sql(`UPDATE trakr.job_heartbeats SET failure = 'no answer for ada@example.com' WHERE job = 'canary'`, sweep.Minimisation),
			states{"minimisation": no}, states{"kept": no, "no-contact-data": no}, logsUnclean, sql(`UPDATE trakr.job_heartbeats SET failure = NULL`, sweep.Minimisation)},
		{"a tenant was stored by a version that judged no values", sql(`UPDATE trakr.tenants SET updated_at = updated_at - interval '1 day' WHERE tenant_id = '` + w.alive[2].String() + `'`),
			states{"minimisation": unknown}, states{"kept": unknown, "no-contact-data": unknown}, logsUnclean,
			sql(`UPDATE trakr.tenants SET updated_at = updated_at + interval '1 day' WHERE tenant_id = '` + w.alive[2].String() + `'`)},
		{"nobody looked for days", func() { w.old(sweep.Minimisation) },
			states{"minimisation": unknown, "sweeps-run": no}, states{"kept": unknown, "no-contact-data": unknown, "checked": no}, logsUnclean, sweeps(sweep.Minimisation)},

		// deleted, checked
		{"a row that remains", func() {
			w.Exec(`INSERT INTO trakr.replay_guard (token_hash, tenant_id, seen_at, expires_at) VALUES (sha256('x'), $1, now(), now() + interval '1 hour')`, w.left.String())
			w.sweep(sweep.Orphans)
		},
			states{"orphans": no}, states{"deleted": no, "checked": no}, indefinitely, sql(`DELETE FROM trakr.replay_guard WHERE token_hash = sha256('x')`, sweep.Orphans)},
		{"the canary is not seen", func() {
			w.still = []string{"canary"}
			w.Exec(`DELETE FROM trakr.sweep_canaries`)
			w.sweep(sweep.Orphans)
			w.still = nil
		},
			states{"orphans": unknown}, states{"deleted": unknown, "checked": unknown}, nil, sweeps(sweep.Orphans)},
		{"the sweep is turned off", func() { w.old(sweep.Orphans) },
			states{"orphans": unknown, "sweeps-run": no}, states{"deleted": unknown, "checked": no}, nil, sweeps(sweep.Orphans)},
		{"a job's heart stands still", func() { w.standStill(drift.SweepJob + sweep.Orphans) },
			states{"sweeps-run": no}, states{"checked": no}, nil, func() { w.still = nil }},
		{"no service has scheduled anything", func() { w.Exec(`DELETE FROM trakr.job_heartbeats`); w.still = w.reporter.Jobs },
			states{"sweeps-run": unknown}, states{"checked": unknown}, nil, func() { w.still = nil; w.expect() }},
		{"Bitbucket does not know a tenant any more, which may be an outage there", func() { w.gone(w.alive[1]); w.sweep(sweep.Liveness) }, nil, nil, nil, nil},
		{"it has not known it for a week", func() {
			w.Exec(`UPDATE trakr.tenant_liveness SET first_suspected_at = first_suspected_at - interval '7 days' WHERE first_suspected_at IS NOT NULL`)
		}, states{"missed-uninstalls": no}, states{"deleted": no}, nil, func() { w.gone(); w.sweep(sweep.Liveness) }},
		{"too many are gone at once to be believed", func() { w.gone(w.alive[1:]...); w.sweep(sweep.Liveness) },
			states{"missed-uninstalls": no}, states{"deleted": no}, nil, func() { w.gone(); w.sweep(sweep.Liveness) }},
		{"Bitbucket answers nobody", func() { w.answers(500); w.sweep(sweep.Liveness) },
			states{"missed-uninstalls": unknown}, states{"deleted": unknown}, nil, func() { w.answers(0); w.sweep(sweep.Liveness) }},

		{"the end service takes no notice of an erasure", func() {
			w.Clock.Add(-3 * time.Hour) // then it was told of the tenant
			id := w.told("told")
			w.Clock.Add(time.Hour)
			w.uninstall(id, w.Clock.Now(), nil)
		}, states{"recipients": no}, states{"deleted": no}, nil, w.deliver},

		// location
		{"a standby elsewhere", func() {
			w.declare("of the same cluster\"\n    city: New York\n    region: nyc3\n    country: US\n", "of the same cluster\"\n    city: Frankfurt\n    region: fra1\n    country: DE\n")
		}, states{"one-place": no}, states{"location": no}, slices.Concat(countries, thirdParties), func() { w.declare() }},
		{"the database is not where it is declared", func() { w.Policy.Stores[0].Connection = "network" },
			states{"observed-place": no}, states{"location": no}, countries, func() { w.declare() }},
		{"the database's host shows another region", func() { w.parties[2] = database("fra1") },
			states{"observed-place": no}, states{"location": no}, countries, func() { w.parties[2] = database("nyc3") }},
		{"the database is at a host of nobody's", func() { w.parties[2].Host = "203.0.113.9" },
			states{"observed-place": no, "hosts": no}, states{"location": no, "use": no}, slices.Concat(countries, thirdParties), func() { w.parties[2] = database("nyc3") }},
		{"the database is in a network of our own", func() { w.parties[2].Host = "10.0.0.7" },
			states{"observed-place": unknown}, states{"location": unknown}, countries, func() { w.parties[2] = database("nyc3") }},
		{"a replica acts by another policy", func() { w.actsBy = strings.Repeat("0", 64) },
			states{"policy": unknown}, states{"kept": unknown, "deleted": unknown, "checked": unknown, "location": unknown, "use": unknown, "scopes": unknown, "requests": unknown}, nil, func() { w.actsBy = w.Policy.Hash() }},
		{"no service runs", func() { w.away = true },
			states{"policy": unknown, "hosts": unknown, "observed-place": unknown}, states{"kept": unknown, "deleted": unknown, "checked": unknown, "location": unknown, "use": unknown, "scopes": unknown, "requests": unknown}, countries, func() { w.away = false }},

		// use
		{"one more field may go to the end service, which no policy file may declare", func() { w.release(lifecycle.ToBitbucket, lifecycle.ToEndService) },
			states{"egress": no}, states{"use": no}, nil, func() { w.declare() }},
		{"a host that nobody declared", func() {
			w.parties = append(w.parties, instances.Destination{Setting: "TRAKR_WEBHOOK_URL", Name: string(lifecycle.ToFindings), Host: "hooks.example.net"})
		}, states{"hosts": no}, states{"use": no}, thirdParties, func() { w.parties = w.parties[:3] }},

		// access
		{"the log's guard is off", sql(`ALTER TABLE trakr.audit_leaves DISABLE TRIGGER rows_stay`),
			states{"guards": no}, states{"access": no}, nil, sql(`ALTER TABLE trakr.audit_leaves ENABLE ALWAYS TRIGGER rows_stay`)},
		{"the service may delete from the log", sql(`GRANT DELETE ON trakr.audit_events TO trakr_service`),
			states{"guards": no}, states{"access": no}, nil, sql(`REVOKE DELETE ON trakr.audit_events FROM trakr_service`)},
		{"an event is changed around the service", func() {
			changed = w.Int(`SELECT max(id) FROM trakr.audit_events WHERE status_detail IS NOT NULL`)
			w.tamper(`UPDATE trakr.audit_events SET status_detail = status_detail || 'x' WHERE id = $1`, changed)
			w.sweep(sweep.Integrity)
		}, states{"integrity": no}, states{"access": no}, nil, func() {
			w.tamper(`UPDATE trakr.audit_events SET status_detail = left(status_detail, -1) WHERE id = $1`, changed)
			w.sweep(sweep.Integrity)
		}},
		{"the log cannot be verified", func() { w.sinkFails = errBroken; w.sweep(sweep.Integrity) },
			states{"integrity": unknown}, states{"access": unknown}, nil, func() { w.sinkFails = nil; w.sweep(sweep.Integrity) }},

		// scopes
		{"a scope that nobody declared", func() { w.served = w.policy(oneScopeMore...) },
			states{"descriptor": no, "scopes-needed": no}, states{"scopes": no}, permissions, func() { w.served = w.policy() }},
		{"a declared scope that no call needs", func() { w.served = w.policy(oneScopeMore...); w.declare(oneScopeMore...) },
			states{"scopes-needed": no}, states{"scopes": no}, permissions, func() { w.served = w.policy(); w.declare() }},

		// requests
		{"a deletion request is overdue", func() { overdue = w.request(w.values[w.alive[0]], 31*24*time.Hour) },
			states{"requests": no}, states{"requests": no}, nil, func() { w.withdraw(overdue) }},

		// What cannot be put back: the log only grows, and what was late stays late.
		{"a request is completed late", func() { w.request(storetest.Values("never seen"), 31*24*time.Hour) },
			states{"requests": no}, states{"requests": no}, nil, nil},
		{"the law keeps an erasure past its deadline, which is no lie", func() { w.hold(w.alive[3]); w.uninstall(w.alive[3], w.now().Add(-25*time.Hour), lifecycle.OnHold) },
			nil, nil, nil, nil},
		{"an erasure passes the deadline", func() { w.uninstall(w.alive[4], w.now().Add(-25*time.Hour), nil) },
			states{"erasures": no}, states{"deleted": no}, daysKept, nil},
		{"one more field was sent to the end service", func() {
			w.release(lifecycle.ToBitbucket, lifecycle.ToEndService)
			w.told("told too much")
			w.declare()
		}, states{"disclosures": no}, states{"use": no}, thirdParties, nil},
	}
}

var oneScopeMore = []string{"    - name: webhook\n", "    - name: repository\n      why: \"Nobody knows.\"\n    - name: webhook\n"}

// Reality changes under a running service, and exactly the sentences bound to what
// changed are no longer true, and the sheet changes with them; put back, both are what
// they were.
func TestRealityTurnsExactlyTheBoundSentencesFalse(t *testing.T) {
	w := newReality(t)
	before := w.said()
	// Backups lie outside of what a service can see: nothing ever makes that sentence true.
	unseen := states{"backups": unknown}
	if len(w.reporter.Statement.Sentences) < 10 || !maps.Equal(before.sentences, unseen) || !maps.Equal(before.checks, unseen) {
		t.Fatalf("not true at the beginning: %v %q", before.sentences, before.why)
	}
	turned := map[string]bool{"backups": true}
	for _, s := range w.stories() {
		t.Log(s.what)
		s.change()
		after := w.said()
		checks, sentences := maps.Clone(before.checks), maps.Clone(before.sentences)
		for id, state := range s.checks {
			checks[id], turned[id] = state, true
		}
		maps.Copy(sentences, s.sentences)
		if !maps.Equal(after.checks, checks) || !maps.Equal(after.sentences, sentences) {
			t.Errorf("%s: not true are %v, by %v; want %v, by %v\n%q", s.what, after.sentences, after.checks, sentences, checks, after.why)
		}
		if sheet := w.differ(before, after); !slices.Equal(sheet, s.sheet) {
			t.Errorf("%s: the sheet changes at %q, want %q", s.what, sheet, s.sheet)
		}
		if s.put == nil {
			before = after
			continue
		}
		s.put()
		if back := w.said(); !maps.Equal(back.checks, before.checks) || len(w.differ(before, back))+len(w.differ(back, before)) > 0 {
			t.Fatalf("%s, put back: %v %q, the sheet at %q", s.what, back.sentences, back.why, w.differ(before, back))
		}
	}
	for _, id := range reports.Checks() {
		if !turned[id] {
			t.Errorf("no story turns the check %s", id)
		}
	}
}
