package devpg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// minMajor is the oldest PostgreSQL the service's SQL runs on.
const minMajor = 15

// installHint is the way out when there is no PostgreSQL.
const installHint = "install it (Debian and Ubuntu: apt-get install postgresql), " +
	"or run deploy/postgres-binaries.sh and set TRAKR_POSTGRES_BIN to the directory it prints"

// usualPlaces are where packages put the server when it is not on the PATH:
// Debian, RHEL and its kin, Homebrew on both architectures, Postgres.app.
var usualPlaces = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// binaries is a directory with initdb and postgres, and their version.
type binaries struct {
	dir     string
	version string // "15.18"
	major   int
}

// FindBinaries returns the directory of a usable PostgreSQL, one with initdb and
// postgres of version 15 or newer. With an override (TRAKR_POSTGRES_BIN) only that
// directory is looked at; otherwise the PATH is first, then the usual places, the
// newest version first. The error is ErrNoBinaries and names what was found where.
func FindBinaries(override string) (dir string, err error) {
	found, err := findBinaries(override, usualPlaces, 0)
	return found.dir, err
}

// findBinaries looks for version major, or for any usable one when it is 0.
func findBinaries(override string, places []string, major int) (binaries, error) {
	candidates := []string{override}
	if override == "" {
		candidates = candidateDirs(places)
	}
	var refused []error
	for _, dir := range candidates {
		found, err := inspect(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist) && override == "":
			continue
		case err != nil:
			refused = append(refused, err)
		case found.major < minMajor:
			refused = append(refused, fmt.Errorf("%s holds PostgreSQL %s, and %d or newer is needed", dir, found.version, minMajor))
		case major != 0 && found.major != major:
			refused = append(refused, fmt.Errorf("%s holds PostgreSQL %s", dir, found.version))
		default:
			return found, nil
		}
	}
	switch why := errors.Join(refused...); {
	case override != "":
		return binaries{}, fmt.Errorf("%w: TRAKR_POSTGRES_BIN: %w; correct or unset it, or %s", ErrNoBinaries, why, installHint)
	case why != nil:
		return binaries{}, fmt.Errorf("%w: %w; %s", ErrNoBinaries, why, installHint)
	default:
		return binaries{}, fmt.Errorf("%w: neither on the PATH nor in %s; %s", ErrNoBinaries, strings.Join(places, ", "), installHint)
	}
}

// chooseBinaries finds PostgreSQL for the place: the version that made its
// cluster, when there is one, in a directory that the server's user can enter.
func (p *place) chooseBinaries(override string) (binaries, error) {
	made, err := readLine(filepath.Join(p.cluster(), "PG_VERSION"))
	major := 0
	if err == nil {
		if major, err = strconv.Atoi(made); err != nil {
			return binaries{}, fmt.Errorf("the cluster %s does not record which PostgreSQL made it", p.cluster())
		}
	}
	found, err := findBinaries(override, usualPlaces, major)
	if err != nil && major != 0 {
		return binaries{}, fmt.Errorf("the cluster %s was made by PostgreSQL %d, which no other major version can open; "+
			"install PostgreSQL %d beside the other, "+
			"or dump the data with it and restore them into a new TRAKR_DATA_DIR (nothing was changed): %w",
			p.cluster(), major, major, err)
	}
	if err != nil {
		return binaries{}, err
	}
	if err := p.who.reaches(found.dir); err != nil {
		return binaries{}, fmt.Errorf("PostgreSQL is in %s, but %w: install it elsewhere (%s)", found.dir, err, installHint)
	}
	return found, nil
}

// candidateDirs lists directories that may hold PostgreSQL, best first.
func candidateDirs(places []string) (dirs []string) {
	if path, err := exec.LookPath("postgres"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil { // initdb is beside the file, not the link
			dirs = append(dirs, filepath.Dir(real))
		}
		dirs = append(dirs, filepath.Dir(path))
	}
	for _, place := range places {
		matches, err := filepath.Glob(place)
		if err != nil {
			continue // the patterns are constants; a test expands each
		}
		slices.SortFunc(matches, func(a, b string) int { return numberIn(b) - numberIn(a) })
		dirs = append(dirs, matches...)
	}
	return dirs
}

var lastNumber = regexp.MustCompile(`(\d+)(\.\d+)?/bin$`)

// numberIn is the major version in a path such as /usr/lib/postgresql/15/bin.
func numberIn(dir string) int {
	match := lastNumber.FindStringSubmatch(dir)
	if match == nil {
		return 0
	}
	n, _ := strconv.Atoi(match[1])
	return n
}

// inspect asks the postgres in dir for its version. A directory without one is
// fs.ErrNotExist.
func inspect(dir string) (binaries, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return binaries{}, fmt.Errorf("finding the directory of PostgreSQL: %w", err)
	}
	for _, name := range []string{"initdb", "postgres"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return binaries{}, fmt.Errorf("looking for %s: %w", name, err)
		}
		if info.IsDir() || info.Mode().Perm()&0o111 == 0 {
			return binaries{}, fmt.Errorf("%s cannot be executed", filepath.Join(dir, name))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version")
	cmd.Env, cmd.WaitDelay = serverCommand("").Env, time.Second
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return binaries{}, fmt.Errorf("asking %s for its version: %w%s", cmd.Path, err, lastLines(complaint.Bytes()))
	}
	version := shortVersion(strings.TrimPrefix(strings.TrimSpace(out.String()), "postgres (PostgreSQL) "))
	major, _ := strconv.Atoi(leadingDigits.FindString(version))
	if major == 0 {
		return binaries{}, fmt.Errorf("%s does not say which version of PostgreSQL it is", cmd.Path)
	}
	return binaries{dir: dir, version: version, major: major}, nil
}

// versionTimeout is generous for a cold disk; the answer takes milliseconds.
const versionTimeout = 15 * time.Second

var leadingDigits = regexp.MustCompile(`^\d+`)

// shortVersion drops what packagers append: "15.18 (Debian 15.18-0+deb12u1)".
func shortVersion(s string) string {
	short, _, _ := strings.Cut(s, " ")
	return short
}
