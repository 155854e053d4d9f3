package findings

import (
	"context"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/store/internal/pg"
)

// Verified is up to where the log was verified, and the root that its leaves had there.
type Verified struct {
	bun.BaseModel `bun:"table:trakr.verified_log"`

	Size  int64
	Root  []byte
	At    time.Time `bun:"verified_at"`
	Whole bool      // from the first position on
}

const selectVerified = `(SELECT size, root, verified_at, whole FROM trakr.verified_log ORDER BY id DESC LIMIT 1)
	UNION ALL (SELECT size, root, verified_at, whole FROM trakr.verified_log WHERE whole ORDER BY id DESC LIMIT 1)`

// LastVerified returns the newest one, and the time of the newest whole one; nil and zero
// when there is none.
func (s *Store) LastVerified(ctx context.Context) (last *Verified, whole time.Time, err error) {
	var rows []Verified
	err = pg.InSnapshot(ctx, s.db, func(ctx context.Context, tx bun.Tx) error { return tx.NewRaw(selectVerified).Scan(ctx, &rows) })
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("reading up to where the log was verified: %w", err)
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

// NoteVerified records up to where the log was found intact.
func (s *Store) NoteVerified(ctx context.Context, v Verified) error {
	v.At = v.At.UTC()
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&v).Exec(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("recording up to where the log was verified: %w", err)
	}
	return nil
}
