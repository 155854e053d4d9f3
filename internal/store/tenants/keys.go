package tenants

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/internal/pg"
)

// ErrWrongKeys means that the database was used with another keyring.
var ErrWrongKeys = errors.New("this database was used with another keyring; with this one no tenant would be recognised. " +
	"Point TRAKR_KEYS at the right one")

// checkRow is the note by which a database recognises its keyring: a digest of a fixed
// text.
type checkRow struct {
	bun.BaseModel `bun:"table:trakr.keyring_checks"`

	Digest  []byte    `bun:"digest"`
	NotedAt time.Time `bun:"noted_at"`
}

// countChecks counts the notes, those that this keyring matches, and the tenants.
const countChecks = `SELECT (SELECT count(*) FROM trakr.keyring_checks) AS notes,
	(SELECT count(*) FROM trakr.keyring_checks WHERE digest IN (?)) AS matches,
	(SELECT count(*) FROM trakr.tenants) AS tenants`

// BindKeys ties the database to its keyring: the first call stores a note of it, each
// later one compares. A database that has tenants and no note is refused. The keyring
// encrypts with the database's active key from then on; one that lacks it, or another
// key that stored values need, is refused (*keyring.MissingKey).
func BindKeys(ctx context.Context, db *store.DB, keys *keyring.Keyring, now time.Time) error {
	digests, err := keys.Digests(keyring.Check, lifecycle.NewSecret("trakr"))
	if err != nil {
		return fmt.Errorf("recognising the keyring: %w", err)
	}
	err = pg.InTx(ctx, db, func(ctx context.Context, tx bun.Tx) error {
		// Two services that start at once must agree on the first note.
		if _, err := tx.NewRaw(`SELECT pg_advisory_xact_lock(hashtextextended('trakr/keyring', 0))`).Exec(ctx); err != nil {
			return err
		}
		var row struct{ Notes, Matches, Tenants int64 }
		if err := tx.NewRaw(countChecks, bun.List(digests)).Scan(ctx, &row); err != nil {
			return err
		}
		if row.Matches == 0 && (row.Notes > 0 || row.Tenants > 0) {
			return ErrWrongKeys
		}
		if row.Matches > 0 {
			return nil
		}
		_, err := tx.NewInsert().Model(&checkRow{Digest: digests[0], NotedAt: now.UTC()}).Exec(ctx)
		return err
	})
	if err == nil {
		err = bindFieldKeys(ctx, db, keys)
	}
	if err != nil {
		return fmt.Errorf("recognising the keyring: %w", err)
	}
	return nil
}

// Bound reports whether the database was ever used with a keyring.
func Bound(ctx context.Context, db *store.DB) (bool, error) {
	var row struct{ Used bool }
	err := pg.Bun(db).NewRaw(`SELECT EXISTS (SELECT FROM trakr.keyring_checks) OR EXISTS (SELECT FROM trakr.tenants) AS used`).
		Scan(ctx, &row)
	if err != nil {
		return false, fmt.Errorf("looking for a keyring's note: %w", pg.Map(err))
	}
	return row.Used, nil
}
