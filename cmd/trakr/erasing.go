package main

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"trakr/internal/erasure"
	"trakr/internal/keyring"
	"trakr/internal/ledger"
	"trakr/internal/lifecycle"
	"trakr/internal/sweep"
)

// erasing opens the ledger and holds it against the database before anything else
// can look at a tenant: what a restored backup brought back is erased again first.
func (s *service) erasing(ctx context.Context, keys *keyring.Keyring, now func() time.Time) (err error) {
	if s.ledger, err = s.openLedger(ctx, now); err != nil {
		return err
	}
	c := erasure.Config{Door: s.door, Erasures: s.erasures, Sweeps: s.sweeps, Log: s.audit, Keys: keys, Policy: s.policy, Ledger: s.ledger,
		Version: toolVersion(), Now: now, Slog: s.log, After: killAfter()}
	s.begun = make(chan struct{}, 1)
	c.Begun = s.eraserBegun
	if !s.serving {
		seq, err := s.sequencer(noop.NewMeterProvider(), now)
		if err != nil {
			return err
		}
		c.Sequence = seq.Once
	}
	if s.eraser, err = erasure.New(c); err != nil {
		return err
	}
	if s.anyway {
		return nil // a command that judges: it says what is wrong and changes nothing
	}
	s.replayed, err = s.eraser.Replay(ctx, starting(), false)
	if err == nil && s.replayed.Erased > 0 {
		s.log.WarnContext(ctx, "a restored backup had brought erased tenants back; they are erased again", "tenants", s.replayed.Erased)
	}
	return err
}

// eraserBegun asks for the sweep of erasures.
func (s *service) eraserBegun() {
	select {
	case s.begun <- struct{}{}:
	default: // it is asked for already
	}
}

// finishSoon runs the sweep of erasures shortly after one has begun, so that a
// certificate does not wait for the schedule. What it misses, the schedule catches.
func (s *service) finishSoon(ctx context.Context) {
	const pause = 2 * time.Second // those that come together are finished together
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.begun:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		_, err := s.runner.RunOnce(ctx, starting(), sweep.Erasures, sweep.BySchedule)
		if errors.Is(err, lifecycle.SweepRunning) {
			s.eraserBegun() // its look at the list may have come too early
		} else if err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "finishing erasures failed", "error", err)
		}
	}
}

// starting is the service's own start as who acts.
func starting() lifecycle.Access {
	return lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorScheduler, ID: "start", Role: lifecycle.RoleScheduler},
		Reason: lifecycle.Reason{Code: lifecycle.SystemSweep}, RequestID: "start"}
}

// openLedger opens the ledger that the settings name; one is made only where neither
// the settings' place nor the database knows one.
func (s *service) openLedger(ctx context.Context, now func() time.Time) (ledger.Ledger, error) {
	open := func() (ledger.Ledger, error) { return aLedger(ledger.OpenFile(s.cfg.Ledger)) }
	create := func() (ledger.Ledger, error) { return aLedger(ledger.CreateFile(s.cfg.Ledger, now())) }
	if s.cfg.LedgerAtURL() {
		c := ledger.HTTPConfig{URL: s.cfg.Ledger, Token: s.cfg.LedgerToken}
		open = func() (ledger.Ledger, error) { return aLedger(ledger.OpenHTTP(ctx, c)) }
		create = func() (ledger.Ledger, error) { return aLedger(ledger.CreateHTTP(ctx, c, now())) }
	}
	return erasure.Open(ctx, s.erasures, open, create)
}

// aLedger keeps a nil pointer from becoming a ledger.
func aLedger[L ledger.Ledger](l L, err error) (ledger.Ledger, error) {
	if err != nil {
		return nil, err
	}
	return l, nil
}

// killAfter lets a test end this process, as a power failure would, when a step of an
// erasure is durable: TRAKR_TEST_KILL_AFTER names the step.
func killAfter() func(string) {
	at := os.Getenv("TRAKR_TEST_KILL_AFTER")
	if at == "" {
		return nil
	}
	return func(step string) {
		if step == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}
