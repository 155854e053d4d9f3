package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Observe returns a middleware that makes one span, one measurement and one log
// line of each request. They name the route, never the path or the query. It
// replaces otelhttp, whose attributes hold both. A caller's trace is continued
// (the ids of W3C traceparent); its tracestate and baggage, which could hold
// anything, are not taken.
func (t *Telemetry) Observe(route func(*http.Request) string) func(http.Handler) http.Handler {
	return t.observe(route, func(r *http.Request) context.Context {
		ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		sc := trace.SpanContextFromContext(ctx)
		if !sc.IsValid() {
			return r.Context()
		}
		return trace.ContextWithRemoteSpanContext(r.Context(), sc.WithTraceState(trace.TraceState{}))
	})
}

// ObserveStrangers is Observe for a listener that anyone can reach: each request
// begins a trace of its own, so that no client chooses an id that the log records.
func (t *Telemetry) ObserveStrangers(route func(*http.Request) string) func(http.Handler) http.Handler {
	return t.observe(route, (*http.Request).Context)
}

func (t *Telemetry) observe(route func(*http.Request) string, parent func(*http.Request) context.Context) func(http.Handler) http.Handler {
	tracer := t.Tracer.Tracer("trakr/internal/telemetry")
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			begin, where, method := time.Now(), route(r), closedMethod(r.Method)
			attrs := []attribute.KeyValue{attribute.String("http.request.method", method), attribute.String("http.route", where)}
			ctx, span := tracer.Start(parent(r), method+" "+where,
				trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attrs...))
			defer span.End()

			seen := &statusWriter{ResponseWriter: w, status: http.StatusOK}
			next.ServeHTTP(seen, r.WithContext(ctx))

			took := time.Since(begin)
			status := attribute.Int("http.response.status_code", seen.status)
			span.SetAttributes(status)
			if seen.status >= http.StatusInternalServerError {
				span.SetStatus(codes.Error, "")
			}
			t.requests.Record(ctx, took.Seconds(), metric.WithAttributes(append(attrs, status)...))
			level := slog.LevelInfo
			if where == "/healthz" || where == "/readyz" || where == "/metrics" {
				level = slog.LevelDebug
			}
			t.Logger.LogAttrs(ctx, level, "request",
				slog.String("method", method), slog.String("route", where), slog.Int("status", seen.status),
				slog.Float64("duration_ms", float64(took.Microseconds())/1000),
				slog.String("request_id", w.Header().Get("X-Request-Id")))
		})
	}
}

// closedMethod keeps a made-up method from becoming a series of its own.
func closedMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "_OTHER"
}

// statusWriter remembers the status; Unwrap lets http.ResponseController reach
// what is below.
type statusWriter struct {
	http.ResponseWriter
	status  int
	written bool
}

// WriteHeader implements http.ResponseWriter.
func (s *statusWriter) WriteHeader(code int) {
	if !s.written {
		s.status, s.written = code, true
	}
	s.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (s *statusWriter) Write(b []byte) (int, error) {
	s.written = true
	return s.ResponseWriter.Write(b)
}

// Unwrap gives http.ResponseController the writer below.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }
