package ingress

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"trakr/internal/lifecycle"
)

// Failures that one source may cause before it is limited: enough for a broken
// deployment to be noticed, too few to grow the audit or to try keys.
const (
	failureBurst  = 60
	failurePeriod = 2 * time.Second // one more after each
	maxSources    = 10_000
)

// failureLimiter bounds what the failed attempts of a source may cost. It refuses
// nothing that a stored secret could prove; see the package's documentation.
type failureLimiter struct {
	now func() time.Time

	mu      sync.Mutex
	sources map[netip.Addr]*source
}

type source struct {
	failures *rate.Limiter
	pending  int // attempts in progress: each counts as a failure until it ends
	last     time.Time
}

func newFailureLimiter(now func() time.Time) *failureLimiter {
	return &failureLimiter{now: now, sources: map[netip.Addr]*source{}}
}

// begin reserves a failure for an attempt and reports whether one was left. The
// attempt calls end once with its outcome: a success returns the reservation,
// since many tenants come from the platform's few addresses.
func (l *failureLimiter) begin(from netip.Addr) (ok bool, end func(failed bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, addr := l.now(), group(from)
	s, known := l.sources[addr]
	if !known {
		if len(l.sources) >= maxSources {
			l.forget(now)
		}
		s = &source{failures: rate.NewLimiter(rate.Every(failurePeriod), failureBurst)}
		l.sources[addr] = s
	}
	s.last = now
	if s.failures.TokensAt(now)-float64(s.pending) < 1 {
		return false, func(bool) {}
	}
	s.pending++
	return true, func(failed bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		s.pending--
		if failed {
			s.failures.AllowN(l.now(), 1)
		}
	}
}

// group returns the address that counts: IPv6 addresses count by their /64, which
// one customer has whole.
func group(a netip.Addr) netip.Addr {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// forget drops sources that have waited long enough, or all when none has: the
// memory is bounded however many sources there are.
func (l *failureLimiter) forget(now time.Time) {
	for a, s := range l.sources {
		if now.Sub(s.last) > failureBurst*failurePeriod {
			delete(l.sources, a)
		}
	}
	if len(l.sources) >= maxSources {
		clear(l.sources)
	}
}

// roundEvery is the time between two reads of one tenant's secret for senders
// beyond their limit. A valid callback among them waits at most this long.
const roundEvery = 2 * time.Second

// rounds lets senders beyond their limit share the reads of secrets. All rounds
// begin at the same moments. A round reads each requested secret once, which is one
// audited read, and returns it to the senders that were waiting when it began and to
// no later one. So every token is verified, and the number of reads is bounded by
// time, however many tokens arrive. All wait the same time, also for an unknown
// tenant.
type rounds struct {
	mu      sync.Mutex
	waiting map[lifecycle.TenantID]*round
}

type round struct {
	done   chan struct{}
	secret lifecycle.Secret
	err    error
}

func newRounds() *rounds { return &rounds{waiting: map[lifecycle.TenantID]*round{}} }

// secret waits for the next round and returns the result of its read, which is the
// read function of the first sender that waited.
func (r *rounds) secret(
	ctx context.Context, id lifecycle.TenantID, read func(context.Context) (lifecycle.Secret, error),
) (lifecycle.Secret, error) {
	r.mu.Lock()
	o, ok := r.waiting[id]
	if !ok {
		o = &round{done: make(chan struct{})}
		r.waiting[id] = o
		now := time.Now()
		next := now.Truncate(roundEvery).Add(roundEvery)
		time.AfterFunc(next.Sub(now), func() { r.run(context.WithoutCancel(ctx), id, o, read) })
	}
	r.mu.Unlock()
	select {
	case <-o.done:
		return o.secret, o.err
	case <-ctx.Done():
		return lifecycle.Secret{}, lifecycle.Fail(lifecycle.StoreUnavailable,
			"The database did not answer in time; nothing was changed. Try again later.",
			lifecycle.After(roundEvery), lifecycle.Cause(ctx.Err()))
	}
}

func (r *rounds) run(ctx context.Context, id lifecycle.TenantID, o *round, read func(context.Context) (lifecycle.Secret, error)) {
	r.mu.Lock()
	delete(r.waiting, id) // senders that arrive from here on wait for the next read
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, actTimeout)
	defer cancel()
	o.secret, o.err = read(ctx)
	close(o.done)
}

// tallies bounds how often the same occurrence is recorded: once, and not again
// until its period is over.
type tallies struct {
	now func() time.Time

	mu sync.Mutex
	m  map[any]*tally
}

type tally struct {
	until time.Time
	left  int // left out since it was recorded
}

func newTallies(now func() time.Time) *tallies { return &tallies{now: now, m: map[any]*tally{}} }

// due reports whether an occurrence is to be recorded now, and how many of the
// same key were left out since the last that was.
func (t *tallies) due(key any, period time.Duration) (leftOut int, record bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	last, known := t.m[key]
	if known && now.Before(last.until) {
		last.left++
		return 0, false
	}
	if known {
		leftOut = last.left
	} else if len(t.m) >= maxSources {
		t.forget(now)
	}
	t.m[key] = &tally{until: now.Add(period)}
	return leftOut, true
}

// undo lets the next occurrence be recorded: this one could not be.
func (t *tallies) undo(key any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, key)
}

// forget bounds the memory, as failureLimiter.forget does.
func (t *tallies) forget(now time.Time) {
	for k, v := range t.m {
		if !now.Before(v.until) {
			delete(t.m, k)
		}
	}
	if len(t.m) >= maxSources {
		clear(t.m)
	}
}
