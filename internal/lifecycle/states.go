package lifecycle

import "slices"

// TenantState is how far a tenant's life has come. The constraint
// tenants_state_known lists the same states.
type TenantState string

// A tenant is live from its install to the start of its erasure; from then on it
// answers nothing, and it is erased once its values are deleted. There is no way
// back: a re-install creates a new tenant.
const (
	Live    TenantState = "live"
	Erasing TenantState = "erasing" // its tombstone is written; its values are being deleted, or kept by a legal hold
	Erased  TenantState = "erased"
)

// TenantStates lists every state of a tenant.
func TenantStates() []TenantState { return []TenantState{Live, Erasing, Erased} }

// ErasureState is how far an erasure has come. It is derived from the times of its
// steps; no column stores it.
type ErasureState string

// States of an erasure, in order.
const (
	ErasureBegun             ErasureState = "begun"              // the tombstone is written
	ErasureDeleted           ErasureState = "deleted"            // the rows are deleted from the live stores
	ErasureVerified          ErasureState = "verified"           // a sweep counted zero rows afterwards
	ErasureAwaitingRecipient ErasureState = "awaiting_recipient" // the end service has not acknowledged its deletion
	ErasureCertified         ErasureState = "certified"
)

// ErasureStates lists every state of an erasure.
func ErasureStates() []ErasureState {
	return []ErasureState{ErasureBegun, ErasureDeleted, ErasureVerified, ErasureAwaitingRecipient, ErasureCertified}
}

// RequestState is how far a customer's deletion request has come (the states of
// OpenDSR, refined). The constraint deletion_requests_state_known lists the same
// states.
type RequestState string

// States of a deletion request.
const (
	RequestReceived             RequestState = "received"
	RequestIdentityCheck        RequestState = "identity_check"    // a person has yet to confirm that the customer asked
	RequestAwaitingApproval     RequestState = "awaiting_approval" // by a second person
	RequestApproved             RequestState = "approved"          // cooling off until not_before
	RequestInProgress           RequestState = "in_progress"       // the erasure is ordered
	RequestVerifying            RequestState = "verifying"         // deleted; counted and certified next
	RequestAwaitingRecipient    RequestState = "awaiting_recipient"
	RequestCompleted            RequestState = "completed"
	RequestCompletedNothingHeld RequestState = "completed_nothing_held"
	RequestPartiallyCompleted   RequestState = "partially_completed" // rows remain: needs action
	RequestDenied               RequestState = "denied"
	RequestCancelled            RequestState = "cancelled"
	RequestFailed               RequestState = "failed" // retried at retry_at
	RequestOnHold               RequestState = "on_hold"
	RequestDuplicate            RequestState = "duplicate" // another request for the tenant is open
)

// RequestStates lists every state of a deletion request.
func RequestStates() []RequestState {
	return []RequestState{
		RequestReceived, RequestIdentityCheck, RequestAwaitingApproval, RequestApproved, RequestInProgress,
		RequestVerifying, RequestAwaitingRecipient, RequestCompleted, RequestCompletedNothingHeld,
		RequestPartiallyCompleted, RequestDenied, RequestCancelled, RequestFailed, RequestOnHold, RequestDuplicate,
	}
}

// Open reports whether a step of the request is still to come. The predicate of
// the database's index of open requests is the same.
func (s RequestState) Open() bool {
	ended := []RequestState{RequestCompleted, RequestCompletedNothingHeld, RequestDenied, RequestCancelled, RequestDuplicate}
	return !slices.Contains(ended, s)
}

// Trigger is why a tenant was erased, in the terms of the certificate. The
// constraint erasures_trigger_known lists the same triggers.
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
