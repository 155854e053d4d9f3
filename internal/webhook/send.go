package webhook

import (
	"bytes"
	"context"
	"encoding/json"
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

// Send delivers one event: nil means that the endpoint answered 2xx. The id of the
// message is the event's, so that a repeat is known as one.
func (s *Sender) Send(ctx context.Context, e Event) error {
	e.SpecVersion, e.DataContentType, e.Time = "1.0", "application/json", e.Time.UTC()
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encoding an event: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return errors.New("the webhook's address cannot be used") // the error itself names it
	}
	at := s.now()
	req.Header.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
	req.Header.Set("User-Agent", "trakr")
	req.Header.Set("Webhook-Id", e.ID)
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
	req.Header.Set("Webhook-Signature", s.key.Sign(e.ID, at, body))
	resp, err := s.client.Do(req)
	if err != nil {
		return errors.New("the webhook's endpoint does not answer")
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again; what it says does not matter
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the webhook's endpoint answered %d", resp.StatusCode)
	}
	return nil
}
