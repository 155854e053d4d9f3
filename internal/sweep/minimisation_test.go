package sweep_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"trakr/internal/contactdata"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/census"
	"trakr/internal/store/findings"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tokens"
	"trakr/internal/sweep"
	"trakr/internal/sweep/sweeptest"
	"trakr/policy"
)

func minimise(t *testing.T, e *storetest.Env) findings.Run {
	t.Helper()
	r, err := sweep.New(e.DB, e.Policy, e.Clock.Now, slog.New(slog.DiscardHandler), sweeptest.Fill(e.Policy, sweep.NewMinimisation(census.New(e.DB), e.Policy))...)
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.RunOnce(t.Context(), scheduler, sweep.Minimisation, sweep.ByCommand)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func cleanly(t *testing.T, what string, r findings.Run) {
	t.Helper()
	if r.Result == findings.Clean {
		return
	}
	for _, c := range r.Checks {
		if c.Found() || c.Disposition == findings.Unjudged {
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
		if got.Disposition != findings.Checked || got.Rows != 1 || !strings.Contains(got.Ground, "of 4 rows, values shaped like an e-mail address in 1, like a telephone number in 1") || len(got.PredicateDigest) != 64 {
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
	e.Exec(`CREATE TABLE public.odd (v text); INSERT INTO public.odd VALUES ('')`)
	for v, want := range map[string][2]int{
		"a@b.de": {1, 0}, "x %40 y": {0, 0}, "ada%40example.com": {1, 0}, "see @channel": {0, 0}, "git@host": {0, 0}, "pkg@1.2.3": {0, 0}, "A.B+tag@sub.example.museum": {1, 0},
		"+1 555 123 4567": {0, 1}, "+49 (0)30 1234567": {0, 1}, "+12125551234": {0, 1}, "(212) 555-1234": {0, 1}, "212-555-1234": {0, 1}, "212.555.1234": {0, 1},
		"030 1234567": {0, 1}, "0171-1234567": {0, 1}, "020 7946 0958": {0, 1}, "01 23 45 67 89": {0, 1}, "call 212-555-1234.": {0, 1},
		"SUP-1234": {0, 0}, "OPS-212-555-1234": {0, 0}, "INC0012345678": {0, 0}, "2026-11-25": {0, 0}, "25-11-2026": {0, 0}, "01-02-2026": {0, 0}, "2026-11-25T01:02:03.456789Z": {0, 0},
		"2026-11-25 01:02:03.456789+00": {0, 0}, "2020-01-02T03:04:05.678901+00:00": {0, 0}, `["2026-01-01 00:00:00+00","2026-02-01 00:00:00+00")`: {0, 0},
		"01920123-4567-7890-8123-456789012345": {0, 0}, "{0192012345677890812345678901234a}": {0, 0}, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01": {0, 0},
		strings.Repeat("0123456789", 6) + "0123": {0, 0}, "v0.1.0-12-g0123456": {0, 0}, "1.22.333": {0, 0}, "10.10.0.5": {0, 0}, "connection:12345678901": {0, 0}, "743:743:": {0, 0}, "0/16B3748": {0, 0},
		"+1234567/89abcdefghijklmnop=": {0, 0}, "abc+12345678901": {0, 0}, "zoë@exämple.de": {1, 0}, "дарья@почта.рф": {1, 0}, "01.02.2026": {0, 0}, "12345678901": {0, 0}, "00442079460958": {0, 0}, "„+44 20 7946 0958“": {0, 1}, "— trakr-audit/01920123-4567-7890-8123-456789012345 +123456789AbCdEf==": {0, 0},
		"uid:1000": {0, 0}, "trakr.t0 12, trakr.t1 3456789": {0, 0}, "content below position 12345678901": {0, 0}, "https://bitbucket.org/account/x/avatar/": {0, 0}, "10485760 of 20971520": {0, 0},
	} {
		e.Exec(`UPDATE public.odd SET v = $1`, v)
		both := e.Int(`SELECT emails + 10 * phones FROM door.count_shaped('public', 'odd', NULL, NULL, NULL, NULL)`)
		mails, phones := both%10, both/10
		if contactdata.Email(v) != (want[0] == 1) || contactdata.Phone(v) != (want[1] == 1) {
			t.Errorf("%q: what comes in is judged otherwise: %v %v", v, contactdata.Email(v), contactdata.Phone(v))
		}
		if mails != int64(want[0]) || phones != int64(want[1]) {
			t.Errorf("%q: %d e-mail addresses, %d telephone numbers; want %v", v, mails, phones, want)
		}
	}
}

// What comes in is judged by Go and what lies there by PostgreSQL: by the same texts,
// which mean the same to both, also in texts that nobody thought of.
func TestBothJudgeByTheSameShapes(t *testing.T) {
	e := storetest.New(t)
	if got := string(e.Bytes(`SELECT convert_to(email || E'\n' || phone, 'UTF8') FROM door.value_shapes()`)); got != contactdata.EmailPattern+"\n"+contactdata.PhonePattern {
		t.Fatalf("the database looks for other shapes:\n%s", got)
	}
	parts := []string{"+", "0", "00", "1", "20", "44", "212", "555", "0958", "7946", "1234567", "-", ".", " ", "/", "(", ")", ":", ",", "=", "_", "a", "Z", "ë", "ж", "@", "%40", "%",
		"com", ".de", "ex", "[", "^", "{", "\\", "\x7f", "\n", "\u00a0", "'", "+49", "030 ", "(212) ", "-1234", "@x.", "@ex", "+44 20"}
	random := rand.New(rand.NewPCG(1, 2))
	texts, found := make([]string, 60000), [2]int{}
	want := make([]byte, len(texts))
	for i := range texts {
		for range 1 + random.IntN(12) {
			texts[i] += parts[random.IntN(len(parts))]
		}
		want[i] = '0'
		if contactdata.Email(texts[i]) {
			want[i], found[0] = want[i]+1, found[0]+1
		}
		if contactdata.Phone(texts[i]) {
			want[i], found[1] = want[i]+2, found[1]+1
		}
	}
	if found[0] < 400 || found[1] < 400 {
		t.Fatalf("of %d texts %d hold an e-mail address and %d a telephone number: too few to prove anything", len(texts), found[0], found[1])
	}
	for _, collation := range []string{"", ` COLLATE "C"`} {
		got := e.Bytes(`SELECT convert_to(string_agg(((v`+collation+` ~ s.email)::int + 2 * (v`+collation+` ~ s.phone)::int)::text, '' ORDER BY n), 'UTF8')
			FROM door.value_shapes() AS s, unnest($1::text[]) WITH ORDINALITY AS t (v, n)`, texts)
		if len(got) != len(want) {
			t.Fatalf("%d of %d texts judged", len(got), len(want))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%q: the database says %c, Go %c (1 e-mail address, 2 telephone number)%s", texts[i], got[i], want[i], collation)
			}
		}
	}
}

// What the service sealed cannot be searched, and nobody is told that it was; what
// lies there in clear all the same is found.
func TestWhatIsSealedIsNotSaidToBeSearched(t *testing.T) {
	e := storetest.New(t)
	columns := [][2]string{{"trakr.tenant_fields", "client_key"}, {"trakr.tenant_fields", "shared_secret"}, {"trakr.tenant_fields", "principal_uuid"}, {"trakr.tenant_fields", "username"},
		{"trakr.tenant_fields", "avatar_url"}, {"trakr.outbox_payloads", "sealed"}}
	not := func(when string, r findings.Run) {
		t.Helper()
		for _, at := range columns {
			if c := checkColumn(r, at[0], at[1]); c.Disposition != findings.NotSearched || c.Rows != 0 || c.PredicateDigest != "" || c.Ground != "encrypted; checked before it was stored" {
				t.Errorf("%s: %v: %+v", when, at, c)
			}
		}
		for _, c := range r.Checks {
			if c.Disposition == findings.NotSearched && !slices.Contains(columns, [2]string{c.Table, c.Column}) {
				t.Errorf("%s: %s %s was not searched either", when, c.Table, c.Column)
			}
		}
		if n := e.Int(`SELECT count(*) FROM trakr.sweep_results WHERE run_id = $1 AND disposition = 'not_searched'`, r.ID); n != int64(len(columns)) {
			t.Errorf("%s: the evidence says so of %d columns", when, n)
		}
	}
	values := storetest.Values("sealed")
	values[lifecycle.Username] = lifecycle.NewSecret("ada.lovelace@example.com") // as a version without the rule stored it
	id := e.Install(values, "a")
	r := minimise(t, e)
	cleanly(t, "a value under its seal", r)
	not("a value under its seal", r)
	mayRead := `GRANT pg_read_all_data TO trakr_sweep`
	t.Cleanup(func() { e.Exec(mayRead) }) // roles are the whole server's
	e.Exec(`REVOKE pg_read_all_data FROM trakr_sweep`)
	not("where the role that counts may not read them", minimise(t, e))
	e.Exec(mayRead)

	e.Exec(`ALTER TABLE trakr.tenant_fields DISABLE TRIGGER judge_seal; UPDATE trakr.tenant_fields SET username = 'ada.lovelace@example.com'::bytea WHERE tenant_id = '` + id.String() + `'`)
	r = minimise(t, e)
	if c := checkColumn(r, "trakr.tenant_fields", "username"); c.Disposition != findings.Checked || c.Rows != 1 || !c.Found() || len(r.Findings) != 1 {
		t.Errorf("in clear: %+v, %d findings", c, len(r.Findings))
	}
	// A column that was made a text is searched like any other.
	e.Exec(`DROP TRIGGER judge_seal ON trakr.tenant_fields; ALTER TABLE trakr.tenant_fields ALTER username TYPE text USING NULL`)
	if c := checkColumn(minimise(t, e), "trakr.tenant_fields", "username"); c.Disposition != findings.Checked {
		t.Errorf("a text: %+v", c)
	}
}

// A large object is no table's: neither the catalog of columns nor any search knows it.
func TestALargeObjectIsFoundWhateverIsInIt(t *testing.T) {
	const table = "pg_catalog.pg_largeobject_metadata"
	e := storetest.New(t)
	r := minimise(t, e)
	cleanly(t, "none", r)
	if c := check(r, table); c.Disposition != findings.Checked || c.Rows != 0 || len(c.PredicateDigest) != 64 {
		t.Errorf("none: %+v", c)
	}
	// The service's own role may make one, as everybody may: that is why it is looked for.
	e.Exec(`SET ROLE trakr_service; SELECT lo_from_bytea(0, 'ada.lovelace@example.com'); SELECT lo_create(0)`)
	r = minimise(t, e)
	if c := check(r, table); c.Rows != 2 || !c.Found() || c.Severity != findings.High || len(r.Findings) != 1 || r.Result != findings.Found {
		t.Errorf("two: %s, %+v, %d findings", r.Result, c, len(r.Findings))
	}
	e.Exec(`SELECT lo_unlink(oid) FROM pg_largeobject_metadata`)
	r = minimise(t, e)
	cleanly(t, "removed", r)
	if len(r.Findings) != 0 {
		t.Errorf("removed, and still found: %+v", r.Findings)
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
	if r.Result != findings.Found || len(r.Findings) != 3 {
		t.Errorf("%s: %+v", r.Result, r.Findings)
	}
}

func TestHiddenRowsAreNotCalledClean(t *testing.T) {
	e := storetest.New(t)
	e.Exec(`CREATE TABLE public.odd (v text); ALTER TABLE public.odd ENABLE ROW LEVEL SECURITY`)
	declare(e, policy.Table{Name: "public.odd", Columns: []string{"v"}})
	if r := minimise(t, e); r.Result != findings.Blind || checkColumn(r, "public.odd", "v").Disposition != findings.Unjudged {
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
	if r := minimise(t, e); r.Result != findings.Clean || len(r.Findings) != 0 {
		t.Errorf("declared: %s, %+v", r.Result, r.Findings)
	}
}

// A dry run leaves no trace of where it was.
func TestADrySearchNotesNothing(t *testing.T) {
	e := storetest.New(t)
	record(t, e, func(ev *audit.Event) { ev.DroppedNames = []string{"mobile"} })
	f, err := sweep.NewMinimisation(census.New(e.DB), e.Policy).Look(t.Context(), sweep.Order{Access: scheduler, Now: e.Clock.Now(), DryRun: true})
	if err != nil || !checkColumn(findings.Run{Checks: f.Checks}, "trakr.audit_events", "payload key mobile").Found() {
		t.Error(err)
	}
	if n := e.Int(`SELECT (SELECT count(*) FROM trakr.shape_scans) + (SELECT count(*) FROM trakr.payload_keys_seen)`); n != 0 {
		t.Errorf("%d rows noted", n)
	}
}
