package lifecycle

import (
	"regexp"
	"strings"
)

// ActorType is the kind of caller in an audit event. The set is closed.
type ActorType string

// The actor types.
const (
	ActorBitbucket ActorType = "bitbucket" // a callback whose signature or proof was verified
	ActorService   ActorType = "service"   // another part of the vendor's product
	ActorStaff     ActorType = "staff"     // a person: support, reviewer
	ActorScheduler ActorType = "scheduler" // our own cron
	ActorOperator  ActorType = "operator"  // the person who runs the service
	ActorAnonymous ActorType = "anonymous" // a caller that did not prove its identity
)

// Person reports whether a human acts, who must then name a ticket.
func (a ActorType) Person() bool { return a == ActorStaff || a == ActorOperator }

// Role decides what a caller may do. Roles of people and services are carried
// by API tokens; the last two are the service's own parts.
type Role string

// The roles.
const (
	RoleService   Role = "service"
	RoleSupport   Role = "support"
	RoleReviewer  Role = "reviewer"
	RoleOperator  Role = "operator"
	RoleIngress   Role = "ingress"   // the code that verifies callbacks
	RoleScheduler Role = "scheduler" // the code that runs sweeps
)

// Roles lists every role that acts.
func Roles() []Role { return append(TokenRoles(), RoleIngress, RoleScheduler) }

// TokenRoles lists the roles an API token can carry.
func TokenRoles() []Role { return []Role{RoleService, RoleSupport, RoleReviewer, RoleOperator} }

// ActorType returns the kind of caller that acts in role r.
func (r Role) ActorType() ActorType {
	switch r {
	case RoleService:
		return ActorService
	case RoleSupport, RoleReviewer:
		return ActorStaff
	case RoleOperator:
		return ActorOperator
	case RoleIngress:
		return ActorBitbucket
	case RoleScheduler:
		return ActorScheduler
	}
	return ActorAnonymous
}

// Caller is who asks. ID is opaque (a token's id, "uid:1000"), never a name or
// an address.
type Caller struct {
	Type ActorType
	ID   string
	Role Role
}

// ReasonCode is why a caller acts, in the terms of Google's Access Transparency log.
type ReasonCode string

// The reason codes.
const (
	CustomerInitiatedSupport  ReasonCode = "customer_initiated_support"
	ServiceOperation          ReasonCode = "service_operation"
	CustomerRequestFulfilment ReasonCode = "customer_request_fulfilment"
	SecurityReview            ReasonCode = "security_review"
	LegalRequest              ReasonCode = "legal_request"
	IncidentResponse          ReasonCode = "incident_response"
	SystemSweep               ReasonCode = "system_sweep"
	ReviewerExport            ReasonCode = "reviewer_export"
)

// ReasonCodes lists every reason code.
func ReasonCodes() []ReasonCode {
	return []ReasonCode{CustomerInitiatedSupport, ServiceOperation, CustomerRequestFulfilment,
		SecurityReview, LegalRequest, IncidentResponse, SystemSweep, ReviewerExport}
}

// Reason is why a caller asks. Ref names a ticket ("SUP-1234"), never text
// about a customer; a person must give one.
type Reason struct {
	Code ReasonCode
	Ref  string
}

// A reference must look like one: no spaces, no "@", so that neither prose nor
// an e-mail address ends up in a log that can never be edited.
var refForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/#:-]{0,63}$`)

// Access is one act's caller, reason and correlation. Every method of the door
// takes one.
type Access struct {
	Caller        Caller
	Reason        Reason
	RequestID     string // of the HTTP request or command, ours
	CorrelationID string // erasure, sweep run or deletion request this act belongs to
}

// Check refuses an access to tenant values without a caller or a reason: no
// code, or a person without a ticket, is reason-required.
func (a Access) Check() error {
	if err := a.CheckReason(); err != nil {
		return err
	}
	if a.Caller.Type.Person() && a.Reason.Ref == "" {
		return Fail(ReasonRequired, "A person must name the ticket this is done for.", At("/reason/ref", "required for people"))
	}
	return nil
}

// CheckReason is Check for acts that touch no tenant value (a report, a sweep, a
// token): a person may leave the ticket out.
func (a Access) CheckReason() error {
	known := false
	for _, c := range ReasonCodes() {
		known = known || c == a.Reason.Code
	}
	switch {
	case a.Caller.Type == "" || a.Caller.ID == "":
		return Fail(Internal, "an access without a caller")
	case !known:
		return Fail(ReasonRequired, "A reason code is needed: "+listCodes()+".", At("/reason/code", "unknown or missing code"))
	case a.Reason.Ref != "" && !refForm.MatchString(a.Reason.Ref):
		return Fail(ReasonRequired, "A reason's ref is a ticket such as SUP-1234: at most 64 characters, no spaces, no @.",
			At("/reason/ref", "not a ticket reference"))
	}
	return nil
}

func listCodes() string {
	var all []string
	for _, c := range ReasonCodes() {
		all = append(all, string(c))
	}
	return strings.Join(all, ", ")
}

// Recordable returns the part of the reason that may be recorded in the audit even
// when the access is refused: a known code and a reference in the right form.
// What a caller wrote otherwise could be anything, a customer's name included.
func (a Access) Recordable() Reason {
	var r Reason
	for _, c := range ReasonCodes() {
		if c == a.Reason.Code {
			r.Code = c
		}
	}
	if refForm.MatchString(a.Reason.Ref) {
		r.Ref = a.Reason.Ref
	}
	return r
}
