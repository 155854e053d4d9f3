package auditfile

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strconv"
)

// Source is a file that can be read from its start more than once.
type Source func() (io.ReadCloser, error)

// lines reads a file, unpacked, line by line.
type lines struct {
	r      *bufio.Reader
	close  func() error
	long   []byte // a line that did not fit into r's buffer
	offset int64  // where the last line began
	length int64  // its bytes, with the line end
	number int64  // its number, from 1
	read   func(bytes int64)
}

// Bounds of a reader: most lines fit into the buffer, and one longer than maxLine
// is none of ours.
const (
	lineBuffer = 256 << 10
	maxLine    = 4 << 20
)

var (
	errCut  = errors.New("the file ends in the middle of a line")
	errLong = errors.New("the line is longer than any line of an export")
)

// open reads the file from its start. Its gzip is known by the first two bytes (RFC
// 1952), its form by its content.
func (s Source) open(read func(int64)) (*lines, error) {
	f, err := s()
	if err != nil {
		return nil, err
	}
	l := &lines{r: bufio.NewReaderSize(f, lineBuffer), close: f.Close, read: read}
	if magic, err := l.r.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(l.r)
		if err != nil {
			return nil, errors.Join(unreadable(err), f.Close())
		}
		l.r = bufio.NewReaderSize(z, lineBuffer)
	}
	return l, nil
}

// skip advances to the line that begins at an offset.
func (l *lines) skip(offset, number int64) error {
	for left := offset; left > 0; {
		n, err := l.r.Discard(int(min(left, lineBuffer)))
		if err != nil {
			return unreadable(err)
		}
		left -= int64(n)
	}
	l.offset, l.length, l.number = offset, 0, number
	return nil
}

// next returns the next line without its end; it is valid until the call after.
// The file's end is io.EOF; one without a line end before it is errCut.
func (l *lines) next() ([]byte, error) {
	l.offset += l.length
	l.length = 0
	l.number++
	line, err := l.r.ReadSlice('\n')
	l.long = l.long[:0]
	for errors.Is(err, bufio.ErrBufferFull) {
		if l.long = append(l.long, line...); len(l.long) > maxLine {
			return nil, errLong
		}
		line, err = l.r.ReadSlice('\n')
	}
	if len(l.long) > 0 {
		l.long = append(l.long, line...)
		line = l.long
	}
	if errors.Is(err, io.EOF) && len(line) == 0 {
		return nil, io.EOF
	}
	if err != nil {
		return nil, unreadable(err)
	}
	l.length = int64(len(line))
	if l.read != nil {
		l.read(l.length)
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte{'\r'}), nil
}

// unreadable distinguishes a damaged file from one that cannot be read.
func unreadable(err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errCut
	case errors.Is(err, gzip.ErrChecksum), errors.Is(err, gzip.ErrHeader), errors.As(err, new(flate.CorruptInputError)):
		return errDamaged
	}
	return err
}

var errDamaged = errors.New("the file's gzip is damaged")

// kind is what a line is.
type kind int

const (
	unknown kind = iota
	header
	event
	proof
	checkpoint
)

// formatOf returns a file's form by its first line. A file without a single event is
// of either JSON form; its end has the form.
func formatOf(first []byte) (Format, bool) {
	switch {
	case bytes.Equal(first, bytes.TrimSuffix(CSV.Header(), []byte("\r\n"))):
		return CSV, true
	case bytes.HasPrefix(first, []byte(`{"unmapped":{"log_index":`)):
		return OCSF, true
	case bytes.HasPrefix(first, []byte(`{"log_index":`)), bytes.HasPrefix(first, []byte(`{"trakr_`)):
		return NDJSON, true
	}
	return "", false
}

func (f Format) kindOf(line []byte) kind {
	if f == CSV {
		switch {
		case bytes.HasPrefix(line, []byte("log_index,")):
			return header
		case bytes.HasPrefix(line, []byte(proofMark+",")):
			return proof
		case bytes.HasPrefix(line, []byte(checkpointMark+",")):
			return checkpoint
		}
		return event
	}
	switch {
	case bytes.HasPrefix(line, []byte(`{"`+proofMember+`":`)):
		return proof
	case bytes.HasPrefix(line, []byte(`{"`+checkpointMember+`":`)):
		return checkpoint
	}
	return event
}

// indexOf reads the position of an event's line and nothing else of it.
func (f Format) indexOf(line []byte) (index int64, ok bool) {
	line = bytes.TrimPrefix(bytes.TrimPrefix(line, []byte(`{"unmapped":`)), []byte(`{"log_index":`))
	i := bytes.IndexByte(line, ',')
	if i < 0 {
		return 0, false
	}
	return parseIndex(line[:i])
}

// parseEvent reads an event's line. What it does not look at, the comparison with
// AppendEvent does. The event's bytes are valid until the next call with the same
// scratch.
func (f Format) parseEvent(line []byte, scratch *[]byte) (e Event, ok bool) {
	if f == CSV {
		return parseCSV(line, scratch)
	}
	if f == OCSF {
		line, ok = bytes.CutPrefix(line, []byte(`{"unmapped":`))
		if !ok {
			return e, false
		}
	}
	rest, ok := e.parseHead(line)
	if !ok {
		return e, false
	}
	if f == OCSF {
		// Inside a string a quote is escaped, so this cannot be part of one.
		i := bytes.Index(rest, []byte(rawData+`"`))
		if i < 0 || !bytes.HasSuffix(rest[i+len(rawData)+1:], []byte(`"}`)) {
			return e, false
		}
		*scratch = appendUnquoted((*scratch)[:0], rest[i+len(rawData)+1:len(rest)-2])
	} else {
		if len(rest) == 0 || rest[0] != ',' {
			return e, false
		}
		*scratch = append(append((*scratch)[:0], '{'), rest[1:]...)
	}
	e.Record = *scratch
	return e, true
}

// parseHead is the reverse of appendHead; it returns what follows.
func (e *Event) parseHead(b []byte) (rest []byte, ok bool) {
	if b, ok = bytes.CutPrefix(b, []byte(`{"log_index":`)); !ok {
		return nil, false
	}
	i := bytes.IndexByte(b, ',')
	if i < 0 {
		return nil, false
	}
	if e.Index, ok = parseIndex(b[:i]); !ok {
		return nil, false
	}
	if b, ok = bytes.CutPrefix(b[i:], []byte(`,"recorded_at":"`)); !ok {
		return nil, false
	}
	if i = bytes.IndexByte(b, '"'); i < 0 || !isTime(b[:i]) {
		return nil, false
	}
	e.RecordedAt = b[:i]
	if b, ok = bytes.CutPrefix(b[i:], []byte(`","leaf":"`)); !ok {
		return nil, false
	}
	if i = bytes.IndexByte(b, '"'); i < 0 || !e.parseLeaf(b[:i]) {
		return nil, false
	}
	return b[i+1:], true
}

func parseIndex(b []byte) (int64, bool) {
	if len(b) == 0 || b[0] == '-' || b[0] == '+' {
		return 0, false
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	return n, err == nil
}

// isTime reports whether b has the form of our times: no proof covers recorded_at, so
// at least it can be nothing else.
func isTime(b []byte) bool {
	const form = "0000-00-00T00:00:00.000000Z"
	if len(b) != len(form) {
		return false
	}
	for i, c := range b {
		if f := form[i]; f == '0' && (c < '0' || c > '9') || f != '0' && c != f {
			return false
		}
	}
	return true
}

func (e *Event) parseLeaf(b []byte) bool {
	if len(b) != base64.StdEncoding.EncodedLen(len(e.Leaf)) {
		return false
	}
	var leaf [33]byte // what 44 characters may hold
	n, err := base64.StdEncoding.Strict().Decode(leaf[:], b)
	copy(e.Leaf[:], leaf[:])
	return err == nil && n == len(e.Leaf)
}

// parseCSV reads the first cell, the fourth, and the last two.
func parseCSV(line []byte, scratch *[]byte) (e Event, ok bool) {
	i := bytes.IndexByte(line, ',')
	if i < 0 {
		return e, false
	}
	if e.Index, ok = parseIndex(line[:i]); !ok {
		return e, false
	}
	rest := line[i+1:]
	for column := 1; column < len(csvHeader)-1; column++ {
		cell, after, ok := cutCell(rest)
		if !ok {
			return e, false
		}
		switch csvHeader[column] {
		case "recorded_at":
			if e.RecordedAt = cell; !isTime(cell) {
				return e, false
			}
		case "leaf":
			if !e.parseLeaf(cell) {
				return e, false
			}
		}
		rest = after
	}
	if len(rest) < 2 || rest[0] != '"' || rest[len(rest)-1] != '"' {
		return e, false
	}
	*scratch = appendCSVUnquoted((*scratch)[:0], rest[1:len(rest)-1])
	e.Record = *scratch
	return e, true
}

// cutCell cuts the raw first cell off a row of which more follows.
func cutCell(row []byte) (cell, rest []byte, ok bool) {
	end := 0
	if len(row) > 0 && row[0] == '"' {
		for end = 1; ; {
			i := bytes.IndexByte(row[end:], '"')
			if i < 0 {
				return nil, nil, false
			}
			if end += i + 1; end < len(row) && row[end] == '"' {
				end++
				continue
			}
			break
		}
	}
	i := bytes.IndexByte(row[end:], ',')
	if i < 0 {
		return nil, nil, false
	}
	return row[:end+i], row[end+i+1:], true
}

// endText is the JSON object of a line of the end.
func (f Format) endText(line []byte) []byte {
	if f != CSV {
		return line
	}
	i := bytes.IndexByte(line, '"')
	if i < 0 || i+1 >= len(line) {
		return nil
	}
	return appendCSVUnquoted(nil, line[i+1:len(line)-1])
}

// parseProof reads a proof's line. It accepts only the exact line that is written for
// its content.
func (f Format) parseProof(line []byte) (*Proof, bool) {
	var v struct {
		Proof Proof `json:"trakr_proof"`
	}
	ok := json.Unmarshal(f.endText(line), &v) == nil && bytes.Equal(trimmed(f.AppendProof(nil, v.Proof)), line)
	return &v.Proof, ok
}

// parseCheckpoint reads the last line in the same way.
func (f Format) parseCheckpoint(line []byte) (End, bool) {
	var v struct {
		End End `json:"trakr_checkpoint"`
	}
	if json.Unmarshal(f.endText(line), &v) != nil {
		return End{}, false
	}
	again, err := f.AppendEnd(nil, v.End)
	return v.End, err == nil && bytes.Equal(trimmed(again), line)
}

func trimmed(line []byte) []byte { return bytes.TrimRight(line, "\r\n") }
