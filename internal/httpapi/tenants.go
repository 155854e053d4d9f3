package httpapi

import (
	"context"
	"net/http"

	"trakr/internal/lifecycle"
	"trakr/internal/store/tenants"
	"trakr/internal/view"
)

func (a *admin) tenantRoutes() {
	add(a, operation{
		method: http.MethodPost, path: "/v1/tenants/lookup", tag: tagTenants, roles: finders,
		summary: "Find a tenant by client key or workspace UUID",
		detail:  "The look-up is audited by keyed digest; neither value is stored or repeated.",
		fails:   []lifecycle.Kind{lifecycle.ReasonRequired, lifecycle.TenantUnknown, lifecycle.KeysOutdated},
	}, a.lookupTenant)
	add(a, operation{
		method: http.MethodGet, path: "/v1/tenants/{id}", tag: tagTenants, roles: everyone,
		summary: "Get the registry's entry of a tenant, which contains no customer data",
		fails:   []lifecycle.Kind{lifecycle.TenantUnknown},
	}, a.getTenant)
	add(a, operation{
		method: http.MethodPost, path: "/v1/tenants/{id}/reads", tag: tagTenants, roles: valueReaders,
		summary: "Read guarded fields of a tenant",
		detail:  "The read is audited before the answer is sent. The policy decides which role reads which field, and for which reasons.",
		fails: []lifecycle.Kind{
			lifecycle.ReasonRequired, lifecycle.FieldNotAllowed, lifecycle.TenantUnknown, lifecycle.TenantErased, lifecycle.KeysOutdated,
		},
	}, a.readTenant)
}

type lookupInput struct {
	Body lookupBody
}

func (a *admin) lookupTenant(ctx context.Context, in *lookupInput) (*body[view.Tenant], error) {
	s, err := tenants.ParseSubject(in.Body.ClientKey, in.Body.WorkspaceUUID)
	if err != nil {
		return nil, err
	}
	t, err := a.Door.Lookup(ctx, access(ctx, in.Body.Reason, lifecycle.ServiceOperation), s)
	if err != nil {
		return nil, err
	}
	return &body[view.Tenant]{view.NewTenant(t)}, nil
}

func (a *admin) getTenant(ctx context.Context, in *TenantPath) (*body[view.Tenant], error) {
	id, err := parseID(in.ID)
	if err != nil {
		return nil, err
	}
	t, err := a.Door.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return &body[view.Tenant]{view.NewTenant(t)}, nil
}

type readInput struct {
	TenantPath

	Body struct {
		Fields []string `json:"fields" doc:"names of guarded fields" maxItems:"16"`
		Reason reason   `json:"reason,omitempty" doc:"why they are read"`
	}
}

type tenantValues struct {
	Fields  map[string]*string `json:"fields" doc:"exactly the requested fields; null where the tenant has none"`
	EventID string             `json:"event_id" doc:"the audit event that was committed before this answer"`
}

func (a *admin) readTenant(ctx context.Context, in *readInput) (*body[tenantValues], error) {
	id, err := parseID(in.ID)
	if err != nil {
		return nil, err
	}
	fields := make([]lifecycle.Field, len(in.Body.Fields))
	for i, f := range in.Body.Fields {
		fields[i] = lifecycle.Field(f)
	}
	got, err := a.Door.Read(ctx, access(ctx, in.Body.Reason, ""), id, fields...)
	if err != nil {
		return nil, err
	}
	out := tenantValues{Fields: map[string]*string{}, EventID: got.EventID.String()}
	for _, f := range fields {
		out.Fields[string(f)] = nil
		if v, ok := got.Values[f]; ok {
			s := v.Reveal()
			out.Fields[string(f)] = &s
		}
	}
	return &body[tenantValues]{out}, nil
}
