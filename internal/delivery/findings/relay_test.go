package findings_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"trakr/internal/delivery/findings"
	"trakr/internal/egress/webhook"
	"trakr/internal/schedule/leader"
)

// box is an outbox in memory.
type box struct {
	mu        sync.Mutex
	waiting   map[string]*entry
	delivered []string
}

type entry struct {
	findings.Message
	next time.Time
}

func boxOf(ids ...string) *box {
	b := &box{waiting: map[string]*entry{}}
	for _, id := range ids {
		b.waiting[id] = &entry{findings.Message{Event: webhook.Event{ID: id, Time: time.Now()}}, time.Now()}
	}
	return b
}

func (b *box) Due(_ context.Context, now time.Time, limit int) ([]findings.Message, error) {
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
	var out []findings.Message
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

func relay(t *testing.T, b *box, l *lease, send func(context.Context, webhook.Event) error, log io.Writer) *findings.Relay {
	t.Helper()
	r, err := findings.NewRelay(findings.Config{Outbox: b, Send: send, Lease: l.take, Now: time.Now, Log: slog.New(slog.NewTextHandler(log, nil)), Meter: noop.NewMeterProvider()})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// run starts a relay and returns what ends it.
func run(t *testing.T, r *findings.Relay) func() {
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
		if len(b.waiting) != 0 || len(b.delivered) != 0 || last.Sub(begin) > findings.MaxAge || last.Sub(begin) < findings.MaxAge-2*time.Hour {
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
		b.waiting["d"] = &entry{findings.Message{Event: webhook.Event{ID: "d", Time: time.Now()}}, time.Now()}
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
