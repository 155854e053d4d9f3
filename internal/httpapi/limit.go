package httpapi

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"trakr/internal/lifecycle"
)

// Failures one source may make before it has to wait: enough for a broken
// deployment to be noticed, too few to grow the audit or to try keys.
const (
	failureBurst  = 60
	failurePeriod = 2 * time.Second // one more after each
	maxSources    = 10_000
)

// failureLimiter bounds failed attempts by source address. Successful callbacks
// cost nothing: many tenants come from Bitbucket's few addresses.
type failureLimiter struct {
	now     func() time.Time
	trusted []netip.Prefix

	mu      sync.Mutex
	sources map[netip.Addr]*source
}

type source struct {
	limiter *rate.Limiter
	last    time.Time
}

func newFailureLimiter(now func() time.Time, trusted []netip.Prefix) *failureLimiter {
	return &failureLimiter{now: now, trusted: trusted, sources: map[netip.Addr]*source{}}
}

// check refuses a source that has failed too often.
func (l *failureLimiter) check(r *http.Request) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.sources[l.source(r)]
	if !ok || s.limiter.TokensAt(l.now()) >= 1 {
		return nil
	}
	return lifecycle.Fail(lifecycle.RateLimited, "Too many failed attempts from this address. Try again later.", lifecycle.After(failurePeriod))
}

// failed counts a failed attempt.
func (l *failureLimiter) failed(r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, addr := l.now(), l.source(r)
	s, ok := l.sources[addr]
	if !ok {
		if len(l.sources) >= maxSources {
			l.forget(now)
		}
		s = &source{limiter: rate.NewLimiter(rate.Every(failurePeriod), failureBurst)}
		l.sources[addr] = s
	}
	s.last = now
	s.limiter.AllowN(now, 1)
}

// forget drops sources that have waited long enough, or all when none has: the
// memory is bounded whoever asks.
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

// source is the address the request comes from: the connection's or, behind
// trusted proxies, the last untrusted one in X-Forwarded-For. IPv6 addresses
// count by their /64, which one customer holds whole.
func (l *failureLimiter) source(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	addr = addr.Unmap().WithZone("")
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && l.trusts(addr); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		addr = hop.Unmap().WithZone("")
	}
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return addr
}

func (l *failureLimiter) trusts(a netip.Addr) bool {
	for _, p := range l.trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
