package httpapi

import (
	"context"
	"net/http"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/proof/certificate"
	"trakr/internal/store/holds"
	"trakr/internal/store/requests"
	"trakr/internal/store/tenants"
	"trakr/internal/view"
)

// Roles that handle deletion requests, and legal holds. Placing a hold keeps data and
// releasing one may delete it, which support alone may not decide.
var (
	handlers  = []lifecycle.Role{lifecycle.RoleSupport, lifecycle.RoleOperator}
	observers = []lifecycle.Role{lifecycle.RoleSupport, lifecycle.RoleOperator, lifecycle.RoleReviewer}
	releasers = reviewers
)

// stepFails are the kinds with which a step of a request can fail.
var stepFails = []lifecycle.Kind{
	lifecycle.ReasonRequired, lifecycle.NotFound, lifecycle.RequestConflict, lifecycle.OnHold, lifecycle.SamePerson, lifecycle.KeysOutdated,
}

func (a *admin) deletionRoutes() {
	add(a, operation{
		method: http.MethodGet, path: "/v1/deletion-requests", tag: tagRequests, roles: observers,
		summary: "List customers' deletion requests",
	}, a.listRequests)
	add(a, operation{
		method: http.MethodPost, path: "/v1/deletion-requests", tag: tagRequests, roles: handlers, status: http.StatusCreated,
		summary: "Enter a customer's deletion request",
		detail: "Answers with what would be deleted. The client key or workspace is looked up and not stored. " +
			"Another open request for the tenant is request-conflict with existing_request_id.",
		fails: stepFails,
	}, a.enterRequest)
	add(a, operation{
		method: http.MethodGet, path: "/v1/deletion-requests/{id}", tag: tagRequests, roles: observers,
		summary: "Get a deletion request with its history and what is stored of the tenant now",
		fails:   []lifecycle.Kind{lifecycle.NotFound},
	}, a.getRequest)
	a.stepRoutes()
	add(a, operation{
		method: http.MethodGet, path: "/v1/deletion-requests/{id}/certificate", tag: tagRequests, roles: observers,
		summary: "Get the certificate of a completed request",
		detail:  "Its issue is audited. Verify it offline with trakr verify.",
		media:   mediaTypes(certificate.Formats()),
		fails:   []lifecycle.Kind{lifecycle.ReasonRequired, lifecycle.NotFound},
	}, a.requestCertificate)
}

// stepRoutes are what people do with a request.
func (a *admin) stepRoutes() {
	for _, step := range []struct {
		name, summary string
		roles         []lifecycle.Role
		do            func(context.Context, lifecycle.Access, string) (requests.Request, error)
	}{
		{"identify", "Confirm that the customer asked, where the policy requires that as a separate step", handlers, a.Deletions.Identify},
		{"approve", "Approve a request that another person entered; it is carried out after the cooling-off",
			handlers, a.Deletions.Approve},
		{"cancel", "Withdraw a request before its erasure begins", handlers, a.Deletions.Cancel},
		{"release", "Release every legal hold on the request's tenant; the request continues", releasers, a.Deletions.Release},
	} {
		add(a, operation{
			method: http.MethodPost, path: "/v1/deletion-requests/{id}/" + step.name, tag: tagRequests, roles: step.roles,
			summary: step.summary, detail: "Without a body it is done for the request's own ticket.", fails: stepFails,
		}, func(ctx context.Context, in *stepInput) (*requestAnswer, error) {
			r, err := step.do(ctx, fulfilment(ctx, in.Body.reason()), in.ID)
			return a.showRequest(ctx, r, err)
		})
	}
	add(a, operation{
		method: http.MethodPost, path: "/v1/deletion-requests/{id}/deny", tag: tagRequests, roles: handlers,
		summary: "Deny a request that is not approved yet, on a ground", fails: stepFails,
	}, a.denyRequest)
	add(a, operation{
		method: http.MethodPost, path: "/v1/deletion-requests/{id}/hold", tag: tagRequests, roles: observers,
		summary: "Place a legal hold on the request's tenant; the request waits",
		fails:   append(stepFails, lifecycle.TenantUnknown, lifecycle.TenantErased),
	}, a.holdRequest)
}

// fulfilment is the access of a step of a request.
func fulfilment(ctx context.Context, why reason) lifecycle.Access {
	return access(ctx, why, lifecycle.CustomerRequestFulfilment)
}

// RequestPath is the path of one deletion request.
type RequestPath struct {
	ID string `path:"id" doc:"the request's id"`
}

// stepBody is the optional body of a step.
type stepBody struct {
	Reason reason `json:"reason,omitempty" doc:"why it is done, and for which ticket"`
}

func (b *stepBody) reason() reason {
	if b == nil {
		return reason{}
	}
	return b.Reason
}

type stepInput struct {
	RequestPath

	Body *stepBody
}

type requestAnswer struct {
	Body view.RequestDetail
}

// showRequest answers with a request after a step, or with why the step was refused.
func (a *admin) showRequest(ctx context.Context, r requests.Request, err error) (*requestAnswer, error) {
	if err != nil {
		return nil, err
	}
	s, err := a.Deletions.Show(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &requestAnswer{view.NewRequestDetail(s)}, nil
}

func (a *admin) getRequest(ctx context.Context, in *RequestPath) (*requestAnswer, error) {
	return a.showRequest(ctx, requests.Request{ID: in.ID}, nil)
}

type requestsInput struct {
	State   lifecycle.RequestState `query:"state" doc:"only requests in this state"`
	Open    bool                   `query:"open" doc:"only requests of which a step is still to come"`
	Overdue bool                   `query:"overdue" doc:"only open ones past their expected_completion_time, the longest overdue first"`
	Tenant  string                 `query:"tenant_id" doc:"only requests about this tenant"`
	Limit   int                    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"at most this many"`
}

type requestList struct {
	Requests []view.ListedRequest `json:"requests" doc:"newest first"`
}

func (a *admin) listRequests(ctx context.Context, in *requestsInput) (*body[requestList], error) {
	tenant, err := optionalID(in.Tenant)
	if err != nil {
		return nil, err
	}
	all, err := a.Deletions.List(ctx, requests.Filter{State: in.State, Open: in.Open, Limit: in.Limit, Tenant: tenant}, in.Overdue)
	if err != nil {
		return nil, err
	}
	return &body[requestList]{requestList{view.NewListedRequests(all)}}, nil
}

type enterInput struct {
	Body struct {
		ClientKey     string    `json:"client_key,omitempty" doc:"the client key; give this or workspace_uuid" maxLength:"512"`
		WorkspaceUUID string    `json:"workspace_uuid,omitempty" doc:"the workspace's UUID; give this or client_key" maxLength:"38"`
		SubmittedTime time.Time `json:"submitted_time,omitzero" doc:"when the customer asked, RFC 3339; default now"`
		Reason        reason    `json:"reason" doc:"its ref is the customer's ticket"`
	}
}

func (a *admin) enterRequest(ctx context.Context, in *enterInput) (*requestAnswer, error) {
	s, err := tenants.ParseSubject(in.Body.ClientKey, in.Body.WorkspaceUUID)
	if err != nil {
		return nil, err
	}
	r, err := a.Deletions.Request(ctx, fulfilment(ctx, in.Body.Reason), s, in.Body.SubmittedTime)
	return a.showRequest(ctx, r, err)
}

type denyInput struct {
	RequestPath

	Body struct {
		Reason reason          `json:"reason,omitempty" doc:"why it is denied, and for which ticket"`
		Ground requests.Ground `json:"ground" doc:"the legal ground"`
	}
}

func (a *admin) denyRequest(ctx context.Context, in *denyInput) (*requestAnswer, error) {
	r, err := a.Deletions.Deny(ctx, fulfilment(ctx, in.Body.Reason), in.ID, in.Body.Ground)
	return a.showRequest(ctx, r, err)
}

type holdRequestInput struct {
	RequestPath

	Body struct {
		Reason reason       `json:"reason,omitempty" doc:"why it is placed, and for which ticket"`
		Ground holds.Ground `json:"ground" doc:"the legal ground"`
		Until  time.Time    `json:"until" doc:"when it ends, RFC 3339; the policy bounds it"`
	}
}

func (a *admin) holdRequest(ctx context.Context, in *holdRequestInput) (*requestAnswer, error) {
	r, err := a.Deletions.Hold(ctx, access(ctx, in.Body.Reason, lifecycle.LegalRequest), in.ID, in.Body.Ground, in.Body.Until)
	return a.showRequest(ctx, r, err)
}

type requestCertificateInput struct {
	RequestPath

	Format string `query:"format" enum:"json,html,pdf" default:"json" doc:"the certificate's format"`
}

func (a *admin) requestCertificate(ctx context.Context, in *requestCertificateInput) (*file, error) {
	b, contentType, err := a.Deletions.Certificate(ctx, fulfilment(ctx, reason{}), in.ID, in.Format)
	if err != nil {
		return nil, err
	}
	return newFile(contentType, "certificate."+in.Format, b), nil
}
