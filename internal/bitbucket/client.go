// Package bitbucket calls Bitbucket Cloud's API: the one protected resource that shows
// whether a shared secret is a workspace's, when it is offered (proof of possession)
// and later (whether the app is still installed); and it makes tokens, for one request
// or by exchange for an access token. The origin is fixed by configuration, never taken
// from a payload, redirects are not followed, and no error or span has the address,
// which names the workspace.
package bitbucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"trakr/internal/lifecycle"
)

// Config is the API to call and the app to call it as.
type Config struct {
	Origin   string // e.g. https://api.bitbucket.org; http on this machine only (the caller checks)
	AppKey   string // iss of our tokens
	Resource string // path with {workspace}, e.g. /2.0/workspaces/{workspace}/hooks
	Now      func() time.Time
	Timeout  time.Duration // of one call; 0 means 5 s, inside the customer's click
	Tracer   trace.TracerProvider
}

// Client calls Bitbucket.
type Client struct {
	c                      Config
	host                   string
	exchange, exchangeHost string // where access tokens are given
	http                   *http.Client
	tracer                 trace.Tracer
}

const (
	tokenLife    = 180 * time.Second // Bitbucket takes no longer ones
	defaultRetry = 30 * time.Second
	maxRetry     = 5 * time.Minute
)

// New returns a client.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.Origin)
	if err != nil || u.Host == "" || u.Path != "" || u.User != nil {
		return nil, errors.New("the Bitbucket API's origin must be https://host")
	}
	if !strings.Contains(c.Resource, "{workspace}") {
		return nil, errors.New("the proof's resource must contain {workspace}")
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	exchange := TokenURL(c.Origin)
	at, err := url.Parse(exchange)
	if err != nil {
		return nil, errors.New("the address for access tokens is none")
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     time.Minute,
		TLSHandshakeTimeout: c.Timeout,
	}
	return &Client{
		c:            c,
		host:         u.Host,
		exchange:     exchange,
		exchangeHost: at.Host,
		tracer:       c.Tracer.Tracer("trakr/internal/bitbucket"),
		http: &http.Client{
			Timeout:       c.Timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport:     transport,
		},
	}, nil
}

// ProvePossession asks for the workspace's protected resource with a token signed
// with the offered secret. nil: Bitbucket knows the secret as this workspace's.
// signature-invalid: it does not (4xx other than 429). proof-unavailable: it gave no
// verdict (429, 5xx, redirect, no answer), with the time to wait.
func (c *Client) ProvePossession(ctx context.Context, workspaceUUID, clientKey, secret lifecycle.Secret) error {
	ctx, span := c.tracer.Start(ctx, "bitbucket.prove", trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	status, retry, err := c.call(ctx, workspaceUUID, clientKey, secret)
	if status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", status))
	}
	switch {
	case err == nil && status/100 == 2:
		return nil
	case err == nil && status/100 == 4 && status != http.StatusTooManyRequests:
		return lifecycle.Fail(lifecycle.SignatureInvalid, "Bitbucket does not know the offered secret as this workspace's.",
			lifecycle.Because("proof-refused"))
	case err == nil:
		err = fmt.Errorf("bitbucket answered %d", status)
	}
	if lifecycle.AsFault(err).Kind == lifecycle.PayloadInvalid {
		return err
	}
	span.SetStatus(codes.Error, "")
	return lifecycle.Fail(lifecycle.ProofUnavailable,
		"Bitbucket did not answer whether the offered secret is this workspace's; nothing was stored. Try again later.",
		lifecycle.After(retry), lifecycle.Cause(err))
}

// Answer is Bitbucket's answer about an installation that we keep.
type Answer string

// The answers. Only the first two are a verdict.
const (
	Alive      Answer = "alive"
	Suspected  Answer = "suspected"   // 401, 403, 404: removed, unless Bitbucket errs
	CannotTell Answer = "cannot-tell" // 429, 5xx, any other status, no answer
)

// Probed is the outcome of one Probe.
type Probed struct {
	Answer     Answer
	Status     int           // 0: no answer
	RetryAfter time.Duration // how long to leave Bitbucket alone, when Busy
}

// Busy reports whether Bitbucket asked us to slow down.
func (p Probed) Busy() bool { return p.Status == http.StatusTooManyRequests }

// Detail is the outcome as the audit records it, a word of a closed set and a status.
func (p Probed) Detail() string {
	if p.Status == 0 {
		return string(p.Answer) + " no-answer"
	}
	return string(p.Answer) + " " + strconv.Itoa(p.Status)
}

// Probe asks for the workspace's protected resource with the secret on file, which
// Bitbucket forgets when the app is removed. Whatever is not a clear word is
// CannotTell: a failure of ours or theirs is no uninstall.
func (c *Client) Probe(ctx context.Context, workspaceUUID, clientKey, secret lifecycle.Secret) Probed {
	ctx, span := c.tracer.Start(ctx, "bitbucket.probe", trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	status, retry, err := c.call(ctx, workspaceUUID, clientKey, secret)
	if err != nil {
		span.SetStatus(codes.Error, "")
		return Probed{Answer: CannotTell, RetryAfter: retry}
	}
	span.SetAttributes(attribute.Int("http.response.status_code", status))
	p := Probed{Answer: CannotTell, Status: status, RetryAfter: retry}
	switch {
	case status/100 == 2:
		p.Answer = Alive
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusNotFound:
		p.Answer = Suspected
	}
	return p
}

// Host returns the host of the API, without the scheme.
func (c *Client) Host() string { return c.host }

func (c *Client) call(ctx context.Context, workspaceUUID, clientKey, secret lifecycle.Secret) (status int, retry time.Duration, err error) {
	retry = defaultRetry
	id, err := uuid.Parse(workspaceUUID.Reveal())
	if err != nil || len(workspaceUUID.Reveal()) != 36 {
		return 0, retry, lifecycle.Fail(lifecycle.PayloadInvalid, "The workspace's uuid is not one.",
			lifecycle.At("/principal/uuid", "is not a uuid"))
	}
	target := c.c.Origin + strings.ReplaceAll(c.c.Resource, "{workspace}", "%7B"+id.String()+"%7D")
	now := c.c.Now()
	token, _, err := c.mint(request{http.MethodGet, target, c.c.Origin}, clientKey, secret, now)
	if err != nil {
		return 0, retry, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, retry, errors.New("no request could be made")
	}
	req.Header.Set("Authorization", "JWT "+token.Reveal())
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, retry, errors.New(cause(err))
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again; the content is not needed
	return resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"), now), nil
}

// cause names why there was no answer, in words of our own: the library's error
// repeats the address.
func cause(err error) string {
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.Is(err, context.Canceled):
		return "the request was given up"
	case errors.Is(err, context.DeadlineExceeded) || isTimeout(err):
		return "no answer in time"
	case errors.As(err, &dns):
		return "the host was not found"
	case errors.As(err, &op) && op.Op == "dial":
		return "no connection"
	case strings.Contains(err.Error(), "tls:") || strings.Contains(err.Error(), "x509:"):
		return "no trusted TLS connection"
	}
	return "the connection broke"
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// retryAfter reads the header's seconds or date, within bounds.
func retryAfter(s string, now time.Time) time.Duration {
	d := defaultRetry
	if n, err := strconv.Atoi(s); err == nil {
		d = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(s); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, time.Second), maxRetry)
}
