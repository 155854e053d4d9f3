package audit

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"trakr/internal/proof/jcs"
)

// storedEvent is one row of the audit. Its bytes are valid until the next one.
type storedEvent struct {
	cursor
	raw [][]byte
}

func (e storedEvent) record() []byte { return e.raw[rawRecord] }

func (e storedEvent) eventID() string { return string(appendUUID(nil, e.raw[rawEventID])) }

// eventStream reads events in the order of the log, one at a time with one look
// ahead, straight from the wire: nothing is allocated for an event.
type eventStream struct {
	rows pgx.Rows
	at   storedEvent
	more bool
}

// readEvents begins after a place in the order of the log; the zero one is before all.
func readEvents(ctx context.Context, tx pgx.Tx, after cursor) (*eventStream, error) {
	from, args := "", []any{pgx.QueryResultFormats{pgx.BinaryFormatCode}}
	if after != (cursor{}) { // no condition where everything is read: an id or epoch below zero would hide from it
		from, args = `WHERE (epoch, xid, id) > ($1, $2, $3) `, append(args, after.epoch, after.xid, after.id)
	}
	rows, err := tx.Query(ctx, `SELECT `+verifiedColumns+` FROM trakr.audit_events `+from+`ORDER BY epoch, xid, id`, args...)
	if err != nil {
		return nil, err
	}
	s := &eventStream{rows: rows}
	return s, s.next()
}

// next reads the next event; more is false after the last one.
func (s *eventStream) next() error {
	if s.more = s.rows.Next(); !s.more {
		return s.rows.Err()
	}
	raw := s.rows.RawValues()
	s.at = storedEvent{raw: raw, cursor: cursor{
		epoch: int32(binary.BigEndian.Uint32(raw[rawEpoch])),
		xid:   binary.BigEndian.Uint64(raw[rawXid]),
		id:    int64(binary.BigEndian.Uint64(raw[rawID])),
	}}
	return nil
}

// appendCanonical appends the record that the columns would have: every one that
// is not NULL is a member. When it equals the stored record, that is canonical,
// has no other member, and every column agrees with it.
func appendCanonical(b []byte, values [][]byte) []byte {
	first := len(b)
	for i, c := range columns {
		v := values[i]
		if v == nil {
			continue
		}
		b = append(b, ",\""...)
		b = append(b, c.name...)
		b = append(b, "\":"...)
		switch c.form {
		case asText:
			b = appendText(b, v)
		case asList:
			b = appendList(b, v)
		case asUUID:
			b = append(appendUUID(append(b, '"'), v), '"')
		case asTime:
			b = append(appendTime(append(b, '"'), v), '"')
		case asNumber:
			b = strconv.AppendInt(b, int64(int32(binary.BigEndian.Uint32(v))), 10)
		}
	}
	if len(b) == first {
		b = append(b, '{')
	}
	b[first] = '{'
	return append(b, '}')
}

// appendText appends a JSON string of text that the database has found to be
// valid UTF-8; only some of it needs escapes.
func appendText(b, v []byte) []byte {
	for _, c := range v {
		if c < 0x20 || c == '"' || c == '\\' {
			return jcs.AppendString(b, string(v))
		}
	}
	return append(append(append(b, '"'), v...), '"')
}

func appendUUID(b, v []byte) []byte {
	if len(v) != 16 {
		return b
	}
	b = hex.AppendEncode(b, v[:4])
	for _, part := range [][]byte{v[4:6], v[6:8], v[8:10], v[10:]} {
		b = hex.AppendEncode(append(b, '-'), part)
	}
	return b
}

// millennium is where PostgreSQL's microseconds begin.
var millennium = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func appendTime(b, v []byte) []byte {
	us := int64(binary.BigEndian.Uint64(v))
	// In two steps: a Duration cannot hold what the column can.
	return time.Unix(millennium.Unix()+us/1e6, us%1e6*1e3).UTC().AppendFormat(b, TimeForm)
}

// appendList appends an array of texts, which is on the wire as dimensions, flags and
// type, the dimension's length and first index, and the elements.
func appendList(b, v []byte) []byte {
	b = append(b, '[')
	if len(v) >= 20 {
		v = v[20:]
		for i := 0; len(v) >= 4; i++ {
			if i > 0 {
				b = append(b, ',')
			}
			n := int32(binary.BigEndian.Uint32(v))
			v = v[4:]
			if n < 0 || int(n) > len(v) {
				b = append(b, "null"...)
				continue
			}
			b = appendText(b, v[:n])
			v = v[n:]
		}
	}
	return append(b, ']')
}

// disagreement returns which columns differ from the record, and what is wrong with
// the record's form; rebuilt is what appendCanonical made of the columns. It is
// called only when the two differ, and never returns a value.
func disagreement(record, rebuilt []byte) (differing []string, formFault string) {
	members, ok := parseMembers(record)
	if !ok {
		return nil, "the record is not a JSON object with each member once"
	}
	ours, _ := parseMembers(rebuilt)
	unknown := 0
	for name := range members {
		if !isColumn(name) {
			unknown++
		}
	}
	again := []byte("{")
	canonical := true
	for _, c := range columns {
		r, in := members[c.name]
		o, col := ours[c.name]
		if in != col || (in && !sameJSON(r, o)) {
			differing = append(differing, c.name)
		}
		if in {
			var fine bool
			again, fine = appendMember(again, c.name, r)
			canonical = canonical && fine
		}
	}
	again = append(again, '}')
	switch {
	case unknown > 0:
		formFault = fmt.Sprintf("the record has %d member(s) that no event has", unknown)
	case !canonical || !bytes.Equal(again, record):
		formFault = "the record is not in canonical form (RFC 8785)"
	}
	return differing, formFault
}

// parseMembers splits an object into its members; a name that occurs twice is refused,
// since readers differ on which one counts.
func parseMembers(b []byte) (map[string]json.RawMessage, bool) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, false
	}
	out := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		name, isName := t.(string)
		if err != nil || !isName {
			return nil, false
		}
		var v json.RawMessage
		if _, twice := out[name]; twice || d.Decode(&v) != nil {
			return nil, false
		}
		out[name] = v
	}
	if _, err := d.Token(); err != nil {
		return nil, false
	}
	return out, d.InputOffset() == int64(len(b))
}

func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	p, err1 := json.Marshal(x)
	q, err2 := json.Marshal(y)
	return err1 == nil && err2 == nil && bytes.Equal(p, q)
}

// appendMember writes one member in the form of RFC 8785; false when no event has a
// member of its type.
func appendMember(b []byte, name string, raw json.RawMessage) ([]byte, bool) {
	if len(b) > 1 {
		b = append(b, ',')
	}
	b = append(jcs.AppendString(b, name), ':')
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return b, false
	}
	switch v := v.(type) {
	case string:
		return jcs.AppendString(b, v), true
	case json.Number:
		n, err := strconv.ParseInt(v.String(), 10, 64)
		return strconv.AppendInt(b, n, 10), err == nil
	case []any:
		b = append(b, '[')
		for i, x := range v {
			s, ok := x.(string)
			if !ok {
				return b, false
			}
			if i > 0 {
				b = append(b, ',')
			}
			b = jcs.AppendString(b, s)
		}
		return append(b, ']'), len(v) > 0
	}
	return b, false
}
