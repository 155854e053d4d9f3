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

// sendTimeout is how long the endpoint may take for its whole answer.
const sendTimeout = 10 * time.Second

// NewSender returns the sender of an endpoint. It follows no redirect: the
// signature is for this one.
func NewSender(url string, key Key, now func() time.Time) *Sender {
	return &Sender{url: url, key: key, now: now, client: &http.Client{Timeout: sendTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// Answer is what an endpoint said.
type Answer struct {
	Status     int           // 0: nothing
	RetryAfter time.Duration // how long it asks to be left alone; 0: it did not say
}

// Send delivers one event: nil means that the endpoint answered 2xx. The id of the
// message is the event's, so that a repeat is known as one.
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
// there was none; the endpoint may have the message all the same.
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
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again; what it says does not matter
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
