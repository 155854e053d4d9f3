package audit_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"trakr/internal/lifecycle"
	"trakr/internal/proof/merkle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/storetest"
)

var operator = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorOperator, ID: "uid:1", Role: lifecycle.RoleOperator},
	Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation, Ref: "OPS-1"}, RequestID: "test"}

// old writes an event as it would have been written at that time.
func old(e *storetest.Env, at time.Time, detail string) {
	ev := event(e, detail)
	ev.OccurredAt = at
	e.Exec(`SET ROLE trakr_owner; SELECT trakr.make_partition('` + at.Format(time.RFC3339) + `')`)
	e.Exec(`INSERT INTO trakr.audit_events (recorded_at, epoch, event_id, occurred_at, actor_type, actor_id, action, outcome, status_detail, reason_code, request_id, schema_version, record)
		SELECT $1, 1, x.event_id, x.occurred_at, x.actor_type, x.actor_id, x.action, x.outcome, x.status_detail, x.reason_code, x.request_id, 1, $2
		FROM jsonb_to_record(convert_from($2, 'UTF8')::jsonb) AS x (event_id uuid, occurred_at timestamptz, actor_type text, actor_id text, action text, outcome text, status_detail text, reason_code text, request_id text)`,
		at, ev.Record())
}

func sequencedAll(t *testing.T, e *storetest.Env) audit.Checkpoint {
	t.Helper()
	s := storetest.Must(t)(e.Log.NewSequencer()).(*audit.Sequencer)
	for deadline := time.Now().Add(10 * time.Second); ; {
		drain(t, s)
		b, err := e.Log.Backlog(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if b.Oldest.IsZero() {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the sequencer does not catch up")
		}
		time.Sleep(5 * time.Millisecond)
	}
	cp, err := e.Log.Latest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

func TestOnlyTheOwnerExpiresContentAndHashesStay(t *testing.T) {
	e := storetest.New(t)
	now := time.Now().UTC()
	for i := range 5 {
		old(e, time.Date(2023, 1, 10+i, 0, 0, 0, 0, time.UTC), fmt.Sprint("january-", i))
	}
	old(e, time.Date(2023, 2, 1, 0, 0, 0, 0, time.UTC), "february")
	if err := e.Log.Record(t.Context(), event(e, "now")); err != nil {
		t.Fatal(err)
	}
	owner := storetest.Must(t)(store.Open(t.Context(), e.URL, store.Options{MaxConns: 2, Role: store.OwnerRole})).(*store.DB)
	defer owner.Close()

	// Nothing goes before it has its position: its hash would be lost.
	february := time.Date(2023, 2, 15, 0, 0, 0, 0, time.UTC)
	if _, err := audit.Expire(t.Context(), owner, operator, now, february); !errors.Is(err, lifecycle.RequestConflict) {
		t.Errorf("unsequenced events were expired: %v", err)
	}
	before := sequencedAll(t, e)
	if _, err := audit.Expire(t.Context(), owner, operator, now, now.Add(-364*24*time.Hour)); !errors.Is(err, lifecycle.RequestInvalid) {
		t.Errorf("the floor of a year does not hold: %v", err)
	}
	if _, err := audit.Expire(t.Context(), e.DB, operator, now, february); err == nil {
		t.Error("the service's own role expired content")
	}
	got, err := audit.Expire(t.Context(), owner, operator, now, february)
	if err != nil || got.UpTo != 5 || len(got.Partitions) != 1 || got.Partitions[0] != "audit_events_202301" {
		t.Fatalf("%+v, %v", got, err)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.audit_events WHERE status_detail LIKE 'january%'`); n != 0 {
		t.Errorf("%d events are still there", n)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.audit_events WHERE status_detail IN ('february', 'now')`); n != 2 {
		t.Error("a younger event went too")
	}
	if n := e.Int(`SELECT count(*) FROM trakr.audit_events WHERE action = 'audit.expire' AND outcome = 'success' AND event_id = $1`, uuid.MustParse(got.EventID)); n != 1 {
		t.Error("the removal is not in the log")
	}
	after := sequencedAll(t, e)
	if err := e.Log.Contains(t.Context(), before.Checkpoint); err != nil || after.Size != 8 {
		t.Errorf("the log of size %d does not contain what it was: %v", after.Size, err)
	}
	// A second time there is nothing left to do.
	if got, err := audit.Expire(t.Context(), owner, operator, now, february); err != nil || len(got.Partitions) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestProofsHoldOfflineAndOnlyForWhatTheyProve(t *testing.T) {
	e := storetest.New(t)
	id := e.Install(storetest.Values("p"), "p")
	read, err := e.Door.Read(t.Context(), storetest.Service(), id, lifecycle.Username)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Log.Prove(t.Context(), operator, read.EventID.String()); !errors.Is(err, lifecycle.NotFound) {
		t.Errorf("an event without a position was proven: %v", err)
	}
	first := sequencedAll(t, e)
	p, err := e.Log.Prove(t.Context(), operator, read.EventID.String())
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := merkle.ParseVerifier(e.Log.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	cp, err := merkle.Open([]byte(p.Checkpoint), verifier)
	if err != nil {
		t.Fatal(err)
	}
	path := make([]merkle.Hash, len(p.Inclusion))
	for i, s := range p.Inclusion {
		if err := path[i].UnmarshalJSON([]byte(`"` + s + `"`)); err != nil {
			t.Fatal(err)
		}
	}
	if err := merkle.VerifyInclusion(path, cp.Size, cp.Root, p.LogIndex, merkle.LeafHash([]byte(p.Record))); err != nil {
		t.Errorf("the proof does not hold: %v", err)
	}
	if merkle.VerifyInclusion(path, cp.Size, cp.Root, p.LogIndex, merkle.LeafHash([]byte(p.Record+" "))) == nil {
		t.Error("the proof holds for another record")
	}
	second := sequencedAll(t, e) // the reading of the proof is an event too
	g, err := e.Log.ProveGrowth(t.Context(), first.Size)
	if err != nil || second.Size <= first.Size {
		t.Fatalf("%v, %d after %d", err, second.Size, first.Size)
	}
	hashes := make([]merkle.Hash, len(g.Hashes))
	for i, s := range g.Hashes {
		if err := hashes[i].UnmarshalJSON([]byte(`"` + s + `"`)); err != nil {
			t.Fatal(err)
		}
	}
	if err := merkle.VerifyConsistency(hashes, first.Size, first.Root, second.Size, second.Root); err != nil {
		t.Errorf("the log did not only grow: %v", err)
	}
	for _, bad := range []string{"", "x", uuid.NewString()} {
		if _, err := e.Log.Prove(t.Context(), operator, bad); err == nil {
			t.Errorf("%q was proven", bad)
		}
	}
}
