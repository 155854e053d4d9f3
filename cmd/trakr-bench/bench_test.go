package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = i + 1
	}
	for _, c := range []struct {
		sorted []int
		q      float64
		want   int
	}{
		{hundred, .50, 51}, {hundred, .99, 100}, {hundred, 0, 1}, {hundred, 1, 100}, {[]int{7}, .99, 7}, {nil, .5, 0},
	} {
		if got := quantile(c.sorted, c.q); got != c.want {
			t.Errorf("quantile(%d values, %v) = %d, want %d", len(c.sorted), c.q, got, c.want)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		all  []float64
		want float64
	}{{[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 3}, 2.5}, {nil, 0}} {
		if got := median(c.all); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.all, got, c.want)
		}
	}
}

// The failure that comes out is the one that made the other callers give up.
func TestLoadEndsAtTheFirstFailure(t *testing.T) {
	broken := errors.New("broken")
	begin := time.Now()
	_, err := load(t.Context(), 4, time.Minute, func(ctx context.Context, caller int, _ *rand.Rand) error {
		if caller == 2 {
			return broken
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, broken) || time.Since(begin) > 10*time.Second {
		t.Fatalf("load: %v after %v", err, time.Since(begin))
	}
}

// Sides take turns, who begins rotates, and the first turn of each does not count.
func TestAlternate(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	b := &bench{plan: plan{Rounds: 2}, say: newProgress(null)}
	order := ""
	turn := func(name string) side {
		return side{name, func(context.Context) (figure, error) { order += name; return figure{Rate: float64(len(order))}, nil }}
	}
	got, err := b.alternate(t.Context(), turn("a"), turn("b"), turn("c"))
	if err != nil || order != "abcbcacab" {
		t.Fatalf("order %q, %v", order, err)
	}
	if got[0][0].Rate != 6 || got[0][1].Rate != 8 || len(got[2]) != 2 {
		t.Errorf("rounds: %v", got)
	}
}

func TestGates(t *testing.T) {
	r := newReport(quick, true, "15")
	side := func(rates ...float64) (out []figure) {
		for _, v := range rates {
			out = append(out, figure{Rate: v, P99: 10})
		}
		return out
	}
	r.compare(subject{"reads", 1, "reads"}, series{auditedRead, side(1)}, series{plainInsert, side(100)}) // not the gate's callers
	r.compare(subject{"reads", gateCallers, "reads"}, series{auditedRead, side(300, 100, 160)}, series{plainInsert, side(100, 50, 200)})
	r.compare(subject{"reads", gateCallers, "reads"}, series{auditedRead, side(69)}, series{plainSelect, side(100)})
	r.compare(subject{"sequencer", gateCallers, "reads"}, series{whileOn, side(80)}, series{whileOff, side(100)})
	r.compare(subject{"size", gateCallers, "reads"}, series{after(10_000_000), side(100)}, series{after(10_000), side(120)})
	r.compare(subject{"orphans", 0, "rows"}, series{sweptTable, side(80)}, series{antiJoin, side(100)})
	r.compare(subject{"orphans", 0, "rows"}, series{sweptDeclared, side(50, 40, 45)}, series{antiJoin, side(90, 100, 110)})
	r.compare(subject{"orphans", gateCallers, "reads"}, series{whileSweeping, side(90)}, series{whileNotSweeping, side(100)})
	r.judge()
	want := map[string]string{ // as people read it
		"audited read : plain INSERT":                          "1.60 met, the goal not",
		"audited read : un-audited SELECT":                     "0.69 met, the goal not",
		"audited read, p99":                                    "10.0 ms met, the goal not",
		"audited : un-audited, over HTTP":                      "– not measured",
		"slowdown by the sequencer":                            "20.0 % NOT MET",
		"cost of a read at 10 million events : at 10 thousand": "1.20 met",
		"time of the orphan sweep's check : raw anti-join":     "1.25 met, and the goal",
		"time of the whole orphan sweep : raw anti-join":       "2.22 NOT MET",
		"slowdown by the orphan sweep":                         "10.0 % met",
	}
	for _, g := range r.Gates {
		if w, ok := want[g.Name]; ok && g.measured()+" "+g.verdict() != w {
			t.Errorf("%s: %s %s, want %s", g.Name, g.measured(), g.verdict(), w)
		}
		delete(want, g.Name)
	}
	if len(want) > 0 {
		t.Errorf("no such gates: %v", want)
	}
	if c := r.Comparisons[1]; c.Low != .8 || c.High != 3 {
		t.Errorf("ratios of rounds from %v to %v, want 0.8 to 3", c.Low, c.High)
	}
}

// A run that was broken off still makes its files, and claims nothing.
func TestWriteAfterAnEmptyRun(t *testing.T) {
	r := newReport(quick, true, "15")
	r.judge()
	prefix := filepath.Join(t.TempDir(), "new", "bench")
	if err := r.write(prefix); err != nil {
		t.Fatal(err)
	}
	md, err := os.ReadFile(prefix + ".md")
	if err != nil || !strings.Contains(string(md), "not measured") {
		t.Errorf("markdown: %v, %s", err, md)
	}
	js, err := os.ReadFile(prefix + ".json")
	if err != nil || !strings.Contains(string(js), `"measured": null`) {
		t.Errorf("JSON: %v, %s", err, js)
	}
}
