package tenants

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store/internal/pg"
)

// Tenant is an entry of the registry. It has no customer data.
type Tenant struct {
	ID          lifecycle.TenantID    `json:"tenant_id"`
	State       lifecycle.TenantState `json:"state"`
	Ingress     lifecycle.Ingress     `json:"ingress"`
	InstalledAt time.Time             `json:"installed_at"`
	UpdatedAt   time.Time             `json:"updated_at"`
	ErasedAt    *time.Time            `json:"erased_at,omitempty"`
	Version     Version               `json:"-"`
}

// Version changes whenever the registry's entry does, and so whenever the tenant's
// secret does.
type Version int64

// tenantRow is one row of the registry.
type tenantRow struct {
	bun.BaseModel `bun:"table:trakr.tenants,alias:t"`

	TenantID        string     `bun:"tenant_id,pk"`
	Ingress         string     `bun:"ingress"`
	State           string     `bun:"state"`
	SubjectDigest   []byte     `bun:"subject_digest"`
	PrincipalDigest []byte     `bun:"principal_digest"`
	InstalledAt     time.Time  `bun:"installed_at"`
	UpdatedAt       time.Time  `bun:"updated_at"`
	ErasedAt        *time.Time `bun:"erased_at"`
	LastTokenIAT    *time.Time `bun:"last_token_iat"`
	Version         Version    `bun:"version,scanonly"`
}

// registryColumns are tenantRow's, with the version of the row: PostgreSQL's own
// mark of the transaction that wrote it.
const registryColumns = "?TableColumns, t.xmin::text::bigint AS version"

func (r tenantRow) tenant() (Tenant, error) {
	id, err := lifecycle.ParseTenantID(r.TenantID)
	if err != nil {
		return Tenant{}, fmt.Errorf("reading a tenant: %w", err)
	}
	t := Tenant{ID: id, State: lifecycle.TenantState(r.State), Ingress: lifecycle.Ingress(r.Ingress),
		InstalledAt: r.InstalledAt.UTC(), UpdatedAt: r.UpdatedAt.UTC(), Version: r.Version}
	if r.ErasedAt != nil {
		at := r.ErasedAt.UTC()
		t.ErasedAt = &at
	}
	return t, nil
}

// digestColumn is a column of keyed digests, of the registry and of the tombstones.
type digestColumn string

const (
	subjectDigest   digestColumn = "subject_digest"
	principalDigest digestColumn = "principal_digest"
)

// find returns nil, nil when there is none; a database error is an error.
func find(ctx context.Context, tx bun.IDB, column digestColumn, digests []keyring.Digest) (*Tenant, error) {
	var r tenantRow
	err := pg.Map(tx.NewSelect().Model(&r).ColumnExpr(registryColumns).Where("? IN (?)", bun.Ident(column), bun.List(digests)).
		Where("state = ?", string(lifecycle.Live)).OrderExpr("installed_at DESC, tenant_id").Limit(1).Scan(ctx))
	if errors.Is(err, pg.ErrNoRows) { // a workspace is recognised until its values are deleted, a client key for longer
		err = pg.Map(tx.NewSelect().Model(&r).ColumnExpr(registryColumns).
			Join("JOIN trakr.erasures AS x ON x.tenant_id = t.tenant_id").
			Where("x.? IN (?)", bun.Ident(column), bun.List(digests)).OrderExpr("x.begun_at DESC, t.tenant_id").Limit(1).Scan(ctx))
	}
	if errors.Is(err, pg.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	t, err := r.tenant()
	return &t, err
}

// Get returns the registry's entry of one tenant. It has no customer data, so reading
// it is not recorded (it is on the policy's published list).
func (d *Door) Get(ctx context.Context, id lifecycle.TenantID) (Tenant, error) {
	var r tenantRow
	err := pg.Map(pg.Bun(d.db).NewSelect().Model(&r).Where("tenant_id = ?", id.String()).Scan(ctx))
	if errors.Is(err, pg.ErrNoRows) {
		return Tenant{}, errUnknown()
	}
	if err != nil {
		return Tenant{}, fmt.Errorf("reading a tenant: %w", err)
	}
	return r.tenant()
}

func errUnknown() error {
	return lifecycle.Fail(lifecycle.TenantUnknown, "There is no tenant with this id.")
}

func errErased() error {
	return lifecycle.Fail(lifecycle.TenantErased, "This tenant is erased; nothing of it is stored any more.")
}
