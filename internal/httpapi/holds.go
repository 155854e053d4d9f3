package httpapi

import (
	"context"
	"net/http"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/holds"
	"trakr/internal/view"
)

func (a *admin) holdRoutes() {
	add(a, operation{
		method: http.MethodGet, path: "/v1/holds", tag: tagHolds, roles: observers,
		summary: "List legal holds",
	}, a.listHolds)
	add(a, operation{
		method: http.MethodPost, path: "/v1/holds", tag: tagHolds, roles: observers, status: http.StatusCreated,
		summary: "Place a legal hold",
		detail:  "While it is active nothing of the tenant is deleted.",
		fails:   []lifecycle.Kind{lifecycle.ReasonRequired, lifecycle.TenantUnknown, lifecycle.TenantErased, lifecycle.RequestConflict},
	}, a.placeHold)
	add(a, operation{
		method: http.MethodPost, path: "/v1/holds/{id}/release", tag: tagHolds, roles: releasers,
		summary: "Release a legal hold",
		detail:  "An erasure that waited for it continues.",
		fails:   []lifecycle.Kind{lifecycle.ReasonRequired, lifecycle.NotFound, lifecycle.RequestConflict},
	}, a.releaseHold)
}

type holdsInput struct {
	Tenant string `query:"tenant_id" doc:"only holds on this tenant"`
	All    bool   `query:"all" doc:"released and expired ones too"`
}

type holdList struct {
	Holds []view.Hold `json:"holds" doc:"newest first"`
}

func (a *admin) listHolds(ctx context.Context, in *holdsInput) (*body[holdList], error) {
	tenant, err := optionalID(in.Tenant)
	if err != nil {
		return nil, err
	}
	now := a.Audit.Now()
	if in.All {
		now = time.Time{}
	}
	all, err := a.Holds.List(ctx, tenant, now)
	if err != nil {
		return nil, err
	}
	return &body[holdList]{holdList{view.NewHolds(all)}}, nil
}

type placeInput struct {
	Body struct {
		TenantID string       `json:"tenant_id" doc:"the tenant's id, as the look-up returns it" maxLength:"36"`
		Ground   holds.Ground `json:"ground" doc:"the legal ground"`
		Until    time.Time    `json:"until" doc:"when it ends, RFC 3339; the policy bounds it"`
		Reason   reason       `json:"reason" doc:"its ref is the ticket"`
	}
}

func (a *admin) placeHold(ctx context.Context, in *placeInput) (*body[view.Hold], error) {
	tenant, err := parseID(in.Body.TenantID)
	if err != nil {
		return nil, err
	}
	who := access(ctx, in.Body.Reason, lifecycle.LegalRequest)
	h, err := a.Holds.Place(ctx, who, holds.Order{Tenant: tenant, Ground: in.Body.Ground, Until: in.Body.Until})
	if err != nil {
		return nil, err
	}
	return &body[view.Hold]{view.NewHold(h)}, nil
}

type releaseInput struct {
	ID   string `path:"id" doc:"the hold's id"`
	Body *stepBody
}

func (a *admin) releaseHold(ctx context.Context, in *releaseInput) (*body[view.Hold], error) {
	h, err := a.Holds.Release(ctx, access(ctx, in.Body.reason(), lifecycle.LegalRequest), in.ID)
	if err != nil {
		return nil, err
	}
	return &body[view.Hold]{view.NewHold(h)}, nil
}
