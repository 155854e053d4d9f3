// Package instances stores which service instances run, and by what configuration: the
// field keys in their keyring, the hash of their policy and the destinations that their
// settings name. An instance records itself every few seconds (Store.Record); one that
// did not for half a minute, by the database's clock, is not listed.
//
// It stores no value of a tenant, and of an address only the host. It does not decide
// anything: a key rotation waits for the instances that lack a key, the drift sweep and
// the reports compare their destinations with the policy.
package instances

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"trakr/internal/keyring"
	"trakr/internal/store"
	"trakr/internal/store/internal/pg"
	"trakr/internal/store/tenants"
)

// Instance is one running service.
type Instance struct {
	ID     uuid.UUID       `json:"instance_id"`
	KeyIDs []keyring.KeyID `json:"key_ids"` // the field keys of its keyring
	Facts
	SeenAt time.Time `json:"seen_at"` // when it last recorded itself
}

// Facts are what an instance's configuration determines.
type Facts struct {
	PolicyHash   string        `json:"policy_hash"` // "" from a version that does not record it
	Destinations []Destination `json:"talks_to"`    // every host that its settings name
}

// Destination is one host that a setting names.
type Destination struct {
	Setting string `json:"setting"` // e.g. "TRAKR_WEBHOOK_URL"
	Name    string `json:"to"`      // a lifecycle.Destination, or Database
	Host    string `json:"host"`    // "" for a database at a unix socket
}

// Database is the name of the destination at which an instance reaches its database.
const Database = "database"

// HasKey reports whether the instance's keyring has a field key.
func (i Instance) HasKey(id keyring.KeyID) bool { return slices.Contains(i.KeyIDs, id) }

// instanceRow is one row of trakr.key_holders. A constraint of the table makes the last
// three lists equally long: element i of each is destination i.
type instanceRow struct {
	bun.BaseModel `bun:"table:trakr.key_holders,alias:i"`

	InstanceID   string    `bun:"instance_id,pk"`
	KeyIDs       []int64   `bun:"key_ids,array"`
	PolicyHash   string    `bun:"policy_hash"`
	SeenAt       time.Time `bun:"seen_at,nullzero,default:clock_timestamp()"`
	Settings     []string  `bun:"settings,array"`
	Destinations []string  `bun:"destinations,array"`
	Hosts        []string  `bun:"hosts,array"`
}

func newRow(id uuid.UUID, keys []keyring.KeyID, f Facts) *instanceRow {
	n := len(f.Destinations)
	// Lists without an element are empty, not NULL.
	r := &instanceRow{InstanceID: id.String(), KeyIDs: make([]int64, 0, len(keys)), PolicyHash: f.PolicyHash,
		Settings: make([]string, 0, n), Destinations: make([]string, 0, n), Hosts: make([]string, 0, n)}
	for _, k := range keys {
		r.KeyIDs = append(r.KeyIDs, int64(k))
	}
	for _, d := range f.Destinations {
		r.Settings, r.Destinations, r.Hosts = append(r.Settings, d.Setting), append(r.Destinations, d.Name), append(r.Hosts, d.Host)
	}
	return r
}

func (r *instanceRow) instance() (Instance, error) {
	id, err := uuid.Parse(r.InstanceID)
	if err != nil {
		return Instance{}, err
	}
	i := Instance{ID: id, KeyIDs: make([]keyring.KeyID, 0, len(r.KeyIDs)), SeenAt: r.SeenAt.UTC(),
		Facts: Facts{PolicyHash: r.PolicyHash, Destinations: make([]Destination, 0, len(r.Settings))}}
	for _, k := range r.KeyIDs {
		i.KeyIDs = append(i.KeyIDs, keyring.KeyID(k))
	}
	for n, setting := range r.Settings {
		i.Destinations = append(i.Destinations, Destination{Setting: setting, Name: r.Destinations[n], Host: r.Hosts[n]})
	}
	return i, nil
}

// Store reads and writes the instances of one database.
type Store struct{ db *store.DB }

// New returns the store of a database.
func New(db *store.DB) *Store { return &Store{db} }

const (
	// running is how recently an instance must have recorded itself to be listed.
	running = 30 * time.Second
	// kept is how long the row of an instance that ended without Leave remains.
	kept = 24 * time.Hour
	// maxListed bounds List; a fleet of this product has a handful of instances.
	maxListed = 1000
)

// Record stores that an instance runs and with which keys and facts, after it reloaded
// its keyring. It is an error when the keyring cannot be reloaded, or lacks the active
// field key: the instance can then neither encrypt nor decrypt.
func (s *Store) Record(ctx context.Context, id uuid.UUID, keys *keyring.Keyring, f Facts) error {
	_, reload := keys.Reload()
	err := pg.InTx(ctx, s.db, func(ctx context.Context, tx bun.Tx) error {
		// A key that is activated at the same time either sees this instance, or is
		// seen by it.
		if err := tenants.FollowActiveKey(ctx, tx, keys); err != nil {
			return err
		}
		_, err := tx.NewInsert().Model(newRow(id, keys.FieldKeys(), f)).On("CONFLICT (instance_id) DO UPDATE").
			Set("key_ids = excluded.key_ids").Set("policy_hash = excluded.policy_hash").Set("settings = excluded.settings").
			Set("destinations = excluded.destinations").Set("hosts = excluded.hosts").
			Set("seen_at = clock_timestamp()").Returning("NULL").Exec(ctx)
		if err != nil {
			return err
		}
		_, err = tx.NewDelete().Model((*instanceRow)(nil)).
			Where("seen_at < clock_timestamp() - make_interval(secs => ?)", kept.Seconds()).Exec(ctx)
		return err
	})
	if err = errors.Join(err, reload); err != nil {
		return fmt.Errorf("recording this instance and its field keys: %w", err)
	}
	return nil
}

// Leave removes an instance that ends, so that it is not listed for half a minute more.
func (s *Store) Leave(ctx context.Context, id uuid.UUID) error {
	_, err := pg.Bun(s.db).NewDelete().Model((*instanceRow)(nil)).Where("instance_id = ?", id.String()).Exec(ctx)
	return pg.Map(err)
}

// List returns the instances that run, ordered by id.
func (s *Store) List(ctx context.Context) ([]Instance, error) {
	var rows []instanceRow
	err := pg.Map(pg.Bun(s.db).NewSelect().Model(&rows).
		Where("seen_at > clock_timestamp() - make_interval(secs => ?)", running.Seconds()).
		Order("instance_id").Limit(maxListed).Scan(ctx))
	if err != nil && !errors.Is(err, pg.ErrNoRows) {
		return nil, fmt.Errorf("listing the running instances: %w", err)
	}
	out := make([]Instance, 0, len(rows))
	for _, r := range rows {
		i, err := r.instance()
		if err != nil {
			return nil, fmt.Errorf("listing the running instances: %w", err)
		}
		out = append(out, i)
	}
	return out, nil
}
