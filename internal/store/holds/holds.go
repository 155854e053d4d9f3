// Package holds stores legal holds: while one is active, no erasure deletes anything
// of its tenant. A hold has a ground out of a closed set, a ticket, a person and an
// end, and no text. It is placed and released in one transaction with its audit event.
//
// A deletion calls Active in its transaction, after locking the tenant's row in the
// registry. Place locks the same row, so that a hold either comes before the deletion or
// is refused after it.
//
// A backup does not contain the holds placed after it. So each step of a hold is also
// noted outside the database, and a replay after a restore puts back what is missing.
package holds

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
	"trakr/policy"
)

// Ground is why data may not be deleted for now.
type Ground string

// The grounds (GDPR Art. 17(3), Art. 18).
const (
	LegalObligation Ground = "legal_obligation" // Art. 17(3)(b): the law obliges us to keep it
	LegalClaim      Ground = "legal_claim"      // Art. 17(3)(e): to establish, exercise or defend a claim
	AuthorityOrder  Ground = "authority_order"  // a court or another authority ordered it
	Restriction     Ground = "restriction"      // Art. 18: the person concerned asked that it be kept
)

// Grounds lists every ground.
func Grounds() []Ground {
	return []Ground{LegalObligation, LegalClaim, AuthorityOrder, Restriction}
}

// Hold is one legal hold.
type Hold struct {
	bun.BaseModel `bun:"table:trakr.legal_holds,alias:h" json:"-"`

	ID         string     `json:"hold_id" bun:"hold_id"`
	TenantID   string     `json:"tenant_id" bun:"tenant_id"`
	Ground     Ground     `json:"ground" bun:"ground"`
	Ref        string     `json:"reason_ref" bun:"reason_ref" doc:"ticket"`
	PlacedBy   string     `json:"placed_by" bun:"placed_by"`
	PlacedAt   time.Time  `json:"placed_at" bun:"placed_at"`
	Until      time.Time  `json:"until" bun:"until"`
	ReleasedAt *time.Time `json:"released_at,omitempty" bun:"released_at"`
	ReleasedBy string     `json:"released_by,omitempty" bun:"released_by,nullzero"`
}

// Active reports whether the hold keeps its tenant's data at that time.
func (h Hold) Active(now time.Time) bool { return h.ReleasedAt == nil && now.Before(h.Until) }

// Outside remembers holds where no backup of the database reaches: the erasure ledger.
type Outside interface {
	// Note makes the placing of a hold durable, or its release when it is released.
	// Noted before is a success.
	Note(ctx context.Context, h Hold) error
}

// Store stores the holds of one database.
type Store struct {
	db      *store.DB
	log     *audit.Log
	outside Outside
	longest time.Duration
}

// New returns the store of db; the policy bounds how long a hold may last.
func New(db *store.DB, log *audit.Log, p *policy.Policy, outside Outside) (*Store, error) {
	if db == nil || log == nil || p == nil || outside == nil {
		return nil, errors.New("holds need a database, an audit log, a policy, and a ledger outside the database")
	}
	return &Store{db, log, outside, p.LegalHolds.Longest.Duration()}, nil
}

// Active returns the hold that keeps a tenant's data longest at that time, and whether
// there is one. tx is the transaction that is about to delete.
func Active(ctx context.Context, tx bun.IDB, tenant lifecycle.TenantID, now time.Time) (Hold, bool, error) {
	var h Hold
	err := pg.Map(tx.NewSelect().Model(&h).Where("tenant_id = ?", tenant.String()).Where("released_at IS NULL").
		Where("until > ?", now.UTC()).Order("until DESC", "hold_id").Limit(1).Scan(ctx))
	if errors.Is(err, pg.ErrNoRows) {
		return Hold{}, false, nil
	}
	if err != nil {
		return Hold{}, false, fmt.Errorf("looking for a legal hold: %w", err)
	}
	return h.utc(), true, nil
}

// Refusal returns the on-hold fault, with the end of the hold.
func (h Hold) Refusal() error {
	return lifecycle.Fail(lifecycle.OnHold, "A legal hold ("+string(h.Ground)+") keeps this tenant's data until "+
		h.Until.Format(time.RFC3339)+"; release it first: trakr hold release "+h.ID)
}

// Order is a hold to be placed.
type Order struct {
	Tenant lifecycle.TenantID
	Ground Ground
	Until  time.Time
}

// Place keeps a tenant's data from deletion. The tenant may be live, or its erasure may
// have begun and not yet have deleted; an erased one is tenant-erased. The caller is a
// person, who names a ticket.
//
// The note outside is the last thing before the commit. When it fails, nothing was
// placed and Place returns store-unavailable. A crash, or a failure, between it and the
// commit leaves a hold that is known only outside: no caller was promised it, and the
// next replay of the ledger puts it back, so that it keeps data rather than loses it.
// The lock on the tenant's row keeps that replay from coming in between.
func (s *Store) Place(ctx context.Context, a lifecycle.Access, o Order) (Hold, error) {
	now := s.log.Now().UTC().Truncate(time.Microsecond)
	e := audit.New(ctx, now, a, audit.HoldPlace, audit.Success)
	e.TenantID = o.Tenant
	if err := person(a); err != nil {
		return Hold{}, s.deny(ctx, e, err)
	}
	switch longest := now.Add(s.longest); {
	case !slices.Contains(Grounds(), o.Ground):
		return Hold{}, lifecycle.Fail(lifecycle.RequestInvalid,
			"A hold's ground is one of legal_obligation, legal_claim, authority_order, restriction.",
			lifecycle.At("/ground", "unknown ground"))
	case !o.Until.After(now) || o.Until.After(longest):
		return Hold{}, lifecycle.Fail(lifecycle.RequestInvalid, "A hold ends in the future, and by the policy before "+
			longest.Format(time.RFC3339)+"; place another when it must last longer.", lifecycle.At("/until", "out of range"))
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Hold{}, fmt.Errorf("placing a hold: %w", err)
	}
	h := Hold{
		ID: id.String(), TenantID: o.Tenant.String(), Ground: o.Ground, Ref: a.Reason.Ref, PlacedBy: a.Caller.ID, PlacedAt: now,
		Until: o.Until.UTC().Truncate(time.Microsecond),
	}
	e.CorrelationID, e.StatusDetail = h.ID, string(h.Ground)
	err = pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		state, err := lockTenant(ctx, tx, h.TenantID)
		switch {
		case errors.Is(err, pg.ErrNoRows):
			return lifecycle.Fail(lifecycle.TenantUnknown, "There is no tenant with this id.")
		case err != nil:
			return err
		case state == lifecycle.Erased:
			return lifecycle.Fail(lifecycle.TenantErased, "This tenant is erased; there is nothing left to hold.")
		}
		if err := audit.Append(ctx, tx, e); err != nil {
			return err
		}
		if err := insert(ctx, tx, h); err != nil {
			return err
		}
		if err := s.outside.Note(ctx, h); err != nil {
			return lifecycle.Fail(lifecycle.StoreUnavailable, "The erasure ledger, which keeps holds from being forgotten with a backup, "+
				"cannot be written; the hold was not placed. Try again, or see why: trakr doctor.",
				lifecycle.After(10*time.Second), lifecycle.Cause(err))
		}
		return nil
	})
	if errors.Is(err, lifecycle.TenantErased) {
		return Hold{}, s.deny(ctx, e, err)
	}
	if err != nil {
		return Hold{}, fmt.Errorf("placing a hold: %w", err)
	}
	return h, nil
}

// lockTenant locks a tenant's row in the registry and returns its state.
func lockTenant(ctx context.Context, tx bun.Tx, tenant string) (lifecycle.TenantState, error) {
	var row struct{ State lifecycle.TenantState }
	err := tx.NewSelect().Table("trakr.tenants").Column("state").Where("tenant_id = ?", tenant).For("UPDATE").Scan(ctx, &row)
	return row.State, pg.Map(err)
}

func insert(ctx context.Context, tx bun.Tx, h Hold) error {
	_, err := tx.NewInsert().Model(&h).Column("hold_id", "tenant_id", "ground", "reason_ref", "placed_by", "placed_at", "until").Exec(ctx)
	return err
}

// Release ends a hold before its time; an erasure that waited for it continues. A hold
// that was released before stays as it is.
//
// Its note outside follows the commit. A crash, or a failure, in between leaves a hold
// that is released here and not outside: a backup restored in that time would put it
// back, which keeps data rather than loses it, and the next replay notes it.
func (s *Store) Release(ctx context.Context, a lifecycle.Access, id string) (Hold, error) {
	now := s.log.Now().UTC().Truncate(time.Microsecond)
	e := audit.New(ctx, now, a, audit.HoldRelease, audit.Success)
	if err := person(a); err != nil {
		return Hold{}, s.deny(ctx, e, err)
	}
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		return Hold{}, unknown()
	}
	h, err := s.end(ctx, e, id, now)
	if err != nil {
		return Hold{}, err
	}
	_ = s.outside.Note(ctx, h) // the next replay makes up for it
	return h, nil
}

// end ends a hold in the name of the event's actor.
func (s *Store) end(ctx context.Context, e audit.Event, id string, now time.Time) (h Hold, err error) {
	e.CorrelationID = id
	err = pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		err := pg.Map(tx.NewSelect().Model(&h).Where("hold_id = ?", id).For("UPDATE").Scan(ctx))
		if errors.Is(err, pg.ErrNoRows) {
			return unknown()
		}
		if err != nil || h.ReleasedAt != nil {
			return err
		}
		if e.TenantID, err = lifecycle.ParseTenantID(h.TenantID); err != nil {
			return err
		}
		e.StatusDetail = string(h.Ground)
		if err := audit.Append(ctx, tx, e); err != nil {
			return err
		}
		h.ReleasedAt, h.ReleasedBy = &now, e.ActorID
		res, err := tx.NewUpdate().Model((*Hold)(nil)).Set("released_at = ?", now).Set("released_by = ?", e.ActorID).
			Where("hold_id = ?", id).Where("released_at IS NULL").Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, errors.New("a hold was not released"))
		}
		return nil
	})
	if err != nil {
		return Hold{}, fmt.Errorf("releasing a hold: %w", err)
	}
	return h.utc(), nil
}

// List returns holds, newest first, at most 1000: of one tenant, or of all when it is
// zero; with activeAt those alone that keep data at that time.
func (s *Store) List(ctx context.Context, tenant lifecycle.TenantID, activeAt time.Time) ([]Hold, error) {
	out := []Hold{}
	q := pg.Bun(s.db).NewSelect().Model(&out)
	if !tenant.IsZero() {
		q = q.Where("tenant_id = ?", tenant.String())
	}
	if !activeAt.IsZero() {
		q = q.Where("released_at IS NULL").Where("until > ?", activeAt.UTC())
	}
	if err := q.Order("placed_at DESC", "hold_id").Limit(1000).Scan(ctx); err != nil {
		return nil, fmt.Errorf("listing holds: %w", pg.Map(err))
	}
	for i := range out {
		out[i] = out[i].utc()
	}
	return out, nil
}

// AtRestore is the actor that placed or released a hold which only the erasure ledger
// knew after a backup was restored. The ticket is then the ledger's line.
const AtRestore = "ledger-at-restore"

func atRestore(a lifecycle.Access, line int64) lifecycle.Access {
	a.Caller.ID, a.Reason.Ref = AtRestore, fmt.Sprintf("ledger:%d", line)
	return a
}

// Restore places a hold that is known outside, with its own id, beginning and end, and
// reports whether it was missing. For a tenant that is erased or unknown it does nothing.
// line is its line of the ledger.
func (s *Store) Restore(ctx context.Context, a lifecycle.Access, h Hold, line int64) (missing bool, err error) {
	a = atRestore(a, line)
	e := audit.New(ctx, s.log.Now(), a, audit.HoldPlace, audit.Success)
	e.CorrelationID, e.StatusDetail = h.ID, string(h.Ground)
	if e.TenantID, err = lifecycle.ParseTenantID(h.TenantID); err != nil {
		return false, err
	}
	err = pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		// A Place of this hold at the same time has the lock until its commit.
		state, err := lockTenant(ctx, tx, h.TenantID)
		if errors.Is(err, pg.ErrNoRows) || err == nil && state == lifecycle.Erased {
			return nil
		}
		if err != nil {
			return err
		}
		if known, err := tx.NewSelect().Model((*Hold)(nil)).Where("hold_id = ?", h.ID).Exists(ctx); err != nil || known {
			return err
		}
		if err := audit.Append(ctx, tx, e); err != nil {
			return err
		}
		missing = true
		return insert(ctx, tx, Hold{
			ID: h.ID, TenantID: h.TenantID, Ground: h.Ground, Ref: a.Reason.Ref, PlacedBy: a.Caller.ID,
			PlacedAt: h.PlacedAt.UTC(), Until: h.Until.UTC(),
		})
	})
	if err != nil {
		return false, fmt.Errorf("putting a hold back: %w", err)
	}
	return missing, nil
}

// RestoreRelease releases a hold that is known outside to be released.
func (s *Store) RestoreRelease(ctx context.Context, a lifecycle.Access, id string, line int64) error {
	now := s.log.Now().UTC().Truncate(time.Microsecond)
	_, err := s.end(ctx, audit.New(ctx, now, atRestore(a, line), audit.HoldRelease, audit.Success), id, now)
	return err
}

// Known returns those of the holds that are here, by their ids.
func (s *Store) Known(ctx context.Context, ids []string) (map[string]Hold, error) {
	out := map[string]Hold{}
	if len(ids) == 0 {
		return out, nil
	}
	var rows []Hold
	if err := pg.Bun(s.db).NewSelect().Model(&rows).Where("hold_id IN (?)", bun.List(ids)).Scan(ctx); err != nil {
		return nil, fmt.Errorf("reading which holds are known: %w", pg.Map(err))
	}
	for _, h := range rows {
		out[h.ID] = h.utc()
	}
	return out, nil
}

// Unexpired lists every hold that ends after that time, released ones too.
func (s *Store) Unexpired(ctx context.Context, at time.Time) (out []Hold, err error) {
	err = pg.Bun(s.db).NewSelect().Model(&out).Where("until > ?", at.UTC()).Order("placed_at", "hold_id").Scan(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing holds: %w", pg.Map(err))
	}
	for i := range out {
		out[i] = out[i].utc()
	}
	return out, nil
}

func (h Hold) utc() Hold {
	h.PlacedAt, h.Until = h.PlacedAt.UTC(), h.Until.UTC()
	if h.ReleasedAt != nil {
		at := h.ReleasedAt.UTC()
		h.ReleasedAt = &at
	}
	return h
}

// person refuses a caller that is not a person: someone must be responsible for a hold,
// with a ticket.
func person(a lifecycle.Access) error {
	if err := a.Check(); err != nil {
		return err
	}
	if !a.Caller.Type.Person() {
		return lifecycle.Fail(lifecycle.Forbidden, "A legal hold is placed and released by a person.")
	}
	return nil
}

// deny records a refused attempt and returns the refusal.
func (s *Store) deny(ctx context.Context, e audit.Event, refusal error) error {
	e.Outcome, e.StatusDetail = audit.Denied, string(lifecycle.AsFault(refusal).Kind)
	if err := s.log.Record(ctx, e); err != nil {
		return err
	}
	return refusal
}

func unknown() error {
	return lifecycle.Fail(lifecycle.NotFound, "There is no legal hold with this id; trakr hold list shows them.")
}
