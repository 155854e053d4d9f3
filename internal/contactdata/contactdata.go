// Package contactdata recognises e-mail addresses and telephone numbers. It is the one
// definition of both: incoming values are checked by it before they are stored, the
// sweep searches the database by it, and it removes e-mail addresses from log lines.
//
// It recognises a form, not a person: "git@host" and a date are neither, and an address in
// words, or a number without a joint or a plus, is not recognised.
package contactdata

import (
	"regexp"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// EmailPattern and PhonePattern are the two shapes. They are written in what Go's and
// PostgreSQL's regular expressions have in common and read alike in every locale:
// door.value_shapes in migrations has the very same texts, and a test compares them.
//
// In an e-mail address whatever is not ASCII counts as a letter. A telephone number is
// international (+ and 8 to 15 digits), or American, or begins with a 0 and is written
// in groups. Dates, UUIDs, digests, tickets, base64 and versions are none of these:
// neither letters, digits nor their usual joints are around a number.
const (
	EmailPattern = `[^\x01-*,/:-@[-^\x60{-\x7f]+(?:@|%40)` +
		`[^\x01-,./:-@[-^\x60{-\x7f]+(?:\.[^\x01-,./:-@[-^\x60{-\x7f]+)*\.[^\x01-@[-\x60{-\x7f]{2,}`
	PhonePattern = `(?:^|[^A-Za-z0-9_+/=.-])\+[1-9](?:[ ().-]{0,2}[0-9]){7,14}(?:[^A-Za-z0-9_/=+-]|$)` +
		`|(?:^|[^A-Za-z0-9_+/=.,:-])(?:` +
		`(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-. ])[0-9]{3}[-. ][0-9]{4}` +
		`|(?:\(0[0-9]{1,4}\)|0[0-9]{1,4})[ /-](?:[0-9]{5,8}|[0-9]{3,4}[ -][0-9]{3,4}|[0-9]{2}(?:[ .-][0-9]{2}){3})` +
		`|0[0-9](?:[ .][0-9]{2}){4}` +
		`)(?:[^A-Za-z0-9_-]|$)`
)

var (
	email = regexp.MustCompile(EmailPattern)
	phone = regexp.MustCompile(PhonePattern)
)

// Email reports whether a text has an e-mail address in it.
func Email(s string) bool { return email.MatchString(s) }

// Phone reports whether a text has a telephone number in it.
func Phone(s string) bool { return phone.MatchString(s) }

// Contact reports whether a value is shaped like either, or a part of it is: of an
// address or an identifier each part is checked by itself, too, since a joint before a
// number otherwise speaks against one. Full-width letters, other spaces and dashes, and
// characters without a width do not hide anything.
func Contact(value string) bool {
	plain := strings.Map(fold, norm.NFKC.String(value))
	if Email(plain) || Phone(plain) {
		return true
	}
	for part := range strings.FieldsFuncSeq(plain, joint) {
		if Phone(part) {
			return true
		}
	}
	return false
}

func joint(r rune) bool { return strings.ContainsRune("/:=,;&?#|", r) }

func fold(r rune) rune {
	switch {
	case unicode.Is(unicode.Zs, r):
		return ' '
	case unicode.Is(unicode.Pd, r):
		return '-'
	case unicode.Is(unicode.Cf, r):
		return -1
	}
	return r
}
