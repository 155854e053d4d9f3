package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"runtime/debug"

	"github.com/google/uuid"

	"trakr/internal/lifecycle"
)

// contentSecurityPolicy lets a page of ours load nothing but its own styles.
const contentSecurityPolicy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; " +
	"form-action 'none'; frame-ancestors 'none'"

type contextKey int

const (
	keyRequestID contextKey = iota
	keyToken
)

// requestID returns the id this service gave the request; a client's own is not
// accepted, since it would be recorded in the audit.
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(keyRequestID).(string)
	return id
}

// withRequestID gives every request an id and returns it in the answer.
func withRequestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := uuid.NewV7()
		if err != nil {
			writeProblem(w, r, err)
			return
		}
		w.Header().Set("X-Request-Id", id.String())
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), keyRequestID, id.String())))
	})
}

// withHeaders sets what Atlassian's security requirements for cloud apps ask of
// every answer, errors included.
func withHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Strict-Transport-Security", "max-age=63072000; includeSubDomains") // two years
		h.Set("Cache-Control", "no-cache, no-store")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Content-Security-Policy", contentSecurityPolicy)
		next.ServeHTTP(w, r)
	})
}

// withRecovery turns a crash into an internal problem. What crashed is logged as
// a stack without its message, which could quote a value.
func withRecovery(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			log.ErrorContext(r.Context(), "request crashed", "stack", string(debug.Stack()), "request_id", requestID(r.Context()))
			writeProblem(w, r, lifecycle.Internal)
		}()
		next.ServeHTTP(w, r)
	})
}
