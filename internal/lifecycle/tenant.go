package lifecycle

import (
	"fmt"

	"github.com/google/uuid"
)

// TenantID is our own random identifier of a tenant (UUIDv4). It says nothing
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

// State is where a tenant stands in its life.
type State string

// A tenant is live from its install to the beginning of its erasure; from then on
// it answers nothing, and it is erased when its values are gone. There is no way
// back: a re-install is a new tenant.
const (
	Live    State = "live"
	Erasing State = "erasing" // its tombstone stands; its values are on their way out, or held by law
	Erased  State = "erased"
)

// Ingress names the door a tenant came in by.
type Ingress string

// Bitbucket Connect is the only ingress this version serves.
const (
	Connect Ingress = "connect"
)

// Trigger says why a tenant was erased; the words are the certificate's.
type Trigger string

// The triggers of an erasure.
const (
	TriggerUninstall      Trigger = "uninstall"      // Bitbucket's callback
	TriggerRequest        Trigger = "request"        // a customer's deletion request
	TriggerProbe          Trigger = "probe"          // an uninstall that never reached us
	TriggerRetention      Trigger = "retention"      // a period of the policy ended
	TriggerRestoreReplay  Trigger = "restore_replay" // a restored backup had brought the tenant back
	TriggerForgeMigration Trigger = "forge_migration"
)

// Triggers lists every trigger.
func Triggers() []Trigger {
	return []Trigger{TriggerUninstall, TriggerRequest, TriggerProbe, TriggerRetention, TriggerRestoreReplay, TriggerForgeMigration}
}
