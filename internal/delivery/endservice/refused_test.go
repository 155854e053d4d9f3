package endservice_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"trakr/internal/egress"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/outbox"
	"trakr/internal/store/storetest"
)

// unsendable are values that the guard does not let out: the client key holds the
// username, which the policy does not release.
func unsendable(marker string) lifecycle.Values {
	v := storetest.Values(marker)
	v[lifecycle.Username] = lifecycle.NewSecret(marker)
	v[lifecycle.ClientKey] = lifecycle.NewSecret("custom-" + marker + "-key")
	return v
}

// gaveUp are the events that say that a delivery was given up.
func (h *house) gaveUp() (out []audit.Event) {
	h.t.Helper()
	for _, e := range h.Events() {
		if e.Action == audit.DeliveryGiveUp {
			out = append(out, e)
		}
	}
	return out
}

func (h *house) counts() outbox.Counts {
	h.t.Helper()
	n, err := h.outbox.Counts(h.t.Context())
	must(h.t, err)
	return n
}

// The guard refuses what an install would disclose: the tenant is installed, nobody is
// told, a person finds it, and what comes later goes out.
func TestWhatTheGuardRefusesIsDeadAndRefusesNoInstall(t *testing.T) {
	h := newHouse(t)
	v := unsendable("mrkrefused")
	id := h.Install(v, "in")
	d := h.of(id)[1]
	if d.State != outbox.Dead || d.DeadAt == nil || d.Attempts != 0 || d.LastOutcome != outbox.Refused || len(d.Fields) != 0 || h.Int(`SELECT count(*) FROM trakr.outbox_payloads`) != 0 || h.counts().Findings() != 1 {
		t.Fatalf("%+v", d)
	}
	events := h.gaveUp()
	if len(events) != 1 {
		t.Fatalf("the log has %d events of it", len(events))
	}
	if e := events[0]; e.Outcome != audit.Failure || e.TenantID != id || e.RequestID != d.ID.String() || e.CorrelationID != d.ID.String() || len(e.FieldNames) != 0 || e.Recipient != "" ||
		!strings.HasPrefix(e.StatusDetail, "installed: refused by the guard: the value of client_key holds that of username") || strings.Contains(e.StatusDetail, "mrkrefused") {
		t.Errorf("the log says %+v", e)
	}
	other := h.Install(storetest.Values("other"), "other in")

	// No way out but those that the words name.
	_, err := h.outbox.Retry(t.Context(), person, d.ID.String())
	if !errors.Is(err, lifecycle.RequestConflict) || !strings.Contains(err.Error(), "trakr outbox drop "+d.ID.String()) || !strings.Contains(err.Error(), "change the policy") {
		t.Errorf("the retry: %v", err)
	}
	if done, err := h.outbox.RetryDead(t.Context(), person); err != nil || len(done) != 0 {
		t.Errorf("all that is dead: %+v, %v", done, err)
	}
	for range 3 {
		h.once()
		h.Clock.Add(2 * time.Hour)
	}
	if got := h.requests(); len(got) != 1 || !bytes.Contains(got[0].body, []byte(other.String())) || h.of(id)[1].State != outbox.Dead {
		t.Errorf("%d requests, it is %s", len(got), h.of(id)[1].State)
	}

	// The next change is fine, and goes out by itself.
	v[lifecycle.Username] = lifecycle.NewSecret("another")
	h.update(id, v, "again")
	h.once()
	if got := h.receiver.Holds(id.String(), ""); len(got) != 1 || h.of(id)[1].State != outbox.Superseded || h.of(id)[2].State != outbox.Acknowledged || h.counts().Findings() != 0 {
		t.Errorf("%+v, %+v", got, h.of(id))
	}
	h.clear("mrkrefused")
}

// A tenant of which nothing could be told leaves as every other one, and nobody waits for
// an acknowledgement of what nobody was told.
func TestATenantOfWhichNothingCouldBeToldIsErased(t *testing.T) {
	h := newHouse(t)
	v := unsendable("mrkleaves")
	id := h.Install(v, "in")
	h.update(id, v, "again")
	dropped, err := h.outbox.Drop(t.Context(), person, h.of(id)[1].ID.String())
	if err != nil || dropped.State != outbox.Superseded || h.of(id)[2].State != outbox.Dead {
		t.Fatalf("%+v, %v", dropped, err)
	}
	erased := h.uninstall(id, "bye")
	must(t, h.finish(erased))
	if c := h.certificate(erased); len(c.Recipients) != 0 {
		t.Errorf("the certificate waits for %+v", c.Recipients)
	}
	h.once()
	got := h.requests()
	if len(got) != 1 || !bytes.Contains(got[0].body, []byte("tenant.erased")) || bytes.Contains(got[0].body, []byte("mrkleaves")) || h.of(id)[3].State != outbox.Acknowledged || h.counts() != (outbox.Counts{}) {
		t.Errorf("%d requests, %+v", len(got), h.of(id))
	}
	if strings.Contains(h.log.String(), "mrkleaves") {
		t.Error("the log holds a value")
	}
}

// An earlier version let contact data in, and it waits in the queue: it is opened once,
// never sent, and dead.
func TestWhatAnEarlierVersionEnteredIsJudgedOnItsWayOut(t *testing.T) {
	h := newHouse(t)
	const contact = "mrk.smith@example.com"
	v := storetest.Values("early")
	id := h.Install(v, "in")
	d := h.of(id)[1]
	g := h.guard()
	b, err := g.Encode(egress.Event{ID: d.ID.String(), Kind: d.Kind, Time: d.EnqueuedAt, Sequence: d.Seq, Data: g.Data(d.Kind, id, v)}, v)
	must(t, err)
	body := bytes.Replace(b.Bytes(), []byte(v[lifecycle.ClientKey].Reveal()), []byte(contact), 1)
	sealed, err := h.Keys.EncryptPayload(id, d.ID, body)
	must(t, err)
	h.Exec(`UPDATE trakr.outbox_payloads SET sealed = $2 WHERE delivery_id = $1`, d.ID.String(), sealed)

	for range 3 {
		h.once()
		h.Clock.Add(2 * time.Hour)
	}
	d = h.of(id)[1]
	if n := len(h.requests()); n != 0 || d.State != outbox.Dead || d.Attempts != 1 || d.LastOutcome != outbox.Refused || h.counts().Findings() != 1 {
		t.Fatalf("%d requests, %+v", n, d)
	}
	if e := h.gaveUp(); len(e) != 1 || e[0].Outcome != audit.Failure || e[0].RequestID != d.ID.String() || e[0].Recipient != "127.0.0.1" ||
		!strings.HasPrefix(e[0].StatusDetail, "installed: refused by the guard: the value of client_key is shaped like") || strings.Contains(e[0].StatusDetail, contact) {
		t.Errorf("the log says %+v", e)
	}
	// A person may have changed the policy: it is judged again, once.
	if _, err := h.outbox.Retry(t.Context(), person, d.ID.String()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		h.once()
		h.Clock.Add(2 * time.Hour)
	}
	if d = h.of(id)[1]; len(h.requests()) != 0 || d.State != outbox.Dead || d.Attempts != 2 {
		t.Errorf("%d requests, %+v", len(h.requests()), d)
	}
	h.update(id, v, "again")
	h.once()
	if got := h.requests(); len(got) != 1 || bytes.Contains(got[0].body, []byte(contact)) || h.of(id)[2].State != outbox.Acknowledged || h.of(id)[1].State != outbox.Superseded || h.Int(`SELECT count(*) FROM trakr.outbox_payloads`) != 0 {
		t.Errorf("%d requests, %+v", len(got), h.of(id))
	}
	if strings.Contains(h.log.String(), contact) {
		t.Error("the log holds a value")
	}
}
