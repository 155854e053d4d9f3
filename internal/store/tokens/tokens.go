// Package tokens stores the bearer tokens of the API: an opaque id, a role, an
// expiry, and the SHA-256 of the token. The token itself is shown once, at its
// creation, and stored nowhere.
package tokens

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
)

// Token is what is stored of a token.
type Token struct {
	bun.BaseModel `bun:"table:trakr.api_tokens,alias:t" json:"-"`

	ID        string         `json:"id" bun:"id"`
	Role      lifecycle.Role `json:"role" bun:"role"`
	Label     string         `json:"label" bun:"label"`
	CreatedBy string         `json:"created_by" bun:"created_by"`
	CreatedAt time.Time      `json:"created_at" bun:"created_at"`
	ExpiresAt time.Time      `json:"expires_at" bun:"expires_at"`
	RevokedAt *time.Time     `json:"revoked_at,omitempty" bun:"revoked_at"`
}

// Caller returns the caller of a request with this token.
func (t Token) Caller() lifecycle.Caller {
	return lifecycle.Caller{Type: t.Role.ActorType(), ID: "token:" + t.ID, Role: t.Role}
}

// MaxLifetime bounds how long a token can live: one that never ends is never
// looked at again.
const MaxLifetime = 366 * 24 * time.Hour

// Store stores tokens in one database.
type Store struct {
	db  *store.DB
	now func() time.Time

	mu    sync.Mutex
	known map[[sha256.Size]byte]known // by the hash of the whole token
}

// known is a token that was read from the database a moment ago.
type known struct {
	token Token
	asked time.Time
}

// trustFor is how long a token that was read is accepted without reading it again: a
// token that is revoked elsewhere is refused this much later at most.
// Without it every request would pay for a second query.
const (
	trustFor = time.Second
	maxKnown = 4096
)

// New returns the store of db; the clock judges expiry.
func New(db *store.DB, now func() time.Time) *Store {
	return &Store{db: db, now: now, known: map[[sha256.Size]byte]known{}}
}

const prefix = "trakr_" // lets secret scanners recognise a leaked token

// A label is for the operator's list; its form keeps people's names and
// addresses out of it.
var labelForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// Create makes a token and returns it with its plain text, the only time that it is
// returned. The creation is audited in the same transaction.
func (s *Store) Create(
	ctx context.Context, a lifecycle.Access, role lifecycle.Role, label string, ttl time.Duration,
) (lifecycle.Secret, Token, error) {
	var none lifecycle.Secret
	if err := a.CheckReason(); err != nil {
		return none, Token{}, err
	}
	switch {
	case !slices.Contains(lifecycle.TokenRoles(), role):
		return none, Token{}, lifecycle.Fail(lifecycle.RequestInvalid,
			"The role is one of service, support, reviewer, operator.", lifecycle.At("/role", "unknown role"))
	case !labelForm.MatchString(label):
		return none, Token{}, lifecycle.Fail(lifecycle.RequestInvalid,
			"The label is 1 to 64 of a-z 0-9 . _ - and names a use, not a person.", lifecycle.At("/label", "not in this form"))
	case ttl < time.Minute || ttl > MaxLifetime:
		return none, Token{}, lifecycle.Fail(lifecycle.RequestInvalid,
			"A token lives between one minute and 366 days.", lifecycle.At("/expires_in", "out of range"))
	}
	var raw [4 + 32]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return none, Token{}, fmt.Errorf("making a token: %w", err)
	}
	id := hex.EncodeToString(raw[:4])
	plain := prefix + id + "_" + base64.RawURLEncoding.EncodeToString(raw[4:])
	sum := sha256.Sum256([]byte(plain))
	now := s.now().UTC()
	t := Token{ID: id, Role: role, Label: label, CreatedBy: a.Caller.ID, CreatedAt: now, ExpiresAt: now.Add(ttl).Truncate(time.Second)}
	e := audit.New(ctx, now, a, audit.TokenCreate, audit.Success)
	e.StatusDetail, e.CorrelationID = string(role), "token:"+id
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(&t).Value("secret_hash", "?", sum[:]).Exec(ctx); err != nil {
			return err
		}
		return audit.Append(ctx, tx, e)
	})
	if err != nil {
		return none, Token{}, fmt.Errorf("making a token: %w", err)
	}
	return lifecycle.NewSecret(plain), t, nil
}

func errToken(why string) error {
	return lifecycle.Fail(lifecycle.Unauthenticated,
		"A valid bearer token is needed: Authorization: Bearer trakr_… (make one with: trakr token create).", lifecycle.Because(why))
}

const selectToken = `SELECT id, role, label, created_by, created_at, expires_at, revoked_at, secret_hash FROM trakr.api_tokens WHERE id = ?`

// Authenticate returns the token whose plain text this is. Only the log distinguishes
// an unknown, a revoked and an expired token.
func (s *Store) Authenticate(ctx context.Context, plain lifecycle.Secret) (Token, error) {
	id, _, ok := strings.Cut(strings.TrimPrefix(plain.Reveal(), prefix), "_")
	if !ok || len(id) != 8 || len(plain.Reveal()) > 128 {
		return Token{}, errToken("malformed")
	}
	sum := sha256.Sum256([]byte(plain.Reveal()))
	if t, ok := s.recall(sum); ok {
		return t, nil
	}
	asked := s.now()
	var row struct {
		Token
		SecretHash []byte `bun:"secret_hash"`
	}
	err := pg.Map(pg.Bun(s.db).NewRaw(selectToken, id).Scan(ctx, &row))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return Token{}, fmt.Errorf("checking a token: %w", err)
	}
	switch {
	case err != nil || subtle.ConstantTimeCompare(sum[:], row.SecretHash) != 1:
		return Token{}, errToken("unknown")
	case row.RevokedAt != nil:
		return Token{}, errToken("revoked")
	case !s.now().Before(row.ExpiresAt):
		return Token{}, errToken("expired")
	}
	s.remember(sum, known{row.Token, asked})
	return row.Token, nil
}

// recall returns a token that is known from a moment ago and has not expired.
func (s *Store) recall(sum [sha256.Size]byte) (Token, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.known[sum]
	now := s.now()
	return k.token, ok && now.Sub(k.asked) < trustFor && !now.Before(k.asked) && now.Before(k.token.ExpiresAt)
}

func (s *Store) remember(sum [sha256.Size]byte, k known) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxKnown {
		clear(s.known)
	}
	s.known[sum] = k
}

// forget makes a revocation on this replica count at once.
func (s *Store) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.known)
}

// List returns every token, newest first, at most 1000.
func (s *Store) List(ctx context.Context) ([]Token, error) {
	out := []Token{}
	if err := pg.Bun(s.db).NewSelect().Model(&out).Order("created_at DESC", "id").Limit(1000).Scan(ctx); err != nil {
		return nil, fmt.Errorf("listing tokens: %w", pg.Map(err))
	}
	return out, nil
}

// Revoke ends a token, on this replica at once and on others within a second; a
// token that was revoked before stays so. The revocation is audited.
func (s *Store) Revoke(ctx context.Context, a lifecycle.Access, id string) error {
	if err := a.CheckReason(); err != nil {
		return err
	}
	now := s.now().UTC()
	e := audit.New(ctx, now, a, audit.TokenRevoke, audit.Success)
	e.CorrelationID = "token:" + id
	defer s.forget()
	return pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		res, err := tx.NewUpdate().Model((*Token)(nil)).Set("revoked_at = coalesce(revoked_at, ?)", now).Where("id = ?", id).Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, lifecycle.Fail(lifecycle.NotFound, "There is no token with this id; trakr token list shows them."))
		}
		return audit.Append(ctx, tx, e)
	})
}
