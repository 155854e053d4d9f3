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
	var r struct{ LedgerID string }
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT ledger_id FROM trakr.ledger_identity ORDER BY bound_at DESC LIMIT 1`).Scan(ctx, &r))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return "", fmt.Errorf("reading which ledger belongs to the database: %w", err)
	}
	return r.LedgerID, nil
}

// Bind ties the database to a ledger. Two that do it at once agree on the first.
func (s *Store) Bind(ctx context.Context, ledgerID string) (string, error) {
	bound := ""
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewRaw(`SELECT pg_advisory_xact_lock(hashtextextended('trakr/ledger', 0))`).Exec(ctx)
		if err != nil {
			return err
		}
		_, err = tx.NewRaw(`INSERT INTO trakr.ledger_identity (ledger_id) SELECT ? WHERE NOT EXISTS (SELECT FROM trakr.ledger_identity)`, ledgerID).Exec(ctx)
		if err != nil {
			return err
		}
		var r struct{ LedgerID string }
		err = tx.NewRaw(`SELECT ledger_id FROM trakr.ledger_identity ORDER BY bound_at DESC LIMIT 1`).Scan(ctx, &r)
		bound = r.LedgerID
		return err
	})
	if err != nil {
		return "", fmt.Errorf("binding the ledger: %w", err)
	}
	return bound, nil
}

// Line is a line of the ledger that the database knows: hex SHA-256 of it.
type Line struct {
	Seq  int64
	Hash []byte
}

// LastNoted is the last line that the database knows; seq 0 when it knows none.
func (s *Store) LastNoted(ctx context.Context) (Line, error) {
	var r struct {
		LedgerSeq  int64
		LedgerHash []byte
	}
	err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT ledger_seq, ledger_hash FROM trakr.erasures WHERE ledger_seq IS NOT NULL ORDER BY ledger_seq DESC LIMIT 1`).Scan(ctx, &r))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return Line{}, fmt.Errorf("reading how far the ledger is known: %w", err)
	}
	return Line{r.LedgerSeq, r.LedgerHash}, nil
}

// Noted calls yield with every line the database knows, in the ledger's order.
func (s *Store) Noted(ctx context.Context, yield func(erasureID string, l Line) error) error {
	for after := int64(0); ; {
		var rows []struct {
			ErasureID  string
			LedgerSeq  int64
			LedgerHash []byte
		}
		err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT erasure_id, ledger_seq, ledger_hash FROM trakr.erasures WHERE ledger_seq > ? ORDER BY ledger_seq LIMIT 1000`, after).Scan(ctx, &rows))
		if err != nil && !errors.Is(err, pg.ErrNoRows) {
			return fmt.Errorf("reading what the database knows of the ledger: %w", err)
		}
		for _, r := range rows {
			if err := yield(r.ErasureID, Line{r.LedgerSeq, r.LedgerHash}); err != nil {
				return err
			}
			after = r.LedgerSeq
		}
		if len(rows) < 1000 {
			return nil
		}
	}
}

// Live calls yield with the id of every tenant whose erasure has not begun.
func (s *Store) Live(ctx context.Context, yield func(lifecycle.TenantID) error) error {
	const page = 5000
	for after := (lifecycle.TenantID{}); ; {
		var rows []struct{ TenantID string }
		err := pg.Map(pg.Bun(s.db).NewRaw(`SELECT tenant_id FROM trakr.tenants WHERE state = 'live' AND tenant_id > ? ORDER BY tenant_id LIMIT ?`, after.String(), page).Scan(ctx, &rows))
		if err != nil && !errors.Is(err, pg.ErrNoRows) {
			return fmt.Errorf("listing tenants: %w", err)
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

// CutAccepted records that an operator knows why the log ends before a checkpoint that
// was published of it: the database was restored from a backup.
func (s *Store) CutAccepted(ctx context.Context, a lifecycle.Access, published, has int64) error {
	e := audit.New(ctx, s.now(), a, audit.RestoreReplay, audit.Success)
	e.StatusDetail = fmt.Sprintf("log of %d events accepted in place of %d", has, published)
	return audit.Unavailable(pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error { return audit.Append(ctx, tx, e) }))
}

// Replayed records that the ledger was held against the database.
func (s *Store) Replayed(ctx context.Context, a lifecycle.Access, compared, erased int64) error {
	e := audit.New(ctx, s.now(), a, audit.RestoreReplay, audit.Success)
	e.StatusDetail = fmt.Sprintf("compared %d erased %d", compared, erased)
	return audit.Unavailable(pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error { return audit.Append(ctx, tx, e) }))
}
