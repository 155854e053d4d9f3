package endservice_test

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"trakr/internal/egress"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/outbox"
	"trakr/internal/store/storetest"
)

// person is somebody at the command line, with a ticket.
var person = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorOperator, ID: "uid:1", Role: lifecycle.RoleOperator},
	Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation, Ref: "OPS-12"}, RequestID: "cli"}

func (h *house) guard() *egress.Guard {
	h.t.Helper()
	g, err := egress.New(h.Policy, lifecycle.ToEndService, "https://trakr.example.com")
	must(h.t, err)
	return g
}

// take opens a delivery as another replica would.
func (h *house) take(d outbox.Delivery) error {
	_, err := h.outbox.Open(h.t.Context(), scheduler, d, h.guard(), "127.0.0.1")
	return err
}

// of are a tenant's deliveries, by their number.
func (h *house) of(id lifecycle.TenantID) map[int64]outbox.Delivery {
	h.t.Helper()
	all, err := h.outbox.List(h.t.Context(), false, 1000)
	must(h.t, err)
	out := map[int64]outbox.Delivery{}
	for _, d := range all {
		if d.Tenant == id {
			out[d.Seq] = d
		}
	}
	return out
}

func (h *house) due() []outbox.Delivery {
	h.t.Helper()
	due, err := h.outbox.Due(h.t.Context(), h.Clock.Now(), 100)
	must(h.t, err)
	return due
}

// dead makes the tenant's first delivery dead.
func (h *house) dead(id lifecycle.TenantID) outbox.Delivery {
	h.t.Helper()
	h.set(func(h *house) { h.status, h.only = http.StatusBadRequest, id.String() })
	for range 24 * 6 {
		h.Clock.Add(73 * time.Minute)
		h.once()
	}
	h.set(func(h *house) { h.status, h.only = 0, "" })
	d := h.of(id)[1]
	if d.State != outbox.Dead {
		h.t.Fatalf("the first delivery is %s", d.State)
	}
	return d
}

// The first delivery is dead, the second is on the wire, and in that moment a person has
// the first one tried again.
func TestADeadDeliveryThatIsRetriedNeverFollowsALaterOne(t *testing.T) {
	h := newHouse(t)
	id := h.Install(storetest.Values("old"), "in")
	first := h.dead(id)
	h.update(id, storetest.Values("old"), "again")
	second := h.of(id)[2]
	var once sync.Once
	var refused error
	h.set(func(h *house) {
		h.before = func(string, []byte) {
			once.Do(func() {
				_, refused = h.outbox.Retry(t.Context(), person, first.ID.String())
				// Whatever its row says, it is not its turn.
				h.Exec(`UPDATE trakr.outbox SET state = 'waiting', next_attempt_at = '2000-01-01', dead_at = NULL WHERE delivery_id = $1`, first.ID.String())
				if due := h.due(); len(due) != 0 {
					t.Errorf("due while the second is on the wire: %+v", due)
				}
				if err := h.take(h.of(id)[1]); !errors.Is(err, outbox.ErrGone) {
					t.Errorf("the first was taken while the second is on the wire: %v", err)
				}
			})
		}
	})
	before := len(h.requests())
	h.once()
	if !errors.Is(refused, lifecycle.RequestConflict) || !strings.Contains(refused.Error(), second.ID.String()) {
		t.Errorf("the retry: %v", refused)
	}
	for range 3 {
		h.Clock.Add(time.Hour)
		h.once()
	}
	for _, r := range h.requests()[before:] {
		if r.id == first.ID.String() {
			t.Error("the first was sent after the second")
		}
	}
	now := h.of(id)
	if now[1].State != outbox.Superseded || now[2].State != outbox.Acknowledged || h.Int(`SELECT count(*) FROM trakr.outbox_payloads`) != 0 {
		t.Errorf("%s, %s", now[1].State, now[2].State)
	}
	if _, err := h.outbox.Retry(t.Context(), person, first.ID.String()); !errors.Is(err, lifecycle.RequestConflict) {
		t.Errorf("one that is over was retried: %v", err)
	}
}

// The answer to the second was lost: nobody knows whether it was taken, so the first is
// not sent after it either.
func TestALostAnswerCountsAsTaken(t *testing.T) {
	h := newHouse(t)
	id := h.Install(storetest.Values("maybe"), "in")
	first := h.dead(id)
	h.update(id, storetest.Values("maybe"), "again")
	h.set(func(h *house) { h.status = http.StatusBadGateway })
	h.once()
	if _, err := h.outbox.Retry(t.Context(), person, first.ID.String()); !errors.Is(err, lifecycle.RequestConflict) {
		t.Errorf("the first was retried: %v", err)
	}
	h.set(func(h *house) { h.status = 0 })
	h.Clock.Add(time.Hour)
	h.once()
	if now := h.of(id); now[1].State != outbox.Superseded || now[2].State != outbox.Acknowledged {
		t.Errorf("%s, %s", now[1].State, now[2].State)
	}
}

// Before anything later was sent, a retried delivery goes first, as it should; whoever had
// listed the later one is refused.
func TestARetriedDeliveryGoesBeforeALaterOneThatWaits(t *testing.T) {
	h := newHouse(t)
	id := h.Install(storetest.Values("first"), "in")
	first := h.dead(id)
	h.update(id, storetest.Values("first"), "again")
	listed := h.due()
	if len(listed) != 1 || listed[0].Seq != 2 {
		t.Fatalf("%+v", listed)
	}
	if _, err := h.outbox.Retry(t.Context(), person, first.ID.String()); err != nil {
		t.Fatal(err)
	}
	if err := h.take(listed[0]); !errors.Is(err, outbox.ErrGone) {
		t.Errorf("the second was taken before the first: %v", err)
	}
	before := len(h.requests())
	h.once()
	var order []string
	for _, r := range h.requests()[before:] {
		order = append(order, r.id)
	}
	if !slices.Equal(order, []string{first.ID.String(), listed[0].ID.String()}) {
		t.Errorf("sent in the order %v", order)
	}
}

// Two replicas each take another delivery of one tenant in the same moment: at most one
// succeeds, whatever the order.
func TestTwoReplicasNeverHaveTwoDeliveriesOfOneTenant(t *testing.T) {
	h := newHouse(t)
	for i := range 8 {
		name := "race" + string(rune('a'+i))
		id := h.Install(storetest.Values(name), name)
		h.update(id, storetest.Values(name), name+" again")
		of := h.of(id)
		// The first is dead and is retried while another replica has listed the second.
		h.Exec(`UPDATE trakr.outbox SET state = 'dead', next_attempt_at = NULL, dead_at = enqueued_at WHERE delivery_id = $1`, of[1].ID.String())
		var wg sync.WaitGroup
		var one, two error
		wg.Go(func() {
			if _, one = h.outbox.Retry(t.Context(), person, of[1].ID.String()); one == nil {
				one = h.take(of[1])
			}
		})
		wg.Go(func() { two = h.take(of[2]) })
		wg.Wait()
		now := h.of(id)
		if now[1].Attempts+now[2].Attempts != 1 || (one == nil) == (two == nil) {
			t.Errorf("%d and %d attempts: %v, %v", now[1].Attempts, now[2].Attempts, one, two)
		}
		for _, err := range []error{one, two} {
			if err != nil && !errors.Is(err, outbox.ErrGone) && !errors.Is(err, lifecycle.RequestConflict) {
				t.Error(err)
			}
		}
	}
}

// A retry by a person does not take from another replica what it is sending.
func TestWhatIsUnderWayIsNotSentByAnotherReplicaAtTheSameTime(t *testing.T) {
	h := newHouse(t)
	id := h.Install(storetest.Values("wire"), "in")
	must(t, h.take(h.of(id)[1]))
	if d, err := h.outbox.Retry(t.Context(), person, h.of(id)[1].ID.String()); err != nil || d.NextAttemptAt.Before(h.Clock.Now().Add(outbox.Claim)) {
		t.Errorf("%+v, %v", d, err)
	}
	h.once()
	if n := len(h.requests()); n != 0 {
		t.Errorf("it was sent by two at once: %d requests", n)
	}
	h.Clock.Add(outbox.Claim)
	h.once()
	if n := len(h.requests()); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// The tenant is erased while another replica sends an event about it: the notice waits
// until that can no longer arrive after it.
func TestTheNoticeWaitsForWhatAnotherReplicaHasOnTheWire(t *testing.T) {
	h := newHouse(t)
	id := h.Install(storetest.Values("late"), "in")
	must(t, h.take(h.of(id)[1]))
	h.uninstall(id, "bye")
	h.once()
	if n := len(h.requests()); n != 0 {
		t.Errorf("the notice was sent beside the event: %d requests", n)
	}
	h.Clock.Add(outbox.Claim)
	h.once()
	if got := h.requests(); len(got) != 1 || !bytes.Contains(got[0].body, []byte("tenant.erased")) || h.of(id)[2].State != outbox.Acknowledged {
		t.Errorf("%d requests, the notice is %s", len(got), h.of(id)[2].State)
	}
}

func TestAllThatIsDeadIsRetriedAtOnce(t *testing.T) {
	h := newHouse(t)
	a, b := h.Install(storetest.Values("a"), "a in"), h.Install(storetest.Values("b"), "b in")
	h.set(func(h *house) { h.status = http.StatusBadRequest })
	h.once()
	h.Clock.Add(2 * time.Hour)
	h.update(a, storetest.Values("a"), "a again")
	for range 24 * 12 {
		h.Clock.Add(73 * time.Minute)
		h.once()
	}
	if n, err := h.outbox.Counts(t.Context()); err != nil || n.Dead != 3 {
		t.Fatalf("%+v, %v", n, err)
	}
	done, err := h.outbox.RetryDead(t.Context(), person)
	if err != nil || len(done) != 2 {
		t.Fatalf("%+v, %v", done, err)
	}
	h.set(func(h *house) { h.status = 0 })
	h.once()
	if n, err := h.outbox.Counts(t.Context()); err != nil || n.Dead+n.Waiting != 0 || h.of(a)[1].State != outbox.Superseded || h.of(b)[1].State != outbox.Acknowledged {
		t.Errorf("%+v, %v", n, err)
	}
	retried := 0
	for _, e := range h.Events() {
		if e.Action == audit.DeliveryRetry && e.ReasonRef == "OPS-12" {
			retried++
		}
	}
	if retried != 2 {
		t.Errorf("%d retries are in the log", retried)
	}
}

// What is dead can be dropped, with a ticket, and its payload goes; the notice of an
// erasure never.
func TestADeadDeliveryIsDroppedByAPersonAndANoticeNever(t *testing.T) {
	h := newHouse(t)
	id := h.Install(storetest.Values("mrk-refused"), "in")
	if _, err := h.outbox.Drop(t.Context(), person, h.of(id)[1].ID.String()); !errors.Is(err, lifecycle.RequestConflict) {
		t.Errorf("one that is still tried was dropped: %v", err)
	}
	dead := h.dead(id)
	nameless := person
	nameless.Reason.Ref = ""
	if _, err := h.outbox.Drop(t.Context(), nameless, dead.ID.String()); !errors.Is(err, lifecycle.ReasonRequired) {
		t.Errorf("dropped without a ticket: %v", err)
	}
	h.Exec(storetest.Breaks()["commit fails"])
	if _, err := h.outbox.Drop(t.Context(), person, dead.ID.String()); err == nil || h.of(id)[1].State != outbox.Dead {
		t.Errorf("dropped without an event: %v", err)
	}
	h.Exec("DROP TRIGGER late ON trakr.audit_events")
	d, err := h.outbox.Drop(t.Context(), person, dead.ID.String())
	if err != nil || d.State != outbox.Superseded || d.LastOutcome != outbox.Dropped || h.Int(`SELECT count(*) FROM trakr.outbox_payloads`) != 0 {
		t.Errorf("%+v, %v", d, err)
	}
	events := h.Events()
	if e := events[len(events)-1]; e.Action != audit.DeliveryClose || e.StatusDetail != "installed: dropped" || e.ReasonRef != "OPS-12" || e.ActorID != "uid:1" || e.RequestID != dead.ID.String() || e.TenantID != id {
		t.Errorf("the log says %+v", e)
	}
	if _, err := h.outbox.Drop(t.Context(), person, dead.ID.String()); !errors.Is(err, lifecycle.RequestConflict) {
		t.Errorf("dropped twice: %v", err)
	}

	h.uninstall(id, "bye")
	h.set(func(h *house) { h.status = http.StatusBadRequest })
	for range 24 * 6 {
		h.Clock.Add(73 * time.Minute)
		h.once()
	}
	notice := h.of(id)[2]
	if notice.State != outbox.Dead || notice.Kind != egress.Erased {
		t.Fatalf("%+v", notice)
	}
	if _, err := h.outbox.Drop(t.Context(), person, notice.ID.String()); !errors.Is(err, lifecycle.RequestConflict) || !strings.Contains(err.Error(), "trakr outbox retry "+notice.ID.String()) || h.of(id)[2].State != outbox.Dead {
		t.Errorf("a notice was dropped: %v", err)
	}
}

// twoDead makes a tenant's install and its later change dead, both of them sent before.
func (h *house) twoDead(name string) (id lifecycle.TenantID, first, second outbox.Delivery) {
	h.t.Helper()
	id = h.Install(storetest.Values(name), name)
	h.dead(id)
	h.update(id, storetest.Values(name), name+" again")
	h.set(func(h *house) { h.status, h.only = http.StatusBadRequest, id.String() })
	for range 24 * 6 {
		h.Clock.Add(73 * time.Minute)
		h.once()
	}
	h.set(func(h *house) { h.status, h.only = 0, "" })
	of := h.of(id)
	if of[1].State != outbox.Dead || of[2].State != outbox.Dead || of[2].Attempts == 0 {
		h.t.Fatalf("%+v", of)
	}
	return id, of[1], of[2]
}

// What a dropped delivery overtook can never be sent: it goes with it, and nobody is sent
// from one to the other.
func TestADropClosesWhatItOvertook(t *testing.T) {
	h := newHouse(t)
	id, first, second := h.twoDead("circle")
	if _, err := h.outbox.Retry(t.Context(), person, first.ID.String()); !errors.Is(err, lifecycle.RequestConflict) || !strings.Contains(err.Error(), "trakr outbox retry "+second.ID.String()) {
		t.Errorf("while the later one is open: %v", err)
	}
	if _, err := h.outbox.Drop(t.Context(), person, second.ID.String()); err != nil {
		t.Fatal(err)
	}
	for _, d := range h.of(id) {
		if d.State != outbox.Superseded || d.LastOutcome != outbox.Dropped {
			t.Errorf("%+v", d)
		}
	}
	var dropped []string
	for _, e := range h.Events() {
		if e.Action == audit.DeliveryClose && e.ReasonRef == "OPS-12" {
			dropped = append(dropped, e.RequestID+" "+e.StatusDetail)
		}
	}
	if want := []string{first.ID.String() + " installed: dropped", second.ID.String() + " changed: dropped"}; !slices.Equal(dropped, want) {
		t.Errorf("the log says %q, want %q", dropped, want)
	}
	if n, err := h.outbox.Counts(t.Context()); err != nil || n.Findings() != 0 || h.Int(`SELECT count(*) FROM trakr.outbox_payloads`) != 0 {
		t.Errorf("%+v, %v", n, err)
	}
}

// An earlier version closed the later one alone: the words name a way out that is one.
func TestWhatWasOvertakenByOneThatIsOverCanBeDropped(t *testing.T) {
	h := newHouse(t)
	id, first, second := h.twoDead("left over")
	h.Exec(`UPDATE trakr.outbox SET state = 'superseded', closed_at = now() WHERE delivery_id = $1`, second.ID.String())
	_, err := h.outbox.Retry(t.Context(), person, first.ID.String())
	if !errors.Is(err, lifecycle.RequestConflict) || !strings.Contains(err.Error(), "needless") || !strings.Contains(err.Error(), "trakr outbox drop "+first.ID.String()) || strings.Contains(err.Error(), second.ID.String()) {
		t.Errorf("%v", err)
	}
	if _, err := h.outbox.Drop(t.Context(), person, first.ID.String()); err != nil || h.of(id)[1].State != outbox.Superseded {
		t.Errorf("%+v, %v", h.of(id), err)
	}
}

// Of what was never sent nothing was overtaken: an install that still waits is told,
// though the change after it is dropped.
func TestADropOfWhatWasNeverSentLeavesWhatCanBeSent(t *testing.T) {
	h := newHouse(t)
	v := storetest.Values("mrkwaits")
	id := h.Install(v, "in")
	v[lifecycle.Username] = lifecycle.NewSecret("mrkwaits")
	h.update(id, v, "again")
	if d := h.of(id); d[1].State != outbox.Waiting || d[2].State != outbox.Dead {
		t.Fatalf("%+v", d)
	}
	if _, err := h.outbox.Drop(t.Context(), person, h.of(id)[2].ID.String()); err != nil {
		t.Fatal(err)
	}
	h.once()
	if d := h.of(id); d[1].State != outbox.Acknowledged || d[2].State != outbox.Superseded || len(h.receiver.Holds(id.String(), "")) != 1 {
		t.Errorf("%+v", d)
	}
}
