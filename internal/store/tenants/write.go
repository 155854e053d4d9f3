package tenants

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/egress"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
	"trakr/internal/store/outbox"
)

// Delivery is one verified callback: what makes it unique and orders it.
//
// The iat is the only order Bitbucket gives, in whole seconds, and its machines'
// clocks may differ. It decides among the callbacks under one secret: one dated
// before the newest accepted install was sent before it and changes nothing; one
// of the same second acts. An iat ahead of our clock counts as our time of
// receipt, so that it locks nothing out. When an install brought a new secret, the
// secret itself tells: what verifies under it was made afterwards, so the iat has
// Slack and only one that no clock explains is refused.
type Delivery struct {
	TokenHash  [32]byte  // SHA-256 of the compact token; zero when the install was unsigned
	IssuedAt   time.Time // the token's iat; zero when unsigned
	Remember   time.Time // until when the token could be presented again (exp + leeway)
	ReceivedAt time.Time
	Dropped    []string // names of payload keys seen and not kept

	// Version is that of the tenant before the secret was read that verified this.
	// The door acts only while it stands: a secret that was replaced meanwhile
	// proves nothing any more. Zero when no stored secret was asked.
	Version Version
	// Slack is by how much later callbacks may be dated before this install and
	// still act: the leeway for clocks when it brings a new secret, else zero.
	Slack time.Duration
}

// floor is the date before which no later callback may be dated.
func (v Delivery) floor() time.Time {
	return earlier(v.IssuedAt, v.ReceivedAt).Add(-v.Slack)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (v Delivery) signed() bool { return v.TokenHash != [32]byte{} }

// Result says what a delivery did.
type Result string

// The results. Replayed and Stale change nothing.
const (
	Applied  Result = "applied"
	Replayed Result = "replayed" // this very token was acted upon before
	Stale    Result = "stale"    // a newer callback, or the erasure, was acted upon before
)

// ErrOnFile means that the client key belongs to a live tenant: its next install
// needs that tenant's signature.
var ErrOnFile = errors.New("a live tenant has this client key")

// ErrChanged means that the tenant changed since the secret was read that verified
// a callback: it must be verified anew.
var ErrChanged = errors.New("the tenant changed meanwhile")

// Install creates a tenant for a client key that no live tenant has. The caller
// has proof of possession. The id is new and linked to nothing older, but the
// tombstones under the same client key count: a token acted upon in an earlier
// life is Replayed, a signed install dated before the last erasure is Stale. One
// of the same second is decided by the proof.
func (d *Door) Install(ctx context.Context, a lifecycle.Access, values lifecycle.Values, v Delivery) (lifecycle.TenantID, Result, error) {
	id, result, err := d.install(ctx, a, values, v)
	if d.refused(err) { // the keys were rotated since this service looked
		if err = d.newKeys(ctx); err == nil {
			id, result, err = d.install(ctx, a, values, v)
		}
	}
	return id, result, err
}

func (d *Door) install(ctx context.Context, a lifecycle.Access, values lifecycle.Values, v Delivery) (lifecycle.TenantID, Result, error) {
	if err := a.Check(); err != nil {
		return lifecycle.TenantID{}, "", d.deny(ctx, audit.New(ctx, d.log.Now(), a, audit.TenantInstall, audit.Denied), err)
	}
	id := lifecycle.NewTenantID()
	digests, err := d.keys.Digests(keyring.Subject, values[lifecycle.ClientKey])
	if err != nil {
		return lifecycle.TenantID{}, "", fmt.Errorf("installing: %w", err)
	}
	principal, err := d.keys.Digest(keyring.Principal, values[lifecycle.PrincipalUUID])
	if err != nil {
		return lifecycle.TenantID{}, "", fmt.Errorf("installing: %w", err)
	}
	fields, err := d.seal(id, values, v.ReceivedAt)
	if err != nil {
		return lifecycle.TenantID{}, "", err
	}
	e := audit.New(ctx, d.log.Now(), a, audit.TenantInstall, audit.Success)
	e.TenantID, e.FieldNames, e.DroppedNames, e.SubjectDigest = id, fields.names(), v.Dropped, digests[0].String()

	err = pg.InTx(ctx, d.db, func(ctx context.Context, tx bun.Tx) error {
		// Two first installs at once wait for each other here, whichever
		// digest version each would write: the oldest is the same for both.
		oldest := digests[len(digests)-1]
		if _, err := tx.NewRaw(`SELECT pg_advisory_xact_lock(hashtextextended(?, 1))`, oldest.String()).Exec(ctx); err != nil {
			return err
		}
		live, err := find(ctx, tx, "subject_digest", digests)
		if err != nil {
			return err
		}
		if live != nil && live.State == lifecycle.Live {
			return ErrOnFile
		}
		erased, err := lastErasure(ctx, tx, digests)
		if err != nil {
			return err
		}
		row := tenantRow{TenantID: id.String(), Ingress: string(lifecycle.Connect), State: string(lifecycle.Live),
			SubjectDigest: digests[0], PrincipalDigest: principal, InstalledAt: v.ReceivedAt, UpdatedAt: v.ReceivedAt}
		var floor time.Time
		switch {
		case v.signed() && erased != nil && v.IssuedAt.Before(*erased):
			return errStale
		case v.signed():
			floor = v.floor()
			row.LastTokenIAT = &floor
		case erased != nil:
			floor = earlier(*erased, v.ReceivedAt)
			row.LastTokenIAT = &floor
		}
		if _, err := tx.NewInsert().Model(&row).Exec(ctx); err != nil {
			return err
		}
		// The event comes before the values: the guard on their table lets them
		// in only after it.
		if err := audit.Append(ctx, tx, e); err != nil {
			return err
		}
		fresh, err := remember(ctx, tx, id, v)
		if err != nil {
			return err
		}
		if !fresh {
			return errReplayed // rolls the new tenant back
		}
		if _, err = tx.NewInsert().Model(&fields).Exec(ctx); err != nil {
			return err
		}
		return d.announce(ctx, tx, a, outbox.Announcement{Kind: egress.Installed, Tenant: id, Values: values, At: v.ReceivedAt})
	})
	var refused Result
	switch {
	case errors.Is(err, errReplayed):
		refused = Replayed
	case errors.Is(err, errStale):
		refused = Stale
	}
	if refused != "" {
		e.TenantID, e.FieldNames = lifecycle.TenantID{}, nil
		e.Outcome, e.StatusDetail = audit.Denied, string(refused)
		return lifecycle.TenantID{}, refused, d.log.Record(ctx, e)
	}
	if err != nil {
		return lifecycle.TenantID{}, "", fmt.Errorf("installing: %w", err)
	}
	d.notify()
	return id, Applied, nil
}

// What rolls a new tenant back.
var (
	errReplayed = errors.New("replayed")
	errStale    = errors.New("stale")
)

// lastErasure is the newest iat that erased a tenant under this client key.
func lastErasure(ctx context.Context, tx bun.Tx, digests []keyring.Digest) (*time.Time, error) {
	var row struct{ At *time.Time }
	err := tx.NewRaw(`SELECT max(token_iat) AS at FROM trakr.erasures WHERE subject_digest IN (?)`, bun.List(digests)).Scan(ctx, &row)
	return row.At, pg.Map(err)
}

// Update writes the fields of a live tenant anew, after an install signed with
// its stored secret. A replayed or older delivery changes nothing.
func (d *Door) Update(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, values lifecycle.Values, v Delivery) (Result, error) {
	result, err := d.update(ctx, a, id, values, v)
	if d.refused(err) { // as in Install
		if err = d.newKeys(ctx); err == nil {
			result, err = d.update(ctx, a, id, values, v)
		}
	}
	return result, err
}

func (d *Door) update(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, values lifecycle.Values, v Delivery) (Result, error) {
	if err := a.Check(); err != nil {
		e := audit.New(ctx, d.log.Now(), a, audit.TenantUpdate, audit.Denied)
		e.TenantID = id
		return "", d.deny(ctx, e, err)
	}
	principal, err := d.keys.Digest(keyring.Principal, values[lifecycle.PrincipalUUID])
	if err != nil {
		return "", fmt.Errorf("updating: %w", err)
	}
	fields, err := d.seal(id, values, v.ReceivedAt)
	if err != nil {
		return "", err
	}
	e := audit.New(ctx, d.log.Now(), a, audit.TenantUpdate, audit.Success)
	e.TenantID, e.FieldNames, e.DroppedNames = id, fields.names(), v.Dropped
	result, err := d.once(ctx, id, v, e, func(ctx context.Context, tx bun.Tx, t tenantRow) error {
		floor := v.floor()
		t.PrincipalDigest, t.UpdatedAt, t.LastTokenIAT = principal, v.ReceivedAt, &floor
		if err := exactlyOne(tx.NewUpdate().Model(&t).Column("principal_digest", "updated_at", "last_token_iat").WherePK().Exec(ctx)); err != nil {
			return err
		}
		if err := exactlyOne(tx.NewUpdate().Model(&fields).WherePK().Exec(ctx)); err != nil {
			return err
		}
		return d.announce(ctx, tx, a, outbox.Announcement{Kind: egress.Changed, Tenant: id, Values: values, At: v.ReceivedAt})
	})
	if err == nil && result == Applied {
		d.notify()
	}
	return result, err
}

// once runs act on a live tenant unless the delivery was seen before or is
// older than what was last accepted; either way the event is committed with it.
func (d *Door) once(ctx context.Context, id lifecycle.TenantID, v Delivery, e audit.Event, act func(context.Context, bun.Tx, tenantRow) error) (Result, error) {
	result := Applied
	err := pg.InTx(ctx, d.db, func(ctx context.Context, tx bun.Tx) error {
		var t tenantRow
		err := pg.Map(tx.NewSelect().Model(&t).ColumnExpr(registryColumns).Where("tenant_id = ?", id.String()).For("UPDATE").Scan(ctx))
		if errors.Is(err, pg.ErrNoRows) {
			return errUnknown()
		}
		if err != nil {
			return err
		}
		if t.State != string(lifecycle.Live) {
			return errErased()
		}
		if v.Version != 0 && v.Version != t.Version {
			return ErrChanged
		}
		fresh, err := remember(ctx, tx, id, v)
		if err != nil {
			return err
		}
		switch {
		case !fresh:
			result = Replayed
		case v.signed() && t.LastTokenIAT != nil && v.IssuedAt.Before(*t.LastTokenIAT):
			result = Stale
		default:
			// The event comes before the act, which the guard on the values'
			// table lets happen only after it.
			if err := audit.Append(ctx, tx, e); err != nil {
				return err
			}
			return act(ctx, tx, t)
		}
		e.Outcome, e.StatusDetail, e.FieldNames = audit.Denied, string(result), nil
		return audit.Append(ctx, tx, e)
	})
	if err != nil {
		return "", fmt.Errorf("%s: %w", e.Action, err)
	}
	return result, nil
}

// remember enters the token into the replay guard and reports whether it is new,
// to the tenants erased since as well.
func remember(ctx context.Context, tx bun.Tx, id lifecycle.TenantID, v Delivery) (bool, error) {
	if !v.signed() {
		return true, nil
	}
	res, err := tx.NewRaw(`INSERT INTO trakr.replay_guard (token_hash, tenant_id, seen_at, expires_at) SELECT ?0, ?1, ?2, ?3
		WHERE NOT EXISTS (SELECT FROM trakr.erasures WHERE token_hash = ?0) AND NOT EXISTS (SELECT FROM trakr.erasures WHERE spent_tokens @> ARRAY[?0::bytea])
		ON CONFLICT DO NOTHING`, v.TokenHash[:], id.String(), v.ReceivedAt, v.Remember).Exec(ctx)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// forgetAtOnce bounds one statement of ForgetExpired.
const forgetAtOnce = 1000

// ForgetExpired removes the hashes of tokens that could not be presented any more
// and returns how many: their exp refuses them. A scheduled job calls it.
func (d *Door) ForgetExpired(ctx context.Context) (int64, error) {
	var all int64
	for {
		res, err := pg.Bun(d.db).NewRaw(`DELETE FROM trakr.replay_guard WHERE token_hash IN (
			SELECT token_hash FROM trakr.replay_guard WHERE expires_at < ? ORDER BY expires_at LIMIT ? FOR UPDATE SKIP LOCKED)`,
			d.log.Now().UTC(), forgetAtOnce).Exec(ctx)
		if err != nil {
			return all, fmt.Errorf("forgetting expired tokens: %w", pg.Map(err))
		}
		n, err := res.RowsAffected()
		if all += n; err != nil || n < forgetAtOnce {
			return all, err
		}
	}
}

// fieldsRow is the sealed values as bun writes them.
type fieldsRow struct {
	bun.BaseModel `bun:"table:trakr.tenant_fields"`

	TenantID      string    `bun:"tenant_id,pk"`
	ClientKey     []byte    `bun:"client_key"`
	SharedSecret  []byte    `bun:"shared_secret"`
	PrincipalUUID []byte    `bun:"principal_uuid"`
	Username      []byte    `bun:"username"`
	AvatarURL     []byte    `bun:"avatar_url"`
	WrittenAt     time.Time `bun:"written_at"`
}

func (r *fieldsRow) column(f lifecycle.Field) *[]byte {
	return map[lifecycle.Field]*[]byte{lifecycle.ClientKey: &r.ClientKey, lifecycle.SharedSecret: &r.SharedSecret,
		lifecycle.PrincipalUUID: &r.PrincipalUUID, lifecycle.Username: &r.Username, lifecycle.AvatarURL: &r.AvatarURL}[f]
}

func (r *fieldsRow) names() []lifecycle.Field {
	var out []lifecycle.Field
	for _, f := range lifecycle.Fields() {
		if *r.column(f) != nil {
			out = append(out, f)
		}
	}
	return out
}

// seal encrypts what is kept: a field that the policy switches off is not, whoever
// hands its value over.
func (d *Door) seal(id lifecycle.TenantID, values lifecycle.Values, now time.Time) (fieldsRow, error) {
	r := fieldsRow{TenantID: id.String(), WrittenAt: now}
	for f, v := range values {
		if !f.Valid() {
			return r, fmt.Errorf("sealing: %s is not a guarded field", f)
		}
		if v.Empty() || !d.policy.Keeps(f) {
			continue
		}
		b, err := d.keys.Encrypt(id, f, v)
		if err != nil {
			return r, err
		}
		*r.column(f) = b
	}
	return r, nil
}
