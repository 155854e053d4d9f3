package tenants

import (
	"fmt"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/lifecycle"
)

const valuesTable = "trakr.tenant_fields"

// valueColumns are the columns of the guarded values, in the order of lifecycle.Fields.
// door.read and door.reseal return them. A test compares them with the catalog and with
// the table of the fields in lifecycle.
const valueColumns = "client_key, shared_secret, principal_uuid, username, avatar_url"

// MaxFields is how many guarded fields there are, and the most that one read can name.
const MaxFields = 5

// encrypted are the values of one tenant as they are stored, in the order of
// lifecycle.Fields; nil is a field that the tenant does not have.
type encrypted [MaxFields][]byte

// valuesRow is one row of trakr.tenant_fields.
type valuesRow struct {
	bun.BaseModel `bun:"table:trakr.tenant_fields"`

	TenantID      string    `bun:"tenant_id,pk"`
	ClientKey     []byte    `bun:"client_key"`
	SharedSecret  []byte    `bun:"shared_secret"`
	PrincipalUUID []byte    `bun:"principal_uuid"`
	Username      []byte    `bun:"username"`
	AvatarURL     []byte    `bun:"avatar_url"`
	WrittenAt     time.Time `bun:"written_at"`
}

// newValuesRow places encrypted values into their columns.
func newValuesRow(id lifecycle.TenantID, v encrypted, at time.Time) valuesRow {
	return valuesRow{TenantID: id.String(), ClientKey: v[0], SharedSecret: v[1], PrincipalUUID: v[2],
		Username: v[3], AvatarURL: v[4], WrittenAt: at}
}

// writeBack replaces the values of tenants. It takes the tenants and one list for each of
// valueColumns.
const writeBack = `UPDATE trakr.tenant_fields AS f SET client_key = v.client_key, shared_secret = v.shared_secret,
		principal_uuid = v.principal_uuid, username = v.username, avatar_url = v.avatar_url
	FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[], $6::bytea[]) AS v (tenant_id, ` + valueColumns + `)
	WHERE f.tenant_id = v.tenant_id`

// names lists the fields that have a value.
func (v encrypted) names() []lifecycle.Field {
	var out []lifecycle.Field
	for i, f := range lifecycle.Fields() {
		if v[i] != nil {
			out = append(out, f)
		}
	}
	return out
}

// encrypt encrypts the values that are kept: a field that the policy switches off is
// dropped, even if the caller passes its value.
func (d *Door) encrypt(id lifecycle.TenantID, values lifecycle.Values) (out encrypted, err error) {
	for f := range values {
		if !f.Valid() {
			return out, fmt.Errorf("encrypting: %s is not a guarded field", f)
		}
	}
	for i, f := range lifecycle.Fields() {
		v := values[f]
		if v.Empty() || !d.policy.Keeps(f) {
			continue
		}
		if out[i], err = d.keys.Encrypt(id, f, v); err != nil {
			return encrypted{}, err
		}
	}
	return out, nil
}

// decrypt returns the named fields that the tenant has.
func (d *Door) decrypt(id lifecycle.TenantID, stored encrypted, fields []lifecycle.Field) (lifecycle.Values, error) {
	out := make(lifecycle.Values, len(fields))
	for i, f := range lifecycle.Fields() {
		if stored[i] == nil || !slices.Contains(fields, f) {
			continue
		}
		v, err := d.keys.Decrypt(id, f, stored[i])
		if err != nil {
			return nil, err
		}
		out[f] = v
	}
	return out, nil
}
