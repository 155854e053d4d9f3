// Package webhook encodes, signs, sends and verifies events: CloudEvents 1.0 in
// structured mode, signed as Standard Webhooks. No error contains the secret, the address
// or the receiver's text. The package does not know what an event is about, and does not
// retry: see delivery.
package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"trakr/internal/lifecycle"
)

// Event is a CloudEvents 1.0 event (cloudevents.io, core attributes). Its data must
// hold no tenant value.
type Event struct {
	SpecVersion     string    `json:"specversion"` // "1.0"
	ID              string    `json:"id"`          // unique for the source; identifies a repeat
	Source          string    `json:"source"`      // URI reference
	Type            string    `json:"type"`        // reverse-DNS
	Subject         string    `json:"subject,omitempty"`
	Time            time.Time `json:"time"`
	Sequence        string    `json:"sequence,omitempty"` // CloudEvents' extension: a later one of the same subject sorts after
	DataContentType string    `json:"datacontenttype"`    // "application/json"
	Data            any       `json:"data"`
}

// Encode returns the event as it is sent (structured mode, JSON). The same event
// gives the same bytes.
func (e Event) Encode() ([]byte, error) {
	e.SpecVersion, e.DataContentType, e.Time = "1.0", "application/json", e.Time.UTC()
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encoding an event: %w", err)
	}
	return b, nil
}

// Key is a secret of Standard Webhooks (specification 1.0, symmetric signatures).
type Key struct{ raw []byte }

const keyPrefix = "whsec_"

// ParseKey reads a secret of the form whsec_ and base64 of 24 to 64 bytes.
func ParseKey(s lifecycle.Secret) (Key, error) {
	text, ok := strings.CutPrefix(s.Reveal(), keyPrefix)
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(raw) < 24 || len(raw) > 64 {
		return Key{}, errors.New("must be whsec_ and base64 of 24 to 64 random bytes; make one with: echo whsec_$(openssl rand -base64 32)")
	}
	return Key{raw}, nil
}

// Sign returns the value of the header webhook-signature for a message sent at that
// second.
func (k Key) Sign(id string, at time.Time, body []byte) string {
	h := hmac.New(sha256.New, k.raw)
	h.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
	h.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// Tolerance is how far the clocks of sender and receiver may be apart: a message with
// an older time is a replay.
const Tolerance = 5 * time.Minute

// Verify reports whether one of the signatures in the header webhook-signature is valid
// for this message and its time is within Tolerance of now. The comparison takes constant
// time.
func (k Key) Verify(id, timestamp, signatures string, body []byte, now time.Time) bool {
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || id == "" {
		return false
	}
	at := time.Unix(seconds, 0)
	want, ok := k.Sign(id, at, body), 0
	for s := range strings.FieldsSeq(signatures) {
		ok |= subtle.ConstantTimeCompare([]byte(s), []byte(want))
	}
	return ok == 1 && now.Sub(at).Abs() <= Tolerance
}

// String keeps the key out of logs and errors.
func (Key) String() string { return "[redacted]" }

// GoString implements fmt.GoStringer.
func (Key) GoString() string { return "[redacted]" }
