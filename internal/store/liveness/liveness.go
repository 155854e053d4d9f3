// Package liveness stores when Bitbucket was last asked about each live tenant and what it
// answered: times and a count of suspicions, never a value. It records each question in the
// audit. The sweep decides what the answers mean.
package liveness

import (
	"context"
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

// Suspicion counts the answers that a tenant does not exist since the last answer that it
// is alive. The zero Suspicion is none.
type Suspicion struct {
	Count       int
	First, Last time.Time
}

// Store stores it in one database.
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

// selectLive begins a query for live tenants (t) and what is known of their life (l).
func (s *Store) selectLive(into *[]stateRow) *bun.SelectQuery {
	return pg.Bun(s.db).NewSelect().Model(into).ModelTableExpr("trakr.tenants AS t").
		ColumnExpr("t.tenant_id, t.xmin::text::bigint AS version, t.updated_at, coalesce(l.suspicions, 0) AS suspicions").
		ColumnExpr("l.first_suspected_at, l.last_suspected_at").
		Join("LEFT JOIN trakr.tenant_liveness AS l ON l.tenant_id = t.tenant_id").Where("t.state = ?", lifecycle.Live)
}

// Due lists live tenants that were not asked about since then, the longest unasked
// first. One that was asked in the future, by a clock that was wrong, is due.
func (s *Store) Due(ctx context.Context, since, now time.Time, limit int) ([]State, error) {
	var rows []stateRow
	err := s.selectLive(&rows).Where("l.last_probed_at IS NULL OR l.last_probed_at <= ? OR l.last_probed_at > ?", since, now).
		OrderExpr("l.last_probed_at NULLS FIRST, t.tenant_id").Limit(int64(limit)).Scan(ctx)
	return states(rows, err)
}

// Controls lists live tenants other than those named, those first that were alive last.
func (s *Store) Controls(ctx context.Context, beside []lifecycle.TenantID, limit int) ([]State, error) {
	ids := []string{lifecycle.TenantID{}.String()}
	for _, id := range beside {
		ids = append(ids, id.String())
	}
	var rows []stateRow
	err := s.selectLive(&rows).Where("l.last_alive_at IS NOT NULL").Where("t.tenant_id NOT IN (?)", bun.List(ids)).
		OrderExpr("l.last_alive_at DESC, t.tenant_id").Limit(int64(limit)).Scan(ctx)
	return states(rows, err)
}

// states returns the tenants after a query for several, whose error is err.
func states(rows []stateRow, err error) ([]State, error) {
	if err != nil {
		return nil, fmt.Errorf("listing tenants to ask about: %w", pg.Map(err))
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

// Asked is one question about a tenant and its answer.
type Asked struct {
	Tenant    lifecycle.TenantID
	At        time.Time
	Recipient string // host that was asked
	Detail    string // from a closed set, see bitbucket.Probed
	Answered  bool   // Bitbucket answered about this installation
	Alive     bool
}

// upsertAsked waits, by FOR SHARE, for an erasure under way, which then leaves no row
// behind. The arguments are the tenant, the time, answered and alive.
const upsertAsked = `INSERT INTO trakr.tenant_liveness AS l (tenant_id, last_probed_at, last_answered_at, last_alive_at)
	SELECT t.tenant_id, ?1::timestamptz, CASE WHEN ?2 THEN ?1::timestamptz END, CASE WHEN ?3 THEN ?1::timestamptz END
	FROM trakr.tenants AS t WHERE t.tenant_id = ?0 AND t.state = 'live' FOR SHARE
	ON CONFLICT (tenant_id) DO UPDATE SET last_probed_at = excluded.last_probed_at,
		last_answered_at = coalesce(excluded.last_answered_at, l.last_answered_at),
		last_alive_at = coalesce(excluded.last_alive_at, l.last_alive_at),
		suspicions = CASE WHEN ?3 THEN 0 ELSE l.suspicions END,
		first_suspected_at = CASE WHEN NOT ?3 THEN l.first_suspected_at END,
		last_suspected_at = CASE WHEN NOT ?3 THEN l.last_suspected_at END`

// Note records a question in the audit, and when it was asked and answered. An answer that
// the tenant is alive clears its suspicion.
func (s *Store) Note(ctx context.Context, a lifecycle.Access, q Asked) error {
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		if err := audit.Append(ctx, tx, q.event(ctx, a)); err != nil {
			return err
		}
		_, err := tx.NewRaw(upsertAsked, q.Tenant.String(), q.At.UTC(), q.Answered, q.Alive).Exec(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("recording Bitbucket's answer: %w", err)
	}
	return nil
}

// NoteDry records the question of a dry run: in the audit only.
func (s *Store) NoteDry(ctx context.Context, a lifecycle.Access, q Asked) error {
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error { return audit.Append(ctx, tx, q.event(ctx, a)) })
	if err != nil {
		return fmt.Errorf("recording Bitbucket's answer: %w", err)
	}
	return nil
}

func (q Asked) event(ctx context.Context, a lifecycle.Access) audit.Event {
	e := audit.New(ctx, q.At, a, audit.TenantProbe, audit.Success)
	e.TenantID, e.Recipient, e.StatusDetail = q.Tenant, q.Recipient, q.Detail
	if !q.Answered {
		e.Outcome = audit.Failure
	}
	return e
}

// livenessRow is a tenant's suspicion as it is stored.
type livenessRow struct {
	bun.BaseModel `bun:"table:trakr.tenant_liveness,alias:l"`
}

// Suspect stores a tenant's suspicion. One that was erased meanwhile has none.
func (s *Store) Suspect(ctx context.Context, id lifecycle.TenantID, x Suspicion) error {
	_, err := pg.Bun(s.db).NewUpdate().Model((*livenessRow)(nil)).Set("suspicions = ?", x.Count).
		Set("first_suspected_at = ?", x.First).Set("last_suspected_at = ?", x.Last).Where("tenant_id = ?", id.String()).Exec(ctx)
	if err != nil {
		return fmt.Errorf("recording a suspicion: %w", pg.Map(err))
	}
	return nil
}

// Counts counts the live tenants.
type Counts struct {
	At        time.Time // the database's clock
	Live      int64
	Suspected int64
	Unheard   int64 // no answer since then, nor installed since
}

// CountSQL is what Count runs. The sweep's result has its digest.
const CountSQL = `SELECT transaction_timestamp() AS at, count(*) AS live, count(*) FILTER (WHERE l.suspicions > 0) AS suspected,
	count(*) FILTER (WHERE coalesce(l.last_answered_at, t.installed_at) < ?) AS unheard
	FROM trakr.tenants AS t LEFT JOIN trakr.tenant_liveness AS l USING (tenant_id) WHERE t.state = 'live'`

// Count counts live tenants; unheard are those without an answer since a moment.
func (s *Store) Count(ctx context.Context, since time.Time) (Counts, error) {
	var c Counts
	if err := pg.Map(pg.Bun(s.db).NewRaw(CountSQL, since).Scan(ctx, &c)); err != nil {
		return c, fmt.Errorf("counting the live tenants: %w", err)
	}
	c.At = c.At.UTC()
	return c, nil
}

// Lately counts the tenants that answered within a period.
type Lately struct {
	Answered int64 // with any answer
	Gone     int64 // that they do not exist, and no install since
}

// LatelySQL is what Lately runs. The sweep's result has its digest.
const LatelySQL = `SELECT count(*) AS answered, count(*) FILTER (WHERE l.last_alive_at IS DISTINCT FROM l.last_answered_at` +
	` AND l.last_answered_at >= t.updated_at) AS gone
	FROM trakr.tenants AS t JOIN trakr.tenant_liveness AS l USING (tenant_id) WHERE t.state = 'live' AND l.last_answered_at >= ?`

// Lately counts the tenants that answered since a moment, and those of them that do not
// exist.
func (s *Store) Lately(ctx context.Context, since time.Time) (Lately, error) {
	var l Lately
	if err := pg.Map(pg.Bun(s.db).NewRaw(LatelySQL, since).Scan(ctx, &l)); err != nil {
		return l, fmt.Errorf("counting what Bitbucket answered lately: %w", err)
	}
	return l, nil
}
