package keyring

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/core/registry"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// Source is where a keyring is kept, and what wraps it there.
type Source struct {
	// At is the keyring's file or, where a platform offers no files, its text.
	At string
	// Wrap is the URI of the key of a key server that the keyring must be wrapped by;
	// "" means that it is kept in clear. The file names the URI too, but is not
	// trusted: a changed file could send our token to any host.
	Wrap string
	// Server makes the key behind Wrap usable.
	Server registry.KMSClient
}

// ErrNotInPlace means that a change of the keyring would not last where it is.
var ErrNotInPlace = errors.New("it cannot be changed in place")

// InPlace returns why the keyring must not be changed where it is: as text in the
// environment it cannot, and a file in memory is a copy of another one, which would be
// what the next start reads. It is nil where a change lasts.
func (s Source) InPlace() error {
	if !s.InFile() {
		return fmt.Errorf("TRAKR_KEYS is the keyring itself and not a file: %w", ErrNotInPlace)
	}
	path, err := filepath.EvalSymlinks(s.At)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return fmt.Errorf("opening the keyring: %w", err)
	}
	if inMemory(path) {
		return fmt.Errorf("the keyring %s is a copy in memory, and a change would be lost with it: %w", s.At, ErrNotInPlace)
	}
	return nil
}

// inMemory reports whether a path is in a directory that does not survive a boot
// (hier(7)): systemd's credentials and runtime directories and containers' secrets do not.
func inMemory(path string) bool {
	for _, dir := range []string{"/run/", "/var/run/", "/dev/shm/"} {
		if strings.HasPrefix(path, dir) {
			return true
		}
	}
	return false
}

// InFile reports whether the keyring is kept in a file.
func (s Source) InFile() bool { return !strings.HasPrefix(strings.TrimSpace(s.At), "{") }

func (s Source) name() string {
	if s.InFile() {
		return s.At
	}
	return "TRAKR_KEYS"
}

// Load reads the keyring. No file is fs.ErrNotExist, and nothing else is.
func (s Source) Load() (*Keyring, error) { return s.load([32]byte{}) }

// load is Load; what has the stamp is not read again, and nil.
func (s Source) load(stamp [32]byte) (*Keyring, error) {
	stored, err := s.read()
	if err != nil {
		return nil, err
	}
	now := sha256.Sum256(stored)
	if now == stamp {
		return nil, nil
	}
	sets, err := s.parse(stored)
	if err != nil {
		return nil, err
	}
	k, err := sets.assemble()
	if err != nil {
		return nil, err
	}
	k.source, k.stamp = &s, now
	return k, nil
}

func (s Source) read() ([]byte, error) {
	if !s.InFile() {
		return []byte(s.At), nil
	}
	return readFile(s.At)
}

// Create writes a new keyring to a file of mode 0600. An existing one is never
// replaced: the error is fs.ErrExist.
func (s Source) Create() (*Keyring, error) {
	b, err := s.Marshal()
	if err != nil {
		return nil, err
	}
	if err := Write(s.At, b); err != nil {
		return nil, err
	}
	return s.Load()
}

// Marshal returns a new keyring in its stored form, wrapped where it is to be.
func (s Source) Marshal() ([]byte, error) {
	b, _, err := generateFile()
	if err != nil {
		return nil, err
	}
	return s.wrap(b)
}

// LoadOrCreate loads the keyring and creates it when there is none.
func (s Source) LoadOrCreate() (k *Keyring, created bool, err error) {
	k, err = s.Load()
	if !errors.Is(err, fs.ErrNotExist) {
		return k, false, err
	}
	k, err = s.Create()
	if errors.Is(err, fs.ErrExist) { // another process was first
		k, err = s.Load()
		return k, false, err
	}
	return k, err == nil, err
}

// parse unwraps what is wrapped and reads the keysets.
func (s Source) parse(stored []byte) (keysets, error) {
	f, err := decode(stored, s.name())
	if err != nil {
		return keysets{}, err
	}
	plain, err := s.unwrap(f, stored)
	if err != nil {
		return keysets{}, err
	}
	if f, err = decode(plain, s.name()); err != nil {
		return keysets{}, err
	}
	return parseKeysets(f, s.name())
}

func (s Source) unwrap(f file, stored []byte) ([]byte, error) {
	switch {
	case f.Version != wrappedVersion && s.Wrap == "":
		return stored, nil
	case f.Version != wrappedVersion:
		return nil, fmt.Errorf("the keyring %s is kept in clear, and TRAKR_KEYS_WRAP asks for one that is wrapped; run: trakr keys wrap",
			s.name())
	case s.Wrap == "":
		return nil, fmt.Errorf("the keyring %s is wrapped; set TRAKR_KEYS_WRAP to the key that wraps it, which it names as %q",
			s.name(), f.WrappedBy)
	case s.Wrap != f.WrappedBy:
		return nil, fmt.Errorf("the keyring %s names %q as the key that wraps it, and TRAKR_KEYS_WRAP names another key; "+
			"set it to the first if that is yours", s.name(), f.WrappedBy)
	}
	a, err := s.envelope()
	if err != nil {
		return nil, err
	}
	plain, err := a.Decrypt(f.Wrapped, wrapping(s.Wrap))
	if err != nil {
		return nil, fmt.Errorf("unwrapping the keyring %s: %w. Nothing was changed", s.name(), wrapFault(err))
	}
	return plain, nil
}

// wrap returns the form in which a clear keyring is stored here.
func (s Source) wrap(plain []byte) ([]byte, error) {
	if s.Wrap == "" {
		return plain, nil
	}
	a, err := s.envelope()
	if err != nil {
		return nil, err
	}
	b, err := a.Encrypt(plain, wrapping(s.Wrap))
	if err != nil {
		return nil, fmt.Errorf("wrapping the keyring: %w. Nothing was changed", wrapFault(err))
	}
	return encode(file{About: aboutWrapped, Version: wrappedVersion, WrappedBy: s.Wrap, Wrapped: b})
}

// envelope encrypts with a key of its own, and only that one with the server's: the
// keyring itself never leaves this process in clear.
func (s Source) envelope() (tink.AEAD, error) {
	if s.Server == nil || !s.Server.Supported(s.Wrap) {
		return nil, fmt.Errorf("TRAKR_KEYS_WRAP: this program knows no key server of that kind; it knows %sHOST/transit/keys/NAME",
			vaultScheme)
	}
	remote, err := s.Server.GetAEAD(s.Wrap)
	if err != nil {
		return nil, fmt.Errorf("TRAKR_KEYS_WRAP: %w", err)
	}
	return aead.NewKMSEnvelopeAEAD2(aead.AES256GCMKeyTemplate(), remote), nil
}

func wrapping(uri string) []byte { return []byte("trakr/keyring/v1\x00" + uri) }

// wrapFault passes a fault of the key server on; everything else is one case.
func wrapFault(err error) error {
	var f *ServerFault
	if errors.As(err, &f) {
		return f
	}
	return errors.New("the wrapped text was changed or cut short; restore the file from the copy that is kept apart")
}

// Change is what is done to a keyring.
type Change func(*keysets) error

// AddFieldKey adds a field key that encrypts nothing yet. The id is set when it is done.
func AddFieldKey(id *KeyID) Change {
	return func(s *keysets) error {
		m := keyset.NewManagerFromHandle(s.fields)
		added, err := m.Add(aead.AES256GCMKeyTemplate())
		if err != nil {
			return fmt.Errorf("generating the field key: %w", err)
		}
		*id = KeyID(added)
		s.fields, err = m.Handle()
		return err
	}
}

// KeepFieldKey destroys every field key but one, which becomes the active one. It is a
// *MissingKey, and nothing changes, when that one is not there.
func KeepFieldKey(keep KeyID) Change {
	return func(s *keysets) error {
		f, err := useFields(s.fields)
		if err != nil {
			return err
		}
		if f, err = f.withActive(keep); err != nil {
			return err
		}
		m := keyset.NewManagerFromHandle(f.set)
		for _, id := range f.ids {
			if id == keep {
				continue
			}
			if err := m.Delete(uint32(id)); err != nil {
				return fmt.Errorf("destroying the field key %s: %w", id, err)
			}
		}
		s.fields, err = m.Handle()
		return err
	}
}

// Changed returns the keyring's stored form with the change made, for a keyring that
// cannot be changed in place. The keyring itself stays as it is.
func (s Source) Changed(change Change) ([]byte, error) {
	stored, err := s.read()
	if err != nil {
		return nil, err
	}
	return s.changed(stored, change, s)
}

// changed reads a stored form, changes it, and returns it as another source keeps it.
func (s Source) changed(stored []byte, change Change, to Source) ([]byte, error) {
	sets, err := s.parse(stored)
	if err != nil {
		return nil, err
	}
	if err := change(&sets); err != nil {
		return nil, err
	}
	plain, err := sets.encode()
	if err != nil {
		return nil, err
	}
	return to.wrap(plain)
}

// Edit changes the keyring in its file. At every moment the file is whole, the old one
// or the new one: it is written beside, flushed, read back, and renamed, with owner
// and mode as they were. Two edits wait for each other.
func (s Source) Edit(change Change) error { return s.edit(change, s) }

// Rewrap changes by what the keyring in the file is wrapped; "" is by nothing.
func (s Source) Rewrap(to string) error { return s.edit(unchanged, s.wrappedBy(to)) }

// Rewrapped is Rewrap for a keyring that cannot be changed in place: it returns the
// stored form.
func (s Source) Rewrapped(to string) ([]byte, error) {
	stored, err := s.read()
	if err != nil {
		return nil, err
	}
	return s.changed(stored, unchanged, s.wrappedBy(to))
}

func unchanged(*keysets) error { return nil }

func (s Source) wrappedBy(uri string) Source {
	s.Wrap = uri
	return s
}

func (s Source) edit(change Change, to Source) error {
	if err := s.InPlace(); err != nil {
		return err
	}
	path, err := filepath.EvalSymlinks(s.At)
	if err != nil {
		return fmt.Errorf("opening the keyring: %w", err)
	}
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	stored, err := readFile(path)
	if err != nil {
		return err
	}
	next, err := s.changed(stored, change, to)
	if err != nil {
		return err
	}
	return replace(path, next, func(written []byte) error {
		_, err := to.parse(written)
		return err
	})
}

// lockDir makes editors of the files in a directory wait for each other.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the keyring's directory: %w", err)
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("locking the keyring's directory: %w", err)
	}
	return func() { _ = d.Close() }, nil
}

// replace puts a whole new file in the place of one that is there.
func replace(path string, stored []byte, check func([]byte) error) error {
	was, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("changing the keyring: %w", err)
	}
	tmp, err := beside(path, stored)
	if err != nil {
		return fmt.Errorf("%w (the old one is still whole; --out FILE writes elsewhere)", err)
	}
	defer func() { _ = os.Remove(tmp) }()
	written, err := readFile(tmp)
	if err == nil {
		err = check(written)
	}
	if err != nil {
		return fmt.Errorf("reading back what was written: %w (the old keyring is still whole)", err)
	}
	// The service that uses this file must be able to read the new one.
	if st, ok := was.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		if err := os.Chown(tmp, int(st.Uid), int(st.Gid)); err != nil {
			return fmt.Errorf("keeping the keyring's owner: %w (the old one is still whole; run this as its owner)", err)
		}
	}
	if err := os.Chmod(tmp, was.Mode().Perm()); err != nil {
		return fmt.Errorf("keeping the keyring's mode: %w (the old one is still whole)", err)
	}
	// A crash before the rename leaves the old file, after it the new one.
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("replacing the keyring: %w (the old one is still whole; --out FILE writes elsewhere)", err)
	}
	return syncDir(filepath.Dir(path))
}
