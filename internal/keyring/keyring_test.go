package keyring_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
)

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestSealedValueOpensOnlyWhereItBelongs(t *testing.T) {
	k := must[*keyring.Keyring](t)(keyring.New())
	a, b := lifecycle.NewTenantID(), lifecycle.NewTenantID()
	value := lifecycle.NewSecret("marker-value")
	sealed := must[[]byte](t)(k.Encrypt(a, lifecycle.Username, value))
	if bytes.Contains(sealed, []byte("marker")) {
		t.Fatal("the value is readable in what was encrypted")
	}
	if got := must[lifecycle.Secret](t)(k.Decrypt(a, lifecycle.Username, sealed)); got != value {
		t.Fatal("the value did not come back")
	}
	for name, open := range map[string]func() (lifecycle.Secret, error){
		"another tenant's row": func() (lifecycle.Secret, error) { return k.Decrypt(b, lifecycle.Username, sealed) },
		"another column":       func() (lifecycle.Secret, error) { return k.Decrypt(a, lifecycle.AvatarURL, sealed) },
		"a changed byte":       func() (lifecycle.Secret, error) { return k.Decrypt(a, lifecycle.Username, flip(sealed)) },
		"another keyring": func() (lifecycle.Secret, error) {
			return must[*keyring.Keyring](t)(keyring.New()).Decrypt(a, lifecycle.Username, sealed)
		},
	} {
		if _, err := open(); !errors.Is(err, keyring.ErrCannotDecrypt) {
			t.Errorf("%s: got %v, want ErrCannotDecrypt", name, err)
		}
	}
}

func flip(b []byte) []byte {
	c := bytes.Clone(b)
	c[len(c)-1] ^= 1
	return c
}

func TestDigestsSeparatePurposesAndKeyrings(t *testing.T) {
	k := must[*keyring.Keyring](t)(keyring.New())
	v := lifecycle.NewSecret("same text")
	s := must[keyring.Digest](t)(k.Digest(keyring.Subject, v))
	if len(s) != keyring.DigestSize {
		t.Fatalf("a digest has %d bytes, want %d", len(s), keyring.DigestSize)
	}
	if again := must[keyring.Digest](t)(k.Digest(keyring.Subject, v)); !bytes.Equal(s, again) {
		t.Error("the same value has two digests: no look-up would find it")
	}
	if p := must[keyring.Digest](t)(k.Digest(keyring.Principal, v)); bytes.Equal(s, p) {
		t.Error("two purposes share a digest")
	}
	other := must[*keyring.Keyring](t)(keyring.New())
	if o := must[keyring.Digest](t)(other.Digest(keyring.Subject, v)); bytes.Equal(s[4:], o[4:]) {
		t.Error("a digest does not depend on the key: anyone could test guesses against it")
	}
	all := must[[]keyring.Digest](t)(k.Digests(keyring.Subject, v))
	if len(all) != 1 || !bytes.Equal(all[0], s) {
		t.Error("Digests must start with the newest version")
	}
}

func TestKeyringFileIsPrivateAndNeverReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "keys.json")
	k, created, err := keyring.LoadOrCreate(path)
	if err != nil || !created {
		t.Fatalf("first start: created=%v err=%v", created, err)
	}
	if st := must[fs.FileInfo](t)(os.Stat(path)); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %o, want 600", st.Mode().Perm())
	}
	id := lifecycle.NewTenantID()
	sealed := must[[]byte](t)(k.Encrypt(id, lifecycle.ClientKey, lifecycle.NewSecret("v")))
	again, created, err := keyring.LoadOrCreate(path)
	if err != nil || created {
		t.Fatalf("second start: created=%v err=%v", created, err)
	}
	if _, err := again.Decrypt(id, lifecycle.ClientKey, sealed); err != nil {
		t.Errorf("the second start lost the keys: %v", err)
	}
	if _, err := keyring.Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over an existing keyring: %v, want fs.ErrExist", err)
	}
	inline := must[*keyring.Keyring](t)(keyring.Load(string(must[[]byte](t)(os.ReadFile(path)))))
	if _, err := inline.Decrypt(id, lifecycle.ClientKey, sealed); err != nil {
		t.Errorf("the same keyring given in the environment: %v", err)
	}
	left := must[[]string](t)(filepath.Glob(filepath.Join(filepath.Dir(path), ".keyring-*")))
	if len(left) != 0 {
		t.Errorf("temporary files left: %v", left)
	}
}

func TestUnusableKeyringsAreRefusedWithoutQuotingThem(t *testing.T) {
	dir := t.TempDir()
	whole := must[[]byte](t)(keyring.Marshal())
	for name, c := range map[string]struct {
		content, want string
		mode          fs.FileMode
	}{
		"readable by the group": {string(whole), "chmod 600", 0o640},
		"cut short":             {string(whole[:len(whole)/2]), "not the JSON", 0o600},
		"marker as key":         {`{"marker-key-material":1}`, "not the JSON", 0o600},
		"another version":       {strings.Replace(string(whole), `"version": 2`, `"version": 9`, 1), "format version 9", 0o600},
		"no keysets":            {`{"about":"","version":2,"fields":{},"digests":{},"signing":{}}`, "cannot be read", 0o600},
		"before checkpoints":    {`{"about":"","version":1,"fields":{},"digests":{}}`, "trakr keys upgrade", 0o600},
	} {
		path := filepath.Join(dir, "k")
		_ = os.Remove(path)
		if err := os.WriteFile(path, []byte(c.content), c.mode); err != nil {
			t.Fatal(err)
		}
		_, err := keyring.Load(path)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "marker") {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if _, err := keyring.Load(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing keyring: %v, want fs.ErrNotExist", err)
	}
}

func TestAnOldKeyringGetsASigningKeyAndKeepsTheRest(t *testing.T) {
	whole := must[[]byte](t)(keyring.Marshal())
	var f map[string]any
	if err := json.Unmarshal(whole, &f); err != nil {
		t.Fatal(err)
	}
	delete(f, "signing")
	f["version"] = 1
	old := must[[]byte](t)(json.Marshal(f))
	before := must[*keyring.Keyring](t)(keyring.Load(string(whole)))
	after := must[*keyring.Keyring](t)(keyring.Load(string(must[[]byte](t)(keyring.Upgrade(old)))))
	id := lifecycle.NewTenantID()
	sealed := must[[]byte](t)(before.Encrypt(id, lifecycle.Username, lifecycle.NewSecret("x")))
	if v, err := after.Decrypt(id, lifecycle.Username, sealed); err != nil || v.Reveal() != "x" {
		t.Errorf("what the old keyring encrypted is not decrypted: %v", err)
	}
	if len(after.Signing()) != ed25519.PrivateKeySize || after.Signing().Equal(before.Signing()) {
		t.Error("no signing key of its own")
	}
	if again := must[[]byte](t)(keyring.Upgrade(whole)); !bytes.Equal(again, whole) {
		t.Error("a keyring of this version was changed")
	}
}
