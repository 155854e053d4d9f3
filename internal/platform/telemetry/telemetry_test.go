package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"trakr/internal/lifecycle"
	"trakr/internal/platform/telemetry"
)

// Forms of tenant data, as a careless line of code could hand them over.
var markers = []string{
	"ari:cloud:bitbucket::app/{0a1b2c3d-0000-4000-8000-00000000a001}/trakr", "connection:4711",
	"{0a1b2c3d-0000-4000-8000-00000000a001}", "%7B0a1b2c3d-0000-4000-8000-00000000a001%7D",
	"jane.doe@example.com", "https://secure.gravatar.com/avatar/0123456789abcdef?d=x", "https://bitbucket.org/account/janes-ws/avatar/",
	"eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln", "trakr_0a1b2c3d_QUJDREVGR0g", "postgres://trakr:marker-password@db/trakr",
}

// tell is what of a marker must not be seen.
var tell = []string{"0a1b2c3d", "4711", "jane", "gravatar", "eyJ", "QUJD", "marker"}

func absent(t *testing.T, where, text string) {
	t.Helper()
	for _, m := range tell {
		if strings.Contains(text, m) {
			t.Errorf("%s holds %q:\n%s", where, m, text)
		}
	}
}

func setup(t *testing.T, log io.Writer) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Setup(t.Context(), telemetry.Config{Service: "trakr", Version: "test", LogWriter: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tel.Shutdown(context.Background()) })
	return tel
}

func TestLogLinesHoldNoTenantData(t *testing.T) {
	var out bytes.Buffer
	log := setup(t, &out).Logger
	for _, m := range markers {
		log.Info("seen "+m, "error", fmt.Errorf("wrapped: %w", errors.New(m)), "path", m, "username", "marker", slog.Group("g", "avatar", "marker", "error", m))
		log.With("client_key", m, "kind", m).WithGroup("x").Info("y", "reason", m, "value", struct{ S string }{"marker"}, "error", struct{ S string }{"marker"})
		log.Info("z", "error", lifecycle.NewSecret("marker"), slog.Any("tenant", map[string]string{"a": m}))
	}
	absent(t, "the log", out.String())
	for line := range strings.Lines(out.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
	out.Reset()
	log.Info("callback", "outcome", "applied", "request_id", "01a2", "status", 204)
	for _, want := range []string{`"outcome":"applied"`, `"request_id":"01a2"`, `"status":204`, `"msg":"callback"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("an ordinary line lost %s: %s", want, out.String())
		}
	}
}

func TestSpansHoldNoTenantDataOnTheWire(t *testing.T) {
	var mu sync.Mutex
	var wire bytes.Buffer
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = io.Copy(&wire, r.Body)
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_METRICS_EXPORTER", "none")
	tel := setup(t, io.Discard)
	tracer := tel.Tracer.Tracer("test")
	for _, m := range markers {
		ctx, span := tracer.Start(t.Context(), "read "+m, trace.WithAttributes(attribute.String("http.route", m), attribute.String("tenant.username", "marker")))
		span.RecordError(errors.New(m))
		span.AddEvent(m, trace.WithAttributes(attribute.String("x", m)))
		span.SetStatus(codes.Error, m)
		_, child := tracer.Start(ctx, "bitbucket.prove", trace.WithLinks(trace.Link{SpanContext: span.SpanContext(), Attributes: []attribute.KeyValue{attribute.String("x", m)}}))
		child.End()
		span.End()
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(wire.String(), "bitbucket.prove") || !strings.Contains(wire.String(), "redacted") {
		t.Fatal("no span arrived: the search would prove nothing")
	}
	absent(t, "the wire", wire.String())
}

func TestMetricsHaveNoSeriesNamedByATenant(t *testing.T) {
	tel := setup(t, io.Discard)
	c, err := tel.Meter.Meter("test").Int64Counter("trakr.callbacks")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range markers {
		c.Add(t.Context(), 1, metric.WithAttributes(attribute.String("trakr.outcome", m), attribute.String("username", "marker")))
	}
	c.Add(t.Context(), 1, metric.WithAttributes(attribute.String("trakr.outcome", "applied")))
	w := httptest.NewRecorder()
	tel.MetricsHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if !strings.Contains(w.Body.String(), `trakr_outcome="applied"`) || !strings.Contains(w.Body.String(), "go_goroutines") {
		t.Errorf("ordinary metrics are missing:\n%.600s", w.Body.String())
	}
	absent(t, "/metrics", w.Body.String())
}

func TestARequestIsNamedByItsRoute(t *testing.T) {
	var out bytes.Buffer
	tel := setup(t, &out)
	h := tel.Observe(func(*http.Request) string { return "/v1/tenants/{id}" })(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !trace.SpanContextFromContext(r.Context()).IsValid() {
			t.Error("no span in the handler")
		}
		w.WriteHeader(http.StatusTeapot)
	}))
	r := httptest.NewRequest("MARKER", "/v1/tenants/jane?jwt=marker", nil)
	r.Header.Set("baggage", "user=jane")
	r.Header.Set("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	r.Header.Set("tracestate", "vendor=marker")
	h.ServeHTTP(httptest.NewRecorder(), r)
	absent(t, "the log", out.String())
	for _, want := range []string{`"route":"/v1/tenants/{id}"`, `"status":418`, `"method":"_OTHER"`, `"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("lacks %s: %s", want, out.String())
		}
	}
}

func TestWithNothingSetNothingLeaves(t *testing.T) {
	called := make(chan struct{}, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called <- struct{}{} }))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_SDK_DISABLED", "true")
	tel := setup(t, io.Discard)
	_, span := tel.Tracer.Tracer("x").Start(t.Context(), "x")
	span.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-called:
		t.Error("something was sent although telemetry is switched off")
	default:
	}
}

func TestStrangersChooseNoTrace(t *testing.T) {
	var out bytes.Buffer
	tel := setup(t, &out)
	var state string
	serve := func(observe func(func(*http.Request) string) func(http.Handler) http.Handler) string {
		out.Reset()
		r := httptest.NewRequest(http.MethodPost, "/connect/installed", nil)
		r.Header.Set("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
		r.Header.Set("tracestate", "vendor=jane")
		observe(func(*http.Request) string { return "/connect/installed" })(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			state = trace.SpanContextFromContext(r.Context()).TraceState().String()
		})).ServeHTTP(httptest.NewRecorder(), r)
		return out.String()
	}
	if log := serve(tel.ObserveStrangers); strings.Contains(log, "4bf92f3577b34da6") || !strings.Contains(log, "trace_id") || state != "" {
		t.Errorf("a stranger's trace was taken (state %q): %s", state, log)
	}
	if log := serve(tel.Observe); !strings.Contains(log, "4bf92f3577b34da6") || state != "" {
		t.Errorf("our own trace was not continued, or its state was (%q): %s", state, log)
	}
}

func FuzzScrub(f *testing.F) {
	for _, m := range markers {
		f.Add(m)
		f.Add("before " + m + " after")
	}
	f.Fuzz(func(t *testing.T, s string) {
		// The quick way out must let nothing through that the shapes would catch:
		// a colon in front forces the slow way.
		if len(s) < 1000 && strings.TrimPrefix(telemetry.Scrub(": "+s), ": ") != telemetry.Scrub(s) {
			t.Errorf("%q is scrubbed in one way only", s)
		}
	})
}
