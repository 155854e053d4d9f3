package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// figure is what one side of a comparison did in one round, or its median round.
type figure struct {
	Rate float64 `json:"per_second"`
	P50  float64 `json:"p50_ms,omitempty"`
	P99  float64 `json:"p99_ms,omitempty"`
}

// act is one operation of a caller, who is numbered from 0.
type act func(ctx context.Context, caller int, r *rand.Rand) error

// load lets callers act one after the other, all at once, for that long. Every
// operation counts that began in time; the first failure ends all.
func load(ctx context.Context, callers int, length time.Duration, do act) (figure, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	took, errs := make([][]time.Duration, callers), make([]error, callers)
	var wg sync.WaitGroup
	start := time.Now()
	for c := range callers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(start.UnixNano()), uint64(c)))
			for begin := start; begin.Sub(start) < length; {
				if errs[c] = do(ctx, c, r); errs[c] != nil {
					cancel()
					return
				}
				end := time.Now()
				took[c] = append(took[c], end.Sub(begin))
				begin = end
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	if err := first(errs); err != nil {
		return figure{}, err
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	return figure{float64(len(all)) / elapsed.Seconds(), millis(quantile(all, .50)), millis(quantile(all, .99))}, nil
}

// first is the failure that made the others give up.
func first(errs []error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return errors.Join(errs...)
}

// under returns the round in which that many callers act.
func (b *bench) under(callers int, do act) round {
	return func(ctx context.Context) (figure, error) { return load(ctx, callers, b.plan.Length, do) }
}

// quantile of sorted values: the smallest with at least a share q at or below it.
func quantile[T any](sorted []T, q float64) (v T) {
	if len(sorted) == 0 {
		return v
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// round is one turn of one side of a comparison.
type round func(ctx context.Context) (figure, error)

// side is one side of a comparison.
type side struct {
	name  string
	round round
}

// alternate lets the sides take turns and returns the rounds of each. A first turn
// of each warms up and does not count. The first one rotates, so that no side
// always follows the same other one.
func (b *bench) alternate(ctx context.Context, sides ...side) ([][]figure, error) {
	out := make([][]figure, len(sides))
	for n := range b.plan.Rounds + 1 {
		for k := range sides {
			i := (n + k) % len(sides)
			b.say.step("round %d of %d: %s", n, b.plan.Rounds, sides[i].name)
			f, err := sides[i].round(ctx)
			if err != nil {
				return nil, err
			}
			if n > 0 {
				out[i] = append(out[i], f)
			}
		}
	}
	return out, nil
}

// rate times work that handles a number of rows.
func rate(work func() (rows int64, err error)) (figure, error) {
	begin := time.Now()
	rows, err := work()
	return figure{Rate: float64(rows) / time.Since(begin).Seconds()}, err
}

// middle is the median of each figure by itself.
func middle(rounds []figure) figure {
	by := func(get func(figure) float64) float64 {
		var all []float64
		for _, f := range rounds {
			all = append(all, get(f))
		}
		return median(all)
	}
	return figure{
		by(func(f figure) float64 { return f.Rate }),
		by(func(f figure) float64 { return f.P50 }),
		by(func(f figure) float64 { return f.P99 }),
	}
}

func median(all []float64) float64 {
	slices.Sort(all)
	if n := len(all); n > 0 {
		return (all[(n-1)/2] + all[n/2]) / 2
	}
	return 0
}
