package devpg

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A path too long for a unix socket, or one a connection string cannot carry,
// gets a short private directory, which a stop gives back.
func TestSocketOfAnAwkwardPath(t *testing.T) {
	t.Parallel()
	for name, tail := range map[string]string{
		"too long":                 strings.Repeat("long", 30),
		"a comma separates hosts":  "a,b",
		"a percent may be decoded": "a%41",
		"blanks and quotes":        `it's "so" odd`,
		"beyond ASCII":             "dätä",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := Config{BinDir: binDir, DataDir: filepath.Join(newDir(t), tail)}
			s := mustStart(t, c)
			mustQuery(t, mustConnect(t, s), `SELECT 'alive'`)
			if strings.HasPrefix(s.SocketDir(), c.DataDir) {
				t.Errorf("the socket is in %s", s.SocketDir())
			}
			if got := mode(t, s.SocketDir()); got != 0o700 {
				t.Errorf("the socket's directory has mode %04o", got)
			}
			beside, err := Attach(testContext(t), c)
			must(t, err)
			mustQuery(t, mustConnect(t, beside), `SELECT 'alive'`)
			mustStop(t, s)
			if exists(s.SocketDir()) {
				t.Errorf("%s is left", s.SocketDir())
			}
		})
	}
}

// Somebody who can write to /tmp cannot lend us a socket directory.
func TestForeignSocketDirIsNotTaken(t *testing.T) {
	t.Parallel()
	base := filepath.Dir(newDir(t))
	p := &place{dir: base, home: base}
	var err error
	p.who, err = serverAccount(p.cluster())
	must(t, err)

	private, open := filepath.Join(base, "private"), filepath.Join(base, "open")
	for _, dir := range []string{private, open} {
		must(t, p.who.mkdir(dir))
	}
	must(t, os.Chmod(open, 0o755))
	link := filepath.Join(base, "link")
	must(t, os.Symlink(private, link))
	file := filepath.Join(base, "file")
	must(t, os.WriteFile(file, nil, 0o700))

	for dir, taken := range map[string]bool{private: true, open: false, link: false, file: false, filepath.Join(base, "gone"): false} {
		must(t, writeFile(p.file(socketLocationName), dir+"\n"))
		got, err := p.shortSocketDir()
		must(t, err)
		if (got == dir) != taken {
			t.Errorf("%s: took %s", dir, got)
		}
		if got != dir {
			must(t, p.who.privateDir(got))
			must(t, os.Remove(got))
		}
	}
}

// Under a directory that only its owner enters, root's server is placed where its
// user can go, and found there again; everyone else's stays.
func TestUnreachableDataDir(t *testing.T) {
	t.Parallel()
	closed := filepath.Dir(newDir(t))
	must(t, os.Chmod(closed, 0o700))
	var log bytes.Buffer
	c := Config{BinDir: binDir, DataDir: filepath.Join(closed, "data"), Logger: slog.New(slog.NewTextHandler(&log, nil))}
	before := exists(systemHome)
	s := mustStart(t, c)
	home := filepath.Dir(s.DataDirectory())
	if os.Geteuid() != 0 {
		if home != c.DataDir {
			t.Errorf("the cluster is in %s", home)
		}
		return
	}
	t.Cleanup(func() {
		must(t, s.Stop(testContext(t)))
		must(t, os.RemoveAll(home))
		if !before {
			_ = os.Remove(systemHome) // unless somebody else came meanwhile
		}
	})
	if !strings.HasPrefix(home, systemHome+"/") {
		t.Fatalf("the cluster is in %s", home)
	}
	if !strings.Contains(log.String(), "placing the database outside") || !strings.Contains(log.String(), home) || !strings.Contains(log.String(), closed+" (mode 0700)") {
		t.Errorf("the log does not tell where, or why: %s", log.String())
	}
	if got := mode(t, filepath.Join(c.DataDir, passwordName)); got != 0o600 {
		t.Errorf("the password has mode %04o", got)
	}
	mustExec(t, mustConnect(t, s), `CREATE TABLE kept AS SELECT 'still here' AS word`)
	beside, err := Attach(testContext(t), c)
	must(t, err)
	if beside.DataDirectory() != s.DataDirectory() {
		t.Errorf("attached to %v", beside)
	}
	mustStop(t, s)
	s = mustStart(t, c)
	if got := mustQuery(t, mustConnect(t, s), `SELECT word FROM kept`); got != "still here" {
		t.Errorf("after the second start: %q", got)
	}

	// A copy of the data directory leads to the same cluster, not to a second
	// server on it.
	copied := newDir(t)
	must(t, os.CopyFS(copied, os.DirFS(c.DataDir)))
	if _, err := Start(testContext(t), Config{BinDir: binDir, DataDir: copied}); err == nil {
		t.Error("two services share a cluster")
	} else {
		mustContain(t, err, "in use", home)
	}

	// The data directory was removed, the cluster was not: never start over it.
	mustStop(t, s)
	must(t, os.RemoveAll(c.DataDir))
	_, err = Start(testContext(t), c)
	mustContain(t, err, "has no password file", home)
}

func TestReachesNamesTheFirstClosedDirectory(t *testing.T) {
	t.Parallel()
	base := filepath.Dir(newDir(t))
	closed := filepath.Join(base, "closed")
	must(t, os.MkdirAll(filepath.Join(closed, "below"), 0o755))
	must(t, os.Chmod(closed, 0o700))
	stranger := account{name: "stranger", uid: 54321, gid: 54321, switched: true}
	must(t, stranger.reaches(base))
	mustContain(t, stranger.reaches(filepath.Join(closed, "below")), "stranger cannot pass through "+closed+" (mode 0700)")
	owner := account{name: "owner", uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()), switched: true}
	must(t, owner.reaches(filepath.Join(closed, "below")))
}

func TestUnwritableDataDir(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, dir := range []string{file, filepath.Join(file, "below"), "/proc/no-such", ""} {
		if _, err := Start(testContext(t), Config{BinDir: binDir, DataDir: dir}); err == nil {
			t.Errorf("started in %q", dir)
		} else {
			mustContain(t, err, "data directory")
		}
	}
}
