package certificate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"trakr/internal/lifecycle"
)

// State is what a certificate certifies.
type State string

// The states.
const (
	Erased      State = "erased"       // a tenant's rows were deleted
	NothingHeld State = "nothing_held" // there was nothing to delete
)

// The methods: how data is deleted.
const (
	RowDelete    = "row_delete"    // rows were deleted from the live database
	KeyDestroy   = "key_destroy"   // the key that decrypts them was destroyed
	BackupExpiry = "backup_expiry" // backups that may hold them reach the end of their period
)

// Clean is the one result of a verification on which a certificate can rest.
const Clean = "clean"

// How a legal hold ended, without which there is no erasure.
const (
	HoldReleased = "released"
	HoldExpired  = "expired"
)

// Certificate is a Certificate of Deletion (logical). Issue sets Statement, KeyID,
// Manifest and Signature.
type Certificate struct {
	CertificateID string            `json:"certificate_id"` // UUID
	State         State             `json:"state"`
	Statement     string            `json:"statement"` // what is claimed and what is not
	IssuedAt      Time              `json:"issued_at"`
	Issuer        string            `json:"issuer"`
	TenantID      string            `json:"tenant_id,omitempty"` // our random id; absent when nothing was held
	SubjectDigest string            `json:"subject_digest"`      // keyed digest of what the customer is known by, hex
	ErasureID     string            `json:"erasure_id,omitempty"`
	RequestID     string            `json:"request_id,omitempty"` // the customer's deletion request, where there was one
	Trigger       lifecycle.Trigger `json:"trigger"`

	RequestedAt       Time `json:"requested_at"`
	StartedAt         Time `json:"started_at,omitzero"`          // from here on the tenant answered nothing
	DeletedLiveAt     Time `json:"deleted_live_at,omitzero"`     // deleted from the live database
	BackupsClearAfter Time `json:"backups_clear_after,omitzero"` // after it no backup holds the rows

	Method       []string     `json:"method"`
	Stores       []Store      `json:"stores"`
	Verification Verification `json:"verification"`
	Recipients   []Recipient  `json:"recipients_notified"`
	// RecipientsNote is the reason why no recipient is listed.
	RecipientsNote string     `json:"recipients_note,omitempty"`
	Retained       []Retained `json:"retained"`
	Hold           *Hold      `json:"hold,omitempty"` // the legal hold that delayed the erasure
	Audit          Audit      `json:"audit"`

	ToolVersion string            `json:"tool_version"`
	PolicyHash  string            `json:"policy_hash"`
	KeyID       string            `json:"key_id"`    // name+hash of the log's key
	Manifest    map[string]string `json:"manifest"`  // JSON Pointer to hex SHA-256: see the package's doc
	Signature   string            `json:"signature"` // Ed25519, base64
}

// Store is one table of one store, counted by the role that verifies.
type Store struct {
	Name        string `json:"name"`
	Location    string `json:"location"` // as the policy declares it
	Table       string `json:"table"`
	RowsBefore  int64  `json:"rows_before"`
	RowsDeleted int64  `json:"rows_deleted"`
	RowsAfter   int64  `json:"rows_after"`
}

// Verification is the sweep that looked for what might be left.
type Verification struct {
	SweepRunID      string `json:"sweep_run_id"`     // UUID
	PredicateDigest string `json:"predicate_digest"` // hex SHA-256 of what was asked of the database
	Result          string `json:"result"`
	VerifiedAt      Time   `json:"verified_at"`
	Role            string `json:"role"` // the database role that counted; not the one that deletes
}

// Recipient had received values and was notified to delete them.
type Recipient struct {
	Name           string `json:"name"`
	AcknowledgedAt Time   `json:"acknowledged_at,omitzero"` // absent: not when the certificate was issued
}

// Retained is what is kept, on which ground and until when.
type Retained struct {
	What   string `json:"what"`
	Ground string `json:"ground"`
	Until  string `json:"until"` // a date, or the event and period that end it
}

// Hold is a legal hold that delayed the erasure.
type Hold struct {
	Ground string `json:"ground"`
	Until  Time   `json:"until"`
	State  string `json:"state"` // HoldReleased or HoldExpired
}

// Audit is the evidence: records of the log and the signed head of its tree.
type Audit struct {
	Events     []Event `json:"events"` // by position
	LogIndexes []int64 `json:"log_indexes"`
	Checkpoint string  `json:"checkpoint"` // C2SP tlog-checkpoint, a signed note
}

// Event is one record and its proof.
type Event struct {
	EventID   string   `json:"event_id"`
	LogIndex  int64    `json:"log_index"`
	Record    string   `json:"record"`    // the exact canonical bytes that are hashed
	Inclusion []string `json:"inclusion"` // audit path, base64
}

// Time is a moment in UTC, exact to the microsecond, as the log's records have it.
type Time struct{ time.Time }

const timeForm = "2006-01-02T15:04:05.000000Z"

// At returns t as a certificate writes it.
func At(t time.Time) Time {
	if t.IsZero() {
		return Time{}
	}
	return Time{t.UTC().Truncate(time.Microsecond)}
}

// String returns the form in which it is written.
func (t Time) String() string { return t.UTC().Format(timeForm) }

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) { return json.Marshal(t.String()) }

// UnmarshalJSON implements json.Unmarshaler. What is not a time in the one form is
// no time: Verify names it, because it does not come out as it went in.
func (t *Time) UnmarshalJSON(b []byte) error {
	*t = Time{}
	var s string
	if json.Unmarshal(b, &s) != nil {
		return nil
	}
	if got, err := time.Parse(timeForm, s); err == nil {
		*t = Time{got}
	}
	return nil
}

// JSON returns the certificate's file. The same certificate gives the same bytes,
// which may also be inside an HTML script element: <, > and & are escaped.
func (c Certificate) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing a certificate: %w", err)
	}
	return append(b, '\n'), nil
}

// Parse reads a certificate's file and refuses what is not in its form. It does not
// verify it.
func Parse(b []byte) (Certificate, error) {
	c, _, faults := read(b)
	if len(faults) > 0 {
		return Certificate{}, fmt.Errorf("reading a certificate: %s: %s", faults[0].Pointer, faults[0].Detail)
	}
	return c, nil
}

// read returns the certificate and its leaves by pointer, or what is wrong with its
// form.
func read(b []byte) (Certificate, map[string]string, []Finding) {
	leaves, fault := flatten(b)
	if fault != nil {
		return Certificate{}, nil, []Finding{*fault}
	}
	// A wrong type leaves a field empty, an unknown member is dropped, and a name in
	// other letters is taken: all three show when the result is written again.
	var c Certificate
	d := json.NewDecoder(bytes.NewReader(b))
	_ = d.Decode(&c)
	again, err := json.Marshal(c)
	if err != nil {
		return c, leaves, []Finding{{Malformed, "", "it cannot be written again"}}
	}
	back, fault := flatten(again)
	if fault != nil {
		return c, leaves, []Finding{*fault}
	}
	return c, leaves, formFaults(leaves, back)
}
