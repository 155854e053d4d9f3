package connect

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// QSH returns the query string hash: lower-case hex SHA-256 of the canonical
// request.
func QSH(method, rawURL, baseURL string) string {
	sum := sha256.Sum256([]byte(CanonicalRequest(method, rawURL, baseURL)))
	return hex.EncodeToString(sum[:])
}

// CanonicalRequest returns METHOD & PATH & QUERY as Atlassian's libraries build
// it. rawURL is a request target or absolute URL, still percent-encoded: neither
// path nor query may have been decoded or cleaned before.
func CanonicalRequest(method, rawURL, baseURL string) string {
	path, query := split(rawURL)
	base, _ := split(baseURL)
	return strings.ToUpper(method) + "&" + canonicalPath(path, base) + "&" + canonicalQuery(query)
}

// split returns the raw path and query of a target such as "/p?a=b" or
// "https://host/p?a=b#f".
func split(raw string) (path, query string) {
	raw, _, _ = strings.Cut(raw, "#")
	raw, query, _ = strings.Cut(raw, "?")
	if i := strings.Index(raw, "://"); i >= 0 && !strings.Contains(raw[:i], "/") {
		raw = raw[i+3:]
		if i = strings.IndexByte(raw, '/'); i < 0 {
			return "", query
		}
		raw = raw[i:]
	}
	return raw, query
}

// canonicalPath cuts the base path off once, as plain text: "/base" also cuts
// the start of "/baseline", and both sides do it.
func canonicalPath(path, base string) string {
	if base == "" { // as URL parsers in JavaScript have it
		base = "/"
	}
	path = strings.TrimPrefix(path, base)
	if path == "" {
		return "/"
	}
	path = strings.ReplaceAll(path, "&", "%26")
	if path[0] != '/' {
		path = "/" + path
	}
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	return path
}

// param is one query parameter: its decoded key and values.
type param struct {
	key    []uint16 // UTF-16 code units, the order JavaScript sorts by
	name   string
	values []string
}

// canonicalQuery sorts parameters and their values and encodes them again.
func canonicalQuery(query string) string {
	params := parseQuery(query)
	var b strings.Builder
	for i, p := range params {
		if i > 0 {
			b.WriteByte('&')
		}
		encode(&b, p.name)
		b.WriteByte('=')
		slices.SortStableFunc(p.values, func(a, c string) int { return slices.Compare(units(a), units(c)) })
		for j, v := range p.values {
			if j > 0 {
				b.WriteByte(',')
			}
			encode(&b, v)
		}
	}
	return b.String()
}

// parseQuery reads a query as Node's querystring does: no semicolons, "+" is a
// space, a broken escape stays as it is, and the token's own parameter is left
// out. "__proto__" cannot be a key of a JavaScript object.
func parseQuery(query string) []param {
	var out []param
	index := map[string]int{}
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if pair == "" {
			continue
		}
		k, v, _ := strings.Cut(pair, "=")
		k, v = decode(k), decode(v)
		if k == "jwt" || k == "__proto__" {
			continue
		}
		i, ok := index[k]
		if !ok {
			i = len(out)
			index[k] = i
			out = append(out, param{key: units(k), name: k})
		}
		out[i].values = append(out[i].values, v)
	}
	slices.SortFunc(out, func(a, b param) int { return slices.Compare(a.key, b.key) })
	return out
}

func units(s string) []uint16 { return utf16.Encode([]rune(s)) }

// decode turns "+" into a space and valid escapes into bytes, then replaces what
// is not UTF-8.
func decode(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+':
			b = append(b, ' ')
		case c == '%' && i+2 < len(s) && unhex(s[i+1]) >= 0 && unhex(s[i+2]) >= 0:
			b = append(b, byte(unhex(s[i+1])<<4|unhex(s[i+2])))
			i += 2
		default:
			b = append(b, c)
		}
	}
	return replaceInvalid(b)
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// replaceInvalid puts one U+FFFD for each maximal subpart of an ill-formed
// sequence, as the WHATWG decoder does; Go's own conversion puts one per byte.
func replaceInvalid(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var out strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			n = subpart(b)
		}
		out.WriteRune(r)
		b = b[n:]
	}
	return out.String()
}

// subpart is the length of the ill-formed sequence's longest beginning that some
// well-formed sequence has too (Unicode 3.9, table 3-7).
func subpart(b []byte) int {
	lo, hi, need := byte(0x80), byte(0xBF), 0
	switch c := b[0]; {
	case 0xC2 <= c && c <= 0xDF:
		need = 1
	case 0xE0 <= c && c <= 0xEF:
		need = 2
		if c == 0xE0 {
			lo = 0xA0
		} else if c == 0xED {
			hi = 0x9F
		}
	case 0xF0 <= c && c <= 0xF4:
		need = 3
		if c == 0xF0 {
			lo = 0x90
		} else if c == 0xF4 {
			hi = 0x8F
		}
	}
	n := 1
	for n <= need && n < len(b) && lo <= b[n] && b[n] <= hi {
		n, lo, hi = n+1, 0x80, 0xBF
	}
	return n
}

// encode writes s percent-encoded but for RFC 3986's unreserved characters.
func encode(b *strings.Builder, s string) {
	const upper = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		if unreserved(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(upper[c>>4])
			b.WriteByte(upper[c&15])
		}
	}
}

func unreserved(c byte) bool {
	letter := func(c byte) bool { return cmp.Compare(c|0x20, 'a') >= 0 && c|0x20 <= 'z' }
	return letter(c) || ('0' <= c && c <= '9') || c == '-' || c == '.' || c == '_' || c == '~'
}
