package lifecycle

import (
	"errors"
	"time"
)

// Kind is the stable type of a failure. Its text is the last path segment of
// the problem document's "type" (RFC 9457) and never changes. A Kind is itself
// an error, so errors.Is(err, lifecycle.TenantUnknown) works.
type Kind string

// The kinds. A failure that is none of them is Internal and shows no detail.
const (
	AuditUnavailable Kind = "audit-unavailable" // 503: the act was refused because it could not be recorded
	StoreUnavailable Kind = "store-unavailable" // 503: the database does not answer; never means "unknown"
	ProofUnavailable Kind = "proof-unavailable" // 503: Bitbucket did not answer the proof of possession
	BitbucketRefused Kind = "bitbucket-refused" // 409: Bitbucket gives no token for this installation
	KeysOutdated     Kind = "keys-outdated"     // 503: this instance lacks the key that values are sealed with
	Unauthenticated  Kind = "unauthenticated"   // 401: no usable bearer token
	SignatureInvalid Kind = "signature-invalid" // 401: callback not proven, or tenant not held
	Forbidden        Kind = "forbidden"         // 403: the role may not do this
	FieldNotAllowed  Kind = "field-not-allowed" // 422: policy does not release the field
	TenantUnknown    Kind = "tenant-unknown"    // 404
	TenantErased     Kind = "tenant-erased"     // 410
	NotFound         Kind = "not-found"         // 404: no such resource
	MethodNotAllowed Kind = "method-not-allowed"
	RequestConflict  Kind = "request-conflict"        // 409
	ReasonRequired   Kind = "reason-required"         // 400
	RequestInvalid   Kind = "request-invalid"         // 400/422: an API request that cannot be read
	PayloadInvalid   Kind = "payload-invalid"         // 400: a callback's body that cannot be read
	PayloadTooLarge  Kind = "payload-too-large"       // 413
	SweepRunning     Kind = "sweep-running"           // 409
	OnHold           Kind = "on-hold"                 // 409: a legal hold keeps the tenant's data
	SamePerson       Kind = "approval-by-same-person" // 403: an approval needs a second person
	RateLimited      Kind = "rate-limited"            // 429
	Internal         Kind = "internal"                // 500
)

// Error implements error.
func (k Kind) Error() string { return string(k) }

// Pointer names a place in the request (RFC 6901 JSON Pointer) and what is
// wrong there, never the value there.
type Pointer struct {
	Pointer string `json:"pointer" doc:"place in the request, RFC 6901"`
	Detail  string `json:"detail" doc:"what is wrong there"`
}

// Fault is a failure with a Kind, a sentence for the caller that names the
// cause and the way out, and optionally the places and the time to retry.
type Fault struct {
	Kind       Kind
	Detail     string
	Pointers   []Pointer
	RetryAfter time.Duration
	Reason     string // closed-set cause for the audit event's status_detail, e.g. "expired"
	Existing   string // id of the deletion request that conflicts
	cause      error
}

// Error implements error.
func (f *Fault) Error() string {
	s := string(f.Kind)
	if f.Detail != "" {
		s += ": " + f.Detail
	}
	if f.cause != nil {
		s += ": " + f.cause.Error()
	}
	return s
}

// Is makes errors.Is(fault, kind) true for the fault's own kind.
func (f *Fault) Is(target error) bool { k, ok := target.(Kind); return ok && k == f.Kind }

// Unwrap returns the cause.
func (f *Fault) Unwrap() error { return f.cause }

// Option completes a Fault.
type Option func(*Fault)

// At adds a place in the request.
func At(pointer, detail string) Option {
	return func(f *Fault) { f.Pointers = append(f.Pointers, Pointer{pointer, detail}) }
}

// After sets when a retry makes sense.
func After(d time.Duration) Option { return func(f *Fault) { f.RetryAfter = d } }

// Because sets the closed-set cause that the audit event carries.
func Because(reason string) Option { return func(f *Fault) { f.Reason = reason } }

// Existing names the deletion request that conflicts.
func Existing(requestID string) Option { return func(f *Fault) { f.Existing = requestID } }

// Cause keeps err for the log. Its text must hold no tenant value.
func Cause(err error) Option { return func(f *Fault) { f.cause = err } }

// Fail makes a Fault. It is the one way to make an error that a user sees.
func Fail(k Kind, detail string, opts ...Option) error {
	f := &Fault{Kind: k, Detail: detail}
	for _, o := range opts {
		o(f)
	}
	return f
}

// AsFault returns the Fault in err's chain; an error without one becomes
// Internal with no detail.
func AsFault(err error) *Fault {
	var f *Fault
	if errors.As(err, &f) {
		return f
	}
	var k Kind
	if errors.As(err, &k) {
		return &Fault{Kind: k, cause: err}
	}
	return &Fault{Kind: Internal, cause: err}
}
