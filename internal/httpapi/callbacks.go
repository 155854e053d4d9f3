package httpapi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"trakr/internal/ingress"
	"trakr/internal/lifecycle"
)

// maxPayload is several times the largest callback ever captured (2.4 KB).
const maxPayload = 64 << 10

// callbacks is the HTTP side of the ingress: it limits the body, names the source,
// counts, logs, and answers once.
type callbacks struct {
	gate    *ingress.Gate
	trusted []netip.Prefix
	log     *slog.Logger
	count   metric.Int64Counter
}

// handler serves one callback.
func (c *callbacks) handler(callback ingress.Callback) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx := context.WithoutCancel(r.Context()) // also a sender that disconnected is counted
		id, outcome := requestID(ctx), ""
		body, err := readPayload(w, r)
		if err == nil {
			m := ingress.Message{Callback: callback, Request: r, Body: body, Source: source(r, c.trusted), RequestID: id}
			result, failure := c.gate.Handle(ctx, m)
			outcome, err = string(result), failure
		}
		reason, level := "", slog.LevelInfo
		if err != nil {
			f := lifecycle.AsFault(err)
			outcome, reason, level = string(f.Kind), f.Reason, slog.LevelWarn
		}
		c.count.Add(ctx, 1, metric.WithAttributes(
			attribute.String("trakr.callback", callback.Name), attribute.String("trakr.outcome", outcome)))
		c.log.LogAttrs(ctx, level, "callback", slog.String("callback", callback.Name),
			slog.String("outcome", outcome), slog.String("reason", reason), slog.String("request_id", id))
		if err == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if problemOf(err, "").Status >= http.StatusInternalServerError {
			// Errors contain kinds and states, never a value (internal/store/internal/pg).
			c.log.ErrorContext(ctx, "request failed", "error", err, "request_id", id)
		}
		writeProblem(w, r, err)
	}
}

// readPayload reads the whole body.
func readPayload(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPayload))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, lifecycle.Fail(lifecycle.PayloadTooLarge, "A callback has at most 65536 bytes.")
	}
	if err != nil {
		return nil, lifecycle.Fail(lifecycle.PayloadInvalid, "The payload did not arrive whole.")
	}
	return body, nil
}

// source is the address the request comes from: the connection's or, behind
// trusted proxies, the last untrusted one in X-Forwarded-For.
func source(r *http.Request, trusted []netip.Prefix) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	addr = addr.Unmap().WithZone("")
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && contains(trusted, addr); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		addr = hop.Unmap().WithZone("")
	}
	return addr
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
