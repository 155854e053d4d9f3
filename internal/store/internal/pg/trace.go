package pg

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// tracer makes one span per statement that names the operation and never the
// statement: bun's statements hold their arguments.
type tracer struct{ t trace.Tracer }

func newTracer(p trace.TracerProvider) *tracer {
	return &tracer{p.Tracer("trakr/internal/store")}
}

// TraceQueryStart implements pgx.QueryTracer.
func (t *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	op := operation(d.SQL)
	ctx, _ = t.t.Start(ctx, "postgresql "+op, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("db.system.name", "postgresql"), attribute.String("db.operation.name", op)))
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (t *tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	span := trace.SpanFromContext(ctx)
	if err := Map(d.Err); err != nil {
		span.SetStatus(codes.Error, "")
		if s := State(err); s != "" {
			span.SetAttributes(attribute.String("db.response.status_code", s))
		}
	}
	span.End()
}

// operation is the statement's first word when it is one of a closed set.
func operation(sql string) string {
	word, _, _ := strings.Cut(strings.TrimSpace(sql), " ")
	switch w := strings.ToUpper(word); w {
	case "SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "BEGIN", "COMMIT", "ROLLBACK":
		return w
	}
	return "OTHER"
}
