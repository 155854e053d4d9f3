package jcs_test

import (
	"testing"

	"trakr/internal/proof/jcs"
)

// The string cases are those of RFC 8785, section 3.2.2.2 and appendix B.
func TestStringsAreWrittenAsRFC8785Wants(t *testing.T) {
	for in, want := range map[string]string{
		"":                       `""`,
		"plain":                  `"plain"`,
		"€$\u000f\nA'B\"\\\\\"/": `"€$\u000f\nA'B\"\\\\\"/"`,
		"\b\t\n\f\r":             `"\b\t\n\f\r"`,
		"\u2028\u2029<>&":        "\"\u2028\u2029<>&\"",
		"😀\u0080":                "\"😀\u0080\"",
		"\x00\x1f":               `"\u0000\u001f"`,
		"\x7f":                   "\"\x7f\"",
		"bad\xffutf":             "\"bad\ufffdutf\"",
	} {
		if got := string(jcs.AppendString(nil, in)); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
