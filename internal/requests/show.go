package requests

import (
	"context"
	"errors"

	"trakr/internal/drift"
	"trakr/internal/lifecycle"
	"trakr/internal/store/findings"
	"trakr/internal/store/holds"
	"trakr/internal/store/requests"
	"trakr/internal/store/tenants"
)

// Count is the number of a tenant's rows by one column of a table, and what an erasure does
// with them.
type Count struct {
	Store   string `json:"store"`
	Table   string `json:"table"`
	Column  string `json:"column"`
	Rows    *int64 `json:"count" doc:"null when the rows cannot be counted"`
	Becomes string `json:"becomes" enum:"deleted,retained,unknown"`
	Ground  string `json:"ground,omitempty" doc:"why the rows are retained, or cannot be counted"`
}

// Shown is a request with its holds, its history and a preview of its erasure. It contains
// no value of the tenant.
type Shown struct {
	requests.Request

	Overdue bool            `json:"overdue"`
	Preview []Count         `json:"preview" doc:"what is stored of the tenant now, by table"`
	Holds   []holds.Hold    `json:"holds" doc:"legal holds that keep the tenant's data now"`
	History []requests.Step `json:"history" doc:"every move, oldest first"`
}

// Show returns one request with its history and the rows that its erasure would delete now.
func (s *Service) Show(ctx context.Context, id string) (Shown, error) {
	r, err := s.c.Requests.Get(ctx, id)
	if err != nil {
		return Shown{}, err
	}
	out := Shown{Request: r, Overdue: r.Overdue(s.c.Requests.Now()), Preview: []Count{}, Holds: []holds.Hold{}}
	if out.History, err = s.c.Requests.History(ctx, id); err != nil || r.TenantID == nil {
		return out, err
	}
	if out.Holds, err = s.c.Holds.List(ctx, r.Tenant(), s.c.Requests.Now()); err != nil {
		return out, err
	}
	out.Preview, err = s.preview(ctx, r.Tenant())
	return out, err
}

// preview counts a tenant's rows in every table, as the role that sees every row.
func (s *Service) preview(ctx context.Context, id lifecycle.TenantID) ([]Count, error) {
	checks, _, err := s.c.Census.Tenant(ctx, id, drift.Declared(s.c.Policy))
	if err != nil {
		return nil, err
	}
	out := make([]Count, 0, len(checks))
	for _, c := range checks {
		n := Count{Store: c.Store, Table: c.Table, Column: c.Column, Rows: &c.Rows, Becomes: "deleted", Ground: c.Ground}
		switch {
		case c.Disposition == findings.Retained:
			n.Becomes = "retained"
		case c.Disposition == findings.Unjudged:
			n.Becomes, n.Rows = "unknown", nil
		case c.Undeclared:
			n.Becomes, n.Ground = "unknown", drift.UndeclaredColumn
		}
		out = append(out, n)
	}
	return out, nil
}

// List returns requests with whether each is overdue.
func (s *Service) List(ctx context.Context, f requests.Filter, overdue bool) ([]Listed, error) {
	now := s.c.Requests.Now()
	if overdue {
		f.Overdue = now
	}
	all, err := s.c.Requests.List(ctx, f)
	out := make([]Listed, len(all))
	for i, r := range all {
		out[i] = Listed{r, r.Overdue(now)}
	}
	return out, err
}

// Listed is a request in a list.
type Listed struct {
	requests.Request

	Overdue bool `json:"overdue"`
}

// Certificate renders the certificate of a request that has one, and records in the audit
// that it was issued to the caller.
func (s *Service) Certificate(ctx context.Context, a lifecycle.Access, id, format string) ([]byte, string, error) {
	r, err := s.c.Requests.Get(ctx, id)
	if err != nil {
		return nil, "", err
	}
	if r.CertificateID == nil {
		return nil, "", lifecycle.Fail(lifecycle.NotFound, "This request has no certificate: it is "+string(r.State)+".")
	}
	of := r.ID // a certificate is found by its erasure, or by the request that has none
	if r.ErasureID != nil {
		of = *r.ErasureID
	}
	return s.c.Erasures.Certificate(ctx, onTicket(a, r), of, format)
}

// Erased returns the erasure of the tenant to which a client key or workspace belongs, with
// its certificate as JSON when it has one. The look-up is audited. A live tenant has no
// erasure: not-found.
func (s *Service) Erased(ctx context.Context, a lifecycle.Access, subject tenants.Subject) (Erasure, []byte, error) {
	t, err := s.c.Door.Lookup(ctx, a, subject)
	if err != nil {
		return Erasure{}, nil, err
	}
	e, err := s.c.Erasures.Of(ctx, t.ID)
	if errors.Is(err, lifecycle.NotFound) {
		return e, nil, lifecycle.Fail(lifecycle.NotFound, "This tenant is "+string(t.State)+"; no erasure of it has begun.")
	}
	if err != nil || e.CertificateID == "" {
		return e, nil, err
	}
	b, _, err := s.c.Erasures.Certificate(ctx, a, e.ID, "json")
	return e, b, err
}
