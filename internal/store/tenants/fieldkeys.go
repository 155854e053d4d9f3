package tenants

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

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
	Held        bool          `json:"held"`   // by the keyring at hand
	Values      int64         `json:"values"` // sealed with it
	ActiveAt    *time.Time    `json:"active_at,omitempty"`
	RetiredAt   *time.Time    `json:"retired_at,omitempty"`
	DestroyedAt *time.Time    `json:"destroyed_at,omitempty"`
}

// Holder is a running service, the field keys it holds and what it acts by.
type Holder struct {
	InstanceID uuid.UUID       `json:"instance_id"`
	KeyIDs     []keyring.KeyID `json:"key_ids"`
	Acts
	SeenAt time.Time `json:"seen_at"`
}

// Acts is what a service says that it acts by. It holds no value of a tenant, and of an
// address nothing but the host.
type Acts struct {
	PolicyHash string  `json:"policy_hash"` // "" from a version that does not say it
	TalksTo    []Party `json:"talks_to"`    // whom its settings name
}

// Party is one host that a setting names.
type Party struct {
	Setting string `json:"setting"` // e.g. "TRAKR_WEBHOOK_URL"
	To      string `json:"to"`      // a policy.Destination, or ToDatabase
	Host    string `json:"host"`    // of a database "": a unix socket of its machine
}

// ToDatabase is where a database is reached.
const ToDatabase = "database"

// Holds reports whether the service holds a key.
func (h Holder) Holds(id keyring.KeyID) bool { return slices.Contains(h.KeyIDs, id) }

// The states of SQL that the functions of the keys end with.
const (
	notActive  = "TK423" // a value is sealed with a key that is not the active one
	notHeld    = "TK424" // a service runs that does not hold the key
	stillSeals = "TK425" // values are sealed with the key
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
	err = keys.Use(id)
	if errors.As(err, new(*keyring.MissingKey)) {
		if _, again := keys.Reload(); again != nil {
			return id, fmt.Errorf("%w (reading it again: %w)", err, again)
		}
		err = keys.Use(id)
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
		if _, err := pg.Bun(db).NewRaw(`SELECT door.note_field_key(?)`, int64(keys.Sealing())).Exec(ctx); err != nil {
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

// HoldKeys says that a running service is there, which field keys it holds and what it
// acts by, after it took over what changed in its keyring. It is an error when the keyring lacks the
// active key: then the service can neither seal nor open.
func HoldKeys(ctx context.Context, db *store.DB, instance uuid.UUID, keys *keyring.Keyring, acts Acts) error {
	var settings, destinations, hosts []string
	for _, p := range acts.TalksTo {
		settings, destinations, hosts = append(settings, p.Setting), append(destinations, p.To), append(hosts, p.Host)
	}
	_, reload := keys.Reload()
	err := pg.InTx(ctx, db, func(ctx context.Context, tx bun.Tx) error {
		// Whoever makes a key active either sees this service, or is seen by it.
		if _, err := tx.NewRaw(keysLock).Exec(ctx); err != nil {
			return err
		}
		if _, err := useActive(ctx, tx, keys); err != nil {
			return err
		}
		ids := make([]int64, 0, 2)
		for _, id := range keys.FieldKeys() {
			ids = append(ids, int64(id))
		}
		_, err := tx.NewRaw(`INSERT INTO trakr.key_holders (instance_id, key_ids, policy_hash, settings, destinations, hosts) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (instance_id) DO UPDATE SET key_ids = excluded.key_ids, policy_hash = excluded.policy_hash, settings = excluded.settings,
				destinations = excluded.destinations, hosts = excluded.hosts, seen_at = clock_timestamp()`,
			instance.String(), pgdialect.Array(ids), acts.PolicyHash, textArray(settings), textArray(destinations), textArray(hosts)).Exec(ctx)
		if err != nil {
			return err
		}
		_, err = tx.NewRaw(`DELETE FROM trakr.key_holders WHERE seen_at < clock_timestamp() - interval '1 day'`).Exec(ctx)
		return err
	})
	if err = errors.Join(err, reload); err != nil {
		return fmt.Errorf("holding the field keys: %w", err)
	}
	return nil
}

// textArray is a list as PostgreSQL takes it; one of none is empty, not NULL.
func textArray(list []string) any { return pgdialect.Array(append([]string{}, list...)) }

// LeaveKeys says that a service ends.
func LeaveKeys(ctx context.Context, db *store.DB, instance uuid.UUID) error {
	_, err := pg.Bun(db).NewRaw(`DELETE FROM trakr.key_holders WHERE instance_id = ?`, instance.String()).Exec(ctx)
	return pg.Map(err)
}

// Holders lists the services that run, by the database's clock.
func (d *Door) Holders(ctx context.Context) ([]Holder, error) {
	var rows []struct {
		InstanceID string
		KeyIDs     []int64 `bun:"key_ids,array"`
		SeenAt     time.Time
		PolicyHash string

		Settings, Destinations, Hosts []string `bun:",array"`
	}
	err := pg.Map(pg.Bun(d.db).NewRaw(`SELECT instance_id, key_ids, seen_at, policy_hash, settings, destinations, hosts FROM trakr.key_holders
		WHERE seen_at > clock_timestamp() - interval '30 seconds' ORDER BY instance_id LIMIT 1000`).Scan(ctx, &rows))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("listing the running services: %w", err)
	}
	out := make([]Holder, 0, len(rows))
	for _, r := range rows {
		h := Holder{SeenAt: r.SeenAt.UTC(), KeyIDs: make([]keyring.KeyID, 0, len(r.KeyIDs))}
		if h.InstanceID, err = uuid.Parse(r.InstanceID); err != nil {
			return nil, fmt.Errorf("listing the running services: %w", err)
		}
		for _, id := range r.KeyIDs {
			h.KeyIDs = append(h.KeyIDs, keyring.KeyID(id))
		}
		h.PolicyHash, h.TalksTo = r.PolicyHash, make([]Party, len(r.Settings))
		for i := range r.Settings { // a constraint has all three as long
			h.TalksTo[i] = Party{r.Settings[i], r.Destinations[i], r.Hosts[i]}
		}
		out = append(out, h)
	}
	return out, nil
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
		k.Held, k.Values = slices.Contains(held, k.ID), sealed[k.ID]
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

// ErrNotHeld means that a service runs which does not hold the key that was to be
// made active: it could not open what others seal.
var ErrNotHeld = errors.New("a service runs that does not hold the new key")

// ActivateKey makes a key of the keyring the one that seals, and retires the one before:
// from the commit on no value can be written with that any more. It is ErrNotHeld
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
	if pg.State(err) == notHeld {
		return ErrNotHeld
	}
	if err != nil {
		return fmt.Errorf("making the key active: %w", err)
	}
	return d.keys.Use(id)
}

// ErrStillSeals means that values are sealed with a key that was to be destroyed.
var ErrStillSeals = errors.New("values are still sealed with the key")

// DestroyKey notes that a retired key is gone from the keyring. It is ErrStillSeals,
// and nothing changes, while the database holds a value that it sealed.
func (d *Door) DestroyKey(ctx context.Context, a lifecycle.Access, id keyring.KeyID) error {
	if err := a.CheckReason(); err != nil {
		return err
	}
	e := audit.New(ctx, d.log.Now(), a, audit.KeyDestroy, audit.Success)
	e.CorrelationID = id.Rotation()
	err := d.alone(ctx, `SELECT door.destroy_field_key(?, ?)`, e.Record(), int64(id))
	if pg.State(err) == stillSeals {
		return ErrStillSeals
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
