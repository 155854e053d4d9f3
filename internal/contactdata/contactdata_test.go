package contactdata_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"trakr/internal/contactdata"
)

// The shapes themselves are tried where the database and this package judge the same
// texts (internal/sweep). This is what a value has beyond them.
func TestWhatIsShapedLikeContactDataAndWhatIsNot(t *testing.T) {
	for value, why := range map[string]string{
		"bob.smith@example.com":                            "an e-mail address",
		"bob%40example.com":                                "encoded",
		"bob＠example．com":                                  "full-width letters",
		"bob\u200b@exa\u00admple.com":                      "characters without a width",
		"zoë@exämple.de":                                   "letters of another alphabet",
		"дарья@почта.рф":                                   "of none of ours",
		"+44 20 7946 0958":                                 "a telephone number",
		"+44\u00a020\u202f7946\u00a00958":                  "spaces that do not break",
		"212–555–1234":                                     "dashes",
		"＋４４２０７９４６０９５８":                                    "full-width digits",
		"tel:0171-1234567":                                 "behind a joint",
		"connection:+442079460958":                         "in a part of an identifier",
		"https://avatars.example.net/+442079460958.png":    "in a part of a path",
		"https://avatars.example.net/a/212-555-1234/x.png": "in a part of a path",
	} {
		if !contactdata.Contact(value) {
			t.Errorf("%s is not recognised: %q", why, value)
		}
	}
	for _, value := range []string{
		"", "example-ws", "12345678901", "0123456789", "2125551234", "442079460958", "00442079460958", "2026-11-25", "25-11-2026", "01-02-2026", "01.02.2026", "2026.11.25", "20261125", "1999-2026", "24-7", "3-2-1",
		"team_42", "42", "r2d2-2026-11", "git@host", "@channel", "v1.2.3", "1.22.333", "10.10.0.5", "2001:db8::8a2e:370:7334", "connection:12345678901", "connection:0123456789",
		"ari:cloud:bitbucket::app/{01920123-4567-4890-8123-456789012345}/trakr", "{01920123-4567-4890-8123-456789012345}", "01920123-4567-4890-8123-456789012345",
		"https://bitbucket.org/account/example-ws/avatar/", "https://bitbucket.org/account/0123456789/avatar/32/", "https://bytebucket.org/ravatar/{01920123-4567-4890-8123-456789012345}",
		"https://avatars.example.net:8443/2026/11/25/0123456789.png", "https://avatars.example.net/557058:01920123-4567-4890-8123-456789012345/128",
		"https://avatars.example.net/01/02/03/04/05.png", "https://avatars.example.net/initials/BS-3.png", "https://a.b-1.us-west-2.example.net/" + strings.Repeat("0123456789", 6) + "0123.png",
	} {
		if contactdata.Contact(value) {
			t.Errorf("a false alarm: %q", value)
		}
	}
}

// An identifier and a secret are never taken for a person's number by chance.
func TestNoUUIDAndNoDigestIsShapedLikeContactData(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		digits := rapid.Bool().Draw(t, "decimal digits only")
		b := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "bytes")
		if digits {
			for i := range b {
				b[i] = b[i]/16%10<<4 | b[i]%16%10
			}
		}
		id, err := uuid.FromBytes(b[:16])
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{id.String(), "{" + id.String() + "}", "ari:cloud:bitbucket::app/{" + id.String() + "}/trakr", hex.EncodeToString(b)} {
			if contactdata.Contact(s) {
				t.Errorf("a false alarm: %s", s)
			}
		}
	})
}
