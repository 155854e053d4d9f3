// Package keyring holds the keys that keep tenant values unreadable at rest: an
// AEAD keyset that encrypts each guarded field, and a keyed-digest keyset by which
// a tenant is found again without its client key being readable anywhere; and the
// Ed25519 key that signs the audit's checkpoints.
//
// All are Tink keysets, so a key can be added without losing what older keys
// encrypted; a digest carries the version it was made with. The package promises
// that a keyring file is created once, with mode 0600, is refused when others can
// read it, and changes only as a whole. The file may be wrapped by a key server
// (see Source). The package does not talk to a database and never logs.
package keyring

import (
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	"github.com/tink-crypto/tink-go/v2/signature"
	tinked25519 "github.com/tink-crypto/tink-go/v2/signature/ed25519"

	"trakr/internal/lifecycle"
)

// Keyring encrypts, decrypts and digests. It is safe for concurrent use.
type Keyring struct {
	fields  atomic.Pointer[fieldKeys]
	digests *prf.Set
	signing ed25519.PrivateKey

	source *Source    // nil: not stored
	mu     sync.Mutex // one reload at a time; guards stamp
	stamp  [32]byte   // SHA-256 of what was read
}

// Purpose separates digests of different things, so that a client key and a
// workspace uuid of the same text never have the same digest.
type Purpose string

// The purposes. Their texts are part of every stored digest and never change.
const (
	Subject   Purpose = "trakr/digest/subject/v1"   // the clientKey (Connect)
	Principal Purpose = "trakr/digest/principal/v1" // the workspace's or person's uuid
	Tenant    Purpose = "trakr/digest/tenant/v1"    // our own tenant id, in the erasure ledger
	Check     Purpose = "trakr/digest/check/v1"     // a fixed text, to recognise the keyring
)

// Digest is a keyed digest: 4 bytes big-endian version of the digest key, then
// 32 bytes HMAC-SHA-256. Without the keyring it can be neither made nor tested.
type Digest []byte

// DigestSize is the length of a Digest in bytes.
const DigestSize = 4 + 32

// String returns the hex form, as audit events carry it.
func (d Digest) String() string { return hex.EncodeToString(d) }

// New returns a keyring with fresh random keys. Use Create to keep one.
func New() (*Keyring, error) {
	s, err := generate()
	if err != nil {
		return nil, err
	}
	return s.assemble()
}

// keysets are the parts of a keyring.
type keysets struct{ fields, digests, signing *keyset.Handle }

func generate() (s keysets, err error) {
	if s.fields, err = keyset.NewHandle(aead.AES256GCMKeyTemplate()); err != nil {
		return s, fmt.Errorf("generating the field key: %w", err)
	}
	if s.digests, err = keyset.NewHandle(prf.HMACSHA256PRFKeyTemplate()); err != nil {
		return s, fmt.Errorf("generating the digest key: %w", err)
	}
	s.signing, err = generateSigning()
	return s, err
}

// generateSigning makes a key whose signatures carry no prefix of Tink's: they are
// part of signed notes, which have a form of their own.
func generateSigning() (*keyset.Handle, error) {
	h, err := keyset.NewHandle(signature.ED25519KeyWithoutPrefixTemplate())
	if err != nil {
		return nil, fmt.Errorf("generating the signing key: %w", err)
	}
	return h, nil
}

func (s keysets) assemble() (*Keyring, error) {
	fields, err := useFields(s.fields)
	if err != nil {
		return nil, err
	}
	p, err := prf.NewPRFSet(s.digests)
	if err != nil {
		return nil, fmt.Errorf("using the digest keys: %w", err)
	}
	primary, err := s.signing.Primary()
	if err != nil {
		return nil, fmt.Errorf("using the signing key: %w", err)
	}
	private, ok := primary.Key().(*tinked25519.PrivateKey)
	if !ok {
		return nil, errors.New("using the signing key: it is not an Ed25519 key")
	}
	seed := private.PrivateKeyBytes().Data(insecuresecretdataaccess.Token{})
	k := &Keyring{digests: p, signing: ed25519.NewKeyFromSeed(seed)}
	k.fields.Store(fields)
	return k, nil
}

// Signing returns the key that signs the audit's checkpoints. Its type does not redact
// itself, so pass it to merkle.NewSigner at once and never log it.
func (k *Keyring) Signing() ed25519.PrivateKey { return k.signing }

// Digest returns the digest of v with the newest digest key.
func (k *Keyring) Digest(p Purpose, v lifecycle.Secret) (Digest, error) {
	return k.digest(k.digests.PrimaryID, p, v)
}

// Digests returns the digest of v with every digest key, newest key first and
// then by version. A look-up must try them all: a row keeps the version it was
// written with.
func (k *Keyring) Digests(p Purpose, v lifecycle.Secret) ([]Digest, error) {
	ids := make([]uint32, 0, len(k.digests.PRFs))
	for id := range k.digests.PRFs {
		if id != k.digests.PrimaryID {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	out := make([]Digest, 0, len(ids)+1)
	for _, id := range append([]uint32{k.digests.PrimaryID}, ids...) {
		d, err := k.digest(id, p, v)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func (k *Keyring) digest(version uint32, p Purpose, v lifecycle.Secret) (Digest, error) {
	// The purpose is fixed text without a zero byte, so the pair is unambiguous.
	in := append(append([]byte(p), 0), v.Reveal()...)
	sum, err := k.digests.PRFs[version].ComputePRF(in, DigestSize-4)
	if err != nil {
		return nil, fmt.Errorf("making a digest: %w", err)
	}
	return append(binary.BigEndian.AppendUint32(nil, version), sum...), nil
}
