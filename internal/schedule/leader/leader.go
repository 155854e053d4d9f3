// Package leader does a thing over and over on one replica at a time. When the replica
// that leads ends or loses its lock, another one goes on.
package leader

import (
	"context"
	"errors"
	"time"
)

// Lease is the lock of whoever leads.
type Lease interface {
	// Held asks whether the lock is still there.
	Held(ctx context.Context) bool
	Release()
}

// Loop is what is done.
type Loop struct {
	// Lease takes the lock when nobody has it.
	Lease func(ctx context.Context) (l Lease, ok bool, err error)
	// Once does it once. When it fails the lock is given back.
	Once func(ctx context.Context) error
	// Every is the rest between two times, and between two tries for the lock.
	Every time.Duration
	// Rest, if given, is the rest between two times instead: how long, and what ends it
	// sooner.
	Rest func() (time.Duration, <-chan struct{})
	// Leads, if given, is told when this replica begins and ceases to lead.
	Leads func(bool)
	// Failed is told why it was ended, but for the end of ctx.
	Failed func(ctx context.Context, err error)
}

// Run leads whenever no other replica does, until ctx ends. What is under way then is
// finished.
func (l Loop) Run(ctx context.Context) {
	for {
		if err := l.lead(ctx); err != nil && ctx.Err() == nil {
			l.Failed(ctx, err)
		}
		if !rest(ctx, l.Every, nil) {
			return
		}
	}
}

// lead takes the lock and does it over and over until the lock is lost.
func (l Loop) lead(ctx context.Context) error {
	lease, ok, err := l.Lease(ctx)
	if err != nil || !ok {
		return err
	}
	defer lease.Release()
	if l.Leads != nil {
		l.Leads(true)
		defer l.Leads(false)
	}
	for {
		if !lease.Held(ctx) {
			return errors.New("the leader lock was lost")
		}
		if err := l.Once(ctx); err != nil {
			return err
		}
		d, woken := l.Every, (<-chan struct{})(nil)
		if l.Rest != nil {
			d, woken = l.Rest()
		}
		if !rest(ctx, d, woken) {
			return nil
		}
	}
}

// rest reports whether there is still something to do afterwards.
func rest(ctx context.Context, d time.Duration, woken <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-woken:
	case <-t.C:
	}
	return true
}
