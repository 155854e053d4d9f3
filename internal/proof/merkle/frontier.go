package merkle

import (
	"crypto/sha256"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// frontier is what must be remembered of a tree to make it grow: the roots of
// the complete subtrees it consists of, one for each bit set in its size, the
// largest leftmost (RFC 6962, section 2.1). The zero value is the empty tree.
type frontier struct {
	size int64 // leaves

	// nodes[l] is the root of the newest complete subtree of 2^l leaves. It is
	// valid where bit l of size is set, and for every l whose subtree the last
	// add completed. Elsewhere it is stale.
	nodes [maxLevel + 1]Hash
}

// maxLevel is the level of the root of a tree of MaxSize leaves.
const maxLevel = 60

// add puts a complete subtree of 2^level leaves with root h at the end. The
// size must be a multiple of 2^level.
func (f *frontier) add(level int, h Hash) {
	// The carry of a binary counter: two neighbours of one size become one of
	// twice the size. Over many leaves that is one NodeHash a leaf.
	l := level
	for ; f.size>>l&1 == 1; l++ {
		left := f.nodes[l]
		f.nodes[l] = h
		h = tlog.NodeHash(left, h)
	}
	f.nodes[l] = h
	f.size += 1 << level
}

// root returns the root of the tree, at most one NodeHash for each bit set in
// its size.
func (f *frontier) root() Hash {
	if f.size == 0 {
		return emptyRoot
	}
	rest := uint64(f.size)
	h := f.nodes[bits.TrailingZeros64(rest)]
	for rest &= rest - 1; rest != 0; rest &= rest - 1 {
		h = tlog.NodeHash(f.nodes[bits.TrailingZeros64(rest)], h)
	}
	return h
}

// emptyRoot is the root of the empty tree: the hash of nothing (RFC 6962,
// section 2.1).
var emptyRoot = Hash(sha256.Sum256(nil))

// A subtree is a complete, aligned one: the leaves [n<<level, (n+1)<<level).
type subtree struct {
	level int
	n     int64
}

// subtrees returns the fewest complete subtrees that cover exactly [from, to),
// left to right. At most two of them are of one level. Each is complete in any
// tree that reaches as far as to, so their hashes never change as the log grows.
func subtrees(from, to int64) []subtree {
	var s []subtree
	for from < to {
		level := min(bits.TrailingZeros64(uint64(from)), bits.Len64(uint64(to-from))-1)
		s = append(s, subtree{level, from >> level})
		from += 1 << level
	}
	return s
}
