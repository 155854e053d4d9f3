// Package leader repeats a task on one replica at a time. When the leading replica ends or
// loses its lock, another one takes over.
package leader

import (
	"context"
	"errors"
	"time"
)

// Lease is the leader's lock.
type Lease interface {
	// Held reports whether the lock is still owned.
	Held(ctx context.Context) bool
	Release()
}

// Loop is a repeated task.
type Loop struct {
	// Lease takes the lock when it is free.
	Lease func(ctx context.Context) (l Lease, ok bool, err error)
	// Once does the task once. When it fails the lock is released.
	Once func(ctx context.Context) error
	// Every is the pause between two repetitions, and between two attempts to take the lock.
	Every time.Duration
	// Rest, if given, replaces Every between two repetitions: it returns the length of the
	// pause, and a channel that ends the pause early.
	Rest func() (time.Duration, <-chan struct{})
	// Leads, if given, is called with true when this replica begins to lead and with false
	// when it stops.
	Leads func(bool)
	// Failed is called with the error that ended a lead, unless ctx ended.
	Failed func(ctx context.Context, err error)
}

// Run leads whenever no other replica does, until ctx ends. It finishes the current
// repetition before it returns.
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

// lead takes the lock and repeats the task until the lock is lost.
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

// rest waits, and reports whether the loop continues: false when ctx has ended.
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
