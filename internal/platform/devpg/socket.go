package devpg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
)

// socketPort is no port, only a part of the socket's name.
const socketPort = "5432"

// maxSocketPath is what a unix socket's address holds besides its final NUL: 107
// bytes on Linux, 103 on macOS.
const maxSocketPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// plainPath are the paths that mean the same in every place a socket's directory
// is written: PostgreSQL's list of directories, where commas and quotes separate,
// and connection strings, where drivers differ over commas, blanks and percents.
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9/._~-]*$`)

// fitsSocket reports whether a socket in dir can be connected to.
func fitsSocket(dir string) bool {
	return len(dir)+len("/.s.PGSQL."+socketPort) <= maxSocketPath && plainPath.MatchString(dir)
}

// ensureSocketDir returns the private directory for the socket and what to do
// with it after the stop. It is beside the cluster, or when that path does not
// fit a short one below the temporary directory, which is given back at the stop.
func (p *place) ensureSocketDir() (dir string, remove func(), err error) {
	dir, remove = p.clusterPart(socketName), func() {}
	if fitsSocket(dir) {
		err = p.who.mkdir(dir)
	} else if dir, err = p.shortSocketDir(); err == nil {
		remove = func() {
			_ = os.Remove(dir) // fails, as it should, when something is left in it
			_ = os.Remove(p.file(socketLocationName))
		}
	}
	if err != nil {
		return "", nil, err
	}
	if err := writeFile(p.file(socketLocationName), dir+"\n"); err != nil {
		remove()
		return "", nil, fmt.Errorf("recording where the socket is: %w", err)
	}
	return dir, remove, nil
}

// shortSocketDir uses the directory of the last, killed run again, or makes a new
// one with an unpredictable name. Anyone may write to /tmp, so the old one is
// checked as if another user had put it there.
func (p *place) shortSocketDir() (string, error) {
	if old, err := readLine(p.file(socketLocationName)); err == nil && fitsSocket(old) && p.who.privateDir(old) == nil {
		return old, nil
	}
	var refused []error
	for _, parent := range []string{os.TempDir(), "/tmp"} {
		if !fitsSocket(filepath.Join(parent, "trakr-pg-0123456789")) {
			continue
		}
		if err := p.who.reaches(parent); err != nil {
			refused = append(refused, err)
			continue
		}
		dir, err := os.MkdirTemp(parent, "trakr-pg-") // 0700, random name, never follows a link
		if err != nil {
			refused = append(refused, err)
			continue
		}
		if err := p.who.chown(dir); err != nil {
			_ = os.Remove(dir)
			return "", err
		}
		return dir, nil
	}
	return "", fmt.Errorf("the data directory's path does not fit a unix socket (at most %d bytes, letters, digits and ._~-), "+
		"and no short directory can be made; set TRAKR_DATA_DIR to a plainer path: %w", maxSocketPath, errors.Join(refused...))
}

// privateDir checks that dir is a directory of mode 0700 that belongs to a.
func (a account) privateDir(dir string) error {
	if err := a.owns(dir); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm() != 0o700 {
		return fmt.Errorf("%s is open to others (mode %04o)", dir, info.Mode().Perm())
	}
	return nil
}

// findRunning returns how to reach a server that runs on c.DataDir, from what the
// running service recorded there.
func findRunning(c Config) (connection, error) {
	dir, err := filepath.EvalSymlinks(c.DataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return connection{}, fmt.Errorf("%w: there is no data directory %s", ErrNotRunning, c.DataDir)
	} else if err != nil {
		return connection{}, fmt.Errorf("opening the data directory: %w", err)
	}
	home, err := recordedHome(dir)
	if err != nil {
		return connection{}, err
	}
	p := &place{dir: dir, home: home}
	owner, ok := ownerOf(p.cluster())
	if !ok {
		return connection{}, fmt.Errorf("%w: %s was never started", ErrNotRunning, dir)
	}
	socketDir, err := readLine(p.file(socketLocationName))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !exists(socketDir) {
		return connection{}, fmt.Errorf("%w on %s", ErrNotRunning, dir)
	} else if err != nil {
		return connection{}, fmt.Errorf("reading where the socket is: %w", err)
	}
	// Asking a stranger's socket would hand it a proof made from the password.
	if err := owner.privateDir(socketDir); err != nil {
		return connection{}, err
	}
	password, err := p.readPassword()
	if err != nil {
		return connection{}, err
	}
	return connection{socketDir: socketDir, password: password, database: c.Database, cluster: p.cluster()}, nil
}
