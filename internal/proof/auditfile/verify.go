package auditfile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"trakr/internal/proof/merkle"
)

// Fault is what is wrong with a file.
type Fault string

// The faults.
const (
	Changed    Fault = "changed"    // bytes are not what they were
	Removed    Fault = "removed"    // a position is neither shown nor covered by a proof
	Inserted   Fault = "inserted"   // a line that the log does not hold there
	Reordered  Fault = "reordered"  // a position is later in the file than it should be
	Cut        Fault = "cut"        // the file ends before its checkpoint
	Miscounted Fault = "miscounted" // another number of events than the file's end has
	WrongKey   Fault = "wrong_key"  // the checkpoint is not signed by the key given
	Disagrees  Fault = "disagrees"  // a column differs from its record
	Reported   Fault = "reported"   // the exporter itself found the log changed
)

// Finding is the first thing wrong with a file.
type Finding struct {
	Fault    Fault  `json:"fault"`
	Position int64  `json:"position"` // in the log; -1 when the file does not show it
	Line     int64  `json:"line"`     // of the unpacked file, from 1; 0 when no line is to blame
	Detail   string `json:"detail"`
}

// Report is what Verify found out.
type Report struct {
	Format    Format          `json:"format"`
	Proven    bool            `json:"proven"`
	Finding   *Finding        `json:"finding,omitempty"`
	Origin    string          `json:"origin,omitempty"` // the log's name
	Size      int64           `json:"size"`             // of the checkpoint
	Events    int64           `json:"events"`           // lines of events read
	From      int64           `json:"from"`
	Next      int64           `json:"next"`
	Hidden    int64           `json:"hidden"`             // positions of [from, next) not shown: not selected, or expired
	Expired   int64           `json:"expired"`            // asserted by the exporter: below it, content may have been removed by policy
	Waiting   int64           `json:"waiting"`            // asserted by the exporter: older events without a position
	Selection json.RawMessage `json:"selection,omitzero"` // asserted by the exporter
	Note      string          `json:"checkpoint,omitempty"`
}

// Errors that leave the answer open.
var (
	ErrNoKey = errors.New("without the log's public key nothing can be proven: anyone who changes a file can sign it " +
		"with a key of their own, so the key in the file proves nothing by itself")
	ErrNotExport = errors.New("this is not an exported audit")
)

// Verify checks a file against the log's public key (C2SP signed-note), which must
// have come by another way than the file. It reads the file twice, from front to
// back, and needs a few hundred KiB whatever its length. read, when given, is called
// with the bytes of every line: twice the unpacked length for a sound file.
//
// A finding is in the report; an error means that no verdict is possible.
func Verify(ctx context.Context, open Source, key string, read func(bytes int64)) (Report, error) {
	if key == "" {
		return Report{}, ErrNoKey
	}
	verifier, err := merkle.ParseVerifier(key)
	if err != nil {
		return Report{}, fmt.Errorf("reading the key: %w", err)
	}
	v := &verification{ctx: ctx, open: open, read: read}
	if err := v.survey(); err != nil || v.report.Finding != nil {
		return v.report, err
	}
	cp, err := merkle.Open([]byte(v.end.Note), verifier)
	switch {
	case err != nil && v.end.Key != key:
		v.find(WrongKey, -1, v.endLine,
			"the checkpoint is not signed by the key given; the file names another key, which proves nothing by itself")
	case err != nil:
		v.find(Changed, -1, v.endLine, "the checkpoint's signature is not valid: its text was changed, or another key made it")
	}
	if err != nil {
		return v.report, nil
	}
	v.report.Origin, v.report.Size = cp.Origin, cp.Size
	if err := v.walk(cp); err != nil {
		return v.report, err
	}
	v.report.Proven = v.report.Finding == nil
	return v.report, nil
}

type verification struct {
	ctx    context.Context
	open   Source
	read   func(int64)
	report Report

	form       Format
	end        End
	endLine    int64
	eventsEnd  int64 // line after the last event
	proofsFrom int64 // where it begins

	slice   merkle.Slice
	proofs  *lines
	pending *Proof // the next proof line, read ahead
	scratch []byte
	again   []byte
}

func (v *verification) find(f Fault, position, line int64, format string, args ...any) {
	if v.report.Finding == nil {
		v.report.Finding = &Finding{f, position, line, fmt.Sprintf(format, args...)}
	}
}

// survey reads the file once to find its end: what is before it is only proven by
// it.
func (v *verification) survey() error {
	l, err := v.open.open(v.read)
	if err != nil {
		return v.broken(err, 0, 1)
	}
	defer func() { _ = l.close() }()
	last, began, ended, ok := int64(-1), false, false, false
	for {
		if err := v.ctx.Err(); err != nil {
			return err
		}
		line, err := l.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return v.broken(err, last+1, l.number)
		}
		if v.form == "" {
			if v.form, ok = formatOf(line); !ok {
				return ErrNotExport
			}
			v.report.Format = v.form
		}
		switch k := v.form.kindOf(line); {
		case ended:
			v.find(Inserted, -1, l.number, "a line stands after the checkpoint, which ends a file")
			return nil
		case k == header && l.number == 1:
		case k == proof || k == checkpoint:
			if !began {
				began, v.eventsEnd, v.proofsFrom = true, l.number, l.offset
			}
			if k == checkpoint {
				ended, v.endLine = true, l.number
				if v.end, ok = v.form.parseCheckpoint(line); !ok {
					v.find(Changed, -1, l.number, "the line of the checkpoint is not as an export writes it")
					return nil
				}
			}
		case began:
			v.find(Inserted, -1, l.number, "a line stands between the proofs, where no event belongs")
			return nil
		default:
			if i, ok := v.form.indexOf(line); ok {
				last = i
			}
		}
	}
	if v.form == "" {
		return ErrNotExport // empty
	}
	if !ended {
		v.find(Cut, last+1, l.number,
			"the file ends after position %d without its checkpoint: it is a part only, and nothing in it is proven", last)
		return nil
	}
	if v.form != v.end.Format && !(v.form == NDJSON && v.end.Format == OCSF && v.eventsEnd == 1) {
		v.find(Changed, -1, v.endLine, "the file says it is %s and is not", v.end.Format)
		return nil
	}
	v.form = v.end.Format
	r := &v.report
	r.Format, r.From, r.Next, r.Expired = v.form, v.end.From, v.end.Next, v.end.Expired
	r.Waiting, r.Selection, r.Note = v.end.Waiting, v.end.Selection, v.end.Note
	return nil
}

// broken makes a finding of a damaged file; another error is passed on.
func (v *verification) broken(err error, position, line int64) error {
	switch {
	case errors.Is(err, errCut):
		v.find(Cut, position, line,
			"the file ends before its checkpoint, after position %d: it is a part only, and nothing in it is proven", position-1)
	case errors.Is(err, errDamaged), errors.Is(err, errLong):
		v.find(Changed, position, line, "%v", err)
	default:
		return fmt.Errorf("reading the file: %w", err)
	}
	return nil
}

// walk feeds the whole log to the proof: events by their records, all between them
// by the proof lines.
func (v *verification) walk(cp merkle.Checkpoint) (err error) {
	l, err := v.open.open(v.read)
	if err != nil {
		return fmt.Errorf("reading the file again: %w", err)
	}
	defer func() { _ = l.close() }()
	if v.proofs, err = v.open.open(nil); err != nil {
		return fmt.Errorf("reading the file again: %w", err)
	}
	defer func() { _ = v.proofs.close() }()
	if err := v.proofs.skip(v.proofsFrom, v.eventsEnd-1); err != nil {
		return fmt.Errorf("reading the proofs: %w", err)
	}
	if err := v.advance(); err != nil || v.report.Finding != nil {
		return err
	}
	for v.report.Finding == nil {
		if err := v.ctx.Err(); err != nil {
			return err
		}
		line, err := l.next()
		if err != nil {
			return fmt.Errorf("reading the file again: %w", err) // it was whole a moment ago
		}
		if l.number == v.eventsEnd {
			break
		}
		if l.number == 1 && v.form.kindOf(line) == header {
			continue
		}
		if err := v.event(line, l.number, cp.Size); err != nil {
			return err
		}
	}
	if v.report.Finding == nil {
		err = v.finish(cp)
	}
	return err
}

// event takes one line of an event.
func (v *verification) event(line []byte, number, size int64) error {
	e, ok := v.form.parseEvent(line, &v.scratch)
	next, _ := v.slice.Root()
	switch {
	case !ok:
		if v.pending != nil && v.pending.From == next {
			next = v.pending.To
		}
		v.find(Changed, next, number, "the line is not an event as an export writes it")
		return nil
	case e.Index >= size:
		v.find(Inserted, e.Index, number, "the position lies beyond the checkpoint, which covers %d events", size)
		return nil
	case e.Index < next:
		v.find(Inserted, e.Index, number, "the position was already taken by a line before")
		return nil
	}
	if err := v.gap(next, e.Index, number); err != nil || v.report.Finding != nil {
		return err
	}
	if v.pending != nil && v.pending.From == e.Index {
		v.find(Inserted, e.Index, number, "the file's own proof says that positions %d to %d are not shown", v.pending.From, v.pending.To-1)
		return nil
	}
	leaf := merkle.LeafHash(e.Record)
	if leaf != e.Leaf {
		v.find(Changed, e.Index, number,
			"the record does not hash to its leaf: one of the two was changed, here or in the log before the export")
		return nil
	}
	if v.again = v.form.AppendEvent(v.again[:0], e); !bytes.Equal(trimmed(v.again), line) {
		v.find(Disagrees, e.Index, number, "the line says something else than its record does")
		return nil
	}
	v.report.Events++
	return v.slice.Leaf(e.Index, leaf)
}

// gap takes the proof of the positions [from, to), which the file does not show; to
// is the position on the given line, or the log's end.
func (v *verification) gap(from, to, number int64) error {
	if from == to {
		return nil
	}
	p := v.pending
	switch {
	case p == nil || p.From > from:
		end := to
		if p != nil {
			end = min(end, p.From)
		}
		return v.absent(from, end, number)
	case p.From < from || p.To > to:
		v.find(Inserted, to, number, "the file's own proof says that positions %d to %d are not shown", p.From, p.To-1)
		return nil
	case p.To < to:
		return v.absent(p.To, to, number)
	}
	if err := v.slice.Gap(p.From, p.To, p.Hashes); err != nil {
		v.find(Changed, p.From, v.proofs.number, "the proof of the positions %d to %d is not one", p.From, p.To-1)
		return nil
	}
	if from < v.end.Next && to > v.end.From {
		v.report.Hidden += min(to, v.end.Next) - max(from, v.end.From)
	}
	// Where everything was selected, only an expiry accounts for a position that is
	// not shown.
	if first := max(from, v.end.From, v.end.Expired); v.everything() && first < min(to, v.end.Next) {
		v.find(Removed, first, 0, "the log has a leaf for positions %d to %d, but their records were missing when the file was made",
			first, min(to, v.end.Next)-1)
	}
	return v.advance()
}

func (v *verification) everything() bool {
	return string(bytes.TrimSpace(v.end.Selection)) == "{}"
}

// absent names positions that are neither shown nor proven: moved to a later line,
// or removed.
func (v *verification) absent(from, to, number int64) error {
	l, err := v.open.open(nil)
	if err != nil {
		return fmt.Errorf("reading the file again: %w", err)
	}
	defer func() { _ = l.close() }()
	for {
		line, err := l.next()
		if err != nil {
			return fmt.Errorf("reading the file again: %w", err)
		}
		if l.number >= v.eventsEnd {
			break
		}
		if l.number < number {
			continue
		}
		if i, ok := v.form.indexOf(line); ok && i == from && v.form.kindOf(line) == event {
			v.find(Reordered, from, l.number, "the position stands on line %d, after a later one on line %d", l.number, number)
			return nil
		}
	}
	v.find(Removed, from, number, "positions %d to %d are neither shown nor covered by a proof", from, to-1)
	return nil
}

// advance reads the next line of proofs.
func (v *verification) advance() error {
	v.pending = nil
	line, err := v.proofs.next()
	if err != nil {
		return fmt.Errorf("reading the proofs: %w", err)
	}
	if v.form.kindOf(line) != proof {
		return nil // the checkpoint
	}
	p, ok := v.form.parseProof(line)
	if !ok {
		v.find(Changed, -1, v.proofs.number, "the line of a proof is not as an export writes it")
		return nil
	}
	v.pending = p
	return nil
}

// finish compares the end of the walk with the checkpoint and with what the
// exporter reported.
func (v *verification) finish(cp merkle.Checkpoint) error {
	next, _ := v.slice.Root()
	if err := v.gap(next, cp.Size, v.eventsEnd); err != nil || v.report.Finding != nil {
		return err
	}
	switch {
	case v.pending != nil:
		v.find(Inserted, v.pending.From, v.proofs.number, "the file has a proof for positions that do not belong there")
	case v.slice.Verify(cp.Size, cp.Root) != nil:
		v.find(Changed, -1, 0, "the file does not add up to the signed root: a proof, or a record together with its leaf, was changed. "+
			"The file does not show which; export again, or run: trakr audit verify")
	case v.report.Events != v.end.Events:
		v.find(Miscounted, -1, v.endLine, "the file has %d events and its end counts %d", v.report.Events, v.end.Events)
	case v.end.Unplaced > 0:
		v.find(Reported, -1, v.endLine, "when the file was made, the log's table had %d rows that were never part of the log; "+
			"run: trakr audit verify", v.end.Unplaced)
	}
	return nil
}
