package tenants

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/lifecycle"
	"trakr/internal/store/internal/pg"
)

// Delivery is one verified callback: what makes it unique and orders it.
//
// The iat is the only order Bitbucket gives, in whole seconds, and its machines'
// clocks may differ. It decides among the callbacks under one secret: one dated
// before the newest accepted install was sent before it and changes nothing; one
// of the same second acts. An iat ahead of our clock counts as our time of
// receipt, so that it locks nothing out. When an install brought a new secret, the
// secret itself decides: what verifies under it was made afterwards, so the iat has
// Slack and only one that no clock explains is refused.
type Delivery struct {
	Ingress    lifecycle.Ingress // by which it came; an install stores it
	TokenHash  [32]byte          // SHA-256 of the compact token; zero when the install was unsigned
	IssuedAt   time.Time         // the token's iat; zero when unsigned
	Remember   time.Time         // until when the token could be presented again (exp + leeway)
	ReceivedAt time.Time
	Dropped    []string // names of payload keys seen and not kept

	// Version is that of the tenant before the secret was read that verified this.
	// The door acts only while it is unchanged: a secret that was replaced meanwhile
	// proves nothing any more. Zero when no stored secret was read.
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

// replayRow is one row of the replay guard: a token that was acted upon.
type replayRow struct {
	bun.BaseModel `bun:"table:trakr.replay_guard"`

	TokenHash []byte    `bun:"token_hash,pk"`
	TenantID  string    `bun:"tenant_id"`
	SeenAt    time.Time `bun:"seen_at"`
	ExpiresAt time.Time `bun:"expires_at"`
}

// rememberToken inserts a replayRow unless a live tenant's guard or the tombstone of an
// erased one already has the token.
const rememberToken = `INSERT INTO trakr.replay_guard (token_hash, tenant_id, seen_at, expires_at) SELECT ?0, ?1, ?2, ?3
	WHERE NOT EXISTS (SELECT FROM trakr.erasures WHERE token_hash = ?0)
		AND NOT EXISTS (SELECT FROM trakr.erasures WHERE spent_tokens @> ARRAY[?0::bytea])
	ON CONFLICT DO NOTHING`

// remember enters a delivery's token into the replay guard and reports whether it is new.
// An unsigned delivery has none and is always new.
func remember(ctx context.Context, tx bun.Tx, id lifecycle.TenantID, v Delivery) (bool, error) {
	if !v.signed() {
		return true, nil
	}
	res, err := tx.NewRaw(rememberToken, v.TokenHash[:], id.String(), v.ReceivedAt, v.Remember).Exec(ctx)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// tenantOfToken looks where rememberToken looks.
const tenantOfToken = `SELECT tenant_id FROM trakr.replay_guard WHERE token_hash = ?0
	UNION ALL SELECT tenant_id FROM trakr.erasures WHERE token_hash = ?0
	UNION ALL SELECT tenant_id FROM trakr.erasures WHERE spent_tokens @> ARRAY[?0::bytea] LIMIT 1`

// Delivered reports whether a callback that carried this token was already acted
// upon, and for which tenant, which may be erased by now: the same delivery twice
// is a no-op. Call it before the signature is checked, since an install
// may have replaced the secret that its own token is signed with.
func (d *Door) Delivered(ctx context.Context, tokenHash [32]byte) (lifecycle.TenantID, bool, error) {
	var row struct{ TenantID string }
	err := pg.Map(pg.Bun(d.db).NewRaw(tenantOfToken, tokenHash[:]).Scan(ctx, &row))
	if errors.Is(err, pg.ErrNoRows) {
		return lifecycle.TenantID{}, false, nil
	}
	if err != nil {
		return lifecycle.TenantID{}, false, fmt.Errorf("looking for an earlier delivery: %w", err)
	}
	id, err := lifecycle.ParseTenantID(row.TenantID)
	return id, err == nil, err
}

// forgetBatch bounds one statement of ForgetExpired.
const forgetBatch = 1000

// ForgetExpired removes the hashes of tokens that could not be presented any more
// and returns how many: their exp refuses them. A scheduled job calls it.
func (d *Door) ForgetExpired(ctx context.Context) (int64, error) {
	db := pg.Bun(d.db)
	var all int64
	for {
		expired := db.NewSelect().Model((*replayRow)(nil)).Column("token_hash").Where("expires_at < ?", d.log.Now().UTC()).
			Order("expires_at").Limit(forgetBatch).For("UPDATE SKIP LOCKED")
		res, err := db.NewDelete().Model((*replayRow)(nil)).Where("token_hash IN (?)", expired).Exec(ctx)
		if err != nil {
			return all, fmt.Errorf("forgetting expired tokens: %w", pg.Map(err))
		}
		n, err := res.RowsAffected()
		if all += n; err != nil || n < forgetBatch {
			return all, err
		}
	}
}
