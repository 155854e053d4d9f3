package devpg

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"trakr/internal/lifecycle"
)

// Names that exist only while a cluster is being made.
const (
	unfinishedCluster  = "cluster.initialising"
	unfinishedPassword = "password.initialising"
	passwordForInitdb  = ".initdb-password"
)

// ensureCluster makes the cluster on first use and returns its password.
//
// A cluster is made in four steps: (1) the password under a name of its own, (2)
// initdb in a directory of its own, (3) that directory renamed, (4) the password
// renamed. A crash before (3) leaves files that the next start removes; a crash
// before (4) leaves a good cluster, and the next start does (4). So a cluster
// without any password, or a password without its cluster, is never repaired:
// something was taken away, and a new cluster would hide that.
func (p *place) ensureCluster(ctx context.Context, bin binaries, c Config) (lifecycle.Secret, error) {
	password, err := p.readPassword()
	found := exists(p.cluster())
	switch {
	case found && err == nil:
		return password, nil
	case found && errors.Is(err, fs.ErrNotExist) && exists(p.file(unfinishedPassword)):
		return p.keepPassword()
	case found && errors.Is(err, fs.ErrNotExist):
		return password, fmt.Errorf("the cluster %s has no password file %s: "+
			"restore that file, or remove the cluster with all its data to begin again", p.cluster(), p.file(passwordName))
	case err == nil:
		return password, fmt.Errorf("the cluster %s is missing, but its password file %s exists: "+
			"restore the cluster, or remove that file to begin again", p.cluster(), p.file(passwordName))
	case !errors.Is(err, fs.ErrNotExist):
		return password, err
	}
	c.Logger.Info("initialising a private PostgreSQL", "version", bin.version, "directory", p.cluster())
	if err := p.initialise(ctx, bin, c.Settings["fsync"] == "off"); err != nil {
		return lifecycle.Secret{}, fmt.Errorf("initialising %s: %w", p.cluster(), err)
	}
	return p.keepPassword()
}

// initialise does steps 1 to 3. hasty leaves the files unflushed.
func (p *place) initialise(ctx context.Context, bin binaries, hasty bool) error {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails, see crypto/rand
	text := hex.EncodeToString(secret)
	if err := writeFile(p.file(unfinishedPassword), text+"\n"); err != nil {
		return fmt.Errorf("keeping the password: %w", err)
	}

	// initdb, being another user under root, cannot read our copy.
	copied := p.clusterPart(passwordForInitdb)
	_ = os.Remove(copied)
	defer func() { _ = os.Remove(copied) }()
	if err := errors.Join(writeFile(copied, text+"\n"), p.who.chown(copied)); err != nil {
		return fmt.Errorf("handing the password to initdb: %w", err)
	}

	// With C.UTF-8 upper and lower case work beyond ASCII; the C collation keeps
	// the order of indexes independent of the system's library, whose upgrades
	// silently break others. Systems without C.UTF-8 get plain C.
	var err error
	for _, ctype := range []string{"C.UTF-8", "C"} {
		if err = p.initdb(ctx, bin, ctype, copied, hasty); err == nil || !strings.Contains(err.Error(), "locale") {
			break
		}
	}
	if err != nil {
		return err
	}
	if err := os.Rename(p.clusterPart(unfinishedCluster), p.cluster()); err != nil {
		return err
	}
	return syncDir(p.home)
}

func (p *place) initdb(ctx context.Context, bin binaries, ctype, passwordFile string, hasty bool) error {
	target := p.clusterPart(unfinishedCluster)
	if err := os.RemoveAll(target); err != nil {
		return fmt.Errorf("removing an unfinished cluster: %w", err)
	}
	if err := p.who.mkdir(target); err != nil {
		return err
	}
	args := []string{
		"--pgdata=" + target, "--username=" + superuser, "--pwfile=" + passwordFile, "--auth=scram-sha-256",
		"--encoding=UTF8", "--locale=C", "--lc-ctype=" + ctype, "--data-checksums", "--no-instructions",
	}
	if hasty {
		args = append(args, "--no-sync")
	}
	var output bytes.Buffer
	cmd := serverCommand(filepath.Join(bin.dir, "initdb"), args...)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := run(ctx, cmd, p.who); err != nil {
		_ = os.RemoveAll(target)
		return fmt.Errorf("running initdb: %w%s", err, lastLines(output.Bytes()))
	}
	return nil
}

// keepPassword is step 4.
func (p *place) keepPassword() (lifecycle.Secret, error) {
	err := os.Rename(p.file(unfinishedPassword), p.file(passwordName))
	if err == nil {
		err = syncDir(p.dir)
	}
	if err != nil {
		return lifecycle.Secret{}, fmt.Errorf("keeping the password: %w", err)
	}
	return p.readPassword()
}

func (p *place) readPassword() (lifecycle.Secret, error) {
	text, err := readLine(p.file(passwordName))
	if err != nil {
		return lifecycle.Secret{}, fmt.Errorf("reading the private PostgreSQL's password: %w", err)
	}
	if text == "" {
		return lifecycle.Secret{}, fmt.Errorf("the password file %s is empty: restore it", p.file(passwordName))
	}
	return lifecycle.NewSecret(text), nil
}

// launch starts the server. It writes to a file that we open, so that the server's
// user needs no access to the log.
func (p *place) launch(bin binaries, socketDir string, settings map[string]string) (*process, error) {
	log, err := p.openLog()
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd := serverCommand(filepath.Join(bin.dir, "postgres"), serverArgs(p.cluster(), socketDir, settings)...)
	cmd.Stdout, cmd.Stderr = log, log
	return spawn(cmd, p.who)
}

// serverCommand prepares one of PostgreSQL's programs. Of our environment it
// gets nothing but the way to libraries: no PG* variable that would redirect it,
// none of the service's secrets, and English messages, which we search.
func serverCommand(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = "/" // ours may be out of reach for its user
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC"}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	return cmd
}
