package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"trakr/internal/httpapi"
	"trakr/internal/keyring"
	"trakr/internal/store/instances"
)

// holdEvery is how often a service says which field keys it holds and what it acts by,
// and looks whether its keyring changed. One that said nothing for half a minute does not run.
const holdEvery = 2 * time.Second

// holding keeps a running service's keys up to date, and known to whoever rotates them.
type holding struct {
	instances *instances.Store
	keys      *keyring.Keyring
	log       *slog.Logger
	instance  uuid.UUID
	facts     instances.Facts

	mu  sync.Mutex
	err error // of the last time
}

// holdKeys begins it. A service that cannot do it does not serve.
func holdKeys(ctx context.Context, s *service) (*holding, error) {
	facts, err := s.instanceFacts()
	if err != nil {
		return nil, err
	}
	h := &holding{instances: instances.New(s.db), keys: s.keys, log: s.log, instance: uuid.New(), facts: facts}
	return h, h.instances.Record(ctx, h.instance, h.keys, h.facts)
}

// run goes on with it until ctx ends.
func (h *holding) run(ctx context.Context) {
	tick := time.NewTicker(holdEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		sealing := h.keys.Sealing()
		err := h.instances.Record(ctx, h.instance, h.keys, h.facts)
		h.mu.Lock()
		before := h.err
		h.err = err
		h.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && (before == nil || before.Error() != err.Error()):
			h.log.ErrorContext(ctx, "the field keys are not in order", "error", err)
		case err == nil && before != nil:
			h.log.InfoContext(ctx, "the field keys are in order again")
		case err == nil && h.keys.Sealing() != sealing:
			h.log.InfoContext(ctx, "another field key seals", "key_id", h.keys.Sealing().String())
		}
	}
}

// ready judges whether this replica can open what the others seal.
func (h *holding) ready() httpapi.ReadyCheck {
	h.mu.Lock()
	defer h.mu.Unlock()
	return httpapi.ReadyCheck{Name: "field keys", OK: h.err == nil, Detail: detail(h.err, "held")}
}

// leave says that the service ends; without it that is noticed half a minute later.
func (h *holding) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := h.instances.Leave(ctx, h.instance); err != nil {
		h.log.Warn("leaving without a word", "error", err)
	}
}
