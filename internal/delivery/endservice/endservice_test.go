package endservice_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/metric/noop"

	"trakr/internal/delivery/endservice"
	"trakr/internal/egress"
	"trakr/internal/egress/webhook"
	"trakr/internal/erasure"
	"trakr/internal/erasure/erasuretest"
	"trakr/internal/lifecycle"
	"trakr/internal/proof/certificate"
	"trakr/internal/schedule/leader"
	"trakr/internal/simulate"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/outbox"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tenants"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// sent is one request as it came.
type sent struct {
	id   string
	body []byte
	at   time.Time
}

// house is a service with its end service.
type house struct {
	*storetest.Env
	t        *testing.T
	eraser   *erasuretest.Rig
	outbox   *outbox.Store
	sender   *endservice.Sender
	receiver *simulate.Receiver
	log      bytes.Buffer
	notified int

	mu     sync.Mutex
	status int                          // answered in place of the receiver; 0: the receiver's
	header http.Header                  // with it
	only   string                       // of this tenant alone
	before func(id string, body []byte) // called when a request has come
	lost   func(w http.ResponseWriter)  // after the receiver took it: loses the answer
	got    []sent
	server *httptest.Server
}

func newHouse(t *testing.T) *house {
	t.Helper()
	t.Parallel()
	h := &house{Env: storetest.New(t), t: t}
	key, err := webhook.ParseKey(lifecycle.NewSecret(secret))
	must(t, err)
	h.receiver = simulate.NewReceiver(key, h.Clock.Now)
	h.server = httptest.NewServer(h)
	t.Cleanup(func() { h.server.Close() })
	g, err := egress.New(h.Policy, lifecycle.ToEndService, "https://trakr.example.com")
	must(t, err)
	h.outbox = h.AnnounceTo(g)
	h.eraser = erasuretest.New(t, h.Env)
	h.sender, err = endservice.New(endservice.Config{Outbox: h.outbox, Guard: g, URL: h.server.URL + simulate.EventsPath, Key: key, Now: h.Clock.Now,
		Log: slog.New(slog.NewTextHandler(&h.log, nil)), Meter: noop.NewMeterProvider(), Notified: func() { h.mu.Lock(); h.notified++; h.mu.Unlock() },
		Lease: func(ctx context.Context) (leader.Lease, bool, error) {
			return store.TryLease(ctx, h.DB, "end service")
		}})
	must(t, err)
	return h
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ServeHTTP is the end service as the wire shows it.
func (h *house) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	id := r.Header.Get("Webhook-Id")
	h.mu.Lock()
	h.got = append(h.got, sent{id, body, h.Clock.Now()})
	status, header, lost, before := h.status, h.header, h.lost, h.before
	if h.only != "" && !bytes.Contains(body, []byte(h.only)) {
		status = 0
	}
	h.mu.Unlock()
	if before != nil {
		before(id, body)
	}
	if status != 0 {
		for k, v := range header {
			w.Header()[k] = v
		}
		w.WriteHeader(status)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if lost != nil {
		h.receiver.ServeHTTP(httptest.NewRecorder(), r)
		lost(w)
		return
	}
	h.receiver.ServeHTTP(w, r)
}

func (h *house) set(change func(*house)) { h.mu.Lock(); defer h.mu.Unlock(); change(h) }

func (h *house) requests() []sent { h.mu.Lock(); defer h.mu.Unlock(); return slices.Clone(h.got) }

// once is one pass of the sender.
func (h *house) once() {
	h.t.Helper()
	must(h.t, h.sender.Once(h.t.Context()))
}

func (h *house) update(id lifecycle.TenantID, v lifecycle.Values, name string) {
	h.t.Helper()
	if r, err := h.Door.Update(h.t.Context(), storetest.Ingress(), id, v, h.Delivery(name)); err != nil || r != tenants.Applied {
		h.t.Fatalf("updating: %s, %v", r, err)
	}
}

func (h *house) uninstall(id lifecycle.TenantID, name string) string {
	h.t.Helper()
	out, err := h.eraser.Erase(h.t.Context(), storetest.Ingress(), id, erasure.Order{Trigger: lifecycle.TriggerUninstall, RequestedAt: h.Clock.Now(), Delivery: h.Delivery(name)})
	if err != nil || !out.Deleted || out.Delay != nil {
		h.t.Fatalf("uninstalling: %+v, %v", out, err)
	}
	return out.ErasureID
}

var scheduler = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "sweep", Role: lifecycle.RoleScheduler},
	Reason: lifecycle.Reason{Code: lifecycle.SystemSweep}, RequestID: "req-test"}

// finish takes an erasure as far as it goes.
func (h *house) finish(id string) error {
	h.t.Helper()
	run := h.eraser.Run(h.t)
	err := h.eraser.Finish(h.t.Context(), scheduler, uuid.MustParse(id), run)
	if errors.Is(err, lifecycle.NotFound) {
		h.eraser.AwaitSequencing(h.t.Context())
		err = h.eraser.Finish(h.t.Context(), scheduler, uuid.MustParse(id), run)
	}
	return err
}

func (h *house) certificate(erasureID string) certificate.Certificate {
	h.t.Helper()
	c, err := h.eraser.Config.Erasures.CertificateOf(h.t.Context(), uuid.MustParse(erasureID))
	must(h.t, err)
	if got, err := certificate.Verify([]byte(c.Document), h.Log.VerifierKey(), "test"); err != nil || !got.Proven {
		h.t.Fatalf("the certificate does not verify: %+v, %v", got, err)
	}
	out, err := certificate.Parse([]byte(c.Document))
	must(h.t, err)
	return out
}

// clear fails when one of the markers stands in the database, in a dump or in the
// table's own bytes.
func (h *house) clear(markers ...string) {
	h.t.Helper()
	dump := h.Dump()
	for _, m := range markers {
		if bytes.Contains(dump, []byte(m)) {
			h.t.Errorf("a value stands in the database in clear")
		}
	}
}

func TestAnInstallIsToldAChangeAndItsEnd(t *testing.T) {
	h := newHouse(t)
	v := storetest.Values("mrk-told")
	id := h.Install(v, "in")
	h.clear("mrk-told")
	h.once()
	if got := h.receiver.Holds("", v[lifecycle.ClientKey].Reveal()); len(got) != 1 || got[0].TenantID != id.String() || got[0].AppKey != "trakr" {
		t.Fatalf("the end service holds %+v", got)
	}
	if n := h.Int("SELECT count(*) FROM trakr.outbox_payloads"); n != 0 {
		t.Errorf("%d payloads are left after the acknowledgement", n)
	}
	h.Clock.Add(time.Minute)
	h.update(id, v, "in again")
	h.once()
	h.Clock.Add(time.Minute)
	erased := h.uninstall(id, "bye")
	h.once()
	if got := h.receiver.Holds(id.String(), ""); len(got) != 0 || h.notified != 1 {
		t.Errorf("after the erasure the end service holds %+v; %d notices", got, h.notified)
	}
	// Each disclosure is in the log before its acknowledgement, with recipient and field.
	var story []string
	for _, e := range h.Events() {
		if strings.HasPrefix(string(e.Action), "delivery.") {
			story = append(story, string(e.Action)+" "+e.StatusDetail+" "+strconv.Itoa(len(e.FieldNames)))
			if e.Recipient != "127.0.0.1" || e.TenantID != id {
				t.Errorf("%s names the recipient %q and the tenant %s", e.Action, e.Recipient, e.TenantID)
			}
		}
	}
	want := []string{"delivery.send installed 1", "delivery.acknowledge installed 1", "delivery.send changed 1", "delivery.acknowledge changed 1", "delivery.send erased 0", "delivery.acknowledge erased 0"}
	if !slices.Equal(story, want) {
		t.Errorf("the log says %q", story)
	}
	must(t, h.finish(erased))
	c := h.certificate(erased)
	if len(c.Recipients) != 1 || c.Recipients[0].Name != "Trakr's own service" || c.Recipients[0].AcknowledgedAt.IsZero() {
		t.Errorf("the certificate says %+v", c.Recipients)
	}
	for _, r := range h.requests() {
		for f, x := range v {
			if f != lifecycle.ClientKey && bytes.Contains(r.body, []byte(x.Reveal())) && f != lifecycle.PrincipalUUID {
				t.Errorf("%s left", f)
			}
		}
	}
	if strings.Contains(h.log.String(), "mrk-told") {
		t.Error("the log holds a value")
	}
}

// The end service is out for three days. The service goes on, and loses nothing.
func TestThreeDaysWithoutTheEndService(t *testing.T) {
	h := newHouse(t)
	staying, leaving := storetest.Values("mrk-staying"), storetest.Values("mrk-leaving")
	a, b := h.Install(staying, "a in"), h.Install(leaving, "b in")
	h.once()
	h.set(func(h *house) { h.status = http.StatusServiceUnavailable })
	begin := h.Clock.Now()

	later, short := storetest.Values("mrk-later"), storetest.Values("mrk-short")
	var c, d lifecycle.TenantID
	var gone string
	for hour := 0; h.Clock.Now().Sub(begin) < 72*time.Hour; hour++ {
		switch hour {
		case 1:
			h.update(a, staying, "a again")
		case 5:
			c = h.Install(later, "c in")
		case 6:
			d = h.Install(short, "d in")
			h.update(a, staying, "a once more")
		case 20: // the database's own clock, by which records are found, stays behind
			h.uninstall(d, "d bye")
			gone = h.uninstall(b, "b bye")
			if n := h.Int("SELECT count(*) FROM trakr.tenant_fields WHERE tenant_id = $1", b.String()) + h.Int("SELECT count(*) FROM trakr.outbox_payloads WHERE tenant_id IN ($1, $2)", b.String(), d.String()); n != 0 {
				t.Fatalf("%d rows of the tenant are left although the end service is only out", n)
			}
			h.clear("mrk-")
		}
		h.once()
		h.Clock.Add(time.Hour)
	}
	// Verified whatever the end service does, and the certificate waits.
	if err := h.finish(gone); !errors.Is(err, erasure.ErrAwaitsRecipient) {
		t.Fatalf("finishing: %v", err)
	}
	x, err := h.eraser.Config.Erasures.Get(t.Context(), uuid.MustParse(gone))
	if err != nil || x.VerifiedAt.IsZero() || x.State() != "awaiting_recipient" {
		t.Fatalf("the erasure is %s, verified at %s, %v", x.State(), x.VerifiedAt, err)
	}
	h.clear("mrk-")
	if got := h.receiver.Holds(b.String(), ""); len(got) != 1 {
		t.Fatal("the outage was none")
	}

	h.set(func(h *house) { h.status = 0 })
	h.Clock.Add(2 * time.Hour)
	for range 3 {
		h.once()
		h.Clock.Add(2 * time.Hour)
	}
	if n, err := h.outbox.Counts(t.Context()); err != nil || n.Waiting+n.Dead+n.DeadNotices != 0 {
		t.Errorf("left after the outage: %+v, %v", n, err)
	}
	if got := h.receiver.Holds(a.String(), ""); len(got) != 1 || got[0].Sequence != "0000000003" {
		t.Errorf("of the one that stays: %+v", got)
	}
	if len(h.receiver.Holds(c.String(), "")) != 1 || len(h.receiver.Holds(b.String(), "")) != 0 || len(h.receiver.Holds(d.String(), "")) != 0 {
		t.Error("what the end service holds is not what is installed")
	}
	for _, v := range []lifecycle.Values{leaving, short} {
		if len(h.receiver.Holds("", v[lifecycle.ClientKey].Reveal())) != 0 {
			t.Error("the end service still holds an erased client key")
		}
	}
	// Nothing twice without the same id and bytes, and each tenant in its order.
	bodies, last, ids := map[string][]byte{}, map[string]string{}, map[string]string{}
	for _, r := range h.requests() {
		if before, ok := bodies[r.id]; ok && !bytes.Equal(before, r.body) {
			t.Error("one id was sent with other bytes")
		}
		bodies[r.id] = r.body
		var e struct {
			ID, Sequence string
			Data         struct {
				Tenant string `json:"tenant_id"`
			}
		}
		must(t, json.Unmarshal(r.body, &e))
		if e.ID != r.id || e.Sequence < last[e.Data.Tenant] {
			t.Error("a tenant's events came out of order")
		}
		last[e.Data.Tenant] = e.Sequence
		if other, ok := ids[e.Data.Tenant+e.Sequence]; ok && other != e.ID {
			t.Error("one event was sent under two ids")
		}
		ids[e.Data.Tenant+e.Sequence] = e.ID
	}
	must(t, h.finish(gone))
	if got := h.certificate(gone); len(got.Recipients) != 1 || got.Recipients[0].AcknowledgedAt.IsZero() {
		t.Errorf("the certificate says %+v", got.Recipients)
	}
	if n := h.Int("SELECT count(*) FROM trakr.certificates WHERE erasure_id = $1", gone); n != 1 {
		t.Errorf("%d certificates", n)
	}
}

func TestAnEndServiceThatIsNotThereIsToldNothingAndRecordedNowhere(t *testing.T) {
	h := newHouse(t)
	h.server.Close()
	v := storetest.Values("nowhere")
	id := h.Install(v, "in")
	for range 5 {
		h.once()
		h.Clock.Add(time.Hour)
	}
	for _, e := range h.Events() {
		if e.Action == audit.DeliverySend {
			t.Fatal("a payload was opened for nobody")
		}
	}
	// Nobody was told, so no certificate waits for anybody.
	erased := h.uninstall(id, "bye")
	must(t, h.finish(erased))
	if c := h.certificate(erased); len(c.Recipients) != 0 || c.RecipientsNote == "" {
		t.Errorf("the certificate says %+v, %q", c.Recipients, c.RecipientsNote)
	}
	if n := h.Int("SELECT count(*) FROM trakr.outbox WHERE kind = 'erased' AND state = 'waiting'"); n != 1 {
		t.Errorf("%d notices wait", n)
	}
	// For five days, then it is dead; and there again when somebody says so.
	h.Clock.Add(outbox.MaxAge)
	h.once()
	h.Clock.Add(outbox.MaxAge + time.Minute)
	h.once()
	if n, err := h.outbox.Counts(t.Context()); err != nil || n.DeadNotices != 1 {
		t.Fatalf("%+v, %v", n, err)
	}
	dead, err := h.outbox.List(t.Context(), true, 10)
	if err != nil || len(dead) != 1 || dead[0].LastOutcome != "no connection" {
		t.Fatalf("%+v, %v", dead, err)
	}
	operator := lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorOperator, ID: "uid:1", Role: lifecycle.RoleOperator}, Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation}, RequestID: "cli"}
	if d, err := h.outbox.Retry(t.Context(), operator, dead[0].ID.String()); err != nil || d.State != outbox.Waiting {
		t.Fatalf("%+v, %v", d, err)
	}
	if _, err := h.outbox.Retry(t.Context(), operator, uuid.NewString()); !errors.Is(err, lifecycle.NotFound) {
		t.Errorf("%v", err)
	}
}

func TestATenantThatIsRefusedHoldsUpNoOther(t *testing.T) {
	h := newHouse(t)
	bad := h.Install(storetest.Values("bad"), "bad in")
	h.set(func(h *house) { h.status, h.only = http.StatusBadRequest, bad.String() })
	h.Clock.Add(time.Second)
	good := h.Install(storetest.Values("good"), "good in")
	h.once()
	if len(h.receiver.Holds(good.String(), "")) != 1 {
		t.Error("another tenant waits for the one that is refused")
	}
	tries := func() (n int) {
		for _, r := range h.requests() {
			if bytes.Contains(r.body, []byte(bad.String())) {
				n++
			}
		}
		return n
	}
	h.Clock.Add(30 * time.Minute)
	h.once()
	if tries() != 1 {
		t.Errorf("a refusal was tried %d times in half an hour", tries())
	}
	// It is not dropped: hour by hour for five days, then it is dead and kept.
	for range 24 * 6 {
		h.Clock.Add(73 * time.Minute)
		h.once()
	}
	n, err := h.outbox.Counts(t.Context())
	if err != nil || n.Dead != 1 || tries() < 80 || h.Int("SELECT count(*) FROM trakr.outbox_payloads") != 1 {
		t.Fatalf("%+v after %d tries, %v", n, tries(), err)
	}
	// A later event that is taken says all that the dead one did.
	h.set(func(h *house) { h.status = 0 })
	h.update(bad, storetest.Values("bad"), "bad again")
	h.once()
	if n, err := h.outbox.Counts(t.Context()); err != nil || n.Dead+n.Waiting != 0 || len(h.receiver.Holds(bad.String(), "")) != 1 || h.Int("SELECT count(*) FROM trakr.outbox_payloads") != 0 {
		t.Errorf("%+v, %v", n, err)
	}
}

func TestABusyEndServiceIsLeftAloneAsLongAsItAsks(t *testing.T) {
	h := newHouse(t)
	h.Install(storetest.Values("busy"), "in")
	h.set(func(h *house) { h.status, h.header = http.StatusTooManyRequests, http.Header{"Retry-After": {"900"}} })
	h.once()
	h.Install(storetest.Values("other"), "other in")
	h.Clock.Add(14 * time.Minute)
	h.once()
	if n := len(h.requests()); n != 1 {
		t.Fatalf("asked to wait a quarter of an hour, it was called %d times", n)
	}
	h.set(func(h *house) { h.status = 0 })
	h.Clock.Add(2 * time.Minute)
	h.once()
	if got := h.receiver.Received(); got.Held != 2 {
		t.Errorf("%+v", got)
	}
}

// The answer is lost: the connection breaks, or the process does before it enters it.
func TestALostAnswerSendsTheSameAgain(t *testing.T) {
	h := newHouse(t)
	id := h.Install(storetest.Values("lost"), "in")
	h.set(func(h *house) {
		h.lost = func(w http.ResponseWriter) {
			if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
			}
		}
	})
	h.once()
	h.set(func(h *house) { h.lost = nil })
	h.Clock.Add(time.Minute)
	h.once()
	// A crash between the answer and its entry leaves what Open left.
	h.update(id, storetest.Values("lost"), "again")
	due, err := h.outbox.Due(t.Context(), h.Clock.Now(), 10)
	if err != nil || len(due) != 1 {
		t.Fatalf("%+v, %v", due, err)
	}
	g, err := egress.New(h.Policy, lifecycle.ToEndService, "https://trakr.example.com")
	must(t, err)
	opened, err := h.outbox.Open(t.Context(), scheduler, due[0], g, "127.0.0.1")
	must(t, err)
	h.once()
	if n := len(h.requests()); n != 2 {
		t.Fatalf("it was taken by two at once: %d requests", n)
	}
	h.Clock.Add(2 * time.Minute)
	h.once()
	got := h.requests()
	if len(got) != 3 || got[0].id != got[1].id || !bytes.Equal(got[0].body, got[1].body) || got[2].id != due[0].ID.String() || !bytes.Equal(got[2].body, opened.Bytes()) {
		t.Errorf("%d requests, or other bytes", len(got))
	}
	if told := h.receiver.Received(); told.Taken != 2 || told.Repeated != 1 {
		t.Errorf("%+v", told)
	}
}

// The tenant uninstalls while an event about it is on the wire.
func TestAnErasureOvertakesWhatIsUnderWay(t *testing.T) {
	h := newHouse(t)
	id := h.Install(storetest.Values("mrk-overtaken"), "in")
	var once sync.Once
	h.set(func(h *house) { h.before = func(string, []byte) { once.Do(func() { h.uninstall(id, "bye") }) } })
	h.once()
	h.Clock.Add(outbox.Claim) // until then the event could still be on another replica's wire
	h.once()
	if len(h.receiver.Holds(id.String(), "")) != 0 {
		t.Error("the notice came before the event it overtook, or not at all")
	}
	if n, err := h.outbox.Counts(t.Context()); err != nil || n.Waiting != 0 {
		t.Errorf("%+v, %v", n, err)
	}
	h.clear("mrk-")
}

func TestWithoutAnAuditNothingLeaves(t *testing.T) {
	h := newHouse(t)
	h.Install(storetest.Values("unaudited"), "in")
	h.Exec(storetest.Breaks()["commit fails"])
	if err := h.sender.Once(t.Context()); err == nil {
		t.Error("a pass that could record nothing says that all is well")
	}
	if n := len(h.requests()); n != 0 {
		t.Errorf("%d requests left without an event", n)
	}
	// A failing commit enters nothing either.
	if _, _, err := h.Door.Install(t.Context(), storetest.Ingress(), storetest.Values("never"), h.Delivery("never")); err == nil {
		t.Fatal("the install was committed")
	}
	if n := h.Int("SELECT count(*) FROM trakr.outbox") + h.Int("SELECT count(*) FROM trakr.outbox_payloads"); n != 2 {
		t.Errorf("%d rows", n)
	}
	// A replayed install is rolled back, and tells nobody.
	h.Exec("DROP TRIGGER late ON trakr.audit_events")
	v := h.Delivery("in")
	if _, r, err := h.Door.Install(t.Context(), storetest.Ingress(), storetest.Values("replayed"), v); err != nil || r != tenants.Replayed {
		t.Fatalf("%s, %v", r, err)
	}
	h.once()
	if got := h.receiver.Received(); got.Taken != 1 {
		t.Errorf("%+v", got)
	}
}

func TestThePolicyOfNowDecidesWhatLeaves(t *testing.T) {
	h := newHouse(t)
	h.Install(storetest.Values("taken back"), "in")
	for i := range h.Policy.Fields {
		h.Policy.Fields[i].Egress = nil
	}
	h.once()
	if n := len(h.requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
	for _, e := range h.Events() {
		if e.Action == audit.DeliverySend {
			t.Error("it was opened")
		}
	}
	all, err := h.outbox.List(t.Context(), true, 10)
	if err != nil || len(all) != 1 || all[0].LastOutcome != "not released" {
		t.Errorf("%+v, %v", all, err)
	}
}

// One sender runs, is woken, and finishes what is under way when it is told to stop.
func TestTheSenderRunsUntilItIsToldToStop(t *testing.T) {
	h := newHouse(t)
	arrived, stop := make(chan struct{}), make(chan struct{})
	var once sync.Once
	h.set(func(h *house) { h.before = func(string, []byte) { once.Do(func() { close(arrived); <-stop }) } })
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { h.sender.Run(ctx) })
	time.Sleep(200 * time.Millisecond)
	id := h.Install(storetest.Values("woken"), "in")
	select {
	case <-arrived:
	case <-time.After(4 * time.Second):
		t.Fatal("it was not woken")
	}
	cancel()
	close(stop)
	wg.Wait()
	if d, err := h.outbox.List(t.Context(), false, 1); err != nil || len(d) != 1 || d[0].State != outbox.Acknowledged || d[0].Tenant != id {
		t.Errorf("%+v, %v", d, err)
	}
}
