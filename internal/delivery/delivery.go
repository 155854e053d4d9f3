// Package delivery has what both relays share: when the next attempt of a delivery comes,
// and when it is given up. endservice delivers events about tenants, findings delivers
// events about findings; each keeps its own queue.
package delivery

import (
	"math/rand/v2"
	"time"
)

// Schedule is when a delivery is attempted. The wait doubles with each failed attempt.
type Schedule struct {
	First   time.Duration // wait after the first failed attempt
	Longest time.Duration // longest wait between two attempts ...
	// LongestAsked bounds the wait that a receiver asks for with Retry-After (RFC 9110,
	// section 10.2.3); 0 ignores it.
	LongestAsked time.Duration
	MaxAge       time.Duration // how long attempts go on; 0 for ever
}

// Wait returns the wait after so many failed attempts, at least one.
func (s Schedule) Wait(failed int) time.Duration {
	const doublings = 20 // keeps the shift from overflowing
	return min(s.First<<min(max(failed-1, 0), doublings), s.Longest)
}

// Asked returns the wait that a receiver asked for, bounded.
func (s Schedule) Asked(retryAfter time.Duration) time.Duration {
	return min(retryAfter, s.LongestAsked)
}

// Over reports whether a delivery that began at a time is given up.
func (s Schedule) Over(began, now time.Time) bool {
	return s.MaxAge > 0 && now.Sub(began) >= s.MaxAge
}

// Jitter changes a wait by at most a fifth, so that deliveries that failed together are
// not attempted together again.
func Jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}
