package webhook_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"trakr/internal/egress/webhook"
	"trakr/internal/lifecycle"
	"trakr/internal/schedule/leader"
)

// The secret of the specification's own example, which nobody uses.
const known = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func key(t *testing.T) webhook.Key {
	t.Helper()
	k, err := webhook.ParseKey(lifecycle.NewSecret(known))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// The published vector of Standard Webhooks.
func TestTheSignatureIsTheStandards(t *testing.T) {
	got := key(t).Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 999), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestOnlySecretsOfTheStandardsFormAreTaken(t *testing.T) {
	long := func(n int) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, n)) }
	for s, ok := range map[string]bool{"whsec_" + long(24): true, "whsec_" + long(32): true, "whsec_" + long(64): true, long(32): false,
		"whsec_" + long(23): false, "whsec_" + long(65): false, "whsec_": false, "": false, "whsec_marker!": false, "WHSEC_" + long(32): false} {
		_, err := webhook.ParseKey(lifecycle.NewSecret(s))
		if (err == nil) != ok || (err != nil && strings.Contains(err.Error(), "marker")) {
			t.Errorf("%d bytes: %v", len(s), err)
		}
	}
	if s := fmt.Sprintf("%v %+v %#v %s", key(t), key(t), key(t), key(t)); strings.Contains(s, "MfKQ") || strings.Contains(s, "49") {
		t.Errorf("the key prints as %s", s)
	}
}

func event(id string) webhook.Event {
	return webhook.Event{ID: id, Source: "https://trakr.example.com/apps/trakr", Type: "com.trakr.test", Subject: "s", Time: time.Date(2026, 11, 24, 10, 0, 0, 0, time.FixedZone("", 3600)),
		Data: map[string]int{"count": 3}}
}

// A receiver that knows nothing of this package verifies what it gets.
func TestAReceiverCanVerifyWhatItGets(t *testing.T) {
	now := time.Date(2026, 11, 24, 10, 0, 5, 0, time.UTC)
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(known, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mac := hmac.New(sha256.New, raw)
		fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), body)
		if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.Header.Get("webhook-signature") != want {
			t.Errorf("signature %q, want %q", r.Header.Get("webhook-signature"), want)
		}
		if r.Method != http.MethodPost || r.Header.Get("webhook-id") != "e1" || r.Header.Get("webhook-timestamp") != fmt.Sprint(now.Unix()) || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/cloudevents+json") {
			t.Errorf("%s %v", r.Method, r.Header)
		}
		if err := json.Unmarshal(body, &got); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	defer endpoint.Close()
	if err := webhook.NewSender(endpoint.URL, key(t), func() time.Time { return now }).Send(t.Context(), event("e1")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"specversion": "1.0", "id": "e1", "source": "https://trakr.example.com/apps/trakr", "type": "com.trakr.test", "subject": "s",
		"time": "2026-11-24T09:00:00Z", "datacontenttype": "application/json"} {
		if got[name] != want {
			t.Errorf("%s is %v, want %s", name, got[name], want)
		}
	}
	if data, ok := got["data"].(map[string]any); !ok || data["count"] != 3.0 {
		t.Errorf("data: %v", got["data"])
	}
}

// Whatever goes wrong, the error names neither the address nor the secret nor what
// the receiver said, and no redirect is followed.
func TestErrorsAreSilentAboutSecrets(t *testing.T) {
	elsewhere := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere = true }))
	defer other.Close()
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/marker/redirect":
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		case "/marker/broken":
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_ = c.Close()
		default:
			http.Error(w, "marker", http.StatusInternalServerError)
		}
	}))
	defer endpoint.Close()
	for _, url := range []string{endpoint.URL + "/marker/redirect", endpoint.URL + "/marker/broken", endpoint.URL + "/marker/refused", "http://127.0.0.1:1/marker", "http://marker\x7f/"} {
		err := webhook.NewSender(url, key(t), time.Now).Send(t.Context(), event("e"))
		if err == nil || strings.Contains(fmt.Sprintf("%+v", err), "marker") || strings.Contains(err.Error(), "127.0.0.1") || strings.Contains(err.Error(), "MfKQ") {
			t.Errorf("%v", err)
		}
	}
	if elsewhere {
		t.Error("a redirect was followed")
	}
}

// box is an outbox in memory.
type box struct {
	mu        sync.Mutex
	waiting   map[string]*entry
	delivered []string
}

type entry struct {
	webhook.Message
	next time.Time
}

func boxOf(ids ...string) *box {
	b := &box{waiting: map[string]*entry{}}
	for _, id := range ids {
		b.waiting[id] = &entry{webhook.Message{Event: webhook.Event{ID: id, Time: time.Now()}}, time.Now()}
	}
	return b
}

func (b *box) Due(_ context.Context, now time.Time, limit int) ([]webhook.Message, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var due []*entry
	for _, e := range b.waiting {
		if !e.next.After(now) {
			due = append(due, e)
		}
	}
	slices.SortFunc(due, func(x, y *entry) int {
		if c := x.next.Compare(y.next); c != 0 {
			return c
		}
		return strings.Compare(x.Event.ID, y.Event.ID)
	})
	var out []webhook.Message
	for _, e := range due[:min(limit, len(due))] {
		out = append(out, e.Message)
	}
	return out, nil
}

func (b *box) Delivered(_ context.Context, id string, _ time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.delivered = append(b.delivered, id)
	delete(b.waiting, id)
	return nil
}

func (b *box) Postpone(_ context.Context, id string, next time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting[id].Attempts++
	b.waiting[id].next = next
	return nil
}

func (b *box) GiveUp(_ context.Context, before time.Time) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var n int64
	for id, e := range b.waiting {
		if e.Event.Time.Before(before) {
			delete(b.waiting, id)
			n++
		}
	}
	return n, nil
}

// lease is a lock in memory.
type lease struct {
	mu   sync.Mutex
	held bool
}

func (l *lease) take(context.Context) (leader.Lease, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held {
		return nil, false, nil
	}
	l.held = true
	return l, true, nil
}

func (l *lease) Held(context.Context) bool { return true }
func (l *lease) Release()                  { l.mu.Lock(); defer l.mu.Unlock(); l.held = false }

func relay(t *testing.T, b *box, l *lease, send func(context.Context, webhook.Event) error, log io.Writer) *webhook.Relay {
	t.Helper()
	r, err := webhook.NewRelay(webhook.Config{Outbox: b, Send: send, Lease: l.take, Now: time.Now, Log: slog.New(slog.NewTextHandler(log, nil)), Meter: noop.NewMeterProvider()})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// run starts a relay and returns what ends it.
func run(t *testing.T, r *webhook.Relay) func() {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	return func() { cancel(); wg.Wait() }
}

func TestARefusedEventWaitsLongerEachTimeAndHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		b := boxOf("a-poison", "b", "c")
		var tries []time.Duration
		r := relay(t, b, &lease{}, func(_ context.Context, e webhook.Event) error {
			if e.ID == "a-poison" {
				tries = append(tries, time.Since(begin))
				return errors.New("no")
			}
			return nil
		}, io.Discard)
		stop := run(t, r)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		b.mu.Lock()
		if len(b.delivered) != 2 {
			t.Errorf("delivered %v while another is refused", b.delivered)
		}
		b.mu.Unlock()
		time.Sleep(24 * time.Hour)
		stop()
		want := []time.Duration{0, 10 * time.Second, 30 * time.Second, 70 * time.Second}
		if !slices.Equal(tries[:4], want) {
			t.Errorf("tried at %v, want %v", tries[:4], want)
		}
		if n := len(tries); n < 25 || n > 40 || tries[n-1]-tries[n-2] != time.Hour {
			t.Errorf("%d tries in a day, the last two %s apart", n, tries[n-1]-tries[n-2])
		}
	})
}

func TestAnOutageEndsAndAllIsDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := boxOf("a", "b", "c", "d")
		begin, tries := time.Now(), 0
		r := relay(t, b, &lease{}, func(context.Context, webhook.Event) error {
			if tries++; time.Since(begin) < time.Hour {
				return errors.New("down")
			}
			return nil
		}, io.Discard)
		stop := run(t, r)
		time.Sleep(2*time.Hour + 10*time.Second)
		stop()
		if len(b.delivered) != 4 || tries > 60 {
			t.Errorf("%v after %d tries", b.delivered, tries)
		}
	})
}

func TestWhatIsTooOldIsGivenUpAloud(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := boxOf("a")
		var log bytes.Buffer
		last := time.Now()
		r := relay(t, b, &lease{}, func(context.Context, webhook.Event) error { last = time.Now(); return errors.New("down") }, &log)
		begin := time.Now()
		stop := run(t, r)
		time.Sleep(10 * 24 * time.Hour)
		stop()
		if len(b.waiting) != 0 || len(b.delivered) != 0 || last.Sub(begin) > webhook.MaxAge || last.Sub(begin) < webhook.MaxAge-2*time.Hour {
			t.Errorf("tried until %s after the event", last.Sub(begin))
		}
		if strings.Count(log.String(), "were not delivered") != 1 {
			t.Errorf("log: %s", log.String())
		}
	})
}

func TestOneReplicaDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, l := boxOf("a", "b", "c"), &lease{}
		var mu sync.Mutex
		sent := map[string]int{}
		send := func(_ context.Context, e webhook.Event) error {
			time.Sleep(3 * time.Second)
			mu.Lock()
			defer mu.Unlock()
			sent[e.ID]++
			return nil
		}
		first, second := run(t, relay(t, b, l, send, io.Discard)), run(t, relay(t, b, l, send, io.Discard))
		time.Sleep(time.Minute)
		first()
		b.mu.Lock()
		b.waiting["d"] = &entry{webhook.Message{Event: webhook.Event{ID: "d", Time: time.Now()}}, time.Now()}
		b.mu.Unlock()
		time.Sleep(time.Minute)
		second()
		for _, id := range []string{"a", "b", "c", "d"} {
			if sent[id] != 1 {
				t.Errorf("%s was sent %d times", id, sent[id])
			}
		}
	})
}
