package keyring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"trakr/internal/lifecycle"
)

// KeyID names a field key. It says nothing about the key.
type KeyID uint32

// String returns the id as people see it.
func (id KeyID) String() string { return fmt.Sprintf("%d", uint32(id)) }

// Rotation ties the audit events of one rotation together: it names the key that seals
// from then on, or the one that is destroyed.
func (id KeyID) Rotation() string { return "field-key-" + id.String() }

// fieldKeys opens with every key there is and seals with one.
type fieldKeys struct {
	set     *keyset.Handle // its primary is the one that seals
	aead    tink.AEAD
	sealing KeyID
	ids     []KeyID // in the order they were added
}

func useFields(set *keyset.Handle) (*fieldKeys, error) {
	a, err := aead.New(set)
	if err != nil {
		return nil, fmt.Errorf("using the field keys: %w", err)
	}
	primary, err := set.Primary()
	if err != nil {
		return nil, fmt.Errorf("using the field keys: %w", err)
	}
	f := &fieldKeys{set: set, aead: a, sealing: KeyID(primary.KeyID())}
	for i := range set.Len() {
		e, err := set.Entry(i)
		if err != nil {
			return nil, fmt.Errorf("using the field keys: %w", err)
		}
		f.ids = append(f.ids, KeyID(e.KeyID()))
	}
	return f, nil
}

// sealWith is the same keys with another one that seals.
func (f *fieldKeys) sealWith(id KeyID) (*fieldKeys, error) {
	if id == f.sealing {
		return f, nil
	}
	if !slices.Contains(f.ids, id) {
		return nil, &MissingKey{id}
	}
	m := keyset.NewManagerFromHandle(f.set)
	if err := m.SetPrimary(uint32(id)); err != nil {
		return nil, fmt.Errorf("using the field key %s: %w", id, err)
	}
	set, err := m.Handle()
	if err != nil {
		return nil, fmt.Errorf("using the field key %s: %w", id, err)
	}
	return useFields(set)
}

// FieldKeys lists the field keys, oldest first.
func (k *Keyring) FieldKeys() []KeyID { return slices.Clone(k.fields.Load().ids) }

// Sealing is the field key that Seal uses.
func (k *Keyring) Sealing() KeyID { return k.fields.Load().sealing }

// Use makes Seal use a field key of the keyring: which one it is, the database says
// (the active one), so that all replicas agree. It is a *MissingKey when the keyring
// lacks it. Nothing is written.
func (k *Keyring) Use(id KeyID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	f, err := k.fields.Load().sealWith(id)
	if err == nil {
		k.fields.Store(f)
	}
	return err
}

// Seal encrypts one field's value of one tenant. The tenant and the field are
// authenticated with it: a sealed value moved to another row or column does
// not open.
func (k *Keyring) Seal(tenant lifecycle.TenantID, f lifecycle.Field, v lifecycle.Secret) ([]byte, error) {
	b, err := k.fields.Load().aead.Encrypt([]byte(v.Reveal()), associated(tenant, f))
	if err != nil {
		return nil, fmt.Errorf("sealing %s: %w", f, err)
	}
	return b, nil
}

// ErrCannotOpen means that a stored value does not belong where it stands, was
// changed, or was sealed with keys this keyring does not have.
var ErrCannotOpen = errors.New("a stored value does not open with this keyring (wrong TRAKR_KEYS, or the row was changed)")

// MissingKey means that the keyring lacks a field key: it is older than the last
// rotation, or newer. It is an ErrCannotOpen too.
type MissingKey struct{ ID KeyID }

// Error implements error.
func (m *MissingKey) Error() string {
	return "the keyring (TRAKR_KEYS) does not hold the field key " + m.ID.String() + "; give this service the keyring that the last `trakr keys rotate` wrote"
}

// Is makes errors.Is(err, ErrCannotOpen) true.
func (m *MissingKey) Is(target error) bool { return target == ErrCannotOpen }

// Open decrypts what Seal returned. A value sealed with a field key that the keyring
// lacks is a *MissingKey.
func (k *Keyring) Open(tenant lifecycle.TenantID, f lifecycle.Field, sealed []byte) (lifecycle.Secret, error) {
	keys := k.fields.Load()
	b, err := keys.aead.Decrypt(sealed, associated(tenant, f))
	if err == nil {
		return lifecycle.NewSecret(string(b)), nil
	}
	if id, ok := SealedWith(sealed); ok && !slices.Contains(keys.ids, id) {
		return lifecycle.Secret{}, fmt.Errorf("opening %s: %w", f, &MissingKey{id})
	}
	return lifecycle.Secret{}, fmt.Errorf("opening %s: %w", f, ErrCannotOpen)
}

// SealedWith tells which field key sealed a value: Tink's output begins with the byte
// 1 and the key's id, big-endian. It needs no key and proves nothing.
func SealedWith(sealed []byte) (KeyID, bool) {
	if len(sealed) <= 5 || sealed[0] != 1 {
		return 0, false
	}
	return KeyID(binary.BigEndian.Uint32(sealed[1:5])), true
}

func associated(tenant lifecycle.TenantID, f lifecycle.Field) []byte {
	return append(append([]byte("trakr/field/v1\x00"), tenant[:]...), f...)
}

// Reload reads the keyring anew from where it is kept and takes over its field keys,
// when anything changed there. The key that seals stays, as long as it is there. A
// keyring with other digest or signing keys is another one and refused. One that was
// given as text never changes.
func (k *Keyring) Reload() (changed bool, err error) {
	if k.source == nil {
		return false, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	next, err := k.source.load(k.stamp)
	if err != nil || next == nil {
		return false, err
	}
	if same, err := k.same(next); err != nil || !same {
		return false, errors.Join(err, fmt.Errorf("%s now holds another keyring; this service goes on with the one it has. Restore the file", k.source.name()))
	}
	fields := next.fields.Load()
	if slices.Contains(fields.ids, k.Sealing()) {
		if fields, err = fields.sealWith(k.Sealing()); err != nil {
			return false, err
		}
	}
	k.fields.Store(fields)
	k.stamp = next.stamp
	return true, nil
}

// same reports whether two keyrings make the same digests and signatures.
func (k *Keyring) same(other *Keyring) (bool, error) {
	probe := lifecycle.NewSecret("trakr")
	mine, err := k.Digest(Check, probe)
	if err != nil {
		return false, err
	}
	theirs, err := other.Digests(Check, probe)
	if err != nil {
		return false, err
	}
	return k.signing.Equal(other.signing) && slices.ContainsFunc(theirs, func(d Digest) bool { return slices.Equal(d, mine) }), nil
}
