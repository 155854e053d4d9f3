package merkle_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"trakr/internal/proof/merkle"
)

// The vectors of the Certificate Transparency code base, which other
// implementations of RFC 6962 test against too.
var (
	knownLeaves = []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"}
	knownRoots  = []string{
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
	knownPath = []string{ // of leaf 0 in the tree of 8
		"96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
		"5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
		"6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
	}
	knownConsistency = []string{ // of the tree of 6 in the tree of 8
		"0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
		"ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
	}
)

func TestKnownAnswersOfCertificateTransparency(t *testing.T) {
	l := newLog(0)
	for i := 0; ; i++ {
		if got := inHex([]merkle.Hash{l.tree.Root()})[0]; got != knownRoots[i] {
			t.Errorf("root of the first %d leaves: %s, want %s", i, got, knownRoots[i])
		}
		if i == len(knownLeaves) {
			break
		}
		leaf := merkle.LeafHash(must[[]byte](t)(hex.DecodeString(knownLeaves[i])))
		l.leaves = append(l.leaves, leaf)
		if full := l.tree.Append(leaf); len(full) != 0 {
			t.Errorf("leaf %d completed %d tiles", i, len(full))
		}
	}
	path := must[[]merkle.Hash](t)(l.prover().Inclusion(t.Context(), 0))
	if diff := cmp.Diff(knownPath, inHex(path)); diff != "" {
		t.Errorf("audit path of leaf 0 (-want +got):\n%s", diff)
	}
	proof := must[[]merkle.Hash](t)(l.prover().Consistency(t.Context(), 6))
	if diff := cmp.Diff(knownConsistency, inHex(proof)); diff != "" {
		t.Errorf("consistency of 6 with 8 (-want +got):\n%s", diff)
	}
}

func inHex(hashes []merkle.Hash) []string {
	var out []string
	for _, h := range hashes {
		out = append(out, hex.EncodeToString(h[:]))
	}
	return out
}

// sizes are those where something begins or ends: powers of two, a tile's width,
// the width of a tile of the next level, and some between.
func sizes() []int {
	s := []int{0, 1, 2, 3, 255, 256, 257, 511, 512, 513, 65535, 65536, 65537, 65791, 65792, 65793, 131071, 131072, 131073}
	r := seeded(1)
	for range 20 {
		s = append(s, 1+r.IntN(140_000))
	}
	slices.Sort(s)
	return s
}

func TestEveryRootAndTileIsTlogs(t *testing.T) {
	l, want := newLog(0), naive(nil)
	checked := 0
	check := func() {
		checked++
		n := int64(len(l.leaves))
		if got, want := l.tree.Root(), must[tlog.Hash](t)(tlog.TreeHash(n, want)); got != want || l.tree.Size() != n {
			t.Fatalf("size %d: root %v of %d leaves, tlog has %v", n, got, l.tree.Size(), want)
		}
	}
	check()
	for _, size := range append(upTo(1100), sizes()...) {
		for len(l.leaves) < size {
			l.grow(1)
			want = want.append(t, len(l.leaves)-1, l.leaves[len(l.leaves)-1])
		}
		check()
	}
	if checked < 1101 {
		t.Errorf("only %d sizes checked", checked)
	}
	full := 0
	for _, tile := range tlog.NewTiles(8, 0, int64(len(l.leaves))) {
		if tile.W < merkle.TileWidth {
			continue
		}
		full++
		if data := must[[]byte](t)(tlog.ReadTileData(tile, want)); !bytes.Equal(data, l.tiles[place{tile.L, tile.N}]) {
			t.Errorf("%s is not what tlog has", tile.Path())
		}
	}
	if full != len(l.tiles) || full < 512 {
		t.Errorf("%d tiles were returned, tlog has %d full ones", len(l.tiles), full)
	}
}

func upTo(n int) []int {
	s := make([]int, n+1)
	for i := range s {
		s[i] = i
	}
	return s
}

func TestRestoredTreeGoesOnAsTheOldOne(t *testing.T) {
	// Restored from a log that has grown since: an old checkpoint is as good as
	// the last.
	l := newLog(141_000)
	old := merkle.NewTree()
	for _, size := range append(upTo(1100), sizes()...) {
		if n := int64(size) - old.Size(); n > 0 {
			old.Append(l.leaves[old.Size():size]...)
		}
		if old.Size() != int64(size) { // sizes() begins again below 1100
			continue
		}
		restored, err := merkle.Restore(t.Context(), l, int64(size), old.Root())
		if err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		if restored.Size() != old.Size() || restored.Root() != old.Root() {
			t.Fatalf("size %d: another tree came back", size)
		}
		next := l.leaves[size : size+300]
		kept := old.Clone()
		if !slices.EqualFunc(kept.Append(next...), restored.Append(next...), sameTile) {
			t.Fatalf("size %d: the next tiles differ", size)
		}
		if kept.Root() != restored.Root() {
			t.Fatalf("size %d: the trees part after it", size)
		}
		if _, err := merkle.Restore(t.Context(), l, int64(size), flipped(old.Root(), size%256)); !errors.Is(err, merkle.ErrInconsistent) {
			t.Fatalf("size %d: another root was restored: %v", size, err)
		}
	}
}

func sameTile(a, b merkle.Tile) bool {
	return a.Level == b.Level && a.N == b.N && bytes.Equal(a.Data, b.Data)
}

func TestRolledBackTransactionLeavesTheTreeAlone(t *testing.T) {
	l := newLog(65_535)
	before, size := l.tree.Root(), l.tree.Size()
	work := l.tree.Clone()
	lost := work.Append(merkle.LeafHash([]byte("lost")), merkle.LeafHash([]byte("lost too")))
	if len(lost) != 2 || lost[0].Level != 0 || lost[0].N != 255 || lost[1].Level != 1 || lost[1].N != 0 {
		t.Fatalf("leaf 65536 completes tile 255 of level 0, then tile 0 of level 1; got %d tiles", len(lost))
	}
	if l.tree.Root() != before || l.tree.Size() != size {
		t.Fatal("appending to the copy changed the tree")
	}
	lostData := bytes.Clone(lost[0].Data)
	kept := l.tree.Append(merkle.LeafHash([]byte("kept")))
	if bytes.Equal(kept[0].Data, lost[0].Data) {
		t.Error("the copy and the tree share a tile")
	}
	l.tree.Append(l.leaves[:600]...)
	if !bytes.Equal(lostData, lost[0].Data) {
		t.Error("a later append wrote into a tile that was handed out")
	}
	if l.tree.Clone().Root() != l.tree.Root() {
		t.Error("a copy has another root")
	}
}

func TestDepthsNoTestCanStore(t *testing.T) {
	r := seeded(2)
	cases := []struct {
		size   int64
		reason string
	}{
		{1 << 24, "the first full tile of level 2"},
		{1<<24 - 1, "a leaf before it: every level's tile lacks one"},
		{1<<40 - 1, "five levels about to be full at once"},
		{1<<40 + 257, "a full tile of level 4 and little after it"},
		{merkle.MaxSize - 1, "the last leaf is missing"},
		{merkle.MaxSize, "the largest tree"},
	}
	for _, c := range cases {
		for _, marked := range []int64{0, c.size - 1, c.size / 2, r.Int64N(c.size)} {
			s := newSparse(marked)
			root := must[tlog.Hash](t)(tlog.TreeHash(c.size, s))
			tree, err := merkle.Restore(t.Context(), s, c.size, root)
			if err != nil {
				t.Fatalf("%s: %v", c.reason, err)
			}
			p := merkle.NewProver(tree, s)
			path := must[[]merkle.Hash](t)(p.Inclusion(t.Context(), marked))
			if err := merkle.VerifyInclusion(path, c.size, root, marked, s.path[0]); err != nil {
				t.Errorf("%s: %v", c.reason, err)
			}
			old := 1 + r.Int64N(c.size)
			proof := must[[]merkle.Hash](t)(p.Consistency(t.Context(), old))
			if err := merkle.VerifyConsistency(proof, old, must[tlog.Hash](t)(tlog.TreeHash(old, s)), c.size, root); err != nil {
				t.Errorf("%s: %v", c.reason, err)
			}
			var slice merkle.Slice
			for _, part := range [][2]int64{{0, marked}, {marked + 1, c.size}} {
				if part[0] < part[1] {
					gap := must[[]merkle.Hash](t)(p.Gap(t.Context(), part[0], part[1]))
					if err := slice.Gap(part[0], part[1], gap); err != nil {
						t.Fatalf("%s: %v", c.reason, err)
					}
				}
				if part[0] == 0 {
					if err := slice.Leaf(marked, s.path[0]); err != nil {
						t.Fatalf("%s: %v", c.reason, err)
					}
				}
			}
			if err := slice.Verify(c.size, root); err != nil {
				t.Errorf("%s: slice of leaf %d: %v", c.reason, marked, err)
			}
			if c.size == 1<<40-1 {
				last := tree.Append(s.hash(0, c.size))
				for level, tile := range last {
					if want := s.row(8*level, tile.N*256, tile.N*256+256); tile.Level != level || !bytes.Equal(tile.Data, want) {
						t.Errorf("%s: tile %d of level %d is wrong", c.reason, tile.N, tile.Level)
					}
				}
				if len(last) != 5 || tree.Root() != s.hash(40, 0) {
					t.Errorf("%s: completed %d tiles, want 5, root %v", c.reason, len(last), tree.Root())
				}
			}
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	leaves := make([]merkle.Hash, 1024)
	for i := range leaves {
		leaves[i] = merkle.LeafHash(fmt.Append(nil, i))
	}
	tree := merkle.NewTree()
	b.ReportAllocs()
	for b.Loop() {
		tree.Append(leaves...)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(tree.Size()), "ns/leaf")
}

func BenchmarkNodeHash(b *testing.B) { // what Append cannot go below
	h := merkle.LeafHash(nil)
	for b.Loop() {
		h = tlog.NodeHash(h, h)
	}
}

func BenchmarkLeafHash(b *testing.B) {
	record := bytes.Repeat([]byte("x"), 600) // bytes of a usual event
	b.ReportAllocs()
	b.SetBytes(int64(len(record)))
	for b.Loop() {
		merkle.LeafHash(record)
	}
}
