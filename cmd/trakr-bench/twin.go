package main

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/google/uuid"

	"trakr/internal/app"
	"trakr/internal/lifecycle"
	"trakr/internal/store/tokens"
)

// twinOf returns what the product's private handler serves instead of its API: one
// route that reads without recording.
//
// It shares with the product: the listener, the headers and request id of every
// answer, span, metric and log line of each request, the framework that routes,
// checks and encodes JSON, the look-up of the token in the same database, and the
// decryption. It does without: the audit event, the policy's decision, the check
// that the tenant is live, the recovery from crashes, and the second look into the
// routing table by which the product distinguishes 404 from 405. All of that makes the twin
// faster, never slower.
func (b *bench) twinOf(d *database) app.Observe {
	mux := http.NewServeMux()
	cfg := huma.DefaultConfig("twin", "bench")
	cfg.DocsPath, cfg.SchemasPath, cfg.CreateHooks = "", "", nil
	api := humago.New(mux, cfg)
	huma.Register(api, huma.Operation{OperationID: "read", Method: http.MethodPost, Path: "/v1/tenants/{id}/reads", MaxBodyBytes: 64 << 10,
		Middlewares: huma.Middlewares{bearer(d.app.Tokens)}}, b.readPlainly(d))
	return func(route func(*http.Request) string) func(http.Handler) http.Handler {
		return func(http.Handler) http.Handler { return b.telemetry.Observe(route)(mux) }
	}
}

// bearer lets a request through whose token is of a service.
func bearer(store *tokens.Store) func(huma.Context, func(huma.Context)) {
	return func(hc huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(hc)
		t, err := store.Authenticate(r.Context(), lifecycle.NewSecret(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")))
		if err != nil || t.Role != lifecycle.RoleService {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next(hc)
	}
}

type twinIn struct {
	ID   string `path:"id"`
	Body struct {
		Fields []string `json:"fields" maxItems:"16"`
		Reason struct {
			Code string `json:"code,omitempty" maxLength:"64"`
			Ref  string `json:"ref,omitempty" maxLength:"128"`
		} `json:"reason,omitempty"`
	}
}

type twinOut struct {
	Body struct {
		Fields  map[string]*string `json:"fields"`
		EventID string             `json:"event_id"`
	}
}

// readPlainly selects the two fields, decrypts them and answers.
func (b *bench) readPlainly(d *database) func(context.Context, *twinIn) (*twinOut, error) {
	return func(ctx context.Context, in *twinIn) (*twinOut, error) {
		id, err := lifecycle.ParseTenantID(in.ID)
		if err != nil {
			return nil, err
		}
		encrypted, err := d.encrypted(ctx, id)
		if err != nil {
			return nil, err
		}
		out := &twinOut{}
		out.Body.Fields, out.Body.EventID = map[string]*string{}, uuid.Nil.String()
		for i, f := range read {
			v, err := d.keys.Decrypt(id, f, encrypted[i])
			if err != nil {
				return nil, err
			}
			text := v.Reveal()
			out.Body.Fields[string(f)] = &text
		}
		return out, nil
	}
}
