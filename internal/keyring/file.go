package keyring

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
)

// file is the stored form. The keysets are Tink's own JSON.
type file struct {
	About   string          `json:"about"`
	Version int             `json:"version"`
	Fields  json.RawMessage `json:"fields"`
	Digests json.RawMessage `json:"digests"`
	Signing json.RawMessage `json:"signing"` // absent in format 1
}

const (
	formatVersion = 2
	unsigned      = 1 // before checkpoints were signed
	about         = "Trakr keyring. Whoever has this file and the database can read tenant values. " +
		"Without it they cannot be read by anyone, ever. Keep it out of the database's backups."
)

// Create writes a new keyring to path with mode 0600 and returns it. An
// existing file is never replaced: the error is fs.ErrExist.
func Create(path string) (*Keyring, error) {
	b, k, err := generateFile()
	if err != nil {
		return nil, err
	}
	return k, Write(path, b)
}

// Write puts a keyring's stored form into a new file of mode 0600. An existing
// file is never replaced: the error is fs.ErrExist.
func Write(path string, stored []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("creating the keyring's directory: %w", err)
	}
	// Write beside it, then link: a crash leaves either no keyring or a whole
	// one, and a second process that creates at the same time loses cleanly.
	tmp, err := os.CreateTemp(filepath.Dir(path), ".keyring-*") // mode 0600
	if err != nil {
		return fmt.Errorf("creating the keyring: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(stored)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("writing the keyring: %w", err)
	}
	if err := os.Link(tmp.Name(), path); err != nil {
		return fmt.Errorf("creating the keyring: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// Marshal returns a new keyring in its stored form, for an environment that
// has no files (see Load).
func Marshal() ([]byte, error) {
	b, _, err := generateFile()
	return b, err
}

// Load reads a keyring. The source is a path or, where a platform offers no
// files, the stored form itself, recognised by its leading "{".
func Load(source string) (*Keyring, error) {
	if strings.HasPrefix(strings.TrimSpace(source), "{") {
		return parse(strings.NewReader(source), "TRAKR_KEYS")
	}
	f, err := os.Open(source)
	if err != nil {
		return nil, fmt.Errorf("opening the keyring: %w", err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening the keyring: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("the keyring %s is not a regular file", source)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the keyring %s can be read by others (mode %04o); run: chmod 600 %s", source, st.Mode().Perm(), source)
	}
	return parse(f, source)
}

// LoadOrCreate loads the keyring at path and creates it when there is none.
func LoadOrCreate(path string) (k *Keyring, created bool, err error) {
	k, err = Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, false, err
	}
	k, err = Create(path)
	if errors.Is(err, fs.ErrExist) { // another process was first
		k, err = Load(path)
		return k, false, err
	}
	return k, err == nil, err
}

func parse(r io.Reader, name string) (*Keyring, error) {
	d := json.NewDecoder(io.LimitReader(r, 1<<20))
	d.DisallowUnknownFields()
	var f file
	if err := d.Decode(&f); err != nil {
		// The decoder's own message could quote key material.
		return nil, fmt.Errorf("the keyring %s is not readable: not the JSON this program writes", name)
	}
	if f.Version == unsigned {
		return nil, fmt.Errorf("the keyring %s: %w", name, errOld)
	}
	if f.Version != formatVersion {
		return nil, fmt.Errorf("the keyring %s has format version %d; this program reads %d", name, f.Version, formatVersion)
	}
	var k keysets
	var errs [3]error
	k.fields, errs[0] = readKeyset(f.Fields)
	k.digests, errs[1] = readKeyset(f.Digests)
	k.signing, errs[2] = readKeyset(f.Signing)
	if errors.Join(errs[:]...) != nil {
		return nil, fmt.Errorf("the keyring %s holds a keyset that cannot be read", name)
	}
	return k.assemble()
}

var errOld = errors.New("it has no key to sign checkpoints with yet; add one with: trakr keys upgrade --in FILE --out NEWFILE")

// Upgrade returns the stored form of a keyring of format 1 with a signing key
// added; everything else stays. One of this format comes back as it is.
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
	b, err := json.MarshalIndent(f, "", "  ")
	return append(b, '\n'), err
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
	fb, err1 := writeKeyset(s.fields)
	db, err2 := writeKeyset(s.digests)
	sb, err3 := writeKeyset(s.signing)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, nil, fmt.Errorf("encoding the keyring: %w", err)
	}
	b, err := json.MarshalIndent(file{About: about, Version: formatVersion, Fields: fb, Digests: db, Signing: sb}, "", "  ")
	return append(b, '\n'), k, err
}

func readKeyset(b []byte) (*keyset.Handle, error) {
	return insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(b)))
}

func writeKeyset(h *keyset.Handle) ([]byte, error) {
	var b bytes.Buffer
	err := insecurecleartextkeyset.Write(h, keyset.NewJSONWriter(&b))
	return b.Bytes(), err
}

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
