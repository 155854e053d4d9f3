package sweep

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"trakr/internal/store/findings"
)

// Measure registers how many findings are open, acknowledged ones included. A kind
// without an open finding has no series.
func Measure(provider metric.MeterProvider, s *findings.Store) error {
	_, err := provider.Meter("trakr/internal/sweep").Int64ObservableGauge("trakr.findings.open",
		metric.WithDescription("Open findings, acknowledged ones included."), metric.WithUnit("{finding}"),
		metric.WithInt64Callback(func(ctx context.Context, o metric.Int64Observer) error {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			counts, err := s.OpenCounts(ctx)
			if err != nil {
				return err
			}
			for _, c := range counts {
				o.Observe(c.Count, metric.WithAttributes(attribute.String("trakr.kind", c.Kind),
					attribute.String("trakr.severity", string(c.Severity))))
			}
			return nil
		}))
	if err != nil {
		return fmt.Errorf("making the findings' metric: %w", err)
	}
	return nil
}
