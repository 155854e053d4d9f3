package lifecycle

import "slices"

// Field names one of the guarded values of a tenant. Names may be logged and
// audited; values may not.
type Field string

// The guarded fields. Nothing else of a payload is kept.
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

// Fields lists every guarded field in the order of the table's columns.
func Fields() []Field {
	return []Field{ClientKey, SharedSecret, PrincipalUUID, Username, AvatarURL}
}

// Valid reports whether f is a guarded field.
func (f Field) Valid() bool { return slices.Contains(Fields(), f) }

// Values are the guarded values of one tenant. A missing key means that the
// tenant has no such value.
type Values map[Field]Secret
