package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/google/uuid"

	"trakr/internal/lifecycle"
	"trakr/internal/proof/auditfile"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/storetest"
)

// generate writes n events as the door would, faster.
func generate(e *storetest.Env, n int) {
	e.T.Helper()
	for ; n > 20000; n -= 20000 {
		generate(e, 20000)
	}
	e.Exec(`INSERT INTO trakr.audit_events (epoch, event_id, occurred_at, tenant_id, actor_type, actor_id, action, outcome, reason_code, field_names, request_id, schema_version, record)
		SELECT 1, x.event_id, now(), x.tenant_id, 'service', x.actor, 'tenant.read', x.outcome, 'service_operation', ARRAY['username', 'avatar_url'], x.request, 1,
			convert_to('{"action":"tenant.read","actor_id":"' || x.actor || '","actor_type":"service","event_id":"' || x.event_id || '","field_names":["username","avatar_url"],"occurred_at":"'
				|| to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || '","outcome":"' || x.outcome || '","reason_code":"service_operation","request_id":"' || x.request
				|| '","schema_version":1,"tenant_id":"' || x.tenant_id || '"}', 'UTF8')
		FROM (SELECT gen_random_uuid() AS event_id, gen_random_uuid() AS tenant_id, 'token:' || i % 7 AS actor, CASE WHEN i % 5 = 0 THEN 'denied' ELSE 'success' END AS outcome, 'req-' || i AS request
			FROM generate_series(1, $1::integer) AS i) AS x`, n)
}

// exporter exports and checks like a reviewer who was given the key before.
type exporter struct {
	*storetest.Env
	dir string
	seq *audit.Sequencer
}

func newExporter(t *testing.T) *exporter {
	t.Helper()
	e := storetest.New(t)
	return &exporter{e, t.TempDir(), storetest.Must(t)(e.Log.NewSequencer()).(*audit.Sequencer)}
}

// catchUp does what the running service does about once a second.
func (x *exporter) catchUp(ctx context.Context) error {
	_, err := x.seq.Pass(ctx)
	return err
}

func (x *exporter) export(s audit.Selection) (audit.Exported, []byte) {
	x.T.Helper()
	var out bytes.Buffer
	if s.CatchUp == nil {
		s.CatchUp = x.catchUp
	}
	got, err := x.Log.Export(x.T.Context(), operator, s, &out)
	if err != nil {
		x.T.Fatal(err)
	}
	return got, out.Bytes()
}

func (x *exporter) verify(file []byte) auditfile.Report {
	x.T.Helper()
	r, err := auditfile.Verify(x.T.Context(), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(file)), nil }, x.Log.VerifierKey(), nil)
	if err != nil {
		x.T.Fatal(err)
	}
	return r
}

// story makes events of several kinds: n of them, all sequenced.
func (x *exporter) story(n int) {
	x.T.Helper()
	id := x.Install(storetest.Values("zqmarkerzq"), "one")
	for i := range n {
		ev := event(x.Env, fmt.Sprint("=", i))
		switch i % 4 {
		case 1:
			ev.Action, ev.TenantID, ev.FieldNames = audit.TenantRead, id, []lifecycle.Field{lifecycle.Username}
		case 2:
			ev.Outcome, ev.ActorID = audit.Denied, "token:other"
		case 3:
			ev.RequestID, ev.CorrelationID, ev.DroppedNames = "r\"\\,\n", uuid.NewString(), []string{"+a", "b c"}
		}
		if err := x.Log.Record(x.T.Context(), ev); err != nil {
			x.T.Fatal(err)
		}
	}
}

func TestExportsOfEveryFormAndSelectionAreProvenOffline(t *testing.T) {
	x := newExporter(t)
	x.story(60)
	tenant := x.Events()[0].TenantID
	random := rand.New(rand.NewPCG(7, 7))
	now := time.Now()
	for i := range 24 {
		s := audit.Selection{Format: audit.Formats()[i%3], Gzip: random.IntN(2) == 0}
		maybe := func(set func()) {
			if i > 2 && random.IntN(4) == 0 { // the first three are whole
				set()
			}
		}
		maybe(func() { s.Tenant = tenant })
		maybe(func() { s.Action = audit.TenantRead })
		maybe(func() { s.Outcome = audit.Denied })
		maybe(func() { s.Field = lifecycle.Username })
		maybe(func() { s.ActorID = "token:other" })
		maybe(func() { s.RequestID = "r\"\\,\n" })
		maybe(func() { s.Since = now.Add(-time.Hour) })
		maybe(func() { s.Until = now.Add(time.Duration(random.IntN(2)) * time.Hour) })
		got, file := x.export(s)
		r := x.verify(file)
		if !r.Proven || r.Events != got.Events || r.Size != got.Size || r.Format != s.Format || got.Waiting != 0 || !got.Sound() {
			t.Fatalf("%+v: %+v, %+v, %+v", s, got, r, r.Finding)
		}
		// Every event there is has its position by now, the export's own too.
		var want int64
		if err := x.Log.Each(t.Context(), s.Filter, func(audit.Event) error { want++; return nil }); err != nil {
			t.Fatal(err)
		}
		if i < 3 && (got.Events != got.Size || r.Hidden != 0) {
			t.Errorf("a whole export shows %d of %d", got.Events, got.Size)
		}
		if got.Events != want {
			t.Errorf("%+v: %d events, want %d", s.Filter, got.Events, want)
		}
	}
	_, file := x.export(audit.Selection{Format: audit.NDJSON})
	if !bytes.Contains(file, []byte(`"action":"audit.export"`)) || bytes.Contains(file, []byte("zqmarkerzq")) {
		t.Error("the export lacks its own event, or holds a tenant's value")
	}
	_, file = x.export(audit.Selection{Format: audit.CSV, Filter: audit.Filter{Action: audit.TenantLookup}})
	if !bytes.Contains(file, []byte(`,"'=0",`)) || bytes.Contains(file, []byte(",=0,")) {
		t.Error("a cell is a formula")
	}
	if got, file := x.export(audit.Selection{Format: audit.OCSF, Filter: audit.Filter{ActorID: "nobody"}}); got.Events != 0 || !x.verify(file).Proven {
		t.Errorf("without an event: %+v, %+v", got, x.verify(file).Finding)
	}
}

func TestPartsContinueEachOther(t *testing.T) {
	x := newExporter(t)
	x.story(40)
	generate(x.Env, 3000) // more than one row of leaves
	var all int64
	var from int64
	for part := 0; ; part++ {
		got, file := x.export(audit.Selection{Format: audit.NDJSON, From: from, Limit: 700})
		r := x.verify(file)
		if !r.Proven || r.From != from || r.Next != got.Next || r.Hidden != 0 || !got.Sound() || got.Events > 700 {
			t.Fatalf("part %d: %+v, %+v, %+v", part, got, r, r.Finding)
		}
		if got.Events > 0 && !bytes.HasPrefix(file, fmt.Appendf(nil, `{"log_index":%d,`, from)) {
			t.Errorf("part %d begins with %.40s", part, file)
		}
		all += got.Events
		if from = got.Next; got.Events < 700 {
			if from != got.Size || all != from {
				t.Errorf("%d events in parts up to %d of %d", all, from, got.Size)
			}
			break
		}
	}
	for _, bad := range []audit.Selection{{Format: audit.NDJSON, From: -1}, {Format: audit.NDJSON, From: 1 << 40}, {Format: audit.NDJSON, Limit: -1}, {Format: "xml"}} {
		var out bytes.Buffer
		bad.CatchUp = x.catchUp
		if _, err := x.Log.Export(t.Context(), operator, bad, &out); !errors.Is(err, lifecycle.RequestInvalid) || out.Len() > 0 {
			t.Errorf("%+v: %v, %d bytes", bad, err, out.Len())
		}
	}
}

func TestWithoutItsEventAnExportWritesNoByte(t *testing.T) {
	for name, sql := range storetest.Breaks() {
		t.Run(name, func(t *testing.T) {
			x := newExporter(t)
			x.story(3)
			if err := x.catchUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			x.Exec(sql)
			for _, f := range audit.Formats() {
				var out bytes.Buffer
				_, err := x.Log.Export(t.Context(), operator, audit.Selection{Format: f, CatchUp: x.catchUp}, &out)
				if !errors.Is(err, lifecycle.AuditUnavailable) || out.Len() > 0 {
					t.Errorf("%s: %v, %d bytes", f, err, out.Len())
				}
			}
		})
	}
	x := newExporter(t)
	var out bytes.Buffer
	nobody := operator
	nobody.Caller.Type, nobody.Reason = lifecycle.ActorStaff, lifecycle.Reason{Code: lifecycle.ReviewerExport}
	if _, err := x.Log.Export(t.Context(), nobody, audit.Selection{Format: audit.CSV}, &out); nobody.CheckReason() != nil && err == nil {
		t.Error("an export without a reason")
	}
	// A log without a checkpoint proves nothing yet.
	if _, err := x.Log.Export(t.Context(), operator, audit.Selection{Format: audit.CSV, Wait: time.Millisecond}, &out); !errors.Is(err, lifecycle.NotFound) || out.Len() > 0 {
		t.Errorf("%v, %d bytes", err, out.Len())
	}
}

func TestAnUnsequencedTailIsCountedAndLeftOut(t *testing.T) {
	x := newExporter(t)
	x.story(5)
	before, _ := x.export(audit.Selection{Format: audit.NDJSON})
	commit, err := x.Hold(`SELECT pg_current_xact_id()`) // an older transaction keeps everything later waiting
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := x.Log.Record(t.Context(), event(x.Env, fmt.Sprint("late-", i))); err != nil {
			t.Fatal(err)
		}
	}
	got, file := x.export(audit.Selection{Format: audit.CSV, Wait: 100 * time.Millisecond})
	r := x.verify(file)
	if got.Waiting != 3 || got.Size != before.Size || !r.Proven || r.Waiting != 3 || bytes.Contains(file, []byte("late-")) {
		t.Errorf("%+v, %+v %+v", got, r, r.Finding)
	}
	commit()
	for deadline := time.Now().Add(10 * time.Second); ; {
		got, file = x.export(audit.Selection{Format: audit.CSV})
		if got.Waiting == 0 || time.Now().After(deadline) {
			break
		}
	}
	if r = x.verify(file); got.Waiting != 0 || !r.Proven || bytes.Count(file, []byte(`,late-`)) != 3 {
		t.Errorf("%+v, %+v", got, r.Finding)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var out bytes.Buffer
	if _, err := x.Log.Export(ctx, operator, audit.Selection{Format: audit.CSV, CatchUp: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}, &out); err == nil || out.Len() > 0 {
		t.Errorf("a cancelled export: %v, %d bytes", err, out.Len())
	}
}

func TestExpiredContentIsAGapAndNoAlarm(t *testing.T) {
	x := newExporter(t)
	for i := range 5 {
		old(x.Env, time.Date(2023, 1, 10+i, 0, 0, 0, 0, time.UTC), fmt.Sprint("january-", i))
	}
	x.story(8)
	sequencedAll(t, x.Env)
	owner := storetest.Must(t)(store.Open(t.Context(), x.URL, store.Options{MaxConns: 2, Role: store.OwnerRole})).(*store.DB)
	defer owner.Close()
	if _, err := audit.Expire(t.Context(), owner, operator, time.Now(), time.Date(2023, 2, 15, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	for _, f := range audit.Formats() {
		got, file := x.export(audit.Selection{Format: f})
		if r := x.verify(file); !r.Proven || r.Expired != 5 || r.Hidden != 5 || !got.Sound() || got.Events != got.Size-5 {
			t.Errorf("%s: %+v, %+v, %+v", f, got, r, r.Finding)
		}
		got, file = x.export(audit.Selection{Format: f, From: 3})
		if r := x.verify(file); !r.Proven || r.Hidden != 2 || !got.Sound() {
			t.Errorf("%s from 3: %+v, %+v, %+v", f, got, r, r.Finding)
		}
	}
}

// A restored log goes on in another epoch, where transactions may have any number.
func TestAnExportGoesOnAcrossEpochs(t *testing.T) {
	x := newExporter(t)
	x.story(20)
	if err := x.catchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.Exec(`ALTER TABLE trakr.log_epochs DISABLE TRIGGER ALL; UPDATE trakr.log_epochs SET system_identifier = 1`)
	x.Exec(`SET session_replication_role = replica; ALTER TABLE trakr.audit_events DISABLE TRIGGER ALL; UPDATE trakr.audit_events SET xid = (xid::text::numeric + 9000000000)::text::xid8;
		ALTER TABLE trakr.audit_leaves DISABLE TRIGGER ALL; UPDATE trakr.audit_leaves SET first_xid = (first_xid::text::numeric + 9000000000)::text::xid8, last_xid = (last_xid::text::numeric + 9000000000)::text::xid8`)
	x.Exec(`SELECT door.ensure_epoch()`)
	x.seq = storetest.Must(t)(x.Log.NewSequencer()).(*audit.Sequencer)
	for i := range 20 {
		if err := x.Log.Record(t.Context(), event(x.Env, fmt.Sprint("after-", i))); err != nil {
			t.Fatal(err)
		}
	}
	for _, from := range []int64{0, 3, 30} {
		got, file := x.export(audit.Selection{Format: audit.CSV, From: from})
		if r := x.verify(file); !r.Proven || !got.Sound() || got.Waiting != 0 || got.Events != got.Size-from || x.Int(`SELECT count(DISTINCT epoch) FROM trakr.audit_leaves`) != 2 {
			t.Errorf("from %d: %+v, %+v", from, got, r.Finding)
		}
	}
	// An event put before all others of its epoch is seen too.
	x.Exec(`INSERT INTO trakr.audit_events (recorded_at, epoch, xid, event_id, occurred_at, actor_type, actor_id, action, outcome, reason_code, schema_version, record)
		SELECT recorded_at, epoch, '3', gen_random_uuid(), occurred_at, actor_type, actor_id, action, outcome, reason_code, schema_version, record FROM trakr.audit_events WHERE id IN (SELECT max(id) FROM trakr.audit_events GROUP BY epoch)`)
	if got, _ := x.export(audit.Selection{Format: audit.CSV}); got.Unplaced != 2 {
		t.Errorf("%+v", got)
	}
}

// What was done to the tables before the export shows in the file.
func TestAnExportOfAChangedLogSaysSo(t *testing.T) {
	const off = `ALTER TABLE trakr.audit_events DISABLE TRIGGER ALL; SET session_replication_role = replica; `
	at := func(i int) string {
		return fmt.Sprintf(`(SELECT ids[%d] FROM trakr.audit_leaves WHERE first_index = 0)`, i+1)
	}
	for _, c := range []struct {
		name, sql string
		sound     bool
		fault     auditfile.Fault
		position  int64
	}{
		{"a record changed", `UPDATE trakr.audit_events SET record = convert_to(replace(convert_from(record, 'UTF8'), 'success', 'failure'), 'UTF8') WHERE id = ` + at(4), true, auditfile.Changed, 4},
		{"two records swapped", `UPDATE trakr.audit_events AS a SET record = b.record FROM (SELECT id, record FROM trakr.audit_events) AS b WHERE (a.id, b.id) IN ((` + at(4) + `, ` + at(5) + `), (` + at(5) + `, ` + at(4) + `))`, true, auditfile.Changed, 4},
		{"an event removed", `DELETE FROM trakr.audit_events WHERE id = ` + at(4), false, auditfile.Removed, 4},
		{"an event inserted", `INSERT INTO trakr.audit_events (recorded_at, epoch, xid, event_id, occurred_at, actor_type, actor_id, action, outcome, reason_code, schema_version, record)
			SELECT recorded_at, epoch, xid, gen_random_uuid(), occurred_at, actor_type, actor_id, action, outcome, reason_code, schema_version, record FROM trakr.audit_events WHERE id = ` + at(4), false, auditfile.Reported, -1},
		{"an event moved", `UPDATE trakr.audit_events SET xid = (SELECT max(xid) FROM trakr.audit_events) WHERE id = ` + at(4), false, auditfile.Removed, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newExporter(t)
			x.story(12)
			if err := x.catchUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			x.Exec(off + c.sql)
			got, file := x.export(audit.Selection{Format: audit.NDJSON})
			r := x.verify(file)
			if got.Sound() != c.sound || r.Finding == nil || r.Finding.Fault != c.fault || r.Finding.Position != c.position {
				t.Errorf("%+v, %+v", got, r.Finding)
			}
		})
	}
}

// breaking fails after some bytes, as a full disk or a client that went away.
type breaking struct {
	bytes.Buffer
	left int
	do   func()
}

// Write implements io.Writer.
func (b *breaking) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		b.do()
		return 0, io.ErrShortWrite
	}
	return b.Buffer.Write(p)
}

func TestAnExportThatBreaksOffNeverLooksWhole(t *testing.T) {
	x := newExporter(t)
	generate(x.Env, 20000)
	for _, packed := range []bool{false, true} {
		for _, left := range []int{300 << 10, 600 << 10} {
			ctx, cancel := context.WithCancel(t.Context())
			w := &breaking{left: left, do: func() {}}
			_, err := x.Log.Export(ctx, operator, audit.Selection{Format: audit.NDJSON, Gzip: packed, CatchUp: x.catchUp}, w)
			if err == nil || w.Len() == 0 {
				t.Fatalf("%d bytes, %v", w.Len(), err)
			}
			if r := x.verify(w.Bytes()); r.Finding == nil || r.Finding.Fault != auditfile.Cut {
				t.Errorf("%+v", r.Finding)
			}
			cancel()
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	_, err := x.Log.Export(ctx, operator, audit.Selection{Format: audit.NDJSON, CatchUp: x.catchUp, Filter: audit.Filter{Outcome: audit.Success},
		Progress: func(int64, int64) { cancel() }}, &out)
	if err == nil || bytes.Contains(out.Bytes(), []byte("trakr_checkpoint")) {
		t.Errorf("a cancelled export ended with %v and %d bytes", err, out.Len())
	}
	// The connections are given back: the next one works.
	if _, file := x.export(audit.Selection{Format: audit.NDJSON}); !x.verify(file).Proven {
		t.Error("after a broken export")
	}
}

// peak runs do and returns the most heap it had, in bytes.
func peak(do func(sample func())) uint64 {
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	runtime.GC()
	var most uint64
	calls := 0
	do(func() {
		if calls++; calls%8 == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
		}
	})
	return most
}

// sampling calls sample at each Write.
type sampling struct {
	io.Writer
	sample func()
}

// Write implements io.Writer.
func (s sampling) Write(p []byte) (int, error) { s.sample(); return s.Writer.Write(p) }

func TestMemoryDoesNotGrowWithTheExport(t *testing.T) {
	x := newExporter(t)
	file := filepath.Join(t.TempDir(), "export")
	measure := func(s audit.Selection) (exporting, verifying uint64) {
		t.Helper()
		s.CatchUp = x.catchUp
		exporting = peak(func(sample func()) {
			f := storetest.Must(t)(os.Create(file)).(*os.File)
			defer func() { _ = f.Close() }()
			if _, err := x.Log.Export(t.Context(), operator, s, sampling{f, sample}); err != nil {
				t.Fatal(err)
			}
		})
		lines := 0
		verifying = peak(func(sample func()) {
			r, err := auditfile.Verify(t.Context(), func() (io.ReadCloser, error) { return os.Open(file) }, x.Log.VerifierKey(), func(int64) {
				if lines++; lines%1000 == 0 {
					sample()
				}
			})
			if err != nil || !r.Proven {
				t.Fatalf("%+v, %v", r.Finding, err)
			}
		})
		return exporting, verifying
	}
	cases := map[string]audit.Selection{"everything": {Format: audit.CSV}, "with a gap after every seventh event": {Format: audit.NDJSON, Filter: audit.Filter{ActorID: "token:3"}}}
	small := map[string][2]uint64{}
	for n, name := range []string{"small", "large"} {
		generate(x.Env, []int{70000, 140000}[n]) // both more than an export reads at once
		sequencedAll(t, x.Env)
		x.Exec(`ANALYZE trakr.audit_events`)
		for what, s := range cases {
			a, b := measure(s)
			t.Logf("%s, %s: %.1f MiB exporting, %.1f MiB verifying", name, what, float64(a)/(1<<20), float64(b)/(1<<20))
			if name == "small" {
				small[what] = [2]uint64{a, b}
				continue
			}
			const slack = 4 << 20
			if a > small[what][0]+slack || b > small[what][1]+slack {
				t.Errorf("%s: memory grew with the log: %d to %d bytes exporting, %d to %d verifying", what, small[what][0], a, small[what][1], b)
			}
		}
	}
}
