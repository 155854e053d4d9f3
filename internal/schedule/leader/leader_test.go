package leader_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"trakr/internal/schedule/leader"
)

// lock is a lease that a test takes away.
type lock struct {
	mu    sync.Mutex
	owner int // 0: nobody
}

func (l *lock) take(me int) func(context.Context) (leader.Lease, bool, error) {
	return func(context.Context) (leader.Lease, bool, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.owner != 0 {
			return nil, false, nil
		}
		l.owner = me
		return &held{l, me}, true, nil
	}
}

type held struct {
	lock *lock
	me   int
}

func (h *held) Held(context.Context) bool {
	h.lock.mu.Lock()
	defer h.lock.mu.Unlock()
	return h.lock.owner == h.me
}

func (h *held) Release() {
	h.lock.mu.Lock()
	defer h.lock.mu.Unlock()
	if h.lock.owner == h.me {
		h.lock.owner = 0
	}
}

func TestOneLeadsAndTheOtherTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lock
		var mu sync.Mutex
		did, leads, failed := map[int]int{}, map[int]bool{}, map[int][]error{}
		seen := func(me int) (times int, is bool, errs int) {
			mu.Lock()
			defer mu.Unlock()
			return did[me], leads[me], len(failed[me])
		}
		run := func(me int) (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				leader.Loop{Lease: l.take(me), Every: time.Second,
					Once:   func(context.Context) error { mu.Lock(); defer mu.Unlock(); did[me]++; return nil },
					Leads:  func(is bool) { mu.Lock(); defer mu.Unlock(); leads[me] = is },
					Failed: func(_ context.Context, err error) { mu.Lock(); defer mu.Unlock(); failed[me] = append(failed[me], err) },
				}.Run(ctx)
			}()
			synctest.Wait()
			return func() { cancel(); <-ended }
		}
		stop1 := run(1)
		stop2 := run(2)
		time.Sleep(2500 * time.Millisecond)
		if n, is, _ := seen(1); n != 3 || !is {
			t.Errorf("the first did it %d times, leads: %v", n, is)
		}
		if n, is, _ := seen(2); n != 0 || is {
			t.Errorf("the second did it %d times, leads: %v", n, is)
		}
		stop1()
		time.Sleep(1500 * time.Millisecond)
		if _, is, errs := seen(1); is || errs != 0 {
			t.Errorf("the first ended and leads: %v, failed %d times", is, errs)
		}
		before, is, _ := seen(2)
		if before == 0 || !is {
			t.Errorf("the second did not take over: %d, %v", before, is)
		}
		l.mu.Lock()
		l.owner = 3
		l.mu.Unlock()
		time.Sleep(5 * time.Second)
		if n, is, errs := seen(2); n != before || is || errs != 1 {
			t.Errorf("without the lock it was done %d times more, leads: %v, failed %d times", n-before, is, errs)
		}
		stop2()
	})
}

func TestWhatFailsIsToldAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lock
		var told []error
		broken := errors.New("broken")
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		leader.Loop{Lease: l.take(1), Every: time.Second, Once: func(context.Context) error { return broken },
			Failed: func(_ context.Context, err error) { told = append(told, err) }}.Run(ctx)
		if len(told) != 3 || !errors.Is(told[0], broken) || l.owner != 0 {
			t.Errorf("told %v, owner %d", told, l.owner)
		}
	})
}

func TestWhoIsWokenRestsNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lock
		n, woken := 0, make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		begin := time.Now()
		go func() {
			time.Sleep(time.Second)
			woken <- struct{}{}
			time.Sleep(time.Second)
			cancel()
		}()
		leader.Loop{Lease: l.take(1), Every: time.Hour, Once: func(context.Context) error { n++; return nil },
			Rest: func() (time.Duration, <-chan struct{}) { return time.Hour, woken }}.Run(ctx)
		if took := time.Since(begin); n != 2 || took != 2*time.Second {
			t.Errorf("%d times in %s", n, took)
		}
	})
}
