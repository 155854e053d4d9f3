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

// KeyID identifies a field key and reveals nothing of it.
type KeyID uint32

// String returns the id as people see it.
func (id KeyID) String() string { return fmt.Sprintf("%d", uint32(id)) }

// Rotation is the correlation id of a rotation's audit events: of those that activate
// the key and re-encrypt with it, or of the one that destroys it.
func (id KeyID) Rotation() string { return "field-key-" + id.String() }

// fieldKeys decrypts with every key and encrypts with one, the active key.
type fieldKeys struct {
	set    *keyset.Handle // its primary is the active key
	aead   tink.AEAD
	active KeyID
	ids    []KeyID // in the order they were added
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
	f := &fieldKeys{set: set, aead: a, active: KeyID(primary.KeyID())}
	for i := range set.Len() {
		e, err := set.Entry(i)
		if err != nil {
			return nil, fmt.Errorf("using the field keys: %w", err)
		}
		f.ids = append(f.ids, KeyID(e.KeyID()))
	}
	return f, nil
}

// withActive returns the same keys with another active one.
func (f *fieldKeys) withActive(id KeyID) (*fieldKeys, error) {
	if id == f.active {
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

// Active returns the field key that Encrypt uses.
func (k *Keyring) Active() KeyID { return k.fields.Load().active }

// SetActive makes Encrypt use a field key of the keyring. The caller takes the id from
// the database, so that all replicas agree. It is a *MissingKey when the keyring lacks
// it. Nothing is written.
func (k *Keyring) SetActive(id KeyID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	f, err := k.fields.Load().withActive(id)
	if err == nil {
		k.fields.Store(f)
	}
	return err
}

// Encrypt encrypts one field's value of one tenant. Tenant and field are its associated
// data: a value that was moved to another row or column is not decrypted.
func (k *Keyring) Encrypt(tenant lifecycle.TenantID, f lifecycle.Field, v lifecycle.Secret) ([]byte, error) {
	b, err := k.fields.Load().aead.Encrypt([]byte(v.Reveal()), associated(tenant, f))
	if err != nil {
		return nil, fmt.Errorf("encrypting %s: %w", f, err)
	}
	return b, nil
}

// ErrCannotDecrypt means that a stored value belongs to another row or column, was
// changed, or was encrypted with keys this keyring does not have.
var ErrCannotDecrypt = errors.New("a stored value cannot be decrypted with this keyring (wrong TRAKR_KEYS, or the row was changed)")

// MissingKey means that the keyring lacks a field key: it is older than the last
// rotation, or newer. It is also an ErrCannotDecrypt.
type MissingKey struct{ ID KeyID }

// Error implements error.
func (m *MissingKey) Error() string {
	return "the keyring (TRAKR_KEYS) does not have the field key " + m.ID.String() +
		"; give this service the keyring that the last `trakr keys rotate` wrote"
}

// Is makes errors.Is(err, ErrCannotDecrypt) true.
func (m *MissingKey) Is(target error) bool { return target == ErrCannotDecrypt }

// Decrypt decrypts what Encrypt returned. A value encrypted with a field key that the
// keyring lacks is a *MissingKey.
func (k *Keyring) Decrypt(tenant lifecycle.TenantID, f lifecycle.Field, encrypted []byte) (lifecycle.Secret, error) {
	keys := k.fields.Load()
	b, err := keys.aead.Decrypt(encrypted, associated(tenant, f))
	if err == nil {
		return lifecycle.NewSecret(string(b)), nil
	}
	if id, ok := EncryptedWith(encrypted); ok && !slices.Contains(keys.ids, id) {
		return lifecycle.Secret{}, fmt.Errorf("decrypting %s: %w", f, &MissingKey{id})
	}
	return lifecycle.Secret{}, fmt.Errorf("decrypting %s: %w", f, ErrCannotDecrypt)
}

// EncryptedWith returns the field key that a value names as its own: Tink's output begins
// with the byte 1 and the key's id, big-endian. It needs no key and proves nothing.
func EncryptedWith(encrypted []byte) (KeyID, bool) {
	if len(encrypted) <= 5 || encrypted[0] != 1 {
		return 0, false
	}
	return KeyID(binary.BigEndian.Uint32(encrypted[1:5])), true
}

func associated(tenant lifecycle.TenantID, f lifecycle.Field) []byte {
	return append(append([]byte("trakr/field/v1\x00"), tenant[:]...), f...)
}

// Reload reads the keyring from its source again and takes over its field keys if they
// changed. The active key remains active while it is there. A keyring with other digest
// or signing keys is a different one and refused. One that was given as text never
// changes.
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
		return false, errors.Join(err,
			fmt.Errorf("%s is now another keyring; this service continues with the one it has. Restore the file", k.source.name()))
	}
	fields := next.fields.Load()
	if slices.Contains(fields.ids, k.Active()) {
		if fields, err = fields.withActive(k.Active()); err != nil {
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
	known := slices.ContainsFunc(theirs, func(d Digest) bool { return slices.Equal(d, mine) })
	return known && k.signing.Equal(other.signing), nil
}
