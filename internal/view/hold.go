package view

import (
	"time"

	"trakr/internal/store/holds"
)

// Hold is a legal hold on a tenant's data.
type Hold struct {
	HoldID     string       `json:"hold_id" doc:"a UUID"`
	TenantID   string       `json:"tenant_id" doc:"the random id that this service gave the tenant"`
	Ground     holds.Ground `json:"ground" doc:"why the data may not be deleted"`
	Ref        string       `json:"reason_ref" doc:"the ticket it was placed for"`
	PlacedBy   string       `json:"placed_by" doc:"opaque id of the person who placed it"`
	PlacedAt   time.Time    `json:"placed_at" doc:"when it was placed"`
	Until      time.Time    `json:"until" doc:"when it ends by itself"`
	ReleasedAt *time.Time   `json:"released_at,omitempty" doc:"when it was released before its end"`
	ReleasedBy string       `json:"released_by,omitempty" doc:"opaque id of the person who released it"`
}

// NewHold returns the model of h.
func NewHold(h holds.Hold) Hold {
	return Hold{
		HoldID: h.ID, TenantID: h.TenantID, Ground: h.Ground, Ref: h.Ref, PlacedBy: h.PlacedBy, PlacedAt: h.PlacedAt,
		Until: h.Until, ReleasedAt: h.ReleasedAt, ReleasedBy: h.ReleasedBy,
	}
}

// NewHolds returns the models of a list.
func NewHolds(all []holds.Hold) []Hold { return each(all, NewHold) }
