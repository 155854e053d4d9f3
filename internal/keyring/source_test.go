package keyring_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
)

// encrypted is a tenant, and a value of it that a keyring encrypted.
func encrypted(t *testing.T, k *keyring.Keyring) (lifecycle.TenantID, []byte) {
	t.Helper()
	id := lifecycle.NewTenantID()
	return id, must[[]byte](t)(k.Encrypt(id, lifecycle.Username, lifecycle.NewSecret("x")))
}

func TestAKeyIsAddedUsedAndTheOldOneDestroyed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	running := must[*keyring.Keyring](t)(keyring.Create(path))
	old := running.Active()
	id, was := encrypted(t, running)
	digest := must[keyring.Digest](t)(running.Digest(keyring.Subject, lifecycle.NewSecret("x")))
	s := keyring.Source{At: path}

	var added keyring.KeyID
	if err := s.Edit(keyring.AddFieldKey(&added)); err != nil {
		t.Fatal(err)
	}
	if err := running.SetActive(added); !errors.As(err, new(*keyring.MissingKey)) {
		t.Errorf("using a key that was not read yet: %v", err)
	}
	if changed, err := running.Reload(); err != nil || !changed || running.Active() != old || !slices.Equal(running.FieldKeys(), []keyring.KeyID{old, added}) {
		t.Fatalf("changed=%v, %v: %v is active: %v", changed, err, running.FieldKeys(), running.Active())
	}
	if changed, err := running.Reload(); err != nil || changed {
		t.Errorf("nothing changed: %v, %v", changed, err)
	}
	if err := running.SetActive(added); err != nil {
		t.Fatal(err)
	}
	id2, is := encrypted(t, running)
	for _, c := range []struct {
		sealed []byte
		by     keyring.KeyID
	}{{was, old}, {is, added}} {
		if by, ok := keyring.EncryptedWith(c.sealed); !ok || by != c.by {
			t.Errorf("sealed with %v, want %v", by, c.by)
		}
	}
	if _, err := running.Decrypt(id, lifecycle.Username, was); err != nil {
		t.Error(err)
	}

	if err := s.Edit(keyring.KeepFieldKey(added)); err != nil {
		t.Fatal(err)
	}
	if err := s.Edit(keyring.KeepFieldKey(old)); !errors.As(err, new(*keyring.MissingKey)) {
		t.Errorf("keeping a key that is gone: %v", err)
	}
	fresh := must[*keyring.Keyring](t)(keyring.Load(path))
	if _, err := running.Reload(); err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]*keyring.Keyring{"read anew": fresh, "taken over": running} {
		var missing *keyring.MissingKey
		if _, err := k.Decrypt(id, lifecycle.Username, was); !errors.As(err, &missing) || missing.ID != old || !errors.Is(err, keyring.ErrCannotDecrypt) {
			t.Errorf("%s: a value of the destroyed key: %v", name, err)
		}
		if v, err := k.Decrypt(id2, lifecycle.Username, is); err != nil || v.Reveal() != "x" {
			t.Errorf("%s: %v", name, err)
		}
		if d := must[keyring.Digest](t)(k.Digest(keyring.Subject, lifecycle.NewSecret("x"))); !bytes.Equal(d, digest) || !k.Signing().Equal(running.Signing()) {
			t.Errorf("%s: digests or signatures changed", name)
		}
	}
}

func TestAnEditKeepsOwnerModeAndLinkAndLeavesTheFileWholeWhenItFails(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "real.json"), filepath.Join(dir, "keys.json")
	must[*keyring.Keyring](t)(keyring.Create(path))
	for _, err := range []error{os.Chmod(path, 0o400), os.Symlink("real.json", link)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	owner := func() (uint32, uint32, fs.FileMode) {
		st := must[fs.FileInfo](t)(os.Stat(path))
		sys := st.Sys().(*syscall.Stat_t)
		return sys.Uid, sys.Gid, st.Mode()
	}
	uid, gid, mode := owner()
	var id keyring.KeyID
	if err := (keyring.Source{At: link}).Edit(keyring.AddFieldKey(&id)); err != nil {
		t.Fatal(err)
	}
	if u, g, m := owner(); u != uid || g != gid || m != mode {
		t.Errorf("owner and mode %d:%d %v, were %d:%d %v", u, g, m, uid, gid, mode)
	}
	if _, err := os.Readlink(link); err != nil {
		t.Error("the link became a file")
	}
	before := must[[]byte](t)(os.ReadFile(path))
	s := keyring.Source{At: path}
	for name, err := range map[string]error{
		"a change that fails":       s.Edit(keyring.KeepFieldKey(id + 1)),
		"a keyring that is a text":  keyring.Source{At: string(before)}.Edit(keyring.AddFieldKey(&id)),
		"a keyring that is missing": keyring.Source{At: path + ".none"}.Edit(keyring.AddFieldKey(&id)),
	} {
		if err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	cut := filepath.Join(dir, "cut.json")
	for name, content := range map[string][]byte{"cut short": before[:len(before)/2], "empty": nil, "with something behind it": append(bytes.Clone(before), "x"...)} {
		if err := os.WriteFile(cut, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := (keyring.Source{At: cut}).Edit(keyring.AddFieldKey(&id)); err == nil || !strings.Contains(err.Error(), "Nothing was changed") {
			t.Errorf("a keyring %s: %v", name, err)
		}
		if got := must[[]byte](t)(os.ReadFile(cut)); !bytes.Equal(got, content) {
			t.Errorf("a keyring %s was changed", name)
		}
	}
	if !bytes.Equal(before, must[[]byte](t)(os.ReadFile(path))) {
		t.Error("an edit that failed changed the file")
	}
	if left := must[[]string](t)(filepath.Glob(filepath.Join(dir, ".keyring-*"))); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What a change would be lost in is not changed: the next start reads something else.
func TestACopyInMemoryIsNotChangedInPlace(t *testing.T) {
	for path, memory := range map[string]bool{"/run/trakr/keys.json": true, "/run/secrets/keys": true, "/dev/shm/k": true, "/etc/trakr/keys.json": false, "/var/lib/run/keys.json": false} {
		if keyring.InMemory(path) != memory {
			t.Errorf("%s: %v", path, !memory)
		}
	}
	text := keyring.Source{At: string(must[[]byte](t)(keyring.Marshal()))}
	var id keyring.KeyID
	if err := text.Edit(keyring.AddFieldKey(&id)); !errors.Is(err, keyring.ErrNotInPlace) {
		t.Errorf("a text: %v", err)
	}
	if b := must[[]byte](t)(text.Changed(keyring.AddFieldKey(&id))); !strings.Contains(string(b), id.String()) {
		t.Error("the changed text lacks the key")
	}
}

// Readers never see anything but a whole keyring, and no edit is lost.
func TestEditsAtTheSameTimeAreAllThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	must[*keyring.Keyring](t)(keyring.Create(path))
	var edits, readers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := keyring.Load(path); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 4 {
		edits.Go(func() {
			for range 3 {
				var id keyring.KeyID
				if err := (keyring.Source{At: path}).Edit(keyring.AddFieldKey(&id)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	edits.Wait()
	close(done)
	readers.Wait()
	if n := len(must[*keyring.Keyring](t)(keyring.Load(path)).FieldKeys()); n != 13 {
		t.Errorf("%d keys, want 13", n)
	}
}

func TestAnotherKeyringInTheSamePlaceIsNotTakenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	k := must[*keyring.Keyring](t)(keyring.Create(path))
	id, sealed := encrypted(t, k)
	for name, content := range map[string][]byte{"another one": must[[]byte](t)(keyring.Marshal()), "half a one": []byte(`{"about":`), "nothing": nil} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if changed, err := k.Reload(); err == nil || changed {
			t.Errorf("%s was taken over", name)
		}
		if _, err := k.Decrypt(id, lifecycle.Username, sealed); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
	}
}

// vault speaks the part of the transit engine's API that is used, on a real socket.
type vault struct {
	mu     sync.Mutex
	token  string
	keys   map[string]byte // name to what stands for the key
	status int             // answers with this instead, when set
	raw    string          // and this
	saw    []string
}

func (v *vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.saw = append(v.saw, r.Method+" "+r.URL.Path)
	fail := func(status int, word string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{word}})
	}
	if v.status != 0 {
		w.WriteHeader(v.status)
		_, _ = w.Write([]byte(v.raw))
		return
	}
	if r.Header.Get("X-Vault-Token") != v.token || r.Method != http.MethodPost {
		fail(http.StatusForbidden, "permission denied: marker")
		return
	}
	var in struct{ Plaintext, Ciphertext string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		fail(http.StatusBadRequest, "marker")
		return
	}
	op, name, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/transit/"), "/")
	key, known := v.keys[name]
	if !ok || !known {
		fail(http.StatusNotFound, "marker")
		return
	}
	flip := func(b []byte) []byte {
		for i := range b {
			b[i] ^= key
		}
		return b
	}
	data := map[string]string{}
	switch op {
	case "encrypt":
		b, _ := base64.StdEncoding.DecodeString(in.Plaintext)
		data["ciphertext"] = "vault:v1:" + base64.StdEncoding.EncodeToString(flip(append([]byte("sealed "), b...)))
	case "decrypt":
		b, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(in.Ciphertext, "vault:v1:"))
		b, ok := bytes.CutPrefix(flip(b), []byte("sealed "))
		if !ok {
			fail(http.StatusBadRequest, "cipher: message authentication failed")
			return
		}
		data["plaintext"] = base64.StdEncoding.EncodeToString(b)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"data": data})
}

func (v *vault) set(f func(*vault)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(v)
}

func newVault(t *testing.T) (*vault, string) {
	v := &vault{token: "marker-token", keys: map[string]byte{"trakr": 0x5a, "other": 0x77}}
	srv := httptest.NewServer(v)
	t.Cleanup(srv.Close)
	return v, "hcvault://" + strings.TrimPrefix(srv.URL, "http://") + "/transit/keys/trakr"
}

func TestAWrappedKeyringOpensOnlyWithTheKeyServer(t *testing.T) {
	v, uri := newVault(t)
	path := filepath.Join(t.TempDir(), "keys.json")
	open := keyring.Source{At: path}
	k := must[*keyring.Keyring](t)(open.Create())
	id, sealed := encrypted(t, k)
	plain := must[[]byte](t)(os.ReadFile(path))
	wrapped := keyring.Source{At: path, Wrap: uri, Server: &keyring.Vault{Token: lifecycle.NewSecret("marker-token")}}

	if _, err := wrapped.Load(); err == nil || !strings.Contains(err.Error(), "trakr keys wrap") {
		t.Errorf("a keyring in clear where a wrapped one is asked for: %v", err)
	}
	open.Server = wrapped.Server
	if err := open.Rewrap(uri); err != nil {
		t.Fatal(err)
	}
	stored := must[[]byte](t)(os.ReadFile(path))
	if bytes.Contains(stored, []byte("keyData")) || !bytes.Contains(stored, []byte(uri)) || st(t, path) != 0o600 {
		t.Errorf("what is stored is not wrapped:\n%s", stored)
	}
	read := must[*keyring.Keyring](t)(wrapped.Load())
	if _, err := read.Decrypt(id, lifecycle.Username, sealed); err != nil {
		t.Error(err)
	}
	// It is rotated and given as a text like any other; nothing changed, nobody is asked.
	var added keyring.KeyID
	if err := wrapped.Edit(keyring.AddFieldKey(&added)); err != nil {
		t.Fatal(err)
	}
	if changed, err := read.Reload(); err != nil || !changed || len(read.FieldKeys()) != 2 {
		t.Errorf("%v %v", changed, err)
	}
	v.set(func(v *vault) { v.saw = nil })
	if changed, err := read.Reload(); err != nil || changed || len(v.saw) != 0 {
		t.Errorf("%v %v %v", changed, err, v.saw)
	}
	stored = must[[]byte](t)(os.ReadFile(path))
	text := wrapped
	text.At = string(stored)
	must[*keyring.Keyring](t)(text.Load())

	tokenFile := filepath.Join(t.TempDir(), "token")
	noServer := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	nobody := "hcvault://" + noServer.Addr().String() + "/transit/keys/trakr"
	_ = noServer.Close()
	moved := func(uri string) string {
		return string(bytes.ReplaceAll(stored, []byte(wrapped.Wrap), []byte(uri)))
	}
	for name, c := range map[string]struct {
		change func(*keyring.Source)
		server func(*vault)
		want   []string
	}{
		"unwrapped by nobody": {func(s *keyring.Source) { s.Wrap = "" }, nil, []string{"is wrapped", "TRAKR_KEYS_WRAP"}},
		"another key named":   {func(s *keyring.Source) { s.Wrap = uri + "2" }, nil, []string{"names another key"}},
		"another key":         {func(s *keyring.Source) { s.Wrap = strings.Replace(uri, "trakr", "other", 1); s.At = moved(s.Wrap) }, nil, []string{"cannot decrypt", "min_decryption_version"}},
		"no such key":         {func(s *keyring.Source) { s.Wrap = strings.Replace(uri, "trakr", "none", 1); s.At = moved(s.Wrap) }, nil, []string{"no transit engine or key", "transit/keys/none"}},
		"unreachable":         {func(s *keyring.Source) { s.Wrap = nobody; s.At = moved(s.Wrap) }, nil, []string{"does not answer", "reachable"}},
		"denied":              {func(s *keyring.Source) { s.Server = &keyring.Vault{Token: lifecycle.NewSecret("marker-wrong")} }, nil, []string{"refuses our token", "transit/decrypt/trakr"}},
		"no token file":       {func(s *keyring.Source) { s.Server = &keyring.Vault{TokenFile: tokenFile} }, nil, []string{"TRAKR_KEYS_WRAP_TOKEN_FILE"}},
		"sealed":              {nil, func(v *vault) { v.status = 503 }, []string{"is sealed"}},
		"broken":              {nil, func(v *vault) { v.status = 500 }, []string{"status 500"}},
		"no Vault":            {nil, func(v *vault) { v.status, v.raw = 200, "<html>marker" }, []string{"no JSON"}},
		"an empty answer":     {nil, func(v *vault) { v.status, v.raw = 200, `{"data":{}}` }, []string{"without a plaintext"}},
		"changed":             {func(s *keyring.Source) { s.At = strings.Replace(s.At, `"wrapped": "AAAA`, `"wrapped": "AAAB`, 1) }, nil, []string{"changed or cut short"}},
		"cut":                 {func(s *keyring.Source) { s.At = s.At[:len(s.At)/2] }, nil, []string{"not the JSON"}},
		"another server kind": {func(s *keyring.Source) { s.Wrap = "aws-kms://x"; s.At = moved(s.Wrap) }, nil, []string{"knows no key server of that kind"}},
	} {
		s := wrapped
		s.At = string(stored)
		if c.change != nil {
			c.change(&s)
		}
		v.set(func(v *vault) { v.status, v.raw = 0, "" })
		if c.server != nil {
			v.set(c.server)
		}
		_, created, err := s.LoadOrCreate()
		if err == nil || created || errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "marker") {
			t.Errorf("%s: created=%v, %v", name, created, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v; want %q", name, err, w)
			}
		}
		// In its file it stays as it is, whatever is tried.
		s.At = path
		was := must[[]byte](t)(os.ReadFile(path)) // a case whose server answers may have changed it
		_ = s.Edit(keyring.AddFieldKey(&added))
		if now := must[[]byte](t)(os.ReadFile(path)); c.server != nil && !bytes.Equal(now, was) {
			t.Errorf("%s: the file was changed", name)
		}
	}
	v.set(func(v *vault) { v.status, v.raw = 0, "" })
	// The token comes from a file that may change; a new keyring is born wrapped.
	if err := os.WriteFile(tokenFile, []byte("marker-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	born := keyring.Source{At: path + ".new", Wrap: uri, Server: &keyring.Vault{TokenFile: tokenFile}}
	if _, created, err := born.LoadOrCreate(); err != nil || !created {
		t.Errorf("created=%v, %v", created, err)
	}
	if b := must[[]byte](t)(os.ReadFile(path + ".new")); bytes.Contains(b, []byte("keyData")) {
		t.Error("a new keyring was stored in clear")
	}
	if b := must[[]byte](t)(wrapped.Rewrapped("")); !bytes.Contains(b, []byte("keyData")) {
		t.Error("unwrapped elsewhere, it is not in clear")
	}
	if err := wrapped.Rewrap(""); err != nil {
		t.Fatal(err)
	}
	again := must[*keyring.Keyring](t)(open.Load())
	if _, err := again.Decrypt(id, lifecycle.Username, sealed); err != nil {
		t.Error(err)
	}
	if before, after := must[*keyring.Keyring](t)(keyring.Load(string(plain))), again; !before.Signing().Equal(after.Signing()) {
		t.Error("wrapping and unwrapping changed a key")
	}
}

func st(t *testing.T, path string) fs.FileMode {
	t.Helper()
	return must[fs.FileInfo](t)(os.Stat(path)).Mode().Perm()
}

func TestOnlyAKeyOfAVaultIsNamed(t *testing.T) {
	for uri, ok := range map[string]bool{
		"hcvault://vault.example.com/transit/keys/trakr": true, "hcvault://vault.example.com:8200/a/b/keys/trakr": true, "hcvault://127.0.0.1:8200/transit/keys/k": true,
		"https://vault.example.com/transit/keys/trakr": false, "hcvault:///transit/keys/trakr": false, "hcvault://v/keys/trakr": false, "hcvault://v/transit/trakr": false,
		"hcvault://v/transit/keys/": false, "hcvault://v/transit/keys/a/b": false, "hcvault://user:x@v/transit/keys/k": false, "hcvault://v/transit/keys/k?x=1": false,
		"hcvault://v/../sys/keys/k": false, "": false,
	} {
		if err := keyring.CheckVaultURI(uri); (err == nil) != ok {
			t.Errorf("%q: %v", uri, err)
		}
	}
}
