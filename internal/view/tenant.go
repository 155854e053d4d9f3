package view

import (
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/tenants"
)

// Tenant is the registry's entry of a tenant.
type Tenant struct {
	TenantID    string                `json:"tenant_id" doc:"the random id that this service gave the tenant"`
	State       lifecycle.TenantState `json:"state" doc:"erasing: the tenant answers nothing any more and its values are being deleted"`
	Ingress     lifecycle.Ingress     `json:"ingress" doc:"the protocol by which the tenant was installed"`
	InstalledAt time.Time             `json:"installed_at" doc:"when its first install was accepted"`
	UpdatedAt   time.Time             `json:"updated_at" doc:"when the entry last changed"`
	ErasedAt    *time.Time            `json:"erased_at,omitempty" doc:"when its values were deleted; absent before"`
}

// NewTenant returns the model of t.
func NewTenant(t tenants.Tenant) Tenant {
	return Tenant{
		TenantID: t.ID.String(), State: t.State, Ingress: t.Ingress,
		InstalledAt: t.InstalledAt, UpdatedAt: t.UpdatedAt, ErasedAt: t.ErasedAt,
	}
}
