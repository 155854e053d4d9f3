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

// Values are encrypted with the active key of trakr.field_keys, so that all replicas
// agree. A trigger of the values' table refuses what another key encrypted.

// KeyState is the state of a field key in the database.
type KeyState string

// The states. Staged is not in the database: the keyring has the key, and it never
// encrypted anything.
const (
	KeyStaged    KeyState = "staged"
	KeyActive    KeyState = "active"
	KeyRetired   KeyState = "retired"
	KeyDestroyed KeyState = "destroyed"
	KeyUnknown   KeyState = "unknown" // values are encrypted with it, and neither keyring nor database has it
)

// FieldKey is one field key, and how far it is used.
type FieldKey struct {
	ID          keyring.KeyID `json:"key_id"`
	State       KeyState      `json:"state"`
	InKeyring   bool          `json:"held"`
	Values      int64         `json:"values"` // encrypted with it
	ActiveAt    *time.Time    `json:"active_at,omitempty"`
	RetiredAt   *time.Time    `json:"retired_at,omitempty"`
	DestroyedAt *time.Time    `json:"destroyed_at,omitempty"`
}

// The SQLSTATEs that the database's functions and triggers for the keys raise.
const (
	notActive = "TK423" // a value is encrypted with a key that is not the active one
	lacksKey  = "TK424" // an instance runs that does not have the key
	keyInUse  = "TK425" // values are encrypted with the key
)

// keysLock is a lock that every writer of values shares and an activation has alone.
const keysLock = `SELECT pg_advisory_xact_lock_shared(hashtextextended('trakr/field-keys', 0))`

// fieldKeyRow is one row of trakr.field_keys. Functions of the database write it.
type fieldKeyRow struct {
	bun.BaseModel `bun:"table:trakr.field_keys,alias:k"`

	KeyID       int64      `bun:"key_id,pk"`
	State       string     `bun:"state"`
	ActiveAt    *time.Time `bun:"active_at"`
	RetiredAt   *time.Time `bun:"retired_at"`
	DestroyedAt *time.Time `bun:"destroyed_at"`
}

// useActive makes the keyring encrypt with the database's active key, which it returns;
// zero when there is none yet. A keyring that lacks the key is reloaded once.
func useActive(ctx context.Context, db bun.IDB, keys *keyring.Keyring) (keyring.KeyID, error) {
	var row fieldKeyRow
	err := pg.Map(db.NewSelect().Model(&row).Where("state = ?", string(KeyActive)).Scan(ctx))
	if errors.Is(err, pg.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the active field key: %w", err)
	}
	id := keyring.KeyID(row.KeyID)
	err = keys.SetActive(id)
	if errors.As(err, new(*keyring.MissingKey)) {
		if _, reload := keys.Reload(); reload != nil {
			return id, fmt.Errorf("%w (reading it again: %w)", err, reload)
		}
		err = keys.SetActive(id)
	}
	return id, err
}

// bindFieldKeys stores the keyring's active key where the database has none, and otherwise
// refuses a keyring that lacks the database's, or a retired key that values still need.
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
	var retired []fieldKeyRow
	err = pg.Map(pg.Bun(db).NewSelect().Model(&retired).Where("state = ?", string(KeyRetired)).Order("key_id").Limit(10).Scan(ctx))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return err
	}
	for _, r := range retired {
		id := keyring.KeyID(r.KeyID)
		if slices.Contains(keys.FieldKeys(), id) {
			continue
		}
		values, err := countByKey(ctx, db)
		if err != nil {
			return err
		}
		if n := values[id]; n > 0 {
			return fmt.Errorf("%d values are encrypted with it, and its rotation is not finished: %w", n, &keyring.MissingKey{ID: id})
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

// maxFieldKeys bounds the list of keys: a rotation adds one.
const maxFieldKeys = 1000

// FieldKeys lists every field key of the keyring or the database, in the order they came
// into use, with how many values are encrypted with each.
func (d *Door) FieldKeys(ctx context.Context) ([]FieldKey, error) {
	var rows []fieldKeyRow
	err := pg.Map(pg.Bun(d.db).NewSelect().Model(&rows).Order("active_at", "key_id").Limit(maxFieldKeys).Scan(ctx))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("listing the field keys: %w", err)
	}
	values, err := countByKey(ctx, d.db)
	if err != nil {
		return nil, err
	}
	inKeyring := d.keys.FieldKeys()
	var out []FieldKey
	add := func(k FieldKey) {
		k.InKeyring, k.Values = slices.Contains(inKeyring, k.ID), values[k.ID]
		delete(values, k.ID)
		out = append(out, k)
	}
	for _, r := range rows {
		add(FieldKey{ID: keyring.KeyID(r.KeyID), State: KeyState(r.State),
			ActiveAt: pg.UTC(r.ActiveAt), RetiredAt: pg.UTC(r.RetiredAt), DestroyedAt: pg.UTC(r.DestroyedAt)})
	}
	known := func(id keyring.KeyID) bool {
		return slices.ContainsFunc(out, func(k FieldKey) bool { return k.ID == id })
	}
	for _, id := range inKeyring {
		if !known(id) {
			add(FieldKey{ID: id, State: KeyStaged})
		}
	}
	for id := range values {
		add(FieldKey{ID: id, State: KeyUnknown})
	}
	return out, nil
}

// countByKey counts the stored values by the key that encrypted them. A definer function
// of the database counts, since the service cannot read the values of all tenants at once.
func countByKey(ctx context.Context, db *store.DB) (map[keyring.KeyID]int64, error) {
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
		var id keyring.KeyID // 0: encrypted by none of our keys
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

// ActivateKey makes a key of the keyring the active one and retires the one before: from
// the commit on no value can be written with that one. It is ErrInstanceLacksKey while a
// running service lacks the key.
func (d *Door) ActivateKey(ctx context.Context, a lifecycle.Access, id keyring.KeyID) error {
	if err := a.CheckReason(); err != nil {
		return err
	}
	if !slices.Contains(d.keys.FieldKeys(), id) {
		return &keyring.MissingKey{ID: id}
	}
	e := audit.New(ctx, d.log.Now(), a, audit.KeyActivate, audit.Success)
	e.CorrelationID = id.Rotation()
	err := d.withKeysLocked(ctx, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewRaw(`SELECT door.activate_field_key(?, ?)`, e.Record(), int64(id)).Exec(ctx)
		return err
	})
	if pg.State(err) == lacksKey {
		return ErrInstanceLacksKey
	}
	if err != nil {
		return fmt.Errorf("making the key active: %w", err)
	}
	return d.keys.SetActive(id)
}

// ErrKeyInUse means that values are encrypted with a key that was to be destroyed.
var ErrKeyInUse = errors.New("values are still encrypted with the key")

// DestroyKey records that a retired key was removed from the keyring. It is ErrKeyInUse,
// and nothing changes, while the database has a value that it encrypted.
func (d *Door) DestroyKey(ctx context.Context, a lifecycle.Access, id keyring.KeyID) error {
	if err := a.CheckReason(); err != nil {
		return err
	}
	e := audit.New(ctx, d.log.Now(), a, audit.KeyDestroy, audit.Success)
	e.CorrelationID = id.Rotation()
	err := d.withKeysLocked(ctx, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewRaw(`SELECT door.destroy_field_key(?, ?)`, e.Record(), int64(id)).Exec(ctx)
		return err
	})
	if pg.State(err) == keyInUse {
		return ErrKeyInUse
	}
	if err != nil {
		return fmt.Errorf("recording that the key is destroyed: %w", err)
	}
	return nil
}

const (
	lockNotAvailable = "55P03" // PostgreSQL appendix A
	lockTimeout      = `SET LOCAL lock_timeout = '500ms'`
	lockPatience     = time.Minute
	lockPause        = 100 * time.Millisecond
)

// withKeysLocked runs act, a function of the database that takes the keys' lock alone. It
// waits for the callbacks under way, and new ones wait for it, so each try gives up before
// one of them would fail; it is tried for lockPatience.
func (d *Door) withKeysLocked(ctx context.Context, act func(context.Context, bun.Tx) error) error {
	for begin := time.Now(); ; {
		err := pg.InTx(ctx, d.db, func(ctx context.Context, tx bun.Tx) error {
			if _, err := tx.NewRaw(lockTimeout).Exec(ctx); err != nil {
				return err
			}
			return act(ctx, tx)
		})
		if pg.State(err) != lockNotAvailable || time.Since(begin) > lockPatience {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockPause):
		}
	}
}

// keyRetired reports whether a write failed because its values are encrypted with a key
// that is not the active one any more.
func keyRetired(err error) bool { return pg.State(err) == notActive }

// reloadKeys takes over the active key after another one was refused or missing. A keyring
// that lacks it is keys-outdated.
func (d *Door) reloadKeys(ctx context.Context) error {
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
	return lifecycle.Fail(lifecycle.KeysOutdated, "The values are encrypted with a key that this instance was not given yet; "+
		"nothing was released or changed. Try again when it has the newest keyring.",
		lifecycle.After(30*time.Second), lifecycle.Cause(err))
}
