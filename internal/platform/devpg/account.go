package devpg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// account is the user the server runs as: our own, or another one when we are
// root, because PostgreSQL refuses to run as root.
type account struct {
	name     string
	uid, gid uint32
	switched bool // not our own
}

// serverAccount chooses the account. As root it is the owner of an existing
// cluster, which may differ from today's choice (the user postgres comes with the
// distribution's package), else postgres, else the system's unprivileged user.
func serverAccount(cluster string) (account, error) {
	if os.Geteuid() != 0 {
		who := account{name: "uid " + strconv.Itoa(os.Geteuid()), uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
		if owner, ok := ownerOf(cluster); ok && owner.uid != who.uid {
			return account{}, fmt.Errorf("the cluster %s belongs to %s: "+
				"run as root or that user, or set TRAKR_DATA_DIR to another directory", cluster, owner.name)
		}
		return who, nil
	}
	if owner, ok := ownerOf(cluster); ok {
		if owner.uid == 0 {
			return account{}, fmt.Errorf("the cluster %s belongs to root, and PostgreSQL refuses to run as root: "+
				"give it back to the user it ran as (chown -R)", cluster)
		}
		return owner, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if uidErr == nil && gidErr == nil && uid != 0 {
			return account{name: name, uid: uint32(uid), gid: uint32(gid), switched: true}, nil
		}
	}
	return account{}, errors.New("PostgreSQL refuses to run as root, and neither the user postgres nor the user nobody exists: " +
		"add one (adduser --system postgres), or run as an ordinary user")
}

// ownerOf is the account a directory belongs to; false when there is none.
func ownerOf(dir string) (account, bool) {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return account{}, false
	}
	st := info.Sys().(*syscall.Stat_t)
	who := account{name: "uid " + strconv.Itoa(int(st.Uid)), uid: st.Uid, gid: st.Gid, switched: int(st.Uid) != os.Geteuid()}
	if u, err := user.LookupId(strconv.Itoa(int(st.Uid))); err == nil {
		who.name = u.Username
	}
	return who, true
}

// credential makes a child run as a. It drops root's groups as well.
func (a account) credential() *syscall.Credential {
	if !a.switched {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid}
}

// mkdir makes a directory of mode 0700 that belongs to a, or makes sure that the
// existing one is such a directory and not something that another user put in its
// place. It does not check the mode: PostgreSQL checks that of its cluster.
func (a account) mkdir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return a.owns(dir)
	}
	if err != nil {
		return fmt.Errorf("creating a directory of the private PostgreSQL: %w", err)
	}
	if err := a.chown(dir); err != nil {
		_ = os.Remove(dir)
		return err
	}
	return nil
}

// owns checks that path is a directory, not a link to one, that belongs to a.
func (a account) owns(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("checking a directory of the private PostgreSQL: %w", err)
	}
	if st := info.Sys().(*syscall.Stat_t); !info.IsDir() || st.Uid != a.uid {
		return fmt.Errorf("%s is not a directory that belongs to %s: remove it, or correct its owner", dir, a.name)
	}
	return nil
}

func (a account) chown(path string) error {
	if !a.switched {
		return nil
	}
	if err := os.Lchown(path, int(a.uid), int(a.gid)); err != nil {
		return fmt.Errorf("giving a path to the server's user %s: %w", a.name, err)
	}
	return nil
}

// reaches checks that a may pass through every directory on the way to dir, dir
// included, and names the first one it may not. It judges by mode bits: an ACL
// that allows more costs nothing but the fallback.
func (a account) reaches(dir string) error {
	if !a.switched {
		return nil
	}
	walked := "/"
	for _, part := range append([]string{""}, strings.Split(strings.Trim(filepath.Clean(dir), "/"), "/")...) {
		walked = filepath.Join(walked, part)
		info, err := os.Stat(walked)
		if err != nil {
			return fmt.Errorf("checking the way to %s: %w", dir, err)
		}
		if !a.enters(info) {
			return fmt.Errorf("the server's user %s cannot pass through %s (mode %04o)", a.name, walked, info.Mode().Perm())
		}
	}
	return nil
}

func (a account) enters(info fs.FileInfo) bool {
	st := info.Sys().(*syscall.Stat_t)
	bit := fs.FileMode(0o001)
	switch {
	case st.Uid == a.uid:
		bit = 0o100
	case st.Gid == a.gid:
		bit = 0o010 // the child has its primary group only, see credential
	}
	return info.Mode().Perm()&bit != 0
}
