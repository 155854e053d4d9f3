package sweep_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/storetest"
	"trakr/internal/store/sweeps"
	"trakr/internal/store/tokens"
	"trakr/internal/sweep"
	"trakr/internal/sweep/sweeptest"
	"trakr/policy"
)

func minimise(t *testing.T, e *storetest.Env) sweeps.Run {
	t.Helper()
	r, err := sweep.New(e.DB, e.Policy, e.Clock.Now, slog.New(slog.DiscardHandler), sweeptest.Fill(e.Policy, sweep.NewMinimisation(sweeps.New(e.DB), e.Policy))...)
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.RunOnce(t.Context(), scheduler, sweep.Minimisation, sweep.ByCommand)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func cleanly(t *testing.T, what string, r sweeps.Run) {
	t.Helper()
	if r.Result == sweeps.Clean {
		return
	}
	for _, c := range r.Checks {
		if c.Found() || c.Disposition == sweeps.Unjudged {
			t.Errorf("%s: %s: %s %s: %d, %s", what, r.Result, c.Table, c.Column, c.Rows, c.Ground)
		}
	}
}

// record writes an event of whatever an outsider can bring into one.
func record(t *testing.T, e *storetest.Env, change func(*audit.Event)) {
	t.Helper()
	ev := audit.New(t.Context(), e.Clock.Now(), storetest.Service(), audit.TenantLookup, audit.Success)
	change(&ev)
	if err := e.Log.Record(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
}

// Each value is planted in a column of each type that could hold it.
func TestAPlantedValueIsFoundInEveryTypeOfColumn(t *testing.T) {
	const mail, phone = "ada.lovelace@example.co.uk", "+44 20 7946 0958"
	columns := []struct{ kind, mail, phone, harmless string }{
		{"text", `'` + mail + `'`, `'` + phone + `'`, `'SUP-1234'`},
		{"varchar(80)", `'mail to <` + mail + `>'`, `'tel:` + phone + `'`, `'on 2026-11-25'`},
		{"jsonb", `'{"a": [{"mail": "` + mail + `"}]}'`, `'{"a": {"b": "` + phone + `"}}'`, `'{"a": 12345678901}'`},
		{"json", `'{"mail":"` + mail + `"}'`, `'{"a":"` + phone + `"}'`, `'{}'`},
		{"text[]", `ARRAY['x', '` + mail + `']`, `ARRAY['x', '` + phone + `']`, `ARRAY['x']`},
		{"bytea", `convert_to('{"mail":"Zoë, ` + mail + `"}', 'UTF8')`, `'tel ` + phone + `'::bytea`, `sha256('` + mail + `')`},
		{"bytea[]", `ARRAY[sha256('x'), '` + mail + `'::bytea]`, `ARRAY['` + phone + `'::bytea]`, `ARRAY[sha256('x')]`},
		{"public.word", `'` + mail + `'`, `'` + phone + `'`, `'word'`},
		{"public.pair", `('` + mail + `', 1)::public.pair`, `('` + phone + `', 1)::public.pair`, `('x', 1)::public.pair`},
	}
	e := storetest.New(t)
	e.Exec(`CREATE DOMAIN public.word AS text; CREATE TYPE public.pair AS (a text, b int)`)
	for i, c := range columns {
		e.Exec(fmt.Sprintf(`CREATE TABLE public.t%[1]d (v %[2]s, n int); INSERT INTO public.t%[1]d VALUES (%[3]s), (%[4]s), (%[5]s), (NULL)`, i, c.kind, c.mail, c.phone, c.harmless))
		declare(e, policy.Table{Name: fmt.Sprintf("public.t%d", i), Columns: []string{"v", "n"}})
	}
	r := minimise(t, e)
	for i, c := range columns {
		got := checkColumn(r, fmt.Sprintf("public.t%d", i), "v")
		if got.Disposition != sweeps.Checked || got.Rows != 1 || !strings.Contains(got.Ground, "of 4 rows, values shaped like an e-mail address in 1, like a telephone number in 1") || len(got.PredicateDigest) != 64 {
			t.Errorf("%s: %+v", c.kind, got)
		}
	}
	if len(r.Findings) != len(columns) {
		t.Errorf("%d findings", len(r.Findings))
	}
	for _, ch := range r.Checks {
		if s := fmt.Sprintf("%+v", ch); strings.Contains(s, "lovelace") || strings.Contains(s, "7946") {
			t.Errorf("a value came back: %s", s)
		}
	}
	for _, line := range bytes.Split(e.Dump(), []byte("\n")) {
		if bytes.HasPrefix(line, []byte("INSERT INTO trakr.")) && bytes.Contains(line, []byte("lovelace")) {
			t.Error("a value was stored with the evidence")
		}
	}
}

func TestWhatIsShapedLikeAPhoneAndWhatIsNot(t *testing.T) {
	e := storetest.New(t)
	e.Exec(`CREATE TABLE public.odd (v text)`)
	declare(e, policy.Table{Name: "public.odd", Columns: []string{"v"}})
	for v, want := range map[string][2]int{
		"a@b.de": {1, 0}, "x %40 y": {0, 0}, "ada%40example.com": {1, 0}, "see @channel": {0, 0}, "git@host": {0, 0}, "pkg@1.2.3": {0, 0}, "A.B+tag@sub.example.museum": {1, 0},
		"+1 555 123 4567": {0, 1}, "+49 (0)30 1234567": {0, 1}, "+12125551234": {0, 1}, "(212) 555-1234": {0, 1}, "212-555-1234": {0, 1}, "212.555.1234": {0, 1},
		"030 1234567": {0, 1}, "0171-1234567": {0, 1}, "020 7946 0958": {0, 1}, "01 23 45 67 89": {0, 1}, "call 212-555-1234.": {0, 1},
		"SUP-1234": {0, 0}, "OPS-212-555-1234": {0, 0}, "INC0012345678": {0, 0}, "2026-11-25": {0, 0}, "25-11-2026": {0, 0}, "01-02-2026": {0, 0}, "2026-11-25T01:02:03.456789Z": {0, 0},
		"2026-11-25 01:02:03.456789+00": {0, 0}, "2020-01-02T03:04:05.678901+00:00": {0, 0}, `["2026-01-01 00:00:00+00","2026-02-01 00:00:00+00")`: {0, 0},
		"01920123-4567-7890-8123-456789012345": {0, 0}, "{0192012345677890812345678901234a}": {0, 0}, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01": {0, 0},
		strings.Repeat("0123456789", 6) + "0123": {0, 0}, "v0.1.0-12-g0123456": {0, 0}, "1.22.333": {0, 0}, "10.10.0.5": {0, 0}, "connection:12345678901": {0, 0}, "743:743:": {0, 0}, "0/16B3748": {0, 0},
		"+1234567/89abcdefghijklmnop=": {0, 0}, "abc+12345678901": {0, 0}, "— trakr-audit/01920123-4567-7890-8123-456789012345 +123456789AbCdEf==": {0, 0},
		"uid:1000": {0, 0}, "trakr.t0 12, trakr.t1 3456789": {0, 0}, "content below position 12345678901": {0, 0}, "https://bitbucket.org/account/x/avatar/": {0, 0}, "10485760 of 20971520": {0, 0},
	} {
		e.Exec(`DELETE FROM public.odd`)
		e.Exec(`INSERT INTO public.odd VALUES ($1)`, v)
		mails := e.Int(`SELECT emails FROM door.count_shaped('public', 'odd', NULL, NULL, NULL, NULL)`)
		phones := e.Int(`SELECT phones FROM door.count_shaped('public', 'odd', NULL, NULL, NULL, NULL)`)
		if mails != int64(want[0]) || phones != int64(want[1]) {
			t.Errorf("%q: %d e-mail addresses, %d telephone numbers; want %v", v, mails, phones, want)
		}
	}
}

// Everything the service itself writes is no false alarm.
func TestTheServicesOwnDataIsClean(t *testing.T) {
	e := storetest.New(t)
	seq := storetest.Must(t)(e.Log.NewSequencer()).(*audit.Sequencer)
	for i := range 30 {
		id := e.Install(storetest.Values(fmt.Sprint("m", i)), fmt.Sprint("d", i))
		if _, err := e.Door.Read(t.Context(), storetest.Service(), id, lifecycle.ClientKey, lifecycle.Username); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			uninstall(t, e, id)
		}
		if _, err := seq.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	op := lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorOperator, ID: "uid:0", Role: lifecycle.RoleOperator}, Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation, Ref: "OPS-0012-34567"}, RequestID: "cli"}
	if _, _, err := tokens.New(e.DB, e.Clock.Now).Create(t.Context(), op, lifecycle.RoleService, "end-service", time.Hour); err != nil {
		t.Fatal(err)
	}
	cleanly(t, "the first", minimise(t, e))
	e.Clock.Add(time.Hour)
	cleanly(t, "with the evidence of the first", minimise(t, e))
}

func TestTheAuditIsSearchedFromWhereItWas(t *testing.T) {
	e := storetest.New(t)
	for i := range 5 {
		record(t, e, func(ev *audit.Event) { ev.StatusDetail = fmt.Sprint(i) })
	}
	scanned := func() int64 { return e.Int(`SELECT max(scanned) FROM trakr.shape_scans`) }
	cleanly(t, "before", minimise(t, e))
	if n := scanned(); n != 5 {
		t.Fatalf("%d events searched", n)
	}
	// What was searched is not searched again, or this would be found.
	e.Exec(`ALTER TABLE trakr.audit_events DISABLE TRIGGER USER; UPDATE trakr.audit_events SET actor_id = 'x@example.com' WHERE status_detail = '0'`)
	cleanly(t, "nothing new", minimise(t, e))
	if n := scanned(); n != 6 { // the first pass's own event
		t.Errorf("%d events searched", n)
	}
	e.Exec(`UPDATE trakr.audit_events SET actor_id = 'token:test' WHERE status_detail = '0'`)
	record(t, e, func(ev *audit.Event) { ev.ReasonRef = "ask ada@example.com" })
	for i := range 3 { // it stays found
		r := minimise(t, e)
		for _, column := range []string{"reason_ref", "record"} {
			if c := checkColumn(r, "trakr.audit_events", column); c.Rows != 1 || !c.Found() {
				t.Errorf("pass %d: %s: %+v", i, column, c)
			}
		}
		if len(r.Findings) != 2 {
			t.Errorf("%+v", r.Findings)
		}
		e.Clock.Add(time.Hour)
	}
	// An event whose transaction ends only after a pass is not missed.
	commit, err := e.Hold(`INSERT INTO trakr.audit_events (epoch, event_id, occurred_at, actor_type, actor_id, action, outcome, reason_code, request_id, schema_version, record)
		SELECT epoch, gen_random_uuid(), now(), 'service', 'x', 'tenant.read', 'success', 'r', '+44 20 7946 0958', 1, '' FROM trakr.log_epochs`)
	if err != nil {
		t.Fatal(err)
	}
	record(t, e, func(*audit.Event) {})
	minimise(t, e)
	commit()
	if c := checkColumn(minimise(t, e), "trakr.audit_events", "request_id"); c.Rows != 1 {
		t.Errorf("an event that was committed late: %+v", c)
	}
}

func TestTablesAndColumnsThatNobodyDeclaredAreFound(t *testing.T) {
	e := storetest.New(t)
	e.Exec(`CREATE TABLE public.cache (note text); ALTER TABLE trakr.tenants ADD born date; ALTER TABLE trakr.api_tokens ADD memo text`)
	r := minimise(t, e)
	if c := check(r, "public.cache"); !c.Found() || c.Column != "" {
		t.Errorf("%+v", c)
	}
	for _, at := range [][2]string{{"trakr.tenants", "born"}, {"trakr.api_tokens", "memo"}} {
		if c := checkColumn(r, at[0], at[1]); !c.Found() {
			t.Errorf("%v: %+v", at, c)
		}
	}
	if r.Result != sweeps.Findings || len(r.Findings) != 3 {
		t.Errorf("%s: %+v", r.Result, r.Findings)
	}
}

func TestHiddenRowsAreNotCalledClean(t *testing.T) {
	e := storetest.New(t)
	e.Exec(`CREATE TABLE public.odd (v text); ALTER TABLE public.odd ENABLE ROW LEVEL SECURITY`)
	declare(e, policy.Table{Name: "public.odd", Columns: []string{"v"}})
	if r := minimise(t, e); r.Result != sweeps.Blind || checkColumn(r, "public.odd", "v").Disposition != sweeps.Unjudged {
		t.Errorf("%s", r.Result)
	}
}

func TestAPayloadKeyNeverSeenBeforeIsFoundUntilItIsDeclared(t *testing.T) {
	e := storetest.New(t)
	record(t, e, func(ev *audit.Event) {
		ev.DroppedNames = []string{"baseUrl", "user", "actor", "principal.links.self", "principal.display_name", "publicKey", "productType"}
	})
	cleanly(t, "what Bitbucket sends", minimise(t, e))
	record(t, e, func(ev *audit.Event) { ev.DroppedNames = []string{"baseUrl", "principal.mobile"} })
	for range 2 { // the second pass does not read that event again, and still knows
		r := minimise(t, e)
		c := checkColumn(r, "trakr.audit_events", "payload key principal.mobile")
		if !c.Found() || len(r.Findings) != 1 || !strings.Contains(c.Ground, "known_payload_keys") {
			t.Errorf("%+v, %+v", c, r.Findings)
		}
		e.Clock.Add(time.Hour)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.payload_keys_seen`); n != 8 {
		t.Errorf("%d names kept", n)
	}
	e.Policy.KnownPayloadKeys = append(e.Policy.KnownPayloadKeys, "principal.mobile")
	if r := minimise(t, e); r.Result != sweeps.Clean || len(r.Findings) != 0 {
		t.Errorf("declared: %s, %+v", r.Result, r.Findings)
	}
}

// A dry run leaves no trace of where it was.
func TestADrySearchNotesNothing(t *testing.T) {
	e := storetest.New(t)
	record(t, e, func(ev *audit.Event) { ev.DroppedNames = []string{"mobile"} })
	f, err := sweep.NewMinimisation(sweeps.New(e.DB), e.Policy).Look(t.Context(), sweep.Order{Access: scheduler, Now: e.Clock.Now(), DryRun: true})
	if err != nil || !checkColumn(sweeps.Run{Checks: f.Checks}, "trakr.audit_events", "payload key mobile").Found() {
		t.Error(err)
	}
	if n := e.Int(`SELECT (SELECT count(*) FROM trakr.shape_scans) + (SELECT count(*) FROM trakr.payload_keys_seen)`); n != 0 {
		t.Errorf("%d rows noted", n)
	}
}
