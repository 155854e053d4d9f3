package app

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"trakr/internal/check"
	"trakr/internal/keyring"
	"trakr/internal/store/instances"
)

// RecordEvery is how often an instance renews its record, and reads its keyring if that
// changed. An instance whose record is older than half a minute counts as stopped.
const RecordEvery = 2 * time.Second

// instance keeps the record of this running service: which field keys it has, which
// policy it acts by and which hosts it connects to. A rotation waits for the keys, and
// commands and reports read the rest. It also keeps the keyring up to date.
type instance struct {
	store *instances.Store
	keys  *keyring.Keyring
	log   *slog.Logger
	id    uuid.UUID
	facts instances.Facts

	mu  sync.Mutex
	err error // of the last renewal; by mu
}

func newInstance(s *instances.Store, keys *keyring.Keyring, log *slog.Logger, facts instances.Facts) *instance {
	return &instance{store: s, keys: keys, log: log, id: uuid.New(), facts: facts}
}

// announce stores the record. A service that cannot do it does not serve.
func (i *instance) announce(ctx context.Context) error {
	return i.store.Record(ctx, i.id, i.keys, i.facts)
}

// run renews the record until ctx ends.
func (i *instance) run(ctx context.Context) {
	tick := time.NewTicker(RecordEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		active := i.keys.Active()
		err := i.announce(ctx)
		i.mu.Lock()
		before := i.err
		i.err = err
		i.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && (before == nil || before.Error() != err.Error()):
			i.log.ErrorContext(ctx, "the field keys are not in order", "error", err)
		case err == nil && before != nil:
			i.log.InfoContext(ctx, "the field keys are in order again")
		case err == nil && i.keys.Active() != active:
			i.log.InfoContext(ctx, "another field key is active", "key_id", i.keys.Active().String())
		}
	}
}

// ready reports whether this replica can decrypt what the others encrypt.
func (i *instance) ready() check.Result {
	i.mu.Lock()
	defer i.mu.Unlock()
	return readiness("field-keys", "this replica has the field keys of the others", i.err, check.Pass, "held")
}

// remove deletes the record. Without it the end of the service shows half a minute later.
func (i *instance) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := i.store.Leave(ctx, i.id); err != nil {
		i.log.Warn("the instance record could not be removed", "error", err)
	}
}
