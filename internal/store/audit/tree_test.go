package audit_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"trakr/internal/proof/merkle"
	"trakr/internal/store/audit"
	"trakr/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// event is one made-up event.
func event(e *storetest.Env, detail string) audit.Event {
	ev := audit.New(context.Background(), e.Clock.Now(), storetest.Service(), audit.TenantLookup, audit.Success)
	ev.StatusDetail = detail
	return ev
}

// drain sequences until nothing waits.
func drain(t *testing.T, s *audit.Sequencer) int {
	t.Helper()
	total := 0
	for {
		n, err := s.Pass(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		total += n
		if n == 0 {
			return total
		}
	}
}

func TestTheSequencerLosesDoublesAndReordersNothing(t *testing.T) {
	const writers, each = 8, 1250
	e := storetest.New(t)
	s := storetest.Must(t)(e.Log.NewSequencer()).(*audit.Sequencer)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := 0; i < each; {
				n := min(1+(i+w)%9, each-i) // transactions of several sizes end out of order
				var evs []audit.Event
				for k := range n {
					evs = append(evs, event(e, fmt.Sprintf("w%d-%d", w, i+k)))
				}
				if err := e.Log.Record(t.Context(), evs...); err != nil {
					t.Error(err)
					return
				}
				i += n
			}
		})
	}
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	total, done := 0, false
	for !done {
		select {
		case <-finished:
			done = true
		default:
		}
		total += drain(t, s)
	}
	// A transaction's xid can be above xmin for a moment after its commit.
	for deadline := time.Now().Add(10 * time.Second); total < writers*each && time.Now().Before(deadline); {
		total += drain(t, s)
	}
	if total != writers*each {
		t.Fatalf("%d events have a position, want %d", total, writers*each)
	}
	if n := e.Int(`SELECT count(DISTINCT x) FROM trakr.audit_leaves, unnest(ids) AS x`); n != writers*each {
		t.Errorf("%d distinct events in the log", n)
	}
	// Every transaction's events stand together and in the order they were written.
	if n := e.Int(`SELECT count(*) FROM (SELECT (l.first_index + u.o - 1) AS p, e.xid, e.id,
			lag(e.xid) OVER w AS before_xid, lag(e.id) OVER w AS before_id
		FROM trakr.audit_leaves AS l, unnest(l.ids) WITH ORDINALITY AS u (id, o) JOIN trakr.audit_events AS e ON e.id = u.id
		WINDOW w AS (ORDER BY l.first_index + u.o)) AS x WHERE (before_xid, before_id) >= (xid, id)`); n != 0 {
		t.Errorf("%d events stand out of order", n)
	}
	// The tree is the one of the records, in log order.
	cp, err := e.Log.Latest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tree := rebuilt(t, e)
	if tree.Size() != cp.Size || tree.Root() != cp.Root {
		t.Errorf("the tree of the records has another root than the checkpoint of size %d", cp.Size)
	}
}

// rebuilt makes the tree from the records themselves.
func rebuilt(t *testing.T, e *storetest.Env) *merkle.Tree {
	t.Helper()
	tree := merkle.NewTree()
	if err := e.Log.Records(t.Context(), func(record []byte) error { tree.Append(merkle.LeafHash(record)); return nil }); err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestAnotherLeaderGoesOnWhereTheFirstStopped(t *testing.T) {
	e := storetest.New(t)
	first := storetest.Must(t)(e.Log.NewSequencer()).(*audit.Sequencer)
	second := storetest.Must(t)(e.Log.NewSequencer()).(*audit.Sequencer)
	var old merkle.Checkpoint
	for i := range 15 {
		var evs []audit.Event
		for k := range 37 {
			evs = append(evs, event(e, fmt.Sprint(i, "-", k)))
		}
		if err := e.Log.Record(t.Context(), evs...); err != nil {
			t.Fatal(err)
		}
		s := first
		if i%3 == 0 {
			s = second
		}
		for e.Int(`SELECT count(*) FROM trakr.audit_events`) > e.Int(`SELECT coalesce(max(size), 0) FROM trakr.audit_checkpoints`) {
			drain(t, s)
		}
		cp, err := e.Log.Latest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if old.Size > 0 {
			if err := e.Log.Contains(t.Context(), old); err != nil {
				t.Fatal(err)
			}
		}
		old = cp.Checkpoint
	}
	if n := e.Int(`SELECT sum(cardinality(ids)) FROM trakr.audit_leaves`); n != 15*37 {
		t.Errorf("%d leaves", n)
	}
	if tree := rebuilt(t, e); tree.Root() != old.Root {
		t.Error("the tree is not that of the records")
	}
}

func TestNothingIsTakenWhileAnOlderTransactionCanStillCommit(t *testing.T) {
	e := storetest.New(t)
	s := storetest.Must(t)(e.Log.NewSequencer()).(*audit.Sequencer)
	// A transaction that has its xid, and so its place, and takes its time.
	commit, slow := e.Hold(`SELECT pg_current_xact_id(); SELECT door.append(ARRAY[$rec$` + string(event(e, "early").Record()) + `$rec$::bytea])`)
	if slow != nil {
		t.Fatal(slow)
	}
	if err := e.Log.Record(t.Context(), event(e, "late")); err != nil {
		t.Fatal(err)
	}
	if n := drain(t, s); n != 0 {
		t.Fatalf("%d events were taken past an older open transaction", n)
	}
	b, err := e.Log.Backlog(t.Context())
	if err != nil || b.Oldest.IsZero() {
		t.Errorf("the backlog does not show: %+v, %v", b, err)
	}
	commit()
	for deadline := time.Now().Add(10 * time.Second); drain(t, s) == 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.audit_leaves AS l, unnest(l.ids) WITH ORDINALITY AS u (id, o) JOIN trakr.audit_events AS e ON e.id = u.id
		WHERE (l.first_index + u.o - 1 = 0) = (e.status_detail = 'early')`); n != 2 {
		t.Error("the later transaction stands before the earlier one, or one is missing")
	}
}

func TestRestoredLogsAndXidDigitBoundariesKeepTheOrder(t *testing.T) {
	e := storetest.New(t)
	s := storetest.Must(t)(e.Log.NewSequencer()).(*audit.Sequencer)
	for i := range 12 {
		if err := e.Log.Record(t.Context(), event(e, fmt.Sprint("before-", i))); err != nil {
			t.Fatal(err)
		}
	}
	for drain(t, s) > 0 {
	}
	before, err := e.Log.Latest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// What a restore into another cluster looks like: the identifier is another,
	// and old xids lie above the counter.
	e.Exec(`ALTER TABLE trakr.log_epochs DISABLE TRIGGER ALL; UPDATE trakr.log_epochs SET system_identifier = 1; ALTER TABLE trakr.log_epochs ENABLE ALWAYS TRIGGER rows_stay; ALTER TABLE trakr.log_epochs ENABLE ALWAYS TRIGGER table_stays`)
	e.Exec(`SET session_replication_role = replica; ALTER TABLE trakr.audit_events DISABLE TRIGGER ALL; UPDATE trakr.audit_events SET xid = (xid::text::numeric + 9000000000)::text::xid8;
		ALTER TABLE trakr.audit_leaves DISABLE TRIGGER ALL; UPDATE trakr.audit_leaves SET first_xid = (first_xid::text::numeric + 9000000000)::text::xid8, last_xid = (last_xid::text::numeric + 9000000000)::text::xid8`)
	e.Exec(`SELECT door.ensure_epoch()`)
	e.Exec(`SELECT door.ensure_epoch()`)
	if n := e.Int(`SELECT max(epoch) FROM trakr.log_epochs`); n != 2 {
		t.Fatalf("epoch %d after a restore", n)
	}
	for i := range 12 {
		if err := e.Log.Record(t.Context(), event(e, fmt.Sprint("after-", i))); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); e.Int(`SELECT max(size) FROM trakr.audit_checkpoints`) < 24 && time.Now().Before(deadline); {
		drain(t, s)
	}
	if err := e.Log.Contains(t.Context(), before.Checkpoint); err != nil {
		t.Errorf("the restored log does not contain what it was: %v", err)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.audit_leaves AS l, unnest(l.ids) WITH ORDINALITY AS u (id, o) JOIN trakr.audit_events AS e ON e.id = u.id
		WHERE (l.first_index + u.o - 1 < 12) = (e.status_detail LIKE 'before-%')`); n != 24 {
		t.Errorf("%d of 24 events stand where they should", n)
	}
}
