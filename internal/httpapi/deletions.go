package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"trakr/internal/lifecycle"
	deletionrequests "trakr/internal/requests"
	"trakr/internal/store/holds"
	"trakr/internal/store/requests"
	"trakr/internal/store/tenants"
)

// Who handles deletion requests, and who legal holds. Placing a hold keeps data and
// releasing one may delete it, which support alone may not decide.
var (
	handlers  = []lifecycle.Role{lifecycle.RoleSupport, lifecycle.RoleOperator}
	observers = []lifecycle.Role{lifecycle.RoleSupport, lifecycle.RoleOperator, lifecycle.RoleReviewer}
	releasers = reviews
)

// acted is the optional body of an act on a request: without a reason it is done for
// the request's own ticket.
type acted struct {
	Reason reason `json:"reason,omitempty"`
}

func (b *acted) why() reason {
	if b == nil {
		return reason{}
	}
	return b.Reason
}

func (a *admin) deletionRoutes() {
	fulfil := func(ctx context.Context, why reason) lifecycle.Access {
		return access(ctx, why, lifecycle.CustomerRequestFulfilment)
	}
	type listIn struct {
		State   string `query:"state" enum:"received,identity_check,awaiting_approval,approved,in_progress,verifying,awaiting_recipient,completed,completed_nothing_held,partially_completed,denied,cancelled,failed,on_hold,duplicate"`
		Open    bool   `query:"open" doc:"only those in which something has still to happen"`
		Overdue bool   `query:"overdue" doc:"only open ones past their expected_completion_time, the longest overdue first"`
		Tenant  string `query:"tenant_id"`
		Limit   int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	}
	type requestsOut struct {
		Requests []deletionrequests.Listed `json:"requests" doc:"newest first"`
	}
	add(a, http.MethodGet, "/v1/deletion-requests", "Customers' deletion requests", observers,
		func(ctx context.Context, in *listIn) (*body[requestsOut], error) {
			f := requests.Filter{State: lifecycle.RequestState(in.State), Open: in.Open, Limit: in.Limit}
			if in.Tenant != "" {
				var err error
				if f.Tenant, err = parseID(in.Tenant); err != nil {
					return nil, err
				}
			}
			all, err := a.Deletions.List(ctx, f, in.Overdue)
			if err != nil {
				return nil, err
			}
			return &body[requestsOut]{requestsOut{all}}, nil
		})
	type requestIn struct {
		Body struct {
			ClientKey     string    `json:"client_key,omitempty" maxLength:"512"`
			WorkspaceUUID string    `json:"workspace_uuid,omitempty" maxLength:"38"`
			SubmittedTime time.Time `json:"submitted_time,omitzero" doc:"when the customer asked, RFC 3339; default now. The request is due from here"`
			Reason        reason    `json:"reason" doc:"its ref is the customer's ticket"`
		}
	}
	type requestOut struct {
		Status int
		Body   deletionrequests.Shown
	}
	show := func(ctx context.Context, r requests.Request, err error) (*requestOut, error) {
		if err != nil {
			return nil, err
		}
		s, err := a.Deletions.Show(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		return &requestOut{Status: http.StatusOK, Body: s}, nil
	}
	add(a, http.MethodPost, "/v1/deletion-requests", "Enter a customer's deletion request; answers with what would be deleted. The client key or workspace is looked up and not kept", handlers,
		func(ctx context.Context, in *requestIn) (*requestOut, error) {
			s, err := tenants.ParseSubject(in.Body.ClientKey, in.Body.WorkspaceUUID)
			if err != nil {
				return nil, err
			}
			r, err := a.Deletions.Request(ctx, fulfil(ctx, in.Body.Reason), s, in.Body.SubmittedTime)
			out, err := show(ctx, r, err)
			if out != nil {
				out.Status = http.StatusCreated
			}
			return out, err
		})
	type idIn struct {
		ID string `path:"id" doc:"request id"`
	}
	add(a, http.MethodGet, "/v1/deletion-requests/{id}", "One deletion request with its history and what is held of the tenant now", observers,
		func(ctx context.Context, in *idIn) (*requestOut, error) {
			return show(ctx, requests.Request{ID: in.ID}, nil)
		})
	type actIn struct {
		ID   string `path:"id" doc:"request id"`
		Body *acted
	}
	for _, act := range []struct {
		name, summary string
		roles         []lifecycle.Role
		do            func(context.Context, lifecycle.Access, string) (requests.Request, error)
	}{
		{"identify", "Say that the customer itself asked, where the policy wants that in a step of its own", handlers, a.Deletions.Identify},
		{"approve", "Approve a request that another person entered; after the cooling-off it is carried out", handlers, a.Deletions.Approve},
		{"cancel", "Withdraw a request before its erasure begins", handlers, a.Deletions.Cancel},
		{"release", "Release every legal hold that keeps the request's tenant; the request goes on", releasers, a.Deletions.Release},
	} {
		add(a, http.MethodPost, "/v1/deletion-requests/{id}/"+act.name, act.summary, act.roles,
			func(ctx context.Context, in *actIn) (*requestOut, error) {
				r, err := act.do(ctx, fulfil(ctx, in.Body.why()), in.ID)
				return show(ctx, r, err)
			})
	}
	type denyIn struct {
		ID   string `path:"id" doc:"request id"`
		Body struct {
			Reason reason `json:"reason,omitempty"`
			Ground string `json:"ground" enum:"identity_not_proven,not_entitled,manifestly_unfounded,legal_obligation,legal_claim"`
		}
	}
	add(a, http.MethodPost, "/v1/deletion-requests/{id}/deny", "Deny a request that is not approved yet, on a ground", handlers,
		func(ctx context.Context, in *denyIn) (*requestOut, error) {
			r, err := a.Deletions.Deny(ctx, fulfil(ctx, in.Body.Reason), in.ID, requests.Ground(in.Body.Ground))
			return show(ctx, r, err)
		})
	type holdIn struct {
		ID   string `path:"id" doc:"request id"`
		Body struct {
			Reason reason    `json:"reason,omitempty"`
			Ground string    `json:"ground" enum:"legal_obligation,legal_claim,authority_order,restriction"`
			Until  time.Time `json:"until" doc:"RFC 3339"`
		}
	}
	add(a, http.MethodPost, "/v1/deletion-requests/{id}/hold", "Place a legal hold on the request's tenant; the request waits", observers,
		func(ctx context.Context, in *holdIn) (*requestOut, error) {
			r, err := a.Deletions.Hold(ctx, access(ctx, in.Body.Reason, lifecycle.LegalRequest), in.ID, holds.Ground(in.Body.Ground), in.Body.Until)
			return show(ctx, r, err)
		})
	type certificateIn struct {
		ID     string `path:"id" doc:"request id"`
		Format string `query:"format" enum:"json,html,pdf" default:"json"`
	}
	type certificateOut struct {
		ContentType string `header:"Content-Type"`
		Disposition string `header:"Content-Disposition"`
		Body        []byte
	}
	add(a, http.MethodGet, "/v1/deletion-requests/{id}/certificate", "The certificate of a completed request; verify it offline with trakr verify", observers,
		func(ctx context.Context, in *certificateIn) (*certificateOut, error) {
			b, kind, err := a.Deletions.Certificate(ctx, fulfil(ctx, reason{}), in.ID, in.Format)
			if err != nil {
				return nil, err
			}
			return &certificateOut{kind, `inline; filename="certificate.` + in.Format + `"`, b}, nil
		})
	a.erasureRoutes()
	a.holdRoutes()
}

func (a *admin) erasureRoutes() {
	type lookupIn struct {
		Body struct {
			ClientKey     string `json:"client_key,omitempty" maxLength:"512"`
			WorkspaceUUID string `json:"workspace_uuid,omitempty" maxLength:"38"`
			Reason        reason `json:"reason,omitempty"`
		}
	}
	type erasureOut struct {
		ErasureID   string          `json:"erasure_id"`
		State       string          `json:"state" enum:"in_progress,verifying,awaiting_recipient,completed"`
		Certificate json.RawMessage `json:"certificate,omitempty" doc:"once completed"`
	}
	add(a, http.MethodPost, "/v1/erasures/lookup", "Find the erasure of a client key, with its certificate; the look-up is audited", append(values[:len(values):len(values)], lifecycle.RoleOperator),
		func(ctx context.Context, in *lookupIn) (*body[erasureOut], error) {
			s, err := tenants.ParseSubject(in.Body.ClientKey, in.Body.WorkspaceUUID)
			if err != nil {
				return nil, err
			}
			e, certificate, err := a.Deletions.Erased(ctx, access(ctx, in.Body.Reason, lifecycle.ServiceOperation), s)
			if err != nil {
				return nil, err
			}
			return &body[erasureOut]{erasureOut{e.ID, string(e.State()), certificate}}, nil
		})
}

func (a *admin) holdRoutes() {
	type listIn struct {
		Tenant string `query:"tenant_id"`
		All    bool   `query:"all" doc:"released and expired ones too"`
	}
	type holdsOut struct {
		Holds []holds.Hold `json:"holds" doc:"newest first"`
	}
	add(a, http.MethodGet, "/v1/holds", "Legal holds", observers,
		func(ctx context.Context, in *listIn) (*body[holdsOut], error) {
			var tenant lifecycle.TenantID
			if in.Tenant != "" {
				var err error
				if tenant, err = parseID(in.Tenant); err != nil {
					return nil, err
				}
			}
			now := a.Audit.Now()
			if in.All {
				now = time.Time{}
			}
			all, err := a.Holds.List(ctx, tenant, now)
			if err != nil {
				return nil, err
			}
			return &body[holdsOut]{holdsOut{all}}, nil
		})
	type placeIn struct {
		Body struct {
			TenantID string    `json:"tenant_id" maxLength:"36"`
			Ground   string    `json:"ground" enum:"legal_obligation,legal_claim,authority_order,restriction"`
			Until    time.Time `json:"until" doc:"RFC 3339; the policy bounds it"`
			Reason   reason    `json:"reason" doc:"its ref is the ticket"`
		}
	}
	type heldOut struct {
		Status int
		Body   holds.Hold
	}
	add(a, http.MethodPost, "/v1/holds", "Place a legal hold: while it is active nothing of the tenant is deleted", observers,
		func(ctx context.Context, in *placeIn) (*heldOut, error) {
			tenant, err := parseID(in.Body.TenantID)
			if err != nil {
				return nil, err
			}
			h, err := a.Holds.Place(ctx, access(ctx, in.Body.Reason, lifecycle.LegalRequest), holds.Order{Tenant: tenant, Ground: holds.Ground(in.Body.Ground), Until: in.Body.Until})
			if err != nil {
				return nil, err
			}
			return &heldOut{http.StatusCreated, h}, nil
		})
	type releaseIn struct {
		ID   string `path:"id" doc:"hold id"`
		Body *acted
	}
	add(a, http.MethodPost, "/v1/holds/{id}/release", "Release a legal hold; an erasure that waited for it goes on", releasers,
		func(ctx context.Context, in *releaseIn) (*body[holds.Hold], error) {
			h, err := a.Holds.Release(ctx, access(ctx, in.Body.why(), lifecycle.LegalRequest), in.ID)
			if err != nil {
				return nil, err
			}
			return &body[holds.Hold]{h}, nil
		})
}
