package merkle_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"trakr/internal/proof/merkle"
)

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// seeded returns the same numbers in each run, so that a failure can be
// repeated.
func seeded(n uint64) *rand.Rand { return rand.New(rand.NewPCG(n, 6962)) }

// flipped returns h with one bit changed.
func flipped(h merkle.Hash, bit int) merkle.Hash {
	h[bit/8] ^= 1 << (bit % 8)
	return h
}

// log is a whole log as a store keeps it, with the tree that wrote it and the
// reads counted.
type log struct {
	tree   *merkle.Tree
	leaves []merkle.Hash
	tiles  map[place][]byte
	reads  map[place]int
}

type place struct {
	level int
	n     int64
}

// newLog returns a log of size leaves, which are all different.
func newLog(size int) *log {
	l := &log{tree: merkle.NewTree(), tiles: map[place][]byte{}, reads: map[place]int{}}
	l.grow(size)
	return l
}

func (l *log) grow(n int) {
	for range n {
		leaf := merkle.LeafHash(fmt.Appendf(nil, "event %d", len(l.leaves)))
		l.leaves = append(l.leaves, leaf)
		for _, tile := range l.tree.Append(leaf) {
			l.tiles[place{tile.Level, tile.N}] = tile.Data
		}
	}
}

func (l *log) Tiles(_ context.Context, level int, from, to int64) ([]byte, error) {
	var data []byte
	for n := from; n < to; n++ {
		l.reads[place{level, n}]++
		tile, ok := l.tiles[place{level, n}]
		if !ok {
			return nil, fmt.Errorf("tile %d of level %d was never stored", n, level)
		}
		data = append(data, tile...)
	}
	return data, nil
}

func (l *log) Leaves(_ context.Context, from, to int64) ([]byte, error) {
	if to-from > 255 {
		return nil, fmt.Errorf("%d leaves asked for at once", to-from)
	}
	var data []byte
	for _, h := range l.leaves[from:to] {
		data = append(data, h[:]...)
	}
	return data, nil
}

func (l *log) prover() *merkle.Prover { return merkle.NewProver(l.tree, l) }

// at returns the root the log had at an earlier size, by its own leaves.
func (l *log) at(size int) merkle.Hash {
	t := merkle.NewTree()
	t.Append(l.leaves[:size]...)
	return t.Root()
}

// naive is tlog's own way to keep a tree: every hash of it, by storage index.
// It shares no code with the package under test.
type naive []tlog.Hash

func (s naive) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = s[x]
	}
	return out, nil
}

func (s naive) at(level int, n int64) tlog.Hash { return s[tlog.StoredHashIndex(level, n)] }

func (s naive) append(t testing.TB, n int, leaf tlog.Hash) naive {
	return append(s, must[[]tlog.Hash](t)(tlog.StoredHashesForRecordHash(int64(n), leaf, s))...)
}

func (l *log) naive(t testing.TB) naive {
	var s naive
	for i, leaf := range l.leaves {
		s = s.append(t, i, leaf)
	}
	return s
}

// sparse is a log too large to store: every leaf is the same but one. Its hashes
// are computed when they are asked for, by position, at any size.
type sparse struct {
	marked int64
	plain  [64]merkle.Hash // by level
	path   [64]merkle.Hash // the subtrees that hold the marked leaf
}

func newSparse(marked int64) *sparse {
	s := &sparse{marked: marked}
	s.plain[0], s.path[0] = merkle.LeafHash([]byte("plain")), merkle.LeafHash([]byte("marked"))
	for l := 1; l < len(s.plain); l++ {
		s.plain[l] = tlog.NodeHash(s.plain[l-1], s.plain[l-1])
		if marked>>(l-1)&1 == 0 {
			s.path[l] = tlog.NodeHash(s.path[l-1], s.plain[l-1])
		} else {
			s.path[l] = tlog.NodeHash(s.plain[l-1], s.path[l-1])
		}
	}
	return s
}

func (s *sparse) hash(level int, n int64) merkle.Hash {
	if n == s.marked>>level {
		return s.path[level]
	}
	return s.plain[level]
}

func (s *sparse) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = s.hash(tlog.SplitStoredHashIndex(x))
	}
	return out, nil
}

func (s *sparse) Tiles(_ context.Context, level int, from, to int64) ([]byte, error) {
	return s.row(8*level, from*256, to*256), nil
}

func (s *sparse) Leaves(_ context.Context, from, to int64) ([]byte, error) {
	return s.row(0, from, to), nil
}

func (s *sparse) row(level int, from, to int64) []byte {
	var data []byte
	for n := from; n < to; n++ {
		h := s.hash(level, n)
		data = append(data, h[:]...)
	}
	return data
}
