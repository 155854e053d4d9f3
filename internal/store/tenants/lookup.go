package tenants

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
)

// Subject is what a tenant is looked up by: exactly one member is set.
type Subject struct {
	ClientKey     lifecycle.Secret
	WorkspaceUUID lifecycle.Secret // lower case, without braces
}

// digests returns the keyed digests of a subject, that of the newest digest key first,
// and the column that has them.
func (d *Door) digests(s Subject) (column digestColumn, all []keyring.Digest, err error) {
	if s.ClientKey.Empty() == s.WorkspaceUUID.Empty() {
		return "", nil, lifecycle.Fail(lifecycle.RequestInvalid, "A look-up names exactly one of client_key and workspace_uuid.")
	}
	if !s.ClientKey.Empty() {
		all, err = d.keys.Digests(keyring.Subject, s.ClientKey)
		return subjectDigest, all, err
	}
	all, err = d.keys.Digests(keyring.Principal, s.WorkspaceUUID)
	return principalDigest, all, err
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
		return Subject{}, lifecycle.Fail(lifecycle.RequestInvalid, "A workspace is named by its uuid, with or without braces.",
			lifecycle.At("/workspace_uuid", "not a uuid"))
	}
	return Subject{WorkspaceUUID: lifecycle.NewSecret(id.String())}, nil
}

// Digests returns the keyed digests under which a subject is found, that of the newest
// digest key first. Without the keys they reveal nothing; a request keeps them of a
// subject that no tenant has.
func (d *Door) Digests(s Subject) ([]keyring.Digest, error) {
	_, all, err := d.digests(s)
	return all, err
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
// read, and that is recorded; the rest is only counted, which the policy's published
// list states.
func (d *Door) Find(ctx context.Context, a lifecycle.Access, s Subject) (Tenant, error) {
	if a.Caller.Role != lifecycle.RoleIngress {
		e := audit.New(ctx, d.log.Now(), a, audit.TenantLookup, audit.Denied)
		return Tenant{}, d.deny(ctx, e, lifecycle.Fail(lifecycle.Forbidden, "Only callbacks are matched without an event."))
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
	err = pg.Map(pg.Bun(d.db).NewSelect().Model(&rows).Column("tenant_id").Where("? IN (?)", bun.Ident(column), bun.List(digests)).
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
