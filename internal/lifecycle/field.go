package lifecycle

import "slices"

// Field names one of the guarded values of a tenant. It is the column in
// trakr.tenant_fields and the name in the API, the policy and the audit. Names may
// be logged and audited; values may not.
type Field string

// The guarded fields. Nothing else of a payload is stored.
const (
	// ClientKey is Bitbucket's name for the installation, e.g.
	// "ari:cloud:bitbucket::app/{workspace-uuid}/app-key" or "connection:123".
	ClientKey Field = "client_key"
	// SharedSecret is the HS256 key of the installation. No API returns it.
	SharedSecret Field = "shared_secret"
	// PrincipalUUID is the workspace's or person's UUID: lower case, no braces.
	PrincipalUUID Field = "principal_uuid"
	// Username is the workspace's slug. A personal installation has none.
	Username Field = "username"
	// AvatarURL is the https address of the workspace's picture.
	AvatarURL Field = "avatar_url"
)

// FieldSpec is what the code fixes about a field. The policy decides the rest (who
// may read it, its purpose and retention) and is validated against the spec.
type FieldSpec struct {
	Name       Field
	Source     string        // dotted path in Connect's callback
	Category   string        // fideslang data category
	Noun       string        // the field in a sentence
	MaxBytes   int           // longest accepted value; many times the longest ever captured
	Credential bool          // never released by an API
	Personal   bool          // can name or show a person
	Optional   bool          // the service works without it, so a policy may switch it off
	Recipients []Destination // where the code can send it; nowhere when empty, whatever a policy allows
}

// fields is the one table of the guarded fields, in the order of the columns. To
// add a field, see "Add a field" in internal/README.md.
var fields = []FieldSpec{
	{
		Name: ClientKey, Source: "clientKey", Category: "system.operations", Noun: "client key", MaxBytes: 512,
		Recipients: []Destination{ToBitbucket, ToEndService},
	},
	{
		Name: SharedSecret, Source: "sharedSecret", Category: "system.authentication", Noun: "shared secret", MaxBytes: 1024,
		Credential: true,
	},
	{
		Name: PrincipalUUID, Source: "principal.uuid", Category: "user.unique_id", Noun: "UUID", MaxBytes: 38, // with braces
		Recipients: []Destination{ToBitbucket},
	},
	{
		Name: Username, Source: "principal.username", Category: "user.account.username", Noun: "username", MaxBytes: 128,
		Personal: true, Optional: true,
	},
	{
		Name: AvatarURL, Source: "principal.links.avatar.href", Category: "user.content.self_image", Noun: "avatar", MaxBytes: 2048,
		Personal: true, Optional: true,
	},
}

// FieldSpecs returns the specs of all guarded fields in the order of the columns.
func FieldSpecs() []FieldSpec { return slices.Clone(fields) }

// Fields lists every guarded field in the order of the columns.
func Fields() []Field {
	out := make([]Field, len(fields))
	for i, s := range fields {
		out[i] = s.Name
	}
	return out
}

// Spec returns what the code fixes about f; for a name that is no guarded field, a
// zero FieldSpec.
func (f Field) Spec() FieldSpec {
	for _, s := range fields {
		if s.Name == f {
			return s
		}
	}
	return FieldSpec{}
}

// Valid reports whether f is a guarded field.
func (f Field) Valid() bool { return f != "" && f.Spec().Name == f }

// Values are the guarded values of one tenant. A missing key means that the
// tenant has no such value.
type Values map[Field]Secret
