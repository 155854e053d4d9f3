package httpapi

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/google/uuid"

	"trakr/internal/lifecycle"
	"trakr/internal/proof/certificate"
	"trakr/internal/store/tenants"
	"trakr/internal/view"
)

// Certifier returns the certificate of an erasure, after it has recorded its issue.
type Certifier interface {
	RenderCertificate(ctx context.Context, a lifecycle.Access, id uuid.UUID, f certificate.Format) ([]byte, error)
}

func (a *admin) erasureRoutes() {
	add(a, operation{
		method: http.MethodPost, path: "/v1/erasures/lookup", tag: tagErasures, roles: finders,
		summary: "Find the erasure of a client key or workspace, with its certificate",
		detail:  "The look-up is audited.",
		fails:   []lifecycle.Kind{lifecycle.ReasonRequired, lifecycle.TenantUnknown, lifecycle.NotFound, lifecycle.KeysOutdated},
	}, a.lookupErasure)
	add(a, operation{
		method: http.MethodGet, path: "/v1/erasures", tag: tagErasures, roles: observers,
		summary: "List erasures and how far each has come",
	}, a.listErasures)
	add(a, operation{
		method: http.MethodGet, path: "/v1/erasures/{id}/certificate", tag: tagErasures, roles: observers,
		summary: "Get the certificate of an erasure",
		detail:  "Its issue is audited. Verify it offline with trakr verify.",
		media:   mediaTypes(certificate.Formats()),
		fails:   []lifecycle.Kind{lifecycle.ReasonRequired, lifecycle.NotFound},
	}, a.erasureCertificate)
}

// foundErasure is an erasure in the states of a deletion request.
type foundErasure struct {
	ErasureID   string          `json:"erasure_id" doc:"a UUID"`
	State       string          `json:"state" enum:"in_progress,verifying,awaiting_recipient,completed" doc:"as in a deletion request"`
	Certificate json.RawMessage `json:"certificate,omitempty" doc:"the certificate of deletion, once the erasure is completed"`
}

func (a *admin) lookupErasure(ctx context.Context, in *lookupInput) (*body[foundErasure], error) {
	s, err := tenants.ParseSubject(in.Body.ClientKey, in.Body.WorkspaceUUID)
	if err != nil {
		return nil, err
	}
	e, cert, err := a.Deletions.Erased(ctx, access(ctx, in.Body.Reason, lifecycle.ServiceOperation), s)
	if err != nil {
		return nil, err
	}
	return &body[foundErasure]{foundErasure{e.ID, string(e.State()), cert}}, nil
}

type erasuresInput struct {
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"at most this many"`
}

type erasureList struct {
	Erasures []view.Erasure `json:"erasures" doc:"newest first"`
}

func (a *admin) listErasures(ctx context.Context, in *erasuresInput) (*body[erasureList], error) {
	all, err := a.Erasures.List(ctx, in.Limit)
	if err != nil {
		return nil, err
	}
	out := erasureList{Erasures: make([]view.Erasure, 0, len(all))}
	for _, x := range all {
		out.Erasures = append(out.Erasures, view.NewErasure(x, a.Policy.BackupWindow().Duration()))
	}
	return &body[erasureList]{out}, nil
}

type erasureCertificateInput struct {
	ReasonQuery

	ID     string `path:"id" doc:"the erasure's id"`
	Format string `query:"format" enum:"json,html,pdf" default:"json" doc:"the certificate's format"`
}

func (a *admin) erasureCertificate(ctx context.Context, in *erasureCertificateInput) (*file, error) {
	id, err := uuid.Parse(in.ID)
	if err != nil || len(in.ID) != 36 {
		return nil, lifecycle.Fail(lifecycle.RequestInvalid, "An erasure is named by its id; GET /v1/erasures lists them.",
			lifecycle.At("/id", "not an erasure id"))
	}
	f, err := certificate.ParseFormat(in.Format)
	if err != nil {
		return nil, lifecycle.Fail(lifecycle.RequestInvalid, "The format is one of json, html, pdf.",
			lifecycle.At("/format", "unknown format"))
	}
	b, err := a.Certifier.RenderCertificate(ctx, access(ctx, in.reason(), lifecycle.ReviewerExport), id, f)
	if err != nil {
		return nil, err
	}
	return newFile(f.ContentType(), "certificate."+in.Format, b), nil
}
