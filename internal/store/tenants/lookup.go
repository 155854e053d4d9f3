package tenants

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
)

// tenantRow is the registry as bun reads it.
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

// Lookup finds a tenant by client key or workspace uuid. A live tenant is
// preferred; else the one erased last under that client key is returned with
// state erased. Nothing known is tenant-unknown. The look-up is an audited act
// of its own, found or not, recorded by keyed digest; its answer leaves only
// after that is committed.
func (d *Door) Lookup(ctx context.Context, a lifecycle.Access, s Subject) (Tenant, error) {
	e := audit.New(ctx, d.log.Now(), a, audit.TenantLookup, audit.Success)
	if err := a.Check(); err != nil {
		return Tenant{}, d.deny(ctx, e, err)
	}
	column, digests, err := d.digests(s)
	if err != nil {
		return Tenant{}, err
	}
	e.SubjectDigest = digests[0].String()
	var found *Tenant
	err = pg.InTx(ctx, d.db, func(ctx context.Context, tx bun.Tx) error {
		found, err = find(ctx, tx, column, digests)
		if err != nil {
			return err
		}
		e.StatusDetail = "unknown"
		if found != nil {
			e.TenantID, e.StatusDetail = found.ID, string(found.State)
		}
		return audit.Append(ctx, tx, e)
	})
	if err != nil {
		return Tenant{}, fmt.Errorf("looking a tenant up: %w", err)
	}
	if found == nil {
		return Tenant{}, lifecycle.Fail(lifecycle.TenantUnknown, "No tenant is known by this. It never installed the app here.")
	}
	return *found, nil
}

// Find is Lookup for the code that verifies callbacks, without an event: for a
// sender of whom enough failures are recorded. Its answer decides which secret is
// read, and that is recorded; the rest is summed up (the policy's published list
// says so).
func (d *Door) Find(ctx context.Context, a lifecycle.Access, s Subject) (Tenant, error) {
	if a.Caller.Role != lifecycle.RoleIngress {
		return Tenant{}, d.deny(ctx, audit.New(ctx, d.log.Now(), a, audit.TenantLookup, audit.Denied), lifecycle.Fail(lifecycle.Forbidden, "Only callbacks are matched without an event."))
	}
	column, digests, err := d.digests(s)
	if err != nil {
		return Tenant{}, err
	}
	found, err := find(ctx, pg.Bun(d.db), column, digests)
	if err != nil {
		return Tenant{}, fmt.Errorf("matching a callback: %w", err)
	}
	if found == nil {
		return Tenant{}, errUnknown()
	}
	return *found, nil
}

// Installations lists the live tenants of a subject: a workspace can have several,
// when an uninstall was missed and it installed again under another client key.
func (d *Door) Installations(ctx context.Context, s Subject) ([]lifecycle.TenantID, error) {
	column, digests, err := d.digests(s)
	if err != nil {
		return nil, err
	}
	var rows []tenantRow
	err = pg.Map(pg.Bun(d.db).NewSelect().Model(&rows).ColumnExpr("t.tenant_id").Where("? IN (?)", bun.Ident(column), bun.List(digests)).
		Where("state = ?", string(lifecycle.Live)).OrderExpr("installed_at, tenant_id").Limit(100).Scan(ctx))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("listing a workspace's installations: %w", err)
	}
	out := make([]lifecycle.TenantID, 0, len(rows))
	for _, r := range rows {
		id, err := lifecycle.ParseTenantID(r.TenantID)
		if err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, nil
}

// find returns nil, nil when there is none; a database error is an error.
func find(ctx context.Context, tx bun.IDB, column string, digests []keyring.Digest) (*Tenant, error) {
	var r tenantRow
	err := pg.Map(tx.NewSelect().Model(&r).ColumnExpr(registryColumns).Where("? IN (?)", bun.Ident(column), bun.List(digests)).
		Where("state = ?", string(lifecycle.Live)).OrderExpr("installed_at DESC, tenant_id").Limit(1).Scan(ctx))
	if errors.Is(err, pg.ErrNoRows) { // a workspace is recognised until its values are gone, a client key for longer
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

// Get returns the registry's entry of one tenant. It holds no customer data and
// leaves no event (it is on the policy's published list).
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
	return lifecycle.Fail(lifecycle.TenantErased, "This tenant is erased; nothing of it is held any more.")
}

// Delivered reports whether a callback that carried this token was already acted
// upon, and for which tenant, which may be erased by now: the same delivery twice
// is a no-op. It must be asked before the signature is checked, since an install
// may have replaced the secret that its own token is signed with.
func (d *Door) Delivered(ctx context.Context, tokenHash [32]byte) (lifecycle.TenantID, bool, error) {
	var row struct{ TenantID string }
	err := pg.Map(pg.Bun(d.db).NewRaw(`SELECT tenant_id FROM trakr.replay_guard WHERE token_hash = ?0
		UNION ALL SELECT tenant_id FROM trakr.erasures WHERE token_hash = ?0
		UNION ALL SELECT tenant_id FROM trakr.erasures WHERE spent_tokens @> ARRAY[?0::bytea] LIMIT 1`, tokenHash[:]).Scan(ctx, &row))
	if errors.Is(err, pg.ErrNoRows) {
		return lifecycle.TenantID{}, false, nil
	}
	if err != nil {
		return lifecycle.TenantID{}, false, fmt.Errorf("looking for an earlier delivery: %w", err)
	}
	id, err := lifecycle.ParseTenantID(row.TenantID)
	return id, err == nil, err
}

// ParseSubject checks what a caller wants to look up: exactly one of a client key
// and a workspace uuid, the latter with or without braces.
func ParseSubject(clientKey, workspaceUUID string) (Subject, error) {
	if (clientKey == "") == (workspaceUUID == "") {
		return Subject{}, lifecycle.Fail(lifecycle.RequestInvalid, "A look-up names exactly one of client_key and workspace_uuid.",
			lifecycle.At("", "exactly one of client_key, workspace_uuid"))
	}
	if clientKey != "" {
		return Subject{ClientKey: lifecycle.NewSecret(clientKey)}, nil
	}
	s := workspaceUUID
	if len(s) == 38 && s[0] == '{' && s[37] == '}' {
		s = s[1:37]
	}
	id, err := uuid.Parse(s)
	if err != nil || len(s) != 36 {
		return Subject{}, lifecycle.Fail(lifecycle.RequestInvalid, "A workspace is named by its uuid, with or without braces.", lifecycle.At("/workspace_uuid", "not a uuid"))
	}
	return Subject{WorkspaceUUID: lifecycle.NewSecret(id.String())}, nil
}
