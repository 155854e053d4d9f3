package devpg

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A crash between the steps of making a cluster is mended by the next start;
// something that was taken away later is not papered over.
func TestInterruptedOrIncompleteCluster(t *testing.T) {
	t.Parallel()
	c := Config{BinDir: binDir, DataDir: newDir(t)}
	s := mustStart(t, c)
	mustStop(t, s)
	password, cluster := filepath.Join(c.DataDir, passwordName), s.DataDirectory()
	hide := func(path string) (back func()) {
		must(t, os.Rename(path, path+".hidden"))
		return func() { must(t, os.Rename(path+".hidden", path)) }
	}

	t.Run("crash before the password got its name", func(t *testing.T) {
		must(t, os.Rename(password, filepath.Join(c.DataDir, unfinishedPassword)))
		mustStart(t, c)
	})
	t.Run("crash in initdb", func(t *testing.T) {
		must(t, os.MkdirAll(filepath.Join(c.DataDir, unfinishedCluster, "base"), 0o700))
		defer hide(cluster)()
		defer hide(password)()
		fresh := mustStart(t, c)
		mustStop(t, fresh)
		leftovers(t, c.DataDir, unfinishedCluster, unfinishedPassword)
		must(t, os.RemoveAll(cluster))
		must(t, os.Remove(password))
	})
	t.Run("the password is gone", func(t *testing.T) {
		defer hide(password)()
		_, err := Start(testContext(t), c)
		mustContain(t, err, "has no password file", password, "restore")
	})
	t.Run("the password is another one", func(t *testing.T) {
		defer hide(password)()
		must(t, writeFile(password, strings.Repeat("0", 64)+"\n"))
		_, err := Start(testContext(t), c)
		mustContain(t, err, "does not fit the cluster")
		must(t, os.Remove(password))
	})
	t.Run("the cluster is gone", func(t *testing.T) {
		defer hide(cluster)()
		_, err := Start(testContext(t), c)
		mustContain(t, err, cluster+" is missing", "begin again")
	})
	t.Run("made by another version", func(t *testing.T) {
		version := filepath.Join(cluster, "PG_VERSION")
		made := mustRead(t, version)
		must(t, os.WriteFile(version, []byte("99\n"), 0o600))
		_, err := Start(testContext(t), c)
		mustContain(t, err, "made by PostgreSQL 99", "holds PostgreSQL "+s.Version(), "restore them into a new TRAKR_DATA_DIR")
		must(t, os.WriteFile(version, made, 0o600))
		_, err = Start(testContext(t), Config{DataDir: c.DataDir, BinDir: fakePostgres(t, "99.1")})
		mustContain(t, err, "made by PostgreSQL "+strings.TrimSpace(string(made)), "holds PostgreSQL 99.1")
	})
	mustStart(t, c)
}

// initdb's own complaint is in the error, and nothing half-made is kept.
func TestFailingInitdb(t *testing.T) {
	t.Parallel()
	dir := fakePostgres(t, "17.4")
	must(t, os.WriteFile(filepath.Join(dir, "initdb"), []byte("#!/bin/sh\necho could not write: No space left on device >&2\nexit 1\n"), 0o755))
	c := Config{DataDir: newDir(t), BinDir: dir}
	_, err := Start(testContext(t), c)
	mustContain(t, err, "running initdb", "No space left on device")
	leftovers(t, c.DataDir, clusterName)
	c.BinDir = binDir
	mustStart(t, c)
}

func TestFindBinaries(t *testing.T) {
	t.Parallel()
	if _, err := FindBinaries(binDir); err != nil {
		t.Fatalf("%v\nThe tests need PostgreSQL %d or newer: %s.", err, minMajor, installHint)
	}
	noInitdb, notExecutable := fakePostgres(t, "16.1"), fakePostgres(t, "16.1")
	must(t, os.Remove(filepath.Join(noInitdb, "initdb")))
	must(t, os.Chmod(filepath.Join(notExecutable, "postgres"), 0o644))
	for dir, want := range map[string]string{ // the directory TRAKR_POSTGRES_BIN names: what the error says
		"/nowhere":                       "/nowhere/initdb",
		fakePostgres(t, "14.11"):         "holds PostgreSQL 14.11, and 15 or newer is needed",
		fakePostgres(t, "x"):             "does not say which version",
		noInitdb:                         "initdb",
		notExecutable:                    "cannot be executed",
		fakePostgres(t, "'; exit 3 #"):   "exit status 3",
		fakePostgres(t, "15beta1"):       "",
		fakePostgres(t, "18.4 (Debian)"): "",
	} {
		found, err := FindBinaries(dir)
		switch {
		case want == "" && (err != nil || found != dir):
			t.Errorf("%s: found %q, %v", dir, found, err)
		case want != "" && !errors.Is(err, ErrNoBinaries):
			t.Errorf("%s: got %v, want ErrNoBinaries", dir, err)
		case want != "":
			mustContain(t, err, want, "TRAKR_POSTGRES_BIN", "apt-get install postgresql")
		}
	}
}

// Of several versions the newest is taken, or the one that made the cluster.
func TestSearchOrder(t *testing.T) {
	base := filepath.Join(filepath.Dir(fakePostgres(t, "8")), "places") // on the file system of the others
	for _, version := range []string{"9", "14", "15", "16", "100"} {
		must(t, os.MkdirAll(filepath.Join(base, version), 0o755))
		must(t, os.Rename(fakePostgres(t, version+".2"), filepath.Join(base, version, "bin")))
	}
	t.Setenv("PATH", "/bin-of-nobody")
	places := []string{base + "/none-*/bin", base + "/*/bin"}
	for major, want := range map[int]string{0: "100", 15: "15", 16: "16"} {
		found, err := findBinaries("", places, major)
		if err != nil || found.dir != filepath.Join(base, want, "bin") || found.version != want+".2" {
			t.Errorf("looking for %d: %+v, %v", major, found, err)
		}
	}
	_, err := findBinaries("", places, 17)
	mustContain(t, err, "100/bin holds PostgreSQL 100.2", "14/bin holds PostgreSQL 14.2, and 15 or newer is needed")
	_, err = findBinaries("", places[:1], 0)
	mustContain(t, err, "neither on the PATH nor in", places[0], "apt-get install postgresql")

	t.Setenv("PATH", filepath.Join(base, "15", "bin"))
	if found, err := findBinaries("", places, 0); err != nil || found.major != 15 {
		t.Errorf("the PATH is not first: %+v, %v", found, err)
	}
	for _, place := range usualPlaces {
		if _, err := filepath.Glob(place); err != nil {
			t.Errorf("%s: %v", place, err)
		}
	}
}

// fakePostgres is a directory with an initdb that does nothing and a postgres
// that claims a version.
func fakePostgres(t *testing.T, version string) string {
	t.Helper()
	dir := filepath.Join(newDir(t), "bin")
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "initdb"), []byte("#!/bin/sh\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "postgres"), fmt.Appendf(nil, "#!/bin/sh\necho 'postgres (PostgreSQL) %s'\n", version), 0o755))
	return dir
}
