package erasures

import (
	"context"
	"errors"
	"fmt"

	"github.com/uptrace/bun"

	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
)

// Bound returns the id of the ledger that belongs to this database, "" for none yet.
func (s *Store) Bound(ctx context.Context) (string, error) {
	id, err := boundLedger(ctx, pg.Bun(s.db))
	if err = pg.Map(err); err != nil && !errors.Is(err, pg.ErrNoRows) {
		return "", fmt.Errorf("reading which ledger belongs to the database: %w", err)
	}
	return id, nil
}

// ledgerRow is the ledger that belongs to the database.
type ledgerRow struct {
	bun.BaseModel `bun:"table:trakr.ledger_identity"`

	LedgerID string
}

func boundLedger(ctx context.Context, db bun.IDB) (string, error) {
	var r ledgerRow
	err := db.NewSelect().Model(&r).Order("bound_at DESC").Limit(1).Scan(ctx)
	return r.LedgerID, err
}

const selectUsed = `SELECT EXISTS (SELECT FROM trakr.tenants) OR EXISTS (SELECT FROM trakr.erasures) AS used`

// Used reports whether the database has ever had a tenant.
func (s *Store) Used(ctx context.Context) (bool, error) {
	var r struct{ Used bool }
	err := pg.Map(pg.Bun(s.db).NewRaw(selectUsed).Scan(ctx, &r))
	if err != nil {
		return false, fmt.Errorf("checking whether the database was used: %w", err)
	}
	return r.Used, nil
}

// Bind ties the database to a ledger and returns the one that it is tied to. Two processes
// that bind at once agree on the first.
func (s *Store) Bind(ctx context.Context, ledgerID string) (string, error) {
	return s.bind(ctx, ledgerID, func(context.Context, bun.Tx) error { return nil })
}

// Adopt is Bind by a person who takes responsibility for it, which is recorded.
func (s *Store) Adopt(ctx context.Context, a lifecycle.Access, ledgerID string) (string, error) {
	if err := a.Check(); err != nil {
		return "", err
	}
	e := audit.New(ctx, s.now(), a, audit.RestoreReplay, audit.Success)
	e.StatusDetail = "ledger bound by hand"
	return s.bind(ctx, ledgerID, func(ctx context.Context, tx bun.Tx) error { return audit.Append(ctx, tx, e) })
}

// insertLedger binds a ledger unless one is bound.
const insertLedger = `INSERT INTO trakr.ledger_identity (ledger_id) SELECT ? WHERE NOT EXISTS (SELECT FROM trakr.ledger_identity)`

func (s *Store) bind(ctx context.Context, ledgerID string, record func(context.Context, bun.Tx) error) (string, error) {
	bound := ""
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		if err := record(ctx, tx); err != nil {
			return err
		}
		_, err := tx.NewRaw(`SELECT pg_advisory_xact_lock(hashtextextended('trakr/ledger', 0))`).Exec(ctx)
		if err != nil {
			return err
		}
		_, err = tx.NewRaw(insertLedger, ledgerID).Exec(ctx)
		if err != nil {
			return err
		}
		bound, err = boundLedger(ctx, tx)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("binding the ledger: %w", err)
	}
	return bound, nil
}

// Line is a line of the ledger that the database knows, by its number and SHA-256.
type Line struct {
	Seq  int64
	Hash []byte
}

// LastNoted returns the last line that the database knows; Seq is 0 when it knows none.
func (s *Store) LastNoted(ctx context.Context) (Line, error) {
	var r struct {
		LedgerSeq  int64
		LedgerHash []byte
	}
	err := pg.Map(pg.Bun(s.db).NewSelect().Model((*row)(nil)).Column("ledger_seq", "ledger_hash").
		Where("ledger_seq IS NOT NULL").Order("ledger_seq DESC").Limit(1).Scan(ctx, &r))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return Line{}, fmt.Errorf("reading how far the ledger is known: %w", err)
	}
	return Line{r.LedgerSeq, r.LedgerHash}, nil
}

// Known returns which of these erasures the database knows. One that is missing was carried
// out after the backup that the database was restored from.
func (s *Store) Known(ctx context.Context, ids []string) (map[string]bool, error) {
	var rows []struct{ ErasureID string }
	out := map[string]bool{}
	if len(ids) == 0 {
		return out, nil
	}
	err := pg.Bun(s.db).NewSelect().Model((*row)(nil)).Column("erasure_id").Where("erasure_id IN (?)", bun.List(ids)).Scan(ctx, &rows)
	if err != nil {
		return nil, fmt.Errorf("reading which erasures the database knows: %w", pg.Map(err))
	}
	for _, r := range rows {
		out[r.ErasureID] = true
	}
	return out, nil
}

// replayRow is how far the ledger was compared with this database.
type replayRow struct {
	bun.BaseModel `bun:"table:trakr.ledger_replays"`

	UpTo       int64
	LedgerHash []byte
}

// LastReplayed returns the line up to which the ledger was compared with this database.
func (s *Store) LastReplayed(ctx context.Context) (Line, error) {
	var r replayRow
	err := pg.Map(pg.Bun(s.db).NewSelect().Model(&r).Order("up_to DESC").Limit(1).Scan(ctx))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return Line{}, fmt.Errorf("reading how far the ledger was replayed: %w", err)
	}
	return Line{r.UpTo, r.LedgerHash}, nil
}

// ReplayedTo records that no tenant of the ledger up to this line is live.
func (s *Store) ReplayedTo(ctx context.Context, l Line) error {
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(&replayRow{UpTo: l.Seq, LedgerHash: l.Hash}).On("CONFLICT DO NOTHING").Exec(ctx); err != nil {
			return err
		}
		_, err := tx.NewDelete().Model((*replayRow)(nil)).Where("up_to < ?", l.Seq).Exec(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("recording how far the ledger was replayed: %w", err)
	}
	return nil
}

// Live calls yield with the id of every tenant whose erasure has not begun.
func (s *Store) Live(ctx context.Context, yield func(lifecycle.TenantID) error) error {
	return s.each(ctx, []lifecycle.TenantState{lifecycle.Live}, yield)
}

// Holdable calls yield with the id of every tenant that is not erased.
func (s *Store) Holdable(ctx context.Context, yield func(lifecycle.TenantID) error) error {
	return s.each(ctx, []lifecycle.TenantState{lifecycle.Live, lifecycle.Erasing}, yield)
}

func (s *Store) each(ctx context.Context, states []lifecycle.TenantState, yield func(lifecycle.TenantID) error) error {
	const page = 5000
	for after := (lifecycle.TenantID{}); ; {
		var rows []struct{ TenantID string }
		err := pg.Bun(s.db).NewSelect().Table("trakr.tenants").Column("tenant_id").Where("state IN (?)", bun.List(states)).
			Where("tenant_id > ?", after.String()).Order("tenant_id").Limit(page).Scan(ctx, &rows)
		if err != nil {
			return fmt.Errorf("listing tenants: %w", pg.Map(err))
		}
		for _, r := range rows {
			id, err := lifecycle.ParseTenantID(r.TenantID)
			if err != nil {
				return err
			}
			if err := yield(id); err != nil {
				return err
			}
			after = id
		}
		if len(rows) < page {
			return nil
		}
	}
}

// CutAccepted records that an operator knows why the log ends before a checkpoint that was
// published of it: the database was restored from a backup.
func (s *Store) CutAccepted(ctx context.Context, a lifecycle.Access, published, has int64) error {
	e := audit.New(ctx, s.now(), a, audit.RestoreReplay, audit.Success)
	e.StatusDetail = fmt.Sprintf("log of %d events accepted in place of %d", has, published)
	return audit.Unavailable(pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error { return audit.Append(ctx, tx, e) }))
}

// Replayed records that the ledger was compared with the database.
func (s *Store) Replayed(ctx context.Context, a lifecycle.Access, compared, erased int64) error {
	e := audit.New(ctx, s.now(), a, audit.RestoreReplay, audit.Success)
	e.StatusDetail = fmt.Sprintf("compared %d erased %d", compared, erased)
	return audit.Unavailable(pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error { return audit.Append(ctx, tx, e) }))
}
