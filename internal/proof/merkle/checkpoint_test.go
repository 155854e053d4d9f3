package merkle_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"trakr/internal/proof/merkle"
)

const origin = "trakr.example/audit"

// key returns a key that is the same in each run.
func key(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func signer(t testing.TB, name string, k ed25519.PrivateKey) note.Signer {
	return must[note.Signer](t)(merkle.NewSigner(name, k))
}

func verifier(t testing.TB, name string, k ed25519.PrivateKey) note.Verifier {
	return must[note.Verifier](t)(merkle.NewVerifier(name, k.Public().(ed25519.PublicKey)))
}

func sample() merkle.Checkpoint {
	return merkle.Checkpoint{Origin: origin, Size: 20852163, Root: merkle.LeafHash([]byte("root"))}
}

func TestKnownAnswerOfSignedNote(t *testing.T) {
	// The key of the documentation of golang.org/x/mod/sumdb/note.
	seed := must[[]byte](t)(base64.StdEncoding.DecodeString("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"))[1:]
	const vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
	k := ed25519.NewKeyFromSeed(seed)
	if got := must[string](t)(merkle.VerifierKey("PeterNeumann", k.Public().(ed25519.PublicKey))); got != vkey {
		t.Errorf("verifier key %s, want %s", got, vkey)
	}
	sig := must[[]byte](t)(signer(t, "PeterNeumann", k).Sign([]byte(
		"If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n")))
	const want = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
	if got := base64.StdEncoding.EncodeToString(append([]byte{0xc7, 0x4f, 0x20, 0xa3}, sig...)); got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

func TestCheckpointText(t *testing.T) {
	// The note text printed in C2SP tlog-checkpoint.
	const text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
	c := must[merkle.Checkpoint](t)(merkle.ParseCheckpoint(text))
	if c.Origin != "example.com/behind-the-sofa" || c.Size != 20852163 || c.Root.String() != "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=" || c.Extensions != nil {
		t.Errorf("read as %+v", c)
	}
	if c.Text() != text {
		t.Errorf("written as %q", c.Text())
	}
}

func TestSignedCheckpointOpens(t *testing.T) {
	k := key(1)
	for reason, c := range map[string]merkle.Checkpoint{
		"the usual one":        sample(),
		"with extensions":      {Origin: origin, Size: 1, Root: sample().Root, Extensions: []string{"first", "ünd zweitens: x"}},
		"of the empty log":     {Origin: origin, Root: merkle.NewTree().Root()},
		"of the largest tree":  {Origin: origin, Size: merkle.MaxSize, Root: sample().Root},
		"that looks like more": {Origin: origin, Size: 1, Root: sample().Root, Extensions: []string{"— " + origin + " AAAA"}},
	} {
		signed := must[[]byte](t)(merkle.Sign(c, signer(t, origin, k)))
		got, err := merkle.Open(signed, verifier(t, origin, k))
		if err != nil {
			t.Errorf("%s: %v", reason, err)
		}
		if diff := cmp.Diff(c, got); diff != "" {
			t.Errorf("%s came back changed (-want +got):\n%s", reason, diff)
		}
		// The text people keep is enough.
		vkey := must[string](t)(merkle.VerifierKey(origin, k.Public().(ed25519.PublicKey)))
		if _, err := merkle.Open(signed, must[note.Verifier](t)(merkle.ParseVerifier(vkey))); err != nil {
			t.Errorf("%s, by its verifier key: %v", reason, err)
		}
	}
}

func TestSignaturesOfOthersDoNotMatter(t *testing.T) {
	old, young := signer(t, origin, key(1)), signer(t, origin, key(2))
	witness := signer(t, "witness.example", key(3))
	signed := must[[]byte](t)(note.Sign(&note.Note{Text: sample().Text()}, witness, old, young))
	for reason, k := range map[string]ed25519.PrivateKey{"the old key": key(1), "the new key": key(2)} {
		if _, err := merkle.Open(signed, verifier(t, origin, k)); err != nil {
			t.Errorf("%s: %v", reason, err)
		}
	}
	if _, err := merkle.Open(signed, verifier(t, "witness.example", key(3))); !errors.Is(err, merkle.ErrCheckpoint) {
		t.Errorf("a witness is not the log: %v", err)
	}
}

func TestUnacceptableCheckpointsAreRefused(t *testing.T) {
	k := key(1)
	v := verifier(t, origin, k)
	text := sample().Text()
	signed := string(must[[]byte](t)(merkle.Sign(sample(), signer(t, origin, k))))
	if _, err := merkle.Open([]byte(signed), v); err != nil {
		t.Fatal(err)
	}
	root := sample().Root.String()
	for reason, bad := range map[string]string{
		"no signature":                  text,
		"no signature line":             text + "\n",
		"signature of another key":      string(must[[]byte](t)(merkle.Sign(sample(), signer(t, origin, key(2))))),
		"another size":                  strings.Replace(signed, "20852163", "20852164", 1),
		"an added extension":            strings.Replace(signed, "\n\n", "\nmore\n\n", 1),
		"junk after the signature":      signed + "junk",
		"a line after it":               signed + "junk\n",
		"an empty line after it":        signed + "\n",
		"the last newline missing":      strings.TrimSuffix(signed, "\n"),
		"line ends of Windows":          strings.ReplaceAll(signed, "\n", "\r\n"),
		"a space before":                " " + signed,
		"a byte-order mark":             "\ufeff" + signed,
		"nothing":                       "",
		"stray bits in the base64":      signed[:len(signed)-3] + next(signed[len(signed)-3]) + "=\n",
		"a huge signature of a witness": signed + "— witness.example " + strings.Repeat("AAAA", 300_000) + "\n",
		"a signature without a key":     text + "\n— " + origin + " AAAA\n",
	} {
		if bad == signed {
			t.Errorf("%s: the row changes nothing", reason)
		}
		if c, err := merkle.Open([]byte(bad), v); !errors.Is(err, merkle.ErrCheckpoint) || !cmp.Equal(c, merkle.Checkpoint{}) {
			t.Errorf("%s: got %+v, %v", reason, c, err)
		}
	}

	// What the log's own key has signed is still read strictly.
	for reason, bad := range map[string]string{
		"another origin":                    "other.example/audit\n1\n" + root + "\n",
		"an origin that begins so":          origin + "/2\n1\n" + root + "\n",
		"no root":                           origin + "\n1\n",
		"an empty origin":                   "\n1\n" + root + "\n",
		"an empty extension":                origin + "\n1\n" + root + "\n\nmore\n",
		"leading zeros":                     origin + "\n01\n" + root + "\n",
		"a plus sign":                       origin + "\n+1\n" + root + "\n",
		"a negative size":                   origin + "\n-1\n" + root + "\n",
		"minus zero":                        origin + "\n-0\n" + root + "\n",
		"a space after the size":            origin + "\n1 \n" + root + "\n",
		"digits of another script":          origin + "\n١\n" + root + "\n",
		"hexadecimal":                       origin + "\n0x1\n" + root + "\n",
		"a size tlog cannot bear":           origin + "\n4611686018427387905\n" + root + "\n",
		"a size beyond MaxSize":             fmt.Sprintf("%s\n%d\n%s\n", origin, merkle.MaxSize+1, root),
		"a size beyond 64 bits":             origin + "\n18446744073709551617\n" + root + "\n",
		"an empty log with leaves":          origin + "\n0\n" + root + "\n",
		"a root too short":                  origin + "\n1\n" + root[:40] + "\n",
		"a root too long":                   origin + "\n1\nAAAA" + root + "\n",
		"a root in base64url":               origin + "\n1\n" + strings.Repeat("_", 42) + "8=\n",
		"a root without padding":            origin + "\n1\n" + strings.TrimSuffix(root, "=") + "\n",
		"a root with stray bits":            origin + "\n1\n" + root[:42] + next(root[42]) + "=\n",
		"too long to look at":               text + strings.Repeat("x\n", 600_000),
		"the root in hexadecimal":           origin + "\n1\n" + strings.Repeat("ab", 32) + "\n",
		"size and root the wrong way round": origin + "\n" + root + "\n1\n",
	} {
		signed := must[[]byte](t)(note.Sign(&note.Note{Text: bad}, signer(t, origin, k)))
		if c, err := merkle.Open(signed, v); !errors.Is(err, merkle.ErrCheckpoint) || !cmp.Equal(c, merkle.Checkpoint{}) {
			t.Errorf("signed, but %s: got %+v, %v", reason, c, err)
		}
	}
	for reason, bad := range map[string]string{
		"line ends of Windows":     strings.ReplaceAll(text, "\n", "\r\n"),
		"a tab":                    origin + "\t\n1\n" + root + "\n",
		"not UTF-8":                origin + "\xff\n1\n" + root + "\n",
		"no newline at the end":    strings.TrimSuffix(text, "\n"),
		"an empty line at the end": text + "\n",
		"too long":                 text + strings.Repeat("x\n", 600_000),
	} {
		if c, err := merkle.ParseCheckpoint(bad); !errors.Is(err, merkle.ErrCheckpoint) {
			t.Errorf("%s: got %+v, %v", reason, c, err)
		}
	}
}

// next returns the letter of base64 that follows c, which differs in the last
// bit: the one that a decoder drops at the end.
func next(c byte) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	return letters[strings.IndexByte(letters, c)^1:][:1]
}

func TestNoBitOfASignedCheckpointCanChange(t *testing.T) {
	v := verifier(t, origin, key(1))
	signed := must[[]byte](t)(merkle.Sign(sample(), signer(t, origin, key(1))))
	for bit := range 8 * len(signed) {
		changed := bytes.Clone(signed)
		changed[bit/8] ^= 1 << (bit % 8)
		if _, err := merkle.Open(changed, v); !errors.Is(err, merkle.ErrCheckpoint) {
			t.Errorf("bit %d of byte %d: %v", bit%8, bit/8, err)
		}
	}
}

func TestOnlyWhatCanBeReadBackIsSigned(t *testing.T) {
	s := signer(t, origin, key(1))
	for reason, change := range map[string]func(*merkle.Checkpoint){
		"another origin":         func(c *merkle.Checkpoint) { c.Origin = "other.example" },
		"a negative size":        func(c *merkle.Checkpoint) { c.Size = -1 },
		"a size beyond any tree": func(c *merkle.Checkpoint) { c.Size = merkle.MaxSize + 1 },
		"an empty log's root":    func(c *merkle.Checkpoint) { c.Size = 0 },
		"an empty extension":     func(c *merkle.Checkpoint) { c.Extensions = []string{""} },
		"two lines as one":       func(c *merkle.Checkpoint) { c.Extensions = []string{"a\nb"} },
		"a control character":    func(c *merkle.Checkpoint) { c.Extensions = []string{"a\rb"} },
	} {
		c := sample()
		change(&c)
		if signed, err := merkle.Sign(c, s); err == nil {
			t.Errorf("%s was signed: %q", reason, signed)
		}
	}
}

func TestUnusableKeysAreRefused(t *testing.T) {
	public := key(1).Public().(ed25519.PublicKey)
	for _, name := range []string{"", "with space", "with+plus", "with\nnewline", "with\u00a0space", "not utf-8 \xff"} {
		if _, err := merkle.NewSigner(name, key(1)); err == nil {
			t.Errorf("a signer is called %q", name)
		}
		if _, err := merkle.NewVerifier(name, public); err == nil {
			t.Errorf("a verifier is called %q", name)
		}
		if vkey, err := merkle.VerifierKey(name, public); err == nil {
			t.Errorf("a verifier key is called %q: %s", name, vkey)
		}
	}
	halves := append(bytes.Clone(key(1)[:32]), key(2)[32:]...)
	for reason, k := range map[string]ed25519.PrivateKey{"none": nil, "short": key(1)[:63], "halves of two keys": halves} {
		if _, err := merkle.NewSigner(origin, k); err == nil {
			t.Errorf("private key: %s", reason)
		}
	}
	if _, err := merkle.NewVerifier(origin, public[:31]); err == nil {
		t.Error("a short public key")
	}
	vkey := must[string](t)(merkle.VerifierKey(origin, public))
	for reason, bad := range map[string]string{
		"nothing":           "",
		"a letter changed":  strings.Replace(vkey, "+", "+0", 1),
		"another name":      "x" + vkey,
		"cut short":         vkey[:len(vkey)-4],
		"another algorithm": "x+00000000+" + base64.StdEncoding.EncodeToString(append([]byte{2}, public...)),
	} {
		if _, err := merkle.ParseVerifier(bad); err == nil {
			t.Errorf("verifier key: %s", reason)
		}
	}
}

func TestPrintedSignerHidesItsKey(t *testing.T) {
	k := ed25519.NewKeyFromSeed([]byte("marker-marker-marker-marker-mark"))
	s := signer(t, origin, k)
	for _, f := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		out := fmt.Sprintf(f, s)
		for _, seen := range []string{"marker", fmt.Sprintf("%x", "marker"), base64.StdEncoding.EncodeToString(k.Seed()[:30]), "109, 97, 114", "109 97 114"} {
			if strings.Contains(out, seen) {
				t.Errorf("%s shows the key: %s", f, out)
			}
		}
	}
}

// FuzzParseCheckpoint: what is read is written again byte for byte, and can be
// signed and opened.
func FuzzParseCheckpoint(f *testing.F) {
	f.Add(sample().Text())
	f.Add("example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\nmore\n")
	f.Add(merkle.Checkpoint{Origin: "a b+c", Root: merkle.NewTree().Root()}.Text())
	f.Add("o\n01\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := merkle.ParseCheckpoint(text)
		if err != nil {
			if !errors.Is(err, merkle.ErrCheckpoint) {
				t.Fatalf("refused with another kind: %v", err)
			}
			return
		}
		if c.Text() != text {
			t.Fatalf("%q was read and written as %q", text, c.Text())
		}
		if c.Size < 0 || c.Size > merkle.MaxSize {
			t.Fatalf("size %d", c.Size)
		}
		s, err := merkle.NewSigner(c.Origin, key(1))
		if err != nil {
			return // an origin that cannot be a key's name
		}
		signed := must[[]byte](t)(merkle.Sign(c, s))
		if got := must[merkle.Checkpoint](t)(merkle.Open(signed, verifier(t, c.Origin, key(1)))); got.Text() != text {
			t.Fatalf("%q was opened as %q", text, got.Text())
		}
	})
}

// FuzzOpen: nobody but the signer can make an acceptable checkpoint, so whatever
// opens has the one text that was signed.
func FuzzOpen(f *testing.F) {
	v := verifier(f, origin, key(1))
	signed := must[[]byte](f)(merkle.Sign(sample(), signer(f, origin, key(1))))
	f.Add(signed)
	f.Add(append(bytes.Clone(signed), "— witness.example AAAAAAAA\n"...))
	f.Add(bytes.Replace(signed, []byte("\n\n"), []byte("\nmore\n\n"), 1))
	f.Add([]byte(sample().Text()))
	f.Fuzz(func(t *testing.T, note []byte) {
		c, err := merkle.Open(note, v)
		if err == nil && c.Text() != sample().Text() {
			t.Fatalf("a forged checkpoint was opened: %q", note)
		}
		if err != nil && !errors.Is(err, merkle.ErrCheckpoint) {
			t.Fatalf("refused with another kind: %v", err)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	s := signer(b, origin, key(1))
	for b.Loop() {
		must[[]byte](b)(merkle.Sign(sample(), s))
	}
}

func BenchmarkOpen(b *testing.B) {
	v := verifier(b, origin, key(1))
	signed := must[[]byte](b)(merkle.Sign(sample(), signer(b, origin, key(1))))
	for b.Loop() {
		must[merkle.Checkpoint](b)(merkle.Open(signed, v))
	}
}
