package bitbucket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"trakr/internal/connect"
	"trakr/internal/lifecycle"
)

const (
	exchangePath = "/site/oauth2/access_token"
	exchangeForm = "grant_type=urn%3Abitbucket%3Aoauth2%3Ajwt"
	maxAnswer    = 64 << 10
)

// TokenURL is where access tokens are given. Bitbucket Cloud gives them at its site,
// not at its API; any other origin (a simulation) is both.
func TokenURL(origin string) string {
	if origin == "https://api.bitbucket.org" {
		origin = "https://bitbucket.org"
	}
	return origin + exchangePath
}

// TokenHost is whom Exchange asks, without the scheme.
func (c *Client) TokenHost() string { return c.exchangeHost }

// Mint signs a token for exactly one request to the API: method, the path as it is
// sent, still percent-encoded, and the raw query. It is good for three minutes.
func (c *Client) Mint(method, path, query string, clientKey, secret lifecycle.Secret) (
	token lifecycle.Secret, expires time.Time, err error,
) {
	target := c.c.Origin + path
	if query != "" {
		target += "?" + query
	}
	return c.mint(request{method, target, c.c.Origin}, clientKey, secret, c.c.Now())
}

// request is the one request that a token is for.
type request struct {
	method string
	target string // the whole URL
	base   string // what of it precedes the path that is hashed
}

func (c *Client) mint(r request, clientKey, secret lifecycle.Secret, now time.Time) (token lifecycle.Secret, expires time.Time, err error) {
	expires = now.Add(tokenLife).Truncate(time.Second)
	token, err = connect.Mint(connect.Claims{Issuer: lifecycle.NewSecret(c.c.AppKey), Subject: clientKey,
		IssuedAt: now, ExpiresAt: expires, QSH: connect.QSH(r.method, r.target, r.base)}, secret)
	if err != nil {
		return lifecycle.Secret{}, time.Time{}, errors.New("no token could be signed")
	}
	return token, expires, nil
}

// AccessToken is what Bitbucket gives for an installation.
type AccessToken struct {
	Token     lifecycle.Secret
	Type      string // "bearer"
	Scopes    string // as Bitbucket writes them, separated by spaces
	ExpiresAt time.Time
}

// Exchange asks for an access token (grant type urn:bitbucket:oauth2:jwt).
// bitbucket-refused: Bitbucket gives none (4xx other than 408 and 429).
// proof-unavailable: it did not answer, or its answer cannot be read, with the time
// to wait.
func (c *Client) Exchange(ctx context.Context, clientKey, secret lifecycle.Secret) (AccessToken, error) {
	ctx, span := c.tracer.Start(ctx, "bitbucket.exchange", trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	status, retry, body, err := c.askToken(ctx, clientKey, secret)
	if status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", status))
	}
	var t AccessToken
	switch {
	case err != nil:
	case status == http.StatusOK:
		if t, err = readToken(body, c.c.Now()); err == nil {
			return t, nil
		}
	case status/100 == 4 && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout:
		return AccessToken{}, lifecycle.Fail(lifecycle.BitbucketRefused,
			fmt.Sprintf("Bitbucket gives no access token for this installation (it answered %d). The app may have been removed there, "+
				"or its secret changed without a callback; install it again.", status))
	default:
		err = fmt.Errorf("bitbucket answered %d", status)
	}
	span.SetStatus(codes.Error, "")
	return AccessToken{}, lifecycle.Fail(lifecycle.ProofUnavailable,
		"Bitbucket gave no access token and did not refuse one. Try again later.",
		lifecycle.After(retry), lifecycle.Cause(err))
}

func (c *Client) askToken(ctx context.Context, clientKey, secret lifecycle.Secret) (
	status int, retry time.Duration, body []byte, err error,
) {
	now := c.c.Now()
	at := request{http.MethodPost, c.exchange, strings.TrimSuffix(c.exchange, exchangePath)}
	token, _, err := c.mint(at, clientKey, secret, now)
	if err != nil {
		return 0, defaultRetry, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.exchange, strings.NewReader(exchangeForm))
	if err != nil {
		return 0, defaultRetry, nil, errors.New("no request could be made")
	}
	req.Header.Set("Authorization", "JWT "+token.Reveal())
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, defaultRetry, nil, errors.New(cause(err))
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1)); err != nil {
		return resp.StatusCode, defaultRetry, nil, errors.New(cause(err))
	}
	return resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"), now), body, nil
}

// readToken takes an answer whole or not at all; its error repeats nothing of it.
func readToken(body []byte, now time.Time) (AccessToken, error) {
	var in struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		Scopes      string `json:"scopes"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	const longest = int64(365 * 24 * time.Hour / time.Second)
	if len(body) > maxAnswer || json.Unmarshal(body, &in) != nil || in.AccessToken == "" || in.ExpiresIn <= 0 || in.ExpiresIn > longest {
		return AccessToken{}, errors.New("bitbucket's answer is no access token")
	}
	expires := now.Add(time.Duration(in.ExpiresIn) * time.Second).Truncate(time.Second)
	return AccessToken{lifecycle.NewSecret(in.AccessToken), in.TokenType, in.Scopes, expires}, nil
}

// CheckTarget refuses what is not one path of the API and a query as they are sent.
func CheckTarget(path, query string) error {
	var at []lifecycle.Option
	u, err := url.ParseRequestURI(path)
	if err != nil || u.IsAbs() || u.RawQuery != "" || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") ||
		strings.ContainsAny(path, "?#") || !printable(path) {
		at = append(at, lifecycle.At("/path", "not a path such as /2.0/user, percent-encoded, without host and query"))
	}
	if strings.HasPrefix(query, "?") || strings.Contains(query, "#") || !printable(query) {
		at = append(at, lifecycle.At("/query", "not a query such as pagelen=10, percent-encoded, without the question mark"))
	}
	if at == nil {
		return nil
	}
	return lifecycle.Fail(lifecycle.RequestInvalid,
		"A token is for one request: its method, its path and its query as they will be sent.", at...)
}

// printable reports whether s can be in a request line: visible ASCII.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
