// Package telemetry sets up OpenTelemetry and slog so that nothing they emit can
// hold a tenant value: every attribute passes one allow-list, every text a
// scrubber, whatever the code that emitted it intended. Exporters follow the
// standard OTEL_ environment; with none set, nothing leaves by network. It does
// not export logs through OpenTelemetry: they are JSON lines on one writer.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/attribute"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Config names the service that emits, and where it writes log lines.
type Config struct {
	Service, Version string
	LogWriter        io.Writer
	LogLevel         slog.Level
}

// Telemetry is what the rest of the program emits through.
type Telemetry struct {
	Logger *slog.Logger
	Tracer trace.TracerProvider
	Meter  metric.MeterProvider

	registry *prometheus.Registry
	shutdown []func(context.Context) error
	requests metric.Float64Histogram
}

// Setup starts the exporters that the OTEL_ environment asks for. Call Shutdown in the
// end: it flushes them.
func Setup(ctx context.Context, c Config) (*Telemetry, error) {
	t := &Telemetry{Logger: slog.New(newHandler(c.LogWriter, c.LogLevel)), registry: prometheus.NewRegistry()}
	res, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", c.Service), attribute.String("service.version", c.Version)),
		resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		return nil, fmt.Errorf("describing the service to OpenTelemetry: %w", err)
	}
	if err := t.traces(ctx, res); err != nil {
		return nil, err
	}
	if err := t.metrics(ctx, res); err != nil {
		return nil, errors.Join(err, t.Shutdown(ctx))
	}
	return t, nil
}

func (t *Telemetry) traces(ctx context.Context, res *resource.Resource) error {
	opts := []sdktrace.TracerProviderOption{sdktrace.WithResource(res)}
	if wanted("TRACES") {
		exporter, err := autoexport.NewSpanExporter(ctx)
		if err != nil {
			return fmt.Errorf("starting the trace exporter (OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_…): %w", err)
		}
		opts = append(opts, sdktrace.WithBatcher(Guard(exporter)))
	}
	p := sdktrace.NewTracerProvider(opts...)
	t.Tracer, t.shutdown = p, append(t.shutdown, p.Shutdown)
	return nil
}

func (t *Telemetry) metrics(ctx context.Context, res *resource.Resource) error {
	t.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	prom, err := otelprom.New(otelprom.WithRegisterer(t.registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return fmt.Errorf("starting /metrics: %w", err)
	}
	allowedOnly := sdkmetric.Stream{AttributeFilter: func(kv attribute.KeyValue) bool {
		return allowed(string(kv.Key)) && cleanValue(kv.Value)
	}}
	opts := []sdkmetric.Option{sdkmetric.WithResource(res), sdkmetric.WithReader(prom),
		sdkmetric.WithView(sdkmetric.NewView(sdkmetric.Instrument{Name: "*"}, allowedOnly))}
	if wanted("METRICS") && os.Getenv("OTEL_METRICS_EXPORTER") != "prometheus" {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return fmt.Errorf("starting the metric exporter (OTEL_METRICS_EXPORTER, OTEL_EXPORTER_OTLP_…): %w", err)
		}
		opts = append(opts, sdkmetric.WithReader(reader))
	}
	p := sdkmetric.NewMeterProvider(opts...)
	t.Meter, t.shutdown = p, append(t.shutdown, p.Shutdown)
	t.requests, err = p.Meter("trakr/internal/telemetry").Float64Histogram("http.server.request.duration",
		metric.WithUnit("s"), metric.WithDescription("Duration of HTTP requests served."),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10))
	if err != nil {
		return fmt.Errorf("making the request histogram: %w", err)
	}
	return nil
}

// wanted reports whether the environment asks for a signal's export. Unless it does,
// nothing is sent; the library's own default would be an OTLP
// collector on this machine.
func wanted(signal string) bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	exporter := os.Getenv("OTEL_" + signal + "_EXPORTER")
	return (exporter != "" && exporter != "none") ||
		(exporter == "" && (os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""))
}

// MetricsHandler serves the metrics in Prometheus's form.
func (t *Telemetry) MetricsHandler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// Shutdown flushes and ends the exporters.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var errs []error
	for _, f := range t.shutdown {
		errs = append(errs, f(ctx))
	}
	t.shutdown = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("ending telemetry: %w", err)
	}
	return nil
}
