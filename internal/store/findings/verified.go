package findings

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/store/internal/pg"
)

// Verified is up to where the log was verified, and the root its leaves had there.
type Verified struct {
	Size  int64
	Root  []byte
	At    time.Time `bun:"verified_at"`
	Whole bool      // from the first position on
}

// LastVerified returns the newest one, and the time of the newest whole one; nil
// and zero when there is none.
func (s *Store) LastVerified(ctx context.Context) (last *Verified, whole time.Time, err error) {
	var rows []Verified
	err = pg.InSnapshot(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		return tx.NewRaw(`(SELECT size, root, verified_at, whole FROM trakr.verified_log ORDER BY id DESC LIMIT 1)
			UNION ALL (SELECT size, root, verified_at, whole FROM trakr.verified_log WHERE whole ORDER BY id DESC LIMIT 1)`).Scan(ctx, &rows)
	})
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, time.Time{}, fmt.Errorf("reading what was verified: %w", err)
	}
	for i := range rows {
		if last == nil {
			last = &rows[i]
		}
		if rows[i].Whole && rows[i].At.After(whole) {
			whole = rows[i].At.UTC()
		}
	}
	return last, whole, nil
}

// NoteVerified keeps up to where the log was found sound.
func (s *Store) NoteVerified(ctx context.Context, v Verified) error {
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewRaw(`INSERT INTO trakr.verified_log (size, root, verified_at, whole) VALUES (?, ?, ?, ?)`, v.Size, v.Root, v.At.UTC(), v.Whole).Exec(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("noting what was verified: %w", err)
	}
	return nil
}
