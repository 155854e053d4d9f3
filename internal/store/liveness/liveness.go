// Package liveness keeps what Bitbucket last said of each live tenant: times and a
// count of suspicions, never a value. It records each question in the audit. What
// the answers mean is decided by the sweep.
package liveness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
	"trakr/internal/store/tenants"
)

// State is one live tenant and what is known of its life.
type State struct {
	ID        lifecycle.TenantID
	Version   tenants.Version // of the registry's entry when it was read
	UpdatedAt time.Time       // the last install that was accepted
	Suspicion Suspicion
}

// Suspicion is the answers that said gone since the last one that said alive. The
// zero Suspicion is none.
type Suspicion struct {
	Count       int
	First, Last time.Time
}

// Store keeps it in one database.
type Store struct{ db *store.DB }

// New returns the store of db.
func New(db *store.DB) *Store { return &Store{db} }

type stateRow struct {
	TenantID         string
	Version          int64
	UpdatedAt        time.Time
	Suspicions       int
	FirstSuspectedAt *time.Time
	LastSuspectedAt  *time.Time
}

const stateColumns = `SELECT t.tenant_id, t.xmin::text::bigint AS version, t.updated_at, coalesce(l.suspicions, 0) AS suspicions, l.first_suspected_at, l.last_suspected_at
	FROM trakr.tenants AS t LEFT JOIN trakr.tenant_liveness AS l USING (tenant_id) WHERE t.state = 'live' `

// Due lists live tenants that were not asked about since then, the longest unasked
// first. One that was asked in the future, by a clock that was wrong, is due.
func (s *Store) Due(ctx context.Context, since, now time.Time, limit int) ([]State, error) {
	return s.list(ctx, `AND (l.last_probed_at IS NULL OR l.last_probed_at <= ? OR l.last_probed_at > ?)
		ORDER BY l.last_probed_at NULLS FIRST, t.tenant_id LIMIT ?`, since, now, limit)
}

// Controls lists live tenants beside those named that were alive last.
func (s *Store) Controls(ctx context.Context, beside []lifecycle.TenantID, limit int) ([]State, error) {
	ids := []string{lifecycle.TenantID{}.String()}
	for _, id := range beside {
		ids = append(ids, id.String())
	}
	return s.list(ctx, `AND l.last_alive_at IS NOT NULL AND t.tenant_id NOT IN (?) ORDER BY l.last_alive_at DESC, t.tenant_id LIMIT ?`, bun.List(ids), limit)
}

func (s *Store) list(ctx context.Context, which string, args ...any) ([]State, error) {
	var rows []stateRow
	err := pg.Map(pg.Bun(s.db).NewRaw(stateColumns+which, args...).Scan(ctx, &rows))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("listing tenants to ask about: %w", err)
	}
	out := make([]State, len(rows))
	for i, r := range rows {
		id, err := lifecycle.ParseTenantID(r.TenantID)
		if err != nil {
			return nil, fmt.Errorf("listing tenants to ask about: %w", err)
		}
		out[i] = State{ID: id, Version: tenants.Version(r.Version), UpdatedAt: r.UpdatedAt.UTC()}
		if r.Suspicions > 0 {
			out[i].Suspicion = Suspicion{r.Suspicions, r.FirstSuspectedAt.UTC(), r.LastSuspectedAt.UTC()}
		}
	}
	return out, nil
}

// Asked is one question and what came back.
type Asked struct {
	Recipient string // host that was asked
	Detail    string // closed-set word, see bitbucket.Probed
	Answered  bool   // Bitbucket said something of this installation
	Alive     bool
}

// Note records a question in the audit and, unless the pass is dry, when it was asked
// and answered. An answer that the tenant is alive clears its suspicion.
func (s *Store) Note(ctx context.Context, a lifecycle.Access, id lifecycle.TenantID, q Asked, now time.Time, dry bool) error {
	e := audit.New(ctx, now, a, audit.TenantProbe, audit.Success)
	e.TenantID, e.Recipient, e.StatusDetail = id, q.Recipient, q.Detail
	if !q.Answered {
		e.Outcome = audit.Failure
	}
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		if err := audit.Append(ctx, tx, e); err != nil || dry {
			return err
		}
		// FOR SHARE waits for an erasure under way, which then leaves no row behind.
		_, err := tx.NewRaw(`INSERT INTO trakr.tenant_liveness AS l (tenant_id, last_probed_at, last_answered_at, last_alive_at)
			SELECT t.tenant_id, ?1::timestamptz, CASE WHEN ?2 THEN ?1::timestamptz END, CASE WHEN ?3 THEN ?1::timestamptz END FROM trakr.tenants AS t WHERE t.tenant_id = ?0 AND t.state = 'live' FOR SHARE
			ON CONFLICT (tenant_id) DO UPDATE SET last_probed_at = excluded.last_probed_at,
				last_answered_at = coalesce(excluded.last_answered_at, l.last_answered_at), last_alive_at = coalesce(excluded.last_alive_at, l.last_alive_at),
				suspicions = CASE WHEN ?3 THEN 0 ELSE l.suspicions END, first_suspected_at = CASE WHEN NOT ?3 THEN l.first_suspected_at END,
				last_suspected_at = CASE WHEN NOT ?3 THEN l.last_suspected_at END`, id.String(), now.UTC(), q.Answered, q.Alive).Exec(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("noting what Bitbucket answered: %w", err)
	}
	return nil
}

// Suspect stores a tenant's suspicion. One that was erased meanwhile has none.
func (s *Store) Suspect(ctx context.Context, id lifecycle.TenantID, x Suspicion) error {
	_, err := pg.Bun(s.db).NewRaw(`UPDATE trakr.tenant_liveness SET suspicions = ?, first_suspected_at = ?, last_suspected_at = ? WHERE tenant_id = ?`,
		x.Count, x.First, x.Last, id.String()).Exec(ctx)
	if err != nil {
		return fmt.Errorf("noting a suspicion: %w", pg.Map(err))
	}
	return nil
}

// Counts is what stands of all live tenants.
type Counts struct {
	At        time.Time // the database's clock
	Live      int64
	Suspected int64
	Unheard   int64 // no answer since then, nor installed since
}

// CountSQL is what Count runs.
const CountSQL = `SELECT transaction_timestamp() AS at, count(*) AS live, count(*) FILTER (WHERE l.suspicions > 0) AS suspected,
	count(*) FILTER (WHERE coalesce(l.last_answered_at, t.installed_at) < ?) AS unheard
	FROM trakr.tenants AS t LEFT JOIN trakr.tenant_liveness AS l USING (tenant_id) WHERE t.state = 'live'`

// Count counts live tenants, of which unheard are those without an answer since then.
func (s *Store) Count(ctx context.Context, since time.Time) (Counts, error) {
	var c Counts
	if err := pg.Map(pg.Bun(s.db).NewRaw(CountSQL, since).Scan(ctx, &c)); err != nil {
		return c, fmt.Errorf("counting what is known of the tenants' lives: %w", err)
	}
	c.At = c.At.UTC()
	return c, nil
}

// Lately is what the live tenants answered last, each within a time.
type Lately struct {
	Answered int64 // alive or gone
	Gone     int64 // and no install since
}

// LatelySQL is what Lately runs.
const LatelySQL = `SELECT count(*) AS answered, count(*) FILTER (WHERE l.last_alive_at IS DISTINCT FROM l.last_answered_at AND l.last_answered_at >= t.updated_at) AS gone
	FROM trakr.tenants AS t JOIN trakr.tenant_liveness AS l USING (tenant_id) WHERE t.state = 'live' AND l.last_answered_at >= ?`

// Lately counts the tenants that answered since then, and those that said gone.
func (s *Store) Lately(ctx context.Context, since time.Time) (Lately, error) {
	var l Lately
	if err := pg.Map(pg.Bun(s.db).NewRaw(LatelySQL, since).Scan(ctx, &l)); err != nil {
		return l, fmt.Errorf("counting what Bitbucket answered lately: %w", err)
	}
	return l, nil
}
