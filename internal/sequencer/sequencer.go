// Package sequencer runs the audit's sequencer: about once a second the leader of
// all replicas gives committed events their positions in the log, signs the new
// tree head, and publishes it outside the database. It promises that a
// checkpoint is never published which contradicts one it has published before. It
// does not verify the log's content: `trakr audit verify` does.
package sequencer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"

	"trakr/internal/proof/merkle"
	"trakr/internal/schedule/leader"
	"trakr/internal/store"
	"trakr/internal/store/audit"
)

// Sink is a place outside the database where checkpoints are kept.
type Sink interface {
	// Name is "file" or "http".
	Name() string
	// Last returns the newest checkpoint at the place, or nil when there is none or the
	// place cannot be read back.
	Last(ctx context.Context) ([]byte, error)
	// Publish stores a newer checkpoint there. It is durable when it returns nil.
	Publish(ctx context.Context, signed []byte) error
}

// Config is what a sequencer works with.
type Config struct {
	DB    *store.DB
	Log   *audit.Log
	Sinks []Sink
	Meter metric.MeterProvider
	Now   func() time.Time
	Slog  *slog.Logger
}

// Sequencer runs on every replica; one of them leads.
type Sequencer struct {
	c         Config
	passes    *audit.Sequencer
	published map[string]int64 // size last published, by sink
	compared  bool             // the sinks' own checkpoints were compared with the log

	leading atomic.Bool
	broken  atomic.Pointer[error] // why nothing is signed any more
}

const (
	interval = time.Second
	// After this time without a pass a lease is taken again: it may have been lost.
	passTimeout = 30 * time.Second
	lease       = "sequencer"
)

// New returns a sequencer that does nothing until Run.
func New(c Config) (*Sequencer, error) {
	passes, err := c.Log.NewSequencer()
	if err != nil {
		return nil, err
	}
	s := &Sequencer{c: c, passes: passes, published: map[string]int64{}}
	return s, s.measure()
}

// measure registers what operators watch.
func (s *Sequencer) measure() error {
	m := s.c.Meter.Meter("trakr/internal/sequencer")
	size, err1 := m.Int64ObservableGauge("trakr.log.size",
		metric.WithDescription("Events that have a position in the log."), metric.WithUnit("{event}"))
	lag, err2 := m.Float64ObservableGauge("trakr.log.lag",
		metric.WithDescription("Age of the oldest event that has no position yet."), metric.WithUnit("s"))
	_, err3 := m.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		b, err := s.c.Log.Backlog(ctx)
		if err != nil {
			return err
		}
		o.ObserveInt64(size, b.Size)
		o.ObserveFloat64(lag, Lag(b, s.c.Now()).Seconds())
		return nil
	}, size, lag)
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("making the log's metrics: %w", err)
	}
	return nil
}

// Lag is the age of the oldest waiting event; zero when none waits.
func Lag(b audit.Backlog, now time.Time) time.Duration {
	if b.Oldest.IsZero() {
		return 0
	}
	return max(now.Sub(b.Oldest), 0)
}

// Err returns why nothing is signed any more, or nil. A person must decide then.
func (s *Sequencer) Err() error {
	if p := s.broken.Load(); p != nil {
		return *p
	}
	return nil
}

// Run leads whenever no other replica does, until ctx ends.
func (s *Sequencer) Run(ctx context.Context) {
	leader.Loop{Once: s.drain, Every: interval, Leads: s.leading.Store,
		Lease:  func(ctx context.Context) (leader.Lease, bool, error) { return store.TryLease(ctx, s.c.DB, lease) },
		Failed: func(ctx context.Context, err error) { s.c.Slog.ErrorContext(ctx, "sequencing failed", "error", err) }}.Run(ctx)
}

// Once sequences and publishes what waits, for a command without a running
// service. When another process leads it only waits for that one's work.
func (s *Sequencer) Once(ctx context.Context) error {
	l, ok, err := store.TryLease(ctx, s.c.DB, lease)
	if err != nil || !ok {
		return err
	}
	defer l.Release()
	return s.drain(ctx)
}

// drain runs passes until nothing waits.
func (s *Sequencer) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	if err := s.Err(); err != nil {
		return err
	}
	if err := s.compare(ctx); err != nil {
		return s.halt(err)
	}
	for {
		n, err := s.passes.Pass(ctx)
		if err != nil {
			return s.halt(err)
		}
		if n > 0 {
			continue // more may wait; publish the newest only
		}
		return s.publish(ctx)
	}
}

// halt remembers a fork: to continue signing would cover it up.
func (s *Sequencer) halt(err error) error {
	if errors.Is(err, audit.ErrFork) {
		s.broken.Store(&err)
	}
	return err
}

// compare compares what the sinks kept with the log before anything is signed: a log
// that is shorter than a published checkpoint, or does not contain it, was cut or
// changed around the service.
func (s *Sequencer) compare(ctx context.Context) error {
	if s.compared {
		return nil
	}
	for _, sink := range s.c.Sinks {
		signed, err := sink.Last(ctx)
		if err != nil {
			return fmt.Errorf("reading the last published checkpoint (%s): %w", sink.Name(), err)
		}
		if signed == nil {
			continue
		}
		cp, err := merkle.Open(signed, s.c.Log.Verifier())
		if err != nil {
			return fmt.Errorf("the checkpoint kept by the %s sink is not of this log and key "+
				"(was the database or the keyring replaced?): %w",
				sink.Name(), errors.Join(audit.ErrFork, err))
		}
		if err := s.c.Log.Contains(ctx, cp); err != nil {
			return fmt.Errorf("comparing with the checkpoint kept by the %s sink: %w", sink.Name(), err)
		}
		s.published[sink.Name()] = cp.Size
	}
	s.compared = true
	return nil
}

// publish brings the newest checkpoint to each sink that lacks it. A crash before
// it leaves the sinks behind; the next pass, or the next start, comes here again.
// One sink's failure does not keep it from the others.
func (s *Sequencer) publish(ctx context.Context) error {
	cp, err := s.c.Log.Latest(ctx)
	if errors.Is(err, audit.ErrNoCheckpoint) {
		return nil
	}
	if err != nil {
		return s.halt(err)
	}
	var errs []error
	for _, sink := range s.c.Sinks {
		if s.published[sink.Name()] >= cp.Size {
			continue
		}
		if err := sink.Publish(ctx, cp.Note); err != nil {
			errs = append(errs, fmt.Errorf("publishing a checkpoint (%s): %w", sink.Name(), err))
			continue
		}
		s.published[sink.Name()] = cp.Size
	}
	return errors.Join(errs...)
}
