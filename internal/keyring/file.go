package keyring

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
)

// file is the stored form. The keysets are Tink's own JSON.
type file struct {
	About   string          `json:"about"`
	Version int             `json:"version"`
	Fields  json.RawMessage `json:"fields,omitempty"`
	Digests json.RawMessage `json:"digests,omitempty"`
	Signing json.RawMessage `json:"signing,omitempty"` // absent in format 1

	// Format 3 is one of format 2 in an envelope.
	WrappedBy string `json:"wrapped_by,omitempty"` // the key server's URI
	Wrapped   []byte `json:"wrapped,omitempty"`
}

const (
	wrappedVersion = 3
	formatVersion  = 2
	unsigned       = 1 // before checkpoints were signed
	about          = "Trakr keyring. Whoever has this file and the database can read tenant values. " +
		"Without it they cannot be read by anyone, ever. Keep it out of the database's backups."
	aboutWrapped = "Trakr keyring, wrapped: it opens only with the key server's help. " +
		"Without both, tenant values cannot be read by anyone, ever. Keep it out of the database's backups."
)

// Create writes a new keyring to path with mode 0600 and returns it. An
// existing file is never replaced: the error is fs.ErrExist.
func Create(path string) (*Keyring, error) { return Source{At: path}.Create() }

// Write puts a keyring's stored form into a new file of mode 0600. An existing
// file is never replaced: the error is fs.ErrExist.
func Write(path string, stored []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("creating the keyring's directory: %w", err)
	}
	// Write beside it, then link: a crash leaves either no keyring or a whole
	// one, and a second process that creates at the same time loses cleanly.
	tmp, err := beside(path, stored)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp) }()
	if err := os.Link(tmp, path); err != nil {
		return fmt.Errorf("creating the keyring: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// beside writes a whole, durable file of mode 0600 next to path and returns its name.
func beside(path string, stored []byte) (string, error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".keyring-*") // mode 0600
	if err != nil {
		return "", fmt.Errorf("creating the keyring: %w", err)
	}
	_, err = tmp.Write(stored)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		_ = os.Remove(tmp.Name())
		return "", fmt.Errorf("writing the keyring: %w", err)
	}
	return tmp.Name(), nil
}

// Marshal returns a new keyring in its stored form, for an environment that
// has no files (see Load).
func Marshal() ([]byte, error) {
	b, _, err := generateFile()
	return b, err
}

// Load reads a keyring. The source is a path or, where a platform offers no
// files, the stored form itself, recognised by its leading "{".
func Load(source string) (*Keyring, error) { return Source{At: source}.Load() }

// LoadOrCreate loads the keyring at path and creates it when there is none.
func LoadOrCreate(path string) (k *Keyring, created bool, err error) {
	return Source{At: path}.LoadOrCreate()
}

// decode reads the stored form, wrapped or not, without looking at the keys.
func decode(stored []byte, name string) (file, error) {
	d := json.NewDecoder(bytes.NewReader(stored))
	d.DisallowUnknownFields()
	var f file
	err := d.Decode(&f)
	if _, more := d.Token(); err != nil || more != io.EOF {
		// The decoder's own message could quote key material.
		return f, fmt.Errorf("the keyring %s is not readable: not the JSON this program writes. "+
			"Nothing was changed; restore the file from the copy that is kept apart", name)
	}
	return f, nil
}

// parseKeysets reads the keysets of a clear form.
func parseKeysets(f file, name string) (k keysets, err error) {
	if f.Version == unsigned {
		return k, fmt.Errorf("the keyring %s: %w", name, errOld)
	}
	if f.Version != formatVersion {
		return k, fmt.Errorf("the keyring %s has format version %d; this program reads %d and %d",
			name, f.Version, formatVersion, wrappedVersion)
	}
	var errs [3]error
	k.fields, errs[0] = readKeyset(f.Fields)
	k.digests, errs[1] = readKeyset(f.Digests)
	k.signing, errs[2] = readKeyset(f.Signing)
	if errors.Join(errs[:]...) != nil {
		return k, fmt.Errorf("the keyring %s has a keyset that cannot be read. "+
			"Nothing was changed; restore the file from the copy that is kept apart", name)
	}
	return k, nil
}

var errOld = errors.New("it has no key to sign checkpoints with yet; add one with: trakr keys upgrade --in FILE --out NEWFILE")

// Upgrade returns the stored form of a keyring of format 1 with a signing key
// added; everything else stays. One of a later format comes back as it is.
func Upgrade(old []byte) ([]byte, error) {
	var f file
	if err := json.Unmarshal(old, &f); err != nil {
		return nil, errors.New("this is not a keyring: not the JSON this program writes")
	}
	if f.Version != unsigned {
		return old, nil
	}
	h, err := generateSigning()
	if err != nil {
		return nil, err
	}
	if f.Signing, err = writeKeyset(h); err != nil {
		return nil, fmt.Errorf("encoding the keyring: %w", err)
	}
	f.Version = formatVersion
	return encode(f)
}

func generateFile() ([]byte, *Keyring, error) {
	s, err := generate()
	if err != nil {
		return nil, nil, err
	}
	k, err := s.assemble()
	if err != nil {
		return nil, nil, err
	}
	b, err := s.encode()
	return b, k, err
}

// encode returns the clear stored form.
func (s keysets) encode() ([]byte, error) {
	fb, err1 := writeKeyset(s.fields)
	db, err2 := writeKeyset(s.digests)
	sb, err3 := writeKeyset(s.signing)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("encoding the keyring: %w", err)
	}
	return encode(file{About: about, Version: formatVersion, Fields: fb, Digests: db, Signing: sb})
}

func encode(f file) ([]byte, error) {
	b, err := json.MarshalIndent(f, "", "  ")
	return append(b, '\n'), err
}

func readKeyset(b []byte) (*keyset.Handle, error) {
	return insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(b)))
}

func writeKeyset(h *keyset.Handle) ([]byte, error) {
	var b bytes.Buffer
	err := insecurecleartextkeyset.Write(h, keyset.NewJSONWriter(&b))
	return b.Bytes(), err
}

// readFile reads a keyring's file, which only its owner may be able to read.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the keyring: %w", err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("opening the keyring: %w", err)
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("the keyring %s is not a regular file", path)
	case st.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("the keyring %s can be read by others (mode %04o); run: chmod 600 %s", path, st.Mode().Perm(), path)
	case st.Size() > maxSize:
		return nil, fmt.Errorf("%s is no keyring: it is too long", path)
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("reading the keyring: %w", err)
	}
	return b, nil
}

const maxSize = 1 << 20

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("flushing %s: %w", dir, err)
	}
	defer func() { _ = d.Close() }()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("flushing %s: %w", dir, err)
	}
	return nil
}
