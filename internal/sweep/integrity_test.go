package sweep_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"trakr/internal/store/audit"
	"trakr/internal/store/findings"
	"trakr/internal/store/storetest"
	"trakr/internal/sweep"
	"trakr/internal/sweep/sweeptest"
)

// looker runs integrity passes on a log with a checkpoint kept elsewhere.
type looker struct {
	*storetest.Env
	runner *sweep.Runner
	seq    *audit.Sequencer
	kept   []audit.Outside
	asked  []bool  // whether each pass wanted all that was kept
	seen   []int64 // first progress of each pass
}

func integrity(t *testing.T) *looker {
	t.Helper()
	l := &looker{Env: storetest.New(t)}
	p := sweep.NewIntegrity(l.DB, l.Log, findings.New(l.DB), func(_ context.Context, all bool) ([]audit.Outside, error) {
		l.asked = append(l.asked, all)
		return l.kept, nil
	})
	l.runner = storetest.Must(t)(sweep.New(l.DB, l.Policy, l.Clock.Now, slog.New(slog.DiscardHandler), sweeptest.Fill(l.Policy, p)...)).(*sweep.Runner)
	l.seq = storetest.Must(t)(l.Log.NewSequencer()).(*audit.Sequencer)
	return l
}

// grow appends events in passes of five and keeps the newest checkpoint.
func (l *looker) grow(passes int) {
	l.T.Helper()
	for range passes {
		var evs []audit.Event
		for k := range 5 {
			e := audit.New(l.T.Context(), l.Clock.Now(), storetest.Service(), audit.TenantLookup, audit.Success)
			e.StatusDetail = fmt.Sprint(k)
			evs = append(evs, e)
		}
		if err := l.Log.Record(l.T.Context(), evs...); err != nil {
			l.T.Fatal(err)
		}
		l.sequence()
	}
}

func (l *looker) sequence() {
	l.T.Helper()
	for {
		n, err := l.seq.Pass(l.T.Context())
		if err != nil {
			l.T.Fatal(err)
		}
		if n == 0 {
			break
		}
	}
	cp, err := l.Log.Latest(l.T.Context())
	if err != nil {
		l.T.Fatal(err)
	}
	l.kept = []audit.Outside{{Name: "kept", Note: cp.Note}}
}

func (l *looker) look() findings.Run {
	l.T.Helper()
	r, err := l.runner.RunOnce(l.T.Context(), scheduler, sweep.Integrity, sweep.ByCommand,
		sweep.ReportProgress(func(done, _ int64) { l.seen = append(l.seen, done) }))
	if err != nil {
		l.T.Fatal(err)
	}
	// The test's server flushes nothing, and each pass says so. The rest is judged.
	unsafe := func(column string) bool { return column == "control: fsync" || column == "control: full_page_writes" }
	r.Result = findings.Clean
	r.Checks = slices.DeleteFunc(r.Checks, func(c findings.Check) bool {
		if unsafe(c.Column) && !c.Found() {
			l.T.Errorf("%s is called sound", c.Column)
		}
		return unsafe(c.Column)
	})
	for _, c := range r.Checks {
		switch {
		case c.Found():
			r.Result = findings.Found
		case c.Disposition == findings.Unjudged && r.Result == findings.Clean:
			r.Result = findings.Blind
		}
	}
	r.Findings = slices.DeleteFunc(r.Findings, func(f findings.Finding) bool { return unsafe(f.Column) })
	return r
}

func (l *looker) clean(what string) findings.Run {
	l.T.Helper()
	r := l.look()
	if r.Result != findings.Clean {
		for _, c := range r.Checks {
			if c.Found() || c.Disposition == findings.Unjudged {
				l.T.Errorf("%s: %s: %s %s: %s", what, r.Result, c.Table, c.Column, c.Ground)
			}
		}
	}
	return r
}

// tamper changes the log as a superuser can, with its guards off for that long.
func (l *looker) tamper(sql string) {
	l.T.Helper()
	guards := func(change string) string {
		return `DO $$ DECLARE r regclass; BEGIN
			FOR r IN SELECT oid FROM pg_class WHERE relnamespace = 'trakr'::regnamespace AND relkind IN ('r', 'p') AND relname ~ '^(audit|log)_' LOOP
				EXECUTE format('ALTER TABLE %s ` + change + `', r);
			END LOOP; END $$;`
	}
	l.Exec(guards("DISABLE TRIGGER USER") + sql + ";" + guards("ENABLE ALWAYS TRIGGER rows_stay") + guards("ENABLE ALWAYS TRIGGER table_stays"))
}

func TestTheLogIsVerifiedFromWhereItWasAndWholeOnceAWeek(t *testing.T) {
	l := integrity(t)
	if r := l.clean("an empty log"); checkColumn(r, "trakr.audit_checkpoints", "kept elsewhere").Disposition != findings.Checked {
		t.Error("an empty log is called unjudged")
	}
	l.sequence()
	l.grow(10)
	from := func(r findings.Run) (from, to int) {
		if _, err := fmt.Sscanf(checkColumn(r, "trakr.audit_events", "log: changed").Ground, "verified from position %d to %d", &from, &to); err != nil {
			t.Fatal(err)
		}
		return from, to
	}
	first := l.clean("the first")
	if begin, end := from(first); begin != 0 || end < 50 {
		t.Errorf("the first pass went from %d to %d", begin, end)
	}
	_, before := from(first)
	for i := range 3 {
		l.Clock.Add(time.Hour)
		l.grow(i) // also a pass with nothing but its predecessor's own event
		l.sequence()
		r := l.clean("the next")
		begin, end := from(r)
		if begin != before || end <= begin {
			t.Errorf("pass %d went from %d to %d, want from %d", i, begin, end, before)
		}
		before = end
	}
	l.Clock.Add(sweep.WholeEvery - 4*time.Hour)
	if begin, _ := from(l.clean("hours before a week")); begin == 0 {
		t.Error("all was read again before a week had passed")
	}
	l.Clock.Add(2 * time.Hour)
	if begin, _ := from(l.clean("after a week")); begin != 0 {
		t.Error("after a week not all was read again")
	}
	if l.asked[len(l.asked)-1] != true || l.asked[len(l.asked)-2] != false {
		t.Error("the whole pass did not ask for every checkpoint kept, or another one did")
	}
	if n := l.Int(`SELECT count(*) FROM trakr.verified_log WHERE whole`); n != 2 {
		t.Errorf("%d whole verifications are noted", n)
	}
}

const lastEvent = ` WHERE id = (SELECT max(id) FROM trakr.audit_events)`

// Each is done after a sound pass, to what that pass has verified or to what came
// after it; the next pass names the kind.
func TestEachTamperingIsNamed(t *testing.T) {
	for _, c := range []struct {
		name, sql string
		kind      audit.Kind
		whole     bool // only the weekly pass can see it
	}{
		{"a new event's byte", `UPDATE trakr.audit_events SET record = overlay(record placing 'X'::bytea from 20)` + lastEvent, audit.Changed, false},
		{"a new event's column", `UPDATE trakr.audit_events SET status_detail = 'x'` + lastEvent, audit.WrongColumn, false},
		{"a new event removed", `DELETE FROM trakr.audit_events` + lastEvent, audit.Removed, false},
		{"an event of the future", `INSERT INTO trakr.audit_events (epoch, xid, event_id, occurred_at, actor_type, actor_id, action, outcome, reason_code, schema_version, record)
			SELECT epoch, '9000000000', gen_random_uuid(), occurred_at, actor_type, actor_id, action, outcome, reason_code, schema_version, record FROM trakr.audit_events` + lastEvent, audit.Inserted, false},
		{"a new leaf", `UPDATE trakr.audit_leaves SET hashes = set_byte(hashes, 3, (get_byte(hashes, 3) + 1) % 256) WHERE first_index = (SELECT max(first_index) FROM trakr.audit_leaves)`, audit.WrongLeaf, false},
		{"the last checkpoint", `DELETE FROM trakr.audit_checkpoints WHERE size = (SELECT max(size) FROM trakr.audit_checkpoints)`, audit.WrongHead, false},
		{"the tail with all its traces", `DELETE FROM trakr.audit_checkpoints WHERE size > 15; DELETE FROM trakr.audit_leaves WHERE first_index >= 15; DELETE FROM trakr.audit_events WHERE NOT id = ANY (SELECT unnest(ids) FROM trakr.audit_leaves)`, audit.CutTail, false},
		{"an epoch", `INSERT INTO trakr.log_epochs (epoch, system_identifier) VALUES (5, 1)`, audit.WrongEpoch, false},
		{"an expiry without its event", `INSERT INTO trakr.audit_expiries (up_to, older_than, event_id) VALUES (10, now() - interval '2 years', gen_random_uuid())`, audit.WrongExpiry, false},
		{"a leaf verified before", `UPDATE trakr.audit_leaves SET hashes = set_byte(hashes, 3, (get_byte(hashes, 3) + 1) % 256) WHERE first_index = (SELECT first_index FROM trakr.audit_leaves WHERE first_index < (SELECT max(size) FROM trakr.verified_log) ORDER BY 1 DESC LIMIT 1)`, audit.WrongLeaf, false},
		{"an event verified before", `UPDATE trakr.audit_events SET status_detail = 'x' WHERE id = (SELECT min(id) FROM trakr.audit_events)`, audit.WrongColumn, true},
		{"an event verified before, removed", `DELETE FROM trakr.audit_events WHERE id = (SELECT min(id) FROM trakr.audit_events)`, audit.Removed, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := integrity(t)
			l.grow(6)
			l.clean("before")
			l.grow(2)
			l.tamper(c.sql)
			l.Clock.Add(time.Hour)
			r := l.look()
			if c.whole {
				if r.Result != findings.Clean {
					t.Errorf("an hourly pass read what was verified before: %s", r.Result)
				}
				l.Clock.Add(sweep.WholeEvery)
				r = l.look()
			}
			got := checkColumn(r, "trakr.audit_events", "log: "+string(c.kind))
			if r.Result != findings.Found || !got.Found() || !strings.HasPrefix(got.Ground, string(c.kind)) {
				t.Errorf("%s: %+v", r.Result, got)
			}
			size := l.Int(`SELECT max(size) FROM trakr.verified_log`)
			l.Clock.Add(time.Hour)
			if again := l.look(); again.Result != findings.Found || len(again.Findings) == 0 || l.Int(`SELECT max(size) FROM trakr.verified_log`) != size {
				t.Errorf("the next pass forgot it: %s", again.Result)
			}
		})
	}
}

func TestNoCheckpointElsewhereIsBlind(t *testing.T) {
	l := integrity(t)
	l.grow(2)
	l.kept = nil
	if r := l.look(); r.Result != findings.Blind || checkColumn(r, "trakr.audit_checkpoints", "kept elsewhere").Disposition != findings.Unjudged {
		t.Errorf("%s", r.Result)
	}
	// One that is older than what was verified is contained all the same; a foreign one is not.
	l.grow(1)
	old := l.kept
	l.grow(2)
	l.clean("newer")
	l.kept = old
	l.clean("older")
	other := integrity(t)
	other.grow(1)
	l.kept = other.kept
	if r := l.look(); r.Result != findings.Found || !checkColumn(r, "trakr.audit_checkpoints", "kept elsewhere").Found() {
		t.Errorf("a checkpoint of another log: %s", r.Result)
	}
}

func TestEachGuardIsACheck(t *testing.T) {
	l := integrity(t)
	all := l.clean("before")
	n := 0
	for _, c := range all.Checks {
		if strings.HasPrefix(c.Column, "control: ") {
			n++
		}
	}
	if n < 15 {
		t.Errorf("only %d controls", n)
	}
	for name, c := range map[string]struct{ sql, control string }{
		"a grant":   {`GRANT DELETE ON trakr.audit_events TO trakr_service`, "control: table grants"},
		"a trigger": {`ALTER TABLE trakr.audit_leaves DISABLE TRIGGER rows_stay`, "control: triggers"},
		"a guard":   {`ALTER TABLE trakr.tenant_fields NO FORCE ROW LEVEL SECURITY`, "control: row security"},
		"a body":    {`CREATE OR REPLACE FUNCTION door.plant_canary() RETURNS timestamptz LANGUAGE sql SECURITY DEFINER AS 'SELECT now()'`, "control: functions"},
	} {
		t.Run(name, func(t *testing.T) {
			l := integrity(t)
			l.Exec(c.sql)
			r := l.look()
			if got := checkColumn(r, "database", c.control); r.Result != findings.Found || !got.Found() || !strings.Contains(got.Ground, "Way out") {
				t.Errorf("%s: %+v", r.Result, got)
			}
			i := slices.IndexFunc(r.Findings, func(f findings.Finding) bool { return f.Column == c.control })
			if i < 0 || len(r.Findings) != 1 {
				t.Errorf("%+v", r.Findings)
			}
		})
	}
}
