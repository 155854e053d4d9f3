package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Sender posts signed events to one endpoint.
type Sender struct {
	url    string
	key    Key
	now    func() time.Time
	client *http.Client
}

// sendTimeout bounds the endpoint's whole response.
const sendTimeout = 10 * time.Second

// NewSender returns a sender to one endpoint. It follows no redirect, because the
// signature is for this endpoint.
func NewSender(url string, key Key, now func() time.Time) *Sender {
	return &Sender{url: url, key: key, now: now, client: &http.Client{Timeout: sendTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// Answer is an endpoint's response.
type Answer struct {
	Status     int           // 0 without a response
	RetryAfter time.Duration // the wait that it asks for; 0 without one
}

// Send delivers one event: nil means that the endpoint answered 2xx. The message has the
// event's id, which identifies a repeat.
func (s *Sender) Send(ctx context.Context, e Event) error {
	body, err := e.Encode()
	if err != nil {
		return err
	}
	a, err := s.Post(ctx, e.ID, body)
	if err == nil && a.Status/100 != 2 {
		err = fmt.Errorf("the webhook's endpoint answered %d", a.Status)
	}
	return err
}

// Post sends an encoded event and returns the endpoint's answer. An error means that
// there was none; the endpoint may still have received the message.
func (s *Sender) Post(ctx context.Context, id string, body []byte) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return Answer{}, errors.New("the webhook's address cannot be used") // the error itself names it
	}
	at := s.now()
	req.Header.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
	req.Header.Set("User-Agent", "trakr")
	req.Header.Set("Webhook-Id", id)
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
	req.Header.Set("Webhook-Signature", s.key.Sign(id, at, body))
	resp, err := s.client.Do(req)
	if err != nil {
		return Answer{}, errors.New("the webhook's endpoint does not answer")
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be reused; the body is ignored
	return Answer{resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"), at)}, nil
}

// retryAfter reads the header's seconds or date (RFC 9110, section 10.2.3).
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseInt(s, 10, 32); err == nil {
		return max(time.Duration(n)*time.Second, 0)
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
