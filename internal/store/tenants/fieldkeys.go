package tenants

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/store"
	"trakr/internal/store/audit"
	"trakr/internal/store/internal/pg"
)

// Which key seals is the database's word, so that all replicas agree: the active key
// of trakr.field_keys. The table's trigger refuses what another key sealed.

// KeyState is how a field key stands in the database.
type KeyState string

// The states. Staged is not in the database: the keyring holds the key, and it never
// sealed anything.
const (
	KeyStaged    KeyState = "staged"
	KeyActive    KeyState = "active"
	KeyRetired   KeyState = "retired"
	KeyDestroyed KeyState = "destroyed"
	KeyUnknown   KeyState = "unknown" // values are sealed with it, and nothing else is known of it
)

// FieldKey is what is known of one field key.
type FieldKey struct {
	ID          keyring.KeyID `json:"key_id"`
	State       KeyState      `json:"state"`
	InKeyring   bool          `json:"held"`
	Values      int64         `json:"values"` // sealed with it
	ActiveAt    *time.Time    `json:"active_at,omitempty"`
	RetiredAt   *time.Time    `json:"retired_at,omitempty"`
	DestroyedAt *time.Time    `json:"destroyed_at,omitempty"`
}

// The states of SQL that the functions of the keys end with.
const (
	notActive = "TK423" // a value is sealed with a key that is not the active one
	lacksKey  = "TK424" // an instance runs that does not have the key
	keyInUse  = "TK425" // values are sealed with the key
)

// keysLock is what every writer of values shares and whoever activates a key has alone.
const keysLock = `SELECT pg_advisory_xact_lock_shared(hashtextextended('trakr/field-keys', 0))`

// useActive makes the keyring seal with the database's active key. It reads the keyring
// anew from where it is kept when that lacks the key. Zero is: none is on record.
func useActive(ctx context.Context, db bun.IDB, keys *keyring.Keyring) (keyring.KeyID, error) {
	var row struct{ KeyID int64 }
	err := pg.Map(db.NewRaw(`SELECT key_id FROM trakr.field_keys WHERE state = 'active'`).Scan(ctx, &row))
	if errors.Is(err, pg.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("asking which key seals: %w", err)
	}
	id := keyring.KeyID(row.KeyID)
	err = keys.SetActive(id)
	if errors.As(err, new(*keyring.MissingKey)) {
		if _, again := keys.Reload(); again != nil {
			return id, fmt.Errorf("%w (reading it again: %w)", err, again)
		}
		err = keys.SetActive(id)
	}
	return id, err
}

// bindFieldKeys notes the keyring's key where none is on record, and otherwise refuses
// a keyring that lacks the active one, or a retired one that values are still sealed with.
func bindFieldKeys(ctx context.Context, db *store.DB, keys *keyring.Keyring) error {
	active, err := useActive(ctx, pg.Bun(db), keys)
	if err != nil {
		return err
	}
	if active == 0 {
		if _, err := pg.Bun(db).NewRaw(`SELECT door.note_field_key(?)`, int64(keys.Active())).Exec(ctx); err != nil {
			return pg.Map(err)
		}
		_, err = useActive(ctx, pg.Bun(db), keys) // another service may have noted one first
		return err
	}
	var retired []struct{ KeyID int64 }
	err = pg.Map(pg.Bun(db).NewRaw(`SELECT key_id FROM trakr.field_keys WHERE state = 'retired' ORDER BY key_id LIMIT 10`).Scan(ctx, &retired))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return err
	}
	for _, r := range retired {
		id := keyring.KeyID(r.KeyID)
		if slices.Contains(keys.FieldKeys(), id) {
			continue
		}
		sealed, err := countSealed(ctx, db)
		if err != nil {
			return err
		}
		if sealed[id] > 0 {
			return fmt.Errorf("%d values are sealed with it, and its rotation is not finished: %w", sealed[id], &keyring.MissingKey{ID: id})
		}
	}
	return nil
}

// FollowActiveKey makes a keyring encrypt with the database's active key, in a transaction
// that no key is activated beside. A keyring that lacks the key is *keyring.MissingKey.
func FollowActiveKey(ctx context.Context, tx bun.Tx, keys *keyring.Keyring) error {
	if _, err := tx.NewRaw(keysLock).Exec(ctx); err != nil {
		return err
	}
	_, err := useActive(ctx, tx, keys)
	return err
}

// FieldKeys lists every field key that the keyring holds or the database knows, in the
// order they came into use, with how many values each seals.
func (d *Door) FieldKeys(ctx context.Context) ([]FieldKey, error) {
	var rows []struct {
		KeyID                            int64
		State                            string
		ActiveAt, RetiredAt, DestroyedAt *time.Time
	}
	err := pg.Map(pg.Bun(d.db).NewRaw(`SELECT key_id, state, active_at, retired_at, destroyed_at FROM trakr.field_keys ORDER BY active_at, key_id LIMIT 1000`).Scan(ctx, &rows))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("listing the field keys: %w", err)
	}
	sealed, err := countSealed(ctx, d.db)
	if err != nil {
		return nil, err
	}
	held := d.keys.FieldKeys()
	var out []FieldKey
	add := func(k FieldKey) {
		k.InKeyring, k.Values = slices.Contains(held, k.ID), sealed[k.ID]
		delete(sealed, k.ID)
		out = append(out, k)
	}
	for _, r := range rows {
		add(FieldKey{ID: keyring.KeyID(r.KeyID), State: KeyState(r.State), ActiveAt: pg.UTC(r.ActiveAt), RetiredAt: pg.UTC(r.RetiredAt), DestroyedAt: pg.UTC(r.DestroyedAt)})
	}
	known := func(id keyring.KeyID) bool {
		return slices.ContainsFunc(out, func(k FieldKey) bool { return k.ID == id })
	}
	for _, id := range held {
		if !known(id) {
			add(FieldKey{ID: id, State: KeyStaged})
		}
	}
	for id := range sealed {
		add(FieldKey{ID: id, State: KeyUnknown})
	}
	return out, nil
}

// countSealed counts the values by the key that sealed them, as the role that sees all.
func countSealed(ctx context.Context, db *store.DB) (map[keyring.KeyID]int64, error) {
	var rows []struct {
		KeyID  *int64
		Sealed int64
	}
	err := pg.Map(pg.Bun(db).NewRaw(`SELECT key_id, sealed FROM door.count_sealed()`).Scan(ctx, &rows))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("counting the values by their key: %w", err)
	}
	out := map[keyring.KeyID]int64{}
	for _, r := range rows {
		var id keyring.KeyID // 0: sealed with nothing that is a key of ours
		if r.KeyID != nil {
			id = keyring.KeyID(*r.KeyID)
		}
		out[id] += r.Sealed
	}
	return out, nil
}

// ErrInstanceLacksKey means that an instance runs without the key that was to be made
// active: it could not decrypt what the others encrypt.
var ErrInstanceLacksKey = errors.New("a running service does not have the new key")

// ActivateKey makes a key of the keyring the one that seals, and retires the one before:
// from the commit on no value can be written with that any more. It is ErrInstanceLacksKey
// while a running service lacks the key.
func (d *Door) ActivateKey(ctx context.Context, a lifecycle.Access, id keyring.KeyID) error {
	if err := a.CheckReason(); err != nil {
		return err
	}
	if !slices.Contains(d.keys.FieldKeys(), id) {
		return &keyring.MissingKey{ID: id}
	}
	e := audit.New(ctx, d.log.Now(), a, audit.KeyActivate, audit.Success)
	e.CorrelationID = id.Rotation()
	// It waits for the callbacks under way, and those that come wait for it: not so
	// long that one of them would fail.
	err := d.alone(ctx, `SELECT door.activate_field_key(?, ?)`, e.Record(), int64(id))
	if pg.State(err) == lacksKey {
		return ErrInstanceLacksKey
	}
	if err != nil {
		return fmt.Errorf("making the key active: %w", err)
	}
	return d.keys.SetActive(id)
}

// ErrKeyInUse means that values are sealed with a key that was to be destroyed.
var ErrKeyInUse = errors.New("values are still sealed with the key")

// DestroyKey notes that a retired key is gone from the keyring. It is ErrKeyInUse,
// and nothing changes, while the database holds a value that it sealed.
func (d *Door) DestroyKey(ctx context.Context, a lifecycle.Access, id keyring.KeyID) error {
	if err := a.CheckReason(); err != nil {
		return err
	}
	e := audit.New(ctx, d.log.Now(), a, audit.KeyDestroy, audit.Success)
	e.CorrelationID = id.Rotation()
	err := d.alone(ctx, `SELECT door.destroy_field_key(?, ?)`, e.Record(), int64(id))
	if pg.State(err) == keyInUse {
		return ErrKeyInUse
	}
	if err != nil {
		return fmt.Errorf("noting that the key is destroyed: %w", err)
	}
	return nil
}

// alone runs a statement that needs the keys' lock for itself, trying for a short
// while again and again.
func (d *Door) alone(ctx context.Context, sql string, record []byte, key int64) error {
	for begin := time.Now(); ; {
		err := pg.InTx(ctx, d.db, func(ctx context.Context, tx bun.Tx) error {
			if _, err := tx.NewRaw(`SET LOCAL lock_timeout = '500ms'`).Exec(ctx); err != nil {
				return err
			}
			_, err := tx.NewRaw(sql, record, key).Exec(ctx)
			return err
		})
		if pg.State(err) != "55P03" || time.Since(begin) > time.Minute {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// refused reports whether a write failed because its values are sealed with a key that
// is not the active one any more.
func (d *Door) refused(err error) bool { return pg.State(err) == notActive }

// newKeys takes over the active key after another one was refused or missed. A keyring
// that lacks it is keys-outdated.
func (d *Door) newKeys(ctx context.Context) error {
	if _, err := d.keys.Reload(); err != nil {
		return outdated(err)
	}
	_, err := useActive(ctx, pg.Bun(d.db), d.keys)
	if errors.As(err, new(*keyring.MissingKey)) {
		return outdated(err)
	}
	return err
}

func outdated(err error) error {
	return lifecycle.Fail(lifecycle.KeysOutdated, "The values are sealed with a key that this instance was not given yet; nothing was released or changed. Try again when it has the newest keyring.",
		lifecycle.After(30*time.Second), lifecycle.Cause(err))
}
