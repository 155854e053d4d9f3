package view

import (
	"time"

	"trakr/internal/lifecycle"
	deletion "trakr/internal/requests"
	"trakr/internal/store/requests"
)

// Request is a customer's deletion request.
type Request struct {
	RequestID              string                  `json:"request_id" doc:"a UUID"`
	State                  lifecycle.RequestState  `json:"state" doc:"how far the request has come"`
	TenantID               *string                 `json:"tenant_id,omitempty" doc:"random id of the tenant; absent when none was known"`
	Ticket                 string                  `json:"ticket" doc:"the customer's ticket"`
	RequestedBy            string                  `json:"requested_by" doc:"opaque id of the person or service that entered it"`
	ApprovedBy             *string                 `json:"approved_by,omitempty" doc:"opaque id of the person who approved it"`
	SubmittedTime          time.Time               `json:"submitted_time" doc:"when the customer asked"`
	ReceivedTime           time.Time               `json:"received_time" doc:"when it was entered"`
	ExpectedCompletionTime time.Time               `json:"expected_completion_time" doc:"when it is due"`
	MovedAt                time.Time               `json:"moved_at" doc:"when it entered its state"`
	ApprovedAt             *time.Time              `json:"approved_at,omitempty" doc:"when it was approved"`
	NotBefore              *time.Time              `json:"not_before,omitempty" doc:"end of the cooling-off"`
	Ground                 *requests.Ground        `json:"ground,omitempty" doc:"why it was denied"`
	HeldFrom               *lifecycle.RequestState `json:"held_from,omitempty" doc:"the state it returns to when the legal hold ends"`
	ExistingRequestID      *string                 `json:"existing_request_id,omitempty" doc:"of a duplicate: the request that was open"`
	Attempts               int                     `json:"attempts,omitempty" doc:"failed attempts"`
	RetryAt                *time.Time              `json:"retry_at,omitempty" doc:"when a failed request is retried"`
	ErasureID              *string                 `json:"erasure_id,omitempty" doc:"the erasure that fulfils it"`
	DeletedLiveAt          *time.Time              `json:"deleted_live_at,omitempty" doc:"when the rows were deleted from the live stores"`
	VerifiedAt             *time.Time              `json:"verified_at,omitempty" doc:"when a count of the tenant's rows returned zero"`
	BackupsClearAfter      *time.Time              `json:"backups_clear_after,omitempty" doc:"after this time no backup contains the rows"`
	CertificateID          *string                 `json:"certificate_id,omitempty" doc:"of the certificate of deletion"`
}

func newRequest(r requests.Request) Request {
	return Request{
		RequestID: r.ID, State: r.State, TenantID: r.TenantID, Ticket: r.Ticket, RequestedBy: r.RequestedBy,
		ApprovedBy: r.ApprovedBy, SubmittedTime: r.SubmittedTime, ReceivedTime: r.ReceivedTime,
		ExpectedCompletionTime: r.ExpectedCompletionTime, MovedAt: r.MovedAt, ApprovedAt: r.ApprovedAt,
		NotBefore: r.NotBefore, Ground: r.Ground, HeldFrom: r.HeldFrom, ExistingRequestID: r.ExistingRequestID,
		Attempts: r.Attempts, RetryAt: r.RetryAt, ErasureID: r.ErasureID, DeletedLiveAt: r.DeletedLiveAt,
		VerifiedAt: r.VerifiedAt, BackupsClearAfter: r.BackupsClearAfter, CertificateID: r.CertificateID,
	}
}

// ListedRequest is a request in a list.
type ListedRequest struct {
	Request

	Overdue bool `json:"overdue" doc:"the request is open after the time it was due"`
}

// NewListedRequests returns the models of a list.
func NewListedRequests(all []deletion.Listed) []ListedRequest {
	return each(all, func(r deletion.Listed) ListedRequest { return ListedRequest{newRequest(r.Request), r.Overdue} })
}

// RequestDetail is one request with its history and what is stored of the tenant now.
type RequestDetail struct {
	Request

	Overdue bool          `json:"overdue" doc:"the request is open after the time it was due"`
	Preview []TableCount  `json:"preview" doc:"what is stored of the tenant now, by table"`
	Holds   []Hold        `json:"holds" doc:"legal holds that keep the tenant's data now"`
	History []RequestStep `json:"history" doc:"every change of its state, oldest first"`
}

// TableCount is the number of rows that a table stores of a tenant, and what happens
// to them.
type TableCount struct {
	Store   string `json:"store" doc:"name of the store in the policy"`
	Table   string `json:"table" doc:"name of the table"`
	Column  string `json:"column" doc:"the column by which rows were counted"`
	Rows    *int64 `json:"count" doc:"null when they could not be counted"`
	Becomes string `json:"becomes" enum:"deleted,retained,unknown" doc:"what an erasure does with the rows"`
	Ground  string `json:"ground,omitempty" doc:"why the rows are retained, or why that is unknown"`
}

// RequestStep is one change of a request's state.
type RequestStep struct {
	From lifecycle.RequestState `json:"from,omitempty" doc:"the state before; absent for the first"`
	To   lifecycle.RequestState `json:"to" doc:"the state after"`
	By   string                 `json:"by" doc:"opaque id of the person, service or scheduler that changed it"`
	Ref  string                 `json:"ticket,omitempty" doc:"the ticket it was changed for"`
	At   time.Time              `json:"at" doc:"when it changed"`
}

// NewRequestDetail returns the model of s.
func NewRequestDetail(s deletion.Shown) RequestDetail {
	return RequestDetail{
		Request: newRequest(s.Request), Overdue: s.Overdue, Holds: NewHolds(s.Holds),
		Preview: each(s.Preview, func(c deletion.Count) TableCount { return TableCount(c) }),
		History: each(s.History, func(x requests.Step) RequestStep { return RequestStep(x) }),
	}
}
