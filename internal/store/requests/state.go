package requests

import "slices"

// State is how far a deletion request has come (the words of OpenDSR, refined).
type State string

// The states.
const (
	Received             State = "received"
	IdentityCheck        State = "identity_check"    // somebody has yet to vouch that the customer asked
	AwaitingApproval     State = "awaiting_approval" // by a second person
	Approved             State = "approved"          // cooling off until not_before
	InProgress           State = "in_progress"       // the erasure is ordered
	Verifying            State = "verifying"         // deleted; counted and certified next
	AwaitingRecipient    State = "awaiting_recipient"
	Completed            State = "completed"
	CompletedNothingHeld State = "completed_nothing_held"
	PartiallyCompleted   State = "partially_completed" // rows remain: needs action
	Denied               State = "denied"
	Cancelled            State = "cancelled"
	Failed               State = "failed" // tried again at retry_at
	OnHold               State = "on_hold"
	Duplicate            State = "duplicate" // another request for the tenant is open
)

// States lists every state.
func States() []State {
	return []State{Received, IdentityCheck, AwaitingApproval, Approved, InProgress, Verifying, AwaitingRecipient, Completed,
		CompletedNothingHeld, PartiallyCompleted, Denied, Cancelled, Failed, OnHold, Duplicate}
}

// Open reports whether something has still to happen. The database's index of open
// requests says the same.
func (s State) Open() bool {
	return !slices.Contains([]State{Completed, CompletedNothingHeld, Denied, Cancelled, Duplicate}, s)
}

// Ground is why a request is denied.
type Ground string

// The grounds.
const (
	IdentityNotProven   Ground = "identity_not_proven"  // GDPR Art. 12(6)
	NotEntitled         Ground = "not_entitled"         // who asks may not decide about this workspace
	ManifestlyUnfounded Ground = "manifestly_unfounded" // Art. 12(5)
	LegalObligation     Ground = "legal_obligation"     // Art. 17(3)(b)
	LegalClaim          Ground = "legal_claim"          // Art. 17(3)(e)
)

// Grounds lists every ground.
func Grounds() []Ground {
	return []Ground{IdentityNotProven, NotEntitled, ManifestlyUnfounded, LegalObligation, LegalClaim}
}
