package merkle

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Hash is a SHA-256 hash of a leaf, of an inner node or of a whole tree. Its
// String is standard base64.
type Hash = tlog.Hash

// LeafHash returns the leaf of a record, SHA-256(0x00 || record) (RFC 6962,
// section 2.1). The prefix keeps a record from passing for an inner node.
func LeafHash(record []byte) Hash { return tlog.RecordHash(record) }

const (
	// TileWidth is the number of hashes in a full tile, 2^8, as in C2SP
	// tlog-tiles.
	TileWidth = 1 << tileHeight

	// TileSize is the length of a full tile in bytes.
	TileSize = TileWidth * tlog.HashSize

	// MaxSize is the largest number of leaves of a tree. RFC 6962 allows 2^64-1,
	// but tlog counts in int64 and does not return for a size above 2^62, which a
	// forged checkpoint could name. At a million leaves a second it lasts 36,000
	// years.
	MaxSize int64 = 1 << maxLevel

	tileHeight = 8
	tileLevels = maxLevel/tileHeight + 1
)

// A Tile is a full tile of height 8, as tlog.Tile{H: 8, L: Level, N: N, W: 256}
// describes it: hashes N*256 to N*256+255 of those at level 8*Level of the tree.
// At Level 0 they are leaves; at Level L each is the root of the full tile of
// Level L-1 with its number and covers 256^L leaves. A full tile never
// changes.
type Tile struct {
	Level int
	N     int64
	Data  []byte // TileSize bytes, the hashes one after the other
}

// A Tree is the right edge of a log: all that is needed to append to it and to
// know its root, at most 64 KiB. The zero value is the empty tree. A Tree is not
// safe for concurrent use.
type Tree struct {
	frontier

	// edge[l] holds the hashes of the tile of level l that is not yet full,
	// size>>(8*l) modulo 256 of them.
	edge [tileLevels][]byte
}

// NewTree returns the empty tree.
func NewTree() *Tree { return &Tree{} }

// Size returns the number of leaves.
func (t *Tree) Size() int64 { return t.size }

// Root returns the tree's Merkle Tree Hash (RFC 6962, section 2.1). The root of
// the empty tree is the hash of nothing.
func (t *Tree) Root() Hash { return t.root() }

// Clone returns a copy that shares nothing with t: append to it inside a
// transaction and drop it when the transaction fails.
func (t *Tree) Clone() *Tree {
	c := *t
	for l, data := range t.edge {
		c.edge[l] = slices.Clone(data)
	}
	return &c
}

// Append adds leaves at the end and returns the tiles they completed, which the
// caller owns. They come in the order to insert them: a tile comes after the
// tiles below it, and a tile of one level after its left neighbour.
func (t *Tree) Append(leaves ...Hash) []Tile {
	var full []Tile
	for _, leaf := range leaves {
		t.extend(0, leaf)
		t.add(0, leaf)
		// Every level whose subtree ends here has just got its root, and each
		// eighth of them is the root of a tile.
		for l := 0; bits.TrailingZeros64(uint64(t.size)) >= tileHeight*(l+1); l++ {
			full = append(full, Tile{Level: l, N: t.size>>(tileHeight*(l+1)) - 1, Data: t.edge[l]})
			t.edge[l] = nil
			t.extend(l+1, t.nodes[tileHeight*(l+1)])
		}
	}
	return full
}

func (t *Tree) extend(level int, h Hash) {
	if t.edge[level] == nil {
		t.edge[level] = make([]byte, 0, TileSize)
	}
	t.edge[level] = append(t.edge[level], h[:]...)
}

// A Reader gives back what the log has stored. It is not trusted.
type Reader interface {
	// Tiles returns the full tiles numbered [from, to) of one level, one after
	// the other, TileSize bytes each. At most 255 are asked for at once (2 MiB),
	// and more than one only to rebuild the right edge.
	Tiles(ctx context.Context, level int, from, to int64) ([]byte, error)

	// Leaves returns the leaf hashes of positions [from, to), one after the
	// other, 32 bytes each. At most 255 are asked for at once.
	Leaves(ctx context.Context, from, to int64) ([]byte, error)
}

// ErrInconsistent means that what a Reader returned does not hash to the root
// asked about: the stored log is not the log that root was taken from.
var ErrInconsistent = errors.New("the stored hashes do not belong to this tree")

// Restore rebuilds the tree that had size leaves and the given root, as a
// checkpoint states them. The log may have grown since. It reads what is
// under the right edge, at most 255 leaves and 255 tiles of each level, and
// returns ErrInconsistent when that does not add up to root.
func Restore(ctx context.Context, r Reader, size int64, root Hash) (*Tree, error) {
	if size < 0 || size > MaxSize {
		return nil, fmt.Errorf("a tree cannot have %d leaves", size)
	}
	t := &Tree{frontier: frontier{size: size}}
	for l := range t.edge {
		end := size >> (tileHeight * l)
		start := end &^ (TileWidth - 1)
		if start == end {
			continue
		}
		data, err := readEdge(ctx, r, l, start, end)
		if err != nil {
			return nil, err
		}
		t.edge[l] = append(make([]byte, 0, TileSize), data...)
		// Bit j of the width is bit 8*l+j of the size, and the last subtree of
		// that level is the one the frontier keeps.
		for j, row := range newPyramid(data) {
			if len(row)&1 == 1 {
				t.nodes[tileHeight*l+j] = row[len(row)-1]
			}
		}
	}
	if t.Root() != root {
		return nil, fmt.Errorf("restoring the tree of %d leaves: %w", size, ErrInconsistent)
	}
	return t, nil
}

// readEdge returns hashes [start, end) of the tile of one level that is not
// full. Above the leaves each is the root of a full tile one level down.
func readEdge(ctx context.Context, r Reader, level int, start, end int64) ([]byte, error) {
	if level == 0 {
		return readLeaves(ctx, r, start, end)
	}
	tiles, err := readTiles(ctx, r, level-1, start, end)
	if err != nil {
		return nil, err
	}
	data := make([]byte, 0, (end-start)*tlog.HashSize)
	for tile := range slices.Chunk(tiles, TileSize) {
		root := newPyramid(tile).root()
		data = append(data, root[:]...)
	}
	return data, nil
}

func readLeaves(ctx context.Context, r Reader, from, to int64) ([]byte, error) {
	data, err := r.Leaves(ctx, from, to)
	if err != nil {
		return nil, fmt.Errorf("reading leaves %d to %d: %w", from, to-1, err)
	}
	if want := (to - from) * tlog.HashSize; int64(len(data)) != want {
		return nil, fmt.Errorf("reading leaves %d to %d: got %d bytes, want %d: %w", from, to-1, len(data), want, ErrInconsistent)
	}
	return data, nil
}

func readTiles(ctx context.Context, r Reader, level int, from, to int64) ([]byte, error) {
	data, err := r.Tiles(ctx, level, from, to)
	if err != nil {
		return nil, fmt.Errorf("reading tiles %d to %d of level %d: %w", from, to-1, level, err)
	}
	if want := (to - from) * TileSize; int64(len(data)) != want {
		return nil, fmt.Errorf("reading tiles %d to %d of level %d: got %d bytes, want %d: %w",
			from, to-1, level, len(data), want, ErrInconsistent)
	}
	return data, nil
}

// A pyramid is a tile, full or not, with the roots of all complete subtrees
// over its hashes: row 0 is the tile, and row j has a hash for each whole 2^j of
// them.
type pyramid [tileHeight + 1][]Hash

func newPyramid(data []byte) *pyramid {
	var p pyramid
	width := len(data) / tlog.HashSize
	p[0] = make([]Hash, 0, 2*width) // the rows above take less than width together
	for h := range slices.Chunk(data, tlog.HashSize) {
		p[0] = append(p[0], Hash(h))
	}
	free := p[0][width:]
	for j := 1; j < len(p); j++ {
		below := p[j-1]
		row := free[: 0 : len(below)/2]
		for i := 0; i+1 < len(below); i += 2 {
			row = append(row, tlog.NodeHash(below[i], below[i+1]))
		}
		p[j], free = row, free[len(row):cap(free)]
	}
	return &p
}

// root returns the hash that represents a full tile one level up.
func (p *pyramid) root() Hash { return p[tileHeight][0] }
