package telemetry

import (
	"context"
	"regexp"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"trakr/internal/contactdata"
)

// allowList is every attribute key that may leave, in spans, metrics and log
// lines alike. A new key is a decision made here.
var allowList = map[string]bool{
	// OpenTelemetry's names
	"http.request.method": true, "http.route": true, "http.response.status_code": true, "error.type": true,
	"db.system.name": true, "db.operation.name": true, "db.response.status_code": true,
	"service.name": true, "service.version": true,
	// ours
	"trakr.callback": true, "trakr.outcome": true, "trakr.job": true, "trakr.kind": true, "trakr.severity": true,
	// log lines
	"time": true, "level": true, "msg": true, "trace_id": true, "span_id": true, "error": true, "callback": true, "outcome": true,
	"reason": true, "request_id": true, "tenant_id": true, "kind": true, "result": true, "tables": true, "findings": true, "route": true,
	"method": true, "status": true, "duration_ms": true, "listen": true, "admin_listen": true, "version": true, "policy_hash": true,
	"job": true, "key_id": true, "checks": true, "dry_run": true, "event_id": true, "attempts": true, "messages": true, "stack": true,
	"directory": true, "socket": true, "signal": true, "pid": true, "user": true, "path": true,
}

func allowed(key string) bool { return allowList[key] }

// shapes matches tenant data. It is a second line of defence: values travel as
// lifecycle.Secret and errors contain none.
var shapes = regexp.MustCompile(strings.Join([]string{
	`ari:cloud:bitbucket\S*`,                                // client key of a registered app
	`connection:\d+`,                                        // client key of an unregistered one
	`eyJ[A-Za-z0-9_-]{5,}(\.[A-Za-z0-9_-]*){1,2}`,           // a JWT
	`(\{|%7[Bb])[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}(\}|%7[Dd])`, // a workspace's uuid as Bitbucket writes it
	contactdata.EmailPattern,                                // an e-mail address
	`trakr_[0-9a-f]{8}_[A-Za-z0-9_-]+`,                      // one of our tokens
	`://[^/\s]*@\S*`, `https?://\S*\?\S*`,                   // user or query in an address
	`(?i)https?://\S*(avatar|account)\S*`,
}, "|"))

const maxText = 4096

// Scrub replaces what looks like tenant data and cuts what is very long.
func Scrub(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	// Every shape has one of these; most texts have none, and each request logs some.
	if !strings.ContainsAny(s, "@:{%") && !strings.Contains(s, "eyJ") && !strings.Contains(s, "trakr_") {
		return s
	}
	return shapes.ReplaceAllString(s, "[redacted]")
}

// cleanValue reports whether a metric's attribute value may be exported unchanged.
// Others are left out: a series must not be named by a tenant.
func cleanValue(v attribute.Value) bool {
	return v.Type() != attribute.STRING || (Scrub(v.AsString()) == v.AsString() && len(v.AsString()) <= 100)
}

// spanName is the form of names that are constants of this program.
var spanName = regexp.MustCompile(`^[A-Za-z_]+( [/A-Za-z0-9_.{}:-]{1,80})?$|^[a-z]+(\.[a-z]+)*$`)

// Guard returns an exporter that lets only allowed attributes through, and no
// events, links or status texts: recorded errors quote what they were given.
func Guard(next sdktrace.SpanExporter) sdktrace.SpanExporter { return guard{next} }

type guard struct{ next sdktrace.SpanExporter }

// ExportSpans implements sdktrace.SpanExporter.
func (g guard) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	clean := make([]sdktrace.ReadOnlySpan, len(spans))
	for i, s := range spans {
		clean[i] = guarded{s}
	}
	return g.next.ExportSpans(ctx, clean)
}

// Shutdown implements sdktrace.SpanExporter.
func (g guard) Shutdown(ctx context.Context) error { return g.next.Shutdown(ctx) }

// guarded is a span as it may be seen.
type guarded struct{ sdktrace.ReadOnlySpan }

// Name implements sdktrace.ReadOnlySpan.
func (s guarded) Name() string {
	n := s.ReadOnlySpan.Name()
	if !spanName.MatchString(n) || Scrub(n) != n {
		return "redacted"
	}
	return n
}

// Attributes implements sdktrace.ReadOnlySpan.
func (s guarded) Attributes() []attribute.KeyValue {
	var out []attribute.KeyValue
	for _, kv := range s.ReadOnlySpan.Attributes() {
		if !allowed(string(kv.Key)) {
			continue
		}
		if kv.Value.Type() == attribute.STRING {
			kv.Value = attribute.StringValue(Scrub(kv.Value.AsString()))
		}
		out = append(out, kv)
	}
	return out
}

// Events implements sdktrace.ReadOnlySpan.
func (guarded) Events() []sdktrace.Event { return nil }

// Links implements sdktrace.ReadOnlySpan.
func (guarded) Links() []sdktrace.Link { return nil }

// Status implements sdktrace.ReadOnlySpan.
func (s guarded) Status() sdktrace.Status {
	return sdktrace.Status{Code: s.ReadOnlySpan.Status().Code}
}
