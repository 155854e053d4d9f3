package merkle

import "fmt"

// A Slice proves that selected leaves are at their positions in the tree of a
// checkpoint. It is fed the whole log from left to right, selected leaves by
// their hash and all that is between by the hashes of Prover.Gap, and ends with
// the tree's root. It needs 2 KiB whatever the log's size, and a leaf costs one
// hash on average.
//
// A gap hash cannot be made up: with any other, the root differs. A Slice proves
// nothing about the content of the gaps. The zero value is ready for position 0.
type Slice struct {
	frontier
}

// Leaf takes the selected leaf at index, which must be the next position.
func (s *Slice) Leaf(index int64, h Hash) error {
	if index != s.size {
		return fmt.Errorf("leaf out of order: expected position %d, got %d", s.size, index)
	}
	if index >= MaxSize {
		return fmt.Errorf("leaf %d is beyond the largest tree", index)
	}
	s.add(0, h)
	return nil
}

// Gap takes the hashes that represent the leaves [from, to), of which from must
// be the next position.
func (s *Slice) Gap(from, to int64, hashes []Hash) error {
	if from != s.size {
		return fmt.Errorf("gap out of order: expected position %d, got %d", s.size, from)
	}
	if to <= from || to > MaxSize {
		return fmt.Errorf("gap at position %d cannot end at %d", from, to)
	}
	parts := subtrees(from, to)
	if len(hashes) != len(parts) {
		return fmt.Errorf("gap [%d, %d): expected %d hashes, got %d", from, to, len(parts), len(hashes))
	}
	for i, part := range parts {
		s.add(part.level, hashes[i])
	}
	return nil
}

// Root returns the size of the tree so far, which is the next position, and its
// root (RFC 6962, section 2.1).
func (s *Slice) Root() (size int64, root Hash) { return s.size, s.root() }

// Verify checks that the log was fed up to its end and that it is the tree of
// the given size and root, as a checkpoint states them. It returns nil or an
// ErrProof. Until it has returned nil, no leaf is proven.
func (s *Slice) Verify(size int64, root Hash) error {
	if s.size != size {
		return fmt.Errorf("the slice ends at position %d and the tree at %d: %w", s.size, size, ErrProof)
	}
	if s.root() != root {
		return fmt.Errorf("the slice has another root than the tree of %d leaves: %w", size, ErrProof)
	}
	return nil
}
