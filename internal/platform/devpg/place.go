package devpg

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// Names in a data directory; doc.go describes them.
const (
	clusterName         = "cluster"
	clusterLocationName = "cluster-location"
	socketName          = "socket"
	socketLocationName  = "socket-location"
	passwordName        = "password"
	lockName            = "lock"
	logName             = "postgresql.log"
)

// systemHome is the home of root's clusters whose data directory the server's user
// cannot reach. Its own parents are open to everyone on every Unix.
const systemHome = "/var/lib/trakr"

// place is a locked data directory and the home of its cluster: the data
// directory itself, or a directory below systemHome.
type place struct {
	dir   string // absolute, free of symbolic links
	home  string // likewise; contains cluster/ and socket/
	who   account
	locks []*os.File
}

func (p *place) cluster() string             { return filepath.Join(p.home, clusterName) }
func (p *place) file(name string) string     { return filepath.Join(p.dir, name) }
func (p *place) clusterPart(n string) string { return filepath.Join(p.home, n) }

// openPlace makes the data directory when it is missing, locks it, and decides
// where its cluster is or will be.
func openPlace(dir string, log *slog.Logger) (_ *place, err error) {
	if dir, err = makeDataDir(dir); err != nil {
		return nil, err
	}
	p := &place{dir: dir, home: dir}
	defer func() {
		if err != nil {
			p.unlock()
		}
	}()
	if err = p.lock(dir); err != nil {
		return nil, err
	}
	if p.home, err = recordedHome(dir); err != nil {
		return nil, err
	}
	if p.who, err = serverAccount(p.cluster()); err != nil {
		return nil, err
	}
	unreachable := p.who.reaches(p.home)
	switch {
	case unreachable == nil:
	case p.home != dir || exists(p.cluster()):
		return nil, fmt.Errorf("the cluster is in %s, but %w: open the way (chmod o+x), or set TRAKR_DATA_DIR to another directory",
			p.home, unreachable)
	default:
		if p.home, err = p.makeSystemHome(); err != nil {
			return nil, errors.Join(fmt.Errorf("%w; set TRAKR_DATA_DIR to a directory it can reach", unreachable), err)
		}
		log.Info("placing the database outside the data directory, which the server's user cannot reach",
			"reason", unreachable.Error(), "data_dir", dir, "placed_in", p.home)
	}
	if p.home != dir {
		// A copied data directory points to the same home, so that has a lock too.
		if err = p.lock(p.home); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// makeDataDir creates dir and returns its real path. For root, the server's user
// must pass through it; with mode 0711 other users still cannot list it, and every
// file with a secret in it is 0600.
func makeDataDir(dir string) (string, error) {
	mode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, mode); err != nil {
			return "", fmt.Errorf("creating the data directory: %w", err)
		}
		if err := os.Chmod(dir, mode); err != nil { // the umask may have taken bits away
			return "", fmt.Errorf("creating the data directory: %w", err)
		}
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("opening the data directory: %w", err)
	}
	return real, nil
}

// recordedHome returns where the data directory records its cluster.
func recordedHome(dir string) (string, error) {
	home, err := readLine(filepath.Join(dir, clusterLocationName))
	if errors.Is(err, fs.ErrNotExist) {
		return dir, nil
	}
	if err != nil {
		return "", fmt.Errorf("reading where the cluster is: %w", err)
	}
	if !filepath.IsAbs(home) {
		return "", fmt.Errorf("%s contains no absolute path", filepath.Join(dir, clusterLocationName))
	}
	return filepath.Clean(home), nil
}

// makeSystemHome makes the home below systemHome, one for each path of a data
// directory, and records it before anything is put there: a crash in between
// leaves an empty directory.
func (p *place) makeSystemHome() (string, error) {
	sum := sha256.Sum256([]byte(p.dir))
	home := filepath.Join(systemHome, hex.EncodeToString(sum[:8]))
	root := account{name: "root"}
	for _, dir := range []string{systemHome, home} {
		if err := root.mkdir(dir); err != nil {
			return "", err
		}
		if err := os.Chmod(dir, 0o711); err != nil {
			return "", fmt.Errorf("opening a directory to the server's user: %w", err)
		}
	}
	home, err := filepath.EvalSymlinks(home)
	if err != nil {
		return "", fmt.Errorf("opening a directory below %s: %w", systemHome, err)
	}
	if err := p.who.reaches(home); err != nil {
		return "", err
	}
	if err := writeFile(p.file(clusterLocationName), home+"\n"); err != nil {
		return "", fmt.Errorf("recording where the cluster is: %w", err)
	}
	return home, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// readLine returns the first line of a small file.
func readLine(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

// writeFile puts text into a file of mode 0600 so that after a crash the file is
// there whole or not at all.
func writeFile(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename in dir survive a power failure.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
