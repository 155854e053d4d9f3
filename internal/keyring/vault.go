package keyring

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/tink-crypto/tink-go/v2/tink"

	"trakr/internal/lifecycle"
)

const (
	vaultScheme  = "hcvault://"
	vaultTimeout = 10 * time.Second
	vaultKeys    = "/keys/"
)

// ServerFault is why a key server did not do its part. Its text names the cause and
// the way out.
type ServerFault struct{ Cause, WayOut string }

// Error implements error.
func (f *ServerFault) Error() string { return f.Cause + "; " + f.WayOut }

// Vault is the transit engine of HashiCorp Vault (or OpenBao) as a key server, in the
// shape of Tink's KMS clients. A key is named hcvault://HOST[:PORT]/MOUNT/keys/NAME;
// requests use https, or http only to this machine (a Vault agent).
// API: developer.hashicorp.com/vault/api-docs/secret/transit.
type Vault struct {
	// Token is sent with each request; the file is read each time, so that it can be
	// renewed. Neither is right for an agent that adds one.
	Token     lifecycle.Secret
	TokenFile string
	// Client makes the requests; nil means one with a timeout that follows no redirect.
	Client *http.Client
}

// Supported implements registry.KMSClient.
func (v *Vault) Supported(uri string) bool { return strings.HasPrefix(uri, vaultScheme) }

// GetAEAD implements registry.KMSClient. It sends no request.
func (v *Vault) GetAEAD(uri string) (tink.AEAD, error) {
	k, err := parseVaultKey(uri)
	if err != nil {
		return nil, err
	}
	k.vault = v
	return k, nil
}

// CheckVaultURI returns an error for a text that cannot name a key of a Vault.
func CheckVaultURI(uri string) error {
	_, err := parseVaultKey(uri)
	return err
}

func parseVaultKey(uri string) (*vaultKey, error) {
	malformed := errors.New("must have the form " + vaultScheme + "HOST/transit/keys/NAME")
	u, err := url.Parse(uri)
	if err != nil || u.Scheme+"://" != vaultScheme || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, malformed
	}
	i := strings.LastIndex(u.Path, vaultKeys)
	if i <= 0 {
		return nil, malformed
	}
	mount, name := u.Path[1:i], u.Path[i+len(vaultKeys):]
	if name == "" || strings.Contains(name, "/") || strings.Contains(mount, "..") {
		return nil, malformed
	}
	scheme := "https"
	if ip, err := netip.ParseAddr(u.Hostname()); u.Hostname() == "localhost" || (err == nil && ip.IsLoopback()) {
		scheme = "http"
	}
	return &vaultKey{origin: scheme + "://" + u.Host, host: u.Host, mount: mount, name: name}, nil
}

// vaultKey is one key of a transit engine.
type vaultKey struct {
	vault                     *Vault
	origin, host, mount, name string
}

// Encrypt implements tink.AEAD. The envelope has no associated data for us.
func (k *vaultKey) Encrypt(plain, _ []byte) ([]byte, error) {
	var out struct{ Data struct{ Ciphertext string } }
	err := k.call("encrypt", map[string]string{"plaintext": base64.StdEncoding.EncodeToString(plain)}, &out)
	if err == nil && out.Data.Ciphertext == "" {
		err = k.fault("answered without a ciphertext", "check that TRAKR_KEYS_WRAP points at a Vault's transit engine")
	}
	return []byte(out.Data.Ciphertext), err
}

// Decrypt implements tink.AEAD.
func (k *vaultKey) Decrypt(encrypted, _ []byte) ([]byte, error) {
	var out struct{ Data struct{ Plaintext string } }
	if err := k.call("decrypt", map[string]string{"ciphertext": string(encrypted)}, &out); err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.DecodeString(out.Data.Plaintext)
	if err != nil || len(b) == 0 {
		return nil, k.fault("answered without a plaintext", "check that TRAKR_KEYS_WRAP points at a Vault's transit engine")
	}
	return b, nil
}

func (k *vaultKey) fault(cause, wayOut string) error {
	return &ServerFault{"the key server " + k.host + " " + cause, wayOut}
}

// call posts to an operation of the key. The server's own messages are not repeated.
func (k *vaultKey) call(operation string, body map[string]string, into any) error {
	token, err := k.token()
	if err != nil {
		return err
	}
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	path := k.mount + "/" + operation + "/" + k.name
	req, err := http.NewRequest(http.MethodPost, k.origin+"/v1/"+path, bytes.NewReader(b))
	if err != nil {
		return k.fault("cannot be asked", "check TRAKR_KEYS_WRAP")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Vault-Request", "true") // an agent may insist on it
	if !token.Empty() {
		req.Header.Set("X-Vault-Token", token.Reveal())
	}
	resp, err := k.client().Do(req)
	if err != nil {
		var dns interface{ Timeout() bool }
		cause := "does not answer"
		if errors.As(err, &dns) && dns.Timeout() {
			cause = fmt.Sprintf("does not answer within %s", vaultTimeout)
		}
		return k.fault(cause, "make it reachable from here and start again")
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusForbidden, http.StatusUnauthorized:
		return k.fault("refuses our token",
			"give TRAKR_KEYS_WRAP_TOKEN or TRAKR_KEYS_WRAP_TOKEN_FILE a valid token whose policy allows update on "+path)
	case http.StatusNotFound:
		return k.fault("has no transit engine or key there", "check the mount and the name in TRAKR_KEYS_WRAP: "+k.mount+vaultKeys+k.name)
	case http.StatusBadRequest:
		return k.fault("cannot "+operation+" with the key "+k.name,
			"check that it is the key that wrapped this keyring, with that version still allowed (min_decryption_version)")
	case http.StatusServiceUnavailable, http.StatusTooManyRequests, 473:
		return k.fault("is sealed or a standby that does not forward", "unseal it, or name the active one")
	default:
		return k.fault(fmt.Sprintf("answered with status %d", resp.StatusCode), "look into its own log")
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxSize)).Decode(into); err != nil {
		return k.fault("answered with something that is no JSON", "check that TRAKR_KEYS_WRAP points at a Vault")
	}
	return nil
}

func (k *vaultKey) token() (lifecycle.Secret, error) {
	if k.vault.TokenFile == "" {
		return k.vault.Token, nil
	}
	b, err := os.ReadFile(k.vault.TokenFile)
	if err != nil { // never wrapped: a missing token is not a missing keyring
		return lifecycle.Secret{}, &ServerFault{"the token for the key server cannot be read from " + k.vault.TokenFile,
			"check TRAKR_KEYS_WRAP_TOKEN_FILE"}
	}
	return lifecycle.NewSecret(strings.TrimSpace(string(b))), nil
}

func (k *vaultKey) client() *http.Client {
	if k.vault.Client != nil {
		return k.vault.Client
	}
	return &http.Client{Timeout: vaultTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}
