package erasure

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"trakr/internal/lifecycle"
)

// finishPause is how long a Finisher waits after a begun erasure, so that erasures that
// begin together are finished by one pass.
const finishPause = 2 * time.Second

// Finisher runs the pass that finishes erasures shortly after one has begun, so that a
// certificate does not wait for the schedule. It only shortens the wait: an erasure
// whose signal is lost, by a crash for example, is finished by the scheduled pass.
//
// It is safe for concurrent use.
type Finisher struct{ begun chan struct{} }

// NewFinisher returns a finisher that does nothing until Run.
func NewFinisher() *Finisher { return &Finisher{begun: make(chan struct{}, 1)} }

// Begun asks for a pass. It never blocks; one pass serves all calls that come before it.
func (f *Finisher) Begun() {
	select {
	case f.begun <- struct{}{}:
	default: // a pass is asked for already
	}
}

// Run calls pass after each Begun until ctx ends. A pass that fails with sweep-running
// is retried, because the pass that runs may have read its list too early; another
// failure is logged and left to the schedule.
func (f *Finisher) Run(ctx context.Context, log *slog.Logger, pass func(context.Context) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.begun:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(finishPause):
		}
		err := pass(ctx)
		if errors.Is(err, lifecycle.SweepRunning) {
			f.Begun()
		} else if err != nil && ctx.Err() == nil {
			log.ErrorContext(ctx, "finishing erasures failed", "error", err)
		}
	}
}
