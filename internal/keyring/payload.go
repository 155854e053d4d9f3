package keyring

import (
	"fmt"
	"slices"

	"github.com/google/uuid"

	"trakr/internal/lifecycle"
)

// SealPayload encrypts what waits to be sent about a tenant. The tenant and the
// delivery are authenticated with it: a payload moved to another row does not open.
func (k *Keyring) SealPayload(tenant lifecycle.TenantID, delivery uuid.UUID, payload []byte) ([]byte, error) {
	b, err := k.fields.Load().aead.Encrypt(payload, payloadOf(tenant, delivery))
	if err != nil {
		return nil, fmt.Errorf("sealing a payload: %w", err)
	}
	return b, nil
}

// OpenPayload decrypts what SealPayload returned. One sealed with a field key that the
// keyring lacks is a *MissingKey.
func (k *Keyring) OpenPayload(tenant lifecycle.TenantID, delivery uuid.UUID, sealed []byte) ([]byte, error) {
	keys := k.fields.Load()
	b, err := keys.aead.Decrypt(sealed, payloadOf(tenant, delivery))
	if err == nil {
		return b, nil
	}
	if id, ok := SealedWith(sealed); ok && !slices.Contains(keys.ids, id) {
		return nil, fmt.Errorf("opening a payload: %w", &MissingKey{id})
	}
	return nil, fmt.Errorf("opening a payload: %w", ErrCannotOpen)
}

// payloadOf differs from every field's associated data in its first text.
func payloadOf(tenant lifecycle.TenantID, delivery uuid.UUID) []byte {
	return append(append([]byte("trakr/outbox/v1\x00"), tenant[:]...), delivery[:]...)
}
