package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"trakr/internal/proof/merkle"
)

// verifying is one run of Verify.
type verifying struct {
	log    *Log
	o      VerifyOptions
	out    Verification
	faults *faults

	// Read from the snapshot before the walk.
	total    int64  // positions, for the progress
	epochs   int32  // the newest epoch
	xmax     uint64 // no transaction at or above it had begun
	expired  int64  // content below may be missing
	from     int64  // positions below were verified before
	heads    *headStream
	older    []head // kept elsewhere, of sizes below from
	tileRows pgx.Tx

	// The walk along the leaves. size counts those walked, tree has those whose roots were compared.
	size    int64
	tree    *merkle.Tree
	segment segment
	tiles   []merkle.Tile // completed and not yet compared
	last    leafRow
	moved   moved

	suspect   *head     // a signed root that the leaves do not have, unless a later one proves them right
	sound     int64     // the last size at which the leaves had the signed root
	reported  time.Time // when progress was last reported
	blind     bool      // leaves are missing: roots can no longer be compared
	canonical []byte
}

// leafRow is one row of leaves.
type leafRow struct {
	first       int64
	epoch       int32
	from, to    uint64 // xids
	ids         []int64
	hashes      []byte
	present     bool          // false before the first row
	index       map[int64]int // of ids, made when needed
	seen        []bool        // which ids had their event
	missingFrom int64         // where the row before ended; first, when nothing is missing
	filled      []merkle.Hash // of events that are where rows of leaves are missing
}

func (r *leafRow) start() cursor { return cursor{r.epoch, r.from, r.ids[0]} }
func (r *leafRow) end() cursor   { return cursor{r.epoch, r.to, r.ids[len(r.ids)-1]} }

func (r *leafRow) find(id int64) (int, bool) {
	if r.index == nil {
		r.index = make(map[int64]int, len(r.ids))
		for i, x := range r.ids {
			if _, twice := r.index[x]; !twice {
				r.index[x] = i
			}
		}
	}
	i, ok := r.index[id]
	return i, ok
}

func (c cursor) compare(d cursor) int {
	switch {
	case c.epoch != d.epoch:
		return int(c.epoch) - int(d.epoch)
	case c.xid < d.xid || (c.xid == d.xid && c.id < d.id):
		return -1
	case c == d:
		return 0
	}
	return 1
}

// leafRowsAtOnce is how many rows of leaves are read at once, 10 MiB at most. Where
// events are few a row holds few, and each reading is a round trip.
const leafRowsAtOnce = 256

// walk follows the positions and the events at once, both in the order of the log.
// A row of leaves lists the events between the end of the row before and its own end, so
// faults in one row do not confuse the next.
func (v *verifying) walk(ctx context.Context, events, rest pgx.Tx) error {
	v.tileRows = rest
	var begin cursor
	var after int64 = -1
	if v.from > 0 {
		begin, after = v.last.end(), v.last.first
	}
	s, err := readEvents(ctx, events, begin)
	if err != nil {
		return err
	}
	defer s.rows.Close()
	for {
		page, err := readLeaves(ctx, rest, after)
		if err != nil {
			return err
		}
		for i := range page {
			if err := v.row(ctx, s, &page[i]); err != nil {
				return err
			}
			after = page[i].first
		}
		if len(page) < leafRowsAtOnce {
			break
		}
	}
	if err := v.finishLeaves(ctx); err != nil {
		return err
	}
	if err := v.wait(s); err != nil {
		return err
	}
	v.moved.report(v)
	if err := v.extraTiles(ctx, rest); err != nil {
		return err
	}
	v.out.Size = v.size
	if !v.blind {
		v.out.Root = v.tree.Root().String()
	}
	v.progress(true)
	return nil
}

// prepare reads what the walk must know beforehand.
func (v *verifying) prepare(ctx context.Context, tx pgx.Tx) error {
	var identities, count int64
	var first int32
	err := tx.QueryRow(ctx, `SELECT (SELECT count(*) FROM trakr.log_identity), count(*), coalesce(min(epoch), 0), coalesce(max(epoch), 0),
			pg_snapshot_xmax(pg_current_snapshot()),
			coalesce((SELECT first_index + cardinality(ids) FROM trakr.audit_leaves ORDER BY first_index DESC LIMIT 1), 0)
		FROM trakr.log_epochs`).Scan(&identities, &count, &first, &v.epochs, &v.xmax, &v.total)
	if err != nil {
		return err
	}
	if identities != 1 {
		v.faults.add(Fault{Kind: WrongEpoch, Position: nowhere,
			Detail: fmt.Sprintf("the log has %d identities instead of one", identities)})
	}
	if first != 1 || count != int64(v.epochs) {
		v.faults.add(Fault{Kind: WrongEpoch, Position: nowhere, Detail: "the epochs are not numbered from 1 without a gap"})
	}
	if err := v.expiries(ctx, tx); err != nil {
		return err
	}
	if err := v.resume(ctx, tx); err != nil {
		return err
	}
	if v.heads, err = v.readHeads(ctx, tx); err != nil || v.from == 0 {
		return err
	}
	// The checkpoint where the last verification ended is checked again: it may be missing,
	// or another one.
	heads, err := v.heads.at(ctx, v.from)
	for _, h := range heads {
		switch {
		case !h.signed:
		case h.Root != v.o.Known.Root:
			v.doubt(h)
		case h.outside:
			v.out.Outside = max(v.out.Outside, h.Size)
		}
	}
	return err
}

// resume begins where the log was verified before, if that tree is still there.
func (v *verifying) resume(ctx context.Context, tx pgx.Tx) error {
	k := v.o.Known
	if k == nil || v.o.Whole || k.Size <= 0 || k.Size > v.total {
		return nil
	}
	rows, err := tx.Query(ctx, `SELECT first_index, epoch, first_xid, last_xid, ids, hashes FROM trakr.audit_leaves
		WHERE first_index < $1 ORDER BY first_index DESC LIMIT 1`, k.Size)
	if err != nil {
		return err
	}
	last, err := collectLeaves(rows)
	if err != nil {
		return err
	}
	if len(last) == 0 || len(last[0].ids) == 0 || last[0].first+int64(len(last[0].ids)) != k.Size {
		return nil
	}
	tree, err := merkle.Restore(ctx, v.log, k.Size, k.Root)
	if errors.Is(forked(err), ErrFork) {
		return nil // everything is read, which finds the place
	}
	if err != nil {
		return err
	}
	v.from, v.size, v.sound, v.tree, v.last, v.out.From = k.Size, k.Size, k.Size, tree, last[0], k.Size
	return nil
}

func readLeaves(ctx context.Context, tx pgx.Tx, after int64) ([]leafRow, error) {
	rows, err := tx.Query(ctx, `SELECT first_index, epoch, first_xid, last_xid, ids, hashes FROM trakr.audit_leaves
		WHERE first_index > $1 ORDER BY first_index LIMIT $2`, after, leafRowsAtOnce)
	if err != nil {
		return nil, err
	}
	return collectLeaves(rows)
}

func collectLeaves(rows pgx.Rows) ([]leafRow, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r leafRow, err error) {
		r.present = true
		return r, row.Scan(&r.first, &r.epoch, &r.from, &r.to, &r.ids, &r.hashes)
	})
}

// row verifies one row of leaves with the events that belong to it.
func (v *verifying) row(ctx context.Context, s *eventStream, r *leafRow) error {
	if r.first < v.size || len(r.ids) == 0 {
		v.faults.add(Fault{Kind: WrongLeaf, Position: r.first,
			Detail: fmt.Sprintf("a row of leaves begins at position %d, which an earlier row covers", r.first)})
		return nil
	}
	v.passBoundary(r)
	if v.last.present && r.start().compare(v.last.end()) <= 0 {
		v.faults.add(Fault{Kind: Reordered, Position: r.first, Detail: "this row of leaves is after one whose events came later"})
	}
	if v.epochs < r.epoch || r.epoch < 1 {
		v.faults.add(Fault{Kind: WrongLeaf, Position: r.first, Detail: "this row of leaves is of an epoch that never was"})
	}
	if len(r.hashes) != 32*len(r.ids) {
		v.faults.add(Fault{Kind: WrongLeaf, Position: r.first, Detail: "this row of leaves has not one hash for each event"})
		r.hashes = append(r.hashes, make([]byte, 32*len(r.ids))...)[:32*len(r.ids)]
	}
	r.missingFrom = v.size
	r.seen = make([]bool, len(r.ids))
	computed := make([]merkle.Hash, len(r.ids))
	for i := range computed {
		computed[i] = merkle.Hash(r.hashes[32*i:])
	}
	if err := v.events(s, r, computed); err != nil {
		return err
	}
	if err := v.fillGap(ctx, r); err != nil {
		return err
	}
	for i := range r.ids {
		if err := v.leaf(ctx, merkle.Hash(r.hashes[32*i:]), computed[i]); err != nil {
			return err
		}
	}
	v.last = *r
	v.last.index, v.last.seen, v.last.filled = nil, nil, nil
	v.progress(false)
	return nil
}

// events takes the events up to the row's end and finds each one's position.
func (v *verifying) events(s *eventStream, r *leafRow, computed []merkle.Hash) error {
	next, end := 0, r.end()
	for s.more && s.at.compare(end) <= 0 {
		e := s.at
		v.out.Events++
		j, mine := next, next < len(r.ids) && r.ids[next] == e.id
		if !mine {
			j, mine = r.find(e.id)
		}
		switch {
		case mine && !r.seen[j]:
			r.seen[j] = true
			if j < next {
				v.faults.add(Fault{Kind: Reordered, Position: r.first + int64(j), EventID: e.eventID(),
					Detail: "this event comes later in the order of the events than its position"})
			}
			computed[j] = v.event(e, r.first+int64(j), merkle.Hash(r.hashes[32*j:]))
			v.edges(r, j, e)
			next = max(next, j+1)
		case next == 0 && r.missingFrom+int64(len(r.filled)) < r.first:
			r.filled = append(r.filled, v.record(e, r.missingFrom+int64(len(r.filled))))
		default:
			v.moved.found(v, e, r.first+int64(next), v.record(e, nowhere), mine)
		}
		if err := s.next(); err != nil {
			return err
		}
	}
	for j, seen := range r.seen {
		if !seen {
			v.moved.lost(v, r.first+int64(j), r.ids[j], merkle.Hash(r.hashes[32*j:]))
		}
	}
	return nil
}

// edges compares what a row of leaves records of its first and last event.
func (v *verifying) edges(r *leafRow, j int, e storedEvent) {
	if e.epoch != r.epoch || (j == 0 && e.xid != r.from) || (j == len(r.ids)-1 && e.xid != r.to) {
		v.faults.add(Fault{Kind: WrongLeaf, Position: r.first + int64(j), EventID: e.eventID(),
			Detail: "the row of leaves names another epoch or transaction than the event"})
	}
}

// event verifies an event at its position and returns the leaf that its bytes
// make.
func (v *verifying) event(e storedEvent, position int64, want merkle.Hash) merkle.Hash {
	got := v.record(e, position)
	if got != want {
		v.segment.differ(position, e.eventID(), got, want)
	}
	return got
}

// record compares a record with its columns and returns its leaf hash.
func (v *verifying) record(e storedEvent, position int64) merkle.Hash {
	v.canonical = appendCanonical(v.canonical[:0], e.raw[rawColumns:])
	if !bytes.Equal(v.canonical, e.record()) {
		columns, form := disagreement(e.record(), v.canonical)
		if len(columns) > 0 {
			v.faults.add(Fault{Kind: WrongColumn, Position: position, EventID: e.eventID(),
				Detail: "differs from the record: " + strings.Join(columns, ", ")})
		}
		if form != "" {
			v.faults.add(Fault{Kind: WrongForm, Position: position, EventID: e.eventID(), Detail: form})
		}
	}
	return merkle.LeafHash(e.record())
}

// fillGap continues where rows of leaves are missing: with the events that are there, if
// they are as many. The next root then shows whether they are the right ones.
func (v *verifying) fillGap(ctx context.Context, r *leafRow) error {
	gap := r.first - r.missingFrom
	if gap == 0 {
		return nil
	}
	v.faults.add(Fault{Kind: WrongLeaf, Position: r.missingFrom,
		Detail: fmt.Sprintf("the leaves of %d position(s) are missing, from %d on", gap, r.missingFrom)})
	if int64(len(r.filled)) != gap {
		v.blind = true
		v.faults.add(Fault{Kind: WrongLeaf, Position: r.missingFrom,
			Detail: "their events are not all there, so roots and tiles from here on could not be compared"})
		v.skipTo(r.first)
		return nil
	}
	for _, h := range r.filled {
		if err := v.leaf(ctx, h, h); err != nil {
			return err
		}
	}
	return nil
}

// wait verifies the events that have no position yet. None of them may be of a
// transaction that has not been, to be taken before or after all others.
func (v *verifying) wait(s *eventStream) error {
	for s.more {
		e := s.at
		v.out.Events++
		v.out.Waiting++
		v.record(e, nowhere)
		if e.epoch < 1 || e.epoch > v.epochs || (e.epoch == v.epochs && e.xid >= v.xmax) {
			v.faults.add(Fault{Kind: Inserted, Position: nowhere, EventID: e.eventID(),
				Detail: "this event is of an epoch or a transaction that has not been"})
		}
		if err := s.next(); err != nil {
			return err
		}
		v.progress(false)
	}
	return nil
}

// progressEvery is how often the progress is reported.
const progressEvery = 100 * time.Millisecond

func (v *verifying) progress(last bool) {
	if v.o.Progress == nil || (!last && time.Since(v.reported) < progressEvery) {
		return
	}
	v.reported = time.Now()
	v.o.Progress(min(v.size, v.total), v.total)
}

// moved brings together positions without their event and events without a
// position: often they are two halves of one fault.
type moved struct {
	missing map[int64]lostLeaf  // by id
	extra   map[int64]foundHere // by id
	changed []difference
}

type lostLeaf struct {
	position int64
	hash     merkle.Hash
}

type foundHere struct {
	before  int64 // the position before which it is
	eventID string
	hash    merkle.Hash
}

// maxMoved bounds what is remembered of each; what comes later is reported as it
// looks at first sight.
const maxMoved = 1 << 16

func (m *moved) lost(v *verifying, position, id int64, hash merkle.Hash) {
	if position < v.expired {
		v.out.Expired++
		return
	}
	if f, ok := m.extra[id]; ok {
		delete(m.extra, id)
		v.faults.add(Fault{Kind: Reordered, Position: position, EventID: f.eventID,
			Detail: fmt.Sprintf("the event of this position is before position %d", f.before)})
		return
	}
	if len(m.missing) == maxMoved {
		v.faults.add(removed(position))
		return
	}
	if m.missing == nil {
		m.missing = map[int64]lostLeaf{}
	}
	m.missing[id] = lostLeaf{position, hash}
}

// found takes an event that no position of its row names; twice means that its id is one
// that the row has already seen.
func (m *moved) found(v *verifying, e storedEvent, before int64, hash merkle.Hash, twice bool) {
	if l, ok := m.missing[e.id]; ok && !twice {
		delete(m.missing, e.id)
		v.faults.add(Fault{Kind: Reordered, Position: l.position, EventID: e.eventID(),
			Detail: fmt.Sprintf("the event of this position is before position %d", before)})
		return
	}
	f := foundHere{before, e.eventID(), hash}
	if _, known := m.extra[e.id]; known || twice || len(m.extra) == maxMoved {
		v.faults.add(f.inserted())
		return
	}
	if m.extra == nil {
		m.extra = map[int64]foundHere{}
	}
	m.extra[e.id] = f
}

func removed(position int64) Fault {
	return Fault{Kind: Removed, Position: position, Detail: "the event of this position is missing"}
}

func (f foundHere) inserted() Fault {
	return Fault{Kind: Inserted, Position: f.before, EventID: f.eventID,
		Detail: fmt.Sprintf("this event is before position %d and no position names it", f.before)}
}

// report adds the faults of what found no other half, and recognises by their hashes
// events that have another's id and records that were exchanged.
func (m *moved) report(v *verifying) {
	byHash := make(map[merkle.Hash]int64, len(m.missing))
	for id, l := range m.missing {
		byHash[l.hash] = id
	}
	for _, f := range m.extra {
		if id, ok := byHash[f.hash]; ok {
			if l, still := m.missing[id]; still {
				delete(m.missing, id)
				v.faults.add(Fault{Kind: Reordered, Position: l.position, EventID: f.eventID,
					Detail: fmt.Sprintf("the event of this position has another id and is before position %d", f.before)})
				continue
			}
		}
		v.faults.add(f.inserted())
	}
	for _, l := range m.missing {
		v.faults.add(removed(l.position))
	}
	wanted := make(map[merkle.Hash]int64, len(m.changed))
	for _, d := range m.changed {
		wanted[d.want] = d.position
	}
	for _, d := range m.changed {
		other, ok := wanted[d.got]
		switch {
		case ok && d.leaf:
			v.faults.add(Fault{Kind: Reordered, Position: d.position, EventID: d.eventID,
				Detail: fmt.Sprintf("this position has the leaf of another, %d has its own", other)})
		case ok:
			v.faults.add(Fault{Kind: Reordered, Position: d.position, EventID: d.eventID,
				Detail: fmt.Sprintf("this position has the record of position %d", other)})
		default:
			v.faults.add(d.fault())
		}
	}
}

// passBoundary checks that the pass which ended before this row signed its tree: a
// row that is not full ends a pass, unless an epoch ended with it.
func (v *verifying) passBoundary(next *leafRow) {
	endsPass := v.last.present && len(v.last.ids) < leavesPerRow && (next == nil || next.epoch == v.last.epoch)
	if endsPass && v.heads.passed != v.last.first+int64(len(v.last.ids)) {
		v.faults.add(Fault{Kind: WrongHead, Position: v.size, Detail: fmt.Sprintf("the checkpoint of size %d is missing", v.size)})
	}
}

// finishLeaves compares what is left and reports what is beyond the last leaf.
func (v *verifying) finishLeaves(ctx context.Context) error {
	v.passBoundary(nil)
	if err := v.compareRoots(ctx, nil); err != nil {
		return err
	}
	if err := v.beyond(ctx); err != nil {
		return err
	}
	v.distrust()
	return v.compareTiles(ctx)
}
