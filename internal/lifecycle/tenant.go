package lifecycle

import (
	"fmt"

	"github.com/google/uuid"
)

// TenantID is our own random identifier of a tenant (UUIDv4). It discloses nothing
// about the customer and is the only tenant identifier that may appear in
// logs, spans, audit events and reports. It is never the clientKey.
type TenantID uuid.UUID

// NewTenantID returns a fresh random identifier.
func NewTenantID() TenantID { return TenantID(uuid.New()) }

// ParseTenantID reads the canonical 36-character form. The error does not
// repeat the input: a caller may have pasted a client key by mistake.
func ParseTenantID(s string) (TenantID, error) {
	if len(s) != 36 {
		return TenantID{}, fmt.Errorf("a tenant id is a UUID of 36 characters, not %d", len(s))
	}
	id, err := uuid.Parse(s)
	if err != nil {
		return TenantID{}, fmt.Errorf("a tenant id is a UUID such as 5f0c1f2e-8d7a-4c7e-9a52-0d9f6f4f4a11")
	}
	return TenantID(id), nil
}

// String returns the canonical lower-case form.
func (t TenantID) String() string { return uuid.UUID(t).String() }

// IsZero reports whether t is the zero identifier, which no tenant has.
func (t TenantID) IsZero() bool { return t == TenantID{} }

// MarshalText implements encoding.TextMarshaler.
func (t TenantID) MarshalText() ([]byte, error) { return uuid.UUID(t).MarshalText() }

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *TenantID) UnmarshalText(b []byte) error {
	id, err := ParseTenantID(string(b))
	if err != nil {
		return err
	}
	*t = id
	return nil
}

// Ingress is the protocol by which a tenant was installed.
type Ingress string

// Bitbucket Connect is the only ingress this version serves.
const (
	Connect Ingress = "connect"
)

// Ingresses lists every ingress. The database's constraints have the same list.
func Ingresses() []Ingress { return []Ingress{Connect} }
