package sweep_test

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/findings"
	"trakr/internal/store/retention"
	"trakr/internal/store/storetest"
	"trakr/internal/sweep"
	"trakr/internal/sweep/sweeptest"
	"trakr/policy"
)

func retain(t *testing.T, e *storetest.Env) findings.Run {
	t.Helper()
	r, err := sweep.New(e.DB, e.Policy, e.Clock.Now, slog.New(slog.DiscardHandler), sweeptest.Fill(e.Policy, sweep.NewRetention(retention.New(e.DB), e.Policy, e.Door))...)
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.RunOnce(t.Context(), scheduler, sweep.Retention, sweep.BySchedule)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func dry(t *testing.T, e *storetest.Env) findings.Run {
	t.Helper()
	f, err := sweep.NewRetention(retention.New(e.DB), e.Policy, e.Door).Look(t.Context(), sweep.Order{Access: scheduler, Now: e.Clock.Now(), DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	return findings.Run{Checks: f.Checks}
}

// history is eleven years of rows: each table has some that are past its period by a
// minute (old) and some that are within it by one (young).
const history = `
	INSERT INTO trakr.sweep_runs (run_id, kind, trigger, started_at, finished_at, result)
		SELECT ('00000000-0000-4000-8000-0000000001' || lpad(i::text, 2, '0'))::uuid, 'orphans', 'schedule', $old - i * interval '1 hour', $old, 'clean' FROM generate_series(0, 59) AS i;
	INSERT INTO trakr.sweep_runs (run_id, kind, trigger, started_at, finished_at, result) VALUES
		('00000000-0000-4000-8000-000000000200', 'orphans', 'schedule', $young, $young, 'clean'),
		('00000000-0000-4000-8000-000000000201', 'liveness', 'schedule', $old, $old, 'clean'), -- the newest of its kind
		('00000000-0000-4000-8000-000000000202', 'orphans', 'schedule', $old - interval '1 year', $old, 'findings'),
		('00000000-0000-4000-8000-000000000203', 'orphans', 'schedule', $old - interval '2 years', $old, 'findings'), -- a finding of it is open
		('00000000-0000-4000-8000-000000000204', 'orphans', 'schedule', $young, $young, 'findings');
	INSERT INTO trakr.sweep_results (run_id, store, table_name, column_name, disposition, predicate_digest, rows, checked_at)
		SELECT run_id, 'database', 'trakr.t' || i, 'tenant_id', 'checked', '', 0, started_at FROM trakr.sweep_runs, generate_series(1, 40) AS i;
	INSERT INTO trakr.findings (finding_id, kind, store, table_name, column_name, rows, opened_at, last_seen_at, resolved_at, opened_by_run) VALUES
		('00000000-0000-4000-8000-000000000301', 'orphans', 'database', 'a', '', 1, $old - interval '1 year', $old, $old, '00000000-0000-4000-8000-000000000202'),
		('00000000-0000-4000-8000-000000000302', 'orphans', 'database', 'b', '', 1, $old - interval '1 year', $old, NULL, '00000000-0000-4000-8000-000000000203'),
		('00000000-0000-4000-8000-000000000303', 'orphans', 'database', 'c', '', 1, $old - interval '1 year', $old, $young, '00000000-0000-4000-8000-000000000204');
	INSERT INTO trakr.reports_issued (report_id, kind, format, as_of, policy_hash, digest, issued_to, issued_at)
		SELECT gen_random_uuid(), 'location', 'json', $old, '', '', 'cli', CASE WHEN i > 2500 THEN $young ELSE $old END FROM generate_series(1, 2503) AS i;
	INSERT INTO trakr.api_tokens (id, secret_hash, role, label, created_by, created_at, expires_at) VALUES
		('old', sha256('a'), 'service', 'l', 'c', $token - interval '2 minutes', $token - interval '1 minute'), ('young', sha256('b'), 'service', 'l', 'c', $token - interval '1 day', $token + interval '1 minute');
	INSERT INTO trakr.verified_log (size, root, verified_at, whole) VALUES (1, sha256('a'), $old - interval '1 day', true), (2, sha256('a'), $old, true), (3, sha256('a'), $old, false), (4, sha256('a'), $young, false);
	INSERT INTO trakr.tenants (tenant_id, ingress, state, installed_at, updated_at, erased_at) VALUES
		('00000000-0000-4000-8000-000000000401', 'connect', 'erased', $old - interval '1 year', $old, $old),
		('00000000-0000-4000-8000-000000000402', 'connect', 'erased', $old - interval '1 year', $young, $young);
	INSERT INTO trakr.erasures (erasure_id, tenant_id, ingress, trigger, subject_digest, requested_at, erased_at) SELECT gen_random_uuid(), tenant_id, 'connect', 'uninstall', decode(repeat('00', 36), 'hex'), erased_at, erased_at FROM trakr.tenants WHERE state = 'erased';
	UPDATE trakr.erasures SET noted_at = erased_at, ledger_seq = 1, ledger_hash = sha256('a'); UPDATE trakr.erasures SET verified_at = erased_at, verified_by = '00000000-0000-4000-8000-000000000201';
	INSERT INTO trakr.certificates (certificate_id, erasure_id, issued_at, document) SELECT gen_random_uuid(), erasure_id, erased_at, '{}' FROM trakr.erasures`

func seeded(t *testing.T) *storetest.Env {
	e := storetest.New(t)
	e.Install(storetest.Values("live"), "a")
	now := "'" + e.Clock.Now().Format("2006-01-02T15:04:05Z07:00") + "'::timestamptz"
	e.Exec(strings.NewReplacer("$old", now+" - interval '3650 days 1 minute'", "$young", now+" - interval '3649 days 23 hours 59 minutes'", "$token", now+" - interval '400 days'").Replace(history))
	return e
}

// past is how many rows of each table are past their period and may go.
var past = map[string]int64{"trakr.sweep_runs": 61, "trakr.sweep_results": 61 * 40, "trakr.findings": 1, "trakr.reports_issued": 2500, "trakr.verified_log": 2,
	"trakr.api_tokens": 1, "trakr.tenants": 1, "trakr.erasures": 1}

func TestWhatIsPastItsPeriodGoesAndNothingElse(t *testing.T) {
	e := seeded(t)
	before := map[string]int64{}
	for table := range past {
		before[table] = e.Int(`SELECT count(*) FROM ` + table)
	}
	r := retain(t, e)
	if r.Result != findings.Clean || len(r.Findings) != 0 {
		t.Errorf("%s: %+v", r.Result, r.Findings)
	}
	for table, n := range past {
		removed, overdue, kept := checkColumn(r, table, "removed"), checkColumn(r, table, "overdue"), checkColumn(r, table, "kept")
		left := e.Int(`SELECT count(*) FROM ` + table)
		switch table { // this run's own
		case "trakr.sweep_runs":
			left--
		case "trakr.sweep_results":
			left -= int64(len(r.Checks))
		}
		if removed.Rows != n || before[table]-left != n || overdue.Rows != 0 || removed.Disposition != findings.Retained || overdue.Disposition != findings.Checked || len(overdue.PredicateDigest) != 64 {
			t.Errorf("%s: %d of %d gone, want %d\n%+v\n%+v", table, before[table]-left, before[table], n, removed, overdue)
		}
		if want := left; kept.Rows != want && kept.Rows != want+1 {
			t.Errorf("%s: says it kept %d of %d", table, kept.Rows, left)
		}
	}
	for what, sql := range map[string]string{
		"the newest run of a kind":            `SELECT count(*) FROM trakr.sweep_runs WHERE run_id = '00000000-0000-4000-8000-000000000201'`,
		"the run of an open finding":          `SELECT count(*) FROM trakr.sweep_runs AS r JOIN trakr.findings AS f ON f.opened_by_run = r.run_id WHERE f.resolved_at IS NULL`,
		"the last whole verification":         `SELECT count(*) FROM trakr.verified_log WHERE whole`,
		"a live tenant":                       `SELECT count(*) FROM trakr.tenants WHERE state = 'live'`,
		"a tombstone a minute within":         `SELECT count(*) FROM trakr.erasures WHERE tenant_id = '00000000-0000-4000-8000-000000000402'`,
		"the finding that ended within":       `SELECT count(*) FROM trakr.findings WHERE table_name = 'c'`,
		"a token that expired a minute later": `SELECT count(*) FROM trakr.api_tokens WHERE id = 'young'`,
	} {
		if n := e.Int(sql); n != 1 {
			t.Errorf("%s: %d rows left", what, n)
		}
	}
	said := map[string]int{}
	for _, ev := range e.Events() {
		if ev.Action == audit.RetireRows {
			class, _, _ := strings.Cut(ev.StatusDetail, " ")
			said[class]++
			if ev.CorrelationID != r.ID || (class == "evidence" && !strings.Contains(ev.StatusDetail, "trakr.reports_issued 2500")) {
				t.Errorf("%s: %s", ev.CorrelationID, ev.StatusDetail)
			}
		}
	}
	if len(said) != 4 || said["registry"] != 1 || said["tombstones"] != 1 || said["operations"] != 1 {
		t.Errorf("events by class: %v", said)
	}
	again := retain(t, e)
	for table := range past {
		if c := checkColumn(again, table, "removed"); c.Rows != 0 || c.Disposition != findings.Retained {
			t.Errorf("a second pass: %s: %+v", table, c)
		}
	}
}

func TestADryRunRemovesNothing(t *testing.T) {
	e := seeded(t)
	dump := e.Dump()
	r := dry(t, e)
	for table, n := range past {
		if table == "trakr.tenants" {
			n = 0 // its tombstone would go first
		}
		if table == "trakr.sweep_runs" || table == "trakr.sweep_results" {
			continue // one more waits for its finding to go
		}
		if c := checkColumn(r, table, "removed"); c.Rows != n || c.Found() || !strings.Contains(c.Ground, "would be removed") {
			t.Errorf("%s: %+v", table, c)
		}
	}
	if again := e.Dump(); len(again) != len(dump) {
		t.Error("the database is another one")
	}
}

// The floors hold in the database whatever the service asks for.
func TestTheDatabaseHasFloors(t *testing.T) {
	e := seeded(t)
	for _, call := range []string{`door.retire('trakr.reports_issued', now() - interval '364 days', 1)`, `door.retire('trakr.erasures', now() - interval '364 days', 1)`,
		`door.retire('trakr.tenants', now(), 1)`, `door.retire('trakr.sweep_runs', NULL, 1)`, `door.retire('trakr.api_tokens', now() - interval '29 days', 1)`,
		`door.retire('trakr.reports_issued', now() - interval '10 years', 1001)`, `door.retire('trakr.tenant_fields', now() - interval '10 years', 1)`,
		`door.retire('trakr.audit_events', now() - interval '10 years', 1)`, `door.retire('trakr.replay_guard; DROP TABLE trakr.findings', now() - interval '10 years', 1)`} {
		if err := e.TryExec(`SET ROLE trakr_service; SELECT * FROM ` + call); err == nil {
			t.Errorf("%s was carried out", call)
		}
	}
	for _, table := range []string{"trakr.reports_issued", "trakr.erasures", "trakr.sweep_runs", "trakr.findings"} {
		if err := e.TryExec(`SET ROLE trakr_service; DELETE FROM ` + table); err == nil {
			t.Errorf("the service may delete from %s itself", table)
		}
	}
}

// over is a request, by its last digit: 1 ended in time long past, 2 repeated it when
// it was new, 3 is as old and still open, 4 ended within the period; and their holds.
const over = `
	ALTER TABLE trakr.deletion_requests DISABLE TRIGGER request_moves;
	INSERT INTO trakr.tenants (tenant_id, ingress, state, subject_digest, installed_at, updated_at, erased_at) VALUES
		('00000000-0000-4000-8000-000000000501', 'connect', 'erased', NULL, $old - interval '1 year', $old, $old),
		('00000000-0000-4000-8000-000000000503', 'connect', 'live', decode(repeat('03', 36), 'hex'), $old - interval '1 year', $old, NULL);
	INSERT INTO trakr.deletion_requests (request_id, state, tenant_id, ticket, requested_by, moved_by, submitted_time, received_time, expected_completion_time, moved_at, existing_request_id, certificate_id) VALUES
		('00000000-0000-4000-8000-000000000601', 'completed', '00000000-0000-4000-8000-000000000501', 'T-1', 'a', 'a', $old, $old, $old, $young, NULL, gen_random_uuid()),
		('00000000-0000-4000-8000-000000000602', 'duplicate', '00000000-0000-4000-8000-000000000501', 'T-1', 'a', 'a', $young, $young, $young, $young, '00000000-0000-4000-8000-000000000601', NULL),
		('00000000-0000-4000-8000-000000000603', 'awaiting_approval', '00000000-0000-4000-8000-000000000503', 'T-1', 'a', 'a', $old, $old, $old, $old, NULL, NULL),
		('00000000-0000-4000-8000-000000000604', 'cancelled', '00000000-0000-4000-8000-000000000503', 'T-1', 'a', 'a', $young, $young, $young, $young, NULL, NULL);
	ALTER TABLE trakr.deletion_requests ENABLE ALWAYS TRIGGER request_moves;
	INSERT INTO trakr.deletion_request_events (request_id, seq, to_state, moved_by, moved_at) SELECT request_id, i, 'x', 'a', received_time FROM trakr.deletion_requests, generate_series(1, 2) AS i;
	ALTER TABLE trakr.legal_holds DISABLE TRIGGER hold_changes;
	INSERT INTO trakr.legal_holds (hold_id, tenant_id, ground, reason_ref, placed_by, placed_at, until, released_at, released_by) VALUES
		('00000000-0000-4000-8000-000000000701', '00000000-0000-4000-8000-000000000501', 'legal_claim', 'T-1', 'a', $old, $old + interval '1 day', NULL, NULL),
		('00000000-0000-4000-8000-000000000702', '00000000-0000-4000-8000-000000000503', 'legal_claim', 'T-1', 'a', $old, $old + interval '1 day', $old, 'a'),
		('00000000-0000-4000-8000-000000000703', '00000000-0000-4000-8000-000000000503', 'legal_claim', 'T-1', 'a', $young, $young + interval '1 day', NULL, NULL);
	ALTER TABLE trakr.legal_holds ENABLE ALWAYS TRIGGER hold_changes`

func requested(t *testing.T) *storetest.Env {
	e := storetest.New(t)
	now := "'" + e.Clock.Now().Format("2006-01-02T15:04:05Z07:00") + "'::timestamptz"
	e.Exec(strings.NewReplacer("$old", "("+now+" - interval '3650 days 1 minute')", "$young", "("+now+" - interval '3649 days 23 hours 59 minutes')").Replace(over))
	return e
}

// A request that ended and a hold that is over go after their period, and the
// registry's row, which they kept, goes in the same pass.
func TestRequestsAndHoldsGoWhenTheyAreOver(t *testing.T) {
	e := requested(t)
	r := retain(t, e)
	if r.Result != findings.Clean {
		t.Errorf("%s: %+v", r.Result, r.Findings)
	}
	for table, n := range map[string]int64{"trakr.deletion_requests": 2, "trakr.deletion_request_events": 4, "trakr.legal_holds": 2, "trakr.tenants": 1} {
		if c := checkColumn(r, table, "removed"); c.Rows != n {
			t.Errorf("%s: %+v, want %d", table, c, n)
		}
	}
	for what, sql := range map[string]string{
		"the open one, and the one within its period": `SELECT count(*) FROM trakr.deletion_requests WHERE right(request_id::text, 1) IN ('3', '4')`,
		"their two moves each":                        `SELECT count(*) / 2 FROM trakr.deletion_request_events`,
		"a hold within, and its tenant":               `SELECT count(*) + (SELECT count(*) FROM trakr.tenants) FROM trakr.legal_holds`,
	} {
		if n := e.Int(sql); n != 2 {
			t.Errorf("%s: %d left", what, n)
		}
	}
}

// The one way out of a request's history is the sweep's.
func TestNobodyElseRemovesARequest(t *testing.T) {
	e := requested(t)
	const first, open = `'00000000-0000-4000-8000-000000000601'`, `'00000000-0000-4000-8000-000000000603'`
	for who, sql := range map[string]string{
		"the service, a request":              `SET ROLE trakr_service; DELETE FROM trakr.deletion_requests`,
		"the service, a history":              `SET ROLE trakr_service; DELETE FROM trakr.deletion_request_events WHERE request_id = ` + first,
		"the service, a hold":                 `SET ROLE trakr_service; DELETE FROM trakr.legal_holds`,
		"the service, too soon":               `SET ROLE trakr_service; SELECT door.retire('trakr.deletion_requests', now() - interval '364 days', 1000)`,
		"the service, a hold too soon":        `SET ROLE trakr_service; SELECT door.retire('trakr.legal_holds', now() - interval '364 days', 1000)`,
		"the service, a history alone":        `SET ROLE trakr_service; SELECT door.retire('trakr.deletion_request_events', now() - interval '3650 days', 1000)`,
		"the service, by the trigger's words": `SET ROLE trakr_service; SELECT trakr.request_over(` + first + `, now())`,
		"the owner, of an open request":       `SET ROLE trakr_owner; DELETE FROM trakr.deletion_request_events WHERE request_id = ` + open,
		"the owner, another history":          `SET ROLE trakr_owner; UPDATE trakr.deletion_request_events SET moved_by = 'b' WHERE request_id = ` + first,
		"the owner, the whole table":          `SET ROLE trakr_owner; TRUNCATE trakr.deletion_request_events`,
		"a superuser":                         `RESET ROLE; DELETE FROM trakr.deletion_request_events WHERE request_id = ` + first,
		"a superuser in replica mode":         `RESET ROLE; SET LOCAL session_replication_role = replica; DELETE FROM trakr.deletion_request_events WHERE request_id = ` + first,
	} {
		if err := e.TryExec(sql); err == nil {
			t.Errorf("%s: was not refused", who)
		}
	}
	if n := e.Int(`SELECT count(*) FROM trakr.deletion_request_events`); n != 8 {
		t.Errorf("%d moves left of 8", n)
	}
}

// What nobody has verified or certified yet is no evidence to be retired: it would
// never be finished.
func TestAnErasureThatIsNotFinishedIsNotRetired(t *testing.T) {
	for name, c := range map[string]struct {
		sql  string
		goes int64
	}{
		"verified and certified":   {``, 1},
		"not verified":             {`UPDATE trakr.erasures SET verified_at = NULL, verified_by = NULL`, 0},
		"not certified":            {`DELETE FROM trakr.certificates`, 0},
		"none can be certified":    {`DELETE FROM trakr.certificates; UPDATE trakr.erasures SET uncertified = true`, 1},
		"nor was that one counted": {`DELETE FROM trakr.certificates; UPDATE trakr.erasures SET uncertified = true, verified_at = NULL, verified_by = NULL`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			e := seeded(t)
			e.Exec(`ALTER TABLE trakr.erasures DISABLE TRIGGER erasure_goes_on; ` + c.sql)
			before := e.Int(`SELECT count(*) FROM trakr.erasures`)
			r := retain(t, e)
			if got := checkColumn(r, "trakr.erasures", "removed"); got.Rows != c.goes || got.Disposition != findings.Retained || before-e.Int(`SELECT count(*) FROM trakr.erasures`) != c.goes {
				t.Errorf("%+v, want %d", got, c.goes)
			}
		})
	}
}

// A later release refers to a tombstone, and nobody tells the sweep.
func TestWhatOthersReferToStays(t *testing.T) {
	e := seeded(t)
	e.Exec(`SET ROLE trakr_owner; CREATE TABLE public.later (erasure_id uuid REFERENCES trakr.erasures (erasure_id)); INSERT INTO public.later SELECT erasure_id FROM trakr.erasures WHERE erased_at < now() - interval '3650 days'`)
	r := retain(t, e)
	if c := checkColumn(r, "trakr.erasures", "removed"); c.Rows != 0 || c.Disposition != findings.Retained {
		t.Errorf("%+v", c)
	}
	if c := checkColumn(r, "trakr.tenants", "removed"); c.Rows != 0 {
		t.Errorf("the registry's row went before its tombstone: %+v", c)
	}
}

func TestWhatOthersShouldHaveRemovedIsAFinding(t *testing.T) {
	e := storetest.New(t)
	live := e.Install(storetest.Values("live"), "a")
	e.Exec(`SELECT trakr.make_partition(now() - interval '3700 days'); INSERT INTO trakr.audit_events (recorded_at, epoch, event_id, occurred_at, actor_type, actor_id, action, outcome, reason_code, schema_version, record)
		VALUES (now() - interval '3700 days', 1, gen_random_uuid(), now(), 'service', 'x', 'tenant.read', 'success', 'r', 1, '')`)
	e.Exec(`UPDATE trakr.replay_guard SET seen_at = now() - interval '2 hours 1 minute' WHERE tenant_id = $1::text::uuid`, live.String())
	r := retain(t, e)
	if c := checkColumn(r, "trakr.audit_events", "overdue"); c.Rows != 1 || !c.Found() || !strings.Contains(c.Ground, "trakr audit expire") {
		t.Errorf("%+v", c)
	}
	if c := checkColumn(r, "trakr.replay_guard", "overdue"); c.Rows != 1 || !c.Found() || !strings.Contains(c.Ground, "trakr serve") {
		t.Errorf("%+v", c)
	}
	if r.Result != findings.Found || len(r.Findings) != 2 {
		t.Errorf("%s: %+v", r.Result, r.Findings)
	}
}

// A period that is printed and executed by nobody is the fault this sweep is against.
func TestEveryPeriodIsExecuted(t *testing.T) {
	e := storetest.New(t)
	r := retain(t, e)
	for _, c := range r.Checks {
		if c.Disposition == findings.Unjudged {
			t.Errorf("%s: %s", c.Table, c.Ground)
		}
	}
	for _, s := range e.Policy.Stores {
		for _, d := range s.Tables {
			i := slices.IndexFunc(e.Policy.Retention, func(x policy.Retention) bool { return x.Class == d.Class })
			if x := e.Policy.Retention[i]; x.ExecutedBy == policy.ByRetention && checkColumn(r, d.Name, "removed").Rows < 0 {
				t.Errorf("%s of the class %s has a period that nobody executes", d.Name, d.Class)
			}
		}
	}
	declare(e, policy.Table{Name: "trakr.nowhere", Columns: []string{"x"}, Class: "evidence"})
	r = retain(t, e)
	if c := checkColumn(r, "trakr.nowhere", "removed"); c.Disposition != findings.Unjudged || r.Result != findings.Blind {
		t.Errorf("a table without a rule: %s, %+v", r.Result, c)
	}
}

// A table that cannot be reached does not keep the others from their duty.
func TestOneTablesTroubleDoesNotHideTheRest(t *testing.T) {
	e := seeded(t)
	e.Exec(`CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'P0001'; END $$;
		CREATE TRIGGER no BEFORE DELETE ON trakr.findings FOR EACH ROW EXECUTE FUNCTION public.no()`)
	r := retain(t, e)
	if c := checkColumn(r, "trakr.findings", "removed"); c.Disposition != findings.Unjudged || !strings.Contains(c.Ground, "P0001") || r.Result == findings.Clean {
		t.Errorf("%s, %+v", r.Result, c)
	}
	if c := checkColumn(r, "trakr.reports_issued", "removed"); c.Rows != 2500 {
		t.Errorf("%+v", c)
	}
}

// A field is switched off while values of it are stored: a dry run counts them, the
// scheduled pass removes them, and both say so.
func TestWhatIsSwitchedOffGoesWithTheNextPass(t *testing.T) {
	e := storetest.New(t)
	e.Install(storetest.Values("one"), "one")
	e.Install(storetest.Values("two"), "two")
	for i, f := range e.Policy.Fields {
		e.Policy.Fields[i].Off = f.Name == lifecycle.Username
	}
	const held = `SELECT count(username) + 10 * count(avatar_url) FROM trakr.tenant_fields`
	if c := checkColumn(dry(t, e), "trakr.tenant_fields", "removed: username"); c.Rows != 2 || !strings.Contains(c.Ground, "would be removed") || e.Int(held) != 22 {
		t.Errorf("a dry run: %+v, held %d", c, e.Int(held))
	}
	r := retain(t, e)
	removed, kept := checkColumn(r, "trakr.tenant_fields", "removed: username"), checkColumn(r, "trakr.tenant_fields", "kept: username")
	if removed.Rows != 2 || kept.Rows != 0 || kept.Disposition != findings.Retained || e.Int(held) != 20 {
		t.Errorf("removed %+v, kept %+v, held %d", removed, kept, e.Int(held))
	}
	if n := e.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'tenant.update' AND actor_type = 'scheduler' AND field_names = ARRAY['username'] AND correlation_id IS NOT NULL`); n != 2 {
		t.Errorf("%d events of a removal, want one for each tenant", n)
	}
}
