package merkle

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// A Prover answers questions about one tree from what a Reader has stored. Each
// tile read is checked against its parent up to the tree's root before a hash of
// it is used, and the last ones are kept, so that questions asked left to right
// read each tile about once. tlog.TileHashReader makes the same check but reads
// and hashes the whole right edge again for each question.
//
// A Prover is not safe for concurrent use. It costs at most 128 KiB for the edge
// and 512 KiB for tiles.
type Prover struct {
	r    Reader
	size int64
	edge [tileLevels]*pyramid // the tiles that are not full
	kept []keptTile           // full tiles already checked, last used first
}

type keptTile struct {
	level int
	n     int64
	*pyramid
}

// keptTiles is enough for the tiles on both sides of a gap at every level.
const keptTiles = 32

// NewProver returns a Prover for the tree as it is now. Later appends to t do
// not change its answers.
func NewProver(t *Tree, r Reader) *Prover {
	p := &Prover{r: r, size: t.Size()}
	for l, data := range t.edge {
		p.edge[l] = newPyramid(data)
	}
	return p
}

// Inclusion returns the Merkle audit path (RFC 6962, section 2.1.1) of the leaf
// at index.
func (p *Prover) Inclusion(ctx context.Context, index int64) ([]Hash, error) {
	if index < 0 || index >= p.size {
		return nil, fmt.Errorf("no leaf %d in a tree of %d leaves", index, p.size)
	}
	proof, err := tlog.ProveRecord(p.size, index, p.reader(ctx))
	if err != nil {
		return nil, fmt.Errorf("proving leaf %d: %w", index, err)
	}
	return proof, nil
}

// Consistency returns the Merkle consistency proof (RFC 6962, section 2.1.2)
// that the tree begins with its first oldSize leaves. RFC 6962 defines none for
// an empty old tree; every tree begins with it, and the proof is empty.
func (p *Prover) Consistency(ctx context.Context, oldSize int64) ([]Hash, error) {
	if oldSize < 0 || oldSize > p.size {
		return nil, fmt.Errorf("the tree of %d leaves had never a size of %d", p.size, oldSize)
	}
	if oldSize == 0 {
		return []Hash{}, nil
	}
	proof, err := tlog.ProveTree(p.size, oldSize, p.reader(ctx))
	if err != nil {
		return nil, fmt.Errorf("proving the first %d leaves: %w", oldSize, err)
	}
	return proof, nil
}

// Gap returns the hashes that represent the leaves [from, to) in a Slice: the
// roots of the fewest complete subtrees that cover them, left to right.
func (p *Prover) Gap(ctx context.Context, from, to int64) ([]Hash, error) {
	if from < 0 || from >= to || to > p.size {
		return nil, fmt.Errorf("no gap [%d, %d) in a tree of %d leaves", from, to, p.size)
	}
	parts := subtrees(from, to)
	hashes := make([]Hash, len(parts))
	for i, s := range parts {
		h, err := p.hash(ctx, s.level, s.n)
		if err != nil {
			return nil, fmt.Errorf("covering the gap [%d, %d): %w", from, to, err)
		}
		hashes[i] = h
	}
	return hashes, nil
}

// reader shows the tree to tlog, whose interface carries no context.
func (p *Prover) reader(ctx context.Context) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]Hash, error) {
		hashes := make([]Hash, len(indexes))
		for i, x := range indexes {
			level, n := tlog.SplitStoredHashIndex(x)
			h, err := p.hash(ctx, level, n)
			if err != nil {
				return nil, err
			}
			hashes[i] = h
		}
		return hashes, nil
	})
}

// hash returns the n-th hash at a level of the tree. Its subtree must be complete
// in this tree.
func (p *Prover) hash(ctx context.Context, level int, n int64) (Hash, error) {
	l, j := level/tileHeight, level%tileHeight
	perTile := tileHeight - j // binary logarithm of the hashes of this level in a tile
	tile, err := p.tile(ctx, l, n>>perTile)
	if err != nil {
		return Hash{}, err
	}
	return tile[j][n&(1<<perTile-1)], nil
}

// tile returns a tile whose hashes are proven to be in the tree.
func (p *Prover) tile(ctx context.Context, level int, n int64) (*pyramid, error) {
	if n == p.size>>(tileHeight*(level+1)) {
		return p.edge[level], nil
	}
	if i := slices.IndexFunc(p.kept, func(k keptTile) bool { return k.level == level && k.n == n }); i >= 0 {
		found := p.kept[i]
		copy(p.kept[1:], p.kept[:i])
		p.kept[0] = found
		return found.pyramid, nil
	}
	// The parent is proven first. The recursion ends at the edge, which NewProver
	// took from a Tree.
	want, err := p.hash(ctx, tileHeight*(level+1), n)
	if err != nil {
		return nil, err
	}
	data, err := readTiles(ctx, p.r, level, n, n+1)
	if err != nil {
		return nil, err
	}
	tile := newPyramid(data)
	if tile.root() != want {
		return nil, fmt.Errorf("tile %d of level %d: %w", n, level, ErrInconsistent)
	}
	if len(p.kept) == keptTiles {
		p.kept = p.kept[:keptTiles-1]
	}
	p.kept = slices.Insert(p.kept, 0, keptTile{level, n, tile})
	return tile, nil
}

// InclusionProof returns one Prover.Inclusion of the tree a checkpoint states.
// For several of one tree, Restore it once and keep the Prover.
func InclusionProof(ctx context.Context, r Reader, size int64, root Hash, index int64) ([]Hash, error) {
	t, err := Restore(ctx, r, size, root)
	if err != nil {
		return nil, err
	}
	return NewProver(t, r).Inclusion(ctx, index)
}

// ConsistencyProof returns one Prover.Consistency of the tree a checkpoint
// states.
func ConsistencyProof(ctx context.Context, r Reader, oldSize, newSize int64, newRoot Hash) ([]Hash, error) {
	t, err := Restore(ctx, r, newSize, newRoot)
	if err != nil {
		return nil, err
	}
	return NewProver(t, r).Consistency(ctx, oldSize)
}

// ErrProof means that a proof does not show what it should. Nothing is known
// about the log then but that this proof is worthless.
var ErrProof = errors.New("the proof is not valid")

// VerifyInclusion checks that leaf is at index in the tree of the given size and
// root (RFC 6962, section 2.1.1). It returns nil or an ErrProof.
func VerifyInclusion(proof []Hash, size int64, root Hash, index int64, leaf Hash) error {
	if size < 0 || size > MaxSize || index < 0 || index >= size {
		return fmt.Errorf("no leaf %d in a tree of %d leaves: %w", index, size, ErrProof)
	}
	if tlog.CheckRecord(proof, size, root, index, leaf) != nil {
		return fmt.Errorf("leaf %d in the tree of %d leaves: %w", index, size, ErrProof)
	}
	return nil
}

// VerifyConsistency checks that the new tree begins with the old one (RFC 6962,
// section 2.1.2). It returns nil or an ErrProof. Every tree begins with the empty
// tree, whose root and proof are fixed; nothing is learnt about the new root then.
func VerifyConsistency(proof []Hash, oldSize int64, oldRoot Hash, newSize int64, newRoot Hash) error {
	if oldSize < 0 || oldSize > newSize || newSize > MaxSize {
		return fmt.Errorf("a tree of %d leaves cannot begin with one of %d: %w", newSize, oldSize, ErrProof)
	}
	var valid bool
	switch {
	case newSize == 0:
		valid = len(proof) == 0 && oldRoot == emptyRoot && newRoot == emptyRoot
	case oldSize == 0:
		valid = len(proof) == 0 && oldRoot == emptyRoot
	default:
		valid = tlog.CheckTree(proof, newSize, newRoot, oldSize, oldRoot) == nil
	}
	if !valid {
		return fmt.Errorf("the tree of %d leaves as the beginning of that of %d: %w", oldSize, newSize, ErrProof)
	}
	return nil
}
