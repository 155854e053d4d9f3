package merkle

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// A Checkpoint states that the log of an origin had a tree of Size leaves with
// this Root (C2SP tlog-checkpoint). A signer must never sign another one that is
// not consistent with it.
type Checkpoint struct {
	Origin string
	Size   int64 // leaves
	Root   Hash

	// Extensions are lines after the third, signed but opaque. C2SP advises
	// against them, because a monitor of the log cannot check them.
	Extensions []string
}

// ErrCheckpoint means that a checkpoint is not in the form of C2SP
// tlog-checkpoint, or not signed by the key that must have signed it.
var ErrCheckpoint = errors.New("not an acceptable checkpoint")

// maxCheckpoint bounds the bytes that are looked at before a signature is
// checked. tlog.ParseTree has the same bound.
const maxCheckpoint = 1e6

// Text returns the note text that is signed: the origin, the size in decimal,
// the root in base64 and the extensions, a line each.
func (c Checkpoint) Text() string {
	lines := append([]string{c.Origin, strconv.FormatInt(c.Size, 10), c.Root.String()}, c.Extensions...)
	return strings.Join(lines, "\n") + "\n"
}

// ParseCheckpoint reads a note text. It accepts only what Text can produce, so
// that a checkpoint has one form and equal checkpoints have equal bytes.
func ParseCheckpoint(text string) (Checkpoint, error) {
	if len(text) > maxCheckpoint {
		return Checkpoint{}, malformed("longer than %d bytes", int(maxCheckpoint))
	}
	// C2SP signed-note: UTF-8 without ASCII control characters but the newline.
	control := func(r rune) bool { return r < 0x20 && r != '\n' }
	if !utf8.ValidString(text) || strings.ContainsFunc(text, control) {
		return Checkpoint{}, malformed("not plain UTF-8 text with newlines")
	}
	body, ended := strings.CutSuffix(text, "\n")
	lines := strings.Split(body, "\n")
	if !ended || len(lines) < 3 {
		return Checkpoint{}, malformed("fewer than three whole lines")
	}
	if i := slices.Index(lines, ""); i >= 0 {
		return Checkpoint{}, malformed("line %d is empty", i+1)
	}
	c := Checkpoint{Origin: lines[0]}
	var err error
	if c.Size, err = strconv.ParseInt(lines[1], 10, 64); err != nil || c.Size < 0 || strconv.FormatInt(c.Size, 10) != lines[1] {
		return Checkpoint{}, malformed("line 2 is not a size in plain decimal")
	}
	if c.Size > MaxSize {
		return Checkpoint{}, malformed("line 2 is beyond the largest tree")
	}
	// ParseHash alone accepts stray bits after the hash's last.
	if c.Root, err = tlog.ParseHash(lines[2]); err != nil || c.Root.String() != lines[2] {
		return Checkpoint{}, malformed("line 3 is not a hash in base64")
	}
	if c.Size == 0 && c.Root != emptyRoot {
		return Checkpoint{}, malformed("line 3 is not the root of the empty tree")
	}
	if len(lines) > 3 {
		c.Extensions = lines[3:]
	}
	return c, nil
}

// Sign returns the checkpoint as a signed note (C2SP signed-note). The origin
// must be the signer's name.
func Sign(c Checkpoint, s note.Signer) ([]byte, error) {
	if c.Origin != s.Name() {
		return nil, fmt.Errorf("signing a checkpoint: the key %s may not sign for another origin", s.Name())
	}
	// A line break inside an extension would be read back as something else.
	back, err := ParseCheckpoint(c.Text())
	if err != nil {
		return nil, fmt.Errorf("signing a checkpoint: %w", err)
	}
	if !slices.Equal(back.Extensions, c.Extensions) {
		return nil, fmt.Errorf("signing a checkpoint: %w", malformed("an extension is not one line"))
	}
	signed, err := note.Sign(&note.Note{Text: c.Text()}, s)
	if err != nil {
		return nil, fmt.Errorf("signing a checkpoint: %w", err)
	}
	return signed, nil
}

// Open returns the checkpoint of a signed note that v's key has signed for the
// origin of v's name. Any other note is an ErrCheckpoint. Signatures of keys it
// does not know are ignored, as C2SP signed-note demands: a log that changes its
// key signs with both, and witnesses add theirs.
func Open(signed []byte, v note.Verifier) (Checkpoint, error) {
	if len(signed) > maxCheckpoint {
		return Checkpoint{}, malformed("longer than %d bytes", int(maxCheckpoint))
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("opening a checkpoint with %s+%08x: %w: %w", v.Name(), v.KeyHash(), ErrCheckpoint, err)
	}
	// note.Open accepts stray bits after a signature's last.
	if _, err := base64.StdEncoding.Strict().DecodeString(n.Sigs[0].Base64); err != nil {
		return Checkpoint{}, malformed("the signature is not in plain base64")
	}
	c, err := ParseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != v.Name() {
		return Checkpoint{}, fmt.Errorf("opening a checkpoint with %s+%08x: it is of another origin: %w",
			v.Name(), v.KeyHash(), ErrCheckpoint)
	}
	return c, nil
}

// malformed names what is wrong, never the text that was there.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrCheckpoint}, args...)...)
}

// NewSigner returns the signer of the log called name, which is the origin of
// its checkpoints: neither spaces nor "+" (C2SP signed-note). It does not show
// the key when it is printed.
func NewSigner(name string, key ed25519.PrivateKey) (note.Signer, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("making the signer %s: the key has %d bytes, not %d", name, len(key), ed25519.PrivateKeySize)
	}
	v, err := NewVerifier(name, key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	seed := base64.StdEncoding.EncodeToString(append([]byte{algEd25519}, key.Seed()...))
	s, err := note.NewSigner(fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", name, v.KeyHash(), seed))
	if err != nil {
		return nil, fmt.Errorf("making the signer %s: %w", name, err)
	}
	return s, nil
}

// algEd25519 is the signature type of C2SP signed-note that precedes a key.
const algEd25519 = 0x01

// NewVerifier returns the verifier of the log called name.
func NewVerifier(name string, key ed25519.PublicKey) (note.Verifier, error) {
	vkey, err := VerifierKey(name, key)
	if err != nil {
		return nil, err
	}
	return ParseVerifier(vkey)
}

// VerifierKey returns the text by which people keep a log's public key,
// name+hash+base64 (C2SP signed-note). It must reach them by another way than
// the checkpoints do.
func VerifierKey(name string, key ed25519.PublicKey) (string, error) {
	vkey, err := note.NewEd25519VerifierKey(name, key)
	if err != nil {
		return "", fmt.Errorf("writing the verifier key of %s: %w", name, err)
	}
	if _, err := ParseVerifier(vkey); err != nil { // the name may be one that cannot be read back
		return "", err
	}
	return vkey, nil
}

// ParseVerifier reads the text of VerifierKey.
func ParseVerifier(vkey string) (note.Verifier, error) {
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("reading a verifier key (name+hash+base64, no spaces): %w", err)
	}
	return v, nil
}
