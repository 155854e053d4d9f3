package merkle_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"trakr/internal/proof/merkle"
)

// A step is one line of an export: a selected leaf, or a gap when hashes is set.
type step struct {
	from, to int64
	leaf     merkle.Hash
	hashes   []merkle.Hash
}

// export writes the steps that prove the selected positions, which ascend.
func (l *log) export(t testing.TB, selected []int64) []step {
	p := l.prover()
	var steps []step
	next := int64(0)
	gap := func(to int64) {
		if next < to {
			steps = append(steps, step{from: next, to: to, hashes: must[[]merkle.Hash](t)(p.Gap(t.Context(), next, to))})
		}
	}
	for _, i := range selected {
		gap(i)
		steps = append(steps, step{from: i, to: i + 1, leaf: l.leaves[i]})
		next = i + 1
	}
	gap(l.tree.Size())
	return steps
}

// replay is what the reader of an export does with it.
func replay(steps []step, size int64, root merkle.Hash) error {
	var s merkle.Slice
	for _, st := range steps {
		var err error
		if st.hashes == nil {
			err = s.Leaf(st.from, st.leaf)
		} else {
			err = s.Gap(st.from, st.to, st.hashes)
		}
		if err != nil {
			return err
		}
	}
	return s.Verify(size, root)
}

// some returns each position below size with probability p.
func some(r *rand.Rand, size int, p float64) []int64 {
	var out []int64
	for i := range size {
		if r.Float64() < p {
			out = append(out, int64(i))
		}
	}
	return out
}

func TestSliceOfAnySelectionHasTheLogsRoot(t *testing.T) {
	r := seeded(5)
	for _, size := range []int{1, 2, 3, 255, 256, 257, 1000, 65_536, 66_001} {
		l := newLog(size)
		for _, p := range []float64{0, 0.001, 0.1, 0.5, 0.9, 1} {
			steps := l.export(t, some(r, size, p))
			if err := replay(steps, int64(size), l.tree.Root()); err != nil {
				t.Errorf("%d leaves, each chosen with probability %v: %v", size, p, err)
			}
			if p == 0 && len(steps) != 1 || p == 1 && len(steps) != size {
				t.Errorf("%d leaves, probability %v: %d steps", size, p, len(steps))
			}
		}
	}
	// At every step, the root so far is that of the log when it was so long.
	l, s := newLog(300), merkle.Slice{}
	for i, leaf := range l.leaves {
		if size, root := s.Root(); size != int64(i) || root != l.at(i) {
			t.Fatalf("after %d leaves: size %d, root %v", i, size, root)
		}
		if err := s.Leaf(int64(i), leaf); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGapHashesAreFewAndRight(t *testing.T) {
	l := newLog(700)
	stored := l.naive(t)
	for from := range int64(700) {
		for _, to := range []int64{from + 1, from + 2, (from + 700) / 2, 700} {
			if to <= from || to > 700 {
				continue
			}
			got := must[[]merkle.Hash](t)(l.prover().Gap(t.Context(), from, to))
			if want := cover(from, to, stored); !slices.Equal(got, want) {
				t.Fatalf("[%d, %d): %d hashes, want %d", from, to, len(got), len(want))
			}
		}
	}
	for _, bad := range [][2]int64{{-1, 3}, {3, 3}, {4, 3}, {0, 701}} {
		if _, err := l.prover().Gap(t.Context(), bad[0], bad[1]); err == nil {
			t.Errorf("a gap [%d, %d) of 700 leaves", bad[0], bad[1])
		}
	}
}

// cover is the definition of the decomposition, by recursion from the whole
// range of 1024: a complete subtree inside is taken, one that overlaps is halved.
func cover(from, to int64, stored naive) []merkle.Hash {
	var out []merkle.Hash
	var walk func(level int, n int64)
	walk = func(level int, n int64) {
		lo, hi := n<<level, (n+1)<<level
		switch {
		case hi <= from || lo >= to:
		case from <= lo && hi <= to:
			out = append(out, stored.at(level, n))
		default:
			walk(level-1, 2*n)
			walk(level-1, 2*n+1)
		}
	}
	walk(10, 0)
	return out
}

func TestSliceShowsEveryChange(t *testing.T) {
	r := seeded(6)
	l := newLog(1000)
	root := l.tree.Root()
	honest := l.export(t, some(r, 1000, 0.2))
	if err := replay(honest, 1000, root); err != nil {
		t.Fatal(err)
	}
	for i, st := range honest {
		// change replays the export with step i and the next replaced.
		change := func(what string, with ...step) {
			t.Helper()
			rest := honest[min(i+2, len(honest)):]
			if err := replay(slices.Concat(honest[:i], with, rest), 1000, root); err == nil {
				t.Errorf("step %d of %d: %s, and the slice holds", i, len(honest), what)
			}
		}
		var following []step
		if i+1 < len(honest) {
			following = honest[i+1 : i+2]
		}
		change("missing", following...)
		if st.hashes == nil {
			forged := st
			forged.leaf = flipped(st.leaf, r.IntN(256))
			change("a leaf with one bit changed", append([]step{forged}, following...)...)
			forged.leaf = merkle.LeafHash([]byte("edited"))
			change("another record", append([]step{forged}, following...)...)
			change("given twice", append([]step{st, st}, following...)...)
		}
		for k := range st.hashes {
			forged := st
			forged.hashes = slices.Clone(st.hashes)
			forged.hashes[k] = flipped(st.hashes[k], r.IntN(256))
			change("a gap hash with one bit changed", append([]step{forged}, following...)...)
		}
		if len(following) == 1 {
			change("the next two exchanged", following[0], st)
			change("the next two hashes exchanged",
				step{st.from, st.to, following[0].leaf, following[0].hashes},
				step{following[0].from, following[0].to, st.leaf, st.hashes})
		}
		cut := honest[:i]
		if err := replay(cut, 1000, root); !errors.Is(err, merkle.ErrProof) {
			t.Errorf("cut before step %d of %d: %v", i, len(honest), err)
		}
	}
	// A leaf that is hidden in a gap still proves the rest: the slice says where
	// the shown leaves stand, not that all of a kind are shown.
	if err := replay(l.export(t, []int64{7}), 1000, root); err != nil {
		t.Error(err)
	}
}

func TestSliceNamesThePositionItExpected(t *testing.T) {
	h := merkle.LeafHash(nil)
	for reason, c := range map[string]struct {
		feed func(*merkle.Slice) error
		want string
	}{
		"a leaf left out":             {func(s *merkle.Slice) error { return s.Leaf(6, h) }, "expected position 5, got 6"},
		"a leaf again":                {func(s *merkle.Slice) error { return s.Leaf(4, h) }, "expected position 5, got 4"},
		"a gap that starts late":      {func(s *merkle.Slice) error { return s.Gap(6, 7, []merkle.Hash{h}) }, "expected position 5, got 6"},
		"a gap that covers old leaf":  {func(s *merkle.Slice) error { return s.Gap(4, 6, []merkle.Hash{h}) }, "expected position 5, got 4"},
		"a gap of nothing":            {func(s *merkle.Slice) error { return s.Gap(5, 5, nil) }, "cannot end at 5"},
		"a gap that runs backwards":   {func(s *merkle.Slice) error { return s.Gap(5, 3, nil) }, "cannot end at 3"},
		"a gap beyond any tree":       {func(s *merkle.Slice) error { return s.Gap(5, 1<<63-1, nil) }, "cannot end at"},
		"a gap with a hash too few":   {func(s *merkle.Slice) error { return s.Gap(5, 8, []merkle.Hash{h}) }, "expected 2 hashes, got 1"},
		"a gap with a hash too many":  {func(s *merkle.Slice) error { return s.Gap(5, 6, []merkle.Hash{h, h}) }, "expected 1 hashes, got 2"},
		"an end before the log's end": {func(s *merkle.Slice) error { return s.Verify(6, h) }, "ends at position 5 and the tree at 6"},
	} {
		var s merkle.Slice
		for i := range int64(5) {
			if err := s.Leaf(i, h); err != nil {
				t.Fatal(err)
			}
		}
		_, before := s.Root()
		if err := c.feed(&s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", reason, err, c.want)
		}
		if size, root := s.Root(); size != 5 || root != before {
			t.Errorf("%s: the refused step was taken", reason)
		}
	}
	var full merkle.Slice
	if err := full.Gap(0, merkle.MaxSize, []merkle.Hash{h}); err != nil {
		t.Fatal(err)
	}
	if err := full.Leaf(merkle.MaxSize, h); err == nil {
		t.Error("a leaf beyond the largest tree was taken")
	}
}

func BenchmarkSlice(b *testing.B) {
	leaf := merkle.LeafHash(nil)
	b.Run("Leaf", func(b *testing.B) {
		var s merkle.Slice
		b.ReportAllocs()
		for i := int64(0); b.Loop(); i++ {
			if err := s.Leaf(i, leaf); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Gap of 1000 and Leaf", func(b *testing.B) {
		var s merkle.Slice
		hashes := slices.Repeat([]merkle.Hash{leaf}, 64)
		b.ReportAllocs()
		for b.Loop() {
			at, _ := s.Root()
			if err := s.Gap(at, at+1000, hashes[:covering(at, at+1000)]); err != nil {
				b.Fatal(err)
			}
			if err := s.Leaf(at+1000, leaf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// covering counts the subtrees of a gap, as a writer of an export would not need
// to.
func covering(from, to int64) (n int) {
	for from < to {
		k := int64(1)
		for from&k == 0 && from+2*k <= to {
			k *= 2
		}
		from += k
		n++
	}
	return n
}

func ExampleSlice() {
	l := newLog(1000)
	gap := func(from, to int64) []merkle.Hash {
		hashes, err := l.prover().Gap(context.Background(), from, to)
		if err != nil {
			panic(err)
		}
		return hashes
	}
	// An export of events 10 and 11 holds two records and these two gaps.
	before, after := gap(0, 10), gap(12, 1000)

	var s merkle.Slice
	for _, err := range []error{
		s.Gap(0, 10, before),
		s.Leaf(10, merkle.LeafHash([]byte("event 10"))),
		s.Leaf(11, merkle.LeafHash([]byte("event 11"))),
		s.Gap(12, 1000, after),
		s.Verify(1000, l.tree.Root()), // size and root of an opened checkpoint
	} {
		fmt.Println(err)
	}
	// Output:
	// <nil>
	// <nil>
	// <nil>
	// <nil>
	// <nil>
}
