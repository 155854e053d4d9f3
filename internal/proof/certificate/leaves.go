package certificate

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"trakr/internal/proof/jcs"
)

// Bounds of what is looked at at all.
const (
	maxJSON    = 1 << 20
	maxDepth   = 8
	maxInteger = 1<<53 - 1 // RFC 8785, section 3.2.2.3: what every reader holds exactly
)

// flatten takes JSON apart into the canonical bytes (RFC 8785) of every leaf, by
// pointer (RFC 6901).
func flatten(b []byte) (map[string]string, *Finding) {
	switch {
	case len(b) > maxJSON:
		return nil, &Finding{Malformed, "", "it is longer than 1 MiB, which no certificate is"}
	case !utf8.Valid(b):
		return nil, &Finding{Malformed, "", "it is not UTF-8"}
	}
	f := flattener{d: json.NewDecoder(bytes.NewReader(b)), leaves: map[string]string{}}
	f.d.UseNumber()
	f.value("", 0)
	if _, err := f.d.Token(); f.fault == nil && !errors.Is(err, io.EOF) {
		f.fail("", "something stands after its end")
	}
	if f.fault == nil && !json.Valid(b) {
		f.fail("", "it is not JSON")
	}
	return f.leaves, f.fault
}

type flattener struct {
	d      *json.Decoder
	leaves map[string]string
	fault  *Finding
}

func (f *flattener) fail(pointer, detail string) {
	if f.fault == nil {
		f.fault = &Finding{Malformed, pointer, detail}
	}
}

func (f *flattener) value(pointer string, depth int) {
	t, err := f.d.Token()
	switch {
	case err != nil:
		f.fail(pointer, "it is not JSON, or it ends here")
	case depth > maxDepth:
		f.fail(pointer, "it is nested deeper than any certificate")
	}
	if f.fault != nil {
		return
	}
	switch t := t.(type) {
	case string:
		f.leaves[pointer] = string(jcs.AppendString(nil, t))
	case json.Number:
		// Another spelling of an integer, or a fraction, is kept as it is; nothing of
		// ours comes out so.
		f.leaves[pointer] = t.String()
	case bool:
		f.leaves[pointer] = strconv.FormatBool(t)
	case nil:
		f.leaves[pointer] = "null"
	case json.Delim:
		if t == '[' {
			f.array(pointer, depth)
		} else {
			f.object(pointer, depth)
		}
	}
}

func (f *flattener) array(pointer string, depth int) {
	n := 0
	for ; f.fault == nil && f.d.More(); n++ {
		f.value(pointer+"/"+strconv.Itoa(n), depth+1)
	}
	f.close(pointer)
	if n == 0 {
		f.leaves[pointer] = "[]"
	}
}

func (f *flattener) object(pointer string, depth int) {
	seen := map[string]bool{}
	for f.fault == nil && f.d.More() {
		t, err := f.d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			f.fail(pointer, "it is not JSON")
			return
		}
		at := pointer + "/" + escape(name)
		if seen[name] {
			f.fail(at, "the member stands there twice, and a reader may take either")
			return
		}
		seen[name] = true
		f.value(at, depth+1)
	}
	f.close(pointer)
	if len(seen) == 0 {
		f.leaves[pointer] = "{}"
	}
}

func (f *flattener) close(pointer string) {
	if f.fault != nil {
		return
	}
	if _, err := f.d.Token(); err != nil {
		f.fail(pointer, "it is not JSON, or it ends here")
	}
}

// escape writes a member's name as a pointer has it (RFC 6901, section 3).
var escaper = strings.NewReplacer("~", "~0", "/", "~1")

func escape(name string) string { return escaper.Replace(name) }

// formFaults compares the leaves of a file with those of what was understood of it.
func formFaults(file, understood map[string]string) []Finding {
	var out []Finding
	for _, p := range slices.Sorted(maps.Keys(file)) {
		if want, ok := understood[p]; !ok || want == "null" {
			out = append(out, Finding{Form, p, "it is not part of a certificate, or not of the type that belongs there"})
		} else if want != file[p] {
			out = append(out, Finding{Form, p, "the value is not in the form that belongs there"})
		}
	}
	for _, p := range slices.Sorted(maps.Keys(understood)) {
		if _, ok := file[p]; !ok {
			out = append(out, Finding{Form, p, "it is missing, or not of the type that belongs there"})
		}
	}
	return out
}
