package lifecycle

import (
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is a string that must not be shown: a tenant's value, a token, a key.
// Every way of printing or encoding it yields "[redacted]"; Reveal is the one
// way to the text, so a search for Reveal finds every place that handles it.
type Secret struct{ v string }

// NewSecret wraps s.
func NewSecret(s string) Secret { return Secret{s} }

// Reveal returns the wrapped text.
func (s Secret) Reveal() string { return s.v }

// Empty reports whether there is nothing inside.
func (s Secret) Empty() bool { return s.v == "" }

// String implements fmt.Stringer.
func (s Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return redacted }

// Format implements fmt.Formatter so that no verb reaches the text.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON implements json.Marshaler.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// UnmarshalText implements encoding.TextUnmarshaler, so that a Secret can be
// read from the environment or a payload.
func (s *Secret) UnmarshalText(b []byte) error { s.v = string(b); return nil }
