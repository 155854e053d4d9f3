package keyring

import (
	"fmt"
	"slices"

	"github.com/google/uuid"

	"trakr/internal/lifecycle"
)

// EncryptPayload encrypts what waits to be sent about a tenant. Tenant and delivery are
// its associated data: a payload that was moved to another row is not decrypted.
func (k *Keyring) EncryptPayload(tenant lifecycle.TenantID, delivery uuid.UUID, payload []byte) ([]byte, error) {
	b, err := k.fields.Load().aead.Encrypt(payload, payloadOf(tenant, delivery))
	if err != nil {
		return nil, fmt.Errorf("encrypting a payload: %w", err)
	}
	return b, nil
}

// DecryptPayload decrypts what EncryptPayload returned. One encrypted with a field key that the
// keyring lacks is a *MissingKey.
func (k *Keyring) DecryptPayload(tenant lifecycle.TenantID, delivery uuid.UUID, encrypted []byte) ([]byte, error) {
	keys := k.fields.Load()
	b, err := keys.aead.Decrypt(encrypted, payloadOf(tenant, delivery))
	if err == nil {
		return b, nil
	}
	if id, ok := EncryptedWith(encrypted); ok && !slices.Contains(keys.ids, id) {
		return nil, fmt.Errorf("decrypting a payload: %w", &MissingKey{id})
	}
	return nil, fmt.Errorf("decrypting a payload: %w", ErrCannotDecrypt)
}

// payloadOf differs from every field's associated data in its first text.
func payloadOf(tenant lifecycle.TenantID, delivery uuid.UUID) []byte {
	return append(append([]byte("trakr/outbox/v1\x00"), tenant[:]...), delivery[:]...)
}
