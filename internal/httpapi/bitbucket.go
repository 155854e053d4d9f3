package httpapi

import (
	"context"
	"net/http"
	"time"

	"trakr/internal/bitbucket"
	"trakr/internal/lifecycle"
)

// Bitbucket makes the tokens with which other parts of the product call Bitbucket.
type Bitbucket interface {
	Mint(method, path, query string, clientKey, secret lifecycle.Secret) (token lifecycle.Secret, expires time.Time, err error)
	Host() string // for which Mint's tokens are
	Exchange(ctx context.Context, clientKey, secret lifecycle.Secret) (bitbucket.AccessToken, error)
	TokenHost() string // that Exchange asks
}

// bitbucketRoutes hand out tokens and never what signs them.
func (a *admin) bitbucketRoutes() {
	type tokenIn struct {
		ID   string `path:"id" doc:"tenant id"`
		Body struct {
			Kind   string `json:"kind" enum:"jwt,access_token" doc:"jwt: signed for one request, good for three minutes (Authorization: JWT …); access_token: Bitbucket's own, by exchange (Authorization: Bearer …)"`
			Method string `json:"method,omitempty" enum:"GET,HEAD,POST,PUT,PATCH,DELETE" doc:"jwt: of the request"`
			Path   string `json:"path,omitempty" maxLength:"2048" doc:"jwt: of the request, as it is sent, percent-encoded, e.g. /2.0/repositories"`
			Query  string `json:"query,omitempty" maxLength:"4096" doc:"jwt: of the request, as it is sent, without the question mark"`
			Reason reason `json:"reason,omitempty"`
		}
	}
	type tokenOut struct {
		Token       string    `json:"token,omitempty" doc:"jwt"`
		AccessToken string    `json:"access_token,omitempty" doc:"access_token"`
		TokenType   string    `json:"token_type,omitempty" doc:"access_token: as Bitbucket says"`
		Scopes      string    `json:"scopes,omitempty" doc:"access_token: as Bitbucket says"`
		ExpiresAt   time.Time `json:"expires_at"`
		EventID     string    `json:"event_id" doc:"the audit event that was committed before this answer"`
	}
	add(a, http.MethodPost, "/v1/tenants/{id}/bitbucket-token", "Get a token to call Bitbucket for a tenant; the shared secret stays here. Audited before the answer", []lifecycle.Role{lifecycle.RoleService},
		func(ctx context.Context, in *tokenIn) (*body[tokenOut], error) {
			id, err := parseID(in.ID)
			if err != nil {
				return nil, err
			}
			b, who := in.Body, access(ctx, in.Body.Reason, lifecycle.ServiceOperation)
			if b.Kind == "access_token" {
				if b.Method != "" || b.Path != "" || b.Query != "" {
					return nil, lifecycle.Fail(lifecycle.RequestInvalid, "An access token is for every request its scopes allow: leave method, path and query out.", lifecycle.At("/kind", "takes no request"))
				}
				with, err := a.Door.Signing(ctx, who, id, a.Bitbucket.TokenHost())
				if err != nil {
					return nil, err
				}
				t, err := a.Bitbucket.Exchange(ctx, with.ClientKey, with.Secret)
				if err != nil {
					return nil, err
				}
				return &body[tokenOut]{tokenOut{AccessToken: t.Token.Reveal(), TokenType: t.Type, Scopes: t.Scopes, ExpiresAt: t.ExpiresAt.UTC(), EventID: with.EventID.String()}}, nil
			}
			if b.Method == "" {
				return nil, lifecycle.Fail(lifecycle.RequestInvalid, "A token is for one request: name its method and its path.", lifecycle.At("/method", "missing"))
			}
			if err := bitbucket.CheckTarget(b.Path, b.Query); err != nil {
				return nil, err
			}
			with, err := a.Door.Signing(ctx, who, id, a.Bitbucket.Host())
			if err != nil {
				return nil, err
			}
			token, expires, err := a.Bitbucket.Mint(b.Method, b.Path, b.Query, with.ClientKey, with.Secret)
			if err != nil {
				return nil, err
			}
			return &body[tokenOut]{tokenOut{Token: token.Reveal(), ExpiresAt: expires.UTC(), EventID: with.EventID.String()}}, nil
		})
}
