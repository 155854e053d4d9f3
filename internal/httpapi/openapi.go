package httpapi

import (
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"trakr/internal/lifecycle"
	"trakr/internal/store/findings"
	"trakr/internal/store/holds"
	"trakr/internal/store/requests"
)

// tag groups operations in the description of the API.
type tag string

// The tags.
const (
	tagTenants   tag = "tenants"
	tagRequests  tag = "deletion requests"
	tagErasures  tag = "erasures"
	tagHolds     tag = "legal holds"
	tagAudit     tag = "audit"
	tagSweeps    tag = "sweeps"
	tagFindings  tag = "findings"
	tagReports   tag = "reports"
	tagBitbucket tag = "bitbucket"
)

// tags describes every tag, in the order in which they are shown.
var tags = []*huma.Tag{
	{Name: string(tagTenants), Description: "Look up tenants and read their guarded fields."},
	{Name: string(tagBitbucket), Description: "Tokens to call Bitbucket for a tenant; the shared secret never leaves the service."},
	{Name: string(tagRequests), Description: "Customers' deletion requests, from the ticket to the certificate."},
	{Name: string(tagErasures), Description: "Erasures, whatever their trigger, and their certificates."},
	{Name: string(tagHolds), Description: "Legal holds, which keep a tenant's data from deletion."},
	{Name: string(tagAudit), Description: "The append-only audit: its events, exports and proofs."},
	{Name: string(tagSweeps), Description: "Sweeps, which compare what is stored with the policy."},
	{Name: string(tagFindings), Description: "What sweeps found that should not be there."},
	{Name: string(tagReports), Description: "Reports for reviewers, and the policy."},
}

// description introduces the API.
const description = "Audited access to the few fields that are stored of a Bitbucket tenant, and evidence of how they are deleted. " +
	"Every answer that contains a tenant's value was recorded in the append-only audit before it was sent. " +
	"Errors are RFC 9457 problem documents, whose type ends in the kind of the problem."

// closedSet is a type whose values are a closed set. The packages that define such
// types know nothing of schemas; so the registry replaces each with its enum.
type closedSet struct {
	of, schema reflect.Type
	values     []any
}

// closedSets lists every closed set that the API shows or takes.
var closedSets = []closedSet{
	closedSetOf(lifecycle.Fields()),
	closedSetOf(lifecycle.TenantStates()),
	closedSetOf(lifecycle.Ingresses()),
	closedSetOf(lifecycle.Triggers()),
	closedSetOf(lifecycle.ErasureStates()),
	closedSetOf(lifecycle.RequestStates()),
	closedSetOf(requests.Grounds()),
	closedSetOf(holds.Grounds()),
	closedSetOf([]findings.Severity{findings.Low, findings.Medium, findings.High, findings.Critical}),
	closedSetOf([]findings.Transition{findings.Opened, findings.Acknowledged, findings.Resolved}),
	closedSetOf([]findings.Disposition{findings.Checked, findings.Retained, findings.NotSearched, findings.Unjudged}),
	closedSetOf([]findings.Result{findings.Clean, findings.Found, findings.Blind, findings.Failed}),
}

func closedSetOf[T ~string](values []T) closedSet {
	out := closedSet{of: reflect.TypeFor[T](), schema: reflect.TypeFor[enum[T]]()}
	for _, v := range values {
		out.values = append(out.values, string(v))
	}
	return out
}

// enum is the schema of the closed set T.
type enum[T ~string] struct{}

// Schema implements huma.SchemaProvider.
func (enum[T]) Schema(huma.Registry) *huma.Schema {
	for _, set := range closedSets {
		if set.of == reflect.TypeFor[T]() {
			return &huma.Schema{Type: huma.TypeString, Enum: set.values}
		}
	}
	return &huma.Schema{Type: huma.TypeString}
}

// describeParam completes the description of a parameter whose values the code lists.
func describeParam(op *huma.Operation, name string, values []string) {
	for _, p := range op.Parameters {
		if p.Name == name {
			p.Description = "one of: " + strings.Join(values, ", ")
		}
	}
}

// apiConfig returns the description of the API without its operations.
func apiConfig(version string) huma.Config {
	cfg := huma.DefaultConfig("Trakr data lifecycle", version)
	cfg.Info.Description = description
	cfg.Servers = []*huma.Server{{URL: "/", Description: "The private listener, which serves this document."}}
	cfg.Tags = tags
	cfg.DocsPath, cfg.SchemasPath, cfg.CreateHooks = "", "", nil
	cfg.RejectUnknownQueryParameters = true
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "A token that trakr token create --role ROLE prints."},
	}
	for _, set := range closedSets {
		cfg.Components.Schemas.RegisterTypeAlias(set.of, set.schema)
	}
	return cfg
}
