package audit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"trakr/internal/proof/merkle"
)

// segment holds the leaves since the last root that could be compared: as they are
// stored and, once they differ, as the events make them. Which of the two was
// signed decides whether the event or the leaf was changed.
type segment struct {
	stored, computed []merkle.Hash
	differences      []difference
}

// difference is a position whose event does not make its leaf.
type difference struct {
	position  int64
	eventID   string
	got, want merkle.Hash // of the event's bytes, of the leaf stored
	leaf      bool        // the leaf is the one that was changed
}

func (d difference) fault() Fault {
	if d.leaf {
		return Fault{Kind: WrongLeaf, Position: d.position, EventID: d.eventID,
			Detail: "the leaf stored is not the one that was signed; the event is"}
	}
	return Fault{Kind: Changed, Position: d.position, EventID: d.eventID, Detail: "the event's bytes are not those that were hashed"}
}

func (s *segment) differ(position int64, eventID string, got, want merkle.Hash) {
	s.differences = append(s.differences, difference{position: position, eventID: eventID, got: got, want: want})
}

// maxSegment bounds a segment. A sound log has a checkpoint at least every maxPass
// leaves.
const maxSegment = 2 * maxPass

// leaf takes the next position's leaf.
func (v *verifying) leaf(ctx context.Context, stored, computed merkle.Hash) error {
	s := &v.segment
	if len(s.computed) == 0 && stored != computed {
		s.computed = append(s.computed, s.stored...)
	}
	s.stored = append(s.stored, stored)
	if len(s.computed) > 0 || stored != computed {
		s.computed = append(s.computed, computed)
	}
	v.size++
	h, err := v.heads.at(ctx, v.size)
	if err != nil {
		return err
	}
	if len(h) == 0 && len(s.stored) < maxSegment {
		return nil
	}
	return v.compareRoots(ctx, h)
}

// compareRoots appends the segment to the tree and compares its root with the heads of
// this size: the stored ones and those kept elsewhere.
func (v *verifying) compareRoots(ctx context.Context, heads []head) error {
	s := &v.segment
	var other *merkle.Tree
	var otherTiles []merkle.Tile
	if len(s.computed) > 0 {
		other = v.tree.Clone()
		otherTiles = other.Append(s.computed...)
	}
	tiles := v.tree.Append(s.stored...)
	leavesChanged := false
	for _, h := range heads {
		root := v.tree.Root()
		switch {
		case !h.signed:
		case v.blind:
		case h.Root == root:
			v.trust(h)
		case other != nil && h.Root == other.Root():
			v.tree, tiles, leavesChanged, other = other, otherTiles, true, nil
			v.trust(h)
		default:
			v.doubt(h)
		}
	}
	for _, d := range s.differences {
		d.leaf = leavesChanged
		if len(v.moved.changed) < maxMoved {
			v.moved.changed = append(v.moved.changed, d)
		} else {
			v.faults.add(d.fault())
		}
	}
	s.stored, s.computed, s.differences = s.stored[:0], s.computed[:0], s.differences[:0]
	if v.tiles = append(v.tiles, tiles...); len(v.tiles) >= tilesAtOnce {
		return v.compareTiles(ctx)
	}
	return nil
}

// trust notes that the leaves have a signed root; whatever was doubted before was
// itself at fault.
func (v *verifying) trust(h head) {
	if v.suspect != nil && v.suspect.Size < h.Size {
		v.faults.add(Fault{Kind: WrongHead, Position: v.suspect.Size,
			Detail: fmt.Sprintf("%s of size %d is signed, but of another tree: the log was forked", v.suspect.name, v.suspect.Size)})
		v.suspect = nil
	}
	v.sound = h.Size
	if h.outside && !h.own {
		v.out.Outside = max(v.out.Outside, h.Size)
	}
}

// doubt notes the first head whose signed root the leaves do not have.
func (v *verifying) doubt(h head) {
	if h.outside {
		v.faults.add(Fault{Kind: CutTail, Position: v.sound,
			Detail: fmt.Sprintf("the log does not begin with the %d events of %s; it is another one from position %d or a later one on",
				h.Size, h.name, v.sound)})
		return
	}
	if v.suspect == nil {
		v.suspect = &h
	}
}

// distrust reports the doubt that no later head has answered: events and leaves
// were changed together, and the first bad position is in between.
func (v *verifying) distrust() {
	if h := v.suspect; h != nil {
		v.faults.add(Fault{Kind: Changed, Position: v.sound,
			Detail: fmt.Sprintf("the leaves of positions %d to %d do not have the root that was signed (%s of size %d)",
				v.sound, h.Size-1, h.name, h.Size)})
	}
}

// skipTo continues after leaves that are lost.
func (v *verifying) skipTo(size int64) {
	v.size = size
	v.segment = segment{}
	v.tree = merkle.NewTree() // counts from here on; nothing is compared with it
}

// beyond reports the heads of trees that are larger than the log.
func (v *verifying) beyond(ctx context.Context) error {
	var largest *head
	n := 0
	for {
		h, err := v.heads.next(ctx)
		if err != nil {
			return err
		}
		if h == nil {
			break
		}
		if h.outside {
			v.faults.add(Fault{Kind: CutTail, Position: v.size,
				Detail: fmt.Sprintf("the log ends at position %d and once had %d events (%s)", v.size, h.Size, h.name)})
			continue
		}
		n++
		largest = h
	}
	if largest != nil {
		v.faults.add(Fault{Kind: WrongLeaf, Position: v.size,
			Detail: fmt.Sprintf("the leaves end at position %d, and %d checkpoint(s) of up to %d events were signed",
				v.size, n, largest.Size)})
	}
	return nil
}

const tilesAtOnce = 128 // 1 MiB

// compareTiles compares completed tiles with the stored ones.
func (v *verifying) compareTiles(ctx context.Context) error {
	if v.blind || len(v.tiles) == 0 {
		v.tiles = nil
		return nil
	}
	levels, ns := make([]int16, len(v.tiles)), make([]int64, len(v.tiles))
	for i, t := range v.tiles {
		levels[i], ns[i] = int16(t.Level), t.N
	}
	rows, err := v.tileRows.Query(ctx, `SELECT w.o, t.data FROM unnest($1::smallint[], $2::bigint[]) WITH ORDINALITY AS w (level, n, o)
		JOIN trakr.audit_tiles AS t ON t.level = w.level AND t.n = w.n`, levels, ns)
	if err != nil {
		return err
	}
	there := make([]bool, len(v.tiles))
	var o int64
	var data pgtype.DriverBytes // not copied: it is compared at once
	_, err = pgx.ForEachRow(rows, []any{&o, &data}, func() error {
		t := v.tiles[o-1]
		there[o-1] = true
		v.out.Tiles++
		if !bytes.Equal(data, t.Data) {
			i := firstDifference(data, t.Data)
			v.faults.add(Fault{Kind: WrongTile, Position: (t.N*merkle.TileWidth + int64(i)) << (8 * t.Level),
				Detail: fmt.Sprintf("tile %d of level %d is not that of the leaves, from its hash %d on", t.N, t.Level, i)})
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, ok := range there {
		if t := v.tiles[i]; !ok {
			v.faults.add(Fault{Kind: WrongTile, Position: (t.N * merkle.TileWidth) << (8 * t.Level),
				Detail: fmt.Sprintf("tile %d of level %d is missing", t.N, t.Level)})
		}
	}
	v.tiles = v.tiles[:0]
	return nil
}

// firstDifference is the number of the first hash that differs.
func firstDifference(a, b []byte) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return i / 32
}

// extraTiles looks for tiles that the tree does not have.
func (v *verifying) extraTiles(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `SELECT level, n FROM trakr.audit_tiles
		WHERE level < 0 OR level > 6 OR n < 0 OR n >= $1::bigint >> (8 * (level + 1)) ORDER BY level, n`, v.size)
	if err != nil {
		return err
	}
	var level int16
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&level, &n}, func() error {
		v.faults.add(Fault{Kind: WrongTile, Position: nowhere,
			Detail: fmt.Sprintf("tile %d of level %d is beyond the log's end", n, level)})
		return nil
	})
	return err
}

// head is a checkpoint of the log, stored or kept elsewhere.
type head struct {
	merkle.Checkpoint
	name    string
	outside bool
	signed  bool
	own     bool // what was verified before: it is in the database and proves no tail
}

// headStream gives heads by size. Stored ones are read in pages, and the
// signatures of a page are checked on all processors: they cost most of the time
// where events are few and checkpoints many.
type headStream struct {
	v       *verifying
	tx      pgx.Tx
	stored  []head
	outside []head
	after   int64 // size of the last one read
	done    bool
	passed  int64 // size of the last stored one given
}

const headsAtOnce = 512

// readHeads starts the stream. A checkpoint that was kept elsewhere and is not signed by
// the log's key is a fault at once.
func (v *verifying) readHeads(ctx context.Context, tx pgx.Tx) (*headStream, error) {
	s := &headStream{v: v, tx: tx}
	for _, o := range v.o.Outside {
		cp, err := merkle.Open(o.Note, v.log.verifier)
		if err != nil {
			v.faults.add(Fault{Kind: CutTail, Position: nowhere,
				Detail: o.Name + " is not a checkpoint of this log and key: the database, the keyring or the checkpoint was replaced"})
			continue
		}
		h := head{Checkpoint: cp, name: o.Name, outside: true, signed: true}
		if cp.Size > 0 && cp.Size < v.from {
			v.older = append(v.older, h)
			continue
		}
		s.outside = append(s.outside, h)
	}
	if k := v.o.Known; k != nil && v.from == 0 && k.Size > 0 {
		s.outside = append(s.outside, head{Checkpoint: merkle.Checkpoint{Size: k.Size, Root: k.Root},
			name: "the last verification", outside: true, signed: true, own: true})
	}
	slices.SortStableFunc(s.outside, func(a, b head) int { return cmp.Compare(a.Size, b.Size) })
	for len(s.outside) > 0 && s.outside[0].Size == 0 { // every log begins with the empty one
		v.out.Outside = 0
		s.outside = s.outside[1:]
	}
	if v.from > 0 {
		s.after, s.passed = v.from-1, v.from-1
	}
	return s, s.fill(ctx)
}

// compareOlder compares the checkpoints kept elsewhere of sizes that were verified
// before with the tree that is there now.
func (v *verifying) compareOlder(ctx context.Context) error {
	for _, h := range v.older {
		err := v.log.Contains(ctx, h.Checkpoint)
		switch {
		case errors.Is(err, ErrFork):
			v.faults.add(Fault{Kind: CutTail, Position: nowhere,
				Detail: fmt.Sprintf("the log does not begin with the %d events of %s", h.Size, h.name)})
		case err != nil:
			return err
		default:
			v.out.Outside = max(v.out.Outside, h.Size)
		}
	}
	return nil
}

func (s *headStream) fill(ctx context.Context) error {
	if len(s.stored) > 0 || s.done {
		return nil
	}
	rows, err := s.tx.Query(ctx, `SELECT size, note FROM trakr.audit_checkpoints WHERE size > $1 ORDER BY size LIMIT $2`,
		s.after, headsAtOnce)
	if err != nil {
		return err
	}
	type row struct {
		size int64
		note string
	}
	page, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (x row, err error) { return x, r.Scan(&x.size, &x.note) })
	if err != nil {
		return err
	}
	s.done = len(page) < headsAtOnce
	s.stored = make([]head, len(page))
	faults := make([]error, len(page))
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(page); i += workers {
				cp, err := merkle.Open([]byte(page[i].note), s.v.log.verifier)
				if err == nil && cp.Size != page[i].size {
					err = errors.New("it is of another size than its row")
				}
				if err != nil {
					cp = merkle.Checkpoint{Size: page[i].size}
				}
				s.stored[i], faults[i] = head{Checkpoint: cp, name: "the checkpoint", signed: err == nil}, err
			}
		})
	}
	wg.Wait()
	for i, err := range faults {
		if err != nil {
			s.v.faults.add(Fault{Kind: WrongHead, Position: page[i].size,
				Detail: fmt.Sprintf("the checkpoint of size %d is not one that this log's key signed for it", page[i].size)})
		}
	}
	s.v.out.Checkpoints += int64(len(page))
	if len(page) > 0 {
		s.after = page[len(page)-1].size
	}
	return nil
}

// next gives the head with the smallest size, or nil at the end.
func (s *headStream) next(ctx context.Context) (*head, error) {
	if err := s.fill(ctx); err != nil {
		return nil, err
	}
	var h head
	switch {
	case len(s.stored) > 0 && (len(s.outside) == 0 || s.stored[0].Size <= s.outside[0].Size):
		h, s.stored = s.stored[0], s.stored[1:]
		if h.Size-s.passed > maxPass && h.Size <= s.v.size {
			s.v.faults.add(Fault{Kind: WrongHead, Position: s.passed,
				Detail: fmt.Sprintf("checkpoints between the sizes %d and %d are missing", s.passed, h.Size)})
		}
		s.passed = h.Size
	case len(s.outside) > 0:
		h, s.outside = s.outside[0], s.outside[1:]
	default:
		return nil, nil
	}
	return &h, nil
}

// at gives the heads of exactly that size; smaller ones are passed over.
func (s *headStream) at(ctx context.Context, size int64) (out []head, err error) {
	for {
		if err := s.fill(ctx); err != nil {
			return nil, err
		}
		if (len(s.stored) == 0 || s.stored[0].Size > size) && (len(s.outside) == 0 || s.outside[0].Size > size) {
			return out, nil
		}
		h, err := s.next(ctx)
		if err != nil {
			return nil, err
		}
		if h.Size == size {
			out = append(out, *h)
		}
	}
}
