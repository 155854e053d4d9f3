package telemetry

import (
	"context"
	"io"
	"log/slog"

	"go.opentelemetry.io/otel/trace"
)

const dropped = "[dropped]"

// handler is slog's JSON handler behind the allow-list, with the trace's ids.
type handler struct {
	next slog.Handler
}

func newHandler(w io.Writer, level slog.Level) slog.Handler {
	return handler{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})}
}

// Enabled implements slog.Handler.
func (h handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	clean := slog.NewRecord(r.Time, r.Level, Scrub(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(cleanAttr(a))
		return true
	})
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		clean.AddAttrs(slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	}
	return h.next.Handle(ctx, clean)
}

// WithAttrs implements slog.Handler.
func (h handler) WithAttrs(as []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(as))
	for i, a := range as {
		clean[i] = cleanAttr(a)
	}
	return handler{h.next.WithAttrs(clean)}
}

// WithGroup implements slog.Handler. A group's name is a constant of the program
// like any key, but groups are not used; its members meet the same list.
func (h handler) WithGroup(name string) slog.Handler {
	if !allowed(name) {
		name = "group"
	}
	return handler{h.next.WithGroup(name)}
}

// cleanAttr keeps the key of an attribute that is not allowed, so that its
// absence is seen, and drops its value.
func cleanAttr(a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		var members []slog.Attr
		for _, m := range v.Group() {
			members = append(members, cleanAttr(m))
		}
		key := a.Key
		if key != "" && !allowed(key) {
			key = "group"
		}
		return slog.Attr{Key: key, Value: slog.GroupValue(members...)}
	}
	if !allowed(a.Key) {
		return slog.String(Scrub(a.Key), dropped)
	}
	switch v.Kind() {
	case slog.KindString:
		return slog.String(a.Key, Scrub(v.String()))
	case slog.KindAny:
		if err, ok := v.Any().(error); ok {
			return slog.String(a.Key, Scrub(err.Error()))
		}
		return slog.String(a.Key, dropped) // a struct could hold anything
	}
	return slog.Attr{Key: a.Key, Value: v}
}
