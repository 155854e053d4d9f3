package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"

	"trakr/internal/lifecycle"
	"trakr/internal/proof/certificate"
	"trakr/internal/store/erasures"
)

// Certifier hands out the certificate of an erasure, after it has recorded that it does.
type Certifier interface {
	Hand(ctx context.Context, a lifecycle.Access, id uuid.UUID, f certificate.Format) ([]byte, error)
}

// erased is an erasure, whatever asked for it, and how far it has come.
type erased struct {
	ErasureID         string     `json:"erasure_id"`
	TenantID          string     `json:"tenant_id"`
	Trigger           string     `json:"trigger"`
	State             string     `json:"state" enum:"begun,deleted,verified,awaiting_recipient,certified"`
	RequestedAt       time.Time  `json:"requested_at"`
	BegunAt           time.Time  `json:"begun_at"`
	DeletedLiveAt     *time.Time `json:"deleted_live_at,omitempty" doc:"gone from live stores"`
	BackupsClearAfter *time.Time `json:"backups_clear_after,omitempty" doc:"gone from backups"`
	VerifiedAt        *time.Time `json:"verified_at,omitempty"`
	CertificateID     string     `json:"certificate_id,omitempty"`
	AcknowledgedAt    *time.Time `json:"acknowledged_at,omitempty" doc:"by the end service, where it was told of the tenant"`
}

func (a *admin) erased(x erasures.Erasure) erased {
	e := erased{ErasureID: x.ID.String(), TenantID: x.Tenant.String(), Trigger: string(x.Trigger), State: string(x.State()), RequestedAt: x.RequestedAt, BegunAt: x.BegunAt, CertificateID: x.CertificateID}
	if !x.DeletedAt.IsZero() {
		clear := x.DeletedAt.Add(a.Policy.BackupWindow().Duration())
		e.DeletedLiveAt, e.BackupsClearAfter = &x.DeletedAt, &clear
	}
	if !x.VerifiedAt.IsZero() {
		e.VerifiedAt = &x.VerifiedAt
	}
	if x.Notice != nil && !x.Notice.AcknowledgedAt.IsZero() {
		e.AcknowledgedAt = &x.Notice.AcknowledgedAt
	}
	return e
}

// everyErasureRoutes are of erasures whatever their trigger.
func (a *admin) everyErasureRoutes() {
	type listIn struct {
		Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	}
	type listOut struct {
		Erasures []erased `json:"erasures" doc:"newest first"`
	}
	add(a, http.MethodGet, "/v1/erasures", "Erasures and how far each has come", observers,
		func(ctx context.Context, in *listIn) (*body[listOut], error) {
			all, err := a.Erasures.List(ctx, in.Limit)
			if err != nil {
				return nil, err
			}
			out := listOut{Erasures: make([]erased, 0, len(all))}
			for _, x := range all {
				out.Erasures = append(out.Erasures, a.erased(x))
			}
			return &body[listOut]{out}, nil
		})
	type certificateIn struct {
		ID         string `path:"id" doc:"erasure id"`
		Format     string `query:"format" enum:"json,html,pdf" default:"json"`
		ReasonCode string `query:"reason_code" maxLength:"64"`
		ReasonRef  string `query:"reason_ref" maxLength:"128"`
	}
	type certificateOut struct {
		ContentType string `header:"Content-Type"`
		Disposition string `header:"Content-Disposition"`
		Body        []byte
	}
	add(a, http.MethodGet, "/v1/erasures/{id}/certificate", "The certificate of an erasure; its issue is audited. Verify it offline with trakr verify", observers,
		func(ctx context.Context, in *certificateIn) (*certificateOut, error) {
			id, err := uuid.Parse(in.ID)
			if err != nil || len(in.ID) != 36 {
				return nil, lifecycle.Fail(lifecycle.RequestInvalid, "An erasure is named by its id; GET /v1/erasures lists them.", lifecycle.At("/id", "not an erasure id"))
			}
			f, err := certificate.ParseFormat(in.Format)
			if err != nil {
				return nil, lifecycle.Fail(lifecycle.RequestInvalid, "The format is one of json, html, pdf.", lifecycle.At("/format", "unknown format"))
			}
			b, err := a.Certifier.Hand(ctx, access(ctx, reason{in.ReasonCode, in.ReasonRef}, lifecycle.ReviewerExport), id, f)
			if err != nil {
				return nil, err
			}
			return &certificateOut{f.ContentType(), `inline; filename="certificate.` + in.Format + `"`, b}, nil
		})
}
