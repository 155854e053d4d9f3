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
	TokenHost() string // that Exchange calls
}

// bitbucketRoutes issue tokens and never the secret that signs them.
func (a *admin) bitbucketRoutes() {
	add(a, operation{
		method: http.MethodPost, path: "/v1/tenants/{id}/bitbucket-token", tag: tagBitbucket,
		roles:   []lifecycle.Role{lifecycle.RoleService},
		summary: "Get a token to call Bitbucket for a tenant",
		detail:  "The shared secret stays in the service. The use of it is audited before the answer is sent.",
		fails: []lifecycle.Kind{
			lifecycle.ReasonRequired, lifecycle.FieldNotAllowed, lifecycle.TenantUnknown, lifecycle.TenantErased,
			lifecycle.BitbucketRefused, lifecycle.ProofUnavailable, lifecycle.KeysOutdated,
		},
	}, a.bitbucketToken)
}

type bitbucketTokenInput struct {
	TenantPath

	Body struct {
		Kind   string `json:"kind" enum:"jwt,access_token" doc:"jwt: for one request; access_token: Bitbucket's, by exchange"`
		Method string `json:"method,omitempty" enum:"GET,HEAD,POST,PUT,PATCH,DELETE" doc:"jwt: method of the request"`
		Path   string `json:"path,omitempty" maxLength:"2048" doc:"jwt: path as it is sent, percent-encoded, e.g. /2.0/repositories"`
		Query  string `json:"query,omitempty" maxLength:"4096" doc:"jwt: query of the request as it is sent, without the question mark"`
		Reason reason `json:"reason,omitempty" doc:"why Bitbucket is called"`
	}
}

type bitbucketToken struct {
	Token       string    `json:"token,omitempty" doc:"jwt: the token"`
	AccessToken string    `json:"access_token,omitempty" doc:"access_token: the token"`
	TokenType   string    `json:"token_type,omitempty" doc:"access_token: as Bitbucket returns it"`
	Scopes      string    `json:"scopes,omitempty" doc:"access_token: as Bitbucket returns them"`
	ExpiresAt   time.Time `json:"expires_at" doc:"when the token expires"`
	EventID     string    `json:"event_id" doc:"the audit event that was committed before this answer"`
}

func (a *admin) bitbucketToken(ctx context.Context, in *bitbucketTokenInput) (*body[bitbucketToken], error) {
	id, err := parseID(in.ID)
	if err != nil {
		return nil, err
	}
	who := access(ctx, in.Body.Reason, lifecycle.ServiceOperation)
	if in.Body.Kind == "access_token" {
		return a.exchange(ctx, who, id, in)
	}
	return a.mint(ctx, who, id, in)
}

// exchange gets Bitbucket's access token.
func (a *admin) exchange(
	ctx context.Context, who lifecycle.Access, id lifecycle.TenantID, in *bitbucketTokenInput,
) (*body[bitbucketToken], error) {
	if in.Body.Method != "" || in.Body.Path != "" || in.Body.Query != "" {
		return nil, lifecycle.Fail(lifecycle.RequestInvalid,
			"An access token is for every request its scopes allow: leave method, path and query out.",
			lifecycle.At("/kind", "takes no request"))
	}
	with, err := a.Door.Signing(ctx, who, id, a.Bitbucket.TokenHost())
	if err != nil {
		return nil, err
	}
	t, err := a.Bitbucket.Exchange(ctx, with.ClientKey, with.Secret)
	if err != nil {
		return nil, err
	}
	return &body[bitbucketToken]{bitbucketToken{
		AccessToken: t.Token.Reveal(), TokenType: t.Type, Scopes: t.Scopes, ExpiresAt: t.ExpiresAt.UTC(), EventID: with.EventID.String(),
	}}, nil
}

// mint signs a token for one request.
func (a *admin) mint(
	ctx context.Context, who lifecycle.Access, id lifecycle.TenantID, in *bitbucketTokenInput,
) (*body[bitbucketToken], error) {
	b := in.Body
	if b.Method == "" {
		return nil, lifecycle.Fail(lifecycle.RequestInvalid, "A token is for one request: name its method and its path.",
			lifecycle.At("/method", "missing"))
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
	return &body[bitbucketToken]{bitbucketToken{Token: token.Reveal(), ExpiresAt: expires.UTC(), EventID: with.EventID.String()}}, nil
}
