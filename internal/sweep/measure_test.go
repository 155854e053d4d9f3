package sweep_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	delivery "trakr/internal/delivery/findings"
	"trakr/internal/egress/webhook"
	"trakr/internal/store/findings"
	"trakr/internal/store/storetest"
	"trakr/internal/sweep"
)

// receiver is the other end of the webhook.
type receiver struct {
	down bool
	got  []webhook.Event
}

func (r *receiver) send(_ context.Context, e webhook.Event) error {
	if r.down {
		return errors.New("down")
	}
	r.got = append(r.got, e)
	return nil
}

func relay(t *testing.T, e *storetest.Env, r *receiver) *delivery.Relay {
	t.Helper()
	out, err := delivery.NewRelay(delivery.Config{Outbox: delivery.NewOutbox(findings.New(e.DB), "https://trakr.example.com", "trakr"), Send: r.send,
		Now: e.Clock.Now, Log: slog.New(slog.DiscardHandler), Meter: noop.NewMeterProvider()})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEachStepOfAFindingReachesTheWebhookOnceItIsCommitted(t *testing.T) {
	e := storetest.New(t)
	var r receiver
	relay := relay(t, e, &r)
	deliver := func() {
		t.Helper()
		if err := relay.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	types := func() string {
		var out []string
		for _, x := range r.got {
			out = append(out, strings.TrimPrefix(x.Type, delivery.EventType))
		}
		return strings.Join(out, " ")
	}
	e.Exec(`CREATE TABLE public.cache (tenant_id uuid)`)
	f := run(t, e).Findings[0]
	deliver()
	deliver()
	if len(r.got) != 1 {
		t.Fatalf("got %s", types())
	}
	first := r.got[0]
	if first.Source != "https://trakr.example.com/trakr" || first.Subject != "findings/"+f.ID || !first.Time.Equal(f.OpenedAt) || first.Type != "com.trakr.finding.opened" {
		t.Errorf("%+v", first)
	}
	data, err := json.Marshal(first.Data)
	if want := `{"finding_id":"` + f.ID + `","kind":"orphans","severity":"high","store":"database","table":"public.cache","column":"","count":0}`; err != nil || string(data) != want {
		t.Errorf("data %s, want %s", data, want)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.finding_events WHERE event_id = $1::text::uuid AND delivered_at IS NOT NULL`, first.ID); n != 1 {
		t.Error("the event's id is not the step's, or its delivery was not noted")
	}

	// The receiver is down: nothing is lost, and sweeps go on.
	r.down = true
	e.Clock.Add(time.Minute)
	if _, err := findings.New(e.DB).Acknowledge(t.Context(), operator, f.ID, e.Clock.Now()); err != nil {
		t.Fatal(err)
	}
	deliver()
	e.Exec(`DROP TABLE public.cache`)
	e.Clock.Add(time.Second)
	if got := run(t, e); got.Result != findings.Clean {
		t.Errorf("the sweep beside it: %s", got.Result)
	}
	r.down = false
	deliver()
	e.Clock.Add(time.Minute)
	deliver()
	if types() != "opened resolved acknowledged" {
		t.Errorf("got %s", types())
	}
}

func TestAnOldStepIsGivenUpAndStaysUndelivered(t *testing.T) {
	e := storetest.New(t)
	r := receiver{}
	e.Exec(`CREATE TABLE public.cache (tenant_id uuid)`)
	run(t, e)
	e.Clock.Add(delivery.MaxAge + time.Minute)
	if err := relay(t, e, &r).Once(t.Context()); err != nil || len(r.got) != 0 {
		t.Errorf("%v, %+v", err, r.got)
	}
	if n := e.Int(`SELECT count(*) FROM trakr.finding_events WHERE delivered_at IS NULL AND next_attempt_at IS NULL`); n != 1 {
		t.Error("it still waits")
	}
}

func TestOpenFindingsAreMeasured(t *testing.T) {
	e := storetest.New(t)
	reader := sdkmetric.NewManualReader()
	if err := sweep.Measure(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)), findings.New(e.DB)); err != nil {
		t.Fatal(err)
	}
	stale(t, e)
	run(t, e)
	var got metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &got); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int64{}
	for _, p := range got.ScopeMetrics[0].Metrics[0].Data.(metricdata.Gauge[int64]).DataPoints {
		kind, _ := p.Attributes.Value("trakr.kind")
		severity, _ := p.Attributes.Value("trakr.severity")
		seen[kind.AsString()+" "+severity.AsString()] = p.Value
	}
	if len(seen) != 2 || seen["orphans high"] != 1 || seen["orphans critical"] != 1 {
		t.Errorf("%v", seen)
	}
}
