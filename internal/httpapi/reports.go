package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"trakr/internal/lifecycle"
	"trakr/reports"
)

// Reporter builds a report and records that it was issued.
type Reporter interface {
	Issue(ctx context.Context, a lifecycle.Access, kind, format string, asOf time.Time) ([]byte, reports.Format, error)
}

func (a *admin) reportRoutes() {
	add(a, operation{
		method: http.MethodGet, path: "/v1/reports/{kind}", tag: tagReports, roles: reviewers,
		summary: "Get a report from the policy and the database's actual content",
		detail:  "Its issue is audited.",
		media:   mediaTypes(reports.Formats()),
		fails:   []lifecycle.Kind{lifecycle.ReasonRequired, lifecycle.NotFound},
	}, a.report)
	describeParam(a.api.OpenAPI().Paths["/v1/reports/{kind}"].Get, "kind", reports.Kinds())
	add(a, operation{
		method: http.MethodGet, path: "/v1/statement", tag: tagReports, roles: reviewers,
		summary: "Get the security statement, each sentence with the present results of its checks",
		detail:  "Its issue is audited.",
		media:   []string{"application/json"},
		fails:   []lifecycle.Kind{lifecycle.ReasonRequired},
	}, a.statement)
	add(a, operation{
		method: http.MethodGet, path: "/v1/policy", tag: tagReports, roles: everyone,
		summary: "Get the policy by which this service acts",
	}, a.policy)
}

type reportInput struct {
	ReasonQuery

	Kind   string    `path:"kind"`
	Format string    `query:"format" enum:"html,json,csv,md" default:"html" doc:"md only of statement; marketplace has json only"`
	AsOf   time.Time `query:"as_of" doc:"the moment that the report describes, RFC 3339; default now"`
}

func (a *admin) report(ctx context.Context, in *reportInput) (*file, error) {
	b, form, err := a.Reports.Issue(ctx, access(ctx, in.reason(), lifecycle.ReviewerExport), in.Kind, in.Format, in.AsOf)
	if err != nil {
		return nil, err
	}
	return newFile(form.ContentType(), in.Kind+"."+string(form), b), nil
}

func (a *admin) statement(ctx context.Context, in *ReasonQuery) (*file, error) {
	who := access(ctx, in.reason(), lifecycle.ReviewerExport)
	b, form, err := a.Reports.Issue(ctx, who, "statement", string(reports.JSON), time.Time{})
	if err != nil {
		return nil, err
	}
	return newFile(form.ContentType(), "statement.json", b), nil
}

type policyAnswer struct {
	Hash   string          `json:"hash" doc:"SHA-256 of the policy file"`
	Policy json.RawMessage `json:"policy" doc:"the policy as JSON"`
}

func (a *admin) policy(context.Context, *struct{}) (*body[policyAnswer], error) {
	b, err := a.Policy.JSON()
	if err != nil {
		return nil, err
	}
	return &body[policyAnswer]{policyAnswer{a.Policy.Hash(), b}}, nil
}
