// Package jcs writes JSON in the one form of RFC 8785 (JCS), as far as this
// service needs it: strings. What is hashed or signed is written with it, so that
// equal values have equal bytes.
package jcs

import "unicode/utf8"

// AppendString appends a JSON string as RFC 8785, section 3.2.2.2, wants it:
// two-character escapes where they exist, \u00xx for other control characters,
// everything else as it is. Invalid UTF-8 becomes U+FFFD: such bytes have no
// canonical form.
func AppendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, r := range s {
		switch r {
		case '"', '\\':
			b = append(b, '\\', byte(r))
		case '\b':
			b = append(b, '\\', 'b')
		case '\t':
			b = append(b, '\\', 't')
		case '\n':
			b = append(b, '\\', 'n')
		case '\f':
			b = append(b, '\\', 'f')
		case '\r':
			b = append(b, '\\', 'r')
		default:
			if r < 0x20 {
				b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
			} else {
				b = utf8.AppendRune(b, r)
			}
		}
	}
	return append(b, '"')
}
