package view

import (
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/erasures"
)

// Erasure is an erasure, whatever its trigger, and how far it has come.
type Erasure struct {
	ErasureID         string                 `json:"erasure_id" doc:"a UUID"`
	TenantID          string                 `json:"tenant_id" doc:"the random id that this service gave the tenant"`
	Trigger           lifecycle.Trigger      `json:"trigger" doc:"why the tenant is erased"`
	State             lifecycle.ErasureState `json:"state" doc:"the last step that is complete, or what it waits for"`
	RequestedAt       time.Time              `json:"requested_at" doc:"when it was asked for"`
	BegunAt           time.Time              `json:"begun_at" doc:"when the tenant stopped answering"`
	DeletedLiveAt     *time.Time             `json:"deleted_live_at,omitempty" doc:"when the rows were deleted from the live stores"`
	BackupsClearAfter *time.Time             `json:"backups_clear_after,omitempty" doc:"after this time no backup contains the rows"`
	VerifiedAt        *time.Time             `json:"verified_at,omitempty" doc:"when a count of the tenant's rows returned zero"`
	CertificateID     string                 `json:"certificate_id,omitempty" doc:"of the certificate of deletion, once it is issued"`
	AcknowledgedAt    *time.Time             `json:"acknowledged_at,omitempty" doc:"when the end service acknowledged"`
}

// NewErasure returns the model of x. The backup window is the policy's: how long
// backups still contain what was deleted.
func NewErasure(x erasures.Erasure, backupWindow time.Duration) Erasure {
	e := Erasure{
		ErasureID: x.ID.String(), TenantID: x.Tenant.String(), Trigger: x.Trigger, State: x.State(),
		RequestedAt: x.RequestedAt, BegunAt: x.BegunAt, CertificateID: x.CertificateID,
	}
	if !x.DeletedAt.IsZero() {
		clearAfter := x.DeletedAt.Add(backupWindow)
		e.DeletedLiveAt, e.BackupsClearAfter = &x.DeletedAt, &clearAfter
	}
	if !x.VerifiedAt.IsZero() {
		e.VerifiedAt = &x.VerifiedAt
	}
	if x.Notice != nil && !x.Notice.AcknowledgedAt.IsZero() {
		e.AcknowledgedAt = &x.Notice.AcknowledgedAt
	}
	return e
}
