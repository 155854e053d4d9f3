package audit

import (
	"strconv"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/proof/jcs"
)

// TimeForm is the form of times in records: UTC, always six decimals.
const TimeForm = "2006-01-02T15:04:05.000000Z"

// Record returns the canonical bytes of the event: JSON as RFC 8785 (JCS)
// defines it: keys in UTF-16 order (all of ours are ASCII), no white space, shortest
// escapes. Absent members are left out. These bytes, and not a later re-encoding, are
// stored and hashed.
func (e Event) Record() []byte {
	var w writer
	for i := range columns {
		switch c := &columns[i]; c.form {
		case asList:
			w.list(c.name, c.list(&e))
		case asNumber:
			w.number(c.name, c.number(&e))
		default:
			if v := c.text(&e); v != "" || c.required {
				w.text(c.name, v)
			}
		}
	}
	return append(w.b, '}')
}

func fieldNames(fs []lifecycle.Field) []string {
	if fs == nil {
		return nil
	}
	out := make([]string, len(fs))
	for i, f := range fs {
		out[i] = string(f)
	}
	return out
}

// writer appends members in the order it is called, which must be sorted.
type writer struct{ b []byte }

func (w *writer) key(k string) {
	if len(w.b) == 0 {
		w.b = append(w.b, '{')
	} else {
		w.b = append(w.b, ',')
	}
	w.b = jcs.AppendString(w.b, k)
	w.b = append(w.b, ':')
}

func (w *writer) text(k, v string) {
	w.key(k)
	w.b = jcs.AppendString(w.b, v)
}

func (w *writer) number(k string, n int64) {
	w.key(k)
	w.b = strconv.AppendInt(w.b, n, 10)
}

func (w *writer) list(k string, vs []string) {
	if len(vs) == 0 {
		return
	}
	w.key(k)
	w.b = append(w.b, '[')
	for i, v := range vs {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.b = jcs.AppendString(w.b, v)
	}
	w.b = append(w.b, ']')
}

// jsonTime formats an optional time for people and machines alike.
func jsonTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(TimeForm)
}
