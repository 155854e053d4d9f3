// Package webhook sends events to an endpoint of somebody else: CloudEvents 1.0
// in structured mode, signed as Standard Webhooks. It promises that each event is
// delivered at least once while it is young enough, in no promised order, and that
// no error and no log line holds the secret, the address or the receiver's words.
// It does not know what the events are about: whoever keeps them does.
package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"

	"trakr/internal/lifecycle"
)

// Event is a CloudEvents 1.0 event (cloudevents.io, core attributes). Its data must
// hold no tenant value.
type Event struct {
	SpecVersion     string    `json:"specversion"` // "1.0"
	ID              string    `json:"id"`          // unique for the source; the receiver tells repeats by it
	Source          string    `json:"source"`      // URI reference
	Type            string    `json:"type"`        // reverse-DNS
	Subject         string    `json:"subject,omitempty"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"` // "application/json"
	Data            any       `json:"data"`
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

// String keeps the key out of whatever prints it.
func (Key) String() string { return "[redacted]" }

// GoString implements fmt.GoStringer.
func (Key) GoString() string { return "[redacted]" }
