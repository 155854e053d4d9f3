package audit

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"trakr/internal/lifecycle"
	"trakr/internal/proof/auditfile"
	"trakr/internal/proof/merkle"
	"trakr/internal/store/internal/pg"
)

// Format is a form of export.
type Format = auditfile.Format

// The formats; auditfile documents them.
const (
	NDJSON = auditfile.NDJSON
	CSV    = auditfile.CSV
	OCSF   = auditfile.OCSF
)

// Formats lists the formats.
func Formats() []Format { return auditfile.Formats() }

// Selection is what to export.
type Selection struct {
	Filter
	Format Format
	Gzip   bool
	From   int64 // first position; a part of its own, with its own proof
	Limit  int64 // at most so many events; 0 means all

	// CatchUp sequences what waits, where no running service does (its failure
	// only means that events wait); nil to wait for the service.
	CatchUp func(context.Context) error
	// Wait is how long the events before the export may take to get their
	// positions; 0 means 5 seconds.
	Wait time.Duration
	// Progress, when given, is called with the position reached and the log's size.
	Progress func(position, size int64)
}

// Exported is what an export contains.
type Exported struct {
	Format   Format `json:"format"`
	EventID  string `json:"event_id"` // of the export itself
	Events   int64  `json:"events"`
	From     int64  `json:"from"`
	Next     int64  `json:"next"`     // position to continue with
	Size     int64  `json:"size"`     // of the checkpoint
	Expired  int64  `json:"expired"`  // below it, content may have expired by policy
	Waiting  int64  `json:"waiting"`  // older events that had no position in time
	Missing  int64  `json:"missing"`  // of a full export: records missing that no expiry accounts for
	Unplaced int64  `json:"unplaced"` // rows that were never part of the log
	Key      string `json:"key"`
}

// Sound reports whether the export met nothing that only a changed log explains.
func (e Exported) Sound() bool { return e.Missing == 0 && e.Unplaced == 0 }

// Export writes the selected events of the log to w, in its order, and after them
// what proves them offline (package auditfile). The export is recorded first: when
// that cannot be done, nothing is written. It covers the log of the newest
// checkpoint; events older than the export that have no position yet are waited
// for, and counted when they get none in time.
//
// An error after the first byte leaves a file without its checkpoint, which no reader
// accepts as a whole one. Memory does not grow with the log.
func (l *Log) Export(ctx context.Context, a lifecycle.Access, s Selection, w io.Writer) (Exported, error) {
	if err := a.CheckReason(); err != nil {
		return Exported{}, err
	}
	if !slices.Contains(Formats(), s.Format) {
		return Exported{}, lifecycle.Fail(lifecycle.RequestInvalid, "The format is one of ndjson, csv, ocsf.",
			lifecycle.At("/format", "unknown format"))
	}
	if s.From < 0 || s.Limit < 0 {
		return Exported{}, lifecycle.Fail(lifecycle.RequestInvalid,
			"An export begins at a position of the log, from 0, and its limit is a number of events.",
			lifecycle.At("/from", "out of range"))
	}
	e := New(ctx, l.now(), a, AuditExport, Success)
	e.StatusDetail = string(s.Format)
	e.TenantID = s.Tenant
	if err := l.Record(ctx, e); err != nil {
		return Exported{}, err
	}
	x := &export{log: l, Selection: s, out: Exported{Format: s.Format, EventID: e.EventID.String(), From: s.From, Key: l.vkey}}
	if err := x.run(ctx, w); err != nil {
		return x.out, fmt.Errorf("exporting the audit: %w", pg.Map(err))
	}
	return x.out, nil
}

// export is one export under way.
type export struct {
	log *Log
	Selection
	out Exported

	checkpoint Checkpoint
	prover     *merkle.Prover
	gaps       gaps
	covered    int64 // positions below it are shown or in gaps
	early      int64 // events shown below out.Expired

	w     *bufio.Writer
	line  []byte
	clock clock
}

const (
	exportWait   = 5 * time.Second
	exportPoll   = 50 * time.Millisecond
	exportBuffer = 256 << 10
)

func (x *export) run(ctx context.Context, w io.Writer) (err error) {
	if err := x.await(ctx); err != nil {
		return err
	}
	if x.prover, x.checkpoint, err = x.log.prover(ctx); err != nil {
		return err
	}
	x.out.Size, x.out.Next = x.checkpoint.Size, x.checkpoint.Size
	if x.From > x.out.Size {
		return lifecycle.Fail(lifecycle.RequestInvalid, "The export would begin after the log's end: there is nothing newer yet.",
			lifecycle.At("/from", "out of range"))
	}
	defer func() { err = errors.Join(err, x.gaps.close()) }()
	var packed *gzip.Writer
	if s := w; x.Gzip {
		// Level 1: four times as fast as the default for a tenth more bytes.
		if packed, err = gzip.NewWriterLevel(s, gzip.BestSpeed); err != nil {
			return err
		}
		w = packed
	}
	x.w = bufio.NewWriterSize(w, exportBuffer)
	if _, err := x.w.Write(x.Format.Header()); err != nil {
		return err
	}
	if err := x.events(ctx); err != nil {
		return err
	}
	if err := x.end(ctx); err != nil {
		return err
	}
	if err := x.w.Flush(); err != nil {
		return err
	}
	if packed != nil {
		return packed.Close()
	}
	return nil
}

// await waits until the export's own event has its position. It is later in the log
// than every event that was committed before it: a transaction's place is its xid,
// and theirs were given out before.
func (x *export) await(ctx context.Context) error {
	var own cursor
	err := pg.Pool(x.log.db).QueryRow(ctx, `SELECT epoch, xid, id FROM trakr.audit_events WHERE event_id = $1`, x.out.EventID).
		Scan(&own.epoch, &own.xid, &own.id)
	if err != nil {
		return fmt.Errorf("finding the export's own event: %w", pg.Map(err))
	}
	wait := x.Wait
	if wait == 0 {
		wait = exportWait
	}
	for deadline := time.Now().Add(wait); ; {
		if x.CatchUp != nil {
			_ = x.CatchUp(ctx) // what it could not do is counted as waiting
		}
		_, last, err := x.log.stored(ctx)
		if err != nil || !last.before(own) {
			return err
		}
		if time.Now().After(deadline) {
			return pg.Map(pg.Pool(x.log.db).QueryRow(ctx, `SELECT count(*) FROM trakr.audit_events
				WHERE (epoch, xid, id) > ($1, $2, $3) AND (epoch, xid, id) < ($4, $5, $6)`,
				last.epoch, last.xid, last.id, own.epoch, own.xid, own.id).Scan(&x.out.Waiting))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(exportPoll):
		}
	}
}

func (c cursor) before(other cursor) bool {
	if c.epoch != other.epoch {
		return c.epoch < other.epoch
	}
	if c.xid != other.xid {
		return c.xid < other.xid
	}
	return c.id < other.id
}

// pageEvents is how many positions an export looks at between two looks at the
// leaves; a row of leaves more can come with them.
const pageEvents = 64 << 10

// page is a run of positions of one epoch, as the sequencer placed them.
type page struct {
	first    int64 // position of ids[0]
	ids      []int64
	leaves   []byte // 32 bytes each
	from, to cursor // its events are at or after from and before to
}

// events writes the selected events, page by page, all from one snapshot.
func (x *export) events(ctx context.Context) error {
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	return pgx.BeginTxFunc(ctx, pg.Pool(x.log.db), snapshot, func(tx pgx.Tx) error {
		// The index that is the log's order already holds the rows in order. A slow
		// reader of the file leaves the transaction idle between two pages.
		if _, err := tx.Exec(ctx, `SET LOCAL enable_sort = off; SET LOCAL jit = off; SET LOCAL max_parallel_workers_per_gather = 0;
			SET LOCAL idle_in_transaction_session_timeout = '10min'`); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT coalesce(max(up_to), 0) FROM trakr.audit_expiries`).Scan(&x.out.Expired); err != nil {
			return err
		}
		var p page
		for more := x.From < x.out.Size; more; {
			var err error
			if more, err = x.turn(ctx, tx, &p); err != nil {
				return err
			}
			enough, err := x.show(ctx, tx, p)
			if err != nil {
				return err
			}
			if x.Progress != nil {
				x.Progress(min(p.first+int64(len(p.ids)), x.out.Size), x.out.Size)
			}
			if enough {
				x.out.Next = x.covered
				break
			}
		}
		if full := len(x.conditions()) == 0; full {
			x.out.Missing = max(0, x.out.Next-max(x.From, x.out.Expired)) - (x.out.Events - x.early)
		}
		return nil
	})
}

// turn reads the page after p and reports whether another one follows.
func (x *export) turn(ctx context.Context, tx pgx.Tx, p *page) (more bool, err error) {
	next, before, opening := p.first+int64(len(p.ids)), p.from, len(p.ids) == 0
	p.from = p.to
	if opening {
		// The row that has From, perhaps in its middle.
		err := tx.QueryRow(ctx, `SELECT first_index, epoch, first_xid, ids[1] FROM trakr.audit_leaves
			WHERE first_index <= $1 ORDER BY first_index DESC LIMIT 1`, x.From).Scan(&next, &p.from.epoch, &p.from.xid, &p.from.id)
		if err != nil {
			return false, err
		}
	}
	if next == 0 || p.from.epoch != before.epoch && !opening {
		p.from.xid, p.from.id = 0, 0 // what is before an epoch's first event is read too
	}
	end := x.out.Size
	err = tx.QueryRow(ctx, `SELECT first_index, epoch, first_xid, ids[1] FROM trakr.audit_leaves
		WHERE first_index > $1 AND first_index < $2 AND (first_index >= $3 OR epoch <> $4) ORDER BY first_index LIMIT 1`,
		next, x.out.Size, next+pageEvents, p.from.epoch).Scan(&end, &p.to.epoch, &p.to.xid, &p.to.id)
	if more = err == nil; err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return false, err
	}
	rows, err := tx.Query(ctx, `SELECT first_index, epoch, last_xid, ids, hashes FROM trakr.audit_leaves
		WHERE first_index >= $1 AND first_index < $2 ORDER BY first_index`, next, end)
	if err != nil {
		return false, err
	}
	p.ids, p.leaves, p.first = p.ids[:0], p.leaves[:0], next
	var (
		first  int64
		last   cursor
		ids    []int64
		hashes pgtype.PreallocBytes
	)
	_, err = pgx.ForEachRow(rows, []any{&first, &last.epoch, &last.xid, &ids, &hashes}, func() error {
		if first != next+int64(len(p.ids)) || len(hashes) != 32*len(ids) {
			return fmt.Errorf("the leaves of position %d are not where they should be: %w", next+int64(len(p.ids)), ErrFork)
		}
		p.ids, p.leaves = append(p.ids, ids...), append(p.leaves, hashes...)
		return nil
	})
	if err == nil && next+int64(len(p.ids)) != end {
		err = fmt.Errorf("the leaves of position %d are missing: %w", next+int64(len(p.ids)), ErrFork)
	}
	if err == nil && !more {
		last.id = p.ids[len(p.ids)-1] + 1
		p.to = last
	}
	return more, err
}

// show writes the selected events of a page. It reports true when the limit is
// reached.
func (x *export) show(ctx context.Context, tx pgx.Tx, p page) (enough bool, err error) {
	sql, args := x.query(p)
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return false, err
	}
	defer rows.Close() // reads what is left of the page
	at := 0
	for rows.Next() {
		raw := rows.RawValues() // id, recorded_at, record; binary
		if len(raw[0]) != 8 || len(raw[1]) != 8 {
			return false, errors.New("the database answers in another form than asked for")
		}
		i := slices.Index(p.ids[at:], int64(binary.BigEndian.Uint64(raw[0])))
		if i < 0 {
			x.out.Unplaced++ // neither shown nor hidden: it has no position to show
			continue
		}
		at += i
		index := p.first + int64(at)
		if index < x.From {
			at++
			continue
		}
		if index >= x.out.Size || (x.Limit > 0 && x.out.Events == x.Limit) {
			break
		}
		if index > x.covered {
			if err := x.gaps.add(x.covered, index); err != nil {
				return false, err
			}
		}
		e := auditfile.Event{Index: index, RecordedAt: x.clock.text(raw[1]), Record: raw[2]}
		copy(e.Leaf[:], p.leaves[32*at:])
		x.line = x.Format.AppendEvent(x.line[:0], e)
		if _, err := x.w.Write(x.line); err != nil {
			return false, err
		}
		x.covered = index + 1
		if x.out.Events++; index < x.out.Expired {
			x.early++
		}
		at++
	}
	rows.Close()
	return x.Limit > 0 && x.out.Events == x.Limit, rows.Err()
}

// query is the SQL of the events of a page, in the order of the log. The epoch is a
// condition of its own: a B-tree scan ends at a row's bound only where its first column
// decides.
func (x *export) query(p page) (string, []any) {
	to := p.to
	if to.epoch != p.from.epoch {
		to = cursor{xid: math.MaxUint64, id: math.MaxInt64} // the epoch's end
	}
	var sql strings.Builder
	sql.WriteString(`SELECT id, recorded_at, record FROM trakr.audit_events
		WHERE epoch = $1 AND (xid, id) >= ($2, $3) AND (xid, id) < ($4, $5)`)
	args := []any{pgx.QueryResultFormats{pgx.BinaryFormatCode}, p.from.epoch, p.from.xid, p.from.id, to.xid, to.id}
	for _, c := range x.conditions() {
		sql.WriteString(" AND " + strings.Replace(c.sql, "?", "$"+strconv.Itoa(len(args)), 1))
		args = append(args, c.value)
	}
	sql.WriteString(` ORDER BY epoch, xid, id`)
	return sql.String(), args
}

// end writes the proofs of what is not shown, and the checkpoint.
func (x *export) end(ctx context.Context) error {
	if x.covered < x.out.Size {
		if err := x.gaps.add(x.covered, x.out.Size); err != nil {
			return err
		}
	}
	err := x.gaps.each(func(from, to int64) error {
		hashes, err := x.prover.Gap(ctx, from, to)
		if err != nil {
			return forked(err)
		}
		x.line = x.Format.AppendProof(x.line[:0], auditfile.Proof{From: from, To: to, Hashes: hashes})
		_, err = x.w.Write(x.line)
		return err
	})
	if err != nil {
		return err
	}
	selection := map[string]any{}
	for _, c := range x.conditions() {
		selection[c.name] = c.value
	}
	given, err := json.Marshal(selection)
	if err != nil {
		return fmt.Errorf("formatting the selection: %w", err)
	}
	o := x.out
	x.line, err = x.Format.AppendEnd(x.line[:0], auditfile.End{Note: string(x.checkpoint.Note), Key: o.Key, Format: x.Format,
		Events: o.Events, From: o.From, Next: o.Next, Expired: o.Expired, Waiting: o.Waiting, Unplaced: o.Unplaced, Selection: given})
	if err != nil {
		return err
	}
	_, err = x.w.Write(x.line)
	return err
}

// clock writes PostgreSQL's binary timestamps, microseconds since 2000, as TimeForm.
// Neighbouring events share their second, so it keeps the last one's text.
type clock struct {
	second int64
	b      [27]byte
}

const year2000 = 946684800 // in Unix seconds

func (c *clock) text(raw []byte) []byte {
	micros := int64(binary.BigEndian.Uint64(raw))
	second := int64(math.Floor(float64(micros) / 1e6))
	if second != c.second || c.b[0] == 0 {
		c.second = second
		copy(c.b[:], time.Unix(second+year2000, 0).UTC().Format(TimeForm))
	}
	for i, n := 25, micros-second*1e6; i > 19; i-- {
		c.b[i] = byte('0' + n%10)
		n /= 10
	}
	return c.b[:]
}
