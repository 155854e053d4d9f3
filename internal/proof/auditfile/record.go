package auditfile

import (
	"bytes"
	"slices"
	"strconv"
)

// member numbers the members of a record that a file shows.
type member int

const (
	action member = iota
	actorID
	actorType
	correlationID
	droppedNames
	eventID
	fieldNames
	occurredAt
	outcome
	reasonCode
	reasonRef
	recipient
	requestID
	schemaVersion
	statusDetail
	subjectDigest
	tenantID
	traceID
	members
)

// names are the members' names, in the order of a canonical record (RFC 8785).
var names = [members]string{
	action: "action", actorID: "actor_id", actorType: "actor_type", correlationID: "correlation_id", droppedNames: "dropped_names",
	eventID: "event_id", fieldNames: "field_names", occurredAt: "occurred_at", outcome: "outcome", reasonCode: "reason_code",
	reasonRef: "reason_ref", recipient: "recipient", requestID: "request_id", schemaVersion: "schema_version",
	statusDetail: "status_detail", subjectDigest: "subject_digest", tenantID: "tenant_id", traceID: "trace_id",
}

// Members lists the names of the members that a file can show.
func Members() []string { return slices.Clone(names[:]) }

var byName = func() map[string]member {
	out := make(map[string]member, members)
	for m, name := range names {
		out[name] = member(m)
	}
	return out
}()

// memberOf returns the member of a name; members for one that no record has.
func memberOf(name []byte) member {
	if m, ok := byName[string(name)]; ok { // does not allocate
		return m
	}
	return members
}

// record is a canonical record taken apart: each member as it is in the bytes,
// nil when it is absent.
type record [members][]byte

// parse takes a record apart without copying it. A record that is not made of
// strings, lists of strings and numbers, as ours are, shows no member at all: a
// reader gets nothing that is not in the bytes.
func parse(b []byte) (r record) {
	if len(b) < 2 || b[0] != '{' || b[len(b)-1] != '}' {
		return record{}
	}
	for b = b[1:]; len(b) > 1; {
		key := value(b)
		if len(key) < 2 || key[0] != '"' || len(b) <= len(key) || b[len(key)] != ':' {
			return record{}
		}
		b = b[len(key)+1:]
		v := value(b)
		if v == nil || len(b) <= len(v) {
			return record{}
		}
		if m := memberOf(key[1 : len(key)-1]); m != members {
			r[m] = v
		}
		if b = b[len(v):]; b[0] == ',' {
			b = b[1:]
		} else if len(b) != 1 {
			return record{}
		}
	}
	return r
}

// value returns the JSON value at the beginning of b: a string, a list of strings
// or a number.
func value(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	switch c := b[0]; {
	case c == '"':
		for i := 1; ; {
			j := bytes.IndexByte(b[i:], '"')
			if j < 0 {
				return nil
			}
			escapes := 0
			for k := i + j - 1; b[k] == '\\'; k-- {
				escapes++
			}
			if i += j + 1; escapes%2 == 0 {
				return b[:i]
			}
		}
	case c == '[':
		for i := 1; i < len(b); {
			if b[i] == ']' {
				return b[:i+1]
			}
			v := value(b[i:])
			if len(v) == 0 || v[0] != '"' {
				return nil
			}
			switch i += len(v); {
			case i == len(b) || b[i] != ',' && b[i] != ']':
				return nil
			case b[i] == ',':
				i++
			}
		}
		return nil
	default:
		n := 0
		for n < len(b) && (b[n] == '-' || b[n] >= '0' && b[n] <= '9') {
			n++
		}
		if n == 0 {
			return nil
		}
		return b[:n]
	}
}

// appendText appends the text of a member: a string without quotes and escapes, a
// list's strings with spaces between.
func appendText(dst, v []byte) []byte {
	if len(v) == 0 {
		return dst
	}
	switch v[0] {
	case '"':
		return appendUnquoted(dst, v[1:len(v)-1])
	case '[':
		for i := 1; v[i] != ']'; i++ { // over the comma
			s := value(v[i:])
			if i > 1 {
				dst = append(dst, ' ')
			}
			dst = appendUnquoted(dst, s[1:len(s)-1])
			if i += len(s); v[i] == ']' {
				break
			}
		}
		return dst
	}
	return append(dst, v...)
}

// A record is full of quotes, a few bytes apart. The four functions below take it
// byte by byte and without a branch for the common cases: where to go on is looked
// up, not decided. That is several times as fast as searching for the next quote.

// Tables of what a byte costs when it is quoted.
var (
	quotes    = [256]uint8{'"': 1}          // one byte more in CSV
	backslash = [256]uint8{'\\': 1}         // begins an escape
	escaped   = [256]uint8{'"': 1, '\\': 1} // one byte more in JSON
)

// appendCSVQuoted appends a quoted CSV cell (RFC 4180, section 2.7).
func appendCSVQuoted(dst, s []byte) []byte {
	n := len(dst) + 1
	dst = slices.Grow(append(dst, '"'), 2*len(s)+2)
	b := dst[:cap(dst)]
	for _, c := range s {
		b[n], b[n+1] = c, c
		n += 1 + int(quotes[c])
	}
	b[n] = '"'
	return b[:n+1]
}

// appendCSVUnquoted undoes it for the inside of a cell. It does not detect a cell
// that is badly quoted.
func appendCSVUnquoted(dst, s []byte) []byte {
	n, kept := len(dst), uint8(0)
	b := slices.Grow(dst, len(s))
	b = b[:cap(b)]
	for _, c := range s {
		b[n] = c
		q := quotes[c]
		n += 1 - int(q&kept)
		kept = q &^ kept // drops the second of a pair
	}
	return b[:n]
}

// appendQuoted appends a JSON string with the escapes of RFC 8785, section
// 3.2.2.2, which are those of the records themselves.
func appendQuoted(dst, s []byte) []byte {
	const hex = "0123456789abcdef"
	n := len(dst) + 1
	dst = slices.Grow(append(dst, '"'), 6*len(s)+1) // a control character takes six
	b := dst[:cap(dst)]
	for _, c := range s {
		b[n] = '\\'
		n += int(escaped[c])
		b[n] = c
		n++
		if c >= 0x20 {
			continue
		}
		b[n-1] = '\\'
		if short := shortEscape[c]; short != 0 {
			b[n] = short
			n++
			continue
		}
		n += copy(b[n:], []byte{'u', '0', '0', hex[c>>4], hex[c&15]})
	}
	b[n] = '"'
	return b[:n+1]
}

var shortEscape = [32]byte{'\b': 'b', '\t': 't', '\n': 'n', '\f': 'f', '\r': 'r'}

// appendUnquoted undoes it for the inside of a string.
func appendUnquoted(dst, s []byte) []byte {
	if bytes.IndexByte(s, '\\') < 0 {
		return append(dst, s...)
	}
	n, after := len(dst), uint8(0)
	b := slices.Grow(dst, len(s)+1)
	b = b[:cap(b)]
	for i := 0; i < len(s); i++ {
		c := s[i]
		b[n] = c
		if after&^escaped[c] != 0 { // an escape for another character
			i += unescape(b[n:], s[i:])
			after = 0
			n++
			continue
		}
		after = backslash[c] &^ after
		n += 1 - int(after)
	}
	return b[:n]
}

// unescape writes the character of the escape whose backslash was just read, and
// returns how many more bytes of s it took. Those that take three bytes took six.
func unescape(b, s []byte) (more int) {
	switch s[0] {
	case 'b':
		b[0] = '\b'
	case 't':
		b[0] = '\t'
	case 'n':
		b[0] = '\n'
	case 'f':
		b[0] = '\f'
	case 'r':
		b[0] = '\r'
	case 'u': // RFC 8785 writes only control characters so
		if len(s) > 4 {
			if u, err := strconv.ParseUint(string(s[1:5]), 16, 7); err == nil {
				b[0] = byte(u)
				return 4
			}
		}
	}
	return 0
}
