package merkle_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"trakr/internal/proof/merkle"
)

func TestEveryInclusionProofIsTlogsAndHolds(t *testing.T) {
	whole := newLog(66_000)
	stored := whole.naive(t)
	proved := 0
	for _, size := range []int{1, 2, 3, 7, 8, 255, 256, 257, 700, 65_535, 65_536, 65_537, 66_000} {
		root := whole.at(size)
		// One Prover for all leaves: what it keeps must not change an answer.
		p := merkle.NewProver(must[*merkle.Tree](t)(merkle.Restore(t.Context(), whole, int64(size), root)), whole)
		step := max(1, size/701)
		for i := 0; i < size; i += step {
			proof := must[[]merkle.Hash](t)(p.Inclusion(t.Context(), int64(i)))
			want := must[tlog.RecordProof](t)(tlog.ProveRecord(int64(size), int64(i), stored))
			if !slices.Equal(proof, want) {
				t.Fatalf("leaf %d of %d: not the audit path tlog has", i, size)
			}
			if err := merkle.VerifyInclusion(proof, int64(size), root, int64(i), whole.leaves[i]); err != nil {
				t.Fatal(err)
			}
			proved++
		}
		last := int64(size - 1)
		one := must[[]merkle.Hash](t)(merkle.InclusionProof(t.Context(), whole, int64(size), root, last))
		if err := merkle.VerifyInclusion(one, int64(size), root, last, whole.leaves[last]); err != nil {
			t.Error(err)
		}
		for _, index := range []int64{-1, int64(size)} {
			if _, err := p.Inclusion(t.Context(), index); err == nil || !strings.HasPrefix(err.Error(), "no leaf") {
				t.Errorf("leaf %d of %d: %v", index, size, err)
			}
			if err := merkle.VerifyInclusion(nil, int64(size), root, index, root); !errors.Is(err, merkle.ErrProof) {
				t.Errorf("leaf %d of %d was verified: %v", index, size, err)
			}
		}
	}
	if proved < 3000 {
		t.Errorf("only %d proofs", proved)
	}
}

func TestEveryConsistencyProofIsTlogsAndHolds(t *testing.T) {
	l := newLog(0)
	roots := []merkle.Hash{l.tree.Root()}
	for len(l.leaves) < 600 {
		l.grow(1)
		roots = append(roots, l.tree.Root())
	}
	stored := l.naive(t)
	for _, size := range []int{1, 2, 3, 7, 8, 64, 255, 256, 257, 600} {
		p := merkle.NewProver(must[*merkle.Tree](t)(merkle.Restore(t.Context(), l, int64(size), roots[size])), l)
		for old := range size + 1 {
			proof := must[[]merkle.Hash](t)(p.Consistency(t.Context(), int64(old)))
			if old > 0 {
				if want := must[tlog.TreeProof](t)(tlog.ProveTree(int64(size), int64(old), stored)); !slices.Equal(proof, want) {
					t.Fatalf("%d in %d: not the proof tlog has", old, size)
				}
			}
			if err := merkle.VerifyConsistency(proof, int64(old), roots[old], int64(size), roots[size]); err != nil {
				t.Fatal(err)
			}
			if err := merkle.VerifyConsistency(proof, int64(old), flipped(roots[old], 7), int64(size), roots[size]); !errors.Is(err, merkle.ErrProof) {
				t.Fatalf("%d in %d: another old root was verified: %v", old, size, err)
			}
		}
		for _, old := range []int64{-1, int64(size) + 1} {
			if _, err := p.Consistency(t.Context(), old); err == nil || !strings.Contains(err.Error(), "had never") {
				t.Errorf("a tree of %d leaves that began with %d: %v", size, old, err)
			}
		}
		one := must[[]merkle.Hash](t)(merkle.ConsistencyProof(t.Context(), l, 1, int64(size), roots[size]))
		if err := merkle.VerifyConsistency(one, 1, roots[1], int64(size), roots[size]); err != nil {
			t.Error(err)
		}
	}
}

func TestEmptyAndImpossibleTrees(t *testing.T) {
	empty, some := merkle.NewTree().Root(), merkle.LeafHash(nil)
	for reason, c := range map[string]struct {
		proof            []merkle.Hash
		oldSize, newSize int64
		oldRoot, newRoot merkle.Hash
		holds            bool
	}{
		"every tree begins with the empty one":          {nil, 0, 1, empty, some, true},
		"and so does the empty one":                     {nil, 0, 0, empty, empty, true},
		"the empty tree has one root":                   {nil, 0, 1, some, some, false},
		"also as the new one":                           {nil, 0, 0, empty, some, false},
		"there is nothing to prove about it":            {[]merkle.Hash{some}, 0, 1, empty, some, false},
		"a tree begins with itself":                     {nil, 1, 1, some, some, true},
		"which needs no proof":                          {[]merkle.Hash{some}, 1, 1, some, some, false},
		"a log does not shrink":                         {nil, 1, 0, some, empty, false},
		"a size is not negative":                        {nil, -1, 1, some, some, false},
		"tlog does not return for sizes above 2^62":     {[]merkle.Hash{some}, 1, 1<<63 - 1, some, some, false},
		"and so everything above MaxSize is refused":    {nil, merkle.MaxSize + 1, merkle.MaxSize + 1, some, some, false},
		"the largest tree begins with itself as others": {nil, merkle.MaxSize, merkle.MaxSize, some, some, true},
	} {
		err := merkle.VerifyConsistency(c.proof, c.oldSize, c.oldRoot, c.newSize, c.newRoot)
		if c.holds && err != nil || !c.holds && !errors.Is(err, merkle.ErrProof) {
			t.Errorf("%s: %v", reason, err)
		}
	}
	if err := merkle.VerifyInclusion([]merkle.Hash{some}, 1<<63-1, some, 1, some); !errors.Is(err, merkle.ErrProof) {
		t.Errorf("inclusion in an impossible tree: %v", err)
	}
	for _, size := range []int64{-1, merkle.MaxSize + 1} {
		if _, err := merkle.Restore(t.Context(), newLog(0), size, empty); err == nil {
			t.Errorf("a tree of %d leaves was restored", size)
		}
	}
	if tree, err := merkle.Restore(t.Context(), newLog(0), 0, empty); err != nil || tree.Size() != 0 {
		t.Errorf("restoring the empty tree: %v", err)
	}
	if _, err := merkle.Restore(t.Context(), newLog(0), 0, some); !errors.Is(err, merkle.ErrInconsistent) {
		t.Errorf("restoring the empty tree with a root it never had: %v", err)
	}
}

func TestNoProofSurvivesAFlippedBit(t *testing.T) {
	const bits = 8 * tlog.HashSize
	for _, size := range []int{1, 2, 5, 8, 13} {
		l := newLog(size)
		n, root := int64(size), l.tree.Root()
		refused := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, merkle.ErrProof) {
				t.Errorf("size %d: %s: got %v, want ErrProof", size, what, err)
			}
		}
		for i := range size {
			leaf := l.leaves[i]
			path := must[[]merkle.Hash](t)(l.prover().Inclusion(t.Context(), int64(i)))
			for bit := range bits {
				refused("bit in the root", merkle.VerifyInclusion(path, n, flipped(root, bit), int64(i), leaf))
				refused("bit in the leaf", merkle.VerifyInclusion(path, n, root, int64(i), flipped(leaf, bit)))
			}
			everyFlip(path, func(p []merkle.Hash) {
				refused("bit in the path", merkle.VerifyInclusion(p, n, root, int64(i), leaf))
			})
			for other := range size {
				if other != i {
					refused("another position", merkle.VerifyInclusion(path, n, root, int64(other), leaf))
				}
			}
			refused("a longer path", merkle.VerifyInclusion(append(slices.Clone(path), leaf), n, root, int64(i), leaf))
			if len(path) > 0 {
				refused("a shorter path", merkle.VerifyInclusion(path[1:], n, root, int64(i), leaf))
			}

			old, oldRoot := int64(i+1), l.at(i+1)
			proof := must[[]merkle.Hash](t)(l.prover().Consistency(t.Context(), old))
			for bit := range bits {
				refused("bit in the new root", merkle.VerifyConsistency(proof, old, oldRoot, n, flipped(root, bit)))
				refused("bit in the old root", merkle.VerifyConsistency(proof, old, flipped(oldRoot, bit), n, root))
			}
			everyFlip(proof, func(p []merkle.Hash) {
				refused("bit in the proof", merkle.VerifyConsistency(p, old, oldRoot, n, root))
			})
		}
	}
}

// everyFlip calls f with each proof that differs from p in one bit.
func everyFlip(p []merkle.Hash, f func([]merkle.Hash)) {
	for i := range p {
		for bit := range 8 * tlog.HashSize {
			changed := slices.Clone(p)
			changed[i] = flipped(p[i], bit)
			f(changed)
		}
	}
}

func TestOneFlippedBitInTheStoreIsNeverProven(t *testing.T) {
	// 66,000 leaves: full tiles on two levels, partial ones on three.
	l := newLog(66_000)
	root, size := l.tree.Root(), l.tree.Size()
	r := seeded(3)
	const index, gapFrom, gapTo = 40_000, 3, 65_990
	path := must[[]merkle.Hash](t)(l.prover().Inclusion(t.Context(), index))
	proof := must[[]merkle.Hash](t)(l.prover().Consistency(t.Context(), index))
	gap := must[[]merkle.Hash](t)(l.prover().Gap(t.Context(), gapFrom, gapTo))

	// ask returns how many of the questions that read the damaged place noticed.
	ask := func(what string) (noticed int) {
		for kind, q := range map[string]struct {
			right []merkle.Hash
			get   func() ([]merkle.Hash, error)
		}{
			"inclusion":   {path, func() ([]merkle.Hash, error) { return merkle.InclusionProof(t.Context(), l, size, root, index) }},
			"consistency": {proof, func() ([]merkle.Hash, error) { return merkle.ConsistencyProof(t.Context(), l, index, size, root) }},
			"gap": {gap, func() ([]merkle.Hash, error) {
				tree, err := merkle.Restore(t.Context(), l, size, root)
				if err != nil {
					return nil, err
				}
				return merkle.NewProver(tree, l).Gap(t.Context(), gapFrom, gapTo)
			}},
			// A Prover whose edge was kept in memory sees only what it reads.
			"kept edge": {path, func() ([]merkle.Hash, error) { return l.prover().Inclusion(t.Context(), index) }},
		} {
			got, err := q.get()
			switch {
			case errors.Is(err, merkle.ErrInconsistent):
				noticed++
			case err != nil:
				t.Errorf("%s, %s: %v", what, kind, err)
			case !slices.Equal(got, q.right):
				t.Errorf("%s, %s: a wrong proof", what, kind)
			}
		}
		return noticed
	}
	if n := ask("nothing changed"); n != 0 {
		t.Fatalf("%d of 4 fail on an intact store", n)
	}
	for where, c := range map[string]struct {
		at      place
		noticed int // of the four questions
	}{
		"the leaf's own tile":           {place{0, index / 256}, 3}, // the gap covers it with one hash of level 1
		"the gap's first tile":          {place{0, 0}, 1},
		"the tile above the leaf":       {place{1, 0}, 4},
		"a tile under the edge":         {place{0, 256}, 3}, // its root is a hash of the edge
		"a tile that no question needs": {place{0, 17}, 0},
		"the gap's last full leaf tile": {place{0, 255}, 0}, // covered by the tile above
	} {
		tile := l.tiles[c.at]
		for range 4 {
			bit := r.IntN(8 * len(tile))
			tile[bit/8] ^= 1 << (bit % 8)
			if n := ask(where); n != c.noticed {
				t.Errorf("%s, bit %d: noticed by %d of 4 questions, want %d", where, bit, n, c.noticed)
			}
			tile[bit/8] ^= 1 << (bit % 8)
		}
	}
	edge := l.leaves[65_792:]
	for range 20 {
		i, bit := r.IntN(len(edge)), r.IntN(256)
		edge[i] = flipped(edge[i], bit)
		if n := ask("a leaf at the edge"); n != 3 {
			t.Errorf("a changed leaf at the edge was noticed by %d of the 3 that read it", n)
		}
		edge[i] = flipped(edge[i], bit)
	}
}

// broken is a Reader that answers wrongly or not at all.
type broken struct {
	merkle.Reader
	tiles, leaves func([]byte, error) ([]byte, error)
}

func (b broken) Tiles(ctx context.Context, level int, from, to int64) ([]byte, error) {
	return b.tiles(b.Reader.Tiles(ctx, level, from, to))
}

func (b broken) Leaves(ctx context.Context, from, to int64) ([]byte, error) {
	return b.leaves(b.Reader.Leaves(ctx, from, to))
}

func TestReaderThatAnswersBadly(t *testing.T) {
	l := newLog(66_000)
	root, size := l.tree.Root(), l.tree.Size()
	down := errors.New("the database does not answer")
	whole := func(b []byte, err error) ([]byte, error) { return b, err }
	for reason, c := range map[string]struct {
		answer func([]byte, error) ([]byte, error)
		want   error
	}{
		"a byte short":      {func(b []byte, err error) ([]byte, error) { return b[:len(b)-1], err }, merkle.ErrInconsistent},
		"a hash short":      {func(b []byte, err error) ([]byte, error) { return b[32:], err }, merkle.ErrInconsistent},
		"a hash too many":   {func(b []byte, err error) ([]byte, error) { return append(b, b[:32]...), err }, merkle.ErrInconsistent},
		"nothing":           {func([]byte, error) ([]byte, error) { return nil, nil }, merkle.ErrInconsistent},
		"zeros":             {func(b []byte, err error) ([]byte, error) { return make([]byte, len(b)), err }, merkle.ErrInconsistent},
		"two hashes change": {func(b []byte, err error) ([]byte, error) { return slices.Concat(b[32:64], b[:32], b[64:]), err }, merkle.ErrInconsistent},
		"an error":          {func([]byte, error) ([]byte, error) { return nil, down }, down},
	} {
		for where, r := range map[string]broken{
			"tiles":  {l, c.answer, whole},
			"leaves": {l, whole, c.answer},
		} {
			if _, err := merkle.InclusionProof(t.Context(), r, size, root, 0); !errors.Is(err, c.want) {
				t.Errorf("%s in %s: got %v, want %v", reason, where, err, c.want)
			}
		}
		p := merkle.NewProver(l.tree, broken{l, c.answer, whole})
		if _, err := p.Inclusion(t.Context(), 0); !errors.Is(err, c.want) {
			t.Errorf("%s, edge in memory: got %v, want %v", reason, err, c.want)
		}
		if _, err := p.Gap(t.Context(), 1, 9); !errors.Is(err, c.want) {
			t.Errorf("%s, gap: got %v, want %v", reason, err, c.want)
		}
	}
	// The right tile of another place: intact bytes, wrong answer.
	other := bytes.Clone(l.tiles[place{0, 1}])
	p := merkle.NewProver(l.tree, broken{l, func(b []byte, err error) ([]byte, error) {
		if bytes.Equal(b, l.tiles[place{0, 0}]) {
			return other, err
		}
		return b, err
	}, whole})
	if _, err := p.Inclusion(t.Context(), 5); !errors.Is(err, merkle.ErrInconsistent) {
		t.Errorf("another tile's bytes: %v", err)
	}
	// A failed read must not be remembered as an answer.
	if _, err := p.Inclusion(t.Context(), 5); !errors.Is(err, merkle.ErrInconsistent) {
		t.Errorf("another tile's bytes, asked again: %v", err)
	}
}

func TestProverKeepsToTheTreeItWasMadeFor(t *testing.T) {
	l := newLog(1000)
	root, p := l.tree.Root(), l.prover()
	l.grow(70_000)
	for _, i := range []int64{0, 767, 768, 999} {
		path := must[[]merkle.Hash](t)(p.Inclusion(t.Context(), i))
		if err := merkle.VerifyInclusion(path, 1000, root, i, l.leaves[i]); err != nil {
			t.Error(err)
		}
	}
}

func TestGapsLeftToRightReadEachTileOnce(t *testing.T) {
	l := newLog(140_000)
	p, r := l.prover(), seeded(4)
	clear(l.reads)
	gaps := 0
	for from := int64(0); from < 139_000; gaps++ {
		to := from + 1 + r.Int64N(60)
		must[[]merkle.Hash](t)(p.Gap(t.Context(), from, to))
		from = to + 1
	}
	if len(l.reads) < 500 || gaps < 4000 {
		t.Fatalf("%d gaps read %d tiles: not the walk this test is about", gaps, len(l.reads))
	}
	for at, n := range l.reads {
		if n > 1 {
			t.Errorf("tile %d of level %d was read %d times", at.n, at.level, n)
		}
	}
}

func BenchmarkInclusion(b *testing.B) {
	l := newLog(140_000)
	for name, index := range map[string]func(int) int64{
		"neighbours": func(i int) int64 { return int64(i) % 140_000 },
		"scattered":  func(i int) int64 { return int64(i) * 50_021 % 140_000 },
	} {
		b.Run(name, func(b *testing.B) {
			p := l.prover()
			for i := 0; b.Loop(); i++ {
				must[[]merkle.Hash](b)(p.Inclusion(b.Context(), index(i)))
			}
		})
	}
	b.Run("restored each time", func(b *testing.B) {
		root := l.tree.Root()
		for i := 0; b.Loop(); i++ {
			must[[]merkle.Hash](b)(merkle.InclusionProof(b.Context(), l, 140_000, root, int64(i)%140_000))
		}
	})
}

// BenchmarkGap shows why Prover checks tiles itself: the same gaps through
// tlog.TileHashReader, with every tile at hand.
func BenchmarkGap(b *testing.B) {
	l := newLog(140_000)
	b.Run("Prover", func(b *testing.B) {
		p := l.prover()
		for i := 0; b.Loop(); i++ {
			from := int64(i) * 30 % 139_000
			must[[]merkle.Hash](b)(p.Gap(b.Context(), from, from+29))
		}
	})
	b.Run("tlog", func(b *testing.B) {
		stored := l.naive(b)
		r := tlog.TileHashReader(tlog.Tree{N: 140_000, Hash: l.tree.Root()}, &allTiles{b, stored, map[tlog.Tile][]byte{}})
		for i := 0; b.Loop(); i++ {
			from := int64(i) * 30 % 139_000
			must[[]tlog.Hash](b)(r.ReadHashes([]int64{tlog.StoredHashIndex(0, from), tlog.StoredHashIndex(0, from+28)}))
		}
	})
}

type allTiles struct {
	b      *testing.B
	stored naive
	ready  map[tlog.Tile][]byte
}

func (a *allTiles) Height() int                     { return 8 }
func (a *allTiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (a *allTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, tile := range tiles {
		if a.ready[tile] == nil {
			a.ready[tile] = must[[]byte](a.b)(tlog.ReadTileData(tile, a.stored))
		}
		out[i] = a.ready[tile]
	}
	return out, nil
}

func ExampleProver() {
	ctx := context.Background()
	store := newLog(1000) // a Reader; its tree's root is what a checkpoint signs
	size, root := store.tree.Size(), store.tree.Root()

	tree, err := merkle.Restore(ctx, store, size, root)
	if err != nil {
		fmt.Println(err)
		return
	}
	path, err := merkle.NewProver(tree, store).Inclusion(ctx, 42)
	if err != nil {
		fmt.Println(err)
		return
	}
	// Somebody else, with the record, the proof and a checkpoint.
	leaf := merkle.LeafHash([]byte("event 42"))
	fmt.Println(merkle.VerifyInclusion(path, size, root, 42, leaf))
	forged := merkle.LeafHash([]byte("event 42, edited"))
	fmt.Println(merkle.VerifyInclusion(path, size, root, 42, forged))
	// Output:
	// <nil>
	// leaf 42 in the tree of 1000 leaves: the proof is not valid
}
